"""The operations that one run called, folded from its public history and its description: each with its state and both links."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from temporalio.api.common.v1 import Link as CommonLink
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, PendingNexusOperationState
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflow.v1 import PendingNexusOperationInfo

from cluster.nexus.links import nexus_link
from nexus.ports import CallerOperation

_ENDS = {
    EventType.EVENT_TYPE_NEXUS_OPERATION_COMPLETED: ("succeeded", "nexus_operation_completed_event_attributes"),
    EventType.EVENT_TYPE_NEXUS_OPERATION_FAILED: ("failed", "nexus_operation_failed_event_attributes"),
    EventType.EVENT_TYPE_NEXUS_OPERATION_CANCELED: ("canceled", "nexus_operation_canceled_event_attributes"),
    EventType.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT: ("timed out", "nexus_operation_timed_out_event_attributes"),
}
_PENDING = {
    PendingNexusOperationState.PENDING_NEXUS_OPERATION_STATE_SCHEDULED: "scheduled",
    PendingNexusOperationState.PENDING_NEXUS_OPERATION_STATE_STARTED: "started",
    PendingNexusOperationState.PENDING_NEXUS_OPERATION_STATE_BACKING_OFF: "backing off",
    PendingNexusOperationState.PENDING_NEXUS_OPERATION_STATE_BLOCKED: "blocked",
}


def fold_operations(
    events: Iterable[HistoryEvent],
    pending: Iterable[PendingNexusOperationInfo],
    namespace: str,
    execution: WorkflowExecution,
    count_max: int,
) -> list[CallerOperation]:
    """Newest first. Links: the caller's scheduled event, then what the handler gave."""
    found: dict[int, CallerOperation] = {}
    for event in events:
        kind = event.event_type
        if kind == EventType.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED:
            found[event.event_id] = _scheduled(event, namespace, execution)
        elif kind == EventType.EVENT_TYPE_NEXUS_OPERATION_STARTED:
            started = event.nexus_operation_started_event_attributes
            token = started.operation_token or started.operation_id
            _change(found, started.scheduled_event_id, state="started", token=token)
            _add_links(found, started.scheduled_event_id, event)
        elif kind in _ENDS:
            state, attributes = _ENDS[kind]
            ended: Any = getattr(event, attributes)
            message = ended.failure.cause.message or ended.failure.message if state != "succeeded" else ""
            _change(
                found, ended.scheduled_event_id, state=state, last_failure=message, closed_at=event.event_time.ToNanoseconds()
            )
            _add_links(found, ended.scheduled_event_id, event)
    for info in pending:
        _change(
            found,
            info.scheduled_event_id,
            state=_PENDING.get(info.state, "scheduled"),
            attempt=info.attempt,
            last_failure=info.last_attempt_failure.message or info.last_attempt_failure.cause.message,
            blocked_reason=info.blocked_reason,
        )
    return list(reversed(found.values()))[:count_max]


def _scheduled(event: HistoryEvent, namespace: str, execution: WorkflowExecution) -> CallerOperation:
    attributes = event.nexus_operation_scheduled_event_attributes
    here = CommonLink.WorkflowEvent(namespace=namespace, workflow_id=execution.workflow_id, run_id=execution.run_id)
    here.event_ref.event_id = event.event_id
    here.event_ref.event_type = event.event_type
    return CallerOperation(
        scheduled_event_id=event.event_id,
        endpoint=attributes.endpoint,
        service=attributes.service,
        operation=attributes.operation,
        state="scheduled",
        scheduled_at=event.event_time.ToNanoseconds(),
        links=[nexus_link(here)],
    )


def _change(found: dict[int, CallerOperation], scheduled_event_id: int, **changes: Any) -> None:
    operation = found.get(scheduled_event_id)
    if operation is not None:
        found[scheduled_event_id] = msgspec.structs.replace(operation, **changes)


def _add_links(found: dict[int, CallerOperation], scheduled_event_id: int, event: HistoryEvent) -> None:
    operation = found.get(scheduled_event_id)
    if operation is not None:
        theirs = [nexus_link(link.workflow_event) for link in event.links if link.HasField("workflow_event")]
        found[scheduled_event_id] = msgspec.structs.replace(operation, links=[*operation.links, *theirs])
