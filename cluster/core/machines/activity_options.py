"""What an activity may be asked for, and what operators do to a pending one: pause, unpause, reset, other options.

An intervention never writes an event. One that changes what is on offer raises the stamp, so that offers made before are
void. The machine is in activity.py; the words of refusals are the Temporal server's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import Priority, RetryPolicy
from temporalio.api.enums.v1 import TaskQueueKind
from temporalio.api.history.v1 import ActivityTaskScheduledEventAttributes
from temporalio.api.taskqueue.v1 import TaskQueue

from cluster.config import Limits
from cluster.core.errors import CallerError, failed_precondition, invalid_argument, not_found
from cluster.core.events import duration, duration_ns
from cluster.core.machines.activity import change, forget_what_was_reset, policy_of
from cluster.core.retry import check_duration, exponential_interval, validate, with_defaults
from cluster.core.state import Activity, RunState
from cluster.core.transition import Transition

ACTIVITY_NOT_FOUND = "Can't find pending activity with such ID. Invalid activityID or activity already completed"
RESERVED_QUEUE_PREFIX = "/_sys/"  # tqid: partitions of queues
SYSTEM_QUEUE_PREFIX = "temporal-sys-per-ns-"  # primitives: queues of the server's own workers
FAIRNESS_KEY_BYTES_MAX = 64  # priorities.fairnessKeyMaxLength

# What an update mask may name (paths as in JSON), and the field of ActivityOptions that it replaces.
_FIELDS = {
    "scheduleToCloseTimeout": "schedule_to_close_timeout",
    "scheduleToStartTimeout": "schedule_to_start_timeout",
    "startToCloseTimeout": "start_to_close_timeout",
    "heartbeatTimeout": "heartbeat_timeout",
    "priority": "priority",
}
_SUB_FIELDS = {
    "taskQueue.name": ("task_queue", "name", "TaskQueue"),
    "priority.priorityKey": ("priority", "priority_key", "Priority"),
    "priority.fairnessKey": ("priority", "fairness_key", "Priority"),
    "priority.fairnessWeight": ("priority", "fairness_weight", "Priority"),
    "retryPolicy.initialInterval": ("retry_policy", "initial_interval", "RetryPolicy"),
    "retryPolicy.backoffCoefficient": ("retry_policy", "backoff_coefficient", "RetryPolicy"),
    "retryPolicy.maximumInterval": ("retry_policy", "maximum_interval", "RetryPolicy"),
    "retryPolicy.maximumAttempts": ("retry_policy", "maximum_attempts", "RetryPolicy"),
}


# --- validation --------------------------------------------------------------------------------------------------------


def check_options(
    activity_id: str, activity_type: str, options: ActivityOptions, *, run_timeout_ns: int, run_queue: str, limits: Limits
) -> None:
    """Raises CallerError INVALID_ARGUMENT. Fills and caps in place: every timeout is set then, 0 = none.

    run_queue: the task queue of the workflow; only the server's own workflows may use the server's own queues.
    """
    _check_queue(options, run_queue, limits)
    if not activity_id:
        raise invalid_argument("activityId is not set")
    if not activity_type:
        raise invalid_argument("activityType is not set")
    options.retry_policy.CopyFrom(with_defaults(options.retry_policy, limits))
    validate(options.retry_policy)
    for name, text in (("activityId", activity_id), ("activityType", activity_type)):
        size = len(text.encode())
        if size > limits.id_bytes_max:
            raise invalid_argument(f"{name} exceeds length limit. Length={size} Limit={limits.id_bytes_max}")
    try:
        check_priority(options.priority)
    except CallerError as error:
        raise invalid_argument(f"invalid priorities: {error.message}") from error
    _settle_timeouts(activity_id, activity_type, options, run_timeout_ns)


def check_priority(priority: Priority) -> None:
    """Raises CallerError INVALID_ARGUMENT."""
    if priority.priority_key < 0:
        raise invalid_argument("priority key can't be negative")
    if len(priority.fairness_key.encode()) > FAIRNESS_KEY_BYTES_MAX:
        raise invalid_argument("fairness key length exceeds limit")
    if priority.fairness_weight < 0:
        raise invalid_argument("must be greater than zero")


def _check_queue(options: ActivityOptions, run_queue: str, limits: Limits) -> None:
    if not options.HasField("task_queue"):
        raise invalid_argument("taskQueue is not set")
    queue = options.task_queue
    if not queue.name:
        raise invalid_argument("missing task queue name")
    if len(queue.name.encode()) > limits.id_bytes_max:
        raise invalid_argument("taskQueue length exceeds limit")
    if queue.name.startswith(RESERVED_QUEUE_PREFIX):
        raise invalid_argument(f"task queue name cannot start with reserved prefix {RESERVED_QUEUE_PREFIX}")
    if queue.name.startswith(SYSTEM_QUEUE_PREFIX) and not run_queue.startswith(SYSTEM_QUEUE_PREFIX):
        within = f" (in parent component task queue: {run_queue})" if run_queue else ""
        raise invalid_argument(f"cannot use internal per-namespace task queue:{queue.name}{within}")
    queue.kind = queue.kind or TaskQueueKind.TASK_QUEUE_KIND_NORMAL


def _settle_timeouts(activity_id: str, activity_type: str, options: ActivityOptions, run_timeout_ns: int) -> None:
    """Each timeout from the others and the run's: nothing of an activity outlasts its run."""
    check_duration(options.schedule_to_close_timeout, "invalid ScheduleToCloseTimeout")
    check_duration(options.schedule_to_start_timeout, "invalid ScheduleToStartTimeout")
    check_duration(options.start_to_close_timeout, "invalid StartToCloseTimeout")
    check_duration(options.heartbeat_timeout, "invalid HeartbeatTimeout")
    to_close = duration_ns(options.schedule_to_close_timeout)
    to_start = duration_ns(options.schedule_to_start_timeout)
    attempt = duration_ns(options.start_to_close_timeout)
    silence = duration_ns(options.heartbeat_timeout)
    if to_close:
        to_start = min(to_start or to_close, to_close)
        attempt = min(attempt or to_close, to_close)
    elif attempt:
        to_close = run_timeout_ns
        to_start = to_start or run_timeout_ns
    else:
        raise invalid_argument(
            "a valid StartToCloseTimeout or ScheduleToCloseTimeout must be set on the activity."
            f" ActivityId={activity_id} ActivityType={activity_type}"
        )
    if run_timeout_ns:
        to_close, to_start, attempt = min(to_close, run_timeout_ns), min(to_start, run_timeout_ns), min(attempt, run_timeout_ns)
    options.schedule_to_close_timeout.CopyFrom(duration(to_close))
    options.schedule_to_start_timeout.CopyFrom(duration(to_start))
    options.start_to_close_timeout.CopyFrom(duration(attempt))
    options.heartbeat_timeout.CopyFrom(duration(min(silence, attempt)))


