"""A run's life: it is started, asked to cancel, paused, and closes once, in one of six ways.

The close and the first events of a successor (continue as new, retry, cron) are one append, see successor.py; who may
start a run for a workflow id is decided in start.py.
"""

from __future__ import annotations

from google.protobuf.message import Message
from temporalio.api.common.v1 import Link, Payloads, Priority, WorkflowExecution
from temporalio.api.enums.v1 import (
    EventType,
    ResourceExhaustedCause,
    ResourceExhaustedScope,
    RetryState,
    WorkflowTaskFailedCause,
)
from temporalio.api.errordetails.v1 import ResourceExhaustedFailure
from temporalio.api.history.v1 import (
    HistoryEvent,
    WorkflowExecutionCanceledEventAttributes,
    WorkflowExecutionCancelRequestedEventAttributes,
    WorkflowExecutionCompletedEventAttributes,
    WorkflowExecutionContinuedAsNewEventAttributes,
    WorkflowExecutionFailedEventAttributes,
    WorkflowExecutionOptionsUpdatedEventAttributes,
    WorkflowExecutionPausedEventAttributes,
    WorkflowExecutionSignaledEventAttributes,
    WorkflowExecutionStartedEventAttributes,
    WorkflowExecutionTerminatedEventAttributes,
    WorkflowExecutionTimedOutEventAttributes,
    WorkflowExecutionUnpausedEventAttributes,
)
from temporalio.api.workflow.v1 import VersioningOverride

from cluster.core.entry import CancelNote
from cluster.core.errors import CallerError, failed_precondition, invalid_argument, not_found, resource_exhausted
from cluster.core.events import timestamp_ns
from cluster.core.machines import callback, workflow_task
from cluster.core.machines.started import take_links, take_started
from cluster.core.state import RequestSeen, RunState, Status
from cluster.core.table import Table, applies, on_flush
from cluster.core.transition import Transition

TABLE = Table(
    "workflow execution",
    [
        ("none", "WorkflowExecutionStarted", "running"),
        ("running", "WorkflowExecutionSignaled", "running"),
        ("running", "WorkflowExecutionCancelRequested", "running"),
        ("running", "WorkflowExecutionOptionsUpdated", "running"),
        ("running", "WorkflowExecutionPaused", "paused"),
        ("running", "WorkflowExecutionCompleted", "closed"),
        ("running", "WorkflowExecutionFailed", "closed"),
        ("running", "WorkflowExecutionTimedOut", "closed"),
        ("running", "WorkflowExecutionCanceled", "closed"),
        ("running", "WorkflowExecutionTerminated", "closed"),
        ("running", "WorkflowExecutionContinuedAsNew", "closed"),
        ("paused", "WorkflowExecutionUnpaused", "running"),
        ("paused", "WorkflowExecutionSignaled", "paused"),
        ("paused", "WorkflowExecutionCancelRequested", "paused"),
        ("paused", "WorkflowExecutionOptionsUpdated", "paused"),
        ("paused", "WorkflowExecutionTimedOut", "closed"),
        ("paused", "WorkflowExecutionTerminated", "closed"),
        # A task that was started before the pause may still answer, but not end the run: the pause is news to its worker.
    ],
)

ALREADY_COMPLETED = "workflow execution already completed"
TOO_MANY_SIGNALS = "exceeded workflow execution limit for signal events"
HISTORY_SERVICE = "history-service"  # the identity of what the server does by itself
RESETTER = "history-resetter"  # the identity by which a close for a reset is known


def position(state: RunState) -> str:
    if state.status == Status.NONE:
        return "none"
    if state.status == Status.PAUSED:
        return "paused"
    return "running" if state.status == Status.RUNNING else "closed"


