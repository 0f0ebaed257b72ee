"""Well-formed requests and their pieces, of which each bad request changes one thing."""

from __future__ import annotations

from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import UpdateWorkflowExecutionLifecycleStage
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Input, Meta
from temporalio.api.update.v1 import Request as UpdateRequest
from temporalio.api.workflowservice import v1 as w

NAMESPACE = "default"
LONG = "x" * 1001
RUN = "00000000-0000-4000-8000-000000000001"
QUEUE = TaskQueue(name="queue")
TYPE = WorkflowType(name="Type")
GONE = WorkflowExecution(workflow_id="no-such-workflow")
BIG = Payloads(payloads=[Payload(data=b"x" * (2 * 1024 * 1024 + 10))])


def start(**changes: object) -> w.StartWorkflowExecutionRequest:
    fields: dict[str, object] = {
        "namespace": NAMESPACE,
        "workflow_id": "bad-request",
        "workflow_type": TYPE,
        "task_queue": QUEUE,
        "request_id": "request",
    }
    return w.StartWorkflowExecutionRequest(**{**fields, **changes})  # type: ignore[arg-type]


def signal_start(**changes: object) -> w.SignalWithStartWorkflowExecutionRequest:
    fields: dict[str, object] = {
        "namespace": NAMESPACE,
        "workflow_id": "bad-request",
        "workflow_type": TYPE,
        "task_queue": QUEUE,
        "request_id": "request",
        "signal_name": "signal",
    }
    return w.SignalWithStartWorkflowExecutionRequest(**{**fields, **changes})  # type: ignore[arg-type]


def update(**changes: object) -> w.UpdateWorkflowExecutionRequest:
    fields: dict[str, object] = {
        "namespace": NAMESPACE,
        "workflow_execution": WorkflowExecution(workflow_id="bad-request"),
        "request": UpdateRequest(meta=Meta(update_id="u"), input=Input(name="update")),
    }
    return w.UpdateWorkflowExecutionRequest(**{**fields, **changes})  # type: ignore[arg-type]


def multi(*operations: Message, namespace: str = NAMESPACE) -> w.ExecuteMultiOperationRequest:
    wrapped = []
    for operation in operations:
        if isinstance(operation, w.StartWorkflowExecutionRequest):
            wrapped.append(w.ExecuteMultiOperationRequest.Operation(start_workflow=operation))
        else:
            assert isinstance(operation, w.UpdateWorkflowExecutionRequest)
            wrapped.append(w.ExecuteMultiOperationRequest.Operation(update_workflow=operation))
    return w.ExecuteMultiOperationRequest(namespace=namespace, operations=wrapped)


def signal(**changes: object) -> w.SignalWorkflowExecutionRequest:
    fields: dict[str, object] = {"namespace": NAMESPACE, "workflow_execution": GONE, "signal_name": "s"}
    return w.SignalWorkflowExecutionRequest(**{**fields, **changes})  # type: ignore[arg-type]


def json(data: bytes) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=data)


def stage(name: str) -> UpdateWorkflowExecutionLifecycleStage.ValueType:
    return UpdateWorkflowExecutionLifecycleStage.Value(f"UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_{name}")
