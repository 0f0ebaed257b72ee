"""Literals of a list filter become operands of their attribute's type, or a refusal in the real server's words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from temporalio.api.enums.v1 import WorkflowExecutionStatus

from cluster.visibility.moments import clamp_int64, parse_duration_ns, parse_rfc3339_ns
from cluster.visibility.search_attributes import INT64_MAX, INT64_MIN, TYPE_NAME, AttributeType, tokens


class QueryError(Exception):
    """What is wrong with a query; `parse_query` turns it into `invalid query: ...`."""


class LiteralKind(Enum):
    """How a literal is written. Its value is Go's name of the type, which the real server's messages use."""

    STRING = "string"
    INT = "int64"
    FLOAT = "float64"
    BOOL = "bool"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Literal:
    """One right-hand side, as read from the text."""

    kind: LiteralKind
    value: str | int | float | bool

    def __str__(self) -> str:
        if self.kind is LiteralKind.STRING:
            return f'"{self.value}"'
        return str(self.value).lower() if self.kind is LiteralKind.BOOL else str(self.value)


Operand = str | int | float

# "Running" -> 1, and also "WORKFLOW_EXECUTION_STATUS_RUNNING" -> 1, as the real server reads both.
_STATUS_PREFIX = "WORKFLOW_EXECUTION_STATUS_"
STATUS_NAME: dict[int, str] = {
    number: "".join(word.capitalize() for word in name.removeprefix(_STATUS_PREFIX).split("_"))
    for name, number in WorkflowExecutionStatus.items()
}
STATUS_NAME[WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW] = "ContinuedAsNew"
_STATUS_OF_NAME = {name: number for number, name in STATUS_NAME.items()} | dict(WorkflowExecutionStatus.items())


def number_literal(text: str) -> Literal:
    """An integer when it fits 64 bits, else a float, as the real server reads numbers."""
    if text.lstrip("+-").isdigit() and len(text) <= 20 and INT64_MIN <= int(text) <= INT64_MAX:
        return Literal(LiteralKind.INT, int(text))
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise QueryError(f'invalid expression: unable to parse value "{text[:40]}"')
    return Literal(LiteralKind.FLOAT, value)


def typed_operand(name: str, alias: str, kind: AttributeType, literal: Literal) -> tuple[Operand, ...]:
    """The operand of an attribute (several for a Text, one per word). Raises QueryError."""
    if literal.kind is LiteralKind.NAME:
        raise QueryError(
            "operation is not supported: column name on the right side of comparison expression "
            f'(did you forget to quote "{literal.value}"?)'
        )
    if name == "ExecutionStatus":
        return (_status(literal),)
    if name == "ExecutionDuration":
        return (_duration(literal),)
    value = literal.value
    match kind:
        case AttributeType.INT | AttributeType.DOUBLE if literal.kind in (LiteralKind.INT, LiteralKind.FLOAT):
            return (value,)
        case AttributeType.BOOL if literal.kind is LiteralKind.BOOL:
            return (int(value),)
        case AttributeType.KEYWORD | AttributeType.KEYWORD_LIST if literal.kind is LiteralKind.STRING:
            return (value,)
        case AttributeType.TEXT if literal.kind is LiteralKind.STRING:
            return _words(str(value), alias)
        case AttributeType.DATETIME if literal.kind is LiteralKind.INT:
            return (value,)
        case AttributeType.DATETIME if literal.kind is LiteralKind.STRING:
            return (_moment(str(value)),)
    raise QueryError(
        f"invalid expression: invalid value type for search attribute {alias} of type {TYPE_NAME[kind]}: "
        f"{literal} (type: {literal.kind.value})"
    )


def _status(literal: Literal) -> int:
    if literal.kind is LiteralKind.INT and literal.value in STATUS_NAME:
        return int(literal.value)
    if literal.kind is LiteralKind.STRING and str(literal.value) in _STATUS_OF_NAME:
        return _STATUS_OF_NAME[str(literal.value)]
    if literal.kind is LiteralKind.STRING:
        raise QueryError(
            f"invalid expression: invalid ExecutionStatus value '{literal.value}' "
            f"(expected one of {', '.join(sorted(STATUS_NAME.values()))})"
        )
    if literal.kind is LiteralKind.INT:
        raise QueryError(f"invalid expression: invalid ExecutionStatus value {literal}")
    raise QueryError(
        f"invalid expression: unexpected value type {literal.kind.value} for search attribute ExecutionStatus"
    )


def _duration(literal: Literal) -> int:
    if literal.kind is LiteralKind.INT:
        return int(literal.value)
    if literal.kind is not LiteralKind.STRING:
        raise QueryError(
            f"invalid expression: unexpected value type {literal.kind.value} for search attribute ExecutionDuration"
        )
    nanoseconds = parse_duration_ns(str(literal.value))
    if nanoseconds is None:
        raise QueryError(
            f"invalid expression: invalid duration value for search attribute ExecutionDuration: {literal.value} "
            "(expected nanoseconds, '1h30m' or 'hh:mm:ss')"
        )
    return nanoseconds


def _moment(text: str) -> int:
    nanoseconds = parse_rfc3339_ns(text)
    if nanoseconds is None:
        raise QueryError(f"invalid expression: unable to parse datetime '{text}' (expected RFC 3339)")
    return clamp_int64(nanoseconds)


def _words(text: str, alias: str) -> tuple[str, ...]:
    """Punctuation alone gives none, which no text has, as on the real server."""
    if not text.strip():
        raise QueryError(f"invalid expression: no tokens found filtering on Text type search attribute {alias}")
    return tokens(text)
