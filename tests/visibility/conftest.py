"""The engines that the contract of visibility is tested on, and their servers, started once per session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import pytest_asyncio

from cluster.visibility.base import VisibilityStore
from tests.services.mariadb import mariadb_server
from tests.services.postgres import postgres_server
from tests.visibility.rows import opened
from tests.visibility.servers import VisibilityDatabase

SERVERS = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("postgres", "mariadb")]


@pytest.fixture(scope="session")
def postgres() -> Iterator[VisibilityDatabase]:
    with postgres_server() as server:
        yield VisibilityDatabase(server, "postgres")


@pytest.fixture(scope="session")
def mariadb() -> Iterator[VisibilityDatabase]:
    with mariadb_server() as server:
        yield VisibilityDatabase(server, "test")


@pytest_asyncio.fixture(params=["memory", "sqlite", "sqlite-memory", *SERVERS])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VisibilityStore]:
    """Open, on an empty database."""
    opening: AbstractAsyncContextManager[VisibilityStore]
    if request.param in ("postgres", "mariadb"):
        database: VisibilityDatabase = request.getfixturevalue(request.param)
        await database.upgrade()
        await database.empty()
        opening = database.opened()
    else:
        opening = opened(request.param, tmp_path)
    async with opening as found:
        yield found


@pytest_asyncio.fixture(params=SERVERS)
async def database(request: pytest.FixtureRequest) -> VisibilityDatabase:
    """A database server with the visibility tables in it, empty."""
    found: VisibilityDatabase = request.getfixturevalue(request.param)
    await found.upgrade()
    await found.empty()
    return found
