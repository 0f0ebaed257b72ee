"""DescribeWorkflowExecution: the state as operators and SDKs see it."""

from __future__ import annotations

from typing import Any

from temporalio.api.common.v1 import Payload, Priority, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import (
    EventType,
    ParentClosePolicy,
    PendingWorkflowTaskState,
    TaskQueueKind,
    WorkflowExecutionStatus,
)
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflow.v1 import (
    PendingChildExecutionInfo,
    PendingWorkflowTaskInfo,
    WorkflowExecutionConfig,
    WorkflowExecutionExtendedInfo,
    WorkflowExecutionInfo,
)
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse

from cluster.core.events import duration, duration_or_none, timestamp
from cluster.core.machines import lifecycle
from cluster.core.machines.activity_pending import pending_info
from cluster.core.machines.nexus_pending import callback_infos, pending_operations
from cluster.core.salvage import KEY_PREFIX
from cluster.core.state import RunState
from cluster.history.shard import Shard


async def describe(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    run = await shard.find(namespace.id, request.execution.workflow_id, request.execution.run_id)
    return description(await shard.read(run), shard.clock.now_ns())


def description(state: RunState, now: int) -> DescribeWorkflowExecutionResponse:
    response = DescribeWorkflowExecutionResponse(
        execution_config=_config(state), workflow_execution_info=_info(state), workflow_extended_info=_extended(state)
    )
    response.pending_activities.extend(pending_info(one, now) for one in state.activities.values())
    for child in state.children.values():
        response.pending_children.append(
            PendingChildExecutionInfo(
                workflow_id=child.workflow_id,
                run_id=child.run_id,
                workflow_type_name=child.workflow_type,
                initiated_id=child.initiated_event_id,
                parent_close_policy=ParentClosePolicy.ValueType(child.parent_close_policy),
            )
        )
    task = state.task
    if task is not None:
        states = PendingWorkflowTaskState
        response.pending_workflow_task.CopyFrom(
            PendingWorkflowTaskInfo(
                state=states.PENDING_WORKFLOW_TASK_STATE_STARTED
                if task.is_started
                else states.PENDING_WORKFLOW_TASK_STATE_SCHEDULED,
                scheduled_time=timestamp(task.scheduled_at),
                original_scheduled_time=timestamp(task.original_scheduled_at or task.scheduled_at),
                started_time=timestamp(task.started_at) if task.is_started else None,
                attempt=task.attempt,
            )
        )
    response.pending_nexus_operations.extend(pending_operations(state))
    response.callbacks.extend(callback_infos(state))
    return response


def _config(state: RunState) -> WorkflowExecutionConfig:
    config = WorkflowExecutionConfig(
        task_queue=TaskQueue(name=state.task_queue, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL),
        workflow_execution_timeout=duration_or_none(state.execution_timeout_ns),
        workflow_run_timeout=duration_or_none(state.run_timeout_ns),
        default_workflow_task_timeout=duration(state.task_timeout_ns),
    )
    if state.user_metadata:
        config.user_metadata.CopyFrom(UserMetadata.FromString(state.user_metadata))
    return config


def _info(state: RunState) -> WorkflowExecutionInfo:
    info = WorkflowExecutionInfo(
        execution=WorkflowExecution(workflow_id=state.workflow_id, run_id=state.run_id),
        type=WorkflowType(name=state.workflow_type),
        start_time=timestamp(state.started_at),
        status=WorkflowExecutionStatus.ValueType(state.status),
        history_length=state.next_event_id - 1,
        execution_time=timestamp(state.first_task_at or state.started_at),
        task_queue=state.task_queue,
        state_transition_count=state.transition_count,
        history_size_bytes=state.history_bytes,
        first_run_id=state.first_run_id,
        root_execution=WorkflowExecution(workflow_id=state.root_workflow_id, run_id=state.root_run_id),
    )
    if state.closed_at:
        info.close_time.CopyFrom(timestamp(state.closed_at))
        info.execution_duration.CopyFrom(duration(max(state.closed_at - (state.first_task_at or state.started_at), 0)))
    if state.parent is not None:
        info.parent_namespace_id = state.parent.namespace_id
        info.parent_execution.workflow_id = state.parent.workflow_id
        info.parent_execution.run_id = state.parent.run_id
    info.memo.SetInParent()
    for key, data in state.memo.items():
        info.memo.fields[key].CopyFrom(Payload.FromString(data))
    info.search_attributes.SetInParent()
    for key, data in state.search_attributes.items():
        info.search_attributes.indexed_fields[key].CopyFrom(Payload.FromString(data))
    if state.priority:
        info.priority.CopyFrom(Priority.FromString(state.priority))
    if state.build_id:
        info.most_recent_worker_version_stamp.build_id = state.build_id
    info.auto_reset_points.SetInParent()
    for point in state.reset_points:
        found = info.auto_reset_points.points.add(
            build_id=point.build_id,
            binary_checksum=point.binary_checksum,
            run_id=point.run_id or state.run_id,
            first_workflow_task_completed_id=point.first_workflow_task_completed_id,
            resettable=point.resettable,
        )
        found.create_time.CopyFrom(timestamp(point.created_at))
        if point.expires_at:
            found.expire_time.CopyFrom(timestamp(point.expires_at))
    return info


def _extended(state: RunState) -> WorkflowExecutionExtendedInfo:
    extended = WorkflowExecutionExtendedInfo(
        cancel_requested=state.cancel_requested,
        original_start_time=timestamp(state.started_at),
        reset_run_id=state.reset_run_id,
    )
    if state.execution_expires_at:
        extended.execution_expiration_time.CopyFrom(timestamp(state.execution_expires_at))
    if expires_at := lifecycle.run_expires_at(state):
        extended.run_expiration_time.CopyFrom(timestamp(expires_at))
    for request_id, seen in state.request_ids.items():
        if request_id.startswith(KEY_PREFIX):
            continue  # no client's, but what a salvage knows its own by
        found = extended.request_id_infos[request_id]
        found.event_type = EventType.ValueType(seen.event_type)
        found.event_id = seen.event_id
        found.buffered = seen.event_id == 0
    if state.paused_at:
        extended.pause_info.identity = state.pause_identity
        extended.pause_info.reason = state.pause_reason
        extended.pause_info.paused_time.CopyFrom(timestamp(state.paused_at))
    return extended
