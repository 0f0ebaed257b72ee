"""The store on MySQL (8.0 or newer) or MariaDB (10.4 or newer), for a cluster of nodes on one database.

    MysqlStore              this file: calls to the driver
      mysql_statements.py   the fence and the writes
      mysql_connection.py   session settings, prepared statements, what an error means
      mysql_schema.py       tables, version, upgrade
      sql_*.py              what it shares with PostgreSQL

Durability: with sync "full" a server that does not flush its log at each commit is refused, and so is one that may have
several writers (Galera, group replication in multi-primary mode): the fence is a row lock, and those do not share row locks.
Whether an acknowledged write survives a failover to a replica is decided by the server's replication, not here.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any

from cluster.stores import mysql_statements as statements
from cluster.stores.base import Lease, StoreUnavailable
from cluster.stores.mysql_connection import (
    DEADLOCK,
    DUPLICATE,
    NOT_NULL,
    MysqlConnection,
    MysqlTarget,
    error_number,
    is_usable_after,
    translate,
)
from cluster.stores.mysql_schema import SCHEMA
from cluster.stores.sql_groups import Run
from cluster.stores.sql_pool import Pool
from cluster.stores.sql_rows import Row, Slice
from cluster.stores.sql_statements import READS, WRITES, Statement, compiled
from cluster.stores.sql_store import SqlStore, SyncMode

_STATEMENTS: dict[str, Statement] = {
    name: compiled(text, "mysql") for name, text in {**READS, **WRITES, "metadata_insert": statements.METADATA_INSERT}.items()
}
# InnoDB picks a victim now and then among checkpoints of neighbouring keys; it was rolled back, so it may be repeated at once.
DEADLOCK_ATTEMPTS_MAX = 4


class MysqlStore(SqlStore):
    """Implements `cluster.stores.base.Store` on asyncmy. At most `connections_count_max` connections, the lanes' included."""

    kind = "mysql"

    def __init__(
        self,
        url: str,
        sync: SyncMode = "full",
        *,
        statement_timeout_s: float = 5.0,
        connect_timeout_s: float = 5.0,
        connections_count_max: int = 10,
        append_lanes_count: int = 2,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(sync, statement_timeout_s, append_lanes_count)
        if connections_count_max <= append_lanes_count:
            raise ValueError("connections_count_max must leave room beside the append lanes")
        self._target = MysqlTarget(url, statement_timeout_s, connect_timeout_s, ssl_context, sync == "full")
        connect, wait_s = self._target.connect, statement_timeout_s
        # Appends have connections of their own: no read and no checkpoint stands in their way.
        self._appenders: Pool[MysqlConnection] = Pool(connect, append_lanes_count, wait_s, connect_timeout_s)
        self._others: Pool[MysqlConnection] = Pool(
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
        statement = _STATEMENTS[name]
        result = await self._execute(self._others, statement.text, statement.values(named), is_write=False)
        found: Sequence[Row] = result.rows or ()
        return found

    async def _write(self, name: str, **named: Any) -> int:
        statement = _STATEMENTS[name]
        result = await self._execute(self._others, statement.text, statement.values(named), is_write=True)
        return 0 if result is None else int(result.affected_rows)

    async def _raise_range(self, shard: int, owner: bytes) -> int:
        result = await self._execute(self._others, statements.ACQUIRE, (shard, owner), is_write=True)
        return int(result.insert_id)

    async def _write_group(self, runs: Sequence[Run]) -> set[int]:
        if len(runs) == 1 and len(runs[0].records) == 1:
            values = statements.append_values(runs[0])
            result = await self._execute(self._appenders, statements.APPEND, values, is_write=True)
            return {runs[0].shard} if result is not None and result.affected_rows == 1 else set()
        if await self._transaction(self._appenders, statements.append_group(runs)):
            return {run.shard for run in runs}
        if len(runs) == 1:
            return set()
        # One refused run took the whole group with it, which is rare: each is tried by itself.
        taken: set[int] = set()
        for run in runs:
            taken |= await self._write_group([run])
        return taken

    async def _write_slice(self, lease: Lease, part: Slice, truncate_to: int, is_last: bool) -> bool:
        return await self._transaction(self._others, statements.checkpoint_slice(lease, part, truncate_to, is_last))

    async def _execute(self, pool: Pool[MysqlConnection], statement: str, values: Sequence[Any], is_write: bool) -> Any:
        """Runs a prepared statement in a transaction of its own; None if a key was taken already."""
        connection = await pool.acquire()
        is_usable = True
        try:
            return await connection.execute(statement, values)
        except BaseException as error:
            is_usable = is_usable_after(error)
            if error_number(error) == DUPLICATE:
                return None
            raise self._translated(error, is_write) from error
        finally:
            pool.release(connection, is_usable)

    async def _transaction(self, pool: Pool[MysqlConnection], texts: Sequence[str]) -> bool:
        """False: its guard or a key refused it, and it was rolled back."""
        for _ in range(DEADLOCK_ATTEMPTS_MAX):
            connection = await pool.acquire()
            is_usable = True
            try:
                await connection.transaction(texts)
                return True
            except BaseException as error:
                is_usable = is_usable_after(error)
                if error_number(error) in (DUPLICATE, NOT_NULL):
                    return False
                if error_number(error) != DEADLOCK:
                    raise self._translated(error, is_write=True) from error
            finally:
                pool.release(connection, is_usable)
        raise StoreUnavailable(f"{self._target.name}: chosen as the victim of a deadlock {DEADLOCK_ATTEMPTS_MAX} times")

    def _translated(self, error: BaseException, is_write: bool) -> BaseException:
        return translate(error, self._target.name, is_write) if isinstance(error, Exception) else error
