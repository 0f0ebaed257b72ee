"""Versions of the tables in a database server: which one this program needs, what it says when it finds another, and how an SQL
database gets there, for the store and for visibility (`SqlSchema`).

`open()` never creates or changes a table: on a database that several nodes share, that is a decision of its operator. The
steps are lists of statements, one list per version, and not alembic revisions: alembic wants SQLAlchemy and a synchronous
driver per engine beside the asynchronous one, for what is one list here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from cluster.stores.base import SchemaMismatch
from cluster.stores.sql_pool import PooledConnection

COMPONENT: Final = "store"  # visibility keeps tables and a version of its own, in the same database or another one
SCHEMA_VERSION: Final = 1

Steps = Mapping[int, Sequence[str]]  # version -> the statements that lead to it from the one before
Connection = TypeVar("Connection", bound=PooledConnection)
Made = TypeVar("Made", bound=PooledConnection, covariant=True)


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """found: the stored version, 0 for a database without our tables; needed: this program's."""

    found: int
    needed: int

    @property
    def is_current(self) -> bool:
        return self.found == self.needed


class SchemaTarget(Protocol[Made]):
    """What is needed of PostgresTarget and MysqlTarget."""

    @property
    def name(self) -> str: ...
    @property
    def statement_timeout_s(self) -> float: ...
    async def connect(self) -> Made: ...


@dataclass(frozen=True)
class SqlSchema(Generic[Connection]):
    """One component's tables in an SQL database; an engine fills in the methods at its end. All raise StoreError."""

    component: str
    version: int
    steps: Steps

    async def check(self, target: SchemaTarget[Connection]) -> None:
        """Raises SchemaMismatch with the command to run, unless the version is ours."""
        refuse_other_version(await self.status(target), target.name, self.component)

    async def status(self, target: SchemaTarget[Connection]) -> SchemaStatus:
        async with self._session(target, is_write=False) as connection:
            return SchemaStatus(await self._found(connection), self.version)

    async def upgrade(self, target: SchemaTarget[Connection]) -> SchemaStatus:
        """Brings the tables to this program's version, and returns what was found before."""
        async with self._session(target, is_write=True) as connection:
            return await self._upgrade(connection, target)

    @asynccontextmanager
    async def _session(self, target: SchemaTarget[Connection], is_write: bool) -> AsyncIterator[Connection]:
        connection = await target.connect()
        try:
            yield connection
        except Exception as error:
            raise self._translated(error, target.name, is_write) from error
        finally:
            connection.terminate()  # gives back whatever lock it has

    # --- what an engine fills in ----------------------------------------------------------------------------------------
    async def _found(self, connection: Connection) -> int:
        """The component's version, 0 for none."""
        raise NotImplementedError

    async def _upgrade(self, connection: Connection, target: SchemaTarget[Connection]) -> SchemaStatus:
        """Waits for another upgrade's end, of whatever component, and runs the steps that are missing."""
        raise NotImplementedError

    def _translated(self, error: Exception, database: str, is_write: bool) -> Exception:
        raise NotImplementedError


def refuse_other_version(status: SchemaStatus, database: str, component: str = COMPONENT) -> None:
    """Raises SchemaMismatch with the command to run, unless the version is ours."""
    is_store = component == COMPONENT
    if status.found == 0:
        tables = "tables" if is_store else f"{component} tables"
        raise SchemaMismatch(f"{database} has no Outlast {tables}: run `outlast schema upgrade`")
    has = f"{database} has {component} schema version {status.found}"
    if status.found < status.needed:
        backup = " make a backup of it," if is_store else ""  # only the store holds what cannot be made again
        raise SchemaMismatch(
            f"{has}, this program needs {status.needed}: stop every node that uses the database,{backup} and run"
            " `outlast schema upgrade`"
        )
    if status.found > status.needed:
        raise SchemaMismatch(
            f"{has}, newer than this program's {status.needed}: run the program that upgraded it (`outlast schema status`"
            " shows both versions)"
        )


def missing_steps(
    steps: Steps, status: SchemaStatus, database: str, component: str = COMPONENT
) -> list[tuple[int, Sequence[str]]]:
    """(version, statements) still to be run, in order. A newer version than ours is not touched."""
    if status.found > status.needed:
        refuse_other_version(status, database, component)
    return [(version, steps[version]) for version in range(status.found + 1, status.needed + 1)]
