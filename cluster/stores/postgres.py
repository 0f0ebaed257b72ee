"""The store on PostgreSQL (13 or newer), for a cluster of nodes on one database.

    PostgresStore            this file: calls to the driver
      postgres_statements.py the fence and the writes
      postgres_connection.py session settings, what an error means
      postgres_schema.py     tables, version, upgrade
      sql_*.py               what it shares with MySQL

Durability: with sync "full" a server with fsync off is refused and synchronous_commit is switched on where it is off, so what
is acknowledged survives a crash of the server. Whether it survives a failover to a standby is decided by the server's
synchronous replication (`synchronous_standby_names`), not here. A pooler between node and server must keep sessions
(pgbouncer: session mode).
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any

import asyncpg

from cluster.stores import postgres_statements as statements
from cluster.stores.base import Lease, StoreUnknown
from cluster.stores.postgres_connection import PostgresTarget, affected, is_usable_after, translate
from cluster.stores.postgres_schema import SCHEMA
from cluster.stores.sql_groups import Run
from cluster.stores.sql_pool import Pool
from cluster.stores.sql_rows import Row, Slice
from cluster.stores.sql_statements import READS, WRITES, Statement, compiled
from cluster.stores.sql_store import SqlStore, SyncMode

_READS: dict[str, Statement] = {name: compiled(text, "postgres") for name, text in READS.items()}
_WRITES: dict[str, Statement] = {
    name: compiled(text, "postgres") for name, text in {**WRITES, "metadata_insert": statements.METADATA_INSERT}.items()
}
_SLICES: dict[tuple[bool, bool], str] = {
    (moves_mark, has_deletions): statements.slice_statement(moves_mark, has_deletions)
    for moves_mark in (False, True)
    for has_deletions in (False, True)
}


class PostgresStore(SqlStore):
    """Implements `cluster.stores.base.Store` on asyncpg. At most `connections_count_max` connections, the lanes' included."""

    kind = "postgres"

    def __init__(
        self,
        dsn: str,
        sync: SyncMode = "full",
        *,
        statement_timeout_s: float = 5.0,
        connect_timeout_s: float = 5.0,
        connections_count_max: int = 10,
        append_lanes_count: int = 1,  # a second one halves what an append gathers: 19 % more CPU in the database (ops/bench)
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(sync, statement_timeout_s, append_lanes_count)
        if connections_count_max <= append_lanes_count:
            raise ValueError("connections_count_max must leave room beside the append lanes")
        self._target = PostgresTarget(dsn, statement_timeout_s, connect_timeout_s, ssl_context, sync == "full")
        connect, wait_s = self._target.connect, statement_timeout_s
        # Appends have connections of their own: no read and no checkpoint stands in their way.
        self._appenders: Pool[asyncpg.Connection] = Pool(connect, append_lanes_count, wait_s, connect_timeout_s)
        self._others: Pool[asyncpg.Connection] = Pool(
            connect, connections_count_max - append_lanes_count, wait_s, connect_timeout_s
        )

    async def _connect(self) -> None:
        await SCHEMA.check(self._target)
        self._appenders.open()
        self._others.open()

    async def _disconnect(self) -> None:
        for pool in (self._appenders, self._others):
            await pool.close(self._target.client_timeout_s)

    async def _read(self, name: str, **named: Any) -> Sequence[Row]:
        statement = _READS[name]
        return await self._fetch(self._others, statement.text, statement.values(named), is_write=False)

    async def _write(self, name: str, **named: Any) -> int:
        statement = _WRITES[name]
        connection = await self._others.acquire()
        is_usable = True
        try:
            status = await connection.execute(
                statement.text, *statement.values(named), timeout=self._target.client_timeout_s
            )
        except BaseException as error:
            is_usable = is_usable_after(error)
            raise self._translated(error, is_write=True) from error
        finally:
            self._others.release(connection, is_usable)
        return affected(status)

    async def _raise_range(self, shard: int, owner: bytes) -> int:
        found = await self._fetch(self._others, statements.ACQUIRE, (shard, owner), is_write=True)
        return int(found[0][0])

    async def _write_group(self, runs: Sequence[Run]) -> set[int]:
        if len(runs) == 1 and len(runs[0].records) == 1:
            (run,) = runs
            values: tuple[Any, ...] = (run.shard, run.range_id, run.first_position, run.records[0])
            taken = await self._fetch(self._appenders, statements.APPEND, values, is_write=True)
            return {run.shard} if taken else set()
        heads = ([run.shard for run in runs], [run.range_id for run in runs], [run.first_position for run in runs])
        shards: list[int] = []
        positions: list[int] = []
        records: list[bytes] = []
        for run in runs:
            count = len(run.records)
            shards += [run.shard] * count
            positions += range(run.first_position, run.first_position + count)
            records += run.records
        values = (*heads, shards, positions, records)
        found = await self._fetch(self._appenders, statements.APPEND_GROUP, values, is_write=True)
        taken_counts: dict[int, int] = {}
        for (shard,) in found:
            taken_counts[shard] = taken_counts.get(shard, 0) + 1
        for run in runs:
            if taken_counts.get(run.shard, 0) not in (0, len(run.records)):  # only two writers under one lease can do that
                raise StoreUnknown(f"shard {run.shard}: a part of a run was written; is its lease used twice?")
        return set(taken_counts)

    async def _write_slice(self, lease: Lease, part: Slice, truncate_to: int, is_last: bool) -> bool:
        values: list[Any] = [
            lease.shard,
            lease.range_id,
            truncate_to,
            *_columns(part.histories, 7),
            *_columns(part.rows, 7),
            *_columns(part.current, 3),
        ]
        has_deletions = bool(part.deletions or part.unset)
        if has_deletions:
            values += [*_columns(part.unset, 2), *_columns(part.unset_if, 3), *_columns(part.deletions, 3)]
        statement = _SLICES[is_last and truncate_to > 0, has_deletions]
        found = await self._fetch(self._others, statement, tuple(values), is_write=True)
        return bool(found[0][0])

    async def _fetch(
        self, pool: Pool[asyncpg.Connection], statement: str, values: tuple[Any, ...], is_write: bool
    ) -> list[Any]:
        """Runs a prepared statement (asyncpg keeps it per connection) in a transaction of its own."""
        connection = await pool.acquire()
        is_usable = True
        try:
            found: list[Any] = await connection.fetch(statement, *values, timeout=self._target.client_timeout_s)
        except BaseException as error:
            is_usable = is_usable_after(error)
            raise self._translated(error, is_write) from error
        finally:
            pool.release(connection, is_usable)
        return found

    def _translated(self, error: BaseException, is_write: bool) -> BaseException:
        return translate(error, self._target.name, is_write) if isinstance(error, Exception) else error


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[list[Any]]:
    return [[row[place] for row in rows] for place in range(count)]