# --- interventions -----------------------------------------------------------------------------------------------------


def select(
    state: RunState, activity_id: str | None = None, activity_type: str | None = None, *, match_all: bool = False
) -> list[int]:
    """Scheduled event ids of the pending activities a request names, in order. Raises CallerError NOT_FOUND for none."""
    if not state.is_open:
        raise not_found("workflow execution already completed")
    if activity_type is not None:
        chosen = [one.scheduled_event_id for one in state.activities.values() if one.activity_type == activity_type]
    elif match_all:
        chosen = list(state.activities)
    else:
        chosen = [state.activity_ids[activity_id]] if activity_id in state.activity_ids else []
    if not chosen:
        raise not_found(ACTIVITY_NOT_FOUND)
    return sorted(chosen)


def pause(t: Transition, chosen: Sequence[int], *, identity: str, reason: str, request_id: str) -> None:
    """Holds the activities back; what a worker has runs on. The same request again does nothing, another one is refused."""
    for activity in _pending(t, chosen):
        if activity.paused_at:
            if activity.pause_request_id == request_id:
                continue
            raise failed_precondition("activity is already paused")
        held: dict[str, Any] = {
            "paused_at": t.now,
            "pause_identity": identity,
            "pause_reason": reason,
            "pause_request_id": request_id,
        }
        if activity.is_started:
            change(t, activity, "changed", **held)
        else:
            change(t, activity, "paused", stamp=activity.stamp + 1, **held)


def unpause(
    t: Transition, chosen: Sequence[int], *, reset_attempts: bool = False, reset_heartbeat: bool = False, jitter_ns: int = 0
) -> None:
    """Lets paused activities go on: at once, or within the jitter. Others stay as they are."""
    for activity in _pending(t, chosen):
        if not activity.paused_at:
            continue
        changes = _not_paused(activity)
        if reset_attempts:
            changes["attempt"] = 1
        if reset_heartbeat:
            changes.update(heartbeat_details=b"", heartbeat_at=0)
        if activity.is_started:
            change(t, activity, "changed", **changes)
        else:
            _offer(t, activity, t.now + _jitter(t, jitter_ns), changes)


