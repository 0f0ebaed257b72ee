"""A connection to PostgreSQL: where, with which session settings, and what its errors mean in the contract's words.

| what failed                                                     | a write raises     | a read raises      |
|-----------------------------------------------------------------|--------------------|--------------------|
| before anything was sent (no connection, a closed one)          | StoreUnavailable   | StoreUnavailable   |
| connection lost, or no answer in time, after it was sent        | StoreUnknown       | StoreUnavailable   |
| the server ended the session (FATAL, PANIC)                     | StoreUnknown       | StoreUnavailable   |
| the statement (ERROR): PostgreSQL rolled it back                | StoreUnavailable   | StoreUnavailable   |
| damaged data (XX001, XX002)                                     | StoreDamaged       | StoreDamaged       |
| a table or column is not there                                  | SchemaMismatch     | SchemaMismatch     |
| a value that no column takes                                    | ValueError         | ValueError         |
| a fault of ours (syntax, wrong use of the driver)               | travels as it is   | travels as it is   |

The server's own time limit is shorter than the client's, so that a slow statement ends with a certain answer (rolled back)
and only a silent server leaves an unknown outcome.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import asyncpg

from cluster.stores.base import SchemaMismatch, StoreDamaged, StoreError, StoreUnavailable, StoreUnknown

SERVER_VERSION_MIN: Final = 13
# The client waits so much longer than the server works.
CLIENT_GRACE_S: Final = 1.0

_DAMAGED: Final = frozenset({"XX001", "XX002"})
_NO_TABLE: Final = frozenset({"42P01", "42703", "3F000"})
# Faults of ours within classes that otherwise mean trouble on the server's side.
_OUR_FAULT_CLASSES: Final = frozenset({"42", "0A", "26", "34", "2D", "0B", "25", "21"})
_READ_ONLY: Final = "25006"  # the server became a standby
_NO_PRIVILEGE: Final = "42501"


@dataclass(frozen=True, slots=True)
class PostgresTarget:
    """A database and how to talk to it. `dsn`: postgresql://user:password@host:port/database?options (as libpq's)."""

    dsn: str
    statement_timeout_s: float = 5.0
    connect_timeout_s: float = 5.0
    ssl: ssl.SSLContext | None = None
    is_flush_required: bool = True

    @property
    def name(self) -> str:
        """For messages: never the password."""
        parts = urlsplit(self.dsn)
        hosts = parts.netloc.rpartition("@")[2] or "localhost"
        return f"PostgreSQL at {hosts}{unquote(parts.path)}"

    @property
    def client_timeout_s(self) -> float:
        return self.statement_timeout_s + CLIENT_GRACE_S

    async def connect(self) -> asyncpg.Connection:
        """Raises StoreUnavailable."""
        try:
            connection = await asyncpg.connect(
                self.dsn,
                ssl=self.ssl if self.ssl is not None else None,
                timeout=self.connect_timeout_s,
                command_timeout=self.client_timeout_s,
                server_settings=self._settings(),
                statement_cache_size=64,
                max_cached_statement_lifetime=0,
            )
        except Exception as error:
            raise translate(error, self.name, is_write=False) from error
        try:
            await self._check(connection)
        except BaseException as error:
            connection.terminate()
            if isinstance(error, Exception):
                raise translate(error, self.name, is_write=False) from error
            raise
        return connection

    def _settings(self) -> dict[str, str]:
        timeout_ms = str(int(self.statement_timeout_s * 1000))
        return {
            "application_name": "outlast",
            "statement_timeout": timeout_ms,
            "idle_in_transaction_session_timeout": timeout_ms,
            # The fence needs it: a statement that waited for a lease's row looks at the row as it is then.
            "default_transaction_isolation": "read committed",
            # Every statement of ours reads by an index; a plan made while a table was empty must not scan it when it is full.
            "plan_cache_mode": "force_generic_plan",
            "enable_seqscan": "off",
            "enable_bitmapscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
            "jit": "off",
        }

    async def _check(self, connection: asyncpg.Connection) -> None:
        major = connection.get_server_version().major
        if major < SERVER_VERSION_MIN:
            raise StoreUnavailable(f"{self.name} is version {major}; version {SERVER_VERSION_MIN} or newer is needed")
        fsync, flush, is_standby = await connection.fetchrow(
            "SELECT current_setting('fsync'), current_setting('synchronous_commit'), pg_is_in_recovery()"
        )
        if is_standby:
            raise StoreUnavailable(f"{self.name} is a standby; a primary is needed")
        if self.is_flush_required:
            if fsync == "off":
                lost = "would lose acknowledged writes (sync='server' takes it as it is)"
                raise StoreUnavailable(f"{self.name} runs with fsync off and {lost}")
            if flush == "off":
                await connection.execute("SET synchronous_commit = on")


def is_usable_after(error: BaseException) -> bool:
    """Whether a connection can take the next statement after this one failed."""
    if isinstance(error, ValueError):
        return True  # refused by the driver before it was sent
    if not isinstance(error, asyncpg.PostgresError) or isinstance(error, asyncpg.ConnectionDoesNotExistError):
        return False
    return _severity(error) == "ERROR" and error.sqlstate != _READ_ONLY


def _severity(error: Any) -> str:
    return getattr(error, "severity_en", None) or getattr(error, "severity", None) or ""


def translate(error: Exception, database: str, is_write: bool) -> Exception:
    """What the contract calls this error (see the table)."""
    if isinstance(error, StoreError):
        return error
    lost: type[StoreError] = StoreUnknown if is_write else StoreUnavailable
    if isinstance(error, asyncpg.PostgresError):
        return _translate_server(error, database, lost)
    if isinstance(error, TimeoutError):
        return lost(f"{database} did not answer in time")
    if isinstance(error, OSError):
        return lost(f"{database}: {error}")
    if isinstance(error, ValueError | OverflowError):  # asyncpg could not put a value in its column's form
        return ValueError(str(error))
    if isinstance(error, asyncpg.InterfaceError) and "closed" in str(error):
        return StoreUnavailable(f"{database}: {error}")  # refused by the driver itself: nothing was sent
    if isinstance(error, asyncpg.InternalClientError):
        return lost(f"{database}: {error}")  # the stream was cut within a message
    return error


def _translate_server(error: Any, database: str, lost: type[StoreError]) -> Exception:
    state = error.sqlstate or ""
    text = f"{database}: {error} ({state or type(error).__name__})"
    if isinstance(error, asyncpg.ConnectionDoesNotExistError) or _severity(error) in ("FATAL", "PANIC"):
        return lost(text)
    if state in _DAMAGED:
        return StoreDamaged(text)
    if state in _NO_TABLE:
        return SchemaMismatch(f"{text}: run `outlast schema upgrade`")
    if state[:2] == "22":
        return ValueError(text)
    if state[:2] in _OUR_FAULT_CLASSES and state not in (_READ_ONLY, _NO_PRIVILEGE):
        return cast(Exception, error)
    return StoreUnavailable(text)


def affected(status: str) -> int:
    """The number at the end of a command's status ("DELETE 3")."""
    return int(status.rpartition(" ")[2])


