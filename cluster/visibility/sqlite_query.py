"""A list filter in SQL. NOT is moved into the conditions first, so that SQL's unknown and false need not be told apart.

Which index a list begins with decides what it costs, and SQLite cannot guess it: it knows nothing of the values. So every
condition that an index can serve is counted, up to a bound (`SMALL_COUNT`). The smallest one that stays below the bound
drives the query; else the query reads an index that has the order of lists already, and stops when the page is full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cluster.visibility.base import STILL_OPEN, SortValue
from cluster.visibility.expressions import And, Attribute, Condition, Expression, Operator, Or, Query, without_not
from cluster.visibility.sqlite_schema import COLUMN, INDEX

# Reading and sorting this many runs costs a few milliseconds.
SMALL_COUNT = 2_000

Parameter = str | int | float


@dataclass(slots=True)
class Sql:
    """A piece of SQL and the values of its question marks."""

    text: str
    parameters: list[Parameter] = field(default_factory=list)

    def __add__(self, other: Sql) -> Sql:
        return Sql(self.text + other.text, self.parameters + other.parameters)


def _joined(word: str, parts: Sequence[Sql]) -> Sql:
    """Balanced, since SQLite limits how deep an expression may be."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return Sql("(") + _joined(word, parts[:middle]) + Sql(f" {word} ") + _joined(word, parts[middle:]) + Sql(")")


