"""A list filter in SQLite's SQL: values are compared as they are, since SQLite keeps texts, integers and reals apart itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cluster.visibility.base import STILL_OPEN, SortValue
from cluster.visibility.expressions import Attribute, Condition, Operator, Query
from cluster.visibility.sql_query import COLUMN, Parameter, Sql, Translator, joined
from cluster.visibility.sqlite_schema import INDEX


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


class SqliteTranslator(Translator):
    """`attribute_no` gives the number of a stored attribute, 0 when no run ever had it."""

    indexed = INDEX

    def __init__(self, namespace_no: int, query: Query, attribute_no: Callable[[Attribute], int]) -> None:
        super().__init__(query)
        self._namespace_no = namespace_no
        self._attribute_no = attribute_no

    # --- conditions ---------------------------------------------------------------------------------------------------
    def _wheres(self) -> list[Sql]:
        return [Sql("r.namespace_no = ?", [self._namespace_no]), *super()._wheres()]

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

    def _sort_value(self, attribute: Attribute) -> Sql:
        if attribute.name == "CloseTime":
            return Sql(f"nullif(r.close_at, {STILL_OPEN})")
        if attribute.is_system:
            return Sql(f"r.{COLUMN[attribute.name]}")
        least = "(SELECT min(v.value) FROM visibility_value v WHERE v.run = r.run AND v.attribute_no = ?)"
        return Sql(least, [self._attribute_no(attribute)])

    def _placed(self, attribute: Attribute, value: SortValue) -> Parameter:
        assert value is not None
        return value

    # --- which index to begin with ------------------------------------------------------------------------------------
    def _driver_rows(self, condition: Condition) -> Sql:
        attribute = condition.attribute
        if not attribute.is_system:
            rows = Sql("visibility_value v WHERE v.attribute_no = ? AND ", [self._attribute_no(attribute)])
            return rows + _comparison("v.value", condition.operator, condition.operands)
        rows = Sql(f"visibility_run r INDEXED BY {INDEX[attribute.name]} WHERE r.namespace_no = ? AND ", [self._namespace_no])
        return rows + self._condition(condition)

    def _source(self, driver: Condition | None, in_order: bool) -> tuple[Sql, str]:
        """FROM, ending in WHERE ... AND, and the table whose times are in the order of lists."""
        if driver is not None:
            rows = self._driver_rows(driver)
            if driver.attribute.is_system:
                return Sql("FROM ") + rows + Sql(" AND "), "r"
            from_values = Sql(") d CROSS JOIN visibility_run r ON r.run = d.run WHERE ")
            return Sql("FROM (SELECT DISTINCT v.run FROM ") + rows + from_values, "r"
        equal = self._one_equal()
        if not in_order or equal is None:
            return Sql("FROM visibility_run r WHERE "), "r"
        source = Sql(
            "FROM visibility_value d INDEXED BY visibility_by_value CROSS JOIN visibility_run r ON r.run = d.run "
            "WHERE d.attribute_no = ? AND d.value = ? AND ",
            [self._attribute_no(equal.attribute), equal.operands[0]],
        )
        for one in self.drivers():
            if one.attribute.name == "CloseTime":
                source += _close_time(one, "d") + Sql(" AND ")
        return source, "d"

    # --- statements ---------------------------------------------------------------------------------------------------
    def list_statement(
        self, columns: str, place: tuple[SortValue, ...] | None, limit: int, driver: Condition | None
    ) -> Sql:
        """The columns, then the values sorted by, of at most `limit` runs that come after `place`."""
        source, timed = self._source(driver, in_order=not self._query.order_by)
        wheres = self._wheres()
        if place is not None:
            wheres += self._after(place, timed)
        selected = Sql(f"SELECT {columns}")
        ordering = Sql(" ORDER BY ")
        for order in self._query.order_by:
            value = self._sort_value(order.attribute)
            selected += Sql(", ") + value
            ordering += value + Sql(f" {'DESC' if order.descending else 'ASC'} NULLS LAST, ")
        ordering += Sql(f"{timed}.close_at DESC, {timed}.start_at DESC, r.run_id, r.workflow_id LIMIT ?", [limit])
        return selected + Sql(" ") + source + joined("AND", wheres) + ordering

    def count_statement(self, driver: Condition | None) -> Sql:
        source, _ = self._source(driver, in_order=True)
        return Sql("SELECT count(*) ") + source + joined("AND", self._wheres())

    def group_statement(self, attribute: Attribute, limit: int, driver: Condition | None) -> Sql:
        """Values and counts, the largest first; of equal ones by value, the one without a value last."""
        source, _ = self._source(driver, in_order=True)
        grouped = Sql(" GROUP BY 1 ORDER BY 2 DESC, 1 NULLS LAST LIMIT ?", [limit])
        value = self._sort_value(attribute)
        return Sql("SELECT ") + value + Sql(", count(*) ") + source + joined("AND", self._wheres()) + grouped

    def _after(self, place: tuple[SortValue, ...], timed: str) -> list[Sql]:
        """Conditions for what comes after a place."""
        close_at, start_at, run_id, workflow_id = place[-4:]
        times = f"{timed}.close_at, {timed}.start_at"
        rest = Sql(
            f"(({times}) < (?, ?) OR (({times}) = (?, ?) AND (r.run_id, r.workflow_id) > (?, ?)))",
            [close_at, start_at, close_at, start_at, run_id, workflow_id],
        )
        if self._query.order_by:
            return [self._after_orders(place, rest)]
        # The first condition says nothing new, but it is one that the index can begin at.
        return [Sql(f"({times}) <= (?, ?)", [close_at, start_at]), rest]
