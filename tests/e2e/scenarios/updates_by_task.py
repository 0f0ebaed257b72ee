"""Updates seen task by task: what a speculative task shows and leaves behind, and every way an update can end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import UpdateWorkflowExecutionLifecycleStage, WorkflowIdConflictPolicy
from temporalio.api.update.v1 import Input, Meta, Outcome, Request, UpdateRef, WaitPolicy
from temporalio.api.workflowservice.v1 import (
    ExecuteMultiOperationRequest,
    PollWorkflowExecutionUpdateRequest,
    TerminateWorkflowExecutionRequest,
    UpdateWorkflowExecutionRequest,
    UpdateWorkflowExecutionResponse,
)

from tests.e2e import commands
from tests.e2e.environment import IDENTITY, Env, payloads, seconds
from tests.e2e.raw_worker import failure
from tests.e2e.registry import Run, scenario
from tests.e2e.scenarios.workflow_task import view

ACCEPTED = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED
COMPLETED = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED


def update(env: Env, run: Run, update_id: str, stage: int = COMPLETED, **fields: Any) -> UpdateWorkflowExecutionRequest:
    return UpdateWorkflowExecutionRequest(
        namespace=env.namespace,
        workflow_execution=WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id),
        wait_policy=WaitPolicy(lifecycle_stage=stage),  # type: ignore[arg-type]
        request=Request(meta=Meta(update_id=update_id, identity=IDENTITY), input=Input(name="change", args=payloads("argument"))),
        **fields,
    )


def send(env: Env, run: Run, update_id: str, stage: int = COMPLETED) -> Coroutine[Any, Any, UpdateWorkflowExecutionResponse]:
    return env.service.update_workflow_execution(update(env, run, update_id, stage), timeout=seconds(15))


def accepted_and_done(request: Any, result: str = "done") -> dict[str, Any]:
    """Commands and messages that accept and complete an update in one task."""
    acceptance = commands.accept(request)
    response = commands.respond(request.protocol_instance_id, Outcome(success=payloads(result)))
    return {
        "commands": [commands.message_command(acceptance.id), commands.message_command(response.id)],
        "messages": [acceptance, response],
    }


@scenario("update_speculative_task_seen_by_a_worker", items=["workflow task: speculative", "update: complete"])
async def update_speculative_task_seen_by_a_worker(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step()
    sending = asyncio.create_task(send(env, run, "u1"))
    task = await env.raw.poll()
    env.observe("task", view(task))
    env.observe("message", {"event_id": task.messages[0].event_id, "id": task.messages[0].id})
    env.observe("request", commands.update_request(task.messages[0]))
    answer = accepted_and_done(task.messages[0])
    await env.raw.complete(task, *answer["commands"], messages=answer["messages"])
    env.observe("answer", await sending)
    return [run]


@scenario("update_speculative_task_rejected", items=["workflow task: speculative", "update: rejected"])
async def update_speculative_task_rejected(env: Env) -> list[Run]:
    """The speculative task leaves no events, and the answer tells the worker to forget them."""
    run = await env.start_raw()
    await env.raw.step()
    sending = asyncio.create_task(send(env, run, "u1"))
    task = await env.raw.poll()
    response = await env.raw.complete(task, messages=[commands.reject(task.messages[0], failure("no", "Rejected"))])
    env.observe("reset to", response.reset_history_event_id)
    env.observe("answer", await sending)
    await env.signal(run)
    await env.raw.step(commands.complete())
    return [run]


@scenario("update_speculative_task_fails", items=["workflow task: speculative"])
async def update_speculative_task_fails(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step()
    sending = asyncio.create_task(send(env, run, "u1"))
    await env.raw.fail(await env.raw.poll(), message="bug in the update handler")
    second = await env.raw.poll()
    env.observe("second", view(second))
    answer = accepted_and_done(second.messages[0])
    await env.raw.complete(second, *answer["commands"], messages=answer["messages"])
    env.observe("answer", await sending)
    return [run]


@scenario("update_speculative_task_times_out", items=["workflow task: speculative", "workflow task: start-to-close timeout"])
async def update_speculative_task_times_out(env: Env) -> list[Run]:
    run = await env.start_raw(workflow_task_timeout=seconds(1))
    await env.raw.step()
    sending = asyncio.create_task(send(env, run, "u1"))
    await env.raw.poll()
    second = await env.raw.poll()
    env.observe("second", view(second))
    answer = accepted_and_done(second.messages[0])
    await env.raw.complete(second, *answer["commands"], messages=answer["messages"])
    env.observe("answer", await sending)
    return [run]


@scenario("update_speculative_task_made_real_by_a_signal", items=["workflow task: speculative", "update: rejected"])
async def update_speculative_task_made_real_by_a_signal(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step()
    sending = asyncio.create_task(send(env, run, "u1"))
    task = await env.raw.poll()
    await env.signal(run)
    await env.raw.complete(task, messages=[commands.reject(task.messages[0], failure("no"))])
    env.observe("answer", await sending)
    await env.raw.step(commands.complete())
    return [run]


@scenario("update_rejected_with_a_command", items=["workflow task: speculative", "update: rejected"])
async def update_rejected_with_a_command(env: Env) -> list[Run]:
    """A command makes the task real although the update is rejected."""
    run = await env.start_raw()
    await env.raw.step()
    sending = asyncio.create_task(send(env, run, "u1"))
    task = await env.raw.poll()
    await env.raw.complete(task, commands.marker("m"), messages=[commands.reject(task.messages[0], failure("no"))])
    env.observe("answer", await sending)
    return [run]


@scenario("update_on_a_scheduled_task", items=["update: complete", "workflow task: normal"])
async def update_on_a_scheduled_task(env: Env) -> list[Run]:
    """A task is due anyway: the update rides on it."""
    run = await env.start_raw()
    sending = asyncio.create_task(send(env, run, "u1", ACCEPTED))
    await asyncio.sleep(0.3)  # The update is registered in memory only: there is no sign of it to wait for.
    task = await env.raw.poll()
    env.observe("task", view(task))
    acceptance = commands.accept(task.messages[0])
    await env.raw.complete(task, commands.message_command(acceptance.id), commands.start_timer("t"), messages=[acceptance])
    env.observe("answer", await sending)
    polling = asyncio.create_task(
        env.service.poll_workflow_execution_update(
            PollWorkflowExecutionUpdateRequest(
                namespace=env.namespace,
                update_ref=UpdateRef(workflow_execution=WorkflowExecution(workflow_id=run.workflow_id), update_id="u1"),
                identity=IDENTITY,
                wait_policy=WaitPolicy(lifecycle_stage=COMPLETED),
            ),
            timeout=seconds(15),
        )
    )
    await env.signal(run)
    response = commands.respond("u1", Outcome(success=payloads("later")))
    await env.raw.step(commands.message_command(response.id), commands.complete(), messages=[response])
    env.observe("poll", await polling)
    return [run]


@scenario("two_updates_in_one_task", items=["update: complete"])
async def two_updates_in_one_task(env: Env) -> list[Run]:
    run = await env.start_raw()
    first = asyncio.create_task(send(env, run, "u1"))
    await asyncio.sleep(0.2)  # As above.
    second = asyncio.create_task(send(env, run, "u2"))
    await asyncio.sleep(0.2)
    task = await env.raw.poll()
    env.observe("messages", [message.protocol_instance_id for message in task.messages])
    answers = [accepted_and_done(message, message.protocol_instance_id) for message in task.messages]
    await env.raw.complete(
        task,
        *[command for answer in answers for command in answer["commands"]],
        messages=[message for answer in answers for message in answer["messages"]],
    )
    env.observe("first", await first)
    env.observe("second", await second)
    return [run]


@scenario("update_on_a_closed_run", items=["update: closed"])
async def update_on_a_closed_run(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step(commands.complete())
    await env.observe_error("update", send(env, run, "u1"))
    await env.observe_error("update of an unknown workflow", send(env, Run(env.id("nobody"), ""), "u1"))
    poll = PollWorkflowExecutionUpdateRequest(
        namespace=env.namespace,
        update_ref=UpdateRef(workflow_execution=WorkflowExecution(workflow_id=run.workflow_id), update_id="u1"),
        wait_policy=WaitPolicy(lifecycle_stage=COMPLETED),
    )
    await env.observe_error("poll of an unknown update", env.service.poll_workflow_execution_update(poll, timeout=seconds(15)))
    return [run]


@scenario("update_accepted_when_the_run_ends", items=["update: closed", "workflow: terminate"])
async def update_accepted_when_the_run_ends(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step()
    sending = asyncio.create_task(send(env, run, "u1"))
    task = await env.raw.poll()
    acceptance = commands.accept(task.messages[0])
    await env.raw.complete(task, commands.message_command(acceptance.id), messages=[acceptance])
    await env.seen(run, "WORKFLOW_EXECUTION_UPDATE_ACCEPTED")
    await env.service.terminate_workflow_execution(
        TerminateWorkflowExecutionRequest(
            namespace=env.namespace, workflow_execution=WorkflowExecution(workflow_id=run.workflow_id), identity=IDENTITY
        )
    )
    env.observe("answer", await sending)
    return [run]


@scenario("update_admitted_when_the_run_ends", items=["update: closed"])
async def update_admitted_when_the_run_ends(env: Env) -> list[Run]:
    """The worker completes the workflow and does not answer the update."""
    run = await env.start_raw()
    await env.raw.step()
    sending = asyncio.create_task(send(env, run, "u1"))
    task = await env.raw.poll()
    await env.raw.complete(task, commands.complete())
    await env.observe_error("answer", sending)
    return [run]


@scenario("update_ignored_by_the_worker", items=["update: rejected", "workflow task: speculative"])
async def update_ignored_by_the_worker(env: Env) -> list[Run]:
    """A worker that answers the task without a word on the update: the server rejects it in its name."""
    run = await env.start_raw()
    await env.raw.step()
    sending = asyncio.create_task(send(env, run, "u1"))
    await env.raw.step()
    env.observe("answer", await sending)
    return [run]


@scenario("update_bad_requests", items=["update: rejected"])
async def update_bad_requests(env: Env) -> list[Run]:
    run = await env.start_raw()
    request = update(env, run, "u1")
    request.request.ClearField("input")
    await env.observe_error("no input", env.service.update_workflow_execution(request))
    request = update(env, run, "u1", 1)
    await env.observe_error("wait for admitted", env.service.update_workflow_execution(request))
    request = update(env, run, "x" * 1001)
    await env.observe_error("long id", env.service.update_workflow_execution(request))
    request = update(env, run, "u1", first_execution_run_id="0ddba11e-0000-4000-8000-000000000000")
    await env.observe_error("other chain", env.service.update_workflow_execution(request))
    return [run]


@scenario("update_with_start_conflict", items=["update: with start", "workflow: id conflict policy"])
async def update_with_start_conflict(env: Env) -> list[Run]:
    existing = await env.start_raw()
    start = env.start_request()
    start.workflow_id_conflict_policy = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_FAIL
    operations = [
        ExecuteMultiOperationRequest.Operation(start_workflow=start),
        ExecuteMultiOperationRequest.Operation(update_workflow=update(env, Run(existing.workflow_id, ""), "u1")),
    ]
    request = ExecuteMultiOperationRequest(namespace=env.namespace, operations=operations)
    await env.observe_error("conflict", env.service.execute_multi_operation(request))
    request = ExecuteMultiOperationRequest(namespace=env.namespace, operations=operations[:1])
    await env.observe_error("only one operation", env.service.execute_multi_operation(request))
    return [existing]
