"""An activity: work that a worker does outside the workflow, tried again until it is done, refused or late.

scheduled    offered to workers
started      a worker has it; without an event: the started event is written when the activity ends, with the last attempt
backing off  waits for its next attempt
paused       an operator holds it; one that is started runs on and is only not tried again

Cancelling is an overlay: a started activity learns it by a heartbeat, one that is not started ends at once.
Attempts, heartbeats and pauses are notes; history shows how it began and how it ended. Here: the machine and what time
does to it. Workers' calls are in activity_calls.py, commands in activity_commands.py, operators in activity_options.py.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from temporalio.api.common.v1 import Priority, RetryPolicy, WorkerVersionStamp
from temporalio.api.enums.v1 import EventType, RetryState, TimeoutType
from temporalio.api.failure.v1 import Failure, TimeoutFailureInfo
from temporalio.api.history.v1 import (
    ActivityTaskCanceledEventAttributes,
    ActivityTaskCancelRequestedEventAttributes,
    ActivityTaskCompletedEventAttributes,
    ActivityTaskFailedEventAttributes,
    ActivityTaskScheduledEventAttributes,
    ActivityTaskStartedEventAttributes,
    ActivityTaskTimedOutEventAttributes,
    HistoryEvent,
)

from cluster.core.entry import ActivityNote
from cluster.core.errors import invalid_argument, not_found
from cluster.core.events import duration_ns, timestamp_ns
from cluster.core.retry import TIMEOUT_TYPE_WORDS, failure_to_keep, is_retryable, next_backoff, next_retry_delay_of
from cluster.core.state import Activity, RunState
from cluster.core.table import Table, applies, on_flush
from cluster.core.transition import Transition

TABLE = Table(
    "activity",
    [
        # source         trigger                         target
        ("none", "ActivityTaskScheduled", "scheduled"),
        ("none", "ActivityTaskCancelRequested", "none"),  # its result is buffered: the worker could not know
        ("scheduled", "started", "started"),
        ("scheduled", "ActivityTaskStarted", "started"),  # completed by id without a worker; a fold of events alone
        ("scheduled", "ActivityTaskCancelRequested", "scheduled"),
        ("scheduled", "ActivityTaskCanceled", "none"),
        ("scheduled", "ActivityTaskTimedOut", "none"),
        ("scheduled", "paused", "paused"),
        ("scheduled", "offered anew", "scheduled"),  # reset, other options
        ("scheduled", "put off", "backing off"),
        ("started", "heartbeat", "started"),
        ("started", "retried", "backing off"),
        ("started", "retried while paused", "paused"),
        ("started", "withdrawn", "scheduled"),  # an eager start whose reply has not left yet
        ("started", "changed", "started"),  # paused, unpaused, reset, other options: counts for the next attempt
        ("started", "ActivityTaskStarted", "started"),
        ("started", "ActivityTaskCancelRequested", "started"),
        ("started", "ActivityTaskCompleted", "none"),
        ("started", "ActivityTaskFailed", "none"),
        ("started", "ActivityTaskCanceled", "none"),
        ("started", "ActivityTaskTimedOut", "none"),
        ("backing off", "due", "scheduled"),
        ("backing off", "ActivityTaskStarted", "started"),
        ("backing off", "ActivityTaskCancelRequested", "backing off"),
        ("backing off", "ActivityTaskCanceled", "none"),
        ("backing off", "ActivityTaskTimedOut", "none"),
        ("backing off", "paused", "paused"),
        ("backing off", "offered anew", "scheduled"),
        ("backing off", "put off", "backing off"),
        ("paused", "offered anew", "scheduled"),
        ("paused", "put off", "backing off"),
        ("paused", "changed", "paused"),
        ("paused", "ActivityTaskStarted", "started"),
        ("paused", "ActivityTaskCancelRequested", "paused"),
        ("paused", "ActivityTaskCanceled", "none"),
    ],
)

ACTIVITY_TASK_NOT_FOUND = "invalid activityID or activity already timed out or invoking workflow is completed"
NOT_ENOUGH_TIME = "Not enough time to schedule next retry before activity ScheduleToClose timeout, giving up retrying"
FAILURE_BYTES_MAX = 4 * 1024  # limit.mutableStateActivityFailureSize.error: what the state carries from attempt to attempt
_OVERALL_DEADLINES = (TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START, TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE)
_DUE_AGAIN = 0  # sorts before the timeouts, whose numbers begin at 1


def position(activity: Activity | None) -> str:
    """The machine's state, derived."""
    if activity is None:
        return "none"
    if activity.started_at:
        return "started"
    if activity.paused_at:
        return "paused"
    return "backing off" if activity.next_attempt_at else "scheduled"


