"""A list filter for PostgreSQL and MySQL: values are bytes (`stored_values.py`), and the plan is the one that is written here.

| way to begin                             | kept to it in PostgreSQL by                    | in MySQL by                   |
|------------------------------------------|------------------------------------------------|-------------------------------|
| a small driver: read all of it, sort     | MATERIALIZED, nothing to sort inside           | FORCE INDEX, STRAIGHT_JOIN    |
| in the order of lists, to a full page    | the session's `enable_sort = off`              | FORCE INDEX, STRAIGHT_JOIN    |
| anything else (ORDER BY without a driver) | index scans and nested loops only             | the optimizer                 |

An index orders by close and start time alone. Which of two runs with equal times comes first is decided by run and workflow id,
and it matters only where a page ends between them: then `ties_statement` reads them by themselves. So indexes stay narrow.
"""

from __future__ import annotations

from typing import Final

from cluster.visibility.base import STILL_OPEN, SortValue
from cluster.visibility.expressions import Attribute, Condition, Operator, Query
from cluster.visibility.search_attributes import AttributeType
from cluster.visibility.server_rows import RUNS, VALUES, Dialect, namespace_key
from cluster.visibility.sql_query import COLUMN, Parameter, Sql, Translator, joined
from cluster.visibility.sql_rows import SELECTED
from cluster.visibility.stored_values import (
    HEAD_BYTES,
    Points,
    Span,
    as_stored_range,
    attribute_key,
    is_text,
    range_of,
    stored_value,
)

_BY: Final = "outlast_visibility_by_"
_INDEX: Final = {
    "WorkflowId": f"{_BY}workflow",
    "RunId": f"{_BY}run",
    "WorkflowType": f"{_BY}type",
    "ExecutionStatus": f"{_BY}status",
    "StartTime": f"{_BY}start",
    "ParentWorkflowId": f"{_BY}parent",
    "CloseTime": f"{_BY}order",
}
_ORDERED_BY: Final = ("ExecutionStatus", "WorkflowType")  # their indexes have the runs of one value in the order of lists


def system_kind(attribute: Attribute) -> AttributeType:
    """The type of a system attribute's column."""
    return AttributeType.INT if attribute.name == "ExecutionStatus" else attribute.kind


def _column_test(column: str, found: Points | Span) -> Sql:
    """A column of whole values against a range; unknown where the column is NULL."""
    if isinstance(found, Points):
        if not found.values:
            return Sql(f"{column} <> {column}")
        return Sql(f"{column} IN ({', '.join('?' * len(found.values))})", list(found.values))
    tests = [Sql(f"{column} {sign} ?", [bound]) for sign, bound in ((">=", found.low), ("<", found.high)) if bound is not None]
    return joined("AND", tests) if tests else Sql(f"{column} = {column}")


def _value_test(table: str, found: Points | Span) -> Sql:
    """A stored value against a range. Its head decides, but against what is as long as a head or longer."""
    head, whole = f"{table}.head", f"coalesce({table}.whole, {table}.head)"
    if isinstance(found, Points):
        short = tuple(value for value in found.values if len(bytes_of(value)) < HEAD_BYTES)
        tests = [_column_test(head, Points(short))] if short or not found.values else []
        for value in map(bytes_of, found.values):
            if len(value) >= HEAD_BYTES:
                tests.append(Sql(f"({head} = ? AND {table}.whole = ?)", [value[:HEAD_BYTES], value]))
        return joined("OR", tests)
    tests = []
    for sign, near, bound in ((">=", ">=", found.low), ("<", "<=", found.high)):
        if bound is None:
            continue
        value = bytes_of(bound)
        if len(value) < HEAD_BYTES:
            tests.append(Sql(f"{head} {sign} ?", [value]))
        else:
            tests.append(Sql(f"({head} {near} ? AND {whole} {sign} ?)", [value[:HEAD_BYTES], value]))
    return joined("AND", tests) if tests else Sql(f"{head} = {head}")


