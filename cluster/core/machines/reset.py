"""Reset: a run goes on from an earlier workflow task of its history, with later signals and updates reapplied.

The new run's state is the fold of the shared prefix, made its own: new run id, activities and timers that are due in real
time again, children it must not start twice. What follows is ordinary: a failed task, reapplied facts, a new task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from temporalio.api.enums.v1 import (
    EventType,
    ResetReapplyExcludeType,
    ResetReapplyType,
    UpdateAdmittedEventOrigin,
    WorkflowTaskFailedCause,
)
from temporalio.api.failure.v1 import Failure, ResetWorkflowFailureInfo
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionUpdateAdmittedEventAttributes
from temporalio.api.update.v1 import Request

from cluster.core.entry import ActivityNote, BegunNote, OutboxNote, RequestIdNote, TaskNote
from cluster.core.errors import invalid_argument
from cluster.core.events import attributes_of
from cluster.core.machines import lifecycle, nexus_operation, workflow_task
from cluster.core.state import RunState, Status, encode_state
from cluster.core.transition import Transition

EXCLUDE = ResetReapplyExcludeType
CHILD_NEWS = frozenset(
    (
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED,
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT,
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED,
    )
)

NEXUS_NEWS = frozenset(
    (
        EventType.EVENT_TYPE_NEXUS_OPERATION_STARTED,
        EventType.EVENT_TYPE_NEXUS_OPERATION_COMPLETED,
        EventType.EVENT_TYPE_NEXUS_OPERATION_FAILED,
        EventType.EVENT_TYPE_NEXUS_OPERATION_CANCELED,
        EventType.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT,
    )
)


def base_state(prefix: RunState) -> RunState:
    """The fold of the prefix under the new run's id. Raises INVALID_ARGUMENT if it does not end in a workflow task."""
    if prefix.task is None:
        raise invalid_argument(
            f"Unable to reset workflow: event {prefix.next_event_id - 1} is not followed by the end of a workflow task. "
            "Choose the id of a WorkflowTaskCompleted, WorkflowTaskFailed, WorkflowTaskTimedOut or WorkflowTaskStarted event."
        )
    if not prefix.is_open:
        raise invalid_argument("Unable to reset workflow: the reset point lies behind the close of the run.")
    if prefix.status == Status.PAUSED and not prefix.task.is_started:  # its task may not start, so it cannot fail either
        raise invalid_argument(
            "Unable to reset workflow: the run was paused at the reset point. Choose a point before the pause."
        )
    return prefix


def encoded(state: RunState) -> bytes:
    return encode_state(state)


def outbox(base: RunState) -> dict[int, str]:
    """Request ids of what the base run is still sending: sent again under the same ids, it is done once."""
    return {
        one.initiated_event_id: one.request_id
        for sent in (base.signals_out, base.cancels_out, base.children)
        for one in sent.values()
    }


def begin_reset_run(
    t: Transition,
    *,
    base: RunState,
    request: Any,
    later: list[HistoryEvent],
    start_request_id: str,
    post_reset: Callable[[Transition], None] = lambda t: None,
) -> None:
    """Everything of the new run that follows the shared prefix. `base` is the base run as it is now; `post_reset` is what the
    caller wants done to the new run before its first task."""
    state = t.state
    t.note(RequestIdNote(start_request_id, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, 1, is_start=True))
    if t.context.version:  # other regions tell by it which run of the workflow id came last
        t.note(BegunNote(t.now))
    task = state.task
    assert task is not None
    if not task.is_started:
        workflow_task.start(t, request_id=t.context.ids.uuid(), identity="history-service")
    failure = Failure(message=request.reason, reset_workflow_failure_info=ResetWorkflowFailureInfo())
    workflow_task.fail(
        t,
        WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW,
        failure,
        identity="history-service",
        base_run_id=base.run_id,
        new_run_id=state.run_id,
        fork_event_version=state.last_version,
    )
    t.note(TaskNote(None, 1, state.task_stamp))
    for activity in list(state.activities.values()):  # their time begins anew, their attempt goes on
        t.note(
            ActivityNote(
                replace(
                    activity, scheduled_at=t.now, first_scheduled_at=t.now, started_at=0, request_id="", stamp=activity.stamp + 1
                )
            )
        )
    sending = outbox(base)
    for initiated_event_id in (*state.signals_out, *state.cancels_out, *state.children):
        t.note(OutboxNote(initiated_event_id, sending.get(initiated_event_id) or t.context.ids.uuid()))
    reapply(t, request, later)
    post_reset(t)
    if not lifecycle.is_waiting_for_first_task(state):
        workflow_task.schedule(t)


