"""OperationsPort over a run's public face: what its token, description and last event say (N05, N19, N20)."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType, PendingNexusOperationState, WorkflowExecutionStatus
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse, GetWorkflowExecutionHistoryResponse

from cluster.core.errors import CallerError, Code, not_found
from cluster.namespaces.record import NamespaceRecord
from nexus.operations import WorkflowOperations, workflow_id_of

PAY = NamespaceRecord(id="id-of-pay", name="pay", retention_ns=0, created_at=0)
RUNNING = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING
COMPLETED = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED


def token(**fields: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


TOKEN = token(t=1, ns="pay", wid="w-1")
CLOSES = {
    EventType.Value(f"EVENT_TYPE_WORKFLOW_EXECUTION_{how}")
    for how in ("COMPLETED", "FAILED", "CANCELED", "TERMINATED", "TIMED_OUT", "CONTINUED_AS_NEW")
}


class History:
    """One workflow id; its runs, each with its events; the last one is current."""

    def __init__(self) -> None:
        self.runs: dict[str, list[HistoryEvent]] = {"r1": [HistoryEvent(event_id=1)]}
        self.described = DescribeWorkflowExecutionResponse()
        self.described.workflow_execution_info.start_time.FromSeconds(5)
        self.changed = asyncio.Event()
        self.asked: list[str] = []

    def close(self, event: HistoryEvent, successor: str = "") -> None:
        self.runs[list(self.runs)[-1]].append(event)
        if successor:
            self.runs[successor] = [HistoryEvent(event_id=1)]
        self.changed.set()

    async def invoke(self, verb: str, namespace: NamespaceRecord, workflow_id: str, request: Message) -> Message | bytes:
        assert workflow_id in ("w-1", "w-2") and request.namespace == "pay"  # type: ignore[attr-defined]
        if workflow_id == "w-2":
            raise not_found("workflow not found")
        self.asked.append(verb)
        run_id = request.execution.run_id or list(self.runs)[-1]  # type: ignore[attr-defined]
        events = self.runs[run_id]
        is_closed = events[-1].event_type in CLOSES
        if verb == "describe_workflow_execution":
            info = self.described.workflow_execution_info
            info.status = COMPLETED if is_closed else RUNNING
            info.history_length = len(events)
            info.execution.workflow_id, info.execution.run_id = workflow_id, run_id
            return self.described
        if request.wait_new_event:  # type: ignore[attr-defined]
            await self.changed.wait()
            self.changed.clear()
        answer = GetWorkflowExecutionHistoryResponse()
        answer.history.events.extend(events[-1:] if is_closed else [])
        return answer.SerializeToString()  # as history does


def completed(data: bytes) -> HistoryEvent:
    event = HistoryEvent(event_id=9, event_type=EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED)
    event.workflow_execution_completed_event_attributes.result.payloads.append(Payload(data=data))
    return event


async def test_a_running_operation_tells_its_attempts_and_its_handlers_run() -> None:
    history = History()
    pending = history.described.pending_activities.add()
    pending.attempt, pending.last_failure.message = 4, "bank is closed"
    callback = history.described.callbacks.add().callback.links.add().workflow_event
    callback.namespace, callback.workflow_id, callback.run_id = "orders", "caller", "r"
    info = await WorkflowOperations(history).info(PAY, TOKEN)
    assert (info.state, info.attempt, info.last_failure) == ("running", 4, "bank is closed")
    assert info.progress["events"] == 1 and info.started_at == 5 * 10**9
    assert [link.url.split("/history")[0] for link in info.links] == [
        "temporal:///namespaces/pay/workflows/w-1/r1", "temporal:///namespaces/orders/workflows/caller/r",
    ]  # fmt: skip


async def test_a_wait_ends_with_the_result() -> None:
    history = History()
    waiting = asyncio.create_task(WorkflowOperations(history).wait(PAY, TOKEN, 0, 30.0))
    while "get_workflow_execution_history" not in history.asked:
        await asyncio.sleep(0)
    history.close(completed(b"42"))
    info = await waiting
    assert info.state == "succeeded" and info.result is not None and info.result.data == b"42"


async def test_a_wait_follows_a_run_that_continues_as_new() -> None:
    history = History()
    waiting = asyncio.create_task(WorkflowOperations(history).wait(PAY, TOKEN, 0, 30.0))
    while "get_workflow_execution_history" not in history.asked:
        await asyncio.sleep(0)
    history.close(HistoryEvent(event_id=9, event_type=EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW), "r2")
    while history.asked.count("get_workflow_execution_history") < 2:
        await asyncio.sleep(0)
    assert not waiting.done()
    history.close(completed(b"end"))
    info = await waiting
    assert info.result is not None and info.result.data == b"end" and "/r2/" in info.links[0].url


async def test_a_wait_is_over_when_its_time_is() -> None:
    assert (await WorkflowOperations(History()).wait(PAY, TOKEN, 0, 0.02)).state == "running"
    assert (await WorkflowOperations(History()).wait(PAY, TOKEN, 1, 0.02)).state == "running"
    assert (await WorkflowOperations(History()).wait(PAY, TOKEN, 0, 0.0)).state == "running"


@pytest.mark.parametrize(
    ("kind", "state", "message"),
    [
        (EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED, "failed", "operation terminated"),
        (EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT, "failed", "operation exceeded internal timeout"),
        (EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED, "canceled", "operation canceled"),
        (EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED, "failed", ""),
    ],
)
async def test_each_end_of_a_run_is_an_end_of_its_operation(kind: EventType.ValueType, state: str, message: str) -> None:
    history = History()
    history.close(HistoryEvent(event_id=9, event_type=kind))
    info = await WorkflowOperations(history).info(PAY, TOKEN)
    assert info.state == state and info.failure is not None and info.failure.message == message


DEEP = base64.b64encode(b"[" * 4_000).decode()


@pytest.mark.parametrize(
    "bad", ["", "manual-token", token(t=2, ns="pay", wid="w-1"), token(t=1, ns="pay"), token(t=1, ns="pay", wid=7), DEEP, "é"]
)
def test_a_token_that_names_no_workflow_is_told_by_callback_only(bad: str) -> None:
    with pytest.raises(CallerError) as caught:
        workflow_id_of(bad, "pay")
    assert caught.value.code is Code.UNIMPLEMENTED


def test_a_token_of_another_namespace_finds_nothing() -> None:
    with pytest.raises(CallerError) as caught:
        workflow_id_of(token(t=1, ns="ship", wid="w-1"), "pay")
    assert caught.value.code is Code.NOT_FOUND
    assert workflow_id_of(TOKEN, "pay") == "w-1"


async def test_the_operations_of_a_caller_are_folded_from_its_history() -> None:
    history = History()
    events = history.runs["r1"]
    for event_id in (2, 3, 4):
        event = HistoryEvent(event_id=event_id, event_type=EventType.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED)
        event.nexus_operation_scheduled_event_attributes.endpoint = "payments"
        event.nexus_operation_scheduled_event_attributes.operation = f"op-{event_id}"
        events.append(event)
    started = HistoryEvent(event_id=5, event_type=EventType.EVENT_TYPE_NEXUS_OPERATION_STARTED)
    started.nexus_operation_started_event_attributes.scheduled_event_id = 2
    started.nexus_operation_started_event_attributes.operation_token = "tok"
    link = started.links.add().workflow_event
    link.namespace, link.workflow_id, link.run_id = "pay", "handler", "hr"
    failed = HistoryEvent(event_id=6, event_type=EventType.EVENT_TYPE_NEXUS_OPERATION_FAILED)
    failed.nexus_operation_failed_event_attributes.scheduled_event_id = 3
    failed.nexus_operation_failed_event_attributes.failure.cause.message = "no money"
    events += [started, failed]
    pending = history.described.pending_nexus_operations.add()
    pending.scheduled_event_id, pending.attempt, pending.blocked_reason = 4, 6, "The circuit breaker is open."
    pending.state = PendingNexusOperationState.PENDING_NEXUS_OPERATION_STATE_BLOCKED

    async def whole(verb: str, namespace: NamespaceRecord, workflow_id: str, request: Message) -> Message | bytes:
        if verb == "describe_workflow_execution":
            return await History.invoke(history, verb, namespace, workflow_id, request)
        answer = GetWorkflowExecutionHistoryResponse()
        first = 3 if request.next_page_token else 0  # type: ignore[attr-defined]
        answer.history.events.extend(events[first : first + 3] if not first else events[first:])
        answer.next_page_token = b"" if first else b"more"
        return answer

    history.invoke = whole  # type: ignore[method-assign]
    found = await WorkflowOperations(history).of_caller(PAY, "w-1", "", 10)
    assert [(one.operation, one.state, one.token, one.last_failure) for one in found] == [
        ("op-4", "blocked", "", ""), ("op-3", "failed", "", "no money"), ("op-2", "started", "tok", ""),
    ]  # fmt: skip
    assert found[0].attempt == 6 and found[0].blocked_reason == "The circuit breaker is open."
    assert [link.url.split("/history")[0][-9:] for link in found[2].links] == ["ws/w-1/r1", "andler/hr"]
    assert len(await WorkflowOperations(history).of_caller(PAY, "w-1", "", 2)) == 2