# --- fold --------------------------------------------------------------------------------------------------------------


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
def _started(state: RunState, event: HistoryEvent, attributes: WorkflowExecutionStartedEventAttributes) -> None:
    TABLE.step(position(state), "WorkflowExecutionStarted")
    take_started(state, event, attributes)


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED)
def _signaled(state: RunState, event: HistoryEvent, attributes: WorkflowExecutionSignaledEventAttributes) -> None:
    TABLE.step(position(state), "WorkflowExecutionSignaled")
    state.signal_count += 1
    if attributes.request_id:
        state.signal_request_ids[attributes.request_id] = None
        state.request_ids[attributes.request_id] = RequestSeen(event.event_type, event.event_id)


@on_flush(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED)
def _signal_flushed(state: RunState, event: HistoryEvent) -> None:
    request_id = event.workflow_execution_signaled_event_attributes.request_id
    if request_id:
        state.request_ids[request_id] = RequestSeen(event.event_type, event.event_id)


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
def _cancel_requested(
    state: RunState, event: HistoryEvent, attributes: WorkflowExecutionCancelRequestedEventAttributes
) -> None:
    TABLE.step(position(state), "WorkflowExecutionCancelRequested")
    state.cancel_requested = True


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED)
def _options_updated(
    state: RunState, event: HistoryEvent, attributes: WorkflowExecutionOptionsUpdatedEventAttributes
) -> None:
    TABLE.step(position(state), "WorkflowExecutionOptionsUpdated")
    if attributes.unset_versioning_override:
        state.versioning_override = b""
    elif attributes.HasField("versioning_override"):
        state.versioning_override = attributes.versioning_override.SerializeToString(deterministic=True)
    if attributes.HasField("priority"):
        state.has_priority = True
        state.priority = attributes.priority.SerializeToString(deterministic=True)
    if attributes.attached_request_id:
        state.request_ids[attributes.attached_request_id] = RequestSeen(event.event_type, event.event_id)
    at = timestamp_ns(event.event_time)
    callback.take_attached(state, attributes.attached_completion_callbacks, at, attributes.attached_request_id)
    take_links(state, event)


@on_flush(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED)
def _options_flushed(state: RunState, event: HistoryEvent) -> None:
    request_id = event.workflow_execution_options_updated_event_attributes.attached_request_id
    if request_id:
        state.request_ids[request_id] = RequestSeen(event.event_type, event.event_id)


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_PAUSED)
def _paused(state: RunState, event: HistoryEvent, attributes: WorkflowExecutionPausedEventAttributes) -> None:
    TABLE.step(position(state), "WorkflowExecutionPaused")
    state.status = Status.PAUSED
    state.paused_at = timestamp_ns(event.event_time)
    state.pause_identity, state.pause_reason = attributes.identity, attributes.reason
    state.pause_request_id = attributes.request_id


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UNPAUSED)
def _unpaused(state: RunState, event: HistoryEvent, attributes: WorkflowExecutionUnpausedEventAttributes) -> None:
    TABLE.step(position(state), "WorkflowExecutionUnpaused")
    state.status = Status.RUNNING
    state.paused_at, state.pause_identity, state.pause_reason, state.pause_request_id = 0, "", "", ""


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED)
def _completed(state: RunState, event: HistoryEvent, attributes: WorkflowExecutionCompletedEventAttributes) -> None:
    _closed(state, event, "WorkflowExecutionCompleted", Status.COMPLETED, attributes.new_execution_run_id)
    callback.take_close(state, RetryState.RETRY_STATE_UNSPECIFIED)


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED)
def _failed(state: RunState, event: HistoryEvent, attributes: WorkflowExecutionFailedEventAttributes) -> None:
    _closed(state, event, "WorkflowExecutionFailed", Status.FAILED, attributes.new_execution_run_id)
    callback.take_close(state, attributes.retry_state)


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT)
def _timed_out(state: RunState, event: HistoryEvent, attributes: WorkflowExecutionTimedOutEventAttributes) -> None:
    _closed(state, event, "WorkflowExecutionTimedOut", Status.TIMED_OUT, attributes.new_execution_run_id)
    callback.take_close(state, attributes.retry_state)


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED)
def _canceled(state: RunState, event: HistoryEvent, attributes: WorkflowExecutionCanceledEventAttributes) -> None:
    _closed(state, event, "WorkflowExecutionCanceled", Status.CANCELED, "")
    callback.take_close(state, RetryState.RETRY_STATE_UNSPECIFIED)


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED)
def _terminated(state: RunState, event: HistoryEvent, attributes: WorkflowExecutionTerminatedEventAttributes) -> None:
    _closed(state, event, "WorkflowExecutionTerminated", Status.TERMINATED, "")
    state.is_reset_away = attributes.identity == RESETTER
    callback.take_close(state, RetryState.RETRY_STATE_UNSPECIFIED)


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW)
def _continued(
    state: RunState, event: HistoryEvent, attributes: WorkflowExecutionContinuedAsNewEventAttributes
) -> None:
    _closed(
        state, event, "WorkflowExecutionContinuedAsNew", Status.CONTINUED_AS_NEW, attributes.new_execution_run_id
    )


