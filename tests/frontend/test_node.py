"""A whole node in this process, on a file, with the official client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import temporalio.client
import temporalio.service
from temporalio.api.operatorservice.v1 import DeleteNamespaceRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice import v1 as w

from cluster.frontend.cluster_identity import ShardCountDiffers
from cluster.node import DatabaseInUse, Node, NodeConfig
from tests.frontend.bad_requests import CASES
from tests.frontend.record_bad_requests import describe_error
from tests.frontend.test_bad_requests import EXPECTED


@asynccontextmanager
async def running(path: Path, **changes: Any) -> AsyncIterator[tuple[Node, temporalio.client.Client]]:
    node = Node(NodeConfig(port=0, http_port=0, db=str(path / "outlast.db"), **changes))
    await node.start()
    try:
        yield node, await temporalio.client.Client.connect(f"127.0.0.1:{node.port}")
    finally:
        await node.drain()
        await node.close()
    assert not node.failed.is_set()


async def until(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.05)


async def test_an_acknowledged_start_is_there_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        handle = await client.start_workflow("Type", id="kept", task_queue="q")
    async with running(tmp_path) as (_, client):
        found = await client.get_workflow_handle("kept").describe()
        assert (found.run_id, found.status) == (handle.result_run_id, temporalio.client.WorkflowExecutionStatus.RUNNING)


async def test_a_token_is_good_after_a_restart(tmp_path: Path) -> None:
    poll = w.PollWorkflowTaskQueueRequest(namespace="default", identity="test")
    poll.task_queue.name = "q"
    async with running(tmp_path) as (_, client):
        await client.start_workflow("Type", id="kept", task_queue="q")
        task = await client.workflow_service.poll_workflow_task_queue(poll)
        assert task.workflow_execution.workflow_id == "kept"
    async with running(tmp_path) as (_, client):
        await client.workflow_service.respond_workflow_task_completed(
            w.RespondWorkflowTaskCompletedRequest(task_token=task.task_token, identity="test")
        )


async def test_namespaces_and_search_attributes_of_the_command_line_are_made_once(tmp_path: Path) -> None:
    options: dict[str, Any] = {"namespaces": ("default", "extra"), "search_attributes": {"Colour": 2}}
    for _ in range(2):
        async with running(tmp_path, **options) as (node, client):
            record = node.namespaces.cached("extra")
            assert record is not None and record.custom_search_attributes == {"Colour": 2}
            listed = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace="extra"))
            assert dict(listed.custom_attributes) == {"Colour": 2}


async def test_a_deleted_namespace_loses_its_runs_and_then_its_name(tmp_path: Path) -> None:
    async with running(tmp_path, namespaces=("default", "extra")) as (node, client):
        extra = await temporalio.client.Client.connect(f"127.0.0.1:{node.port}", namespace="extra")
        for number in range(3):
            await extra.start_workflow("Type", id=f"w{number}", task_queue="q")
        kept = await client.start_workflow("Type", id="w0", task_queue="q")
        deleted = await client.operator_service.delete_namespace(DeleteNamespaceRequest(namespace="extra"))
        assert deleted.deleted_namespace.startswith("extra-deleted-")
        with pytest.raises(temporalio.service.RPCError) as refusal:
            await extra.get_workflow_handle("w1").describe()
        assert refusal.value.status is temporalio.service.RPCStatusCode.NOT_FOUND
        await until(lambda: node.namespaces.cached(deleted.deleted_namespace) is None)
        assert (await kept.describe()).status is temporalio.client.WorkflowExecutionStatus.RUNNING


async def test_one_process_per_database(tmp_path: Path) -> None:
    async with running(tmp_path):
        with pytest.raises(DatabaseInUse):
            await Node(NodeConfig(port=0, http_port=0, db=str(tmp_path / "outlast.db"))).start()


async def test_a_node_that_cannot_start_leaves_nothing_open(tmp_path: Path) -> None:
    async with running(tmp_path, shards=2):
        pass
    with pytest.raises(ShardCountDiffers):
        await Node(NodeConfig(port=0, http_port=0, db=str(tmp_path / "outlast.db"), shards=3)).start()
    async with running(tmp_path):
        pass


async def test_the_whole_node_answers_every_bad_request_as_the_public_server_does(tmp_path: Path) -> None:
    import grpc
    from temporalio.api.operatorservice.v1 import OperatorServiceStub
    from temporalio.api.workflowservice.v1 import WorkflowServiceStub

    from tests.frontend.bad_requests import OPERATOR_RPCS

    wrong = {}
    async with running(tmp_path) as (node, _), grpc.aio.insecure_channel(f"127.0.0.1:{node.port}") as opened:
        channel: Any = opened
        stubs: dict[bool, Any] = {True: OperatorServiceStub(channel), False: WorkflowServiceStub(channel)}
        for case in CASES:
            try:
                await getattr(stubs[case.rpc in OPERATOR_RPCS], case.rpc)(case.request, timeout=5)
                got: dict[str, Any] = {"code": "OK"}
            except grpc.aio.AioRpcError as error:
                got = describe_error(error)
            if got != EXPECTED[case.name]:
                wrong[case.name] = (got, EXPECTED[case.name])
    assert wrong == {}
