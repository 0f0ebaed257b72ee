"""Ways to start: id policies, request ids, signal-with-start, callbacks, links, priorities, metadata, eager start."""

from __future__ import annotations

from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio import workflow
from temporalio.api.common.v1 import Callback, Header, Link, Memo, Priority, WorkflowExecution, WorkflowType
from temporalio.api.common.v1 import RetryPolicy as RawRetryPolicy
from temporalio.api.enums.v1 import EventType, WorkflowIdConflictPolicy, WorkflowIdReusePolicy
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflow.v1 import OnConflictOptions
from temporalio.api.workflowservice.v1 import (
    SignalWithStartWorkflowExecutionRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionResponse,
    TerminateWorkflowExecutionRequest,
)
from temporalio.common import Priority as SdkPriority

from tests.e2e import commands
from tests.e2e.environment import IDENTITY, Env, payload, payloads, run_of, seconds
from tests.e2e.raw_worker import failure
from tests.e2e.registry import Run, scenario

REUSE = WorkflowIdReusePolicy
CONFLICT = WorkflowIdConflictPolicy


def started(env: Env, name: str, response: StartWorkflowExecutionResponse) -> Run:
    env.observe(name, response)
    return Run(env.id("wf"), response.run_id)


@workflow.defn
class Documented:
    @workflow.run
    async def run(self) -> str:
        workflow.set_current_details("current details")
        await workflow.sleep(1, summary="timer summary")
        return "ok"


@scenario("start_with_metadata", items=["workflow: user metadata", "workflow: priority", "memo"])
async def start_with_metadata(env: Env) -> list[Run]:
    async with env.worker([Documented]):
        handle = await env.start(
            Documented.run,
            static_summary="a summary",
            static_details="the details",
            memo={"m": 1},
            priority=SdkPriority(priority_key=2, fairness_key="tenant", fairness_weight=2.5),
            run_timeout=seconds(30),
            execution_timeout=seconds(60),
            task_timeout=seconds(5),
        )
        await handle.result()
    return [run_of(handle)]


@scenario(
    "start_with_everything",
    items=["workflow: links", "workflow: priority", "workflow: callbacks", "workflow: versioning untouched"],
)
async def start_with_everything(env: Env) -> list[Run]:
    event = Link.WorkflowEvent(
        namespace=env.namespace,
        workflow_id="elsewhere",
        run_id="0ddba11e-0000-4000-8000-000000000000",
        event_ref=Link.WorkflowEvent.EventReference(event_id=7, event_type=EventType.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED),
    )
    run = await env.start_raw(
        links=[Link(workflow_event=event)],
        completion_callbacks=[Callback(nexus=Callback.Nexus(url="http://127.0.0.1:9/callback", header={"k": "v"}))],
        priority=Priority(priority_key=4),
        header=Header(fields={"trace": payload("abc")}),
        memo=Memo(fields={"m": payload(1)}),
        input=payloads(1, "two"),
        user_metadata=UserMetadata(summary=payload("summary")),
        retry_policy=RawRetryPolicy(maximum_attempts=1),
    )
    described = await env.describe(run)
    env.observe("callbacks", list(described.callbacks))
    env.observe("priority", described.workflow_execution_info.priority)
    env.observe("versioning", described.workflow_execution_info.versioning_info)
    env.observe("config", described.execution_config)
    await env.service.terminate_workflow_execution(
        TerminateWorkflowExecutionRequest(
            namespace=env.namespace, workflow_execution=WorkflowExecution(workflow_id=run.workflow_id), identity=IDENTITY
        )
    )
    return [run]


@scenario("start_links_on_signal_and_priority_of_activity", items=["workflow: links", "workflow: priority"])
async def start_links_on_signal_and_priority_of_activity(env: Env) -> list[Run]:
    run = await env.start_raw(priority=Priority(priority_key=2, fairness_key="f"))
    event = Link.WorkflowEvent(namespace=env.namespace, workflow_id="elsewhere", run_id="0ddba11e-0000-4000-8000-000000000000")
    await env.signal(run, "linked", links=[Link(workflow_event=event)], header=Header(fields={"h": payload("v")}))
    await env.raw.step(
        commands.schedule_activity("inherits", env.id("nobody")),
        commands.schedule_activity("own", env.id("nobody"), priority=Priority(priority_key=5)),
        commands.start_child(env.id("child"), task_queue=TaskQueue(name=env.id("nobody")), priority=Priority(priority_key=1)),
        commands.complete(),
    )
    return [run]


