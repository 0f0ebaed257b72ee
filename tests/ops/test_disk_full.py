"""A disk that is full under a running server: calls are refused as retryable, and when there is room again it goes on, with all
that it had acknowledged. A limit on the size of files stands for the full disk: both refuse to let a file grow.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from ops.cluster_servers import ClusterServers, NodeServer

RETRYABLE = (RPCStatusCode.UNAVAILABLE, RPCStatusCode.RESOURCE_EXHAUSTED, RPCStatusCode.DEADLINE_EXCEEDED)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NodeServer]:
    servers = ClusterServers(tmp_path, store_url=str(tmp_path / "o.db"), count=1, log_level="error")
    servers.start()
    yield servers.nodes[0]
    servers.kill()


async def started(client: Client, name: str, timeout_s: float = 20.0) -> RPCStatusCode | None:
    """None: acknowledged. The SDK repeats what is retryable until its own time is over, and calls that "Timeout expired"."""
    limit = timedelta(seconds=timeout_s)
    try:
        await client.start_workflow("Waiting", "x" * 20_000, id=name, task_queue="nobody", rpc_timeout=limit)
    except RPCError as error:
        return RPCStatusCode.DEADLINE_EXCEEDED if error.message == "Timeout expired" else error.status
    return None


async def test_a_full_disk_refuses_for_now_and_loses_nothing(server: NodeServer, tmp_path: Path) -> None:
    client = await Client.connect(server.address)
    assert await started(client, "first") is None
    log = tmp_path / "o.db-wal"
    unlimited = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (log.stat().st_size + 100_000, unlimited[1]))
    outcomes = {f"w{number}": await started(client, f"w{number}", timeout_s=3.0) for number in range(7)}
    refusals = [status for status in outcomes.values() if status is not None]
    assert refusals and set(refusals) <= set(RETRYABLE), outcomes
    assert None in outcomes.values(), "the disk was full from the beginning: nothing was shown"
    assert server.alive()
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)
    assert await started(client, "last") is None
    for name in ["first", "last", *(name for name, status in outcomes.items() if status is None)]:
        assert (await client.get_workflow_handle(name).describe()).id == name
    server.stop()
    assert server.exit_code == 0
