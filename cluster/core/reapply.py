"""Appending to the winner what the losing branch (or run) was told: an ordinary transition of the active region.

Once: each line is known again, by its key, by an update's id, or by what the winner waits for. What was accepted is not refused
now: the limits that a client meets do not count here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import (
    ActivityTaskStartedEventAttributes,
    ChildWorkflowExecutionStartedEventAttributes,
    HistoryEvent,
    WorkflowExecutionOptionsUpdatedEventAttributes,
)

from cluster.core.entry import RequestIdNote
from cluster.core.events import attributes_of, parse_event
from cluster.core.ledger import REAPPLIED, LedgerLine, admitted_event, requested_update
from cluster.core.machines import lifecycle, nexus_operation, workflow_task
from cluster.core.transition import Transition

CHILD_STARTED = EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED


def reapply(t: Transition, line: LedgerLine, *, schedules_task: bool = True) -> bool:
    """Appends the line's event. False: this run has it already, or waits for it no more; the ledger's line is a duplicate.

    Of a line that waited in the inbox (or for a reset), t is the run it waited for. Raises CallerError NOT_FOUND where that
    run has closed meanwhile: the line is to be judged anew; ValueError for a line that asks for nothing.
    """
    if line.outcome not in REAPPLIED:
        raise ValueError(f"a line with the outcome {line.outcome!r} is not reapplied")
    lifecycle.require_open(t.state)
    event = parse_event(line.event)
    if not _APPENDERS[event.event_type](t, line, event, attributes_of(event)):
        return False
    if schedules_task and t.state.is_open and not lifecycle.is_waiting_for_first_task(t.state):
        workflow_task.schedule(t)
    return True


def _signal(t: Transition, line: LedgerLine, event: HistoryEvent, attributes: Any) -> bool:
    if line.key in t.state.signal_request_ids:
        return False
    attributes.request_id = line.key
    t.add(event.event_type, attributes, links=event.links)
    return True


def _update(t: Transition, line: LedgerLine, event: HistoryEvent, attributes: Any) -> bool:
    """The key stays when the update is gone: a rejection leaves no other trace."""
    request = requested_update(event)
    assert request is not None, "such a line is not reapplied"
    if request.meta.update_id in t.state.updates or line.key in t.state.request_ids:
        return False
    admitted = admitted_event(request)
    added = t.add(admitted.event_type, attributes_of(admitted))
    t.note(RequestIdNote(line.key, admitted.event_type, added.event_id))
    return True


def _cancel_requested(t: Transition, line: LedgerLine, event: HistoryEvent, attributes: Any) -> bool:
    """The key stays, here and of a termination: nothing else in the event says which request it was."""
    if line.key in t.state.request_ids:
        return False
    first_event_id = t.state.next_event_id
    is_news = lifecycle.request_cancel(
        t,
        cause=attributes.cause,
        identity=attributes.identity,
        request_id=line.key,
        external_initiated_event_id=attributes.external_initiated_event_id,
        external_execution=attributes.external_workflow_execution if attributes.HasField("external_workflow_execution") else None,
        links=list(event.links),
    )
    is_written = is_news and t.state.next_event_id > first_event_id
    t.note(RequestIdNote(line.key, event.event_type, first_event_id if is_written else 0))
    return is_news


def _terminated(t: Transition, line: LedgerLine, event: HistoryEvent, attributes: Any) -> bool:
    details = attributes.details if attributes.HasField("details") else None
    lifecycle.terminate(t, reason=attributes.reason, details=details, identity=attributes.identity, links=list(event.links))
    t.note(RequestIdNote(line.key, event.event_type, t.state.next_event_id - 1))
    return True


def _attached(t: Transition, line: LedgerLine, event: HistoryEvent, attributes: Any) -> bool:
    """What a start left on the existing run; not the options that an operator may have changed by the same event."""
    if line.key in t.state.request_ids:
        return False
    t.add(
        event.event_type,
        WorkflowExecutionOptionsUpdatedEventAttributes(
            attached_request_id=line.key,
            attached_completion_callbacks=attributes.attached_completion_callbacks,
            identity=attributes.identity,
        ),
        links=event.links,
        worker_may_ignore=True,
    )
    return True


def _child_news(t: Transition, line: LedgerLine, event: HistoryEvent, attributes: Any) -> bool:
    child, run_id = t.state.children.get(attributes.initiated_event_id), attributes.workflow_execution.run_id
    if child is None or (child.is_started and (event.event_type == CHILD_STARTED or child.run_id != run_id)):
        return False
    if event.event_type == CHILD_STARTED:
        t.add(event.event_type, attributes)
        return True
    if not child.is_started:
        told = ChildWorkflowExecutionStartedEventAttributes(
            namespace=attributes.namespace,
            namespace_id=attributes.namespace_id,
            initiated_event_id=attributes.initiated_event_id,
            workflow_execution=attributes.workflow_execution,
            workflow_type=attributes.workflow_type,
        )
        t.add(CHILD_STARTED, told)
    attributes.started_event_id = t.state.children[attributes.initiated_event_id].started_event_id
    t.add(event.event_type, attributes)
    return True


def _nexus_news(t: Transition, line: LedgerLine, event: HistoryEvent, attributes: Any) -> bool:
    operation = nexus_operation.expected(t.state, attributes.scheduled_event_id, attributes.request_id)
    if operation is None or (operation.is_started and event.event_type == EventType.EVENT_TYPE_NEXUS_OPERATION_STARTED):
        return False
    t.add(event.event_type, attributes, links=event.links)
    return True


def _activity_result(t: Transition, line: LedgerLine, event: HistoryEvent, attributes: Any) -> bool:
    """Adopted: another region's worker has done what is pending here."""
    activity = t.state.activities.get(attributes.scheduled_event_id)
    if activity is None:
        return False
    if not activity.started_event_id:
        started = ActivityTaskStartedEventAttributes(
            scheduled_event_id=activity.scheduled_event_id, identity=attributes.identity, attempt=activity.attempt
        )
        if line.started:
            started.CopyFrom(parse_event(line.started).activity_task_started_event_attributes)
        t.add(EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED, started)
    attributes.started_event_id = t.state.activities[activity.scheduled_event_id].started_event_id
    t.add(event.event_type, attributes)
    return True


Appender = Callable[[Transition, LedgerLine, HistoryEvent, Any], bool]
_APPENDERS: dict[int, Appender] = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED: _signal,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED: _update,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED: _update,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED: _cancel_requested,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: _terminated,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED: _attached,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED: _child_news,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED: _child_news,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED: _child_news,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED: _child_news,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT: _child_news,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED: _child_news,
    EventType.EVENT_TYPE_NEXUS_OPERATION_STARTED: _nexus_news,
    EventType.EVENT_TYPE_NEXUS_OPERATION_COMPLETED: _nexus_news,
    EventType.EVENT_TYPE_NEXUS_OPERATION_FAILED: _nexus_news,
    EventType.EVENT_TYPE_NEXUS_OPERATION_CANCELED: _nexus_news,
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: _activity_result,
    EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED: _activity_result,
}
