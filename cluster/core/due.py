"""When a run wants to be looked at, and what it does then. Timers are not queued: each run has one wake-up time.

What is due is done in the order of its due times; a workflow task is scheduled once, after all of it.
"""

from __future__ import annotations

from temporalio.api.enums.v1 import RetryState, TimeoutType
from temporalio.api.failure.v1 import Failure, TimeoutFailureInfo

from cluster.core.machines import activity, callback, lifecycle, nexus_operation, timer, workflow_task
from cluster.core.machines.successor import next_after, repeat
from cluster.core.state import RunState
from cluster.core.transition import Transition


def wake_at(state: RunState) -> int:
    """ns since the epoch of the earliest timer of an open run, 0 = none. A closed one may have callbacks to try again."""
    if not state.is_open:
        return callback.due_at(state) if not state.is_deleted else 0
    earliest = lifecycle.run_expires_at(state)
    if (at := _task_due_at(state)) and (not earliest or at < earliest):
        earliest = at
    for one in state.activities.values():
        if (at := activity.due_at(one)) and (not earliest or at < earliest):
            earliest = at
    for operation in state.operations.values():
        if (at := nexus_operation.due_at(operation)) and (not earliest or at < earliest):
            earliest = at
    for pending in state.timers.values():
        if not earliest or pending.fires_at < earliest:
            earliest = pending.fires_at
    return earliest


def _task_due_at(state: RunState) -> int:
    task = state.task
    if task is None:
        return state.first_task_at if lifecycle.is_waiting_for_first_task(state) and not state.paused_at else 0
    if task.started_event_id:
        return task.started_at + task.timeout_ns
    return task.schedule_to_start_at if not state.paused_at else 0


def decide_due(t: Transition) -> list[Transition]:
    """Does everything that is due at t.now. Returns the transitions of new runs (retry, cron) made by a time-out."""
    state, now = t.state, t.now
    if not state.is_open:
        callback.decide_due(t)
        return []
    expires_at = lifecycle.run_expires_at(state)
    due = [(one.fires_at, one.started_event_id, "timer", one.timer_id) for one in state.timers.values() if one.fires_at <= now]
    for one in state.activities.values():
        if (at := activity.due_at(one)) and at <= now:
            due.append((at, one.scheduled_event_id, "activity", ""))
    for operation in state.operations.values():
        if (at := nexus_operation.due_at(operation)) and at <= now:
            due.append((at, operation.scheduled_event_id, "operation", ""))
    if (at := _task_due_at(state)) and at <= now:
        due.append((at, 0, "task", ""))
    if expires_at and expires_at <= now:
        due = [one for one in due if one[0] < expires_at]
    must_tell = False
    for _, event_id, kind, timer_id in sorted(due):
        if kind == "timer":
            must_tell |= timer.fire(t, timer_id)
        elif kind == "activity":
            must_tell |= activity.decide_due(t, event_id)
        elif kind == "operation":
            must_tell |= nexus_operation.decide_due(t, event_id)
        else:
            _task_due(t)
    if expires_at and expires_at <= now:
        return _expire(t)
    if must_tell and not lifecycle.is_waiting_for_first_task(state):
        workflow_task.schedule(t)
    return []


def _task_due(t: Transition) -> None:
    state = t.state
    if state.task is None:  # the first task's backoff is over
        workflow_task.schedule(t)
    else:
        workflow_task.time_out(t)
        workflow_task.schedule(t)


def _expire(t: Transition) -> list[Transition]:
    """The run's time is over: it closes, and its retry policy or cron schedule may make another run."""
    state = t.state
    if state.execution_expires_at and state.execution_expires_at <= t.now:
        lifecycle.time_out(t, RetryState.RETRY_STATE_TIMEOUT)
        return []
    failure = Failure(
        message="workflow timeout",
        source="Server",
        timeout_failure_info=TimeoutFailureInfo(timeout_type=TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE),
    )
    after = next_after(state, t.now, failure)
    if after.backoff_ns is None:
        lifecycle.time_out(t, after.retry_state)
        return []
    run_id = t.context.ids.uuid()
    successor = repeat(t, run_id, after, failure, None)
    lifecycle.time_out(t, after.retry_state, run_id)
    return [successor]
