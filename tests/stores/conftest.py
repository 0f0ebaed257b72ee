"""The engines that the contract suite and the differential test run on.

To add an engine: write an async context manager that yields an `Engine` on an empty database, and add it to ENGINES; one that
needs a server goes to SERVER_ENGINES, under the name of the fixture that starts it (once per session) and of its mark.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cluster.stores.base import Store
from cluster.stores.faulty import FaultyStore
from cluster.stores.memory import MemoryStore
from cluster.stores.sqlite import SqliteStore
from tests.services.cassandra import cassandra_server
from tests.services.mariadb import mariadb_server
from tests.services.postgres import postgres_server
from tests.stores.keyspace import Keyspace
from tests.stores.servers import Database, MariadbDatabase, PostgresDatabase


@dataclass
class Engine:
    """A store that is open on an empty database, and how to open it again.

    connect: a store object, not open yet, on the same data. None where the data lives and dies with the object.
    """

    store: Store
    connect: Callable[[], Store] | None

    async def reopen(self) -> None:
        """As after an orderly restart."""
        assert self.connect is not None
        await self.store.close()
        self.store = self.connect()
        await self.store.open()

    @asynccontextmanager
    async def second_node(self) -> AsyncIterator[Store]:
        """Another node on the same database; where that cannot be, the same store."""
        if self.connect is None:
            yield self.store
            return
        other = self.connect()
        await other.open()
        try:
            yield other
        finally:
            await other.close()


@asynccontextmanager
async def _opened(connect: Callable[[], Store], survives: bool) -> AsyncIterator[Engine]:
    engine = Engine(connect(), connect if survives else None)
    await engine.store.open()
    try:
        yield engine
    finally:
        await engine.store.close()


def _memory(folder: Path) -> AbstractAsyncContextManager[Engine]:
    store = MemoryStore()
    return _opened(lambda: store, survives=True)


def _faulty_without_faults(folder: Path) -> AbstractAsyncContextManager[Engine]:
    store = MemoryStore()
    return _opened(lambda: FaultyStore(store, lambda index, method: None), survives=True)


def _sqlite_file(folder: Path) -> AbstractAsyncContextManager[Engine]:
    return _opened(lambda: SqliteStore(str(folder / "store.db")), survives=True)


def _sqlite_memory(folder: Path) -> AbstractAsyncContextManager[Engine]:
    return _opened(lambda: SqliteStore(":memory:"), survives=False)


ENGINES: dict[str, Callable[[Path], AbstractAsyncContextManager[Engine]]] = {
    "memory": _memory,
    "faulty-without-faults": _faulty_without_faults,
    "sqlite-file": _sqlite_file,
    "sqlite-memory": _sqlite_memory,
}


@pytest.fixture(scope="session")
def postgres() -> Iterator[Database]:
    with postgres_server() as server:
        yield PostgresDatabase(server, "postgres")


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Database]:
    with mariadb_server() as server:
        yield MariadbDatabase(server, "test")


@pytest.fixture(scope="session")
def cassandra() -> Iterator[Keyspace]:
    with cassandra_server() as server:
        yield Keyspace(server, "test")


@asynccontextmanager
async def _on_server(database: Database | Keyspace) -> AsyncIterator[Engine]:
    await database.upgrade()
    await database.empty()
    async with _opened(database.store, survives=True) as engine:
        yield engine


SERVER_ENGINES: dict[str, Callable[[Any], AbstractAsyncContextManager[Engine]]] = {
    "postgres": _on_server,
    "mariadb": _on_server,
    "cassandra": _on_server,
}
_PARAMS = [
    *ENGINES,
    *(pytest.param(name, marks=[getattr(pytest.mark, name)]) for name in SERVER_ENGINES),
]


@pytest_asyncio.fixture(params=_PARAMS)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    if request.param in SERVER_ENGINES:
        opening = SERVER_ENGINES[request.param](request.getfixturevalue(request.param))
    else:
        opening = ENGINES[request.param](tmp_path)
    async with opening as opened:
        yield opened


@pytest.fixture
def store(engine: Engine) -> Store:
    return engine.store


@pytest_asyncio.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("postgres", "mariadb")])
async def database(request: pytest.FixtureRequest) -> Database:
    """A database server with our tables in it, empty."""
    found: Database = request.getfixturevalue(request.param)
    await found.upgrade()
    await found.empty()
    return found


@pytest_asyncio.fixture
async def keyspace(cassandra: Keyspace) -> Keyspace:
    """A Cassandra with our tables in it, empty."""
    await cassandra.upgrade()
    await cassandra.empty()
    return cassandra
