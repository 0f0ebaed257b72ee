"""The list filter: `WorkflowType = 'Transfer' AND CloseTime BETWEEN '...' AND '...' ORDER BY StartTime DESC`, parsed and typed.

`parse_query(text, schema)` gives a `Query`, whose attributes are resolved and whose operands have the attribute's type, so
that an engine only has to translate it. Everything wrong with a query is found here and is an INVALID_ARGUMENT
(`invalid query: ...`) in the real server's words, with the position where the text cannot be read.
"""

from __future__ import annotations

from typing import Any

from cluster.core.errors import invalid_argument
from cluster.visibility.expressions import And, Attribute, Condition, Expression, Not, Operator, Or, Order, Query, conditions
from cluster.visibility.operands import QueryError, typed_operand
from cluster.visibility.query_grammar import Untyped, read_query
from cluster.visibility.search_attributes import TYPE_NAME, AttributeType, Schema

# Bounds on what one query may ask for: SQLite refuses expressions deeper than 1,000 and takes 32,766 variables.
QUERY_BYTES_MAX = 64 * 1024
CONDITIONS_MAX = 1_000
OPERANDS_MAX = 5_000
MESSAGE_CHARS_MAX = 1_000

_ORDERED = frozenset({Operator.LESS, Operator.LESS_OR_EQUAL, Operator.GREATER, Operator.GREATER_OR_EQUAL})
_SUPPORTED: dict[AttributeType, frozenset[Operator]] = {
    AttributeType.KEYWORD: _ORDERED | {Operator.EQUAL, Operator.IN, Operator.BETWEEN, Operator.STARTS_WITH},
    AttributeType.INT: _ORDERED | {Operator.EQUAL, Operator.IN, Operator.BETWEEN},
    AttributeType.DOUBLE: _ORDERED | {Operator.EQUAL, Operator.IN, Operator.BETWEEN},
    AttributeType.DATETIME: _ORDERED | {Operator.EQUAL, Operator.IN, Operator.BETWEEN},
    AttributeType.BOOL: _ORDERED | {Operator.EQUAL, Operator.IN},
    AttributeType.KEYWORD_LIST: frozenset({Operator.EQUAL, Operator.IN}),
    AttributeType.TEXT: frozenset({Operator.EQUAL}),
}
_STATUS_SUPPORTED = frozenset({Operator.EQUAL, Operator.IN})
_OPERATOR_OF = {test.value: test for test in Operator}


def resolve_attribute(alias: str, schema: Schema) -> Attribute:
    """The attribute a query means. As on the real server, the prefix `Temporal` may be left out or added, and ScheduleId
    is the WorkflowId of a schedule's own workflow."""
    for name in (alias, alias.removeprefix("Temporal"), f"Temporal{alias}"):
        if name == "ScheduleId" and schema.type_of(name) is None:
            return Attribute("WorkflowId", AttributeType.KEYWORD, alias)
        if (kind := schema.type_of(name)) is not None:
            return Attribute(name, kind, alias)
    raise QueryError(f"invalid search attribute: {alias}")


def _typed_condition(raw: Untyped, schema: Schema) -> Condition:
    attribute = resolve_attribute(raw.name, schema)
    test = _OPERATOR_OF.get(raw.operator)
    if test is Operator.IS_NULL:
        return Condition(attribute, test, (), raw.negated)
    supported = _STATUS_SUPPORTED if attribute.name == "ExecutionStatus" else _SUPPORTED[attribute.kind]
    if test is None or test not in supported:
        if test is Operator.BETWEEN:
            raise QueryError(
                f"invalid expression: cannot do range condition on search attribute '{attribute.alias}' "
                f"of type {TYPE_NAME[attribute.kind]}"
            )
        negation = "" if not raw.negated else "!" if test is Operator.EQUAL else "NOT "
        raise QueryError(
            f"operation is not supported: operator '{negation}{raw.operator.upper()}' not supported for "
            f"{TYPE_NAME[attribute.kind]} type search attribute '{attribute.alias}'"
        )
    operands = tuple(
        operand
        for literal in raw.literals
        for operand in typed_operand(attribute.name, attribute.alias, attribute.kind, literal)
    )
    return Condition(attribute, test, operands, raw.negated)


def _typed(raw: Any, schema: Schema) -> Expression:
    match raw:
        case Not(inner):
            return Not(_typed(inner, schema))
        case And(parts):
            return And(tuple(_typed(part, schema) for part in parts))
        case Or(parts):
            return Or(tuple(_typed(part, schema) for part in parts))
    return _typed_condition(raw, schema)


def _group_attribute(names: list[str], schema: Schema) -> Attribute | None:
    if not names:
        return None
    if len(names) > 1:
        raise QueryError("operation is not supported: 'GROUP BY' clause supports only a single field")
    attribute = resolve_attribute(names[0], schema)
    if attribute.kind is not AttributeType.KEYWORD:
        raise QueryError(
            f"operation is not supported: 'GROUP BY' clause is not supported for search attribute {attribute.alias}"
        )
    return attribute


def _order_attribute(name: str, schema: Schema) -> Attribute:
    attribute = resolve_attribute(name, schema)
    if attribute.kind in (AttributeType.TEXT, AttributeType.KEYWORD_LIST):
        raise QueryError(
            f"operation is not supported: unable to sort by search attribute type {TYPE_NAME[attribute.kind]}"
        )
    return attribute


def _check_size(where: Expression | None) -> None:
    condition_count = operand_count = 0
    for condition in conditions(where):
        condition_count += 1
        operand_count += len(condition.operands)
    if condition_count > CONDITIONS_MAX:
        raise QueryError(f"operation is not supported: more than {CONDITIONS_MAX} conditions")
    if operand_count > OPERANDS_MAX:
        raise QueryError(f"operation is not supported: more than {OPERANDS_MAX} values")


def _parse(text: str, schema: Schema) -> Query:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as broken:
        raise QueryError("malformed SQL query: not valid Unicode") from broken
    if size > QUERY_BYTES_MAX:
        raise QueryError(f"operation is not supported: query longer than {QUERY_BYTES_MAX} bytes")
    where, group_by, order_by = read_query(text)
    typed = _typed(where, schema) if where is not None else None
    _check_size(typed)
    orders = tuple(Order(_order_attribute(name, schema), descending) for name, descending in order_by)
    return Query(text.strip(), typed, _group_attribute(group_by, schema), orders)


def parse_query(text: str, schema: Schema) -> Query:
    """Raises CallerError INVALID_ARGUMENT."""
    try:
        return _parse(text, schema)
    except QueryError as wrong:
        # Cut, since a message that quotes its input must still fit into a response's trailers.
        raise invalid_argument(f"invalid query: {str(wrong)[:MESSAGE_CHARS_MAX]}") from wrong
