"""What workers say of the activities they have: taken, alive, done, failed, cancelled. The machine is in activity.py.

Each call names the activity by its task token (scheduled event id and attempt) or by its id (scheduled_event_id 0).
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace
from temporalio.api.common.v1 import Payloads, WorkerVersionStamp
from temporalio.api.deployment.v1 import WorkerDeploymentVersion
from temporalio.api.enums.v1 import EventType, RetryState
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import (
    ActivityTaskCanceledEventAttributes,
    ActivityTaskCompletedEventAttributes,
    ActivityTaskFailedEventAttributes,
)

from cluster.core.errors import CallerError, Code, failed_precondition, invalid_argument, not_found
from cluster.core.machines.activity import (
    ACTIVITY_TASK_NOT_FOUND,
    change,
    find,
    is_dispatchable,
    offer_stamp,
    retry,
    started_attributes,
    write_started,
)
from cluster.core.state import Activity, Status
from cluster.core.transition import Transition


class Heartbeat(NamedTuple):
    """What the worker is told in return."""

    cancel_requested: bool
    activity_paused: bool
    activity_reset: bool


def start(
    t: Transition,
    scheduled_event_id: int,
    *,
    request_id: str,
    identity: str,
    stamp: int,
    worker_version: WorkerVersionStamp | None = None,
    deployment_version: WorkerDeploymentVersion | None = None,
) -> bool:
    """A worker takes the activity. False: this very request took it before (the answer is the same).

    Raises CallerError, each of which means that the offer is void: NOT_FOUND (ended), ALREADY_EXISTS (another request
    has it), FAILED_PRECONDITION (the offer was of another attempt or of other options).
    """
    if not t.state.is_open:
        raise not_found("workflow execution already completed")
    activity = t.state.activities.get(scheduled_event_id)
    if activity is None:
        raise not_found(ACTIVITY_TASK_NOT_FOUND)
    if activity.is_started:
        if activity.request_id == request_id:
            return False
        raise CallerError(Code.ALREADY_EXISTS, "Activity task already started.")
    if t.state.status == Status.PAUSED:
        raise failed_precondition(f"Activity task rejected; the workflow is paused. Id: {activity.activity_id}")
    if offer_stamp(activity) != stamp or not is_dispatchable(activity):
        raise failed_precondition(
            f"Activity task rejected; stamp has changed. Id: {activity.activity_id},: type: {activity.activity_type},"
            f" current stamp: {activity.stamp}"
        )
    change(
        t,
        activity,
        "started",
        started_at=t.now,
        request_id=request_id,
        identity=identity,
        worker_version=worker_version.SerializeToString() if worker_version is not None else b"",
        deployment_version=deployment_version.SerializeToString() if deployment_version is not None else b"",
    )
    return True


def withdraw_eager_start(t: Transition, scheduled_event_id: int) -> Activity:
    """Takes back an eager start whose reply has not left: nobody has the activity, as if it had not been started."""
    activity = t.state.activities[scheduled_event_id]
    return change(t, activity, "withdrawn", stamp=activity.stamp + 1, started_at=0, request_id="", identity="")


def heartbeat(
    t: Transition,
    scheduled_event_id: int,
    attempt: int,
    details: Payloads | None,
    *,
    identity: str = "",
    activity_id: str = "",
) -> Heartbeat:
    """Progress, and the sign that the worker lives. Raises as `find`."""
    activity = find(t.state, scheduled_event_id, activity_id, attempt)
    change(
        t,
        activity,
        "heartbeat",
        heartbeat_at=t.now,
        heartbeat_details=details.SerializeToString() if details is not None else b"",
        last_worker_identity=identity or activity.last_worker_identity,
    )
    return Heartbeat(activity.cancel_requested, bool(activity.paused_at), activity.was_reset)


def complete(
    t: Transition,
    scheduled_event_id: int,
    attempt: int,
    result: Payloads | None,
    *,
    identity: str = "",
    worker_version: WorkerVersionStamp | None = None,
    activity_id: str = "",
) -> bool:
    """The result. By id it is taken even if no worker has the activity. Raises as `find`. True: tell the workflow."""
    activity = find(t.state, scheduled_event_id, activity_id, attempt, must_be_started=scheduled_event_id != 0)
    if activity.is_started:
        started_event_id = write_started(t, activity, worker_version)
    else:
        started_event_id = t.add(
            EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED, started_attributes(activity, request_id="", identity=identity)
        ).event_id
    t.add(
        EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
        ActivityTaskCompletedEventAttributes(
            scheduled_event_id=activity.scheduled_event_id,
            started_event_id=started_event_id,
            result=result,
            identity=identity,
        ),
    )
    return True


def fail(
    t: Transition,
    scheduled_event_id: int,
    attempt: int,
    failure: Failure | None,
    *,
    identity: str = "",
    worker_version: WorkerVersionStamp | None = None,
    last_heartbeat_details: Payloads | None = None,
    activity_id: str = "",
) -> bool:
    """The attempt failed: another one follows, or the activity has failed. Raises as `find`. True: tell the workflow."""
    activity = find(t.state, scheduled_event_id, activity_id, attempt)
    if last_heartbeat_details is not None:
        details = last_heartbeat_details.SerializeToString()
        activity = replace(activity, heartbeat_at=t.now, heartbeat_details=details)
    retry_state = retry(t, activity, failure if failure is not None else Failure())
    if retry_state == RetryState.RETRY_STATE_IN_PROGRESS:
        return False
    started_event_id = write_started(t, activity, worker_version)
    t.add(
        EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED,
        ActivityTaskFailedEventAttributes(
            scheduled_event_id=activity.scheduled_event_id,
            started_event_id=started_event_id,
            failure=failure,
            retry_state=retry_state,
            identity=identity,
        ),
    )
    return True


def cancel(
    t: Transition,
    scheduled_event_id: int,
    attempt: int,
    details: Payloads | None,
    *,
    identity: str = "",
    activity_id: str = "",
) -> bool:
    """The worker obeyed a cancel request. Raises as `find`, and INVALID_ARGUMENT if there was none. True: tell the workflow."""
    activity = find(t.state, scheduled_event_id, activity_id, attempt)
    if not activity.cancel_requested:
        raise invalid_argument("unable to mark activity as canceled without activity being request canceled first")
    end_canceled(t, activity, details, identity)
    return True


def end_canceled(
    t: Transition, activity: Activity, details: Payloads | None, identity: str, *, is_behind: bool = False
) -> None:
    """The activity is over because its workflow wanted so. is_behind: its end follows the other events of this answer."""
    started_event_id = write_started(t, activity, None)
    t.add(
        EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED,
        ActivityTaskCanceledEventAttributes(
            scheduled_event_id=activity.scheduled_event_id,
            started_event_id=started_event_id,
            latest_cancel_requested_event_id=activity.cancel_requested_event_id,
            details=details,
            identity=identity,
        ),
        is_behind=is_behind,
    )