def reset(
    t: Transition,
    chosen: Sequence[int],
    *,
    reset_heartbeat: bool = False,
    keep_paused: bool = False,
    jitter_ns: int = 0,
    originals: Mapping[int, ActivityTaskScheduledEventAttributes] | None = None,
) -> None:
    """Back to the first attempt: offered at once or within the jitter; a running attempt hears of it by its heartbeat.

    originals: attributes of the scheduled events by their ids, given if the original options are to be restored.
    """
    for activity in _pending(t, chosen):
        stays_paused = bool(activity.paused_at) and keep_paused
        changes: dict[str, Any] = {"attempt": 1, "was_reset": True}
        if reset_heartbeat:
            changes["reset_heartbeats"] = True
        if originals is not None:
            changes.update(_of_event(originals[activity.scheduled_event_id]), stamp=activity.stamp + 1)
        if activity.paused_at and not keep_paused:
            changes.update(_not_paused(activity))
        if activity.is_started or stays_paused:
            change(t, activity, "changed", **changes)
            continue
        changes.update(stamp=activity.stamp + 1, was_reset=False, reset_heartbeats=False)
        if reset_heartbeat or activity.reset_heartbeats:
            changes.update(heartbeat_details=b"", heartbeat_at=0)
        _offer(t, activity, t.now + _jitter(t, jitter_ns), changes)


def update_options(
    t: Transition, chosen: Sequence[int], options: ActivityOptions | None, mask: Sequence[str] | None
) -> ActivityOptions:
    """Replaces what the mask names. Returns the options of the last activity chosen. Raises CallerError INVALID_ARGUMENT."""
    if options is None:
        raise invalid_argument("ActivityOptions are not provided")
    if mask is None:
        raise invalid_argument("UpdateMask is not provided")
    paths = {json_path(path) for path in mask}
    merged = ActivityOptions()
    for activity in _pending(t, chosen):
        merged = options_of(activity)
        _merge(merged, options, paths, t.context.limits)
        if any(path == "retryPolicy" or path.startswith("retryPolicy.") for path in paths):
            validate(merged.retry_policy)
        check_priority(merged.priority)
        checked = ActivityOptions()
        checked.CopyFrom(merged)
        checked.ClearField("retry_policy")  # judged above, and only if it is to be changed
        check_options(
            activity.activity_id,
            activity.activity_type,
            checked,
            run_timeout_ns=0,
            run_queue=t.state.task_queue,
            limits=t.context.limits,
        )
        checked.retry_policy.CopyFrom(merged.retry_policy)
        merged = checked
        _take_options(t, activity, _of_options(activity, merged))
    return merged


def restore_options(
    t: Transition, chosen: Sequence[int], originals: Mapping[int, ActivityTaskScheduledEventAttributes]
) -> ActivityOptions:
    """Gives the activities the options of their scheduled events (by id). Returns those of the last one."""
    options = ActivityOptions()
    for activity in _pending(t, chosen):
        options = options_of(_take_options(t, activity, _of_event(originals[activity.scheduled_event_id])))
    return options


def _take_options(t: Transition, activity: Activity, changes: dict[str, Any]) -> Activity:
    changes["stamp"] = activity.stamp + 1
    if activity.is_started:
        return change(t, activity, "changed", **changes)
    if activity.paused_at:
        return change(t, activity, "changed", last_failure=b"", **changes)
    at = activity.next_attempt_at or activity.scheduled_at
    policy = RetryPolicy.FromString(changes["retry_policy"])
    if activity.attempt > 1:  # the wait for the attempt follows the new policy
        interval_ns, interval_max_ns = exponential_interval(policy, activity.attempt), duration_ns(policy.maximum_interval)
        if interval_max_ns and not 0 < interval_ns <= interval_max_ns:
            interval_ns = interval_max_ns
        at = activity.last_attempt_ended_at + interval_ns
    return _offer(t, activity, at, changes)


def _offer(t: Transition, activity: Activity, at: int, changes: dict[str, Any]) -> Activity:
    """An activity nobody has is offered from `at` on, as something new: what failed before is not its past any more."""
    changes = {"last_failure": b"", **forget_what_was_reset(activity), **changes}
    if at > t.now:
        return change(t, activity, "put off", next_attempt_at=at, **changes)
    was_offered = not activity.next_attempt_at and not activity.paused_at
    offered_at = activity.scheduled_at if was_offered and at < t.now else t.now
    return change(t, activity, "offered anew", scheduled_at=offered_at, next_attempt_at=0, **changes)


