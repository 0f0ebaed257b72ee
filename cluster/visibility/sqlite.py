"""Visibility in SQLite: a file of its own (or the main store's), one thread that writes, two that read.

Writes are acknowledged at `synchronous = NORMAL`: a killed process loses nothing, a power cut may lose the last moments, and
what is lost can be written again from the runs, which the main store keeps durable.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from cluster.stores.base import RunKey
from cluster.visibility.base import (
    GROUPS_MAX,
    CountGroup,
    SortValue,
    VisibilityCount,
    VisibilityRow,
    check_list,
    decode_page_token,
    encode_page_token,
    system_value,
)
from cluster.visibility.expressions import Attribute, Condition, Query
from cluster.visibility.search_attributes import NAMESPACE_DIVISION, all_index_terms
from cluster.visibility.sql_query import COLUMN, Sql
from cluster.visibility.sql_rows import COLUMNS, SELECTED, close_at_of, row_of_columns
from cluster.visibility.sqlite_query import SqliteTranslator
from cluster.visibility.sqlite_schema import create_schema
from cluster.visibility.sqlite_thread import ConnectionThread

Result = TypeVar("Result")

_READERS = 2
_READS_PENDING_MAX = 64
_WRITES_PENDING_MAX = 1_024
_READ_LIMIT_S = 10.0
_BUSY_TIMEOUT_MS = 5_000

_WRITTEN = ["namespace_no", "position", "close_at", "is_divided", "memo", "attributes", *COLUMN.values()]
_INSERT = f"INSERT INTO visibility_run ({', '.join(_WRITTEN)}) VALUES ({', '.join('?' * len(_WRITTEN))})"
_UPDATE = f"UPDATE visibility_run SET {', '.join(f'{column} = ?' for column in _WRITTEN)} WHERE run = ?"
_FIND = """
    SELECT run, position, close_at, start_at, attributes FROM visibility_run
    WHERE namespace_no = ? AND workflow_id = ? AND run_id = ?
