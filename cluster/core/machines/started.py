"""What the first event of a run says of it: its part of the fold."""

from __future__ import annotations

from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionStartedEventAttributes

from cluster.core.events import duration_ns, timestamp_ns
from cluster.core.machines import callback
from cluster.core.state import ParentLink, ResetPoint, RunState, Status


def take_started(state: RunState, event: HistoryEvent, attributes: WorkflowExecutionStartedEventAttributes) -> None:
    a = attributes
    state.status = Status.RUNNING
    state.started_at = timestamp_ns(event.event_time)
    state.workflow_type = a.workflow_type.name
    state.task_queue = a.task_queue.name
    backoff_ns = duration_ns(a.first_workflow_task_backoff)
    state.first_task_at = state.started_at + backoff_ns if backoff_ns else 0
    state.execution_timeout_ns = duration_ns(a.workflow_execution_timeout)
    state.run_timeout_ns = duration_ns(a.workflow_run_timeout)
    state.task_timeout_ns = duration_ns(a.workflow_task_timeout)
    state.execution_expires_at = timestamp_ns(a.workflow_execution_expiration_time)
    state.first_run_id = a.first_execution_run_id
    state.original_run_id = a.original_execution_run_id
    state.continued_run_id = a.continued_execution_run_id
    state.attempt = a.attempt
    state.cron_schedule = a.cron_schedule
    if a.HasField("retry_policy"):
        state.retry_policy = a.retry_policy.SerializeToString(deterministic=True)
    if state.retry_policy or state.cron_schedule:
        state.start_attributes = a.SerializeToString(deterministic=True)
    if a.HasField("parent_workflow_execution"):
        state.parent = ParentLink(
            namespace=a.parent_workflow_namespace,
            namespace_id=a.parent_workflow_namespace_id,
            workflow_id=a.parent_workflow_execution.workflow_id,
            run_id=a.parent_workflow_execution.run_id,
            initiated_event_id=a.parent_initiated_event_id,
            initiated_version=a.parent_initiated_event_version,
        )
    # Only a child names its root: any other run is its own.
    state.root_workflow_id = a.root_workflow_execution.workflow_id or state.workflow_id
    state.root_run_id = a.root_workflow_execution.run_id or state.run_id
    for key, payload in a.memo.fields.items():
        state.memo[key] = payload.SerializeToString(deterministic=True)
    for key, payload in a.search_attributes.indexed_fields.items():
        state.search_attributes[key] = payload.SerializeToString(deterministic=True)
    state.has_priority = a.HasField("priority")
    if state.has_priority:
        state.priority = a.priority.SerializeToString(deterministic=True)
    if a.HasField("versioning_override"):
        state.versioning_override = a.versioning_override.SerializeToString(deterministic=True)
    callback.take_attached(state, a.completion_callbacks, state.started_at)
    for point in a.prev_auto_reset_points.points:
        state.reset_points.append(
            ResetPoint(
                point.build_id,
                point.binary_checksum,
                point.first_workflow_task_completed_id,
                timestamp_ns(point.create_time),
                point.resettable,
                point.run_id,
                timestamp_ns(point.expire_time),
            )
        )
    if event.HasField("user_metadata"):
        state.user_metadata = event.user_metadata.SerializeToString(deterministic=True)
    take_links(state, event)
    state.start_link_count = len(state.links)


def take_links(state: RunState, event: HistoryEvent) -> None:
    for link in event.links:
        state.links.append(link.SerializeToString(deterministic=True))