def excluded(request: Any) -> set[int]:
    """What is not reapplied: the older single choice and the newer list say the same."""
    kinds = set(request.reset_reapply_exclude_types)
    if request.reset_reapply_type == ResetReapplyType.RESET_REAPPLY_TYPE_NONE:
        kinds |= {EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL, EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE}
    elif request.reset_reapply_type == ResetReapplyType.RESET_REAPPLY_TYPE_SIGNAL:
        kinds.add(EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE)
    return kinds


def reapply(t: Transition, request: Any, later: list[HistoryEvent]) -> None:
    """Signals, updates and news of Nexus operations that came after the reset point, in their order, unless they are excluded;
    and news of children, changed options and attached callbacks."""
    without = excluded(request)
    for event in later:
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            if EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL not in without:
                attributes = event.workflow_execution_signaled_event_attributes
                lifecycle.signal(t, attributes, list(event.links), schedules_task=False)
        elif event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
            if EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE not in without:
                _readmit(t, event.workflow_execution_update_accepted_event_attributes.accepted_request)
        elif (
            event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED
            and EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE not in without
        ):
            _readmit(t, event.workflow_execution_update_admitted_event_attributes.request)
        elif event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED:
            _options_again(t, event)
        elif event.event_type in CHILD_NEWS:
            _child_news(t, event)
        elif event.event_type in NEXUS_NEWS and EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_NEXUS not in without:
            _nexus_news(t, event)


def _options_again(t: Transition, event: HistoryEvent) -> None:
    """Who attached a callback still waits for the end of the work; operators' wishes stay."""
    attributes = event.workflow_execution_options_updated_event_attributes
    if attributes.attached_request_id in t.state.request_ids:
        return
    t.add(event.event_type, attributes, links=event.links, worker_may_ignore=True)


def _nexus_news(t: Transition, event: HistoryEvent) -> None:
    """An operation of the shared prefix told its news to the base run. A later one is scheduled again by the workflow."""
    attributes: Any = attributes_of(event)
    operation = nexus_operation.expected(t.state, attributes.scheduled_event_id, attributes.request_id)
    is_start = event.event_type == EventType.EVENT_TYPE_NEXUS_OPERATION_STARTED
    if operation is not None and not (is_start and operation.is_started):
        t.add(event.event_type, attributes, links=event.links)


def _child_news(t: Transition, event: HistoryEvent) -> None:
    """A child of the shared prefix told its news to the base run; it will not tell them again."""
    attributes: Any = type(attributes_of(event))()
    attributes.CopyFrom(attributes_of(event))
    child = t.state.children.get(attributes.initiated_event_id)
    if child is None:
        return
    if event.event_type == EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
        if not child.is_started:
            t.add(event.event_type, attributes)
    elif child.is_started:
        attributes.started_event_id = child.started_event_id
        t.add(event.event_type, attributes)


def _readmit(t: Transition, request: Request) -> None:
    update_id = request.meta.update_id
    if not update_id or update_id in t.state.updates:
        return
    t.add(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED,
        WorkflowExecutionUpdateAdmittedEventAttributes(
            request=request, origin=UpdateAdmittedEventOrigin.UPDATE_ADMITTED_EVENT_ORIGIN_REAPPLY
        ),
    )
