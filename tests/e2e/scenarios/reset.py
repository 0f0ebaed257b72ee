"""Reset: to every kind of point, what is applied again, what is left out, and what is refused."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import ResetReapplyExcludeType, ResetReapplyType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Outcome
from temporalio.api.workflowservice.v1 import RequestCancelWorkflowExecutionRequest, ResetWorkflowExecutionRequest

from tests.e2e import commands
from tests.e2e.environment import IDENTITY, Env, event_name, payloads
from tests.e2e.registry import Run, scenario
from tests.e2e.scenarios.updates_by_task import send

TYPE = ResetReapplyType
EXCLUDE = ResetReapplyExcludeType


def request(env: Env, run: Run, event_id: int, exclude: Sequence[Any] = (), **fields: Any) -> ResetWorkflowExecutionRequest:
    return ResetWorkflowExecutionRequest(
        namespace=env.namespace,
        workflow_execution=WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id),
        reason="try again",
        workflow_task_finish_event_id=event_id,
        reset_reapply_exclude_types=exclude,
        identity=IDENTITY,
        **({"request_id": str(uuid.uuid4())} | fields),
    )


async def reset(env: Env, run: Run, event_id: int, exclude: Sequence[Any] = (), **fields: Any) -> Run:
    response = await env.service.reset_workflow_execution(request(env, run, event_id, exclude, **fields))
    return Run(run.workflow_id, response.run_id)


async def three_tasks(env: Env) -> Run:
    """Three workflow tasks (ending at 4, 9 and 14), a signal before each but the first; the run stays open."""
    run = await env.start_raw()
    await env.raw.step(commands.marker("first"))
    await env.signal(run, "one", 1)
    await env.raw.step(commands.marker("second"))
    await env.signal(run, "two", 2)
    await env.raw.step(commands.marker("third"))
    return run


async def task_ends(env: Env, run: Run) -> list[int]:
    return [event.event_id for event in await env.history(run) if event_name(event) == "WORKFLOW_TASK_COMPLETED"]


@scenario("reset_to_the_first_task", items=["workflow: reset", "workflow: reset reapply"])
async def reset_to_the_first_task(env: Env) -> list[Run]:
    run = await three_tasks(env)
    new = await reset(env, run, (await task_ends(env, run))[0])
    await env.raw.step(commands.complete())
    return [run, new]


@scenario("reset_to_the_last_task", items=["workflow: reset"])
async def reset_to_the_last_task(env: Env) -> list[Run]:
    run = await three_tasks(env)
    new = await reset(env, run, (await task_ends(env, run))[-1])
    await env.raw.step(commands.complete())
    described = await env.describe(run)
    env.observe("the old run names the new one", described.workflow_extended_info.reset_run_id == new.run_id)
    return [run, new]


@scenario("reset_without_reapply", items=["workflow: reset reapply"])
async def reset_without_reapply(env: Env) -> list[Run]:
    run = await three_tasks(env)
    new = await reset(env, run, (await task_ends(env, run))[1], reset_reapply_type=TYPE.RESET_REAPPLY_TYPE_NONE)
    await env.raw.step(commands.complete())
    return [run, new]


@scenario("reset_with_reapply_of_signals", items=["workflow: reset reapply"])
async def reset_with_reapply_of_signals(env: Env) -> list[Run]:
    run = await three_tasks(env)
    new = await reset(env, run, (await task_ends(env, run))[1], reset_reapply_type=TYPE.RESET_REAPPLY_TYPE_SIGNAL)
    await env.raw.step(commands.complete())
    return [run, new]


@scenario("reset_excluding_signals", items=["workflow: reset reapply"])
async def reset_excluding_signals(env: Env) -> list[Run]:
    run = await three_tasks(env)
    new = await reset(env, run, (await task_ends(env, run))[0], [EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL])
    await env.raw.step(commands.complete())
    return [run, new]


async def updated(env: Env) -> Run:
    """An update that was accepted and completed in the second task."""
    run = await env.start_raw()
    await env.raw.step()
    sending = asyncio.create_task(send(env, run, "u1"))
    task = await env.raw.poll()
    acceptance = commands.accept(task.messages[0])
    response = commands.respond("u1", Outcome(success=payloads("done")))
    await env.raw.complete(
        task,
        commands.message_command(acceptance.id),
        commands.message_command(response.id),
        messages=[acceptance, response],
    )
    await sending
    return run


@scenario("reset_reapplies_updates", items=["workflow: reset reapply", "update: complete"])
async def reset_reapplies_updates(env: Env) -> list[Run]:
    """The update comes again as an event "admitted"; the worker takes the request from that event, no message is sent."""
    run = await updated(env)
    new = await reset(env, run, 4)
    task = await env.raw.poll()
    env.observe("messages", len(task.messages))
    admitted = next(event for event in task.history.events if event_name(event) == "WORKFLOW_EXECUTION_UPDATE_ADMITTED")
    acceptance = commands.accept_admitted(admitted)
    response = commands.respond("u1", Outcome(success=payloads("done again")))
    await env.raw.complete(
        task,
        commands.message_command(acceptance.id),
        commands.message_command(response.id),
        commands.complete(),
        messages=[acceptance, response],
    )
    return [run, new]


@scenario("reset_excluding_updates", items=["workflow: reset reapply"])
async def reset_excluding_updates(env: Env) -> list[Run]:
    run = await updated(env)
    new = await reset(env, run, 4, [EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE])
    await env.raw.step(commands.complete())
    return [run, new]


async def cancelled(env: Env) -> Run:
    run = await env.start_raw()
    await env.raw.step()
    await env.service.request_cancel_workflow_execution(
        RequestCancelWorkflowExecutionRequest(
            namespace=env.namespace,
            workflow_execution=WorkflowExecution(workflow_id=run.workflow_id),
            identity=IDENTITY,
            reason="stop",
        )
    )
    await env.raw.step(commands.cancel_workflow())
    return run


@scenario("reset_of_a_cancelled_run", items=["workflow: reset reapply", "workflow: cancel"])
async def reset_of_a_cancelled_run(env: Env) -> list[Run]:
    run = await cancelled(env)
    new = await reset(env, run, 4)
    await env.raw.step(commands.complete())
    return [run, new]


@scenario("reset_reapplies_all_eligible", items=["workflow: reset reapply", "workflow: cancel"])
async def reset_reapplies_all_eligible(env: Env) -> list[Run]:
    run = await cancelled(env)
    new = await reset(env, run, 4, reset_reapply_type=TYPE.RESET_REAPPLY_TYPE_ALL_ELIGIBLE)
    await env.raw.step(commands.cancel_workflow())
    return [run, new]


@scenario("reset_excluding_cancel", items=["workflow: reset reapply", "workflow: cancel"])
async def reset_excluding_cancel(env: Env) -> list[Run]:
    run = await cancelled(env)
    new = await reset(env, run, 4, [EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_CANCEL_REQUEST])
    await env.raw.step(commands.complete())
    return [run, new]


@scenario("reset_of_a_closed_run", items=["workflow: reset"])
async def reset_of_a_closed_run(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step()
    await env.signal(run)
    await env.raw.step(commands.complete())
    new = await reset(env, run, (await task_ends(env, run))[0])
    await env.raw.step(commands.complete())
    return [run, new]


@scenario("reset_in_the_middle_of_work", items=["workflow: reset"])
async def reset_in_the_middle_of_work(env: Env) -> list[Run]:
    """Pending activity and timer before the point stay; a finished activity before it is not done again."""
    run = await env.start_raw()
    await env.raw.step(commands.schedule_activity("a", env.task_queue), commands.start_timer("t"))
    await env.raw.complete_activity(await env.raw.poll_activity(), payloads("done"))
    await env.raw.step(commands.schedule_activity("b", env.id("nobody")))
    await env.signal(run)
    await env.raw.step()
    new = await reset(env, run, (await task_ends(env, run))[2])
    env.observe("pending", [pending.activity_id for pending in (await env.describe(new)).pending_activities])
    await env.raw.step(commands.complete())
    return [run, new]


@scenario("reset_while_a_task_runs", items=["workflow: reset", "workflow task: failure causes"])
async def reset_while_a_task_runs(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step()
    await env.signal(run, "seen")
    task = await env.raw.poll()
    await env.signal(run, "buffered")
    new = await reset(env, run, 4)
    await env.observe_error("answer for the old run", env.raw.complete(task, commands.complete()))
    await env.raw.step(commands.complete())
    return [run, new]


@scenario("reset_to_a_started_task", items=["workflow: reset"])
async def reset_to_a_started_task(env: Env) -> list[Run]:
    """The point may be the event after a task's start, though that task never completed."""
    run = await env.start_raw(workflow_task_timeout=None)
    task = await env.raw.poll()
    await env.raw.fail(task)
    new = await reset(env, run, 4)
    await env.raw.step(commands.complete())
    return [run, new]


