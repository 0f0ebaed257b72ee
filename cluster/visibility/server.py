"""What PostgreSQL and MySQL have in common as visibility stores.

    ServerVisibility       this file: the contract; an engine fills in the methods at its end
      server_query.py      list filters as SQL, and which index they begin with
      server_rows.py       rows to the statements of a write, columns to rows
      stored_values.py     values and comparisons as bytes
      server_schema.py     what the tables are, their version

Writers and readers have connections of their own, so that slow lists never keep rows from being written.

How durable a write is when it returns is the server's setting, as in SQLite: visibility is a view, and no truth is lost with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cluster.core.errors import CallerError, resource_exhausted
from cluster.stores.base import RunKey, SchemaMismatch, StoreError
from cluster.visibility.base import (
    GROUPS_MAX,
    CountGroup,
    SortValue,
    VisibilityCount,
    VisibilityRow,
    VisibilityUnavailable,
    check_list,
    decode_page_token,
    encode_page_token,
)
from cluster.visibility.expressions import Attribute, Condition, Query
from cluster.visibility.server_query import ServerTranslator, system_kind
from cluster.visibility.server_rows import Dialect, delete_statements, read_run, upsert_messages
from cluster.visibility.sql_query import Sql
from cluster.visibility.sql_rows import COLUMNS, close_at_of
from cluster.visibility.stored_values import is_text, read_value

# What was rolled back for another transaction's sake is repeated at once, so many times.
WRITE_ATTEMPTS_MAX = 5
# A deletion is one transaction of short statements.
DELETE_KEYS_MAX = 1_000

Rows = list[VisibilityRow]


class ServerVisibility:
    """Implements `cluster.visibility.base.VisibilityStore` but for what touches the driver."""

    kind = "server"
    dialect: Dialect

    def __init__(self, connections_count_max: int, writers_count_max: int, statement_timeout_s: float) -> None:
        if connections_count_max <= writers_count_max or writers_count_max < 1:
            raise ValueError("connections_count_max must leave room beside the writers")
        if statement_timeout_s <= 0:
            raise ValueError("statement_timeout_s must be positive")
        self._statement_timeout_s = statement_timeout_s

    async def open(self) -> None:
        """Raises SchemaMismatch, VisibilityUnavailable."""
        try:
            await self._connect()
        except SchemaMismatch:
            raise
        except StoreError as error:
            raise VisibilityUnavailable(str(error)) from error

    async def close(self) -> None:
        await self._disconnect()

    # --- writes -------------------------------------------------------------------------------------------------------
    async def upsert(self, rows: Sequence[VisibilityRow]) -> None:
        for statements in list(upsert_messages(rows, self.dialect)):
            await self._transact(statements)

    async def delete(self, keys: Sequence[RunKey]) -> None:
        for first in range(0, len(keys), DELETE_KEYS_MAX):
            await self._transact(delete_statements(keys[first : first + DELETE_KEYS_MAX], self.dialect))

    # --- reads --------------------------------------------------------------------------------------------------------
    async def list(
        self, namespace_id: str, query: Query, page_size: int, page_token: bytes
    ) -> tuple[list[VisibilityRow], bytes]:
        check_list(query, page_size)
        place = decode_page_token(namespace_id, query, page_token)
        translator = ServerTranslator(namespace_id, query, self.dialect)
        driver = await self._driver(translator)
        found = await self._fetch(translator.list_statement(place, page_size + 1, driver))
        rows = [read_run(namespace_id, one) for one in found]
        if translator.reads_in_order(driver):
            rows = await self._with_ties(translator, namespace_id, place, rows, page_size)
        if len(rows) <= page_size:
            return rows, b""
        last = rows[page_size - 1]
        sorted_by = _sorted_by(query, found[page_size - 1]) if query.order_by else ()
        token = encode_page_token(namespace_id, query, (*sorted_by, *_times(last), last.run_id, last.workflow_id))
        return rows[:page_size], token

    async def _with_ties(
        self,
        translator: ServerTranslator,
        namespace_id: str,
        place: tuple[SortValue, ...] | None,
        rows: Rows,
        page_size: int,
    ) -> Rows:
        """The page in its full order. The index may have given any of the runs whose times the last row has, so if the page ends
        among them they are read by themselves, the first ones in order."""
        if len(rows) > page_size and _times(rows[page_size - 1]) == _times(rows[page_size]):
            times = _times(rows[page_size])
            rows = [row for row in rows if _times(row) != times]
            ties = await self._fetch(translator.ties_statement(place, times, page_size + 1 - len(rows)))
            known = {row.key for row in rows}  # a run that changed between the two reads is shown once
            rows += [row for row in (read_run(namespace_id, one) for one in ties) if row.key not in known]
        rows.sort(key=_list_order)
        return rows

    async def count(self, namespace_id: str, query: Query) -> VisibilityCount:
        translator = ServerTranslator(namespace_id, query, self.dialect)
        driver = await self._driver(translator)
        if query.group_by is not None:
            attribute = query.group_by
            found = await self._fetch(translator.group_statement(attribute, GROUPS_MAX, driver))
            groups = tuple(CountGroup(_group_value(attribute, value), int(count)) for value, count in found)
            if len(groups) < GROUPS_MAX:
                return VisibilityCount(sum(group.count for group in groups), groups)
        else:
            groups = ()
        ((total,),) = await self._fetch(translator.count_statement(driver))
        return VisibilityCount(int(total), groups)

    async def _driver(self, translator: ServerTranslator) -> Condition | None:
        drivers = translator.drivers()
        if not drivers:
            return None
        (counts,) = await self._fetch(translator.counts_statement(drivers))
        return translator.smallest(drivers, [int(count) for count in counts])

    def _took_too_long(self) -> CallerError:
        return resource_exhausted(
            f"the visibility query took longer than {self._statement_timeout_s:g} s: narrow it by WorkflowId, WorkflowType, "
            "ExecutionStatus, a time range or a search attribute"
        )

    # --- what an engine fills in ----------------------------------------------------------------------------------------
    async def _connect(self) -> None:
        """Checks server and schema. Raises StoreError."""
        raise NotImplementedError

    async def _disconnect(self) -> None:
        raise NotImplementedError

    async def _fetch(self, statement: Sql) -> Sequence[Sequence[Any]]:
        """Raises VisibilityUnavailable, or CallerError for what takes too long."""
        raise NotImplementedError

    async def _transact(self, statements: Sequence[str]) -> None:
        """All statements in one transaction and one message; repeats what was rolled back for another transaction's sake. Raises
        VisibilityUnavailable."""
        raise NotImplementedError


def unavailable(error: BaseException, translate: Callable[[Exception], Exception]) -> BaseException:
    """Every trouble with the database is one thing to the callers of visibility: it is away, and they may repeat the call."""
    if not isinstance(error, Exception):
        return error
    told = translate(error)
    return VisibilityUnavailable(str(told)) if isinstance(told, StoreError) else told


def _times(row: VisibilityRow) -> tuple[int, int]:
    return close_at_of(row), row.start_time


def _list_order(row: VisibilityRow) -> tuple[int, int, str, str]:
    return -close_at_of(row), -row.start_time, row.run_id, row.workflow_id


def _sorted_by(query: Query, found: Sequence[Any]) -> tuple[SortValue, ...]:
    """The values of ORDER BY, which come after the columns."""
    values = zip(query.order_by, found[len(COLUMNS) :], strict=True)
    return tuple(_value_of(order.attribute, value) for order, value in values)


def _value_of(attribute: Attribute, value: Any) -> SortValue:
    if not attribute.is_system:
        return read_value(attribute.kind, value)
    if value is None:
        return None
    return str(value, "utf-8") if is_text(system_kind(attribute)) else int(value)


def _group_value(attribute: Attribute, value: Any) -> str | int | None:
    shown = _value_of(attribute, value)
    assert not isinstance(shown, float), "only keywords are grouped"
    return shown
