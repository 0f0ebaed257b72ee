"""Regions on different real stores, with 3 and 7 shards: the same story over and back, equal histories and lists at its end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.node_config import StoreConfig, StoreKind, VisibilityConfig
from ops.cli.schema_engines import upgrade
from ops.services.databases import engine_server, fresh_database
from tests.regions.regions import RegionSpec, eventually, regions
from tests.regions.workflows import QUEUE, Chain, Letters, worker

KINDS: dict[str, StoreKind] = {"sqlite": "sqlite", "postgres": "postgres", "mariadb": "mysql", "cassandra": "cassandra"}
RUNS_COUNT = 20


@contextlib.contextmanager
def store_of(engine: str, folder: Path) -> Iterator[tuple[StoreConfig, VisibilityConfig | None]]:
    with engine_server(engine) as server:
        database = fresh_database(engine, server, folder)
        store = StoreConfig(kind=KINDS[engine], url=database.url())
        visibility = None
        if engine == "cassandra":
            visibility = VisibilityConfig(kind="sqlite", url=str(folder / "visibility.db"))
        yield store, visibility


PAIRS = [
    pytest.param("sqlite", "postgres", marks=pytest.mark.postgres),
    pytest.param("postgres", "cassandra", marks=[pytest.mark.postgres, pytest.mark.cassandra]),
    pytest.param("mariadb", "sqlite", marks=pytest.mark.mariadb),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_a_namespace_moves_between_stores_and_back(first: str, second: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as servers:
        specs = []
        for name, shards, engine in (("c1", 3, first), ("c2", 7, second)):
            store, visibility = servers.enter_context(store_of(engine, tmp_path))
            if engine != "sqlite":
                await upgrade("store", store)
                await upgrade("visibility", visibility or VisibilityConfig(kind=store.kind, url=store.url))  # type: ignore[arg-type]
            specs.append(RegionSpec(name, shards, store, visibility))
        async with regions(specs) as c:
            async with worker(c.one):
                for number in range(RUNS_COUNT):
                    handle = await c.one.start_workflow(Letters.run, "a", id=f"w{number}", task_queue=QUEUE)
                    await handle.signal(Letters.tell, "before")
                await c.one.start_workflow(Chain.run, 2, id="chain", task_queue=QUEUE)
            await c.agree()
            await c.fail_over("c2")
            async with worker(c.one):  # its region is passive now: it works all the same
                for number in range(RUNS_COUNT):
                    await c.two.get_workflow_handle(f"w{number}").signal(Letters.tell, "end")
                    told = await c.two.get_workflow_handle(f"w{number}", result_type=list[str]).result()
                    assert sorted(told) == ["a", "before", "end"]
                await c.one.get_workflow_handle("chain").signal(Chain.go)
            await c.agree()
            await c.fail_over("c1")
            async with worker(c.two):
                await eventually(lambda: _is_second(c), "the chain's second run")
                await c.two.get_workflow_handle("chain").signal(Chain.go)
                assert await c.one.get_workflow_handle("chain", result_type=str).result() == "done"
            await c.agree()


async def _is_second(c) -> bool:  # type: ignore[no-untyped-def]
    history = await c.one.get_workflow_handle("chain").fetch_history()
    return bool(history.events[0].workflow_execution_started_event_attributes.continued_execution_run_id)
