"""Visibility on MySQL (8.0 or newer) or MariaDB (10.4 or newer), for a cluster of nodes on one database; see `server.py` for what
it shares with PostgreSQL.

Lists travel as text with their values as numbers and hexadecimal literals: hardly two of them are alike, and statements that are
prepared for each would fill the server's memory.
"""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Sequence
from typing import Any, Final

from cluster.stores.mysql_connection import DEADLOCK, MysqlConnection, MysqlTarget, error_number, is_usable_after, translate
from cluster.stores.sql_pool import Pool
from cluster.visibility.base import VisibilityUnavailable
from cluster.visibility.mysql_schema import SCHEMA
from cluster.visibility.server import WRITE_ATTEMPTS_MAX, ServerVisibility, unavailable
from cluster.visibility.server_rows import literal
from cluster.visibility.sql_query import Sql

_TOOK_TOO_LONG: Final = (1969, 3024)  # max_statement_time of MariaDB, max_execution_time of MySQL


class MysqlVisibility(ServerVisibility):
    """See `VisibilityStore`. At most `connections_count_max` connections, the writers' included."""

    kind = "mysql"
    dialect = "mysql"

    def __init__(
        self,
        url: str,
        *,
        statement_timeout_s: float = 10.0,
        connect_timeout_s: float = 5.0,
        connections_count_max: int = 8,
        writers_count_max: int = 2,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(connections_count_max, writers_count_max, statement_timeout_s)
        self._target = MysqlTarget(url, statement_timeout_s, connect_timeout_s, ssl_context, is_flush_required=False)
        connect, wait_s = self._target.connect, statement_timeout_s
        readers_count_max = connections_count_max - writers_count_max
        self._writers: Pool[MysqlConnection] = Pool(connect, writers_count_max, wait_s, connect_timeout_s)
        self._readers: Pool[MysqlConnection] = Pool(connect, readers_count_max, wait_s, connect_timeout_s)

    async def _connect(self) -> None:
        await SCHEMA.check(self._target)
        self._writers.open()
        self._readers.open()

    async def _disconnect(self) -> None:
        for pool in (self._readers, self._writers):
            await pool.close(self._target.client_timeout_s)

    async def _fetch(self, statement: Sql) -> Sequence[Sequence[Any]]:
        pieces = statement.text.split("?")  # texts hold no other question mark: every value is a parameter
        values = (literal(value, "mysql") for value in statement.parameters)
        text = "".join(itertools.chain.from_iterable(zip(pieces, [*values, ""], strict=True)))
        try:
            connection = await self._readers.acquire()
            is_usable = True
            try:
                return await connection.query(text)
            except BaseException as error:
                is_usable = is_usable_after(error)
                raise
            finally:
                self._readers.release(connection, is_usable)
        except BaseException as error:
            if error_number(error) in _TOOK_TOO_LONG:
                raise self._took_too_long() from error
            raise unavailable(error, self._translated) from error

    async def _transact(self, statements: Sequence[str]) -> None:
        for _ in range(WRITE_ATTEMPTS_MAX):
            try:
                return await self._write(statements)
            except BaseException as error:
                if error_number(error) != DEADLOCK:
                    raise unavailable(error, self._translated) from error
        raise VisibilityUnavailable(f"{self._target.name}: rolled back {WRITE_ATTEMPTS_MAX} times for other transactions")

    async def _write(self, statements: Sequence[str]) -> None:
        connection = await self._writers.acquire()
        is_usable = True
        try:
            await connection.transaction(statements)
        except BaseException as error:
            is_usable = is_usable_after(error)
            raise
        finally:
            self._writers.release(connection, is_usable)

    def _translated(self, error: Exception) -> Exception:
        return translate(error, self._target.name, is_write=False)
