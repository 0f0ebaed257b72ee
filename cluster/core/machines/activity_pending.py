"""A pending activity as DescribeWorkflowExecution and visibility show it."""

from __future__ import annotations

from temporalio.api.common.v1 import ActivityType, Payloads, Priority
from temporalio.api.deployment.v1 import WorkerDeploymentVersion
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflow.v1 import PendingActivityInfo

from cluster.core.events import duration, timestamp
from cluster.core.machines.activity import expires_at, policy_of
from cluster.core.machines.activity_options import options_of
from cluster.core.state import Activity, RunState


def paused_types(state: RunState) -> list[str]:
    """Entries of the search attribute TemporalPauseInfo that paused activities give the run."""
    types = {activity.activity_type for activity in state.activities.values() if activity.paused_at}
    return [f"property:activityType={activity_type}" for activity_type in sorted(types)]


def pending_state(activity: Activity) -> PendingActivityState.ValueType:
    if activity.cancel_requested:
        return PendingActivityState.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
    if activity.is_started:
        if activity.paused_at:
            return PendingActivityState.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED
        return PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
    if activity.paused_at:
        return PendingActivityState.PENDING_ACTIVITY_STATE_PAUSED
    return PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED


def pending_info(activity: Activity, now: int) -> PendingActivityInfo:
    """The activity as DescribeWorkflowExecution shows it."""
    policy = policy_of(activity)
    is_backing_off = not activity.is_started and not activity.paused_at and activity.next_attempt_at > now
    info = PendingActivityInfo(
        activity_id=activity.activity_id,
        activity_type=ActivityType(name=activity.activity_type),
        state=pending_state(activity),
        attempt=activity.attempt,
        scheduled_time=timestamp(activity.next_attempt_at or activity.scheduled_at),
        last_worker_identity=activity.identity or activity.last_worker_identity,
        paused=bool(activity.paused_at),
        activity_options=options_of(activity),
    )
    info.activity_options.task_queue.normal_name = activity.task_queue
    if activity.started_at:
        info.last_started_time.CopyFrom(timestamp(activity.started_at))
    if activity.last_attempt_ended_at:
        info.last_attempt_complete_time.CopyFrom(timestamp(activity.last_attempt_ended_at))
    if is_backing_off:
        info.next_attempt_schedule_time.CopyFrom(timestamp(activity.next_attempt_at))
        if activity.last_attempt_ended_at:
            info.current_retry_interval.CopyFrom(duration(activity.next_attempt_at - activity.last_attempt_ended_at))
    if activity.heartbeat_at:
        info.last_heartbeat_time.CopyFrom(timestamp(activity.heartbeat_at))
        if activity.heartbeat_details:
            info.heartbeat_details.CopyFrom(Payloads.FromString(activity.heartbeat_details))
    if policy is not None:
        info.maximum_attempts = policy.maximum_attempts
        if expires_at(activity):
            info.expiration_time.CopyFrom(timestamp(expires_at(activity)))
        if activity.last_failure:
            info.last_failure.CopyFrom(Failure.FromString(activity.last_failure))
    if activity.priority:
        info.priority.CopyFrom(Priority.FromString(activity.priority))
    if activity.paused_at:
        info.pause_info.pause_time.CopyFrom(timestamp(activity.paused_at))
        info.pause_info.manual.identity = activity.pause_identity
        info.pause_info.manual.reason = activity.pause_reason
    if activity.deployment_version:
        version = WorkerDeploymentVersion.FromString(activity.deployment_version)
        info.last_deployment_version.CopyFrom(version)
        info.last_worker_deployment_version = f"{version.deployment_name}.{version.build_id}"
    return info