"""

_encode_attributes = msgspec.msgpack.Encoder(order="deterministic").encode
_decode_attributes = msgspec.msgpack.Decoder(dict[str, bytes]).decode


class SqliteVisibility:
    """See `VisibilityStore`. `path` may be ":memory:", which one thread then serves."""

    kind = "sqlite"

    def __init__(self, path: str, read_limit_s: float = _READ_LIMIT_S) -> None:
        self._path = path
        self._writer = ConnectionThread("visibility-writer", self._connect, _WRITES_PENDING_MAX, None)
        self._readers = [
            ConnectionThread(f"visibility-reader-{number}", self._connect, _READS_PENDING_MAX, read_limit_s)
            for number in range(0 if path == ":memory:" else _READERS)
        ]
        # Only the writer's thread reads and fills these; what is rolled back is forgotten as a whole.
        self._namespace_nos: dict[str, int] = {}
        self._attribute_nos: dict[tuple[int, str, int], int] = {}

    async def open(self) -> None:
        await self._writer.open()
        await self._writer.run(create_schema)
        for reader in self._readers:
            await reader.open()

    async def close(self) -> None:
        for thread in (*self._readers, self._writer):
            await thread.close()

    async def upsert(self, rows: Sequence[VisibilityRow]) -> None:
        await self._write(partial(self._upsert_all, rows=rows))

    async def delete(self, keys: Sequence[RunKey]) -> None:
        await self._write(partial(self._delete_all, keys=keys))

    async def list(
        self, namespace_id: str, query: Query, page_size: int, page_token: bytes
    ) -> tuple[list[VisibilityRow], bytes]:
        check_list(query, page_size)
        place = decode_page_token(namespace_id, query, page_token)
        return await self._read(partial(_list, namespace_id=namespace_id, query=query, size=page_size, place=place))

    async def count(self, namespace_id: str, query: Query) -> VisibilityCount:
        return await self._read(partial(_count, namespace_id=namespace_id, query=query))

    # --- threads --------------------------------------------------------------------------------------------------------
    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=True)
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -32768")  # KiB
        return connection

    async def _read(self, function: Callable[[sqlite3.Connection], Result]) -> Result:
        return await min(self._readers or [self._writer], key=lambda reader: reader.pending_count).run(function)

    async def _write(self, function: Callable[[sqlite3.Connection], None]) -> None:
        await self._writer.run(partial(self._in_transaction, function))

    def _in_transaction(self, function: Callable[[sqlite3.Connection], None], connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            function(connection)
            connection.execute("COMMIT")
        except BaseException:
            self._namespace_nos.clear()
            self._attribute_nos.clear()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    # --- writes, in the writer's thread -----------------------------------------------------------------------------------
    def _namespace_no(self, connection: sqlite3.Connection, namespace_id: str) -> int:
        number = self._namespace_nos.get(namespace_id)
        if number is None:
            connection.execute("INSERT OR IGNORE INTO visibility_namespace (id) VALUES (?)", (namespace_id,))
            number = _namespace_no(connection, namespace_id)
            self._namespace_nos[namespace_id] = number
        return number

    def _attribute_no(self, connection: sqlite3.Connection, namespace_no: int, name: str, kind: int) -> int:
        number = self._attribute_nos.get((namespace_no, name, kind))
        if number is None:
            connection.execute(
                "INSERT OR IGNORE INTO visibility_attribute (namespace_no, name, kind) VALUES (?, ?, ?)",
                (namespace_no, name, kind),
            )
            number = _attribute_no(connection, namespace_no, name, kind)
            self._attribute_nos[namespace_no, name, kind] = number
        return number

    def _upsert_all(self, connection: sqlite3.Connection, rows: Iterable[VisibilityRow]) -> None:
        for row in rows:
            self._upsert(connection, row)

    def _upsert(self, connection: sqlite3.Connection, row: VisibilityRow) -> None:
        namespace_no = self._namespace_no(connection, row.namespace_id)
        close_at = close_at_of(row)
        encoded = _encode_attributes(row.search_attributes)
        terms = all_index_terms(row.search_attributes)
        written = [namespace_no, row.position, close_at, NAMESPACE_DIVISION in terms, row.memo, encoded]
        written += [system_value(row, name) for name in COLUMN]
        known = connection.execute(_FIND, (namespace_no, row.workflow_id, row.run_id)).fetchone()
        if known is None:
            run = connection.execute(_INSERT, written).lastrowid
        else:
            run, position, *indexed = known
            if position > row.position:
                return
            connection.execute(_UPDATE, [*written, run])
            if indexed == [close_at, row.start_time, encoded]:
                return  # the entries of the values are what they were
            connection.execute("DELETE FROM visibility_value WHERE run = ?", (run,))
        entries = [
            (run, self._attribute_no(connection, namespace_no, name, kind), value, close_at, row.start_time)
            for name, (kind, values) in terms.items()
            for value in values
        ]
        connection.executemany("INSERT INTO visibility_value VALUES (?, ?, ?, ?, ?)", entries)

    def _delete_all(self, connection: sqlite3.Connection, keys: Iterable[RunKey]) -> None:
        for key in keys:
            namespace_no = self._namespace_no(connection, key.namespace_id)
            known = connection.execute(_FIND, (namespace_no, key.workflow_id, key.run_id)).fetchone()
            if known is not None:
                connection.execute("DELETE FROM visibility_value WHERE run = ?", known[:1])
                connection.execute("DELETE FROM visibility_run WHERE run = ?", known[:1])


# --- reads, in a reader's thread ------------------------------------------------------------------------------------------
def _namespace_no(connection: sqlite3.Connection, namespace_id: str) -> int:
    """0 when no run of the namespace was ever written."""
    found = connection.execute("SELECT namespace_no FROM visibility_namespace WHERE id = ?", (namespace_id,)).fetchone()
    return found[0] if found else 0


def _attribute_no(connection: sqlite3.Connection, namespace_no: int, name: str, kind: int) -> int:
    """0 when no run of the namespace ever had the attribute with this type."""
    found = connection.execute(
        "SELECT attribute_no FROM visibility_attribute WHERE namespace_no = ? AND name = ? AND kind = ?",
        (namespace_no, name, kind),
    ).fetchone()
    return found[0] if found else 0


def _translator(connection: sqlite3.Connection, namespace_id: str, query: Query) -> SqliteTranslator:
    namespace_no = _namespace_no(connection, namespace_id)
    numbers: dict[str, int] = {}

    def number_of(attribute: Attribute) -> int:
        if attribute.name not in numbers:
            numbers[attribute.name] = _attribute_no(connection, namespace_no, attribute.name, attribute.kind)
        return numbers[attribute.name]

    return SqliteTranslator(namespace_no, query, number_of)


def _count_rows(connection: sqlite3.Connection, statement: Sql) -> int:
    counted: int = connection.execute(statement.text, statement.parameters).fetchone()[0]
    return counted


def _driver(connection: sqlite3.Connection, translator: SqliteTranslator) -> Condition | None:
    drivers = translator.drivers()
    return translator.smallest(drivers, [_count_rows(connection, translator.driver_count(one)) for one in drivers])


def _list(
    connection: sqlite3.Connection, namespace_id: str, query: Query, size: int, place: tuple[SortValue, ...] | None
) -> tuple[list[VisibilityRow], bytes]:
    translator = _translator(connection, namespace_id, query)
    statement = translator.list_statement(SELECTED, place, size + 1, _driver(connection, translator))
    found = connection.execute(statement.text, statement.parameters).fetchall()
    last_column = len(COLUMNS) - 1
    rows = [row_of_columns(namespace_id, one, _decode_attributes(one[last_column])) for one in itertools.islice(found, size)]
    if len(found) <= size:
        return rows, b""
    last = rows[-1]
    sorted_by = (*found[size - 1][len(COLUMNS) :], close_at_of(last), last.start_time, last.run_id, last.workflow_id)
    return rows, encode_page_token(namespace_id, query, sorted_by)


def _count(connection: sqlite3.Connection, namespace_id: str, query: Query) -> VisibilityCount:
    translator = _translator(connection, namespace_id, query)
    driver = _driver(connection, translator)
    if query.group_by is None:
        return VisibilityCount(_count_rows(connection, translator.count_statement(driver)))
    statement = translator.group_statement(query.group_by, GROUPS_MAX, driver)
    groups = tuple(CountGroup(*found) for found in connection.execute(statement.text, statement.parameters))
    if len(groups) < GROUPS_MAX:
        return VisibilityCount(sum(group.count for group in groups), groups)
    return VisibilityCount(_count_rows(connection, translator.count_statement(driver)), groups)
