"""Child workflows: every way to end, start failures, parent-close and reuse policies."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.api.common.v1 import RetryPolicy, WorkflowExecution
from temporalio.api.enums.v1 import ParentClosePolicy, WorkflowIdReusePolicy
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import RequestCancelWorkflowExecutionRequest, TerminateWorkflowExecutionRequest
from temporalio.exceptions import ApplicationError, ChildWorkflowError, FailureError, WorkflowAlreadyStartedError

from tests.e2e import commands
from tests.e2e.environment import IDENTITY, Env, payloads, run_of
from tests.e2e.raw_worker import failure
from tests.e2e.registry import Run, scenario


@workflow.defn
class Child:
    """Ends only when it is told to, so that the parent's task about its start is over by then."""

    def __init__(self) -> None:
        self.told = False

    @workflow.signal
    def proceed(self) -> None:
        self.told = True

    @workflow.run
    async def run(self, how: str) -> str:
        try:
            await workflow.wait_condition(lambda: self.told)
        except asyncio.CancelledError:
            await workflow.wait_condition(lambda: self.told)
            raise
        if how == "fail":
            raise ApplicationError("child failed", "detail", type="ChildType", non_retryable=True)
        return f"child says {how}"


@workflow.defn
class Parent:
    """Runs one child and reports how it ended."""

    def __init__(self) -> None:
        self.cancel = False

    @workflow.signal
    def cancel_child(self) -> None:
        self.cancel = True

    @workflow.run
    async def run(self, how: str, child_id: str, options: dict[str, Any]) -> Any:
        try:
            handle = await workflow.start_child_workflow(
                Child.run,
                how,
                id=child_id,
                run_timeout=timedelta(seconds=options["run_timeout"]) if "run_timeout" in options else None,
                memo={"from": "parent"},
                static_summary="a child",
                cancellation_type=workflow.ChildWorkflowCancellationType(options.get("cancellation", 2)),
            )
            if options.get("cancellable"):
                await workflow.wait_condition(lambda: self.cancel)
                handle.cancel()
            return await handle
        except WorkflowAlreadyStartedError as error:
            return f"already started: {error.workflow_type}"
        except ChildWorkflowError as error:
            assert isinstance(error.cause, FailureError)
            return [type(error.cause).__name__, error.cause.message, error.retry_state.name if error.retry_state else None]


async def parent_and_child(env: Env, how: str, **options: Any) -> list[Run]:
    async with env.worker([Parent, Child]):
        handle = await env.start(Parent.run, how, env.id("child"), options, name="parent")
        child = await child_of(env, run_of(handle))
        await env.seen(run_of(handle), "WORKFLOW_TASK_COMPLETED", 2)
        if "run_timeout" not in options:
            await env.seen(child, "WORKFLOW_TASK_COMPLETED")
            await env.signal(child, "proceed")
        env.observe("result", await handle.result())
    return [run_of(handle), child]


async def child_of(env: Env, parent: Run) -> Run:
    started = (await env.seen(parent, "CHILD_WORKFLOW_EXECUTION_STARTED")).child_workflow_execution_started_event_attributes
    return Run(started.workflow_execution.workflow_id, started.workflow_execution.run_id)


@scenario("child_completes", items=["child: complete", "workflow: user metadata", "memo"])
async def child_completes(env: Env) -> list[Run]:
    return await parent_and_child(env, "hello")


@scenario("child_fails", items=["child: fail"])
async def child_fails(env: Env) -> list[Run]:
    return await parent_and_child(env, "fail")


@scenario("child_times_out", items=["child: timeout"])
async def child_times_out(env: Env) -> list[Run]:
    return await parent_and_child(env, "wait", run_timeout=1)


