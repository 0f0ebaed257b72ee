"""Visibility on PostgreSQL (13 or newer), for a cluster of nodes on one database. `server.py`: what it shares with MySQL."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from cluster.stores.postgres_connection import PostgresTarget, is_usable_after, translate
from cluster.stores.sql_pool import Pool
from cluster.visibility.base import VisibilityUnavailable
from cluster.visibility.postgres_schema import SCHEMA
from cluster.visibility.server import WRITE_ATTEMPTS_MAX, ServerVisibility, unavailable
from cluster.visibility.sql_query import Sql

# Added to what the store's sessions have: statements differ from list to list, so each is planned with its values; and a list
# that reads an index in its order must never be sorted instead. A literal with a backslash means what it says.
_SESSION: Final = "SET plan_cache_mode = force_custom_plan; SET enable_sort = off; SET standard_conforming_strings = on"
_ROLLED_BACK: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


class PostgresVisibility(ServerVisibility):
    """See `VisibilityStore`. At most `connections_count_max` connections, the writers' included."""

    kind = "postgres"
    dialect = "postgres"

    def __init__(
        self,
        dsn: str,
        *,
        statement_timeout_s: float = 10.0,
        connect_timeout_s: float = 5.0,
        connections_count_max: int = 8,
        writers_count_max: int = 2,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(connections_count_max, writers_count_max, statement_timeout_s)
        self._target = PostgresTarget(dsn, statement_timeout_s, connect_timeout_s, ssl_context, is_flush_required=False)
        readers_count_max, wait_s = connections_count_max - writers_count_max, statement_timeout_s
        self._writers: Pool[asyncpg.Connection] = Pool(self._session, writers_count_max, wait_s, connect_timeout_s)
        self._readers: Pool[asyncpg.Connection] = Pool(self._session, readers_count_max, wait_s, connect_timeout_s)

    async def _session(self) -> asyncpg.Connection:
        connection = await self._target.connect()
        try:
            await connection.execute(_SESSION)
        except BaseException as error:
            connection.terminate()
            if isinstance(error, Exception):
                raise translate(error, self._target.name, is_write=False) from error
            raise
        return connection

    async def _connect(self) -> None:
        await SCHEMA.check(self._target)
        self._writers.open()
        self._readers.open()

    async def _disconnect(self) -> None:
        for pool in (self._readers, self._writers):
            await pool.close(self._target.client_timeout_s)

    async def _fetch(self, statement: Sql) -> Sequence[Sequence[Any]]:
        pieces = statement.text.split("?")  # texts hold no other question mark: every value is a parameter
        numbers = (f"${number}" for number in range(1, len(pieces)))
        text = "".join(itertools.chain.from_iterable(zip(pieces, [*numbers, ""], strict=True)))
        try:
            connection = await self._readers.acquire()
            is_usable = True
            try:
                found: list[Any] = await connection.fetch(
                    text, *statement.parameters, timeout=self._target.client_timeout_s
                )
            except BaseException as error:
                is_usable = is_usable_after(error)
                raise
            finally:
                self._readers.release(connection, is_usable)
        except asyncpg.QueryCanceledError as error:
            raise self._took_too_long() from error
        except BaseException as error:
            raise unavailable(error, self._translated) from error
        return found

    async def _transact(self, statements: Sequence[str]) -> None:
        text = ";".join(statements)  # one message: PostgreSQL makes it one transaction by itself
        for _ in range(WRITE_ATTEMPTS_MAX):
            try:
                return await self._write(text)
            except _ROLLED_BACK:
                continue
            except BaseException as error:
                raise unavailable(error, self._translated) from error
        raise VisibilityUnavailable(f"{self._target.name}: rolled back {WRITE_ATTEMPTS_MAX} times for other transactions")

    async def _write(self, text: str) -> None:
        connection = await self._writers.acquire()
        is_usable = True
        try:
            await connection.execute(text, timeout=self._target.client_timeout_s)
        except BaseException as error:
            is_usable = is_usable_after(error)
            raise
        finally:
            self._writers.release(connection, is_usable)

    def _translated(self, error: Exception) -> Exception:
        return translate(error, self._target.name, is_write=False)
