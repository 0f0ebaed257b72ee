"""A Cassandra keyspace for tests: a session of the test's own beside the store's, and a way to empty it that takes no seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cassandra.cluster import Session

from cluster.stores import cassandra_schema
from cluster.stores.cassandra import CassandraStore
from cluster.stores.cassandra_connection import CassandraTarget
from cluster.stores.sql_schema import SchemaStatus
from tests.services.cassandra import CassandraServer

TABLES = [f"outlast_{name}" for name in ("journal", "runs", "history", "wakeups", "wake_buckets", "metadata")]


class CqlSession:
    """What a test sends beside the store."""

    def __init__(self, session: Session) -> None:
        self.driver = session

    async def run(self, text: str, *values: Any, trace: bool = False) -> list[Any]:
        result = await asyncio.to_thread(self.driver.execute, text, values or None, 30.0, trace)
        return list(result)


class Keyspace:
    """A keyspace on a server, with or without our tables."""

    kind = "cassandra"

    def __init__(self, server: CassandraServer, name: str) -> None:
        self.server = server
        self.name = name
        self._is_upgraded = False

    def target(self, port: int | None = None) -> CassandraTarget:
        return CassandraTarget.from_url(self.server.url(self.name, port))

    def store(self, port: int | None = None, **options: Any) -> CassandraStore:
        return CassandraStore(self.target(port), **options)

    async def upgrade(self) -> SchemaStatus:
        if self._is_upgraded:
            return SchemaStatus(1, 1)
        found = await cassandra_schema.upgrade(self.target())
        self._is_upgraded = True
        return found

    async def status(self) -> SchemaStatus:
        return await cassandra_schema.status(self.target())

    @asynccontextmanager
    async def session(self, is_in_keyspace: bool = True) -> AsyncIterator[CqlSession]:
        cluster = self.target().cluster(30.0, 10.0)
        # The plain way to execute takes the profile of this name.
        cluster.profile_manager.profiles["default"] = cluster.profile_manager.profiles["read"]
        try:
            yield CqlSession(await asyncio.to_thread(cluster.connect, self.name if is_in_keyspace else None))
        finally:
            await asyncio.to_thread(cluster.shutdown)

    async def empty(self) -> None:
        """Truncates what has rows: that takes a tenth of a second per table."""
        async with self.session() as session:
            for table in TABLES:
                if await session.run(f"SELECT * FROM {table} LIMIT 1"):
                    await session.run(f"TRUNCATE {table}")

    @asynccontextmanager
    async def opened(self, port: int | None = None, **options: Any) -> AsyncIterator[CassandraStore]:
        store = self.store(port, **options)
        await store.open()
        try:
            yield store
        finally:
            await store.close()