def _prefix_end(prefix: str) -> str | None:
    """The smallest text greater than every text with the prefix; None when there is none."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if following == 0xD800 else following)


def _comparison(column: str, test: Operator, operands: Sequence[Parameter]) -> Sql:
    """`column` against the operands; unknown where the column is NULL."""
    match test:
        case Operator.EQUAL | Operator.IN:
            marks = ", ".join("?" * len(operands))  # a Text asked for punctuation has none, and IN () is never true
            return Sql(f"{column} = ?" if len(operands) == 1 else f"{column} IN ({marks})", list(operands))
        case Operator.BETWEEN:
            return Sql(f"{column} BETWEEN ? AND ?", list(operands))
        case Operator.STARTS_WITH:
            prefix = str(operands[0])
            end = _prefix_end(prefix)
            return Sql(f"{column} >= ?", [prefix]) if end is None else Sql(f"({column} >= ? AND {column} < ?)", [prefix, end])
    return Sql(f"{column} {test.value} ?", list(operands))


def _close_time(condition: Condition, table: str = "r") -> Sql:
    """Open runs have no close time, and their `close_at` is past every other, which keeps the index usable."""
    column = f"{table}.close_at"
    if condition.operator is Operator.IS_NULL:
        return Sql(f"{column} {'<>' if condition.negated else '='} {STILL_OPEN}")
    tested = _comparison(column, condition.operator, condition.operands)
    return Sql(f"({column} < {STILL_OPEN} AND {'NOT ' if condition.negated else ''}") + tested + Sql(")")


def attribute_value(attribute: Attribute, attribute_no: int) -> Sql:
    """An attribute as one value, to sort and group by."""
    if attribute.name == "CloseTime":
        return Sql(f"nullif(r.close_at, {STILL_OPEN})")
    if attribute.is_system:
        return Sql(f"r.{COLUMN[attribute.name]}")
    return Sql("(SELECT min(v.value) FROM visibility_value v WHERE v.run = r.run AND v.attribute_no = ?)", [attribute_no])


class Translator:
    """For one query in one namespace. `attribute_no` gives the number of a stored attribute, 0 when no run ever had it."""

    def __init__(self, namespace_no: int, query: Query, attribute_no: Callable[[Attribute], int]) -> None:
        self._namespace_no = namespace_no
        self._query = query
        self._attribute_no = attribute_no
        self._where = without_not(query.where) if query.where is not None else None

    # --- conditions ---------------------------------------------------------------------------------------------------
    def _condition(self, condition: Condition) -> Sql:
        attribute = condition.attribute
        if attribute.name == "CloseTime":
            return _close_time(condition)
        if not attribute.is_system:
            return self._stored_condition(condition)
        column = f"r.{COLUMN[attribute.name]}"
        if condition.operator is Operator.IS_NULL:
            return Sql(f"{column} IS {'NOT ' if condition.negated else ''}NULL")
        return Sql("NOT " if condition.negated else "") + _comparison(column, condition.operator, condition.operands)

    def _stored_condition(self, condition: Condition) -> Sql:
        number = self._attribute_no(condition.attribute)
        has = Sql("EXISTS (SELECT 1 FROM visibility_value v WHERE v.run = r.run AND v.attribute_no = ?", [number])
        if condition.operator is Operator.IS_NULL:
            return Sql("" if condition.negated else "NOT ") + has + Sql(")")
        passes = has + Sql(" AND ") + _comparison("v.value", condition.operator, condition.operands) + Sql(")")
        if not condition.negated:
            return passes
        if condition.true_if_missing:
            return Sql("NOT ") + passes
        return Sql("(") + has + Sql(") AND NOT ") + passes + Sql(")")

    def _expression(self, expression: Expression) -> Sql:
        match expression:
            case And(parts):
                return _joined("AND", [self._expression(part) for part in parts])
            case Or(parts):
                return _joined("OR", [self._expression(part) for part in parts])
            case Condition():
                return self._condition(expression)
        raise AssertionError(f"{expression} is left after without_not")

    def _wheres(self) -> list[Sql]:
        wheres = [Sql("r.namespace_no = ?", [self._namespace_no])]
        if not self._query.shows_divisions:
            wheres.append(Sql("r.is_divided = 0"))
        if self._where is not None:
            wheres.append(self._expression(self._where))
        return wheres

    # --- which index to begin with ------------------------------------------------------------------------------------
    def _drivers(self) -> list[Condition]:
        """Conditions that hold for every run of the answer and that an index can serve."""
        parts = self._where.parts if isinstance(self._where, And) else (self._where,)
        return [
            part
            for part in parts
            if isinstance(part, Condition)
            and not part.negated
            and part.operator is not Operator.IS_NULL
            and (part.attribute.name in INDEX or not part.attribute.is_system)
        ]

    def _driver_rows(self, condition: Condition) -> Sql:
        """The runs of a driving condition by its index, as a FROM and a WHERE."""
        attribute = condition.attribute
        if not attribute.is_system:
            rows = Sql("visibility_value v WHERE v.attribute_no = ? AND ", [self._attribute_no(attribute)])
            return rows + _comparison("v.value", condition.operator, condition.operands)
        rows = Sql(f"visibility_run r INDEXED BY {INDEX[attribute.name]} WHERE r.namespace_no = ? AND ", [self._namespace_no])
        return rows + self._condition(condition)

    def _source(self, count_rows: Callable[[Sql], int], in_order: bool) -> tuple[Sql, str]:
        """FROM, ending in WHERE ... AND, and the table whose times are in the order of lists."""
        drivers = self._drivers()
        smallest: tuple[int, Condition] | None = None
        for driver in drivers:
            rows = Sql("SELECT 1 FROM ") + self._driver_rows(driver) + Sql(f" LIMIT {SMALL_COUNT}")
            counted = count_rows(Sql("SELECT count(*) FROM (") + rows + Sql(")"))
            if counted < SMALL_COUNT and (smallest is None or counted < smallest[0]):
                smallest = counted, driver
        if smallest is not None:
            rows = self._driver_rows(smallest[1])
            if smallest[1].attribute.is_system:
                return Sql("FROM ") + rows + Sql(" AND "), "r"
            joined = Sql(") d CROSS JOIN visibility_run r ON r.run = d.run WHERE ")
            return Sql("FROM (SELECT DISTINCT v.run FROM ") + rows + joined, "r"
        stored = [one for one in drivers if not one.attribute.is_system]
        equal = [one for one in stored if one.operator is Operator.EQUAL and len(one.operands) == 1]
        if in_order and equal:
            number = self._attribute_no(equal[0].attribute)
            source = Sql(
                "FROM visibility_value d INDEXED BY visibility_by_value CROSS JOIN visibility_run r ON r.run = d.run "
                "WHERE d.attribute_no = ? AND d.value = ? AND ",
                [number, equal[0].operands[0]],
            )
            for one in drivers:
                if one.attribute.name == "CloseTime":
                    source += _close_time(one, "d") + Sql(" AND ")
            return source, "d"
        return Sql("FROM visibility_run r WHERE "), "r"

    # --- statements ---------------------------------------------------------------------------------------------------
    def list_statement(
        self, columns: str, place: tuple[SortValue, ...] | None, limit: int, count_rows: Callable[[Sql], int]
    ) -> Sql:
        """The columns, then the values sorted by, of at most `limit` runs that come after `place`."""
        source, timed = self._source(count_rows, in_order=not self._query.order_by)
        orders = [
            (attribute_value(order.attribute, self._number(order.attribute)), order.descending)
            for order in self._query.order_by
        ]
        wheres = self._wheres()
        if place is not None:
            wheres += self._after(place, orders, timed)
        selected = Sql(f"SELECT {columns}")
        ordering = Sql(" ORDER BY ")
        for value, descending in orders:
            selected += Sql(", ") + value
            ordering += value + Sql(f" {'DESC' if descending else 'ASC'} NULLS LAST, ")
        ordering += Sql(f"{timed}.close_at DESC, {timed}.start_at DESC, r.run_id, r.workflow_id LIMIT ?", [limit])
        return selected + Sql(" ") + source + _joined("AND", wheres) + ordering

    def count_statement(self, count_rows: Callable[[Sql], int]) -> Sql:
        source, _ = self._source(count_rows, in_order=True)
        return Sql("SELECT count(*) ") + source + _joined("AND", self._wheres())

    def group_statement(self, attribute: Attribute, limit: int, count_rows: Callable[[Sql], int]) -> Sql:
        """Values and counts, the largest first; of equal ones by value, the one without a value last."""
        source, _ = self._source(count_rows, in_order=True)
        value = attribute_value(attribute, self._number(attribute))
        grouped = Sql(" GROUP BY 1 ORDER BY 2 DESC, 1 NULLS LAST LIMIT ?", [limit])
        return Sql("SELECT ") + value + Sql(", count(*) ") + source + _joined("AND", self._wheres()) + grouped

    def _number(self, attribute: Attribute) -> int:
        return 0 if attribute.is_system else self._attribute_no(attribute)

    def _after(self, place: tuple[SortValue, ...], orders: list[tuple[Sql, bool]], timed: str) -> list[Sql]:
        """Conditions for what comes after a place. Lexicographic: beyond at one value, and equal at all before it."""
        close_at, start_at, run_id, workflow_id = place[-4:]
        assert isinstance(close_at, int) and isinstance(start_at, int)
        assert isinstance(run_id, str) and isinstance(workflow_id, str)
        times = f"{timed}.close_at, {timed}.start_at"
        rest = Sql(
            f"(({times}) < (?, ?) OR (({times}) = (?, ?) AND (r.run_id, r.workflow_id) > (?, ?)))",
            [close_at, start_at, close_at, start_at, run_id, workflow_id],
        )
        if not orders:
            # The first condition says nothing new, but it is one that the index can begin at.
            return [Sql(f"({times}) <= (?, ?)", [close_at, start_at]), rest]
        for (value, descending), at in reversed(list(zip(orders, place, strict=False))):
            if at is None:
                rest = Sql("(") + value + Sql(" IS NULL AND ") + rest + Sql(")")
                continue
            beyond = value + Sql(f" {'<' if descending else '>'} ?", [at])
            missing = value + Sql(" IS NULL")
            equal = value + Sql(" = ?", [at])
            rest = Sql("(") + beyond + Sql(" OR ") + missing + Sql(" OR (") + equal + Sql(" AND ") + rest + Sql("))")
        return [rest]


