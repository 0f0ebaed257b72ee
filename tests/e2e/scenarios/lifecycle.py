"""A run from start to end: continue-as-new, retry, cron, delays, time-outs, cancel, terminate, pause, delete."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.api.common.v1 import RetryPolicy, WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    DeleteWorkflowExecutionRequest,
    PauseWorkflowExecutionRequest,
    RequestCancelWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
    UnpauseWorkflowExecutionRequest,
)
from temporalio.client import WorkflowFailureError
from temporalio.common import RetryPolicy as SdkRetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from tests.e2e import commands
from tests.e2e.environment import IDENTITY, Env, payloads, run_of, seconds
from tests.e2e.raw_worker import failure
from tests.e2e.registry import Run, scenario


def named(env: Env, run: Run) -> dict[str, Any]:
    execution = WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id)
    return {"namespace": env.namespace, "workflow_execution": execution, "identity": IDENTITY}


async def successor(env: Env, run: Run) -> Run:
    """The run that the last event of this one names."""
    last = (await env.history(run))[-1]
    attributes = getattr(last, str(last.WhichOneof("attributes")))
    return Run(run.workflow_id, attributes.new_execution_run_id)


@workflow.defn
class Counts:
    @workflow.run
    async def run(self, left: int) -> str:
        if left:
            workflow.continue_as_new(left - 1)
        return "counted"


@scenario("continue_as_new", items=["continue-as-new"])
async def continue_as_new(env: Env) -> list[Run]:
    async with env.worker([Counts]):
        handle = await env.start(Counts.run, 2, execution_timeout=seconds(60), run_timeout=seconds(30), task_timeout=seconds(7))
        assert await handle.result() == "counted"
    first = Run(handle.id, handle.first_execution_run_id or "")
    second = await successor(env, first)
    return [first, second, await successor(env, second)]


@scenario("continue_as_new_with_a_late_signal", items=["continue-as-new", "workflow task: unhandled command"])
async def continue_as_new_with_a_late_signal(env: Env) -> list[Run]:
    """A signal that came during the task must not be lost with the old run."""
    run = await env.start_raw()
    task = await env.raw.poll()
    await env.signal(run)
    await env.observe_error("continuing with an unseen signal", env.raw.complete(task, commands.continue_as_new()))
    await env.raw.step(commands.continue_as_new(input=payloads("second")))
    task = await env.raw.poll()
    await env.raw.complete(task, commands.complete())
    return [run, Run(run.workflow_id, task.workflow_execution.run_id)]


@workflow.defn
class FailsOnce:
    @workflow.run
    async def run(self) -> int:
        attempt = workflow.info().attempt
        if attempt == 1:
            raise ApplicationError("first attempt", type="Early")
        return attempt


@scenario("workflow_retry", items=["workflow: retry"])
async def workflow_retry(env: Env) -> list[Run]:
    policy = SdkRetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=1.0, maximum_attempts=3)
    async with env.worker([FailsOnce]):
        handle = await env.start(FailsOnce.run, retry_policy=policy)
        assert await handle.result() == 2
    first = Run(handle.id, handle.first_execution_run_id or "")
    return [first, await successor(env, first)]


@scenario("workflow_retry_non_retryable", items=["workflow: retry"])
async def workflow_retry_non_retryable(env: Env) -> list[Run]:
    policy = RetryPolicy(initial_interval=commands.duration(1), non_retryable_error_types=["Fatal"])
    by_type = await env.start_raw("by-type", retry_policy=policy)
    await env.raw.step(commands.fail(failure("x", "Fatal")))
    by_flag = await env.start_raw("by-flag", retry_policy=policy)
    await env.raw.step(commands.fail(failure("x", "Other", non_retryable=True)))
    return [by_type, by_flag]


@scenario("workflow_retry_after_run_timeout", items=["workflow: retry", "workflow: run timeout"])
async def workflow_retry_after_run_timeout(env: Env) -> list[Run]:
    policy = RetryPolicy(initial_interval=commands.duration(1), maximum_attempts=2)
    first = await env.start_raw(retry_policy=policy, workflow_run_timeout=seconds(1))
    await env.seen(first, "WORKFLOW_EXECUTION_TIMED_OUT")
    second = await successor(env, first)
    await env.seen(second, "WORKFLOW_EXECUTION_TIMED_OUT")
    return [first, second]


@scenario("workflow_execution_timeout_ends_retries", items=["workflow: execution timeout", "workflow: retry"])
async def workflow_execution_timeout_ends_retries(env: Env) -> list[Run]:
    policy = RetryPolicy(initial_interval=commands.duration(30))
    run = await env.start_raw(retry_policy=policy, workflow_execution_timeout=seconds(5))
    await env.raw.step(commands.fail(failure("no time for another")))
    return [run]


@scenario("workflow_execution_timeout", items=["workflow: execution timeout"])
async def workflow_execution_timeout(env: Env) -> list[Run]:
    run = await env.start_raw(workflow_execution_timeout=seconds(1))
    await env.raw.step(commands.start_timer("t"), commands.schedule_activity("a", env.id("nobody")))
    await env.seen(run, "WORKFLOW_EXECUTION_TIMED_OUT")
    return [run]


@scenario("workflow_run_timeout_while_a_task_runs", items=["workflow: run timeout", "workflow task: buffered events"])
async def workflow_run_timeout_while_a_task_runs(env: Env) -> list[Run]:
    run = await env.start_raw(workflow_run_timeout=seconds(1))
    task = await env.raw.poll()
    await env.signal(run)
    await env.seen(run, "WORKFLOW_EXECUTION_TIMED_OUT")
    await env.observe_error("late answer", env.raw.complete(task, commands.complete()))
    return [run]


@scenario("workflow_cron", items=["workflow: cron"])
async def workflow_cron(env: Env) -> list[Run]:
    """A completed, a failed and a cancelled run of a schedule; results and failures are carried on."""
    first = await env.start_raw(cron_schedule="@every 1s")
    await env.raw.step(commands.complete(payloads("result one")))
    second = await successor(env, first)
    await env.raw.step(commands.fail(failure("failure two")))
    third = await successor(env, second)
    task = await env.raw.poll()
    env.observe("third runs", task.workflow_execution.run_id == third.run_id)
    await env.service.request_cancel_workflow_execution(RequestCancelWorkflowExecutionRequest(**named(env, third)))
    await env.raw.complete(task)
    await env.raw.step(commands.cancel_workflow())
    return [first, second, third]


@scenario("workflow_cron_bad", items=["workflow: cron"])
async def workflow_cron_bad(env: Env) -> list[Run]:
    request = env.start_request(cron_schedule="every now and then")
    await env.observe_error("bad schedule", env.service.start_workflow_execution(request))
    request = env.start_request(cron_schedule="@every 1s", workflow_start_delay=seconds(1))
    await env.observe_error("with a delay", env.service.start_workflow_execution(request))
    return []


@scenario("workflow_start_delay", items=["workflow: start delay"])
async def workflow_start_delay(env: Env) -> list[Run]:
    async with env.worker([Counts]):
        handle = await env.start(Counts.run, 0, start_delay=seconds(1))
        assert await handle.result() == "counted"
    return [run_of(handle)]


@scenario("workflow_start_delay_outlasts_a_signal", items=["workflow: start delay", "workflow: signal"])
async def workflow_start_delay_outlasts_a_signal(env: Env) -> list[Run]:
    """A signal does not cut the delay short: the first task comes after it and shows the signal."""
    run = await env.start_raw(workflow_start_delay=seconds(1))
    await env.signal(run)
    await env.raw.step(commands.complete())
    return [run]


@scenario("workflow_terminated", items=["workflow: terminate"])
async def workflow_terminated(env: Env) -> list[Run]:
    async with env.worker([Waits]):
        handle = await env.start(Waits.run)
        await env.seen(run_of(handle), "WORKFLOW_TASK_COMPLETED")
        await handle.terminate("detail", 7, reason="by hand")
        try:
            await handle.result()
        except WorkflowFailureError as error:
            env.observe("result", str(error.cause))
    await env.observe_error(
        "again", env.service.terminate_workflow_execution(TerminateWorkflowExecutionRequest(**named(env, run_of(handle))))
    )
    await env.observe_error("signal", env.signal(run_of(handle)))
    cancel = RequestCancelWorkflowExecutionRequest(**named(env, run_of(handle)))
    await env.service.request_cancel_workflow_execution(cancel)
    return [run_of(handle)]


@workflow.defn
class Waits:
    @workflow.run
    async def run(self) -> None:
        try:
            await workflow.wait_condition(lambda: False)
        except asyncio.CancelledError:
            await workflow.sleep(1)
            raise


@scenario("workflow_cancelled", items=["workflow: cancel"])
async def workflow_cancelled(env: Env) -> list[Run]:
    """The workflow cleans up before it ends as cancelled."""
    async with env.worker([Waits]):
        handle = await env.start(Waits.run)
        await env.seen(run_of(handle), "WORKFLOW_TASK_COMPLETED")
        await handle.cancel(reason="enough")
        try:
            await handle.result()
        except WorkflowFailureError as error:
            env.observe("result", type(error.cause).__name__)
    return [run_of(handle)]


@scenario("workflow_cancel_requested_twice", items=["workflow: cancel", "workflow: request id"])
async def workflow_cancel_requested_twice(env: Env) -> list[Run]:
    run = await env.start_raw()
    request = RequestCancelWorkflowExecutionRequest(**named(env, run), request_id="the-same", reason="first")
    await env.service.request_cancel_workflow_execution(request)
    await env.service.request_cancel_workflow_execution(request)
    request.request_id, request.reason = "another", "second"
    await env.service.request_cancel_workflow_execution(request)
    await env.raw.step(commands.cancel_workflow(payloads("gone")))
    return [run]


@scenario("workflow_that_nobody_knows", items=["workflow: terminate", "workflow: cancel", "workflow: signal"])
async def workflow_that_nobody_knows(env: Env) -> list[Run]:
    nobody = Run(env.id("nobody"), "")
    await env.observe_error("signal", env.signal(nobody))
    await env.observe_error(
        "terminate", env.service.terminate_workflow_execution(TerminateWorkflowExecutionRequest(**named(env, nobody)))
    )
    await env.observe_error(
        "cancel", env.service.request_cancel_workflow_execution(RequestCancelWorkflowExecutionRequest(**named(env, nobody)))
    )
    await env.observe_error("describe", env.describe(nobody))
    await env.observe_error("history", env.history(nobody))
    run = await env.start_raw()
    other = Run(run.workflow_id, "0ddba11e-0000-4000-8000-000000000000")
    await env.observe_error("signal to another run", env.signal(other))
    await env.observe_error("describe of another run", env.describe(other))
    request = TerminateWorkflowExecutionRequest(**named(env, Run(run.workflow_id, "")), first_execution_run_id=other.run_id)
    await env.observe_error("terminate of another chain", env.service.terminate_workflow_execution(request))
    return []


@scenario("workflow_paused", items=["workflow: pause"])
async def workflow_paused(env: Env) -> list[Run]:
    """A paused run takes signals but gets no task until it goes on (real server: frontend.WorkflowPauseEnabled)."""
    run = await env.start_raw()
    await env.raw.step()
    target = {"namespace": env.namespace, "workflow_id": run.workflow_id, "run_id": run.run_id, "identity": IDENTITY}
    await env.service.pause_workflow_execution(PauseWorkflowExecutionRequest(**target, reason="look first", request_id="p1"))
    described = await env.describe(run)
    env.observe("status", described.workflow_execution_info.status)
    env.observe("pause info", described.workflow_extended_info.pause_info)
    await env.signal(run)
    await asyncio.sleep(0.5)  # No task must come; nothing can be awaited.
    await env.service.unpause_workflow_execution(UnpauseWorkflowExecutionRequest(**target, reason="seen", request_id="u1"))
    await env.raw.step(commands.complete())
    return [run]


@scenario("workflow_deleted", items=["workflow: delete"])
async def workflow_deleted(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step(commands.complete())
    execution = WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id)
    await env.service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(namespace=env.namespace, workflow_execution=execution)
    )

    async def gone() -> bool:
        try:
            await env.describe(run)
        except RPCError as error:
            return error.status == RPCStatusCode.NOT_FOUND
        return False

    # The real server takes about 20 s; what is promised is that it goes.
    await env.until(gone, "the run to be gone", timeout_s=50)
    await env.observe_error("history", env.history(run))
    again = await env.start_raw()
    return [again]
