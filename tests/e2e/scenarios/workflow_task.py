"""Workflow tasks: normal, transient, timed out, sticky, forced, and events that come while a task runs."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueResponse,
    ResetStickyTaskQueueRequest,
    TerminateWorkflowExecutionRequest,
)

from tests.e2e import commands
from tests.e2e.environment import Env, event_name, payloads, run_of, seconds
from tests.e2e.registry import Run, scenario


def view(task: PollWorkflowTaskQueueResponse) -> dict[str, object]:
    """What a worker sees of a task, ids of events included."""
    return {
        "attempt": task.attempt,
        "previous_started_event_id": task.previous_started_event_id,
        "started_event_id": task.started_event_id,
        "events": [f"{event.event_id} {event_name(event)}" for event in task.history.events],
        "task_queue": task.workflow_execution_task_queue.name,
        "queries": len(task.queries),
    }


@workflow.defn
class Greeting:
    @workflow.run
    async def run(self, name: str) -> str:
        return f"hello {name}"


@scenario("workflow_task_normal", items=["workflow task: normal"])
async def workflow_task_normal(env: Env) -> list[Run]:
    async with env.worker([Greeting]):
        handle = await env.start(Greeting.run, "world")
        assert await handle.result() == "hello world"
    return [run_of(handle)]


@scenario("workflow_task_without_cache", items=["workflow task: normal"])
async def workflow_task_without_cache(env: Env) -> list[Run]:
    async with env.worker([TwoSteps], [say], max_cached_workflows=0):
        handle = await env.start(TwoSteps.run)
        assert await handle.result() == ["a", "b"]
    return [run_of(handle)]


@activity.defn
async def say(word: str) -> str:
    return word


@workflow.defn
class TwoSteps:
    @workflow.run
    async def run(self) -> list[str]:
        first = await workflow.execute_activity(say, "a", start_to_close_timeout=seconds(5))
        return [first, await workflow.execute_activity(say, "b", start_to_close_timeout=seconds(5))]


@scenario("workflow_task_sticky_sdk", items=["workflow task: sticky"])
async def workflow_task_sticky_sdk(env: Env) -> list[Run]:
    async with env.worker([TwoSteps], [say]):
        handle = await env.start(TwoSteps.run)
        assert await handle.result() == ["a", "b"]
    return [run_of(handle)]


@scenario("workflow_task_transient", items=["workflow task: transient", "workflow task: attempts"])
async def workflow_task_transient(env: Env) -> list[Run]:
    run = await env.start_raw()
    first = await env.raw.poll()
    env.observe("first", view(first))
    await env.raw.fail(first, message="first attempt")
    second = await env.raw.poll()
    env.observe("second", view(second))
    env.observe("history while the second attempt runs", [event_name(event) for event in await env.history(run)])
    await env.raw.fail(second, message="second attempt")
    third = await env.raw.poll()
    env.observe("third", view(third))
    await env.raw.complete(third, commands.complete())
    return [run]


_broken: set[str] = set()


@workflow.defn
class BrokenOnce:
    @workflow.run
    async def run(self) -> str:
        if workflow.info().workflow_id not in _broken:
            _broken.add(workflow.info().workflow_id)
            raise RuntimeError("a bug in the workflow's code")
        return "fixed"


@scenario("workflow_task_failed_then_fixed", items=["workflow task: transient"])
async def workflow_task_failed_then_fixed(env: Env) -> list[Run]:
    async with env.worker([BrokenOnce]):
        handle = await env.start(BrokenOnce.run)
        assert await handle.result() == "fixed"
    return [run_of(handle)]


@scenario("workflow_task_transient_then_signal", items=["workflow task: transient", "workflow task: buffered events"])
async def workflow_task_transient_then_signal(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.fail(await env.raw.poll())
    second = await env.raw.poll()
    await env.signal(run, "during the transient task")
    env.observe("history after the signal", [event_name(event) for event in await env.history(run)])
    await env.raw.complete(second)
    third = await env.raw.poll()
    env.observe("third", view(third))
    await env.raw.complete(third, commands.complete())
    return [run]


@scenario("workflow_task_transient_failed_with_signal", items=["workflow task: transient", "workflow task: buffered events"])
async def workflow_task_transient_failed_with_signal(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.fail(await env.raw.poll())
    second = await env.raw.poll()
    await env.signal(run, "during the transient task")
    await env.raw.fail(second)
    third = await env.raw.poll()
    env.observe("third", view(third))
    await env.raw.complete(third, commands.complete())
    return [run]


@scenario("workflow_task_signal_between_attempts", items=["workflow task: transient"])
async def workflow_task_signal_between_attempts(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.fail(await env.raw.poll())
    await env.signal(run, "before the second attempt starts")
    second = await env.raw.poll()
    env.observe("second", view(second))
    await env.raw.complete(second, commands.complete())
    return [run]


@scenario("workflow_task_start_to_close_timeout", items=["workflow task: start-to-close timeout"])
async def workflow_task_start_to_close_timeout(env: Env) -> list[Run]:
    run = await env.start_raw(workflow_task_timeout=timedelta(seconds=1))
    late = await env.raw.poll()
    second = await env.raw.poll()
    env.observe("second", view(second))
    await env.observe_error("completing the timed out task", env.raw.complete(late, commands.complete()))
    await env.raw.complete(second, commands.complete())
    return [run]


@scenario("workflow_task_times_out_twice", items=["workflow task: start-to-close timeout", "workflow task: attempts"])
async def workflow_task_times_out_twice(env: Env) -> list[Run]:
    run = await env.start_raw(workflow_task_timeout=timedelta(seconds=1))
    await env.raw.poll()
    await env.raw.poll()
    third = await env.raw.poll()
    env.observe("third", view(third))
    await env.raw.complete(third, commands.complete())
    return [run]


@scenario("sticky_task_shows_only_new_events", items=["workflow task: sticky"])
async def sticky_task_shows_only_new_events(env: Env) -> list[Run]:
    run, sticky = await env.start_raw(), env.id("sticky")
    polling = await env.raw.poll_sticky(sticky)
    await env.raw.step(sticky=sticky)
    await env.signal(run)
    task = await polling
    env.observe("sticky task", view(task))
    await env.raw.complete(task, commands.complete(), sticky=sticky)
    return [run]


@scenario("sticky_falls_back_after_schedule_to_start", items=["workflow task: sticky fallback"])
async def sticky_falls_back_after_schedule_to_start(env: Env) -> list[Run]:
    run, sticky = await env.start_raw(), env.id("sticky")
    polling = await env.raw.poll_sticky(sticky)
    await env.raw.step(sticky=sticky, sticky_timeout_s=1)
    await env.signal(run, "one")
    await env.raw.complete(await polling, sticky=sticky, sticky_timeout_s=1)
    await env.signal(run, "two")
    task = await env.raw.poll()
    env.observe("task on the normal queue", view(task))
    await env.raw.complete(task, commands.complete())
    return [run]


@scenario("sticky_without_a_poller_is_skipped", items=["workflow task: sticky fallback"])
async def sticky_without_a_poller_is_skipped(env: Env) -> list[Run]:
    """Nobody polls the sticky queue: the task goes to the normal queue long before the sticky time-out."""
    run = await env.start_raw()
    await env.raw.step(sticky=env.id("sticky"), sticky_timeout_s=60)
    await env.signal(run)
    await env.raw.step(commands.complete())
    return [run]


@scenario("sticky_is_reset_by_call", items=["workflow task: sticky fallback"])
async def sticky_is_reset_by_call(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step(sticky=env.id("sticky"))
    await env.service.reset_sticky_task_queue(
        ResetStickyTaskQueueRequest(namespace=env.namespace, execution=WorkflowExecution(workflow_id=run.workflow_id))
    )
    await env.signal(run)
    task = await env.raw.poll()
    env.observe("task", view(task))
    await env.raw.complete(task, commands.complete())
    return [run]


@scenario("sticky_is_left_after_a_failed_task", items=["workflow task: sticky fallback", "workflow task: attempts"])
async def sticky_is_left_after_a_failed_task(env: Env) -> list[Run]:
    run, sticky = await env.start_raw(), env.id("sticky")
    polling = await env.raw.poll_sticky(sticky)
    await env.raw.step(sticky=sticky)
    await env.signal(run)
    await env.raw.fail(await polling)
    task = await env.raw.poll()
    env.observe("task", view(task))
    await env.raw.complete(task, commands.complete())
    return [run]


@scenario("workflow_task_force_create", items=["workflow task: force create"])
async def workflow_task_force_create(env: Env) -> list[Run]:
    run = await env.start_raw()
    first = await env.raw.poll()
    response = await env.raw.complete(first, force_create_new_workflow_task=True, return_new_workflow_task=True)
    env.observe("returned task", view(response.workflow_task))
    response = await env.raw.complete(response.workflow_task, force_create_new_workflow_task=True)
    env.observe("no task returned", response.HasField("workflow_task"))
    task = await env.raw.poll()
    env.observe("polled task", view(task))
    await env.raw.complete(task, commands.complete())
    return [run]


@activity.defn
async def slow_locally(wait_s: float) -> str:
    await asyncio.sleep(wait_s)
    return "slow"


@workflow.defn
class LongLocal:
    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_local_activity(slow_locally, 1.5, start_to_close_timeout=seconds(10))


@scenario("local_activity_heartbeats_its_task", items=["workflow task: force create", "activity: local", "marker"])
async def local_activity_heartbeats_its_task(env: Env) -> list[Run]:
    async with env.worker([LongLocal], [slow_locally]):
        handle = await env.start(LongLocal.run, task_timeout=seconds(1))
        assert await handle.result() == "slow"
    return [run_of(handle)]


@scenario("unhandled_command", items=["workflow task: unhandled command", "workflow task: buffered events"])
async def unhandled_command(env: Env) -> list[Run]:
    run = await env.start_raw()
    first = await env.raw.poll()
    await env.signal(run)
    await env.observe_error("closing with an unseen signal", env.raw.complete(first, commands.complete()))
    second = await env.raw.poll()
    env.observe("second", view(second))
    await env.raw.complete(second, commands.complete())
    return [run]


@scenario("signals_during_a_task_are_buffered", items=["workflow task: buffered events", "workflow: signal"])
async def signals_during_a_task_are_buffered(env: Env) -> list[Run]:
    run = await env.start_raw()
    first = await env.raw.poll()
    for number in range(3):
        await env.signal(run, "go", number)
    env.observe("history while the task runs", [event_name(event) for event in await env.history(run)])
    await env.raw.complete(first, commands.start_timer("t"), commands.marker("m"))
    second = await env.raw.poll()
    env.observe("second", view(second))
    await env.raw.complete(second, commands.complete())
    return [run]


@scenario("a_failed_task_flushes_buffered_signals", items=["workflow task: buffered events"])
async def a_failed_task_flushes_buffered_signals(env: Env) -> list[Run]:
    run = await env.start_raw()
    first = await env.raw.poll()
    await env.signal(run)
    await env.raw.fail(first)
    second = await env.raw.poll()
    env.observe("second", view(second))
    await env.raw.complete(second, commands.complete())
    return [run]


@scenario("a_timed_out_task_flushes_buffered_signals", items=["workflow task: buffered events"])
async def a_timed_out_task_flushes_buffered_signals(env: Env) -> list[Run]:
    run = await env.start_raw(workflow_task_timeout=timedelta(seconds=1))
    await env.raw.poll()
    await env.signal(run)
    second = await env.raw.poll()
    env.observe("second", view(second))
    await env.raw.complete(second, commands.complete())
    return [run]


@scenario("results_during_a_task_are_buffered", items=["workflow task: buffered events"])
async def results_during_a_task_are_buffered(env: Env) -> list[Run]:
    """An activity that starts and ends, a timer and a signal while a task runs: results go behind signals."""
    run = await env.start_raw()
    await env.raw.step(commands.schedule_activity("a", env.task_queue), commands.start_timer("t", 1.5))
    await env.signal(run, "makes a task")
    second = await env.raw.poll()
    activity_task = await env.raw.poll_activity()
    await env.raw.complete_activity(activity_task, payloads("done"))
    await env.signal(run, "after the activity")

    await asyncio.sleep(2.5)  # A buffered firing shows nowhere, and the real server fires short timers up to 1 s late.
    env.observe("history while the task runs", [event_name(event) for event in await env.history(run)])
    await env.raw.complete(second)
    third = await env.raw.poll()
    await env.raw.complete(third, commands.complete())
    return [run]


@scenario("terminate_while_a_task_runs", items=["workflow: terminate", "workflow task: buffered events"])
async def terminate_while_a_task_runs(env: Env) -> list[Run]:
    run = await env.start_raw()
    task = await env.raw.poll()
    await env.signal(run)
    await env.service.terminate_workflow_execution(
        TerminateWorkflowExecutionRequest(
            namespace=env.namespace,
            workflow_execution=WorkflowExecution(workflow_id=run.workflow_id),
            reason="enough",
            identity="e2e",
        )
    )
    await env.observe_error("completing a task of a closed run", env.raw.complete(task, commands.complete()))
    await env.observe_error("failing a task of a closed run", env.raw.fail(task))
    return [run]


@scenario("many_commands_in_one_task", items=["workflow task: many commands"])
async def many_commands_in_one_task(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step(
        commands.start_timer("t1"),
        commands.start_timer("t2"),
        commands.marker("m", details={"k": payloads("v")}),
        commands.schedule_activity("a1", env.id("nobody")),
        commands.schedule_activity("a2", env.id("nobody"), heartbeat_timeout=Duration(seconds=3)),
        commands.cancel_timer("t1"),
        commands.start_child(env.id("child"), task_queue=TaskQueue(name=env.id("nobody"))),
    )
    await env.seen(run, "CHILD_WORKFLOW_EXECUTION_STARTED")
    await env.raw.complete(await env.raw.poll())
    return [run]


CAUSES = WorkflowTaskFailedCause


@scenario("workflow_task_failed_by_the_worker", items=["workflow task: failure causes"])
async def workflow_task_failed_by_the_worker(env: Env) -> list[Run]:
    """A cause that an SDK reports is written as it is told."""
    runs = []
    for cause in (CAUSES.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR, CAUSES.WORKFLOW_TASK_FAILED_CAUSE_UNSPECIFIED):
        run = await env.start_raw(f"wf-{cause}")
        await env.raw.fail(await env.raw.poll(), cause, f"cause {cause}")
        await env.raw.step(commands.complete())
        runs.append(run)
    return runs


@scenario("workflow_task_answer_too_large", items=["workflow task: failure causes", "workflow: terminate"])
async def workflow_task_answer_too_large(env: Env) -> list[Run]:
    """A worker whose answer does not fit into a gRPC message will never get further: the server ends the run."""
    run = await env.start_raw()
    await env.raw.fail(await env.raw.poll(), CAUSES.WORKFLOW_TASK_FAILED_CAUSE_GRPC_MESSAGE_TOO_LARGE, "too large")
    env.observe("close event", await env.closed(run))
    return [run]
