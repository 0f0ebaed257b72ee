"""Whatever is outstanding has something that will move it.

Read off the public history alone: a scheduled activity, a started timer, a workflow task, or an event that the workflow has
not been told of. Two looks at the same runs, a while apart with faults off: what was outstanding at the first look,
was due, and is still outstanding at the second, has been forgotten by the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from chaos.checkers.histories import RunHistory, Violation

E = EventType

# Events that make a workflow task necessary, unless one completes or is scheduled after them.
TELLING = frozenset(
    {
        E.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED,
        E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
        E.EVENT_TYPE_ACTIVITY_TASK_FAILED,
        E.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
        E.EVENT_TYPE_ACTIVITY_TASK_CANCELED,
        E.EVENT_TYPE_TIMER_FIRED,
        E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
        E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
        E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
        E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT,
        E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED,
        E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED,
    }
)

# What opens something (by its event id), and the field by which later events close it.
OPENS = {
    E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: "activity",
    E.EVENT_TYPE_TIMER_STARTED: "timer",
    E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED: "workflow task",
    E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED: "child",
    E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: "signal out",
    E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: "cancel out",
}
CLOSES = {
    E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: "scheduled_event_id",
    E.EVENT_TYPE_ACTIVITY_TASK_FAILED: "scheduled_event_id",
    E.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: "scheduled_event_id",
    E.EVENT_TYPE_ACTIVITY_TASK_CANCELED: "scheduled_event_id",
    E.EVENT_TYPE_TIMER_FIRED: "started_event_id",
    E.EVENT_TYPE_TIMER_CANCELED: "started_event_id",
    E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED: "scheduled_event_id",
    E.EVENT_TYPE_WORKFLOW_TASK_FAILED: "scheduled_event_id",
    E.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT: "scheduled_event_id",
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED: "initiated_event_id",
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED: "initiated_event_id",
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED: "initiated_event_id",
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT: "initiated_event_id",
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED: "initiated_event_id",
    E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED: "initiated_event_id",
    E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED: "initiated_event_id",
    E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: "initiated_event_id",
    E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED: "initiated_event_id",
    E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: "initiated_event_id",
}


@dataclass(frozen=True)
class Outstanding:
    """due_ns: from when on something should be moving it."""

    what: str
    event_id: int
    due_ns: int


def outstanding(history: RunHistory) -> list[Outstanding]:
    """What the run waits for, oldest first. A closed run waits for nothing; an idle run (only new signals move it) neither."""
    if not history.is_open:
        return []
    waiting: dict[int, Outstanding] = {}
    untold: Outstanding | None = None
    for event in history.events:
        if event.event_type in OPENS:
            waiting[event.event_id] = Outstanding(OPENS[event.event_type], event.event_id, due_ns(event))
            if event.event_type == E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED:
                untold = None
        elif event.event_type in CLOSES:
            closed_id = getattr(getattr(event, event.WhichOneof("attributes") or ""), CLOSES[event.event_type])
            closed = waiting.pop(closed_id, None)
            failed = (E.EVENT_TYPE_WORKFLOW_TASK_FAILED, E.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT)
            if closed is not None and event.event_type in failed:
                # A task that failed is tried again; the next attempt stays out of the history until it completes.
                untold = Outstanding("event not told", closed_id, closed.due_ns)
        if event.event_type in TELLING and untold is None and "workflow task" not in {item.what for item in waiting.values()}:
            untold = Outstanding("event not told", event.event_id, due_ns(event))
    return sorted([*waiting.values(), *([untold] if untold else [])], key=lambda item: item.event_id)


def due_ns(event: HistoryEvent) -> int:
    begun_ns = event.event_time.ToNanoseconds()
    if event.event_type == E.EVENT_TYPE_TIMER_STARTED:
        return begun_ns + event.timer_started_event_attributes.start_to_fire_timeout.ToNanoseconds()
    if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
        return begun_ns + event.workflow_execution_started_event_attributes.first_workflow_task_backoff.ToNanoseconds()
    return begun_ns


def everything_outstanding_moves(
    before: Sequence[RunHistory], after: Sequence[RunHistory], before_ns: int, waits_for_others: frozenset[str] = frozenset()
) -> list[Violation]:
    """`before` was read at `before_ns` (server's clock), `after` long enough later. `waits_for_others`: kinds of Outstanding
    that may rightly stay (e.g. {"child"}, if children may run that long, or {"activity"} without a worker)."""
    later = {history.run_id: history for history in after}
    violations: list[Violation] = []
    for history in before:
        now = later.get(history.run_id)
        if now is None:
            text = "was there at the first look and has no history at the second"
            violations.append(Violation("everything_outstanding_moves", history.workflow_id, history.run_id, text))
            continue
        still = {(item.what, item.event_id) for item in outstanding(now)}
        for item in outstanding(history):
            if item.due_ns <= before_ns and item.what not in waits_for_others and (item.what, item.event_id) in still:
                text = f"{item.what} of event {item.event_id} has not moved"
                violations.append(Violation("everything_outstanding_moves", history.workflow_id, history.run_id, text))
    return violations


def every_run_ended(histories: Sequence[RunHistory]) -> list[Violation]:
    """For workloads that are told to end: a run that is still open names what it waits for."""
    return [
        Violation(
            "every_run_ended", history.workflow_id, history.run_id, f"open; outstanding: {outstanding(history) or 'nothing'}"
        )
        for history in histories
        if history.is_open
    ]
