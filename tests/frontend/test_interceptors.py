"""What stands between a call and its handler."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.workflowservice import v1 as w

from cluster.config import Limits
from cluster.core.errors import CallerError, Code
from cluster.frontend.authorisation import LoopbackOnly, is_loopback
from cluster.frontend.call import Call
from cluster.frontend.call_figures import CallFigures
from cluster.frontend.id_lengths import id_lengths
from cluster.frontend.methods import METHODS
from cluster.frontend.permissions import Permission
from cluster.matching.tasks import TaskKind
from cluster.metrics.exposition import Exposition
from cluster.tokens import Purpose, TaskToken
from tests.frontend.world import World, world


@pytest_asyncio.fixture
async def served() -> AsyncIterator[World]:
    async with world() as made:
        yield made


def token(served: World, namespace: str = "default", kind: TaskKind = TaskKind.ACTIVITY) -> bytes:
    record = served.record(namespace)
    return served.tokens.seal(Purpose.TASK, TaskToken(record.id, "workflow", "run", int(kind), 0, 5))


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details() or ""


# --- tokens -------------------------------------------------------------------------------------------------------------
async def test_a_token_names_the_run_that_history_is_asked_about(served: World) -> None:
    async def completed(request: Any) -> Message:
        return w.RespondActivityTaskCompletedResponse()

    served.history.answers["respond_activity_task_completed"] = completed
    await served.stub.RespondActivityTaskCompleted(w.RespondActivityTaskCompletedRequest(task_token=token(served)), timeout=5)
    verb, workflow_id, opened = served.history.calls[0]
    assert (verb, workflow_id) == ("respond_activity_task_completed", "workflow")
    assert opened is not None and opened.run_id == "run"


async def test_a_token_of_another_namespace_is_refused(served: World) -> None:
    """CVE-2023-3485."""
    request = w.RespondActivityTaskCompletedRequest(namespace="default", task_token=token(served, "other"))
    code, message = await refused(served.stub.RespondActivityTaskCompleted(request, timeout=5))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message == "Operation requested with a token from a different namespace."
    assert served.history.calls == []


async def test_a_token_of_the_other_kind_of_task_is_refused(served: World) -> None:
    request = w.RespondActivityTaskCompletedRequest(task_token=token(served, kind=TaskKind.WORKFLOW))
    assert await refused(served.stub.RespondActivityTaskCompleted(request, timeout=5)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Invalid TaskToken.",
    )


# --- namespaces ----------------------------------------------------------------------------------------------------------
async def test_a_deprecated_namespace_takes_no_new_runs_but_answers_for_old_ones(served: World) -> None:
    await served.namespaces.deprecate("default")
    start = w.StartWorkflowExecutionRequest(namespace="default", workflow_id="w")
    code, message = await refused(served.stub.StartWorkflowExecution(start, timeout=5))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert message == "Namespace has invalid state: Deprecated. Must be Registered."
    await served.stub.ListWorkflowExecutions(w.ListWorkflowExecutionsRequest(namespace="default"), timeout=5)


async def test_a_deleted_namespace_answers_nothing(served: World) -> None:
    deleted = await served.namespaces.delete("default")
    request = w.ListWorkflowExecutionsRequest(namespace=deleted.name)
    code, message = await refused(served.stub.ListWorkflowExecutions(request, timeout=5))
    assert (code, message) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "Namespace has invalid state: Deleted. Must be Registered or Deprecated.",
    )


# --- authorisation -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("peer", "is_allowed"),
    [
        ("ipv4:127.0.0.1:4000", True),
        ("ipv4:127.9.9.9:4000", True),
        ("ipv6:%5B::1%5D:4000", True),
        ("unix:", True),
        ("ipv4:10.0.0.1:4000", False),
        ("ipv4:12.7.0.0:1", False),
        ("ipv6:%5Bfe80::1%5D:4000", False),
        ("", False),
    ],
)
def test_without_security_only_loopback_is_served(peer: str, is_allowed: bool) -> None:
    call = Call("/x/Y", {}, None, peer)
    if is_allowed:
        LoopbackOnly().check(call, "default", Permission.READ)
        return
    with pytest.raises(CallerError) as refusal:
        LoopbackOnly().check(call, "default", Permission.READ)
    assert refusal.value.code is Code.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("example.org", False)],
)
def test_an_address_is_loopback_or_it_is_not(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


# --- limits --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("length", "is_refused"), [(999, False), (1000, False), (1001, True)])
async def test_an_id_may_have_a_thousand_bytes(length: int, is_refused: bool) -> None:
    request = w.RecordActivityTaskHeartbeatByIdRequest(activity_id="a" * length)
    await _lengths(METHODS["RecordActivityTaskHeartbeatById"].name, request, is_refused, "ActivityId length exceeds limit.")


@pytest.mark.parametrize(("length", "is_refused"), [(333, False), (334, True)])
async def test_bytes_count_not_characters(length: int, is_refused: bool) -> None:
    request = w.RecordActivityTaskHeartbeatByIdRequest(workflow_id="\u20ac" * length)  # three bytes each
    await _lengths("RecordActivityTaskHeartbeatById", request, is_refused, "WorkflowId length exceeds limit.")


async def _lengths(name: str, request: Message, is_refused: bool, message: str) -> None:
    async def handler(call: Call, request: Message) -> Message:
        return request

    run = id_lengths(Limits())(METHODS[name], handler)(Call("/x/" + name, {}, None, ""), request)
    if is_refused:
        with pytest.raises(CallerError) as refusal:
            await run
        assert refusal.value.message == message
    else:
        assert await run is request


@pytest.mark.parametrize(("extra", "is_refused"), [(-1, False), (0, False), (1, True)])
async def test_payloads_up_to_the_limit_are_taken(extra: int, is_refused: bool) -> None:
    limits = Limits(payload_bytes_max=10_000)
    payloads = Payloads(payloads=[Payload(data=b"x" * (10_000 - 6 + extra))])  # two tags, two lengths of two bytes
    assert payloads.ByteSize() == limits.payload_bytes_max + extra
    request = w.SignalWorkflowExecutionRequest(namespace="default", signal_name="s", input=payloads)
    request.workflow_execution.workflow_id = "w"
    async with world(limits) as served:
        code, _ = await refused(served.stub.SignalWorkflowExecution(request, timeout=5))
    assert code is (grpc.StatusCode.INVALID_ARGUMENT if is_refused else grpc.StatusCode.NOT_FOUND)


async def test_a_result_that_is_too_large_fails_the_activity(served: World) -> None:
    seen: list[Any] = []

    async def failed(request: Any) -> Message:
        seen.append(request)
        return w.RespondActivityTaskFailedResponse()

    served.history.answers["respond_activity_task_failed"] = failed
    big = Payloads(payloads=[Payload(data=b"x" * (served.limits.payload_bytes_max + 1))])
    request = w.RespondActivityTaskCompletedRequest(task_token=token(served), result=big, identity="me")
    assert await served.stub.RespondActivityTaskCompleted(request, timeout=5) == w.RespondActivityTaskCompletedResponse()
    assert seen[0].failure.message == "Complete result exceeds size limit."
    assert seen[0].failure.server_failure_info.non_retryable
    assert (seen[0].task_token, seen[0].identity) == (request.task_token, "me")


async def test_heartbeat_details_that_are_too_large_fail_the_activity_by_id(served: World) -> None:
    seen: list[Any] = []

    async def failed(request: Any) -> Message:
        seen.append(request)
        return w.RespondActivityTaskFailedByIdResponse()

    served.history.answers["respond_activity_task_failed_by_id"] = failed
    big = Payloads(payloads=[Payload(data=b"x" * (served.limits.payload_bytes_max + 1))])
    request = w.RecordActivityTaskHeartbeatByIdRequest(namespace="default", workflow_id="w", activity_id="a", details=big)
    assert (await served.stub.RecordActivityTaskHeartbeatById(request, timeout=5)).cancel_requested
    assert (seen[0].workflow_id, seen[0].activity_id) == ("w", "a")


# --- defaults ------------------------------------------------------------------------------------------------------------
async def test_what_a_start_leaves_open_is_filled_in(served: World) -> None:
    seen: list[Any] = []

    async def started(request: Any) -> Message:
        seen.append(request)
        return w.StartWorkflowExecutionResponse(run_id="r")

    served.history.answers["start_workflow_execution"] = started
    request = w.StartWorkflowExecutionRequest(namespace="default", workflow_id="w")
    request.workflow_type.name, request.task_queue.name = "T", "q"
    request.retry_policy.initial_interval.seconds = 2
    await served.stub.StartWorkflowExecution(request, timeout=5)
    got = seen[0]
    assert len(got.request_id) == 36
    assert got.retry_policy.backoff_coefficient == 2.0 and got.retry_policy.maximum_interval.seconds == 200
    assert (got.workflow_id_reuse_policy, got.workflow_id_conflict_policy, got.task_queue.kind) == (1, 1, 1)


async def test_a_poll_needs_a_deadline(served: World) -> None:
    request = w.PollWorkflowTaskQueueRequest(namespace="default")
    request.task_queue.name = "q"
    code, message = await refused(served.stub.PollWorkflowTaskQueue(request))
    assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "Context timeout is not set.")
    code, message = await refused(served.stub.PollWorkflowTaskQueue(request, timeout=1))
    assert (code, message) == (grpc.StatusCode.FAILED_PRECONDITION, "Context timeout is too short.")


async def test_a_poll_without_work_comes_home_empty_before_its_deadline(served: World) -> None:
    request = w.PollActivityTaskQueueRequest(namespace="default")
    request.task_queue.name = "q"
    assert await served.stub.PollActivityTaskQueue(request, timeout=2.2) == w.PollActivityTaskQueueResponse()


# --- figures --------------------------------------------------------------------------------------------------------------
async def test_calls_are_counted_under_the_names_of_the_public_server(served: World) -> None:
    await served.stub.ListWorkflowExecutions(w.ListWorkflowExecutionsRequest(namespace="default"), timeout=5)
    await refused(served.stub.ListWorkflowExecutions(w.ListWorkflowExecutionsRequest(namespace="no-such"), timeout=5))
    page = Exposition(served.frontend.figures).page().decode()
    where = 'namespace="default",operation="ListWorkflowExecutions",service_name="frontend"'
    lost = 'namespace="_unknown_",operation="ListWorkflowExecutions",service_name="frontend"'
    assert f"service_requests{{{where}}} 1.0" in page
    assert f"service_errors{{{where}}} 0.0" in page
    assert f"service_errors{{{lost}}} 0.0" in page, "a caller's mistake is no failure of the service"
    assert f'service_error_with_type{{error_type="serviceerror_NotFound",{lost}}} 1.0' in page
    assert 'service_latency_bucket{le="+Inf",namespace="default",operation="ListWorkflowExecutions"' in page
    assert "no-such" not in page


async def test_what_is_not_the_callers_fault_counts_as_an_error_of_the_service(served: World) -> None:
    async def broken(request: Any) -> Message:
        raise RuntimeError("planted")

    served.history.answers["describe_workflow_execution"] = broken
    request = w.DescribeWorkflowExecutionRequest(namespace="default")
    request.execution.workflow_id = "w"
    assert (await refused(served.stub.DescribeWorkflowExecution(request, timeout=5)))[0] is grpc.StatusCode.INTERNAL
    page = Exposition(served.frontend.figures).page().decode()
    where = 'namespace="default",operation="DescribeWorkflowExecution",service_name="frontend"'
    assert f"service_errors{{{where}}} 1.0" in page
    assert f'service_error_with_type{{error_type="serviceerror_Internal",{where}}} 1.0' in page


async def test_a_latency_is_measured_with_the_stopwatch_of_the_node() -> None:
    times = iter((10.0, 10.004))
    figures = CallFigures(lambda: next(times))

    async def handler(call: Call, request: Any) -> Message | bytes:
        return b""

    method = METHODS["GetSystemInfo"]
    await figures.interceptor(method, handler)(Call(method.path, {}, None, ""), w.GetSystemInfoRequest())
    page = Exposition(figures).page().decode()
    where = 'namespace="_unknown_",operation="GetSystemInfo",service_name="frontend"'
    assert f'service_latency_bucket{{le="0.002",{where}}} 0.0' in page
    assert f'service_latency_bucket{{le="0.005",{where}}} 1.0' in page