@scenario("start_again_while_running", items=["workflow: id conflict policy", "workflow: id reuse policy"])
async def start_again_while_running(env: Env) -> list[Run]:
    first = await env.start_raw()
    start = env.service.start_workflow_execution
    await env.observe_error("by default", start(env.start_request()))
    for name in ("ALLOW_DUPLICATE", "ALLOW_DUPLICATE_FAILED_ONLY", "REJECT_DUPLICATE"):
        policy = REUSE.Value(f"WORKFLOW_ID_REUSE_POLICY_{name}")
        await env.observe_error(name, start(env.start_request(workflow_id_reuse_policy=policy)))
    fail = CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_FAIL
    await env.observe_error("FAIL", start(env.start_request(workflow_id_conflict_policy=fail)))
    use = CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
    existing = started(env, "USE_EXISTING", await start(env.start_request(workflow_id_conflict_policy=use)))
    assert existing == first
    instead = CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
    second = started(env, "TERMINATE_EXISTING", await start(env.start_request(workflow_id_conflict_policy=instead)))
    terminate = REUSE.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
    third = started(env, "TERMINATE_IF_RUNNING", await start(env.start_request(workflow_id_reuse_policy=terminate)))
    both = env.start_request(workflow_id_reuse_policy=terminate, workflow_id_conflict_policy=fail)
    await env.observe_error("both policies", start(both))
    return [first, second, third]


@scenario("start_again_after_success", items=["workflow: id reuse policy"])
async def start_again_after_success(env: Env) -> list[Run]:
    first = await env.start_raw()
    await env.raw.step(commands.complete())
    start = env.service.start_workflow_execution
    for name in ("ALLOW_DUPLICATE_FAILED_ONLY", "REJECT_DUPLICATE"):
        policy = REUSE.Value(f"WORKFLOW_ID_REUSE_POLICY_{name}")
        await env.observe_error(name, start(env.start_request(workflow_id_reuse_policy=policy)))
    use = CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
    second = started(env, "USE_EXISTING starts anew", await start(env.start_request(workflow_id_conflict_policy=use)))
    return [first, second]


@scenario("start_again_after_failure", items=["workflow: id reuse policy"])
async def start_again_after_failure(env: Env) -> list[Run]:
    first = await env.start_raw()
    await env.raw.step(commands.fail(failure("so that it may start again")))
    start = env.service.start_workflow_execution
    reject = REUSE.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
    await env.observe_error("REJECT_DUPLICATE", start(env.start_request(workflow_id_reuse_policy=reject)))
    failed_only = REUSE.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY
    second = started(env, "FAILED_ONLY", await start(env.start_request(workflow_id_reuse_policy=failed_only)))
    return [first, second]


@scenario("start_with_the_same_request_id", items=["workflow: request id"])
async def start_with_the_same_request_id(env: Env) -> list[Run]:
    request = env.start_request()
    start = env.service.start_workflow_execution
    first = started(env, "first", await start(request))
    assert started(env, "while running", await start(request)) == first
    await env.raw.step(commands.complete())
    env.observe("same run after its end", (await start(request)).run_id == first.run_id)
    return [first]


@scenario("signal_with_the_same_request_id", items=["workflow: request id", "workflow: signal"])
async def signal_with_the_same_request_id(env: Env) -> list[Run]:
    run = await env.start_raw()
    for _ in range(2):
        await env.signal(run, "once", request_id="the-same")
    await env.signal(run, "again", request_id="another")
    await env.raw.step(commands.complete())
    return [run]


@scenario(
    "use_existing_attaches",
    items=["workflow: id conflict policy", "workflow: callbacks", "workflow: links", "workflow: request id"],
)
async def use_existing_attaches(env: Env) -> list[Run]:
    """The second start leaves its request id, callback and link on the run that is there."""
    run = await env.start_raw()
    event = Link.WorkflowEvent(namespace=env.namespace, workflow_id="elsewhere", run_id="0ddba11e-0000-4000-8000-000000000000")
    second = env.start_request(
        workflow_id_conflict_policy=CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
        on_conflict_options=OnConflictOptions(attach_request_id=True, attach_completion_callbacks=True, attach_links=True),
        completion_callbacks=[Callback(nexus=Callback.Nexus(url="http://127.0.0.1:9/callback"))],
        links=[Link(workflow_event=event)],
    )
    env.observe("second", await env.service.start_workflow_execution(second))
    env.observe("same request again", await env.service.start_workflow_execution(second))
    described = await env.describe(run)
    env.observe(
        "request ids",
        sorted(EventType.Name(info.event_type) for info in described.workflow_extended_info.request_id_infos.values()),
    )
    env.observe("callbacks", list(described.callbacks))
    return [run]


def signal_with_start(env: Env, **fields: Any) -> SignalWithStartWorkflowExecutionRequest:
    request: dict[str, Any] = {
        "namespace": env.namespace,
        "workflow_id": env.id("wf"),
        "workflow_type": WorkflowType(name="Raw"),
        "task_queue": TaskQueue(name=env.task_queue),
        "identity": IDENTITY,
        "signal_name": "hello",
        "signal_input": payloads("from the start"),
    }
    return SignalWithStartWorkflowExecutionRequest(**(request | fields))


