"""One function per call about a run: load, decide, commit, reply. VERBS is the table `HistoryService.invoke` reads.

Every function takes (service, shard, namespace, request, call, token) and returns the public response or its bytes.
"""

from __future__ import annotations

from typing import Any

from cluster.history.api import (
    activity_options,
    describe_workflow_execution,
    end_workflow_execution,
    execute_multi_operation,
    get_workflow_execution_history,
    query_workflow,
    reset_workflow_execution,
    respond_activity_task,
    respond_workflow_task,
    signal_workflow_execution,
    start_workflow_execution,
    update_workflow_execution,
    workflow_options,
)

VERBS: dict[str, Any] = {
    "start_workflow_execution": start_workflow_execution.start,
    "signal_with_start_workflow_execution": start_workflow_execution.signal_with_start,
    "signal_workflow_execution": signal_workflow_execution.signal,
    "request_cancel_workflow_execution": end_workflow_execution.request_cancel,
    "terminate_workflow_execution": end_workflow_execution.terminate,
    "delete_workflow_execution": end_workflow_execution.delete,
    "respond_workflow_task_completed": respond_workflow_task.completed,
    "respond_workflow_task_failed": respond_workflow_task.failed,
    "respond_activity_task_completed": respond_activity_task.completed,
    "respond_activity_task_completed_by_id": respond_activity_task.completed,
    "respond_activity_task_failed": respond_activity_task.failed,
    "respond_activity_task_failed_by_id": respond_activity_task.failed,
    "respond_activity_task_canceled": respond_activity_task.canceled,
    "respond_activity_task_canceled_by_id": respond_activity_task.canceled,
    "record_activity_task_heartbeat": respond_activity_task.heartbeat,
    "record_activity_task_heartbeat_by_id": respond_activity_task.heartbeat_by_id,
    "get_workflow_execution_history": get_workflow_execution_history.forward,
    "get_workflow_execution_history_reverse": get_workflow_execution_history.reverse,
    "describe_workflow_execution": describe_workflow_execution.describe,
    "query_workflow": query_workflow.query,
    "update_workflow_execution": update_workflow_execution.update,
    "poll_workflow_execution_update": update_workflow_execution.poll,
    "execute_multi_operation": execute_multi_operation.execute,
    "reset_workflow_execution": reset_workflow_execution.reset,
    "reset_sticky_task_queue": workflow_options.reset_sticky,
    "update_workflow_execution_options": workflow_options.update_options,
    "pause_workflow_execution": workflow_options.pause,
    "unpause_workflow_execution": workflow_options.unpause,
    "pause_activity": activity_options.pause,
    "unpause_activity": activity_options.unpause,
    "reset_activity": activity_options.reset,
    "update_activity_options": activity_options.update_options,
}