def _closed(state: RunState, event: HistoryEvent, trigger: str, status: Status, new_run_id: str) -> None:
    TABLE.step(position(state), trigger)
    state.status = status
    state.closed_at = timestamp_ns(event.event_time)
    state.close_event_id = event.event_id
    state.new_run_id = new_run_id
    # What was outstanding towards workers is over; children, parent and callbacks are still owed. Nexus operations are nobody's
    # any more, and are still told to who asks about the run.
    state.task = None
    state.activities.clear()
    state.activity_ids.clear()
    state.timers.clear()
    state.start_attributes = b""
    state.paused_at = 0
    state.buffered.clear()  # the outcome of a command of the very task that closes the run: nobody waits for it


# --- decide ------------------------------------------------------------------------------------------------------------


def require_open(state: RunState) -> None:
    if not state.is_open:
        raise not_found(ALREADY_COMPLETED)


def signal(
    t: Transition,
    attributes: WorkflowExecutionSignaledEventAttributes,
    links: list[Link] | None = None,
    *,
    schedules_task: bool = True,
) -> bool:
    """An accepted signal is in the history once. Returns False for a request id that was seen before.

    Raises INVALID_ARGUMENT (TOO_MANY_SIGNALS) at the limit, and as `require_not_closing`.
    """
    state = t.state
    require_open(state)
    if attributes.request_id and attributes.request_id in state.signal_request_ids:
        return False
    if state.signal_count >= t.context.limits.signals_per_run_max:
        raise invalid_argument(TOO_MANY_SIGNALS)
    require_not_closing(state)
    t.add(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, attributes, links=links or ())
    if schedules_task and not is_waiting_for_first_task(state):
        workflow_task.schedule(t)
    return True


def require_not_closing(state: RunState) -> None:
    """A worker that could not end the run because of news is trying again: more news would keep it from it for ever."""
    unhandled = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND
    if state.has_started_task and state.last_task_failed_cause == unhandled:
        detail = ResourceExhaustedFailure(
            cause=ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW,
            scope=ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE,
        )
        raise resource_exhausted("workflow operation can not be applied because workflow is closing", detail)


def is_waiting_for_first_task(state: RunState) -> bool:
    """Start delay, cron or retry backoff: no task before first_task_at."""
    return bool(state.first_task_at) and state.last_completed_id == 0 and state.task is None and state.task_attempt == 1


def request_cancel(
    t: Transition,
    *,
    cause: str,
    identity: str,
    request_id: str,
    external_initiated_event_id: int = 0,
    external_execution: WorkflowExecution | None = None,
    links: list[Link] | None = None,
) -> bool:
    """Asks the workflow to cancel itself, at once even if its first task was put off.

    Returns False if that was asked before or the run has closed: nothing is left to cancel, which is what was wanted.
    """
    state = t.state
    if not state.is_open or state.cancel_requested:
        return False
    t.add(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED,
        WorkflowExecutionCancelRequestedEventAttributes(
            cause=cause,
            identity=identity,
            external_initiated_event_id=external_initiated_event_id,
            external_workflow_execution=external_execution,
        ),
        links=links or (),
    )
    if request_id:
        t.note(CancelNote(request_id))
    workflow_task.schedule(t)
    return True