def bytes_of(value: bytes | int | float) -> bytes:
    assert isinstance(value, bytes), "stored values are bytes"
    return value


def _close_time(condition: Condition, table: str = "r") -> Sql:
    """Open runs have no close time, and their `close_at` is past every other, which keeps the index usable."""
    column = f"{table}.close_at"
    if condition.operator is Operator.IS_NULL:
        return Sql(f"{column} {'<>' if condition.negated else '='} {STILL_OPEN}")
    tested = _column_test(column, range_of(AttributeType.INT, condition.operator, condition.operands))
    return Sql(f"({column} < {STILL_OPEN} AND {'NOT ' if condition.negated else ''}(") + tested + Sql("))")


class ServerTranslator(Translator):
    indexed = _INDEX

    def __init__(self, namespace_id: str, query: Query, dialect: Dialect) -> None:
        super().__init__(query)
        self._namespace_id = namespace_id
        self._dialect = dialect

    def _use(self, index: str) -> str:
        return f" FORCE INDEX ({index})" if self._dialect == "mysql" else ""

    def _attribute(self, attribute: Attribute) -> int:
        return attribute_key(self._namespace_id, attribute.name, attribute.kind)

    def _in_namespace(self) -> Sql:
        return Sql("r.namespace_key = ?", [namespace_key(self._namespace_id)])

    def _is_of_namespace(self) -> Sql:
        """The same for a run that a value has found: in a form that no index serves, since it is to be looked up by its key."""
        return Sql("(r.namespace_key = ?) IS TRUE", [namespace_key(self._namespace_id)])

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
        tested = _column_test(column, range_of(system_kind(attribute), condition.operator, condition.operands))
        return Sql("NOT (" if condition.negated else "(") + tested + Sql(")")

    def _stored_condition(self, condition: Condition) -> Sql:
        """Looks the run's values up, run by run: a scalar subquery is one that no optimizer turns into a join."""
        lookup = f"(SELECT 1 FROM {VALUES} v{self._use('PRIMARY')} WHERE v.run_key = r.run_key AND v.attribute = ?"
        has = Sql(lookup, [self._attribute(condition.attribute)])
        if condition.operator is Operator.IS_NULL:
            return has + Sql(f" LIMIT 1) IS {'NOT ' if condition.negated else ''}NULL")
        # IS TRUE, so that the index of values cannot serve the test: it would find all runs with the value, for each run.
        passes = has + Sql(" AND (") + self._tested("v", condition) + Sql(") IS TRUE LIMIT 1)")
        if not condition.negated:
            return passes + Sql(" IS NOT NULL")
        if condition.true_if_missing:
            return passes + Sql(" IS NULL")
        return Sql("(") + has + Sql(" LIMIT 1) IS NOT NULL AND ") + passes + Sql(" IS NULL)")

    def _tested(self, table: str, condition: Condition) -> Sql:
        kind = condition.attribute.kind
        return _value_test(table, as_stored_range(kind, range_of(kind, condition.operator, condition.operands)))

    def _sort_value(self, attribute: Attribute) -> Sql:
        if attribute.name == "CloseTime":
            return Sql(f"nullif(r.close_at, {STILL_OPEN})")
        if attribute.is_system:
            return Sql(f"r.{COLUMN[attribute.name]}")
        table = f"s{self._sorted().index(attribute)}"
        return Sql(f"coalesce({table}.whole, {table}.head)")

    def _sorted(self) -> list[Attribute]:
        """Stored attributes that the query sorts or groups by."""
        named = [order.attribute for order in self._query.order_by] + [*filter(None, [self._query.group_by])]
        return [attribute for attribute in dict.fromkeys(named) if not attribute.is_system]

    def _joins(self) -> Sql:
        """The least value of each of them, or NULLs."""
        joins = Sql("")
        for number, attribute in enumerate(self._sorted()):
            table = f"s{number}"
            joins += Sql(
                f" LEFT JOIN {VALUES} {table}{self._use('PRIMARY')} ON {table}.run_key = r.run_key AND {table}.attribute = ? "
                f"AND {table}.value_no = 0",
                [self._attribute(attribute)],
            )
        return joins

    def _placed(self, attribute: Attribute, value: SortValue) -> Parameter:
        assert value is not None
        if not attribute.is_system:
            return stored_value(attribute.kind, value)
        return str(value).encode() if is_text(system_kind(attribute)) else value

    # --- which index to begin with ------------------------------------------------------------------------------------
    def _driver_rows(self, condition: Condition) -> Sql:
        attribute = condition.attribute
        if not attribute.is_system:
            rows = Sql(f"{VALUES} v{self._use(f'{_BY}value')} WHERE v.attribute = ? AND (", [self._attribute(attribute)])
            return rows + self._tested("v", condition) + Sql(")")
        rows = Sql(f"{RUNS} r{self._use(_INDEX[attribute.name])} WHERE ")
        return rows + self._in_namespace() + Sql(" AND ") + self._condition(condition)

    def _source(self, driver: Condition | None, in_order: bool) -> tuple[Sql, list[Sql], str]:
        """FROM with its joins, further conditions, and the table whose times are in the order of lists."""
        join = "STRAIGHT_JOIN" if self._dialect == "mysql" else "JOIN"
        runs = f"{join} {RUNS} r{self._use('PRIMARY')} ON r.run_key = d.run_key"
        if driver is not None and driver.attribute.is_system:
            return Sql(f"{RUNS} r{self._use(_INDEX[driver.attribute.name])}") + self._joins(), [self._in_namespace()], "r"
        if driver is not None:
            fence = " OFFSET 0" if self._dialect == "postgres" else ""
            keys = Sql("(SELECT DISTINCT v.run_key FROM ") + self._driver_rows(driver) + Sql(f"{fence}) d {runs}")
            return keys + self._joins(), [self._is_of_namespace()], "r"
        equal = self._one_equal()
        if in_order and equal is not None:
            source = Sql(f"{VALUES} d{self._use(f'{_BY}value')} {runs}")
            wheres = [Sql("d.attribute = ?", [self._attribute(equal.attribute)]), self._tested("d", equal)]
            wheres.append(self._is_of_namespace())
            wheres += [_close_time(one, "d") for one in self.drivers() if one.attribute.name == "CloseTime"]
            return source + self._joins(), wheres, "d"
        index = self._use(self._ordered_index()) if in_order else ""
        return Sql(f"{RUNS} r{index}") + self._joins(), [self._in_namespace()], "r"

    def _ordered_index(self) -> str:
        for one in self.drivers():
            if one.attribute.name in _ORDERED_BY and one.operator is Operator.EQUAL:
                return _INDEX[one.attribute.name]
        return f"{_BY}order"

    # --- statements ---------------------------------------------------------------------------------------------------
    def reads_in_order(self, driver: Condition | None) -> bool:
        """Whether a list reads an index in its order, and so leaves equal times to `ties_statement`."""
        return driver is None and not self._query.order_by

    def list_statement(self, place: tuple[SortValue, ...] | None, limit: int, driver: Condition | None) -> Sql:
        """COLUMNS, then the values sorted by, of at most `limit` runs that come after `place`. With `reads_in_order`, runs of
        equal times are in no order."""
        in_order = self.reads_in_order(driver)
        source, wheres, timed = self._source(driver, in_order)
        wheres += self._wheres()
        if place is not None:
            wheres += self._after(place, timed)
        if in_order:
            found = Sql(f"SELECT {SELECTED} FROM ") + source + Sql(" WHERE ") + joined("AND", wheres)
            return found + Sql(f" ORDER BY {timed}.close_at DESC, {timed}.start_at DESC LIMIT ?", [limit])
        selected, sorted_inside, sorted_outside = f"SELECT {SELECTED}", "", ""
        for number, order in enumerate(self._query.order_by):
            value, way = self._sort_value(order.attribute).text, "DESC" if order.descending else "ASC"
            selected += f", {value} AS k{number}"
            sorted_inside += f"({value} IS NULL), {value} {way}, "
            sorted_outside += f"(k{number} IS NULL), k{number} {way}, "
        found = Sql(f"{selected} FROM ") + source + Sql(" WHERE ") + joined("AND", wheres)
        if driver is not None and self._dialect == "postgres":
            last = "close_at DESC, start_at DESC, run_id, workflow_id LIMIT ?"
            ending = Sql(f") SELECT * FROM found ORDER BY {sorted_outside}{last}", [limit])
            return Sql("WITH found AS MATERIALIZED (") + found + ending
        return found + Sql(f" ORDER BY {sorted_inside}r.close_at DESC, r.start_at DESC, r.run_id, r.workflow_id LIMIT ?", [limit])

    def ties_statement(self, place: tuple[SortValue, ...] | None, times: tuple[int, int], limit: int) -> Sql:
        """Of a list that reads in order, the first runs with exactly these times."""
        source, wheres, timed = self._source(None, in_order=True)
        wheres += [Sql(f"{timed}.close_at = ? AND {timed}.start_at = ?", list(times)), *self._wheres()]
        if place is not None:
            wheres += self._after(place, timed)
        found = Sql(f"SELECT {SELECTED} FROM ") + source + Sql(" WHERE ") + joined("AND", wheres)
        return found + Sql(" ORDER BY r.run_id, r.workflow_id LIMIT ?", [limit])

    def counts_statement(self, drivers: list[Condition]) -> Sql:
        """One row with the counts of all drivers."""
        counts = Sql("SELECT ")
        for number, driver in enumerate(drivers):
            counts += Sql(", (" if number else "(") + self.driver_count(driver) + Sql(")")
        return counts

    def count_statement(self, driver: Condition | None) -> Sql:
        return Sql("SELECT count(*) ") + self._all(driver)

    def group_statement(self, attribute: Attribute, limit: int, driver: Condition | None) -> Sql:
        """Values and counts, the largest first; of equal ones by value, the one without a value last."""
        value = self._sort_value(attribute).text
        grouped = Sql(f" GROUP BY {value} ORDER BY count(*) DESC, ({value} IS NULL), {value} LIMIT ?", [limit])
        return Sql(f"SELECT {value}, count(*) ") + self._all(driver) + grouped

    def _all(self, driver: Condition | None) -> Sql:
        """Every run of the answer, in no order. A stored `Attribute = 'x'` is still the best way in."""
        source, wheres, _ = self._source(driver, in_order=driver is None and self._one_equal() is not None)
        return Sql("FROM ") + source + Sql(" WHERE ") + joined("AND", [*wheres, *self._wheres()])

    def _after(self, place: tuple[SortValue, ...], timed: str) -> list[Sql]:
        """Conditions for what comes after a place."""
        close_at, start_at, run_id, workflow_id = place[-4:]
        run, workflow = str(run_id).encode(), str(workflow_id).encode()
        rest = Sql(
            f"({timed}.close_at < ? OR ({timed}.close_at = ? AND ({timed}.start_at < ? OR ({timed}.start_at = ? AND "
            "(r.run_id > ? OR (r.run_id = ? AND r.workflow_id > ?))))))",
            [close_at, close_at, start_at, start_at, run, run, workflow],
        )
        if self._query.order_by:
            return [self._after_orders(place, rest)]
        # The first condition says nothing new, but it is one that the index can begin at. MySQL wants it spelled out.
        if self._dialect == "postgres":
            return [Sql(f"({timed}.close_at, {timed}.start_at) <= (?, ?)", [close_at, start_at]), rest]
        begin = f"({timed}.close_at < ? OR ({timed}.close_at = ? AND {timed}.start_at <= ?))"
        return [Sql(begin, [close_at, close_at, start_at]), rest]
