"""The workflow task: the one piece of work a run offers to its workers at a time.

normal       scheduled and started events are written as they happen
transient    attempt > 1: the failing task of a run adds nothing to its history; the events are written when one completes
speculative  made for an update: events are written only if the worker does more than reject it

While a task is started, new facts are buffered (Transition.add); they are flushed when it ends.
"""

from __future__ import annotations

from msgspec.structs import replace
from temporalio.api.common.v1 import WorkerVersionStamp
from temporalio.api.enums.v1 import EventType, SuggestContinueAsNewReason, TaskQueueKind, TimeoutType, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import (
    HistoryEvent,
    WorkflowTaskCompletedEventAttributes,
    WorkflowTaskFailedEventAttributes,
    WorkflowTaskScheduledEventAttributes,
    WorkflowTaskStartedEventAttributes,
    WorkflowTaskTimedOutEventAttributes,
)

from cluster.core.entry import StickyNote, TaskNote
from cluster.core.events import SECOND_NS, duration, duration_ns, timestamp_ns
from cluster.core.machines.builds import note_build
from cluster.core.machines.late_events import (
    pending_events,
    pending_task,
    queue_of,
    write_events,
    write_scheduled,
)
from cluster.core.state import RunState, Status, TaskType, WorkflowTask
from cluster.core.table import IllegalTransition, Table, applies
from cluster.core.transition import Transition

__all__ = ["complete", "drop", "fail", "pending_events", "queue_of", "schedule", "start", "time_out"]

TABLE = Table(
    "workflow task",
    [
        # source        trigger                  target
        ("none", "WorkflowTaskScheduled", "scheduled"),
        ("none", "transient scheduled", "scheduled"),
        ("none", "speculative scheduled", "scheduled"),
        ("scheduled", "WorkflowTaskScheduled", "scheduled"),  # a transient or speculative one becomes real
        ("started", "WorkflowTaskScheduled", "scheduled"),  # its events are written as it ends, or as news comes
        ("scheduled", "WorkflowTaskStarted", "started"),
        ("scheduled", "started without event", "started"),
        ("scheduled", "WorkflowTaskTimedOut", "none"),  # sticky schedule-to-start
        ("started", "WorkflowTaskCompleted", "none"),
        ("started", "WorkflowTaskFailed", "none"),
        ("started", "WorkflowTaskTimedOut", "none"),
        ("started", "failed without event", "none"),  # transient
        ("started", "dropped", "none"),  # speculative, all its updates rejected; transient, the run closes
    ],
)

SPECULATIVE_SCHEDULE_TO_START_NS = 5 * SECOND_NS  # tasks.SpeculativeWorkflowTaskScheduleToStartTimeout
ATTEMPTS_WITH_PLAIN_TIMEOUT = 3  # history: workflowTaskRetryBackoffMinAttempts


def position(state: RunState) -> str:
    """The machine's state, derived."""
    if state.task is None:
        return "none"
    return "started" if state.task.started_event_id else "scheduled"


# --- fold --------------------------------------------------------------------------------------------------------------


@applies(EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED)
def _scheduled(state: RunState, event: HistoryEvent, attributes: WorkflowTaskScheduledEventAttributes) -> None:
    TABLE.step(position(state), "WorkflowTaskScheduled")
    at = timestamp_ns(event.event_time)
    state.task = WorkflowTask(
        scheduled_event_id=event.event_id,
        scheduled_at=at,
        attempt=attributes.attempt,
        timeout_ns=duration_ns(attributes.start_to_close_timeout),
        original_scheduled_at=at,
        is_sticky=attributes.task_queue.kind == TaskQueueKind.TASK_QUEUE_KIND_STICKY,
        stamp=state.task_stamp,
    )
    state.task_attempt = attributes.attempt