async def cancelled_child(env: Env, kind: workflow.ChildWorkflowCancellationType) -> list[Run]:
    async with env.worker([Parent, Child]):
        options = {"cancellable": True, "cancellation": int(kind)}
        handle = await env.start(Parent.run, "wait", env.id("child"), options, name="parent")
        child, parent = await child_of(env, run_of(handle)), run_of(handle)
        await env.seen(child, "WORKFLOW_TASK_COMPLETED")
        # The parent's own task about the start is over, so that the signal gets a task of its own.
        await env.seen(parent, "WORKFLOW_TASK_COMPLETED", 2)
        await handle.signal(Parent.cancel_child)
        await env.seen(parent, "EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED")
        await env.seen(parent, "WORKFLOW_TASK_COMPLETED", 4)
        await env.seen(child, "WORKFLOW_TASK_COMPLETED", 2)
        await env.signal(child, "proceed")
        env.observe("result", await handle.result())
    return [parent, child]


@scenario("child_is_cancelled", items=["child: cancel"])
async def child_is_cancelled(env: Env) -> list[Run]:
    return await cancelled_child(env, workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED)


@scenario("child_cancel_waits_for_the_request", items=["child: cancel"])
async def child_cancel_waits_for_the_request(env: Env) -> list[Run]:
    return await cancelled_child(env, workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_REQUESTED)


async def raw_parent(env: Env, **fields: Any) -> tuple[Run, Run]:
    """A parent whose child is started but has no worker; the parent has answered the start."""
    parent = await env.start_raw("parent")
    await env.raw.step(commands.start_child(env.id("child"), task_queue=TaskQueue(name=env.id("nobody")), **fields))
    child = await child_of(env, parent)
    await env.raw.step()
    return parent, child


@scenario("child_is_terminated", items=["child: terminate"])
async def child_is_terminated(env: Env) -> list[Run]:
    parent, child = await raw_parent(env)
    await env.service.terminate_workflow_execution(
        TerminateWorkflowExecutionRequest(
            namespace=env.namespace,
            workflow_execution=WorkflowExecution(workflow_id=child.workflow_id),
            reason="by hand",
            details=payloads("detail"),
            identity=IDENTITY,
        )
    )
    await env.raw.step(commands.complete())
    return [parent, child]


@scenario("child_cannot_start_twice", items=["child: start failure"])
async def child_cannot_start_twice(env: Env) -> list[Run]:
    other = await env.start_raw("child", task_queue=TaskQueue(name=env.id("nobody")))
    async with env.worker([Parent, Child]):
        handle = await env.start(Parent.run, "hello", env.id("child"), {}, name="parent")
        env.observe("result", await handle.result())
    return [run_of(handle), other]


@scenario("child_in_a_closed_id_by_reuse_policy", items=["child: reuse policy", "child: start failure"])
async def child_in_a_closed_id_by_reuse_policy(env: Env) -> list[Run]:
    first = await env.start_raw("child", task_queue=TaskQueue(name=env.task_queue))
    await env.raw.step(commands.complete())
    parent = await env.start_raw("parent")
    reject = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
    failed_only = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY
    nobody = TaskQueue(name=env.id("nobody"))
    await env.raw.step(commands.start_child(first.workflow_id, task_queue=nobody, workflow_id_reuse_policy=reject))
    await env.raw.step(commands.start_child(first.workflow_id, task_queue=nobody, workflow_id_reuse_policy=failed_only))
    await env.raw.step(commands.start_child(first.workflow_id, task_queue=nobody))
    await env.seen(parent, "CHILD_WORKFLOW_EXECUTION_STARTED")
    await env.raw.step(commands.complete())
    return [parent]


@scenario("child_takes_over_a_running_id", items=["child: reuse policy", "workflow: terminate"])
async def child_takes_over_a_running_id(env: Env) -> list[Run]:
    first = await env.start_raw("child", task_queue=TaskQueue(name=env.id("nobody")))
    parent, child = await raw_parent(
        env, workflow_id_reuse_policy=WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
    )
    return [parent, first, child]


async def parent_closes(env: Env, policy: ParentClosePolicy.ValueType) -> tuple[Run, Run]:
    parent, child = await raw_parent(env, parent_close_policy=policy)
    await env.signal(parent)
    await env.raw.step(commands.complete())
    return parent, child


@scenario("parent_close_terminates", items=["child: parent close policy"])
async def parent_close_terminates(env: Env) -> list[Run]:
    parent, child = await parent_closes(env, ParentClosePolicy.PARENT_CLOSE_POLICY_TERMINATE)
    env.observe("child's end", await env.closed(child))
    return [parent, child]


