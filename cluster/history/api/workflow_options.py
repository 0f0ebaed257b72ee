"""ResetStickyTaskQueue, UpdateWorkflowExecutionOptions, PauseWorkflowExecution, UnpauseWorkflowExecution."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from temporalio.api.common.v1 import Priority
from temporalio.api.workflow.v1 import WorkflowExecutionOptions
from temporalio.api.workflowservice.v1 import (
    PauseWorkflowExecutionResponse,
    ResetStickyTaskQueueResponse,
    UnpauseWorkflowExecutionResponse,
    UpdateWorkflowExecutionOptionsResponse,
)

from cluster.core.entry import StickyNote
from cluster.core.errors import invalid_argument
from cluster.core.machines import lifecycle, workflow_task
from cluster.core.machines.builds import check_override
from cluster.core.state import RunState
from cluster.core.transition import Transition
from cluster.history.shard import Shard


async def reset_sticky(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    """A worker that drops a workflow from its cache says so: its next task goes to the normal queue."""
    run = await shard.find(namespace.id, request.execution.workflow_id, request.execution.run_id)
    lifecycle.require_open(run.state)
    t = shard.begin(run)
    task = t.state.task
    if task is not None and task.is_sticky and not task.is_started:
        workflow_task.fall_back_to_normal_queue(t)
    elif t.state.sticky_queue:
        t.note(StickyNote("", 0))
    await shard.commit((run, t))
    return ResetStickyTaskQueueResponse()


def options_of(state: RunState) -> WorkflowExecutionOptions:
    options = WorkflowExecutionOptions()
    if state.versioning_override:
        options.versioning_override.MergeFromString(state.versioning_override)
    if state.priority:
        options.priority.MergeFromString(state.priority)
    return options


async def update_options(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    execution = request.workflow_execution
    run = await shard.find(namespace.id, execution.workflow_id, execution.run_id)
    lifecycle.require_open(run.state)
    t = shard.begin(run)
    merged = change_options(t, request.workflow_execution_options, request.update_mask.paths, request.identity)
    await shard.commit((run, t))
    return UpdateWorkflowExecutionOptionsResponse(workflow_execution_options=merged)


def change_options(
    t: Transition, wanted: WorkflowExecutionOptions, paths: Iterable[str], identity: str
) -> WorkflowExecutionOptions:
    """The run gets the named options; returns them all. Raises CallerError."""
    merged = options_of(t.state)
    for path in paths:
        head = path.split(".")[0].replace("versioningOverride", "versioning_override")
        if head == "versioning_override":
            merged.ClearField("versioning_override")
            if wanted.HasField("versioning_override"):
                check_override(wanted.versioning_override, t.state.task_queue)
                merged.versioning_override.CopyFrom(wanted.versioning_override)
        elif head == "priority":
            _merge_priority(merged.priority, wanted.priority, path)
        else:
            raise invalid_argument(f"error parsing UpdateMask: {path} is not an option of a workflow execution")
    lifecycle.update_options(
        t,
        versioning_override=merged.versioning_override if merged.HasField("versioning_override") else None,
        priority=merged.priority if merged.HasField("priority") else None,
        identity=identity,
    )
    return merged


def _merge_priority(into: Priority, wanted: Priority, path: str) -> None:
    if "." not in path:
        into.CopyFrom(wanted)
        return
    field = path.split(".")[1]
    names = {"priorityKey": "priority_key", "fairnessKey": "fairness_key", "fairnessWeight": "fairness_weight"}
    field = names.get(field, field)
    if field not in names.values():
        raise invalid_argument(f"error parsing UpdateMask: {path} is not a field of Priority")
    setattr(into, field, getattr(wanted, field))


async def pause(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    run = await shard.find(namespace.id, request.workflow_id, request.run_id)
    t = shard.begin(run)
    lifecycle.pause(t, identity=request.identity, reason=request.reason, request_id=request.request_id)
    await shard.commit((run, t))
    return PauseWorkflowExecutionResponse()


async def unpause(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    run = await shard.find(namespace.id, request.workflow_id, request.run_id)
    t = shard.begin(run)
    lifecycle.unpause(t, identity=request.identity, reason=request.reason, request_id=request.request_id)
    await shard.commit((run, t))
    return UnpauseWorkflowExecutionResponse()
