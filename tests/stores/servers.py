"""PostgreSQL and MariaDB behind one face, for the tests that do the same to both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import asyncpg

from cluster.stores import mysql_schema, postgres_schema
from cluster.stores.mysql import MysqlStore
from cluster.stores.mysql_connection import MysqlTarget
from cluster.stores.postgres import PostgresStore
from cluster.stores.postgres_connection import PostgresTarget
from cluster.stores.sql_schema import SchemaStatus
from cluster.stores.sql_store import SqlStore
from tests.services.mariadb import MariadbServer
from tests.services.postgres import PostgresServer

TABLES = [f"outlast_{name}" for name in ("shards", "journal", "runs", "history", "current", "metadata")]


class Session(Protocol):
    """A connection of the test's own, beside the store's."""

    async def run(self, text: str) -> list[Any]: ...


class Database:
    """A server, and a database on it."""

    kind: str

    def __init__(self, server: PostgresServer | MariadbServer, database: str) -> None:
        self.server = server
        self.database = database

    def store(self, port: int | None = None, **options: Any) -> SqlStore:
        raise NotImplementedError

    async def upgrade(self) -> SchemaStatus:
        raise NotImplementedError

    async def status(self) -> SchemaStatus:
        raise NotImplementedError

    def session(self) -> Any:
        """An async context manager that yields a `Session`."""
        raise NotImplementedError

    async def empty(self) -> None:
        async with self.session() as session:
            for table in TABLES:
                await session.run(f"DELETE FROM {table}")

    @asynccontextmanager
    async def opened(self, port: int | None = None, **options: Any) -> AsyncIterator[SqlStore]:
        store = self.store(port, **options)
        await store.open()
        try:
            yield store
        finally:
            await store.close()


class PostgresDatabase(Database):
    kind = "postgres"
    server: PostgresServer

    def store(self, port: int | None = None, **options: Any) -> SqlStore:
        return PostgresStore(self.server.dsn(self.database, port), **options)

    async def upgrade(self) -> SchemaStatus:
        return await postgres_schema.upgrade(PostgresTarget(self.server.dsn(self.database)))

    async def status(self) -> SchemaStatus:
        return await postgres_schema.status(PostgresTarget(self.server.dsn(self.database)))

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        connection = await asyncpg.connect(self.server.dsn(self.database))

        class _Session:
            async def run(self, text: str) -> list[Any]:
                found: list[Any] = await connection.fetch(text)
                return found

        try:
            yield _Session()
        finally:
            await connection.close()


class MariadbDatabase(Database):
    kind = "mariadb"
    server: MariadbServer

    def store(self, port: int | None = None, **options: Any) -> SqlStore:
        return MysqlStore(self.server.url(self.database, port), **options)

    async def upgrade(self) -> SchemaStatus:
        return await mysql_schema.upgrade(MysqlTarget(self.server.url(self.database)))

    async def status(self) -> SchemaStatus:
        return await mysql_schema.status(MysqlTarget(self.server.url(self.database)))

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        connection = await MysqlTarget(self.server.url(self.database), statement_timeout_s=60).connect()

        class _Session:
            async def run(self, text: str) -> list[Any]:
                return list(await connection.query(text))

        try:
            yield _Session()
        finally:
            connection.terminate()
