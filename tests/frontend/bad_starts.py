"""Bad requests that would start a run: start, signal with start, start with update."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from temporalio.api.common.v1 import Header, Link, Memo, Priority, RetryPolicy, SearchAttributes, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import WorkflowIdConflictPolicy, WorkflowIdReusePolicy
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflow.v1 import OnConflictOptions

from tests.frontend.bad_request_parts import BIG, LONG, RUN, json, multi, signal_start, start, update


def start_cases() -> list[tuple[str, Message]]:
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
        ("undefined search attribute", start(search_attributes=SearchAttributes(indexed_fields={"Nope": json(b'"v"')}))),
        ("system search attribute", start(search_attributes=SearchAttributes(indexed_fields={"RunId": json(b'"v"')}))),
        ("signal attributes in header are fine, id is not", start(workflow_id="", header=Header())),
    ]


def signal_with_start_cases() -> list[tuple[str, Message]]:
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


def multi_cases() -> list[tuple[str, str, Message]]:
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
