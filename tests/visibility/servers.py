"""PostgreSQL and MariaDB behind one face, with the visibility tables in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cluster.stores.mysql_connection import MysqlTarget
from cluster.stores.postgres_connection import PostgresTarget
from cluster.stores.sql_schema import SchemaStatus
from cluster.visibility import mysql_schema, postgres_schema
from cluster.visibility.mysql import MysqlVisibility
from cluster.visibility.postgres import PostgresVisibility
from cluster.visibility.server import ServerVisibility
from cluster.visibility.server_rows import RUNS, VALUES
from tests.services.mariadb import MariadbServer
from tests.services.postgres import PostgresServer
from tests.stores.servers import Database, MariadbDatabase, PostgresDatabase, Session


class VisibilityDatabase:
    """A server, and a database on it."""

    def __init__(self, server: PostgresServer | MariadbServer, database: str) -> None:
        self.server = server
        self.database = database
        self.stores: Database = (
            PostgresDatabase(server, database) if isinstance(server, PostgresServer) else MariadbDatabase(server, database)
        )
        self.kind = self.stores.kind

    def visibility(self, port: int | None = None, **options: Any) -> ServerVisibility:
        if isinstance(self.server, PostgresServer):
            return PostgresVisibility(self.server.dsn(self.database, port), **options)
        return MysqlVisibility(self.server.url(self.database, port), **options)

    async def upgrade(self) -> SchemaStatus:
        if isinstance(self.server, PostgresServer):
            return await postgres_schema.upgrade(PostgresTarget(self.server.dsn(self.database)))
        return await mysql_schema.upgrade(MysqlTarget(self.server.url(self.database)))

    async def status(self) -> SchemaStatus:
        if isinstance(self.server, PostgresServer):
            return await postgres_schema.status(PostgresTarget(self.server.dsn(self.database)))
        return await mysql_schema.status(MysqlTarget(self.server.url(self.database)))

    async def empty(self) -> None:
        async with self.stores.session() as session:
            for table in (RUNS, VALUES):
                await session.run(f"DELETE FROM {table}")

    async def value_count(self) -> int:
        async with self.stores.session() as session:
            return int((await session.run(f"SELECT count(*) FROM {VALUES}"))[0][0])

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        async with self.stores.session() as session:
            yield session

    @asynccontextmanager
    async def opened(self, port: int | None = None, **options: Any) -> AsyncIterator[ServerVisibility]:
        store = self.visibility(port, **options)
        await store.open()
        try:
            yield store
        finally:
            await store.close()