def close(t: Transition, event_type: EventType.ValueType, attributes: Message, links: list[Link] | None = None) -> None:
    """The close that no worker asked for: a started task fails first, and what was buffered joins the history."""
    state = t.state
    require_open(state)
    task = state.task
    if task is not None and task.is_started:
        if task.is_transient and not task.events_written:
            workflow_task.drop(t)
        else:
            cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND
            workflow_task.fail(t, cause, identity=HISTORY_SERVICE)
    t.flush()
    t.add(event_type, attributes, links=links or ())


def terminate(t: Transition, *, reason: str, details: Payloads | None, identity: str, links: list[Link] | None = None) -> None:
    close(
        t,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
        WorkflowExecutionTerminatedEventAttributes(reason=reason, details=details, identity=identity),
        links,
    )


def time_out(t: Transition, retry_state: RetryState.ValueType, new_run_id: str = "") -> None:
    close(
        t,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
        WorkflowExecutionTimedOutEventAttributes(retry_state=retry_state, new_execution_run_id=new_run_id),
    )


def pause(t: Transition, *, identity: str, reason: str, request_id: str) -> None:
    """No task is dispatched until the run is unpaused; a started one may end."""
    state = t.state
    require_open(state)
    if state.status == Status.PAUSED:
        if request_id and request_id == state.pause_request_id:
            return
        raise failed_precondition("workflow is already paused.")
    t.add(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_PAUSED,
        WorkflowExecutionPausedEventAttributes(identity=identity, reason=reason, request_id=request_id),
        worker_may_ignore=True,
    )
    workflow_task.withdraw(t)


def unpause(t: Transition, *, identity: str, reason: str, request_id: str) -> None:
    state = t.state
    require_open(state)
    if state.status != Status.PAUSED:
        raise failed_precondition("workflow is not paused.")
    t.add(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UNPAUSED,
        WorkflowExecutionUnpausedEventAttributes(identity=identity, reason=reason, request_id=request_id),
        worker_may_ignore=True,
    )
    if not is_waiting_for_first_task(state):
        workflow_task.schedule(t)


def update_options(
    t: Transition, *, versioning_override: VersioningOverride | None, priority: Priority | None, identity: str
) -> bool:
    """The run's options as a whole, after the caller has merged what changes. False = they were like this before.

    None = the run shall have none. Both are told in the event, as the public server tells them.
    """
    state = t.state
    require_open(state)
    is_same_override = (versioning_override or VersioningOverride()) == VersioningOverride.FromString(state.versioning_override)
    if is_same_override and (priority or Priority()) == Priority.FromString(state.priority):
        return False
    t.add(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED,
        WorkflowExecutionOptionsUpdatedEventAttributes(
            versioning_override=versioning_override,
            unset_versioning_override=versioning_override is None,
            priority=priority,
            identity=identity,
        ),
        worker_may_ignore=True,
    )
    return True


def run_expires_at(state: RunState) -> int:
    """ns since the epoch at which the run times out, 0 = never."""
    deadlines = []
    if state.run_timeout_ns:
        deadlines.append((state.first_task_at or state.started_at) + state.run_timeout_ns)
    if state.execution_expires_at:
        deadlines.append(state.execution_expires_at)
    return min(deadlines, default=0)


def unknown_run(workflow_id: str, run_id: str) -> CallerError:
    """The real server's words for a run that does not exist."""
    if run_id:
        return not_found(f"workflow execution not found for workflow ID {workflow_id!r} and run ID {run_id!r}".replace("'", '"'))
    return not_found(f"workflow not found for ID: {workflow_id}")