@scenario("reset_over_a_continue_as_new", items=["workflow: reset reapply", "continue-as-new"])
async def reset_over_a_continue_as_new(env: Env) -> list[Run]:
    """Signals of the later run come along, and the current run is terminated."""
    first = await env.start_raw()
    await env.raw.step()
    await env.signal(first, "to the first run")
    await asyncio.sleep(1.1)  # The real server keeps two runs of an id 1 s apart; this one is old enough to be followed at once.
    await env.raw.step(commands.continue_as_new(env.id("nobody")))
    last = (await env.history(first))[-1].workflow_execution_continued_as_new_event_attributes
    second = Run(first.workflow_id, last.new_execution_run_id)
    await env.signal(second, "to the second run")
    new = await reset(env, first, 4)
    await env.raw.step(commands.complete())
    return [first, second, new]


@scenario("reset_with_a_child", items=["workflow: reset", "child: complete"])
async def reset_with_a_child(env: Env) -> list[Run]:
    """A child started before the point stays the child of the new run."""
    run = await env.start_raw()
    queue = env.id("child-tq")
    await env.raw.step(commands.start_child(env.id("child"), task_queue=TaskQueue(name=queue)))
    await env.seen(run, "CHILD_WORKFLOW_EXECUTION_STARTED")
    await env.raw.step()
    await env.signal(run)
    await env.raw.step()
    new = await reset(env, run, (await task_ends(env, run))[2])
    await env.raw.step()
    await env.raw.complete(await env.raw.poll(task_queue=queue), commands.complete(payloads("from the child")))
    await env.seen(new, "CHILD_WORKFLOW_EXECUTION_COMPLETED")
    await env.raw.step(commands.complete())
    return [run, new]


@scenario("reset_refused", items=["workflow: reset"])
async def reset_refused(env: Env) -> list[Run]:
    run = await three_tasks(env)
    call = env.service.reset_workflow_execution
    for event_id in (0, 1, 2, 5, 99):
        await env.observe_error(f"event {event_id}", call(request(env, run, event_id)))
    await env.observe_error("unknown workflow", call(request(env, Run(env.id("nobody"), ""), 4)))
    return [run]
