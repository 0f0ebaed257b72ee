"""The limits that the frontend alone enforces, each one below, exactly, and one above."""

from __future__ import annotations

from typing import Any

import grpc
import msgspec
import pytest
from temporalio.api.common.v1 import Callback, Link
from temporalio.api.workflowservice import v1 as w

from cluster.config import Limits
from cluster.visibility.base import VisibilityRow
from tests.frontend.world import World, world

# What the stand-in for history says to a request that got through to it.
ARRIVED = (grpc.StatusCode.NOT_FOUND, "workflow not found for ID: w")


def link(link_bytes: int = 0) -> Link:
    made = Link(workflow_event=Link.WorkflowEvent(namespace="default", workflow_id="w", run_id="r"))
    made.workflow_event.run_id = "r" * (1 + max(0, link_bytes - made.ByteSize() - 4))  # lengths above 127 take two bytes
    while made.ByteSize() < link_bytes:
        made.workflow_event.run_id += "r"
    assert not link_bytes or made.ByteSize() == link_bytes
    return made


def start(**fields: Any) -> w.StartWorkflowExecutionRequest:
    request = w.StartWorkflowExecutionRequest(namespace="default", workflow_id="w", **fields)
    request.workflow_type.name, request.task_queue.name = "W", "q"
    return request


def signal(**fields: Any) -> w.SignalWorkflowExecutionRequest:
    request = w.SignalWorkflowExecutionRequest(namespace="default", signal_name="s", **fields)
    request.workflow_execution.workflow_id = "w"
    return request


async def answer_to(served: World, name: str, request: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await getattr(served.stub, name)(request, timeout=5)
    return error.value.code(), error.value.details() or ""


@pytest.mark.parametrize(("count", "is_taken"), [(9, True), (10, True), (11, False)])
async def test_a_request_carries_at_most_ten_links(count: int, is_taken: bool) -> None:
    refusal = (grpc.StatusCode.INVALID_ARGUMENT, "cannot attach more than 10 links per request, got 11")
    links = [link() for _ in range(count)]
    by_callback = Callback(nexus=Callback.Nexus(url="http://back"), links=links[1:])
    async with world() as served:
        for name, request in (
            ("SignalWorkflowExecution", signal(links=links)),
            ("StartWorkflowExecution", start(links=links)),
            ("StartWorkflowExecution", start(links=links[:1], completion_callbacks=[by_callback])),
        ):
            assert await answer_to(served, name, request) == (ARRIVED if is_taken else refusal)


@pytest.mark.parametrize(("size", "is_taken"), [(3_999, True), (4_000, True), (4_001, False)])
async def test_a_link_has_at_most_four_thousand_bytes(size: int, is_taken: bool) -> None:
    refusal = (grpc.StatusCode.INVALID_ARGUMENT, "link exceeds allowed size of 4000, got 4001")
    async with world() as served:
        answer = await answer_to(served, "SignalWorkflowExecution", signal(links=[link(size)]))
    assert answer == (ARRIVED if is_taken else refusal)


@pytest.mark.parametrize(("count", "is_taken"), [(31, True), (32, True), (33, False)])
async def test_a_start_carries_at_most_thirty_two_callbacks(count: int, is_taken: bool) -> None:
    refusal = (grpc.StatusCode.INVALID_ARGUMENT, "cannot attach more than 32 callbacks to a workflow")
    callbacks = [Callback(nexus=Callback.Nexus(url=f"http://back/{number}")) for number in range(count)]
    async with world() as served:
        answer = await answer_to(served, "StartWorkflowExecution", start(completion_callbacks=callbacks))
    assert answer == (ARRIVED if is_taken else refusal)


@pytest.mark.parametrize("field", ["workflow_id", "request_id", "identity", "workflow_type", "task_queue"])
@pytest.mark.parametrize(("length", "is_taken"), [(999, True), (1_000, True), (1_001, False)])
async def test_the_names_of_a_start_have_at_most_a_thousand_bytes(field: str, length: int, is_taken: bool) -> None:
    request = start()
    if field in ("workflow_type", "task_queue"):
        getattr(request, field).name = "n" * length
    else:
        setattr(request, field, "n" * length)
    async with world() as served:
        code, _ = await answer_to(served, "StartWorkflowExecution", request)
    assert code is (grpc.StatusCode.NOT_FOUND if is_taken else grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize(("asked", "given"), [(255, 255), (256, 256), (257, 256), (0, 256), (-1, 256)])
async def test_a_page_of_history_is_never_longer_than_the_limit(asked: int, given: int) -> None:
    seen: list[int] = []

    async def read(request: Any) -> Any:
        seen.append(request.maximum_page_size)
        return w.GetWorkflowExecutionHistoryResponse()

    async with world() as served:
        served.history.answers["get_workflow_execution_history"] = read
        request = w.GetWorkflowExecutionHistoryRequest(namespace="default", maximum_page_size=asked)
        request.execution.workflow_id = "w"
        await served.stub.GetWorkflowExecutionHistory(request, timeout=5)
    assert seen == [given]


@pytest.mark.parametrize(("asked", "given"), [(2, 2), (3, 3), (4, 3), (0, 3)])
async def test_a_page_of_a_list_is_never_longer_than_the_limit(asked: int, given: int) -> None:
    async with world(Limits(visibility_page_rows_max=3)) as served:
        one = VisibilityRow(
            namespace_id=served.record().id, workflow_id="w", run_id="", workflow_type="W", status=1, start_time=1, position=1
        )
        await served.visibility.upsert([msgspec.structs.replace(one, run_id=f"r{number}") for number in range(5)])
        request = w.ListWorkflowExecutionsRequest(namespace="default", page_size=asked)
        page = await served.stub.ListWorkflowExecutions(request, timeout=5)
    assert len(page.executions) == given and page.next_page_token
