"""Requests that a server must refuse, by name. What the public server answers to each is in `bad_requests_expected.json`
(recorded by `record_bad_requests.py`); our own answers must agree in status code, message and typed details.

A case that expects a well-formed token of the server under test names it in `needs`; the rest stand alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.batch.v1 import BatchOperationTermination
from temporalio.api.common.v1 import (
    Header,
    Link,
    Memo,
    Payload,
    Payloads,
    Priority,
    RetryPolicy,
    SearchAttributes,
    WorkflowExecution,
    WorkflowType,
)
from temporalio.api.enums.v1 import (
    IndexedValueType,
    ResetReapplyType,
    TaskQueueKind,
    UpdateWorkflowExecutionLifecycleStage,
    WorkflowExecutionStatus,
    WorkflowIdConflictPolicy,
    WorkflowIdReusePolicy,
)
from temporalio.api.filter.v1 import StartTimeFilter, StatusFilter, WorkflowExecutionFilter
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    DeleteNamespaceRequest,
    ListSearchAttributesRequest,
    RemoveSearchAttributesRequest,
)
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Input, Meta, UpdateRef, WaitPolicy
from temporalio.api.update.v1 import Request as UpdateRequest
from temporalio.api.workflow.v1 import OnConflictOptions
from temporalio.api.workflowservice import v1 as w

NAMESPACE = "default"
LONG = "x" * 1001
RUN = "00000000-0000-4000-8000-000000000001"
QUEUE = TaskQueue(name="queue")
TYPE = WorkflowType(name="Type")
GONE = WorkflowExecution(workflow_id="no-such-workflow")
BIG = Payloads(payloads=[Payload(data=b"x" * (2 * 1024 * 1024 + 10))])


class BadRequest(NamedTuple):
    name: str
    rpc: str
    request: Message


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


def _start_cases() -> list[tuple[str, Message]]:
    policy = RetryPolicy
    return [
        ("no workflow id", start(workflow_id="")),
        ("workflow id too long", start(workflow_id=LONG)),
        ("no workflow type", start(workflow_type=None)),
        ("empty workflow type", start(workflow_type=WorkflowType())),
        ("workflow type too long", start(workflow_type=WorkflowType(name=LONG))),
        ("no task queue", start(task_queue=None)),
        ("empty task queue", start(task_queue=TaskQueue())),
        ("task queue too long", start(task_queue=TaskQueue(name=LONG))),
        ("task queue reserved", start(task_queue=TaskQueue(name="/_sys/x"))),
        ("task queue internal", start(task_queue=TaskQueue(name="temporal-sys-per-ns-tq"))),
        ("request id too long", start(request_id=LONG)),
        ("no namespace", start(namespace="")),
        ("unknown namespace", start(namespace="no-such-namespace")),
        ("namespace too long", start(namespace=LONG)),
        ("negative execution timeout", start(workflow_execution_timeout=Duration(seconds=-1))),
        ("negative run timeout", start(workflow_run_timeout=Duration(seconds=-1))),
        ("negative task timeout", start(workflow_task_timeout=Duration(seconds=-1))),
        ("run timeout with mixed signs", start(workflow_run_timeout=Duration(seconds=1, nanos=-1))),
        ("negative start delay", start(workflow_start_delay=Duration(seconds=-1))),
        ("cron with start delay", start(cron_schedule="* * * * *", workflow_start_delay=Duration(seconds=1))),
        ("bad cron", start(cron_schedule="every day")),
        ("cron that never comes", start(cron_schedule="0 0 30 2 *")),
        ("retry coefficient below one", start(retry_policy=policy(backoff_coefficient=0.5))),
        ("retry negative interval", start(retry_policy=policy(initial_interval=Duration(seconds=-1)))),
        ("retry negative attempts", start(retry_policy=policy(maximum_attempts=-1))),
        (
            "retry maximum below initial",
            start(retry_policy=policy(initial_interval=Duration(seconds=5), maximum_interval=Duration(seconds=1))),
        ),
        ("retry unknown timeout type", start(retry_policy=policy(non_retryable_error_types=["TemporalTimeout:Never"]))),
        (
            "terminate-if-running with conflict policy",
            start(
                workflow_id_reuse_policy=WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING,
                workflow_id_conflict_policy=WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
            ),
        ),
        (
            "reject-duplicate with terminate-existing",
            start(
                workflow_id_reuse_policy=WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
                workflow_id_conflict_policy=WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING,
            ),
        ),
        ("callbacks without request id", start(on_conflict_options=OnConflictOptions(attach_completion_callbacks=True))),
        ("negative priority", start(priority=Priority(priority_key=-1))),
        ("fairness key too long", start(priority=Priority(fairness_key="k" * 65))),
        ("negative fairness weight", start(priority=Priority(fairness_weight=-1))),
        ("too many links", start(links=[Link(batch_job=Link.BatchJob(job_id="j"))] * 11)),
        ("link without variant", start(links=[Link()])),
        ("link without job", start(links=[Link(batch_job=Link.BatchJob())])),
        ("input too large", start(input=BIG)),
        ("memo too large", start(memo=Memo(fields={"m": BIG.payloads[0]}))),
        ("undefined search attribute", start(search_attributes=SearchAttributes(indexed_fields={"Nope": _json(b'"v"')}))),
        ("system search attribute", start(search_attributes=SearchAttributes(indexed_fields={"RunId": _json(b'"v"')}))),
        ("signal attributes in header are fine, id is not", start(workflow_id="", header=Header())),
    ]


def _json(data: bytes) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=data)


def _signal_with_start_cases() -> list[tuple[str, Message]]:
    return [
        ("no signal name", signal_start(signal_name="")),
        ("signal name too long", signal_start(signal_name=LONG)),
        ("no workflow id", signal_start(workflow_id="")),
        ("no type", signal_start(workflow_type=None)),
        ("type too long", signal_start(workflow_type=WorkflowType(name=LONG))),
        ("no task queue", signal_start(task_queue=None)),
        ("request id too long", signal_start(request_id=LONG)),
        (
            "conflict policy fail",
            signal_start(workflow_id_conflict_policy=WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_FAIL),
        ),
        ("bad cron", signal_start(cron_schedule="x")),
        ("negative run timeout", signal_start(workflow_run_timeout=Duration(seconds=-1))),
        ("signal input too large", signal_start(signal_input=BIG)),
    ]


def _execution_cases() -> list[tuple[str, str, Message]]:
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
            update(wait_policy=WaitPolicy(lifecycle_stage=_stage("ADMITTED"))),
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


def _stage(name: str) -> UpdateWorkflowExecutionLifecycleStage.ValueType:
    return UpdateWorkflowExecutionLifecycleStage.Value(f"UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_{name}")


def _multi_cases() -> list[tuple[str, str, Message]]:
    rpc = "ExecuteMultiOperation"
    return [
        (rpc, "nothing", multi()),
        (rpc, "one operation", multi(start())),
        (rpc, "wrong order", multi(update(), start())),
        (rpc, "other namespace", multi(start(namespace="other"), update())),
        (rpc, "other namespace in update", multi(start(), update(namespace="other"))),
        (rpc, "other workflow", multi(start(workflow_id="another"), update())),
        (rpc, "cron", multi(start(cron_schedule="* * * * *"), update())),
        (rpc, "eager", multi(start(request_eager_execution=True), update())),
        (rpc, "start delay", multi(start(workflow_start_delay=Duration(seconds=1)), update())),
        (
            rpc,
            "update with run id",
            multi(start(), update(workflow_execution=WorkflowExecution(workflow_id="bad-request", run_id=RUN))),
        ),
        (rpc, "update with first run id", multi(start(), update(first_execution_run_id=RUN))),
        (rpc, "bad start", multi(start(workflow_type=None), update())),
    ]


def _worker_cases() -> list[tuple[str, str, Message]]:
    ns = NAMESPACE
    garbage = b"\x01garbage"
    by_id: dict[str, Any] = {"namespace": ns, "workflow_id": "w", "activity_id": "a"}
    return [
        ("PollWorkflowTaskQueue", "no task queue", w.PollWorkflowTaskQueueRequest(namespace=ns)),
        ("PollWorkflowTaskQueue", "no name", w.PollWorkflowTaskQueueRequest(namespace=ns, task_queue=TaskQueue())),
        (
            "PollWorkflowTaskQueue",
            "identity too long",
            w.PollWorkflowTaskQueueRequest(namespace=ns, task_queue=QUEUE, identity=LONG),
        ),
        ("PollActivityTaskQueue", "no task queue", w.PollActivityTaskQueueRequest(namespace=ns)),
        (
            "PollActivityTaskQueue",
            "identity too long",
            w.PollActivityTaskQueueRequest(namespace=ns, task_queue=QUEUE, identity=LONG),
        ),
        ("PollActivityTaskQueue", "no namespace", w.PollActivityTaskQueueRequest(task_queue=QUEUE)),
        ("RespondWorkflowTaskCompleted", "no token", w.RespondWorkflowTaskCompletedRequest(namespace=ns)),
        (
            "RespondWorkflowTaskCompleted",
            "garbage token",
            w.RespondWorkflowTaskCompletedRequest(namespace=ns, task_token=garbage),
        ),
        ("RespondWorkflowTaskCompleted", "no namespace", w.RespondWorkflowTaskCompletedRequest(task_token=garbage)),
        ("RespondWorkflowTaskFailed", "no token", w.RespondWorkflowTaskFailedRequest(namespace=ns)),
        ("RespondWorkflowTaskFailed", "garbage token", w.RespondWorkflowTaskFailedRequest(namespace=ns, task_token=garbage)),
        ("RespondActivityTaskCompleted", "no token", w.RespondActivityTaskCompletedRequest(namespace=ns)),
        (
            "RespondActivityTaskCompleted",
            "garbage token",
            w.RespondActivityTaskCompletedRequest(namespace=ns, task_token=garbage),
        ),
        ("RespondActivityTaskFailed", "garbage token", w.RespondActivityTaskFailedRequest(namespace=ns, task_token=garbage)),
        ("RespondActivityTaskCanceled", "garbage token", w.RespondActivityTaskCanceledRequest(namespace=ns, task_token=garbage)),
        ("RecordActivityTaskHeartbeat", "garbage token", w.RecordActivityTaskHeartbeatRequest(namespace=ns, task_token=garbage)),
        ("RespondQueryTaskCompleted", "no token", w.RespondQueryTaskCompletedRequest(namespace=ns)),
        ("RespondQueryTaskCompleted", "garbage token", w.RespondQueryTaskCompletedRequest(namespace=ns, task_token=garbage)),
        (
            "RespondActivityTaskCompletedById",
            "no activity id",
            w.RespondActivityTaskCompletedByIdRequest(namespace=ns, workflow_id="w"),
        ),
        (
            "RespondActivityTaskCompletedById",
            "no workflow id",
            w.RespondActivityTaskCompletedByIdRequest(namespace=ns, activity_id="a"),
        ),
        (
            "RespondActivityTaskCompletedById",
            "identity too long",
            w.RespondActivityTaskCompletedByIdRequest(identity=LONG, **by_id),
        ),
        (
            "RespondActivityTaskFailedById",
            "no activity id",
            w.RespondActivityTaskFailedByIdRequest(namespace=ns, workflow_id="w"),
        ),
        (
            "RespondActivityTaskCanceledById",
            "no activity id",
            w.RespondActivityTaskCanceledByIdRequest(namespace=ns, workflow_id="w"),
        ),
        (
            "RecordActivityTaskHeartbeatById",
            "no activity id",
            w.RecordActivityTaskHeartbeatByIdRequest(namespace=ns, workflow_id="w"),
        ),
        ("DescribeTaskQueue", "no task queue", w.DescribeTaskQueueRequest(namespace=ns)),
        ("ListTaskQueuePartitions", "no task queue", w.ListTaskQueuePartitionsRequest(namespace=ns)),
        ("ShutdownWorker", "unknown namespace", w.ShutdownWorkerRequest(namespace="no-such-namespace")),
        (
            "PollWorkflowTaskQueue",
            "reserved name",
            w.PollWorkflowTaskQueueRequest(
                namespace=ns, task_queue=TaskQueue(name="/_sys/q/1", kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL)
            ),
        ),
    ]


def _visibility_cases() -> list[tuple[str, str, Message]]:
    ns = NAMESPACE
    early, late = Timestamp(seconds=10), Timestamp(seconds=20)
    status = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING
    return [
        ("ListWorkflowExecutions", "unknown namespace", w.ListWorkflowExecutionsRequest(namespace="no-such-namespace")),
        ("CountWorkflowExecutions", "no namespace", w.CountWorkflowExecutionsRequest()),
        (
            "ListOpenWorkflowExecutions",
            "earliest after latest",
            w.ListOpenWorkflowExecutionsRequest(
                namespace=ns, start_time_filter=StartTimeFilter(earliest_time=late, latest_time=early)
            ),
        ),
        (
            "ListClosedWorkflowExecutions",
            "earliest after latest",
            w.ListClosedWorkflowExecutionsRequest(
                namespace=ns,
                start_time_filter=StartTimeFilter(earliest_time=late, latest_time=early),
                execution_filter=WorkflowExecutionFilter(workflow_id="w"),
            ),
        ),
        (
            "ListClosedWorkflowExecutions",
            "status running",
            w.ListClosedWorkflowExecutionsRequest(namespace=ns, status_filter=StatusFilter(status=status)),
        ),
        ("ListArchivedWorkflowExecutions", "not configured", w.ListArchivedWorkflowExecutionsRequest(namespace=ns)),
    ]


def _namespace_cases() -> list[tuple[str, str, Message]]:
    text = IndexedValueType.INDEXED_VALUE_TYPE_TEXT
    return [
        ("DescribeNamespace", "nothing named", w.DescribeNamespaceRequest()),
        ("DescribeNamespace", "unknown name", w.DescribeNamespaceRequest(namespace="no-such-namespace")),
        ("DescribeNamespace", "unknown id", w.DescribeNamespaceRequest(id=RUN)),
        ("RegisterNamespace", "no name", w.RegisterNamespaceRequest()),
        ("RegisterNamespace", "no retention", w.RegisterNamespaceRequest(namespace="fresh")),
        (
            "RegisterNamespace",
            "already there",
            w.RegisterNamespaceRequest(namespace=NAMESPACE, workflow_execution_retention_period=Duration(seconds=86400)),
        ),
        (
            "RegisterNamespace",
            "name too long",
            w.RegisterNamespaceRequest(namespace=LONG, workflow_execution_retention_period=Duration(seconds=86400)),
        ),
        ("UpdateNamespace", "unknown", w.UpdateNamespaceRequest(namespace="no-such-namespace")),
        ("UpdateNamespace", "no name", w.UpdateNamespaceRequest()),
        ("DeprecateNamespace", "unknown", w.DeprecateNamespaceRequest(namespace="no-such-namespace")),
        ("AddSearchAttributes", "none", AddSearchAttributesRequest(namespace=NAMESPACE)),
        (
            "AddSearchAttributes",
            "reserved",
            AddSearchAttributesRequest(namespace=NAMESPACE, search_attributes={"WorkflowId": text}),
        ),
        ("AddSearchAttributes", "no namespace", AddSearchAttributesRequest(search_attributes={"Fresh": text})),
        (
            "AddSearchAttributes",
            "unknown namespace",
            AddSearchAttributesRequest(namespace="no-such-namespace", search_attributes={"F": text}),
        ),
        ("RemoveSearchAttributes", "none", RemoveSearchAttributesRequest(namespace=NAMESPACE)),
        ("RemoveSearchAttributes", "system", RemoveSearchAttributesRequest(namespace=NAMESPACE, search_attributes=["RunId"])),
        ("ListSearchAttributes", "no namespace", ListSearchAttributesRequest()),
        ("DeleteNamespace", "nothing named", DeleteNamespaceRequest()),
        ("DeleteNamespace", "both named", DeleteNamespaceRequest(namespace=NAMESPACE, namespace_id=RUN)),
        ("DeleteNamespace", "unknown", DeleteNamespaceRequest(namespace="no-such-namespace")),
    ]


# Calls that reach a run: refused by history, listed here so that both servers are asked the same.
def _missing_run_cases() -> list[tuple[str, str, Message]]:
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


def _batch_cases() -> list[tuple[str, str, Message]]:
    return [
        (
            "StartBatchOperation",
            "unknown namespace",
            w.StartBatchOperationRequest(
                namespace="no-such-namespace",
                job_id="j",
                reason="r",
                visibility_query="x",
                termination_operation=BatchOperationTermination(),
            ),
        ),
    ]


def _all() -> list[BadRequest]:
    cases = [BadRequest(f"StartWorkflowExecution: {name}", "StartWorkflowExecution", request) for name, request in _start_cases()]
    cases += [
        BadRequest(f"SignalWithStartWorkflowExecution: {name}", "SignalWithStartWorkflowExecution", request)
        for name, request in _signal_with_start_cases()
    ]
    for group in (
        _execution_cases(),
        _multi_cases(),
        _worker_cases(),
        _visibility_cases(),
        _namespace_cases(),
        _missing_run_cases(),
        _batch_cases(),
    ):
        cases += [BadRequest(f"{rpc}: {name}", rpc, request) for rpc, name, request in group]
    assert len({case.name for case in cases}) == len(cases)
    return cases


CASES: list[BadRequest] = _all()
OPERATOR_RPCS = frozenset({"AddSearchAttributes", "RemoveSearchAttributes", "ListSearchAttributes", "DeleteNamespace"})
