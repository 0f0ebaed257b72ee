"""Three `outlast server` processes on PostgreSQL and etcd: what `outlast cluster` says of them, and how nodes come and go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client
from typer.testing import CliRunner, Result

from ops.cli.cluster import app
from ops.cli.exit_codes import EXIT_CLUSTER, EXIT_FAILED, EXIT_OK
from ops.cluster_servers import ClusterServers, NodeServer, _merged, _store
from ops.services.databases import engine_server, fresh_database
from ops.services.etcd import EtcdServer

pytestmark = pytest.mark.postgres

RUNNER = CliRunner()
SHARDS = 6
WELL_S = 25.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServers]:
    folder = tmp_path_factory.mktemp("cluster")
    etcd = EtcdServer(folder / "etcd").start()
    with engine_server("postgres") as postgres:
        url = fresh_database("postgres", postgres, folder).url()
        # Nodes come and go here more often than they should: they are not held back for it.
        etcd_settings = {"lease_ttl_s": 3, "call_timeout_s": 1, "flapping": {"free_joins": 100}}
        servers = ClusterServers(
            folder / "nodes", store_url=url, etcd_endpoints=[etcd.endpoint], shards=SHARDS, zones="abc",
            settings={"etcd": etcd_settings},
        )  # fmt: skip
        servers.start()
        yield servers
        servers.kill()
        etcd.kill()


def ask(command: str, node: NodeServer, *more: str) -> Result:
    return RUNNER.invoke(app, [command, "--address", node.http_address, *more], terminal_width=200)


def well(node: NodeServer) -> dict[str, Any]:
    """Waits until all is well; the page."""
    told = ask("status", node, "--wait-s", str(WELL_S))
    assert told.exit_code == EXIT_OK, told.output
    return node.cluster_page()


def drain(node_id: str, cluster: ClusterServers) -> Result:
    return RUNNER.invoke(app, ["drain", node_id, "--config", str(cluster.nodes[0].settings_file), "--timeout-s", "40"])


def test_every_node_tells_the_same_of_the_cluster(cluster: ClusterServers) -> None:
    pages = [well(node) for node in cluster.nodes]
    assert len({json.dumps(page["ring"]) for page in pages}) == 1
    assert [node["zone"] for node in pages[0]["nodes"]] == ["a", "b", "c"]
    assert {node["address"] for node in pages[0]["nodes"]} == {node.wire_address for node in cluster.nodes}
    for node in cluster.nodes:
        assert json.loads(ask("ring", node, "--output", "json").output)["ring"] == pages[0]["ring"]
        told = json.loads(ask("shards", node, "--output", "json").output)["shards"]
        assert {(row["shard"], row["node"]) for row in told} == set(enumerate(pages[0]["ring"]))


async def test_a_workflow_is_reached_through_every_node(cluster: ClusterServers) -> None:
    clients = [await Client.connect(address) for address in cluster.addresses]
    for number in range(2 * SHARDS):
        await clients[number % 3].start_workflow("Waiting", id=f"w{number}", task_queue="nobody")
    for client in clients:
        for number in range(2 * SHARDS):
            assert (await client.get_workflow_handle(f"w{number}").describe()).id == f"w{number}"


def test_a_drained_node_hands_over_leaves_and_ends_with_zero(cluster: ClusterServers) -> None:
    before = well(cluster.nodes[0])["ring"]
    told = drain("node-2", cluster)
    assert told.exit_code == EXIT_OK and told.output.splitlines()[-1] == "node-2: has left"
    assert cluster.nodes[2].wait_ended(WELL_S) == EXIT_OK
    after = well(cluster.nodes[0])["ring"]
    assert "node-2" not in after
    assert [new for old, new in zip(before, after, strict=True) if old != "node-2"] == [old for old in before if old != "node-2"]
    cluster.nodes[2].restart()
    assert well(cluster.nodes[1])["ring"] == before


def test_a_killed_node_is_replaced_and_is_told_of_until_then(cluster: ClusterServers) -> None:
    well(cluster.nodes[0])
    cluster.nodes[1].kill()
    told = ask("status", cluster.nodes[0])
    assert told.exit_code == EXIT_FAILED and "node node-1 does not answer" in told.output
    assert ask("status", cluster.nodes[0], "--only-node").exit_code == EXIT_OK
    assert "node-1" not in well(cluster.nodes[0])["ring"]
    cluster.nodes[1].restart()
    assert "node-1" in well(cluster.nodes[2])["ring"]


def test_a_paused_node_loses_its_shards_and_comes_back(cluster: ClusterServers) -> None:
    well(cluster.nodes[0])
    cluster.nodes[1].pause()
    assert cluster.nodes[1].alive() and "node-1" not in well(cluster.nodes[0])["ring"]
    cluster.nodes[1].resume()
    page = well(cluster.nodes[0])
    while "node-1" not in page["ring"]:  # `well` is also true before its return is seen
        page = well(cluster.nodes[0])
    assert cluster.nodes[1].alive()


def test_a_node_that_is_added_takes_only_its_share(cluster: ClusterServers) -> None:
    before = well(cluster.nodes[0])["ring"]
    added = cluster.add()
    after = well(added)["ring"]
    assert {new for old, new in zip(before, after, strict=True) if old != new} <= {added.node_id}
    assert drain(added.node_id, cluster).exit_code == EXIT_OK
    assert well(cluster.nodes[0])["ring"] == before


def test_a_drain_that_cannot_be_says_why(cluster: ClusterServers, tmp_path: Path) -> None:
    told = drain("node-9", cluster)
    assert told.exit_code == EXIT_CLUSTER and "there is no node node-9; members are node-0, node-1, node-2" in told.stderr
    alone = tmp_path / "alone.yaml"
    alone.write_text("store: {kind: memory}")
    told = RUNNER.invoke(app, ["drain", "node-0", "--config", str(alone)])
    assert told.exit_code == EXIT_CLUSTER and "no etcd" in told.stderr


async def test_nodes_stop_one_after_the_other_while_a_client_calls(cluster: ClusterServers) -> None:
    """What is stopped last has all shards; nobody is told that a workflow does not exist."""
    await asyncio.to_thread(well, cluster.nodes[0])
    client = await Client.connect(cluster.nodes[0].address)
    await client.start_workflow("Waiting", id="last", task_queue="nobody")
    for node in (cluster.nodes[2], cluster.nodes[1]):
        stopping = asyncio.create_task(asyncio.to_thread(node.stop))
        while not stopping.done():
            assert (await client.get_workflow_handle("last").describe()).id == "last"
        await stopping
        assert node.exit_code == EXIT_OK
    assert set((await asyncio.to_thread(well, cluster.nodes[0]))["ring"]) == {"node-0"}
    told = await asyncio.to_thread(drain, "node-0", cluster)
    assert told.exit_code == EXIT_FAILED and "no other node is ready" in told.stderr
    await asyncio.to_thread(cluster.stop)
    assert cluster.nodes[0].exit_code == EXIT_OK


def test_a_url_says_which_kind_of_store_it_is_and_settings_are_merged_by_section() -> None:
    assert _store("postgresql://h/d")["kind"] == "postgres" and _store("mysql://h/d")["kind"] == "mysql"
    assert _store("cassandra://h/k")["kind"] == "cassandra" and _store("/a.db") == {"kind": "sqlite", "url": "/a.db"}
    assert _store("") == _store(":memory:") == {"kind": "memory"}
    assert _merged({"etcd": {"a": 1, "b": 2}, "c": 3}, {"etcd": {"b": 4}}) == {"etcd": {"a": 1, "b": 4}, "c": 3}