def _jitter(t: Transition, jitter_ns: int) -> int:
    return int(t.context.ids.jitter() * jitter_ns) if jitter_ns > 0 else 0


def _pending(t: Transition, chosen: Sequence[int]) -> list[Activity]:
    if not t.state.is_open:
        raise not_found("workflow execution already completed")
    found = [t.state.activities.get(scheduled_event_id) for scheduled_event_id in chosen]
    if not found or None in found:
        raise not_found(ACTIVITY_NOT_FOUND)
    return [activity for activity in found if activity is not None]


def _not_paused(activity: Activity) -> dict[str, Any]:
    unset = {"pause_identity": "", "pause_reason": "", "pause_request_id": ""}
    return {"paused_at": 0, **unset, "stamp": activity.stamp + 1}


# --- options -----------------------------------------------------------------------------------------------------------


def json_path(path: str) -> str:
    """A path of a field mask in the form of JSON: retry_policy.maximum_attempts -> retryPolicy.maximumAttempts."""
    parts = []
    for part in path.split("."):
        first, *rest = part.split("_")
        parts.append(first[:1].lower() + first[1:] + "".join(word.capitalize() for word in rest))
    return ".".join(parts)


def _merge(into: ActivityOptions, options: ActivityOptions, paths: set[str], limits: Limits) -> None:
    for path, field in _FIELDS.items():
        if path in paths:
            into.ClearField(field)  # type: ignore[arg-type]
            if options.HasField(field):  # type: ignore[arg-type]
                getattr(into, field).CopyFrom(getattr(options, field))
    if "retryPolicy" in paths:
        if not options.HasField("retry_policy"):
            raise invalid_argument("RetryPolicy is not provided")
        into.retry_policy.CopyFrom(with_defaults(options.retry_policy, limits))
    for path, (parent, field, name) in _SUB_FIELDS.items():
        if path not in paths:
            continue
        if not options.HasField(parent):  # type: ignore[arg-type]
            raise invalid_argument(f"{name} is not provided")
        value = getattr(getattr(options, parent), field)
        target = getattr(into, parent)
        if hasattr(value, "CopyFrom"):
            getattr(target, field).CopyFrom(value)
        else:
            setattr(target, field, value)


def options_of(activity: Activity) -> ActivityOptions:
    """What the activity runs with now. Non-retryable error types are no option and not shown, as in the public server."""
    policy = policy_of(activity) or RetryPolicy()
    policy.ClearField("non_retryable_error_types")
    return ActivityOptions(
        task_queue=TaskQueue(name=activity.task_queue),
        schedule_to_close_timeout=duration(activity.schedule_to_close_ns),
        schedule_to_start_timeout=duration(activity.schedule_to_start_ns),
        start_to_close_timeout=duration(activity.start_to_close_ns),
        heartbeat_timeout=duration(activity.heartbeat_ns),
        retry_policy=policy,
        priority=Priority.FromString(activity.priority) if activity.priority else None,
    )


def _of_options(activity: Activity, options: ActivityOptions) -> dict[str, Any]:
    """Fields of Activity. The non-retryable error types stay."""
    policy, old = RetryPolicy(), policy_of(activity)
    policy.CopyFrom(options.retry_policy)
    policy.ClearField("non_retryable_error_types")
    policy.non_retryable_error_types.extend(old.non_retryable_error_types if old is not None else ())
    return _fields(options, policy)


def _of_event(attributes: ActivityTaskScheduledEventAttributes) -> dict[str, Any]:
    return _fields(attributes, attributes.retry_policy)


def _fields(options: ActivityOptions | ActivityTaskScheduledEventAttributes, policy: RetryPolicy) -> dict[str, Any]:
    return {
        "task_queue": options.task_queue.name,
        "schedule_to_close_ns": duration_ns(options.schedule_to_close_timeout),
        "schedule_to_start_ns": duration_ns(options.schedule_to_start_timeout),
        "start_to_close_ns": duration_ns(options.start_to_close_timeout),
        "heartbeat_ns": duration_ns(options.heartbeat_timeout),
        "retry_policy": policy.SerializeToString(),
        "priority": options.priority.SerializeToString() if options.HasField("priority") else b"",
    }