# --- fold --------------------------------------------------------------------------------------------------------------


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
def _scheduled(state: RunState, event: HistoryEvent, attributes: ActivityTaskScheduledEventAttributes) -> None:
    TABLE.step(position(state.activities.get(event.event_id)), "ActivityTaskScheduled")
    at = timestamp_ns(event.event_time)
    a = attributes
    state.activities[event.event_id] = Activity(
        scheduled_event_id=event.event_id,
        activity_id=a.activity_id,
        activity_type=a.activity_type.name,
        task_queue=a.task_queue.name,
        first_scheduled_at=at,
        scheduled_at=at,
        schedule_to_close_ns=duration_ns(a.schedule_to_close_timeout),
        schedule_to_start_ns=duration_ns(a.schedule_to_start_timeout),
        start_to_close_ns=duration_ns(a.start_to_close_timeout),
        heartbeat_ns=duration_ns(a.heartbeat_timeout),
        retry_policy=a.retry_policy.SerializeToString() if a.HasField("retry_policy") else b"",
        priority=a.priority.SerializeToString() if a.HasField("priority") else b"",
    )
    state.activity_ids[a.activity_id] = event.event_id


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED)
def _started(state: RunState, event: HistoryEvent, attributes: ActivityTaskStartedEventAttributes) -> None:
    activity = state.activities.get(attributes.scheduled_event_id)
    TABLE.step(position(activity), "ActivityTaskStarted")
    assert activity is not None
    state.activities[activity.scheduled_event_id] = replace(
        activity,
        started_event_id=event.event_id,
        started_at=timestamp_ns(event.event_time),
        next_attempt_at=0,
        attempt=attributes.attempt or activity.attempt,
        request_id=attributes.request_id,
        identity=attributes.identity,
        last_failure=attributes.last_failure.SerializeToString() if attributes.HasField("last_failure") else b"",
    )


@on_flush(EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED)
def _started_flushed(state: RunState, event: HistoryEvent) -> None:
    """Only an activity without retries outlives its started event."""
    activity = state.activities.get(event.activity_task_started_event_attributes.scheduled_event_id)
    if activity is not None:
        state.activities[activity.scheduled_event_id] = replace(activity, started_event_id=event.event_id)


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
def _completed(state: RunState, event: HistoryEvent, attributes: ActivityTaskCompletedEventAttributes) -> None:
    _ended(state, attributes.scheduled_event_id, "ActivityTaskCompleted")


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED)
def _failed(state: RunState, event: HistoryEvent, attributes: ActivityTaskFailedEventAttributes) -> None:
    _ended(state, attributes.scheduled_event_id, "ActivityTaskFailed")


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT)
def _timed_out(state: RunState, event: HistoryEvent, attributes: ActivityTaskTimedOutEventAttributes) -> None:
    _ended(state, attributes.scheduled_event_id, "ActivityTaskTimedOut")


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED)
def _canceled(state: RunState, event: HistoryEvent, attributes: ActivityTaskCanceledEventAttributes) -> None:
    _ended(state, attributes.scheduled_event_id, "ActivityTaskCanceled")


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED)
def _cancel_requested(state: RunState, event: HistoryEvent, attributes: ActivityTaskCancelRequestedEventAttributes) -> None:
    activity = state.activities.get(attributes.scheduled_event_id)
    TABLE.step(position(activity), "ActivityTaskCancelRequested")
    if activity is not None:
        state.activities[activity.scheduled_event_id] = replace(
            activity, cancel_requested=True, cancel_requested_event_id=event.event_id
        )


def _ended(state: RunState, scheduled_event_id: int, trigger: str) -> None:
    activity = state.activities.get(scheduled_event_id)
    TABLE.step(position(activity), trigger)
    assert activity is not None
    del state.activities[scheduled_event_id]
    # The id may have been taken again by an activity scheduled while this one's end was buffered.
    if state.activity_ids.get(activity.activity_id) == scheduled_event_id:
        del state.activity_ids[activity.activity_id]


# --- questions ---------------------------------------------------------------------------------------------------------


