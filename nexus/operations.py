"""Operations that a workflow stands for, looked at from outside: OperationsPort over the calls that any client has.

The token of the official SDKs' handlers is base64url of {"t": 1, "ns": namespace, "wid": workflow id}. The operation is what
became of the workflow: a run that continued as new, was retried or reset goes on in the next one, which is then the current one.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from typing import Any, TypeVar

from temporalio.api.common.v1 import Link as CommonLink
from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.enums.v1 import EventType, HistoryEventFilterType, WorkflowExecutionStatus
from temporalio.api.failure.v1 import CanceledFailureInfo, Failure, TerminatedFailureInfo, TimeoutFailureInfo
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.nexus.v1 import Link
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    DescribeWorkflowExecutionResponse,
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryResponse,
)

from cluster.core.errors import CallerError, Code, not_found, unimplemented
from cluster.namespaces.record import NamespaceRecord
from cluster.nexus.links import nexus_link
from nexus.ports import CallerOperation, HistoryPort, OperationInfo
from nexus.run_operations import fold_operations

M = TypeVar("M", DescribeWorkflowExecutionResponse, GetWorkflowExecutionHistoryResponse)

WORKFLOW_TOKEN = 1  # the "t" of the SDKs' tokens
PROGRESS_S_FIRST, PROGRESS_S_MAX = 1.0, 15.0  # how often a stream looks for progress; longer while there is none
_RUNNING = (
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING,
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_PAUSED,
)
_CLOSE_ONLY = HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
_HISTORY_PAGES_MAX = 400  # of 256 events: more than the longest history has


def workflow_id_of(token: str, namespace: str) -> str:
    """Raises CallerError: UNIMPLEMENTED for a token of another kind, NOT_FOUND for one of another namespace."""
    try:
        parsed = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars="-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        parsed = None
    workflow_id = parsed.get("wid") if isinstance(parsed, dict) and parsed.get("t") == WORKFLOW_TOKEN else None
    if not isinstance(workflow_id, str) or not workflow_id:
        raise unimplemented("no workflow stands for this operation: its handler keeps its state, and tells it by callback")
    if parsed.get("ns") != namespace:
        raise not_found("operation not found")
    return workflow_id


class WorkflowOperations:
    """OperationsPort."""

    def __init__(self, history: HistoryPort) -> None:
        self._history = history

    async def info(self, namespace: NamespaceRecord, token: str) -> OperationInfo:
        workflow_id = workflow_id_of(token, namespace.name)
        described = await self._describe(namespace, workflow_id, "")
        if described.workflow_execution_info.status in _RUNNING:
            return _running(described, namespace.name)
        return await self._ended(namespace, described)

    async def wait(self, namespace: NamespaceRecord, token: str, position: int, wait_s: float) -> OperationInfo:
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        pause_s = PROGRESS_S_FIRST
        while True:
            info = await self.info(namespace, token)
            left_s = until - loop.time()
            if info.state != "running" or left_s <= 0 or (position and info.position > position):
                return info
            workflow_id = workflow_id_of(token, namespace.name)
            await self._until_closed(namespace, workflow_id, min(left_s, pause_s) if position else left_s)
            pause_s = min(pause_s * 1.5, PROGRESS_S_MAX)

    async def of_caller(
        self, namespace: NamespaceRecord, workflow_id: str, run_id: str, count_max: int
    ) -> list[CallerOperation]:
        described = await self._describe(namespace, workflow_id, run_id)
        execution = described.workflow_execution_info.execution
        events: list[HistoryEvent] = []
        page = b""
        for _ in range(_HISTORY_PAGES_MAX):
            request = GetWorkflowExecutionHistoryRequest(namespace=namespace.name, execution=execution, next_page_token=page)
            answer = await self._ask(
                "get_workflow_execution_history", namespace, workflow_id, request, GetWorkflowExecutionHistoryResponse
            )
            events += [event for event in answer.history.events if "NEXUS" in EventType.Name(event.event_type)]
            page = answer.next_page_token
            if not page:
                break
        return fold_operations(events, described.pending_nexus_operations, namespace.name, execution, count_max)

    async def _describe(
        self, namespace: NamespaceRecord, workflow_id: str, run_id: str
    ) -> DescribeWorkflowExecutionResponse:
        execution = WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
        request = DescribeWorkflowExecutionRequest(namespace=namespace.name, execution=execution)
        return await self._ask(
            "describe_workflow_execution", namespace, workflow_id, request, DescribeWorkflowExecutionResponse
        )

    async def _until_closed(self, namespace: NamespaceRecord, workflow_id: str, wait_s: float) -> None:
        """Or until the time is over. History answers after its own longest wait, and is asked again at once: a waiting caller
        costs no more than that question."""
        request = GetWorkflowExecutionHistoryRequest(
            namespace=namespace.name,
            execution=WorkflowExecution(workflow_id=workflow_id),
            wait_new_event=True,
            history_event_filter_type=_CLOSE_ONLY,
        )
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    answer = await self._ask(
                        "get_workflow_execution_history", namespace, workflow_id, request, GetWorkflowExecutionHistoryResponse
                    )
                    if answer.history.events or not answer.next_page_token:
                        return
                    request.next_page_token = answer.next_page_token  # of the same run, whatever became current meanwhile
        except TimeoutError:
            return

    async def _ended(self, namespace: NamespaceRecord, described: DescribeWorkflowExecutionResponse) -> OperationInfo:
        execution = described.workflow_execution_info.execution
        request = GetWorkflowExecutionHistoryRequest(
            namespace=namespace.name, execution=execution, history_event_filter_type=_CLOSE_ONLY
        )
        answer = await self._ask(
            "get_workflow_execution_history", namespace, execution.workflow_id, request, GetWorkflowExecutionHistoryResponse
        )
        if not answer.history.events:
            raise CallerError(Code.UNAVAILABLE, "the run was closed, but its last event is not there yet")
        state, result, failure = outcome(answer.history.events[-1])
        if state == "running":  # it went on in another run since it was described
            return _running(described, namespace.name)
        return OperationInfo(
            state=state,
            position=described.workflow_execution_info.history_length,
            progress=_progress(described),
            started_at=described.workflow_execution_info.start_time.ToNanoseconds(),
            closed_at=described.workflow_execution_info.close_time.ToNanoseconds(),
            result=result,
            failure=failure,
            links=_links(described, namespace.name),
        )

    async def _ask(self, verb: str, namespace: NamespaceRecord, workflow_id: str, request: Any, form: type[M]) -> M:
        answer = await self._history.invoke(verb, namespace, workflow_id, request)
        return form.FromString(answer) if isinstance(answer, bytes) else answer  # type: ignore[return-value]


def outcome(close: HistoryEvent) -> tuple[str, Payload | None, Failure | None]:
    """(state, result, failure) of the operation. A run that goes on in another one has not ended it."""
    kind = close.event_type
    if kind == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
        completed = close.workflow_execution_completed_event_attributes
        if completed.new_execution_run_id:
            return "running", None, None
        return "succeeded", completed.result.payloads[0] if completed.result.payloads else None, None
    if kind == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
        failed = close.workflow_execution_failed_event_attributes
        return ("running", None, None) if failed.new_execution_run_id else ("failed", None, failed.failure)
    if kind == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
        details = close.workflow_execution_canceled_event_attributes.details
        info = CanceledFailureInfo(details=details if details.payloads else None)
        return "canceled", None, Failure(message="operation canceled", canceled_failure_info=info)
    if kind == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
        return "failed", None, Failure(message="operation terminated", terminated_failure_info=TerminatedFailureInfo())
    if kind == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT:
        if close.workflow_execution_timed_out_event_attributes.new_execution_run_id:
            return "running", None, None
        timed_out = TimeoutFailureInfo()
        return "failed", None, Failure(message="operation exceeded internal timeout", timeout_failure_info=timed_out)
    return "running", None, None


def _running(described: DescribeWorkflowExecutionResponse, namespace: str) -> OperationInfo:
    slowest = max(described.pending_activities, key=lambda one: one.attempt, default=None)
    return OperationInfo(
        state="running",
        position=described.workflow_execution_info.history_length,
        attempt=slowest.attempt if slowest is not None else 0,
        last_failure=slowest.last_failure.message if slowest is not None else "",
        progress=_progress(described),
        started_at=described.workflow_execution_info.start_time.ToNanoseconds(),
        links=_links(described, namespace),
    )


def _progress(described: DescribeWorkflowExecutionResponse) -> dict[str, Any]:
    return {
        "events": described.workflow_execution_info.history_length,
        "pendingActivities": len(described.pending_activities),
        "pendingChildren": len(described.pending_children),
        "pendingOperations": len(described.pending_nexus_operations),
    }


def _links(described: DescribeWorkflowExecutionResponse, namespace: str) -> list[Link]:
    """The handler's run, then those who attached themselves to it."""
    execution = described.workflow_execution_info.execution
    event = CommonLink.WorkflowEvent(namespace=namespace, workflow_id=execution.workflow_id, run_id=execution.run_id)
    event.event_ref.event_id = 1
    event.event_ref.event_type = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    found = [nexus_link(event)]
    for info in described.callbacks:
        found += [nexus_link(link.workflow_event) for link in info.callback.links if link.HasField("workflow_event")]
    return list({link.url: link for link in found}.values())
