"""Calls about one run: history answers them; the frontend only says which workflow id they concern."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from google.protobuf.message import Message

from cluster.frontend.call import Call, Handler
from cluster.frontend.handlers.services import Services
from cluster.frontend.methods import METHODS

# Where a request names its workflow id.
WORKFLOW_ID_PATHS: dict[str, str] = {
    "StartWorkflowExecution": "workflow_id",
    "SignalWithStartWorkflowExecution": "workflow_id",
    "SignalWorkflowExecution": "workflow_execution.workflow_id",
    "RequestCancelWorkflowExecution": "workflow_execution.workflow_id",
    "TerminateWorkflowExecution": "workflow_execution.workflow_id",
    "DeleteWorkflowExecution": "workflow_execution.workflow_id",
    "ResetWorkflowExecution": "workflow_execution.workflow_id",
    "UpdateWorkflowExecution": "workflow_execution.workflow_id",
    "UpdateWorkflowExecutionOptions": "workflow_execution.workflow_id",
    "PollWorkflowExecutionUpdate": "update_ref.workflow_execution.workflow_id",
    "DescribeWorkflowExecution": "execution.workflow_id",
    "GetWorkflowExecutionHistory": "execution.workflow_id",
    "GetWorkflowExecutionHistoryReverse": "execution.workflow_id",
    "QueryWorkflow": "execution.workflow_id",
    "ResetStickyTaskQueue": "execution.workflow_id",
    "PauseActivity": "execution.workflow_id",
    "UnpauseActivity": "execution.workflow_id",
    "ResetActivity": "execution.workflow_id",
    "UpdateActivityOptions": "execution.workflow_id",
    "PauseWorkflowExecution": "workflow_id",
    "UnpauseWorkflowExecution": "workflow_id",
}


def run_handlers(services: Services) -> dict[str, Handler]:
    handlers = {name: _handler(services, name, path) for name, path in WORKFLOW_ID_PATHS.items()}
    handlers["ExecuteMultiOperation"] = _multi_operation(services)
    return handlers


def _handler(services: Services, name: str, path: str) -> Handler:
    verb, invoke, workflow_id_of = METHODS[name].verb, services.history.invoke, attrgetter(path)

    async def handle(call: Call, request: Any) -> Message | bytes:
        assert call.record is not None
        return await invoke(verb, call.record, workflow_id_of(request), request, call=call)

    return handle


def _multi_operation(services: Services) -> Handler:
    invoke = services.history.invoke

    async def handle(call: Call, request: Any) -> Message | bytes:
        assert call.record is not None
        workflow_id = request.operations[0].start_workflow.workflow_id
        return await invoke("execute_multi_operation", call.record, workflow_id, request, call=call)

    return handle
