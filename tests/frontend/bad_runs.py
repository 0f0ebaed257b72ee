"""Bad requests to a run, its updates and its activities."""

from __future__ import annotations

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import ResetReapplyType
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.update.v1 import Input, Meta, UpdateRef, WaitPolicy
from temporalio.api.update.v1 import Request as UpdateRequest
from temporalio.api.workflowservice import v1 as w

from tests.frontend.bad_request_parts import BIG, GONE, LONG, NAMESPACE, RUN, signal, stage, update


def execution_cases() -> list[tuple[str, str, Message]]:
    bad_run = WorkflowExecution(workflow_id="w", run_id="not-a-uuid")
    ns = NAMESPACE
    query = WorkflowQuery(query_type="q")
    return [
        ("SignalWorkflowExecution", "no execution", signal(workflow_execution=None)),
        ("SignalWorkflowExecution", "no workflow id", signal(workflow_execution=WorkflowExecution())),
        ("SignalWorkflowExecution", "bad run id", signal(workflow_execution=bad_run)),
        ("SignalWorkflowExecution", "no signal name", signal(signal_name="")),
        ("SignalWorkflowExecution", "signal name too long", signal(signal_name=LONG)),
        ("SignalWorkflowExecution", "request id too long", signal(request_id=LONG)),
        ("SignalWorkflowExecution", "input too large", signal(input=BIG)),
        ("RequestCancelWorkflowExecution", "no execution", w.RequestCancelWorkflowExecutionRequest(namespace=ns)),
        ("TerminateWorkflowExecution", "no execution", w.TerminateWorkflowExecutionRequest(namespace=ns)),
        (
            "TerminateWorkflowExecution",
            "bad run id",
            w.TerminateWorkflowExecutionRequest(namespace=ns, workflow_execution=bad_run),
        ),
        ("DeleteWorkflowExecution", "no execution", w.DeleteWorkflowExecutionRequest(namespace=ns)),
        ("ResetWorkflowExecution", "no request id", w.ResetWorkflowExecutionRequest(namespace=ns, workflow_execution=GONE)),
        ("ResetWorkflowExecution", "no execution", w.ResetWorkflowExecutionRequest(namespace=ns, request_id="r")),
        (
            "ResetWorkflowExecution",
            "request id too long",
            w.ResetWorkflowExecutionRequest(namespace=ns, workflow_execution=GONE, request_id=LONG),
        ),
        ("DescribeWorkflowExecution", "no execution", w.DescribeWorkflowExecutionRequest(namespace=ns)),
        ("DescribeWorkflowExecution", "bad run id", w.DescribeWorkflowExecutionRequest(namespace=ns, execution=bad_run)),
        ("GetWorkflowExecutionHistory", "no execution", w.GetWorkflowExecutionHistoryRequest(namespace=ns)),
        ("GetWorkflowExecutionHistory", "bad run id", w.GetWorkflowExecutionHistoryRequest(namespace=ns, execution=bad_run)),
        ("GetWorkflowExecutionHistoryReverse", "no execution", w.GetWorkflowExecutionHistoryReverseRequest(namespace=ns)),
        ("QueryWorkflow", "no execution", w.QueryWorkflowRequest(namespace=ns, query=query)),
        ("QueryWorkflow", "no query", w.QueryWorkflowRequest(namespace=ns, execution=GONE)),
        ("QueryWorkflow", "no query type", w.QueryWorkflowRequest(namespace=ns, execution=GONE, query=WorkflowQuery())),
        (
            "QueryWorkflow",
            "arguments too large",
            w.QueryWorkflowRequest(namespace=ns, execution=GONE, query=WorkflowQuery(query_type="q", query_args=BIG)),
        ),
        ("ResetStickyTaskQueue", "no execution", w.ResetStickyTaskQueueRequest(namespace=ns)),
    ]


