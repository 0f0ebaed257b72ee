"""The engines that the contract suite and the differential test run on.

To add an engine: write an async context manager that yields an `Engine` on an empty database, and add it to ENGINES.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from cluster.stores.base import Store
from cluster.stores.faulty import FaultyStore
from cluster.stores.memory import MemoryStore
from cluster.stores.sqlite import SqliteStore


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


@pytest_asyncio.fixture(params=list(ENGINES))
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    async with ENGINES[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture
def store(engine: Engine) -> Store:
    return engine.store
