"""A list filter in SQL: what is the same for every engine. The engines' own parts: `sqlite_query.py`, `server_query.py`.

NOT is moved into the conditions first, so that SQL's unknown and false need not be told apart.

Which index a list begins with decides what it costs, and no database can guess it well: values and times depend on each other.
So every condition that an index can serve is counted, up to a bound (`SMALL_COUNT`). The smallest one that stays below the bound
drives the query; else the query reads an index that has the order of lists already, and stops when the page is full.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.visibility.base import SortValue
from cluster.visibility.expressions import And, Attribute, Condition, Expression, Operator, Or, Query, without_not

# Reading and sorting this many runs costs a few milliseconds.
SMALL_COUNT = 2_000
# Counting more conditions than this would cost more than the best of them saves.
DRIVERS_MAX = 16

Parameter = str | int | float | bytes

# System attribute -> column. CloseTime is not among them: open runs have none, and sort by a close time past all others.
COLUMN: dict[str, str] = {
    "WorkflowId": "workflow_id",
    "RunId": "run_id",
    "WorkflowType": "workflow_type",
    "ExecutionStatus": "status",
    "StartTime": "start_at",
    "ExecutionTime": "execution_at",
    "ExecutionDuration": "duration_ns",
    "TaskQueue": "task_queue",
    "HistoryLength": "history_length",
    "HistorySizeBytes": "history_bytes",
    "StateTransitionCount": "transition_count",
    "ParentWorkflowId": "parent_workflow_id",
    "ParentRunId": "parent_run_id",
    "RootWorkflowId": "root_workflow_id",
    "RootRunId": "root_run_id",
}


@dataclass(slots=True)
class Sql:
    """A piece of SQL and the values of its question marks."""

    text: str
    parameters: list[Any] = field(default_factory=list)

    def __add__(self, other: Sql) -> Sql:
        return Sql(self.text + other.text, self.parameters + other.parameters)


def joined(word: str, parts: Sequence[Sql]) -> Sql:
    """Balanced, since databases limit how deep an expression may be."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return Sql("(") + joined(word, parts[:middle]) + Sql(f" {word} ") + joined(word, parts[middle:]) + Sql(")")


class Translator(ABC):
    """For one query in one namespace."""

    # System attributes that an index finds.
    indexed: Collection[str]

    def __init__(self, query: Query) -> None:
        self._query = query
        self._where = without_not(query.where) if query.where is not None else None

    # --- what an engine fills in --------------------------------------------------------------------------------------
    @abstractmethod
    def _condition(self, condition: Condition) -> Sql:
        """A condition on the run `r`."""

    @abstractmethod
    def _driver_rows(self, condition: Condition) -> Sql:
        """The runs of a driving condition by its index, as a FROM and a WHERE."""

    @abstractmethod
    def _sort_value(self, attribute: Attribute) -> Sql:
        """An attribute as one value, to sort and group by."""

    @abstractmethod
    def _placed(self, attribute: Attribute, value: SortValue) -> Parameter:
        """A sort value of a page token as it is compared with `_sort_value`."""

    # --- conditions ---------------------------------------------------------------------------------------------------
    def _expression(self, expression: Expression) -> Sql:
        match expression:
            case And(parts):
                return joined("AND", [self._expression(part) for part in parts])
            case Or(parts):
                return joined("OR", [self._expression(part) for part in parts])
            case Condition():
                return self._condition(expression)
        raise AssertionError(f"{expression} is left after without_not")

    def _wheres(self) -> list[Sql]:
        """Without the namespace, which each way to begin has in a form of its own."""
        wheres = []
        if not self._query.shows_divisions:
            wheres.append(Sql("r.is_divided = 0"))
        if self._where is not None:
            wheres.append(self._expression(self._where))
        return wheres

    # --- which index to begin with ------------------------------------------------------------------------------------
    def drivers(self) -> list[Condition]:
        """Conditions that hold for every run of the answer and that an index can serve."""
        parts = self._where.parts if isinstance(self._where, And) else (self._where,)
        found = [
            part
            for part in parts
            if isinstance(part, Condition)
            and not part.negated
            and part.operator is not Operator.IS_NULL
            and (part.attribute.name in self.indexed or not part.attribute.is_system)
        ]
        return found[:DRIVERS_MAX]

    def driver_count(self, driver: Condition) -> Sql:
        """Counts the rows of a driver, up to SMALL_COUNT."""
        return Sql("SELECT count(*) FROM (SELECT 1 FROM ") + self._driver_rows(driver) + Sql(f" LIMIT {SMALL_COUNT}) c")

    @staticmethod
    def smallest(drivers: Sequence[Condition], counts: Sequence[int]) -> Condition | None:
        """The driver to begin with; None when none of them is small."""
        small = [(count, place) for place, count in enumerate(counts) if count < SMALL_COUNT]
        return drivers[min(small)[1]] if small else None

    def _one_equal(self) -> Condition | None:
        """A driving `Attribute = 'x'` of a stored attribute, whose index has its runs in the order of lists."""
        for one in self.drivers():
            if not one.attribute.is_system and one.operator is Operator.EQUAL and len(one.operands) == 1:
                return one
        return None

    # --- pages --------------------------------------------------------------------------------------------------------
    def _after_orders(self, place: Sequence[SortValue], rest: Sql) -> Sql:
        """What comes after a place in ORDER BY; `rest` decides between runs that are equal there. Lexicographic: beyond at
        one value, and equal at all before it. Runs without the attribute come last."""
        for order, at in reversed(list(zip(self._query.order_by, place, strict=False))):
            value = self._sort_value(order.attribute)
            if at is None:
                rest = Sql("(") + value + Sql(" IS NULL AND ") + rest + Sql(")")
                continue
            placed = self._placed(order.attribute, at)
            beyond = value + Sql(f" {'<' if order.descending else '>'} ?", [placed])
            missing = value + Sql(" IS NULL")
            equal = value + Sql(" = ?", [placed])
            rest = Sql("(") + beyond + Sql(" OR ") + missing + Sql(" OR (") + equal + Sql(" AND ") + rest + Sql("))")
        return rest