def update_and_activity_cases() -> list[tuple[str, str, Message]]:
    ns = NAMESPACE
    return [
        ("UpdateWorkflowExecution", "no execution", update(workflow_execution=None)),
        ("UpdateWorkflowExecution", "no meta", update(request=UpdateRequest(input=Input(name="u")))),
        ("UpdateWorkflowExecution", "no input", update(request=UpdateRequest(meta=Meta(update_id="u")))),
        ("UpdateWorkflowExecution", "no name", update(request=UpdateRequest(meta=Meta(update_id="u"), input=Input()))),
        (
            "UpdateWorkflowExecution",
            "id too long",
            update(request=UpdateRequest(meta=Meta(update_id=LONG), input=Input(name="u"))),
        ),
        (
            "UpdateWorkflowExecution",
            "wait for admitted",
            update(wait_policy=WaitPolicy(lifecycle_stage=stage("ADMITTED"))),
        ),
        ("PollWorkflowExecutionUpdate", "no reference", w.PollWorkflowExecutionUpdateRequest(namespace=ns)),
        (
            "PollWorkflowExecutionUpdate",
            "empty reference",
            w.PollWorkflowExecutionUpdateRequest(namespace=ns, update_ref=UpdateRef()),
        ),
        ("UpdateWorkflowExecutionOptions", "no workflow id", w.UpdateWorkflowExecutionOptionsRequest(namespace=ns)),
        (
            "UpdateWorkflowExecutionOptions",
            "no mask",
            w.UpdateWorkflowExecutionOptionsRequest(namespace=ns, workflow_execution=GONE),
        ),
        (
            "UpdateWorkflowExecutionOptions",
            "no options",
            w.UpdateWorkflowExecutionOptionsRequest(
                namespace=ns, workflow_execution=GONE, update_mask=FieldMask(paths=["versioning_override"])
            ),
        ),
        ("PauseActivity", "no workflow id", w.PauseActivityRequest(namespace=ns)),
        ("PauseActivity", "no activity", w.PauseActivityRequest(namespace=ns, execution=GONE)),
        ("UnpauseActivity", "no activity", w.UnpauseActivityRequest(namespace=ns, execution=GONE)),
        ("ResetActivity", "no activity", w.ResetActivityRequest(namespace=ns, execution=GONE)),
        ("UpdateActivityOptions", "no workflow id", w.UpdateActivityOptionsRequest(namespace=ns)),
    ]


# Refused by history, listed here so that both servers are asked the same.
def missing_run_cases() -> list[tuple[str, str, Message]]:
    ns = NAMESPACE
    gone_run = WorkflowExecution(workflow_id="no-such-workflow", run_id=RUN)
    reapply = ResetReapplyType.RESET_REAPPLY_TYPE_SIGNAL
    return [
        ("SignalWorkflowExecution", "gone", signal()),
        ("SignalWorkflowExecution", "gone run", signal(workflow_execution=gone_run)),
        (
            "RequestCancelWorkflowExecution",
            "gone",
            w.RequestCancelWorkflowExecutionRequest(namespace=ns, workflow_execution=GONE),
        ),
        ("TerminateWorkflowExecution", "gone", w.TerminateWorkflowExecutionRequest(namespace=ns, workflow_execution=GONE)),
        ("DescribeWorkflowExecution", "gone", w.DescribeWorkflowExecutionRequest(namespace=ns, execution=GONE)),
        ("GetWorkflowExecutionHistory", "gone", w.GetWorkflowExecutionHistoryRequest(namespace=ns, execution=GONE)),
        (
            "ResetWorkflowExecution",
            "gone",
            w.ResetWorkflowExecutionRequest(
                namespace=ns,
                workflow_execution=GONE,
                request_id="r",
                workflow_task_finish_event_id=3,
                reset_reapply_type=reapply,
            ),
        ),
        ("QueryWorkflow", "gone", w.QueryWorkflowRequest(namespace=ns, execution=GONE, query=WorkflowQuery(query_type="q"))),
        ("UpdateWorkflowExecution", "gone", update(workflow_execution=GONE)),
        (
            "RespondActivityTaskCompletedById",
            "gone",
            w.RespondActivityTaskCompletedByIdRequest(namespace=ns, workflow_id="no-such-workflow", activity_id="a"),
        ),
    ]
