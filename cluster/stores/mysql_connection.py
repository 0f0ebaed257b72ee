"""A connection to MySQL or MariaDB: where, with which session settings, and what its errors mean in the contract's words.

| what failed                                                     | a write raises     | a read raises      |
|-----------------------------------------------------------------|--------------------|--------------------|
| before anything was sent (no connection, a closed one)          | StoreUnavailable   | StoreUnavailable   |
| connection lost, or no answer in time, after it was sent        | StoreUnknown       | StoreUnavailable   |
| session killed, server shutting down, error at COMMIT           | StoreUnknown       | StoreUnavailable   |
| the statement, for a reason that passes (see _PASSING)          | StoreUnavailable   | StoreUnavailable   |
| damaged data                                                    | StoreDamaged       | StoreDamaged       |
| a table or column is not there                                  | SchemaMismatch     | SchemaMismatch     |
| a value that no column takes                                    | ValueError         | ValueError         |
| a fault of ours (syntax, wrong use of the driver)               | travels as it is   | travels as it is   |
| any other error of the server                                   | StoreUnknown       | StoreUnavailable   |

MariaDB limits every statement's time itself (max_statement_time) and then has rolled it back; MySQL can do so for reads
alone, so there a slow write ends with an unknown outcome.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import asyncmy
from asyncmy import errors

from cluster.stores.base import SchemaMismatch, StoreDamaged, StoreError, StoreUnavailable, StoreUnknown

# The client waits so much longer than the server works.
CLIENT_GRACE_S: Final = 1.0
# Groups and slices are up to 1 MiB, twice that as hexadecimal text, and a single record may be larger.
PACKET_BYTES_MIN: Final = 8 << 20

DUPLICATE: Final = 1062
NOT_NULL: Final = 1048
DEADLOCK: Final = 1213
_LOCK_WAIT: Final = 1205
_GONE: Final = 2006  # the driver found the connection closed and sent nothing
_READ_ONLY: Final = frozenset({1290, 1792, 1836})  # the server became a replica
_PASSING: Final = _READ_ONLY | {
    1021,  # disk full
    1030,  # error from the storage engine (also: disk full)
    1040,  # too many connections
    1041,  # out of memory
    1044,  # access denied to the database
    1045,  # access denied
    1049,  # unknown database
    1114,  # table full
    1129,  # host blocked
    1142,  # command denied
    1203,  # too many connections of this user
    _LOCK_WAIT,
    1206,  # lock table full
    DEADLOCK,
    1226,  # a resource of this user is used up
    1665,  # statement-based binary log with READ COMMITTED
    1969,  # MariaDB: max_statement_time
    3024,  # MySQL: max_execution_time
}
_DAMAGED: Final = frozenset({126, 127, 145, 1034, 1194, 1195, 1712, 1877, 1932})
_NO_TABLE: Final = frozenset({1054, 1146})
_BAD_VALUE: Final = frozenset({1264, 1366, 1406, 1690})


class CommitFailed(Exception):
    """COMMIT itself was answered with an error."""


@dataclass(frozen=True, slots=True)
class MysqlTarget:
    """A database and how to talk to it. `url`: mysql://user:password@host:port/database (percent-encoded parts)."""

    url: str
    statement_timeout_s: float = 5.0
    connect_timeout_s: float = 5.0
    ssl: ssl.SSLContext | None = None
    is_flush_required: bool = True

    @property
    def name(self) -> str:
        """For messages: never the password."""
        parts = urlsplit(self.url)
        return f"MySQL at {parts.netloc.rpartition('@')[2]}{unquote(parts.path)}"

    @property
    def client_timeout_s(self) -> float:
        return self.statement_timeout_s + CLIENT_GRACE_S

    async def connect(self) -> MysqlConnection:
        """Raises StoreUnavailable."""
        parts = urlsplit(self.url)
        try:
            async with asyncio.timeout(self.connect_timeout_s):  # the driver's own limit ends before the handshake
                driver = await asyncmy.connect(
                    host=parts.hostname,
                    port=parts.port or 3306,
                    user=unquote(parts.username or ""),
                    password=unquote(parts.password or ""),
                    database=unquote(parts.path.lstrip("/")) or None,
                    charset="utf8mb4",
                    autocommit=True,
                    connect_timeout=self.connect_timeout_s,
                    ssl=self.ssl,
                    program_name="outlast",
                )
        except Exception as error:
            raise translate(error, self.name, is_write=False) from error
        connection = MysqlConnection(driver, self.client_timeout_s)
        try:
            await self._prepare(connection)
        except BaseException as error:
            connection.terminate()
            if isinstance(error, Exception):
                raise translate(error, self.name, is_write=False) from error
            raise
        return connection

    async def _prepare(self, connection: MysqlConnection) -> None:
        # The fence needs READ COMMITTED without gap locks, and the guards of mysql_statements.py need the strict mode.
        await connection.query("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        lock_wait_s = max(1, int(self.statement_timeout_s))
        await connection.query(
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION',"
            f" SESSION innodb_lock_wait_timeout = {lock_wait_s}"
        )
        wanted = (
            "version", "innodb_flush_log_at_trx_commit", "log_bin", "sync_binlog", "read_only", "max_allowed_packet", "wsrep_on",
            "group_replication_single_primary_mode",
        )  # fmt: skip
        listed = ", ".join(f"'{name}'" for name in wanted)
        found = {row[0]: str(row[1]) for row in await connection.query(f"SHOW VARIABLES WHERE Variable_name IN ({listed})")}
        if "mariadb" in found["version"].lower():
            await connection.query(f"SET SESSION max_statement_time = {self.statement_timeout_s}")
        else:
            await connection.query(f"SET SESSION max_execution_time = {int(self.statement_timeout_s * 1000)}")
        if found["read_only"] in ("ON", "1"):
            raise StoreUnavailable(f"{self.name} is read-only; the primary is needed")
        connection.packet_bytes_max = int(found["max_allowed_packet"])
        if connection.packet_bytes_max < PACKET_BYTES_MIN:
            raise StoreUnavailable(f"{self.name} has a max_allowed_packet below {PACKET_BYTES_MIN}: raise it")
        if self.is_flush_required:
            self._refuse_unsafe(found)

    def _refuse_unsafe(self, found: dict[str, str]) -> None:
        """What would lose acknowledged writes, or let two owners write one shard."""
        if found["innodb_flush_log_at_trx_commit"] != "1":
            problem = "innodb_flush_log_at_trx_commit is not 1, so it acknowledges before its disk does"
        elif found.get("log_bin") in ("ON", "1") and found.get("sync_binlog") != "1":
            problem = "log_bin is on and sync_binlog is not 1, so a crash may take back what was acknowledged"
        elif found.get("wsrep_on") in ("ON", "1") or found.get("group_replication_single_primary_mode") in ("OFF", "0"):
            problem = "it may have several writers, and row locks, which fence a shard's former owner, hold on one of them only"
        else:
            return
        raise StoreUnavailable(f"{self.name}: {problem} (sync='server' takes it as it is)")


class MysqlConnection:
    """asyncmy's connection with statements kept prepared, a limit on every wait, and an end that does not wait for the peer."""

    def __init__(self, driver: Any, timeout_s: float) -> None:
        self._driver = driver
        # The driver has no public way to drop a connection whose peer does not answer.
        self._transport: asyncio.WriteTransport = self._driver._transport
        self._timeout_s = timeout_s
        self._prepared: dict[str, Any] = {}
        self.packet_bytes_max = PACKET_BYTES_MIN

    def is_closed(self) -> bool:
        return not self._driver.connected or self._transport.is_closing()

    def terminate(self) -> None:
        self._transport.abort()
        self._driver.close()

    async def close(self) -> None:
        await self._driver.ensure_closed()

    async def execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """Runs a statement prepared on the server: `rows`, `affected_rows`, `insert_id`."""
        size = sum(len(value) for value in values if isinstance(value, bytes))
        self._refuse_oversize(size + len(statement) + 4_096)
        async with asyncio.timeout(self._timeout_s):
            prepared = self._prepared.get(statement)
            if prepared is None:
                prepared = self._prepared[statement] = await self._driver.prepare(statement)
            return await prepared.execute(values)

    async def query(self, text: str) -> Sequence[Sequence[Any]]:
        """Runs one statement as text."""
        async with asyncio.timeout(self._timeout_s), self._driver.cursor() as cursor:
            await cursor.execute(text)
            return await cursor.fetchall() if cursor.description else ()

    async def transaction(self, statements: Sequence[str]) -> None:
        """Runs the statements as one transaction in one message: the server never waits for us in between.

        An error ends it where it stands, and rolls back; one at COMMIT raises CommitFailed.
        """
        text = ";".join(("BEGIN", *statements, "COMMIT"))
        self._refuse_oversize(len(text) + 1)
        done = 0
        async with asyncio.timeout(self._timeout_s), self._driver.cursor() as cursor:
            try:
                await cursor.execute(text)
                done = 1
                while await cursor.nextset():
                    done += 1
            except errors.MySQLError as error:
                if not self.is_closed() and error_number(error) < 2_000:
                    await self._driver.rollback()
                    if done > len(statements) and error_number(error) not in (DEADLOCK, _LOCK_WAIT):
                        raise CommitFailed(str(error)) from error
                raise

    def _refuse_oversize(self, size: int) -> None:
        if size > self.packet_bytes_max:
            raise ValueError(f"a statement of {size} bytes is longer than the server's max_allowed_packet")


def error_number(error: BaseException) -> int:
    number = error.args[0] if isinstance(error, errors.MySQLError) and error.args else 0
    return number if isinstance(number, int) else 0


def is_usable_after(error: BaseException) -> bool:
    """Whether a connection can take the next statement after this one failed."""
    if isinstance(error, ValueError):
        return True  # refused before it was sent
    number = error_number(error)
    return number in (DUPLICATE, NOT_NULL) or (number in _PASSING - _READ_ONLY) or number in _BAD_VALUE


def translate(error: Exception, database: str, is_write: bool) -> Exception:
    """What the contract calls this error (see the table)."""
    if isinstance(error, StoreError | ValueError):
        return error
    lost: type[StoreError] = StoreUnknown if is_write else StoreUnavailable
    if isinstance(error, TimeoutError):
        return lost(f"{database} did not answer in time")
    # A plain RuntimeError is how asyncio, uvloop and the driver say that the transport under them has been closed.
    if isinstance(error, OSError | CommitFailed) or type(error) is RuntimeError:
        return lost(f"{database}: {error}")
    if not isinstance(error, errors.MySQLError):
        return error
    number = error_number(error)
    text = f"{database}: {error}"
    if number in _PASSING or number == _GONE or isinstance(error, errors.InterfaceError):
        return StoreUnavailable(text)  # an InterfaceError with a closed connection: the driver sent nothing
    if number in _DAMAGED:
        return StoreDamaged(text)
    if number in _NO_TABLE:
        return SchemaMismatch(f"{text}: run `outlast schema upgrade`")
    if number in _BAD_VALUE:
        return ValueError(text)
    if isinstance(error, errors.ProgrammingError | errors.NotSupportedError):
        return error
    return lost(text)
