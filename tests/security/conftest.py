"""One server process for all tests of this folder; each test has a stage of its own on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from ops.servers import OutlastServer
from tests.security.standing import Standing, standing_on


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OutlastServer]:
    running = OutlastServer(tmp_path_factory.mktemp("security") / "server")
    running.start()
    yield running
    assert running.alive(), "the server ended"
    running.stop()


@pytest_asyncio.fixture
async def standing(server: OutlastServer) -> AsyncIterator[Standing]:
    async with standing_on(server) as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/security/" in item.nodeid:
            item.add_marker(pytest.mark.xdist_group("security"))
