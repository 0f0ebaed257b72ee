"""A list filter as a tree: what `query.py` reads and every visibility engine translates.

A condition on an attribute the run does not have is neither true nor false (SQL's unknown), so `A != 'x'` and `NOT A = 'x'`
leave such runs out. KeywordList and Text are the exception, as on the real server: not having a value is not containing
it. `IS NULL` is always true or false. A run with TemporalNamespaceDivision set appears only if the query names that attribute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from cluster.visibility.search_attributes import NAMESPACE_DIVISION, SYSTEM, AttributeType


class Operator(Enum):
    """What a condition asks. Its value is how the operator is written; negations are `negated` in the condition."""

    EQUAL = "="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="
    IN = "in"
    BETWEEN = "between"
    STARTS_WITH = "starts_with"
    IS_NULL = "is null"


@dataclass(frozen=True, slots=True)
class Attribute:
    """A search attribute as the engine knows it. `alias` is how the query named it, for messages."""

    name: str
    kind: AttributeType
    alias: str

    @property
    def is_system(self) -> bool:
        return self.name in SYSTEM


@dataclass(frozen=True, slots=True)
class Condition:
    """One test of one attribute. Operands: one for comparisons, low and high for BETWEEN, any number for IN, none for IS NULL.

    They are str, int or float: moments and durations are nanoseconds, booleans 0 and 1, ExecutionStatus its number. For
    Text they are the words asked for, and EQUAL holds when the text has any of them.
    """

    attribute: Attribute
    operator: Operator
    operands: tuple[str | int | float, ...]
    negated: bool = False

    @property
    def true_if_missing(self) -> bool:
        """Does it hold for a run without the attribute?"""
        if self.operator is Operator.IS_NULL:
            return not self.negated
        return self.negated and self.attribute.kind in (AttributeType.TEXT, AttributeType.KEYWORD_LIST)


@dataclass(frozen=True, slots=True)
class Not:
    inner: Expression


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Expression, ...]


Expression = Condition | Not | And | Or


@dataclass(frozen=True, slots=True)
class Order:
    attribute: Attribute
    descending: bool


@dataclass(frozen=True, slots=True)
class Query:
    """`text` binds page tokens to the query they belong to."""

    text: str = ""
    where: Expression | None = None
    group_by: Attribute | None = None
    order_by: tuple[Order, ...] = ()

    @property
    def shows_divisions(self) -> bool:
        """The query names TemporalNamespaceDivision, so runs that belong to a division are not left out."""
        named = [self.group_by, *(order.attribute for order in self.order_by)]
        named += [condition.attribute for condition in conditions(self.where)]
        return any(attribute is not None and attribute.name == NAMESPACE_DIVISION for attribute in named)


def conditions(expression: Expression | None) -> Iterator[Condition]:
    """All conditions, left to right."""
    match expression:
        case Condition():
            yield expression
        case Not(inner):
            yield from conditions(inner)
        case And(parts) | Or(parts):
            for part in parts:
                yield from conditions(part)


def without_not(expression: Expression, negate: bool = False) -> Expression:
    """The same expression with every NOT moved into the conditions.

    With unknown left out, what remains can be evaluated in two values: a condition that is unknown may count as false.
    """
    match expression:
        case Condition():
            return replace(expression, negated=not expression.negated) if negate else expression
        case Not(inner):
            return without_not(inner, not negate)
        case And(parts) | Or(parts):
            kept = tuple(without_not(part, negate) for part in parts)
            return And(kept) if isinstance(expression, And) is not negate else Or(kept)