@scenario("parent_close_cancels", items=["child: parent close policy"])
async def parent_close_cancels(env: Env) -> list[Run]:
    parent, child = await parent_closes(env, ParentClosePolicy.PARENT_CLOSE_POLICY_REQUEST_CANCEL)
    await env.seen(child, "WORKFLOW_EXECUTION_CANCEL_REQUESTED")
    return [parent, child]


@scenario("parent_close_abandons", items=["child: parent close policy"])
async def parent_close_abandons(env: Env) -> list[Run]:
    parent, child = await parent_closes(env, ParentClosePolicy.PARENT_CLOSE_POLICY_ABANDON)
    await asyncio.sleep(0.5)  # Nothing must happen to the child; nothing can be awaited.
    env.observe("child's status", (await env.describe(child)).workflow_execution_info.status)
    return [parent, child]


@scenario("parent_terminated_with_a_child", items=["child: parent close policy", "workflow: terminate"])
async def parent_terminated_with_a_child(env: Env) -> list[Run]:
    parent, child = await raw_parent(env)
    await env.service.terminate_workflow_execution(
        TerminateWorkflowExecutionRequest(
            namespace=env.namespace,
            workflow_execution=WorkflowExecution(workflow_id=parent.workflow_id),
            reason="stop all",
            identity=IDENTITY,
        )
    )
    env.observe("child's end", await env.closed(child))
    return [parent, child]


@scenario("child_continues_as_new", items=["child: complete", "continue-as-new"])
async def child_continues_as_new(env: Env) -> list[Run]:
    """The parent hears only of the last run, under the id of the first."""
    parent = await env.start_raw("parent")
    queue = env.id("child-tq")
    await env.raw.step(commands.start_child(env.id("child"), task_queue=TaskQueue(name=queue)))
    child = await child_of(env, parent)
    await env.raw.step()
    await env.raw.complete(await env.raw.poll(task_queue=queue), commands.continue_as_new(queue))
    last = await env.raw.poll(task_queue=queue)
    await env.raw.complete(last, commands.complete(payloads("from the second run")))
    await env.raw.step(commands.complete())
    return [parent, child, Run(child.workflow_id, last.workflow_execution.run_id)]


@scenario("child_retries_by_policy", items=["child: fail", "workflow: retry"])
async def child_retries_by_policy(env: Env) -> list[Run]:
    policy = RetryPolicy(initial_interval=commands.duration(1), backoff_coefficient=1.0, maximum_attempts=2)
    parent = await env.start_raw("parent")
    queue = env.id("child-tq")
    await env.raw.step(commands.start_child(env.id("child"), task_queue=TaskQueue(name=queue), retry_policy=policy))
    child = await child_of(env, parent)
    await env.raw.step()
    await env.raw.complete(await env.raw.poll(task_queue=queue), commands.fail(failure("first")))
    last = await env.raw.poll(task_queue=queue)
    await env.raw.complete(last, commands.fail(failure("second")))
    await env.raw.step(commands.complete())
    return [parent, child, Run(child.workflow_id, last.workflow_execution.run_id)]


@scenario("child_canceled_from_outside", items=["child: cancel", "workflow: cancel"])
async def child_canceled_from_outside(env: Env) -> list[Run]:
    parent = await env.start_raw("parent")
    queue = env.id("child-tq")
    await env.raw.step(commands.start_child(env.id("child"), task_queue=TaskQueue(name=queue)))
    child = await child_of(env, parent)
    await env.raw.step()
    await env.raw.complete(await env.raw.poll(task_queue=queue))
    await env.service.request_cancel_workflow_execution(
        RequestCancelWorkflowExecutionRequest(
            namespace=env.namespace,
            workflow_execution=WorkflowExecution(workflow_id=child.workflow_id),
            identity=IDENTITY,
            reason="by hand",
        )
    )
    await env.raw.complete(await env.raw.poll(task_queue=queue), commands.cancel_workflow(payloads("gone")))
    await env.raw.step(commands.complete())
    return [parent, child]
