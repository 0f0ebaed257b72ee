"""Events that are not written as they happen: those of transient and speculative workflow tasks.

A failing task's repetitions and an update's own task begin without events. Their worker is shown what the events would be;
they are written when the task completes, fails or times out, or when news comes that must follow them.
"""

from __future__ import annotations

from msgspec.structs import replace
from temporalio.api.common.v1 import WorkerVersionStamp
from temporalio.api.enums.v1 import EventType, TaskQueueKind
from temporalio.api.history.v1 import (
    HistoryEvent,
    WorkflowTaskScheduledEventAttributes,
    WorkflowTaskStartedEventAttributes,
)
from temporalio.api.taskqueue.v1 import TaskQueue

from cluster.core.entry import TaskNote
from cluster.core.events import duration, timestamp
from cluster.core.state import RunState, TaskType, WorkflowTask
from cluster.core.table import IllegalTransition
from cluster.core.transition import Transition, before_fact


def queue_of(state: RunState) -> TaskQueue:
    """Where the next task is offered: the sticky queue of the last worker, else the run's own."""
    if state.sticky_queue:
        return TaskQueue(
            name=state.sticky_queue, kind=TaskQueueKind.TASK_QUEUE_KIND_STICKY, normal_name=state.task_queue
        )
    return TaskQueue(name=state.task_queue, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL)


def pending_task(t: Transition) -> WorkflowTask:
    """The task after an event that made one."""
    task = t.state.task
    assert task is not None
    return task


def pending_events(state: RunState, version: int) -> list[HistoryEvent]:
    """Scheduled and started events of a transient or speculative task, as its worker sees them: not in the history yet."""
    task = state.task
    if task is None or task.events_written:
        return []
    events = [
        HistoryEvent(
            event_id=task.scheduled_event_id,
            event_time=timestamp(task.scheduled_at),
            event_type=EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
            version=version,
            workflow_task_scheduled_event_attributes=_scheduled_attributes(state, task),
        )
    ]
    if task.is_started:
        events.append(
            HistoryEvent(
                event_id=task.started_event_id,
                event_time=timestamp(task.started_at),
                event_type=EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED,
                version=version,
                workflow_task_started_event_attributes=WorkflowTaskStartedEventAttributes.FromString(task.started_attributes),
            )
        )
    return events


def _scheduled_attributes(state: RunState, task: WorkflowTask) -> WorkflowTaskScheduledEventAttributes:
    return WorkflowTaskScheduledEventAttributes(
        task_queue=queue_of(state), start_to_close_timeout=duration(task.timeout_ns), attempt=task.attempt
    )


@before_fact
def make_real(t: Transition) -> None:
    """News has come while a speculative task was pending: what its worker sees is history now."""
    task = t.state.task
    if task is None or task.events_written or task.type != TaskType.SPECULATIVE:
        return
    real = write_scheduled(t, replace(task, type=TaskType.NORMAL))
    if task.is_started:
        write_started(t, real, "", None)
        real = replace(real, started_event_id=pending_task(t).started_event_id, started_attributes=b"")
    t.note(TaskNote(real, t.state.task_attempt, real.stamp, t.state.last_task_failure, t.state.last_task_failed_cause))


def write_scheduled(t: Transition, task: WorkflowTask) -> WorkflowTask:
    t.add(EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED, _scheduled_attributes(t.state, task), at=task.scheduled_at)
    return replace(task, scheduled_event_id=pending_task(t).scheduled_event_id, events_written=True)


def write_started(
    t: Transition, task: WorkflowTask, identity: str, worker_version: WorkerVersionStamp | None
) -> None:
    attributes = WorkflowTaskStartedEventAttributes.FromString(task.started_attributes)
    attributes.scheduled_event_id = task.scheduled_event_id
    attributes.identity = identity
    attributes.ClearField("worker_version")
    if worker_version is not None:
        attributes.worker_version.CopyFrom(worker_version)
    t.add(EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED, attributes, at=task.started_at)


def write_events(t: Transition, identity: str, worker_version: WorkerVersionStamp | None) -> WorkflowTask:
    """Writes the scheduled and started events that a transient or speculative task still owes.

    The started event names who ended the task, as the public server's does: it has forgotten who took it.
    """
    task = t.state.task
    if task is None or not task.is_started:
        raise IllegalTransition("no started workflow task")
    if task.events_written:
        return task
    write_started(t, write_scheduled(t, task), identity, worker_version)
    return pending_task(t)
