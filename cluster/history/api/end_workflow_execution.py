"""Cancel, terminate, delete: what a client may do to a run from outside."""

from __future__ import annotations

from typing import Any

from temporalio.api.workflowservice.v1 import (
    DeleteWorkflowExecutionResponse,
    RequestCancelWorkflowExecutionResponse,
    TerminateWorkflowExecutionResponse,
)

from cluster.core.entry import DeletedNote
from cluster.core.machines import lifecycle
from cluster.history.run import Run
from cluster.history.shard import Shard


async def _target(shard: Shard, namespace_id: str, execution: Any, first_run_id: str) -> Run:
    """The run meant; first_execution_run_id ties a call without run id to one chain of runs."""
    run = await shard.find(namespace_id, execution.workflow_id, execution.run_id)
    if first_run_id and run.state.first_run_id != first_run_id:
        raise lifecycle.unknown_run(execution.workflow_id, execution.run_id)
    return run


async def request_cancel(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    run = await _target(shard, namespace.id, request.workflow_execution, request.first_execution_run_id)
    if not run.state.is_open and request.workflow_execution.run_id:
        await shard.durable(run)  # a named run that has ended needs no cancel: as the public server, no error
        return RequestCancelWorkflowExecutionResponse()
    t = shard.begin(run)
    lifecycle.request_cancel(
        t, cause=request.reason, identity=request.identity, request_id=request.request_id, links=list(request.links)
    )
    await shard.commit((run, t))
    return RequestCancelWorkflowExecutionResponse()


async def terminate(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    run = await _target(shard, namespace.id, request.workflow_execution, request.first_execution_run_id)
    t = shard.begin(run)
    lifecycle.terminate(
        t,
        reason=request.reason,
        details=request.details if request.HasField("details") else None,
        identity=request.identity,
        links=list(request.links),
    )
    await shard.commit((run, t))
    return TerminateWorkflowExecutionResponse()


async def delete(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    """Gone for readers when answered; an open run is terminated first, so that its parent and children hear of it."""
    run = await _target(shard, namespace.id, request.workflow_execution, "")
    t = shard.begin(run)
    if run.state.is_open:
        lifecycle.terminate(t, reason="Delete workflow execution", details=None, identity="history-service")
    t.note(DeletedNote("deleted by request"))
    await shard.commit((run, t))
    return DeleteWorkflowExecutionResponse()
