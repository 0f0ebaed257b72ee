"""SignalWorkflowExecution: acknowledged once it is in the history, or in the buffer of a run whose task is under way."""

from __future__ import annotations

from typing import Any

from temporalio.api.history.v1 import WorkflowExecutionSignaledEventAttributes
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionResponse

from cluster.core.machines import lifecycle
from cluster.history.api.start_workflow_execution import link_to_signal
from cluster.history.shard import Shard


async def signal(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    execution = request.workflow_execution
    run = await shard.find(namespace.id, execution.workflow_id, execution.run_id)
    t = shard.begin(run)
    attributes = WorkflowExecutionSignaledEventAttributes(
        signal_name=request.signal_name,
        input=request.input if request.HasField("input") else None,
        identity=request.identity,
        header=request.header if request.HasField("header") else None,
        request_id=request.request_id,
    )
    lifecycle.signal(t, attributes, list(request.links))
    await shard.commit((run, t))
    return SignalWorkflowExecutionResponse(
        link=link_to_signal(namespace.name, execution.workflow_id, run.key.run_id, request.request_id)
    )