@scenario("signal_with_start", items=["workflow: signal with start"])
async def signal_with_start_new_and_existing(env: Env) -> list[Run]:
    call = env.service.signal_with_start_workflow_execution
    response = await call(signal_with_start(env, input=payloads("in")))
    env.observe("new", response)
    run = Run(env.id("wf"), response.run_id)
    env.observe("existing", await call(signal_with_start(env, signal_input=payloads("second"))))
    await env.raw.step(commands.complete())
    response = await call(signal_with_start(env))
    env.observe("after the end", response)
    second = Run(run.workflow_id, response.run_id)
    reject = REUSE.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
    await env.raw.step(commands.complete())
    await env.observe_error("rejected", call(signal_with_start(env, workflow_id_reuse_policy=reject)))
    return [run, second]


@scenario(
    "signal_with_start_policies", items=["workflow: signal with start", "workflow: id conflict policy", "workflow: request id"]
)
async def signal_with_start_policies(env: Env) -> list[Run]:
    call = env.service.signal_with_start_workflow_execution
    first = await env.start_raw()
    fail = CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_FAIL
    await env.observe_error("FAIL", call(signal_with_start(env, workflow_id_conflict_policy=fail)))
    instead = CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
    response = await call(signal_with_start(env, workflow_id_conflict_policy=instead, request_id="the-same"))
    second = Run(first.workflow_id, response.run_id)
    again = await call(signal_with_start(env, request_id="the-same"))
    env.observe("same run", again.run_id == second.run_id)
    return [first, second]


@scenario("signal_with_start_delayed", items=["workflow: signal with start", "workflow: start delay"])
async def signal_with_start_delayed(env: Env) -> list[Run]:
    """The signal that comes with the start does not end the delay."""
    call = env.service.signal_with_start_workflow_execution
    response = await call(signal_with_start(env, workflow_start_delay=seconds(1)))
    await env.raw.step(commands.complete())
    return [Run(env.id("wf"), response.run_id)]


@scenario("start_eagerly", items=["workflow: eager start"])
async def start_eagerly(env: Env) -> list[Run]:
    response = await env.service.start_workflow_execution(env.start_request(request_eager_execution=True))
    task = response.eager_workflow_task
    env.observe("got a task", bool(task.task_token))
    env.observe("its attempt", task.attempt)
    env.observe("its events", [EventType.Name(event.event_type) for event in task.history.events])
    await env.raw.complete(task, commands.complete())
    return [Run(env.id("wf"), response.run_id)]


@workflow.defn
class Eager:
    @workflow.run
    async def run(self) -> str:
        return "eager"


@scenario("start_eagerly_with_the_sdk", items=["workflow: eager start"])
async def start_eagerly_with_the_sdk(env: Env) -> list[Run]:
    async with env.worker([Eager]):
        handle = await env.start(Eager.run, request_eager_start=True)
        assert await handle.result() == "eager"
    return [run_of(handle)]


@scenario("start_bad_requests", items=["workflow: id reuse policy"])
async def start_bad_requests(env: Env) -> list[Run]:
    cases: dict[str, dict[str, Any]] = {
        "no id": {"workflow_id": ""},
        "long id": {"workflow_id": "x" * 1001},
        "no type": {"workflow_type": WorkflowType()},
        "no queue": {"task_queue": TaskQueue()},
        "reserved queue": {"task_queue": TaskQueue(name="/_sys/mine/1")},
        "negative run timeout": {"workflow_run_timeout": Duration(seconds=-1)},
        "negative delay": {"workflow_start_delay": Duration(seconds=-1)},
        "bad retry policy": {"retry_policy": RawRetryPolicy(backoff_coefficient=0.5)},
        "unknown namespace": {"namespace": "nowhere"},
        "no namespace": {"namespace": ""},
        "too many links": {"links": [Link(batch_job=Link.BatchJob(job_id=str(number))) for number in range(11)]},
        "bad callback": {"completion_callbacks": [Callback(nexus=Callback.Nexus(url="gopher://x"))]},
        "bad priority": {"priority": Priority(priority_key=-1)},
    }
    for name, fields in cases.items():
        await env.observe_error(name, env.service.start_workflow_execution(env.start_request(**fields)))
    return []


@scenario("signal_bad_requests", items=["workflow: signal"])
async def signal_bad_requests(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.observe_error("no name", env.signal(run, ""))
    await env.observe_error("bad run id", env.signal(Run(run.workflow_id, "not-a-run-id")))
    request = SignalWorkflowExecutionRequest(namespace=env.namespace, signal_name="go")
    await env.observe_error("no workflow", env.service.signal_workflow_execution(request))
    await env.observe_error("long name", env.signal(run, "x" * 1001))
    return [run]
