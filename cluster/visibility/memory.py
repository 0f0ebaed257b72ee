"""Visibility in memory: the readable oracle that every engine is compared with, and the engine of the simulator.

It evaluates a query as it is written, in three-valued logic, on each row of the namespace; engines translate it instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cmp_to_key, partial

from cluster.stores.base import RunKey
from cluster.visibility.base import (
    GROUPS_MAX,
    STILL_OPEN,
    CountGroup,
    SortValue,
    VisibilityCount,
    VisibilityRow,
    as_stored,
    check_list,
    decode_page_token,
    encode_page_token,
    system_value,
)
from cluster.visibility.expressions import And, Attribute, Condition, Expression, Not, Operator, Or, Query
from cluster.visibility.search_attributes import NAMESPACE_DIVISION, AttributeType, all_index_terms

Value = str | int | float


class _Facts:
    """A row and the values that can be asked of it."""

    __slots__ = ("row", "stored")

    def __init__(self, row: VisibilityRow) -> None:
        self.row = row
        self.stored = all_index_terms(row.search_attributes)

    def values(self, attribute: Attribute) -> tuple[Value, ...]:
        if attribute.is_system:
            value = system_value(self.row, attribute.name)
            return () if value is None else (value,)
        kind, values = self.stored.get(attribute.name, (attribute.kind, ()))
        return values if kind is attribute.kind else ()

    def sort_values(self, query: Query) -> tuple[SortValue, ...]:
        ordered = (self.values(order.attribute) for order in query.order_by)
        row = self.row
        close = STILL_OPEN if row.close_time is None else row.close_time
        return (*(_least(values) for values in ordered), close, row.start_time, row.run_id, row.workflow_id)


def _least(values: Sequence[Value]) -> SortValue:
    """The values of one attribute are of one type."""
    return min(values, default=None)


def passes(test: Operator, value: Value, operands: tuple[Value, ...]) -> bool:
    """One value against a test. Value and operands are of one type; mypy cannot know that they compare."""
    if test in (Operator.EQUAL, Operator.IN):
        return value in operands  # a Text asked for punctuation has no operands, and holds for nothing
    first: Value = operands[0]
    match test:
        case Operator.LESS:
            return value < first  # type: ignore[operator]
        case Operator.LESS_OR_EQUAL:
            return value <= first  # type: ignore[operator]
        case Operator.GREATER:
            return value > first  # type: ignore[operator]
        case Operator.GREATER_OR_EQUAL:
            return value >= first  # type: ignore[operator]
        case Operator.BETWEEN:
            return first <= value <= operands[1]  # type: ignore[operator]
        case Operator.STARTS_WITH:
            return str(value).startswith(str(first))
    raise AssertionError(test)


def _condition(condition: Condition, facts: _Facts) -> bool | None:
    values = facts.values(condition.attribute)
    holds: bool | None
    if condition.operator is Operator.IS_NULL:
        holds = not values
    elif not values and condition.attribute.kind not in (AttributeType.TEXT, AttributeType.KEYWORD_LIST):
        holds = None
    else:
        holds = any(passes(condition.operator, value, condition.operands) for value in values)
    return holds if holds is None else holds is not condition.negated


def evaluate(expression: Expression, facts: _Facts) -> bool | None:
    """True, False, or None for unknown."""
    match expression:
        case Condition():
            return _condition(expression, facts)
        case Not(inner):
            result = evaluate(inner, facts)
            return None if result is None else not result
        case And(parts):
            results = [evaluate(part, facts) for part in parts]
            return False if False in results else None if None in results else True
        case Or(parts):
            results = [evaluate(part, facts) for part in parts]
            return True if True in results else None if None in results else False


def _matches(query: Query, facts: _Facts) -> bool:
    if not query.shows_divisions and NAMESPACE_DIVISION in facts.stored:
        return False
    return query.where is None or evaluate(query.where, facts) is True


def _compare(query: Query, one: Sequence[SortValue], other: Sequence[SortValue]) -> int:
    """Negative when `one` comes first. A missing value comes last, whatever the direction."""
    descending = [*(order.descending for order in query.order_by), True, True, False, False]
    for left, right, down in zip(one, other, descending, strict=True):
        if left == right:
            continue
        if left is None or right is None:
            return 1 if left is None else -1
        return 1 if (left < right) is down else -1  # type: ignore[operator]
    return 0


class MemoryVisibility:
    """A dictionary of rows."""

    kind = "memory"

    def __init__(self) -> None:
        self._facts: dict[RunKey, _Facts] = {}

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def upsert(self, rows: Sequence[VisibilityRow]) -> None:
        for row in rows:
            known = self._facts.get(row.key)
            if known is None or known.row.position <= row.position:
                self._facts[row.key] = _Facts(as_stored(row))

    async def delete(self, keys: Sequence[RunKey]) -> None:
        for key in keys:
            self._facts.pop(key, None)

    def _matching(self, namespace_id: str, query: Query) -> list[_Facts]:
        return [
            facts for key, facts in self._facts.items() if key.namespace_id == namespace_id and _matches(query, facts)
        ]

    async def list(
        self, namespace_id: str, query: Query, page_size: int, page_token: bytes
    ) -> tuple[list[VisibilityRow], bytes]:
        check_list(query, page_size)
        place = decode_page_token(namespace_id, query, page_token)
        found = [(facts.sort_values(query), facts.row) for facts in self._matching(namespace_id, query)]
        found = [entry for entry in found if place is None or _compare(query, entry[0], place) > 0]
        in_order = cmp_to_key(partial(_compare, query))
        found.sort(key=lambda entry: in_order(entry[0]))
        page = found[:page_size]
        more = len(found) > page_size
        return [row for _, row in page], encode_page_token(namespace_id, query, page[-1][0]) if more else b""

    async def count(self, namespace_id: str, query: Query) -> VisibilityCount:
        found = self._matching(namespace_id, query)
        if query.group_by is None:
            return VisibilityCount(len(found))
        counts: Counter[SortValue] = Counter()
        for facts in found:
            counts[_least(facts.values(query.group_by))] += 1
        return VisibilityCount(len(found), _largest_groups(counts))


def _largest_groups(counts: Counter[SortValue]) -> tuple[CountGroup, ...]:
    """The largest first; of equal ones by value, the one without a value last."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0] is None, "" if item[0] is None else item[0]))
    return tuple(
        CountGroup(value if value is None or isinstance(value, int) else str(value), count)
        for value, count in ordered[:GROUPS_MAX]
    )
