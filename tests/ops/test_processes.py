"""`outlast server --processes N`: one port, one ready line, one end; a process that dies is replaced, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from temporalio.client import Client, WorkflowHandle
from typer.testing import CliRunner

from cluster.config import Limits
from cluster.membership.members import NodeInfo, NodeState
from cluster.node_config import NodeConfig, StoreConfig, WireConfig
from ops.cli import child_messages as messages
from ops.cli import processes
from ops.cli.cluster import app as cluster
from ops.cli.exit_codes import EXIT_OK
from ops.cluster_servers import ClusterServers, NodeServer
from ops.region.settings import LogSection
from ops.servers import process_alive

PROCESSES = 2
SHARDS = 6
WELL_S = 40.0


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_well(server: NodeServer) -> bool:
    return CliRunner().invoke(cluster, ["status", "--address", server.http_address, "--wait-s", str(WELL_S)]).exit_code == 0


def until(condition: Callable[[], bool], timeout_s: float = WELL_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.05)


def node_ids(server: NodeServer) -> list[str]:
    return [node["node_id"] for node in server.cluster_page()["nodes"]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NodeServer]:
    servers = ClusterServers(
        tmp_path, store_url=str(tmp_path / "o.db"), count=1, shards=SHARDS, settings={"processes": PROCESSES}
    )
    servers.start()
    yield servers.nodes[0]
    servers.kill()


async def start_workflows(client: Client, ids: list[str]) -> list[WorkflowHandle[object, object]]:
    return [await client.start_workflow("Waiting", id=name, task_queue="nobody") for name in ids]


# --- as one server ---
async def test_any_connection_reaches_every_workflow_and_a_killed_process_is_replaced(server: NodeServer) -> None:
    assert server.log.read_text().count("Outlast ready") == 1
    assert await asyncio.to_thread(is_well, server)
    assert len({row["node"] for row in server.cluster_page()["shards"]}) == PROCESSES
    ids = [f"w{number}" for number in range(3 * SHARDS)]
    # A connection stays with one process: several of them are likely to meet each.
    clients = [await Client.connect(server.address, lazy=True) for _ in range(6)]
    await start_workflows(clients[0], ids)
    for client in clients:
        for name in ids:
            assert (await client.get_workflow_handle(name).describe()).status is not None
    victim = children(server.pid)[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in children(server.pid) and len(children(server.pid)) == PROCESSES)
    until(lambda: len(node_ids(server)) == PROCESSES)
    assert await asyncio.to_thread(is_well, server)
    again = await Client.connect(server.address)
    for name in ids:
        assert (await again.get_workflow_handle(name).describe()).raw_description.workflow_execution_info.history_length >= 2
    await start_workflows(again, ["after"])


def test_a_stop_ends_all_of_them_at_once_and_no_shard_moves_for_it(server: NodeServer) -> None:
    assert is_well(server)
    pids = children(server.pid)
    began = time.monotonic()
    server.stop()
    assert server.exit_code == EXIT_OK and time.monotonic() - began < 10
    assert not [pid for pid in pids if process_alive(pid)]
    assert "fenced" not in server.log.read_text()


def test_processes_die_with_a_killed_supervisor_and_the_next_one_takes_over(server: NodeServer) -> None:
    pids = children(server.pid)
    server.kill()
    until(lambda: not any(process_alive(pid) for pid in pids), timeout_s=5)
    server.restart()
    assert is_well(server)


def test_a_process_that_is_asked_to_leave_hands_over_and_stays_away(server: NodeServer) -> None:
    assert is_well(server)
    leaver = children(server.pid)[1]
    os.kill(leaver, signal.SIGTERM)
    until(lambda: len(children(server.pid)) == PROCESSES - 1)
    assert is_well(server) and len(node_ids(server)) == PROCESSES - 1
    for pid in children(server.pid):
        os.kill(pid, signal.SIGTERM)
    assert server.wait_ended(WELL_S) == EXIT_OK


# --- the supervisor by itself ---
async def test_a_process_that_stands_still_is_killed_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PING_S", 0.5)
    config = NodeConfig(port=0, http_port=0, node_id="still", store=StoreConfig(kind="sqlite", url=str(tmp_path / "o.db")))
    supervisor = processes.Supervisor(config, 2, LogSection(level="error"))
    running = asyncio.create_task(supervisor.run())
    async with asyncio.timeout(3 * WELL_S):
        while not supervisor._has_served:
            await asyncio.sleep(0.02)
        victim = supervisor._children[1]
        victim.process.send_signal(signal.SIGSTOP)
        while supervisor._children[1] is victim or not supervisor._children[1].is_serving:
            await asyncio.sleep(0.02)
        assert {node.state for node in supervisor._table.values()} == {NodeState.READY} and len(supervisor._table) == 2
        supervisor._stop.set()
        assert await running == EXIT_OK


async def test_a_supervisor_whose_pings_have_failed_does_not_go_on_as_if_it_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(processes.Supervisor, "_ping", fail)
    config = NodeConfig(port=0, http_port=0, store=StoreConfig(kind="sqlite", url=str(tmp_path / "o.db")))
    with pytest.raises(ZeroDivisionError):
        await processes.Supervisor(config, 2, LogSection(level="error")).run()


def test_what_a_node_is_told_arrives_unchanged() -> None:
    node = NodeInfo("a", "127.0.0.1:1", ("history",), "z", "1", 4, "c", 5, "i", NodeState.READY)
    store = StoreConfig(kind="postgres", url="postgresql://u:p@h/d", is_shared=True)
    config = NodeConfig(store=store, wire=WireConfig(), limits=Limits(id_bytes_max=9))
    start = messages.Start(config, "info", "json", 7)
    for kinds, message in (
        (messages.ToNode, start), (messages.ToNode, messages.Members((node,))), (messages.ToNode, messages.Stop()),
        (messages.ToSupervisor, messages.Joining(node)), (messages.ToSupervisor, messages.Changed(NodeState.LEAVING)),
        (messages.ToSupervisor, messages.Refused("no", 4)), (messages.ToSupervisor, messages.Serving(1, 2, 3, 4.0)),
    ):  # fmt: skip
        line = messages.encode(message)
        assert line.count(b"\n") == 1 and msgspec.json.decode(line, type=kinds) == message


async def test_a_line_that_was_cut_off_by_a_kill_ends_the_messages() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(messages.encode(messages.Ping()) + b'{"kind": "sto')
    reader.feed_eof()
    assert [message async for message in messages.decoded(reader, messages.ToNode)] == [messages.Ping()]