@applies(EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED)
def _started(state: RunState, event: HistoryEvent, attributes: WorkflowTaskStartedEventAttributes) -> None:
    TABLE.step(position(state), "WorkflowTaskStarted")
    assert state.task is not None
    state.task = replace(
        state.task,
        started_event_id=event.event_id,
        started_at=timestamp_ns(event.event_time),
        request_id=attributes.request_id,
        identity=attributes.identity,
        history_bytes=attributes.history_size_bytes,
        suggest_reasons=tuple(attributes.suggest_continue_as_new_reasons),
    )


@applies(EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
def _completed(state: RunState, event: HistoryEvent, attributes: WorkflowTaskCompletedEventAttributes) -> None:
    TABLE.step(position(state), "WorkflowTaskCompleted")
    state.task = None
    state.task_attempt = 1
    state.last_completed_started_id = attributes.started_event_id
    state.last_completed_id = event.event_id
    state.last_task_failure = b""
    state.last_task_failed_cause = 0
    if attributes.sdk_metadata.sdk_name:
        state.sdk_name = attributes.sdk_metadata.sdk_name
    if attributes.sdk_metadata.sdk_version:
        state.sdk_version = attributes.sdk_metadata.sdk_version
    note_build(state, event, attributes)


@applies(EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED)
def _failed(state: RunState, event: HistoryEvent, attributes: WorkflowTaskFailedEventAttributes) -> None:
    TABLE.step(position(state), "WorkflowTaskFailed")
    _task_ended_badly(state)
    state.last_task_failure = attributes.failure.SerializeToString(deterministic=True)
    state.last_task_failed_cause = attributes.cause
    if attributes.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW:
        state.task_attempt = 1


@applies(EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT)
def _timed_out(state: RunState, event: HistoryEvent, attributes: WorkflowTaskTimedOutEventAttributes) -> None:
    was_started = position(state) == "started"
    TABLE.step(position(state), "WorkflowTaskTimedOut")
    _task_ended_badly(state)
    state.last_task_failure, state.last_task_failed_cause = b"", 0
    if not was_started:  # a sticky queue without a worker is not the run's failure
        state.task_attempt = 1


def _task_ended_badly(state: RunState) -> None:
    """A failure on a sticky queue may be the cache's fault: it is tried on the normal queue before it counts."""
    assert state.task is not None
    state.task_attempt = 1 if state.sticky_queue else state.task.attempt + 1
    state.task = None
    state.sticky_queue, state.sticky_timeout_ns = "", 0


# --- decide ------------------------------------------------------------------------------------------------------------


def schedule(t: Transition, *, speculative: bool = False, original_scheduled_at: int = 0) -> None:
    """Offers a workflow task if none is pending. original_scheduled_at continues a chain of heartbeats.

    A paused run gets none; what was buffered joins its history all the same.
    """
    state = t.state
    if not state.is_open or state.task is not None:
        return
    if state.status == Status.PAUSED:
        t.flush()
        return
    attempt = state.task_attempt
    if t.flush():
        attempt, speculative = 1, False  # new facts: this is no repetition of the failed task
    writes_events = attempt == 1 and not speculative
    stamp = state.task_stamp + 1
    if writes_events:
        t.add(
            EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
            WorkflowTaskScheduledEventAttributes(
                task_queue=queue_of(state), start_to_close_timeout=duration(state.task_timeout_ns), attempt=1
            ),
        )
        task = pending_task(t)
    else:
        TABLE.step("none", "speculative scheduled" if speculative else "transient scheduled")
        task = WorkflowTask(
            scheduled_event_id=state.next_event_id,
            scheduled_at=t.now,
            attempt=attempt,
            type=TaskType.SPECULATIVE if speculative else TaskType.NORMAL,
            timeout_ns=timeout_of_attempt(state, attempt),
            events_written=False,
        )
    is_sticky = bool(state.sticky_queue)
    give_up_ns = state.sticky_timeout_ns if is_sticky else SPECULATIVE_SCHEDULE_TO_START_NS if speculative else 0
    task = replace(
        task,
        stamp=stamp,
        is_sticky=is_sticky,
        original_scheduled_at=original_scheduled_at or t.now,
        schedule_to_start_at=t.now + give_up_ns if give_up_ns else 0,
    )
    t.note(TaskNote(task, attempt, stamp, state.last_task_failure, state.last_task_failed_cause))


def start(
    t: Transition,
    *,
    request_id: str,
    identity: str,
    worker_version: WorkerVersionStamp | None = None,
) -> None:
    """A worker takes the task."""
    state = t.state
    task = state.task
    if task is None or task.is_started or state.status == Status.PAUSED:
        raise IllegalTransition("no scheduled workflow task to start")
    if not task.events_written and task.scheduled_event_id != state.next_event_id:
        # Events came since: this is no repetition of the failed task any more.
        task = write_scheduled(t, replace(task, attempt=1, type=TaskType.NORMAL, scheduled_at=t.now))
    attributes = WorkflowTaskStartedEventAttributes(
        scheduled_event_id=task.scheduled_event_id,
        identity=identity,
        request_id=request_id,
        history_size_bytes=0 if t.is_new else state.history_bytes,  # what is stored, as in the public server
        worker_version=worker_version,
    )
    reasons = suggest_reasons(t)
    if reasons:
        attributes.suggest_continue_as_new = True
        attributes.suggest_continue_as_new_reasons.extend(reasons)
    if task.events_written:
        t.add(EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED, attributes)
        task = pending_task(t)
    else:
        TABLE.step("scheduled", "started without event")
        task = replace(
            task,
            started_event_id=task.scheduled_event_id + 1,
            started_at=t.now,
            request_id=request_id,
            identity=identity,
            history_bytes=state.history_bytes,
            suggest_reasons=tuple(reasons),
        )
    task = replace(task, started_attributes=attributes.SerializeToString(deterministic=True) if not task.events_written else b"")
    t.note(TaskNote(task, task.attempt, task.stamp, state.last_task_failure, state.last_task_failed_cause))


def complete(t: Transition, attributes: WorkflowTaskCompletedEventAttributes) -> HistoryEvent:
    """The worker answered; `attributes` comes without event ids. Commands and then the flush follow."""
    worker_version = attributes.worker_version if attributes.HasField("worker_version") else None
    task = write_events(t, attributes.identity, worker_version)
    attributes.scheduled_event_id = task.scheduled_event_id
    attributes.started_event_id = task.started_event_id
    return t.add(EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED, attributes)


def fail(
    t: Transition,
    cause: WorkflowTaskFailedCause.ValueType,
    failure: Failure | None = None,
    *,
    identity: str = "",
    worker_version: WorkerVersionStamp | None = None,
    binary_checksum: str = "",
    base_run_id: str = "",
    new_run_id: str = "",
    fork_event_version: int = 0,
) -> None:
    """The started task failed. The first failure is an event, its repetitions only count. The caller schedules anew."""
    state = t.state
    task = state.task
    if task is None or not task.is_started:
        raise IllegalTransition("no started workflow task to fail")
    if task.is_transient and not task.events_written:  # they are written where a reset's prefix ends in a repeated task
        TABLE.step("started", "failed without event")
        _end_without_event(t, task, failure, cause)
    else:
        task = write_events(t, identity, worker_version)
        t.add(
            EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED,
            WorkflowTaskFailedEventAttributes(
                scheduled_event_id=task.scheduled_event_id,
                started_event_id=task.started_event_id,
                cause=cause,
                failure=failure,
                identity=identity,
                base_run_id=base_run_id,
                new_run_id=new_run_id,
                fork_event_version=fork_event_version,
                binary_checksum=binary_checksum,
            ),
        )


def time_out(t: Transition) -> None:
    """The started task's time is over, or nobody on the sticky (or speculative) queue took it. The caller schedules anew."""
    state = t.state
    task = state.task
    assert task is not None
    if not task.is_started:
        _time_out_schedule_to_start(t, task)
    elif task.is_transient:
        TABLE.step("started", "failed without event")
        _end_without_event(t, task, None, 0)
    else:
        task = write_events(t, "", None)
        t.add(
            EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
            WorkflowTaskTimedOutEventAttributes(
                scheduled_event_id=task.scheduled_event_id,
                started_event_id=task.started_event_id,
                timeout_type=TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE,
            ),
        )


def drop(t: Transition) -> None:
    """A started task that has no events yet (speculative, or transient when the run closes) ends without a trace."""
    task = t.state.task
    assert task is not None and not task.events_written
    TABLE.step(position(t.state), "dropped")
    t.note(TaskNote(None, t.state.task_attempt, task.stamp, t.state.last_task_failure, t.state.last_task_failed_cause))


def withdraw(t: Transition) -> None:
    """What was offered is void: whoever has been offered it comes too late. It is offered anew when that may be."""
    state = t.state
    task = state.task
    if task is not None and not task.is_started:
        stamp = task.stamp + 1
        note = TaskNote(replace(task, stamp=stamp), task.attempt, stamp, state.last_task_failure, state.last_task_failed_cause)
        t.note(note)


def fall_back_to_normal_queue(t: Transition) -> None:
    """The sticky worker is known to be gone: the same task is offered on the normal queue, without an event."""
    state = t.state
    task = state.task
    assert task is not None and not task.is_started and task.is_sticky
    stamp = task.stamp + 1
    give_up_at = t.now + SPECULATIVE_SCHEDULE_TO_START_NS if task.type == TaskType.SPECULATIVE else 0
    task = replace(task, is_sticky=False, stamp=stamp, schedule_to_start_at=give_up_at)
    t.note(TaskNote(task, task.attempt, stamp, state.last_task_failure, state.last_task_failed_cause))
    t.note(StickyNote("", 0))


def timeout_of_attempt(state: RunState, attempt: int) -> int:
    """ns. A task that keeps failing gets ever longer, so that a poison run asks ever less often (up to ten minutes)."""
    plain = state.task_timeout_ns
    if attempt <= ATTEMPTS_WITH_PLAIN_TIMEOUT:
        return plain
    backoff = 5 * SECOND_NS << min(attempt - ATTEMPTS_WITH_PLAIN_TIMEOUT - 1, 20)
    return plain + min(backoff, 600 * SECOND_NS)


def suggest_reasons(t: Transition) -> list[SuggestContinueAsNewReason.ValueType]:
    """Why the worker should continue as new soon."""
    limits, state = t.context.limits, t.state
    reasons: list[SuggestContinueAsNewReason.ValueType] = []
    if state.history_bytes >= limits.history_bytes_suggest:
        reasons.append(SuggestContinueAsNewReason.SUGGEST_CONTINUE_AS_NEW_REASON_HISTORY_SIZE_TOO_LARGE)
    if state.next_event_id >= limits.history_events_suggest:
        reasons.append(SuggestContinueAsNewReason.SUGGEST_CONTINUE_AS_NEW_REASON_TOO_MANY_HISTORY_EVENTS)
    if len(state.updates) >= limits.updates_total_max * 9 // 10:
        reasons.append(SuggestContinueAsNewReason.SUGGEST_CONTINUE_AS_NEW_REASON_TOO_MANY_UPDATES)
    return reasons


def _end_without_event(
    t: Transition, task: WorkflowTask, failure: Failure | None, cause: WorkflowTaskFailedCause.ValueType | int
) -> None:
    encoded = failure.SerializeToString(deterministic=True) if failure is not None else b""
    attempt = 1 if t.state.sticky_queue else task.attempt + 1
    t.note(TaskNote(None, attempt, task.stamp, encoded, int(cause)))
    if t.state.sticky_queue:
        t.note(StickyNote("", 0))


def _time_out_schedule_to_start(t: Transition, task: WorkflowTask) -> None:
    """Sticky: an event (as workers expect), then the normal queue. Speculative: becomes a normal task by being repeated."""
    if not task.events_written:
        task = write_scheduled(t, replace(task, type=TaskType.NORMAL))
    t.add(
        EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
        WorkflowTaskTimedOutEventAttributes(
            scheduled_event_id=task.scheduled_event_id,
            timeout_type=TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START,
        ),
    )