def find(
    state: RunState, scheduled_event_id: int, activity_id: str = "", attempt: int = 0, *, must_be_started: bool = True
) -> Activity:
    """The pending activity a caller means: by its task token, or (scheduled_event_id 0) by its id.

    Raises CallerError NOT_FOUND: no such activity, another attempt than the token's, or not started though it must be.
    """
    if not state.is_open:
        raise not_found("workflow execution already completed")
    by_id = scheduled_event_id == 0
    if by_id:
        if not activity_id:
            raise invalid_argument("activityID cannot be empty")
        if activity_id not in state.activity_ids:
            what = f"cannot find pending activity with ActivityID {activity_id}"
            raise not_found(f"{what}, check workflow execution history for more details")
        scheduled_event_id = state.activity_ids[activity_id]
    activity = state.activities.get(scheduled_event_id)
    if activity is None or (must_be_started and not activity.is_started) or (not by_id and attempt != activity.attempt):
        raise not_found(ACTIVITY_TASK_NOT_FOUND)
    return activity


def is_dispatchable(activity: Activity) -> bool:
    """Whether the activity is to be offered to matching. The caller holds back all activities of a paused run."""
    return position(activity) == "scheduled"


def offer_stamp(activity: Activity) -> int:
    """Differs between offers of different attempts, options and pauses."""
    return activity.stamp


def policy_of(activity: Activity) -> RetryPolicy | None:
    return RetryPolicy.FromString(activity.retry_policy) if activity.retry_policy else None


def expires_at(activity: Activity) -> int:
    """ns since the epoch, 0 = never: over all attempts."""
    return activity.first_scheduled_at + activity.schedule_to_close_ns if activity.schedule_to_close_ns else 0


def priority_of(state: RunState, activity: Activity) -> Priority:
    """The activity's own, and for what it leaves open the run's."""
    base, own = Priority.FromString(state.priority), Priority.FromString(activity.priority)
    return Priority(
        priority_key=own.priority_key or base.priority_key,
        fairness_key=own.fairness_key or base.fairness_key,
        fairness_weight=own.fairness_weight or base.fairness_weight,
    )


# --- decide: time ------------------------------------------------------------------------------------------------------


def deadlines(activity: Activity) -> list[tuple[int, int]]:
    """(ns since the epoch, TimeoutType) of each that counts now, and (.., 0) for a next attempt. None while paused."""
    if activity.paused_at:
        return []
    found: list[tuple[int, int]] = []
    if activity.schedule_to_close_ns:
        found.append((expires_at(activity), TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE))
    if not activity.started_at:
        if activity.next_attempt_at:
            found.append((activity.next_attempt_at, _DUE_AGAIN))
        if activity.schedule_to_start_ns:
            offered_at = activity.next_attempt_at or activity.scheduled_at
            found.append((offered_at + activity.schedule_to_start_ns, TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START))
        return found
    if activity.start_to_close_ns:
        found.append((activity.started_at + activity.start_to_close_ns, TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE))
    if activity.heartbeat_ns:
        heard_at = max(activity.started_at, activity.heartbeat_at)
        found.append((heard_at + activity.heartbeat_ns, TimeoutType.TIMEOUT_TYPE_HEARTBEAT))
    return found


def due_at(activity: Activity) -> int:
    """ns since the epoch: the earliest moment at which `decide_due` has something to do; 0 = never."""
    return min((at for at, _ in deadlines(activity)), default=0)


def decide_due(t: Transition, scheduled_event_id: int) -> bool:
    """Does what is due, in the order of the deadlines. True: tell the workflow."""
    while (pending := t.state.activities.get(scheduled_event_id)) is not None:
        at, kind = min(deadlines(pending), default=(t.now + 1, _DUE_AGAIN))
        if at > t.now:
            return False
        if kind == _DUE_AGAIN:
            change(t, pending, "due", scheduled_at=t.now, next_attempt_at=0)
        elif _time_out(t, pending, kind):
            return True
    return False


