"""A region of two node processes, configured by files, with a witness: the node that is asked gathers from both."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from ops.cli.dev_linking import link_regions
from ops.cluster_servers import ClusterServers, NodeServer

OUTLAST = str(Path(sys.executable).with_name("outlast"))
READY_S = 60.0


def region(directory: Path, name: str, version: int, shards: int, **settings: Any) -> ClusterServers:
    witness = {"witness_store": {"url": str(directory / "witness.db")}, "lease_ttl_s": 4, "automatic": {"failing_s": 2}}
    wanted = {"cluster_name": name, "initial_failover_version": version, "regions": witness, **settings}
    store = str(directory / name / "outlast.db")
    return ClusterServers(directory / name, store_url=store, count=1, shards=shards, settings=wanted)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeServer, NodeServer]]:
    directory = tmp_path_factory.mktemp("processes")
    one, two = region(directory, "one", 1, 12, processes=2), region(directory, "two", 2, 3, namespaces=[])
    try:
        one.start()
        two.start()
        first, second = one.nodes[0], two.nodes[0]
        asyncio.run(link_regions({"one": first.address, "two": second.address}, ["default"]))
        yield first, second
    finally:
        for cluster in (one, two):
            cluster.stop()


def asked(node: NodeServer, *words: str) -> Any:
    command = [OUTLAST, *words, "--address", node.http_address, "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_lag_is_gathered_from_all_nodes_of_a_region(pair: tuple[NodeServer, NodeServer]) -> None:
    first, _ = pair
    page = asked(first, "region", "status", "--wait-s", "30")
    assert {row["shard"] for row in page["shards"]} == set(range(12))
    assert len({row["node"] for row in page["shards"]}) == 2, "two processes have shards, and one of them was asked"
    assert page["unreachable"] == {} and page["regions"][0]["name"] == "two"


def test_a_failover_waits_for_all_nodes_and_any_of_them_may_be_asked(pair: tuple[NodeServer, NodeServer]) -> None:
    first, second = pair

    async def start(count: int) -> None:
        client = await Client.connect(first.address)
        await asyncio.gather(*(client.start_workflow("W", id=f"w{number}", task_queue="q") for number in range(count)))

    asyncio.run(start(40))
    for asking, to, before in ((first, "two", "one"), (first, "one", "two"), (second, "two", "one"), (second, "one", "two")):
        until_owned(asking, before)
        (moved,) = asked(asking, "failover", "run", "default", "--to", to, "--timeout-s", "30")
        assert moved["is_done"] and moved["events_behind"] == 0, moved
    until_equal(first)
    assert asked(second, "region", "verify", "default")[0]["runs_there"] == 40
    assert asked(first, "region", "conflicts") == [] and asked(first, "ledger", "--summary")["lines"] == 0


def until_owned(node: NodeServer, region: str) -> None:
    deadline = time.monotonic() + READY_S
    while asked(node, "failover", "status")["namespaces"][0]["active"] != region:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def until_equal(node: NodeServer) -> None:
    deadline = time.monotonic() + READY_S
    command = [OUTLAST, "region", "verify", "default", "--address", node.http_address]
    while subprocess.run(command, capture_output=True, check=False, timeout=120).returncode != 0:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_leases_are_the_leading_nodes(pair: tuple[NodeServer, NodeServer]) -> None:
    first, _ = pair
    page = asked(first, "failover", "status")
    assert page["has_witness"] and page["leading_node"] and page["lease_held_s"] > 0 and page["regions"] == {"two": "watching"}