def _time_out(t: Transition, activity: Activity, kind: int) -> bool:
    """One timeout: another attempt (False) or the end (True)."""
    timeout_type: Any = kind
    failure = Failure(
        message=f"activity {TIMEOUT_TYPE_WORDS[kind]} timeout",
        source="Server",
        timeout_failure_info=TimeoutFailureInfo(timeout_type=timeout_type),
    )
    retry_state = retry(t, activity, failure)
    if retry_state == RetryState.RETRY_STATE_IN_PROGRESS:
        return False
    if retry_state == RetryState.RETRY_STATE_TIMEOUT and kind != TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START:
        # Whatever came first, what ends the activity is that no attempt fits before its last deadline.
        failure.message = NOT_ENOUGH_TIME
        failure.timeout_failure_info.timeout_type = TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
    if activity.heartbeat_details:
        failure.timeout_failure_info.last_heartbeat_details.ParseFromString(activity.heartbeat_details)
    if activity.last_failure:
        failure.cause.ParseFromString(activity.last_failure)
    started_event_id = write_started(t, activity, None)
    t.add(
        EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
        ActivityTaskTimedOutEventAttributes(
            scheduled_event_id=activity.scheduled_event_id,
            started_event_id=started_event_id,
            failure=failure,
            retry_state=retry_state,
        ),
    )
    return True


# --- steps -------------------------------------------------------------------------------------------------------------


def change(t: Transition, activity: Activity, trigger: str, **changes: Any) -> Activity:
    """Takes a step of the table that no event tells, as one note."""
    target = TABLE.step(position(activity), trigger)
    changed: Activity = replace(activity, **changes)
    assert position(changed) == target, f"{trigger} led to {position(changed)}, not to {target}"
    t.note(ActivityNote(changed))
    return changed


def retry(t: Transition, activity: Activity, failure: Failure) -> RetryState.ValueType:
    """Prepares the next attempt if there is to be one (IN_PROGRESS), else says why not and changes nothing."""
    policy = policy_of(activity)
    if policy is None:
        return RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET
    if activity.cancel_requested:
        return RetryState.RETRY_STATE_CANCEL_REQUESTED
    if failure.timeout_failure_info.timeout_type in _OVERALL_DEADLINES:
        return RetryState.RETRY_STATE_TIMEOUT
    if not is_retryable(failure, list(policy.non_retryable_error_types)):
        return RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE
    next_attempt: dict[str, Any] = {
        "attempt": activity.attempt + 1,
        "stamp": activity.stamp + 1,
        "started_at": 0,
        "request_id": "",
        "last_failure": failure_to_keep(failure, FAILURE_BYTES_MAX),
        "last_attempt_ended_at": t.now,
    }
    if activity.paused_at:
        change(t, activity, "retried while paused", **next_attempt)
        return RetryState.RETRY_STATE_IN_PROGRESS
    delay_ns = next_retry_delay_of(failure)
    backoff_ns, retry_state = next_backoff(policy, activity.attempt, t.now, expires_at(activity), failure, delay_ns)
    if backoff_ns is None:
        return retry_state
    change(
        t,
        activity,
        "retried",
        next_attempt_at=t.now + backoff_ns,
        last_worker_identity=activity.identity,
        **next_attempt,
        **forget_what_was_reset(activity),
    )
    return RetryState.RETRY_STATE_IN_PROGRESS


def forget_what_was_reset(activity: Activity) -> dict[str, Any]:
    """What a reset of a running attempt left to be done before the next one."""
    progress: dict[str, Any] = {"heartbeat_details": b"", "heartbeat_at": 0} if activity.reset_heartbeats else {}
    return {"was_reset": False, "reset_heartbeats": False, **progress}


def started_attributes(activity: Activity, *, request_id: str, identity: str) -> ActivityTaskStartedEventAttributes:
    attributes = ActivityTaskStartedEventAttributes(
        scheduled_event_id=activity.scheduled_event_id, attempt=activity.attempt, request_id=request_id, identity=identity
    )
    if activity.last_failure:
        attributes.last_failure.ParseFromString(activity.last_failure)
    return attributes


def write_started(t: Transition, activity: Activity, worker_version: WorkerVersionStamp | None) -> int:
    """The started event that an ending activity still owes, with the time its last attempt started. Returns its id:
    0 if it never was started, and if the event is buffered (the flush wires the id into the event that follows)."""
    if not activity.is_started or activity.started_event_id:
        return activity.started_event_id
    attributes = started_attributes(activity, request_id=activity.request_id, identity=activity.identity)
    if worker_version is not None:
        attributes.worker_version.CopyFrom(worker_version)
    elif activity.worker_version:
        attributes.worker_version.ParseFromString(activity.worker_version)
    return t.add(EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED, attributes, at=activity.started_at).event_id
