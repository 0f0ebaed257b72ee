"""Commands that no correct worker sends: the answer is refused, the workflow task fails with its cause, the run lives on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import temporalio.api.command.v1 as attributes_of
from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import ActivityType, Memo, RetryPolicy, SearchAttributes, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import CommandType
from temporalio.api.failure.v1 import Failure
from temporalio.api.protocol.v1 import Message
from temporalio.api.update.v1 import Outcome
from temporalio.api.workflowservice.v1 import TerminateWorkflowExecutionRequest

from tests.e2e import commands
from tests.e2e.environment import Env, payload, payloads
from tests.e2e.raw_worker import failure
from tests.e2e.registry import Body, Run, scenario

NEGATIVE = Duration(seconds=-1)
NOT_A_RUN_ID = "not-a-run-id"


def bare(kind: str) -> Command:
    """A command that names its type and lacks its attributes."""
    return Command(command_type=CommandType.Value(f"COMMAND_TYPE_{kind}"))


def upsert(**values: object) -> Command:
    fields = {name: payload(value) for name, value in values.items()}
    return Command(
        command_type=CommandType.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
        upsert_workflow_search_attributes_command_attributes=attributes_of.UpsertWorkflowSearchAttributesCommandAttributes(
            search_attributes=SearchAttributes(indexed_fields=fields)
        ),
    )


def properties(memo: Memo | None) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES,
        modify_workflow_properties_command_attributes=attributes_of.ModifyWorkflowPropertiesCommandAttributes(upserted_memo=memo),
    )


def activity(env: Env, **fields: object) -> Command:
    return commands.schedule_activity("a", env.task_queue, **fields)


Case = Callable[[Env], Sequence[Command]]

CASES: dict[str, Case] = {
    "activity_without_attributes": lambda env: [bare("SCHEDULE_ACTIVITY_TASK")],
    "activity_without_id": lambda env: [commands.schedule_activity("", env.task_queue)],
    "activity_without_type": lambda env: [activity(env, activity_type=ActivityType())],
    "activity_without_timeouts": lambda env: [activity(env, start_to_close_timeout=None)],
    "activity_with_negative_timeout": lambda env: [activity(env, heartbeat_timeout=NEGATIVE)],
    "activity_with_bad_retry_policy": lambda env: [activity(env, retry_policy=RetryPolicy(backoff_coefficient=0.5))],
    "activity_without_queue": lambda env: [commands.schedule_activity("a", "")],
    "activity_with_duplicate_id": lambda env: [activity(env), activity(env)],
    "activity_with_long_id": lambda env: [commands.schedule_activity("x" * 1001, env.task_queue)],
    "cancel_of_unknown_activity": lambda env: [commands.cancel_activity(99)],
    "cancel_activity_without_attributes": lambda env: [bare("REQUEST_CANCEL_ACTIVITY_TASK")],
    "timer_without_attributes": lambda env: [bare("START_TIMER")],
    "timer_without_id": lambda env: [commands.start_timer("")],
    "timer_with_negative_duration": lambda env: [commands.start_timer("t", -1)],
    "timer_with_duplicate_id": lambda env: [commands.start_timer("t"), commands.start_timer("t")],
    "cancel_of_unknown_timer": lambda env: [commands.cancel_timer("t")],
    "cancel_timer_without_id": lambda env: [commands.cancel_timer("")],
    "marker_without_attributes": lambda env: [bare("RECORD_MARKER")],
    "marker_without_name": lambda env: [commands.marker("")],
    "complete_without_attributes": lambda env: [bare("COMPLETE_WORKFLOW_EXECUTION")],
    "fail_without_attributes": lambda env: [bare("FAIL_WORKFLOW_EXECUTION")],
    "cancel_workflow_without_attributes": lambda env: [bare("CANCEL_WORKFLOW_EXECUTION")],
    "continue_without_attributes": lambda env: [bare("CONTINUE_AS_NEW_WORKFLOW_EXECUTION")],
    "continue_with_negative_timeout": lambda env: [commands.continue_as_new(workflow_run_timeout=NEGATIVE)],
    "continue_with_unknown_search_attribute": lambda env: [
        commands.continue_as_new(search_attributes=SearchAttributes(indexed_fields={"Nobody": payload(1)}))
    ],
    "child_without_id": lambda env: [commands.start_child("")],
    "child_without_type": lambda env: [commands.start_child("c", workflow_type=WorkflowType())],
    "child_with_negative_timeout": lambda env: [commands.start_child("c", workflow_run_timeout=NEGATIVE)],
    "child_with_bad_cron": lambda env: [commands.start_child("c", cron_schedule="every now and then")],
    "child_with_unknown_search_attribute": lambda env: [
        commands.start_child("c", search_attributes=SearchAttributes(indexed_fields={"Nobody": payload(1)}))
    ],
    "signal_without_attributes": lambda env: [bare("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION")],
    "signal_without_name": lambda env: [commands.signal_external("w", signal_name="")],
    "signal_without_id": lambda env: [commands.signal_external("")],
    "signal_with_bad_run_id": lambda env: [commands.signal_external("w", NOT_A_RUN_ID)],
    "cancel_external_without_attributes": lambda env: [bare("REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION")],
    "cancel_external_without_id": lambda env: [commands.cancel_external("")],
    "cancel_external_with_bad_run_id": lambda env: [commands.cancel_external("w", NOT_A_RUN_ID)],
    "upsert_without_attributes": lambda env: [bare("UPSERT_WORKFLOW_SEARCH_ATTRIBUTES")],
    "upsert_of_nothing": lambda env: [upsert()],
    "upsert_of_unknown_attribute": lambda env: [upsert(Nobody="x")],
    "upsert_of_wrong_type": lambda env: [upsert(E2eInt="no number")],
    "upsert_of_system_attribute": lambda env: [upsert(StartTime="2020-01-01T00:00:00Z")],
    "properties_without_attributes": lambda env: [bare("MODIFY_WORKFLOW_PROPERTIES")],
    "properties_of_nothing": lambda env: [properties(None)],
    "protocol_message_unknown": lambda env: [commands.message_command("nobody")],
    "protocol_message_without_id": lambda env: [commands.message_command("")],
    "good_before_bad": lambda env: [commands.start_timer("good"), commands.marker("good"), commands.cancel_timer("unknown")],
}

# The whole call is refused: the workflow task is not failed, it stays open and a better answer is taken.
REFUSED_CALLS: dict[str, Case] = {
    "child_in_unknown_namespace": lambda env: [commands.start_child("c", namespace="nowhere")],
    "signal_to_unknown_namespace": lambda env: [commands.signal_external("w", namespace="nowhere")],
    "unspecified_command": lambda env: [Command()],
    "unknown_command": lambda env: [Command(command_type=999)],  # type: ignore[arg-type]
    "command_after_close": lambda env: [commands.complete(), commands.start_timer("t")],
    "second_close": lambda env: [commands.complete(), commands.fail(failure("too late"))],
}


def refused_call(case: Case) -> Body:
    async def body(env: Env) -> list[Run]:
        run = await env.start_raw()
        task = await env.raw.poll()
        await env.observe_error("answer", env.raw.complete(task, *case(env)))
        await env.raw.complete(task, commands.complete())
        return [run]

    return body


@scenario("bad_command_child_without_attributes", items=["workflow task: failure causes"])
async def bad_command_child_without_attributes(env: Env) -> list[Run]:
    """The real server panics and leaves the task open, ours fails it: neither loses the run."""
    run = await env.start_raw()
    task = await env.raw.poll()
    await env.observe_error("answer", env.raw.complete(task, bare("START_CHILD_WORKFLOW_EXECUTION")))
    await env.service.terminate_workflow_execution(
        TerminateWorkflowExecutionRequest(
            namespace=env.namespace, workflow_execution=WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id)
        )
    )
    return [run]


def refused(case: Case) -> Body:
    async def body(env: Env) -> list[Run]:
        run = await env.start_raw()
        first = await env.raw.poll()
        await env.observe_error("answer", env.raw.complete(first, *case(env)))
        second = await env.raw.poll()
        env.observe("attempt", second.attempt)
        await env.raw.complete(second, commands.complete())
        return [run]

    return body


for _name, _case in CASES.items():
    scenario(f"bad_command_{_name}", items=["workflow task: failure causes"])(refused(_case))
for _name, _case in REFUSED_CALLS.items():
    scenario(f"bad_command_{_name}", items=["workflow task: failure causes"])(refused_call(_case))


@scenario("bad_command_then_buffered_signal", items=["workflow task: failure causes", "workflow task: buffered events"])
async def bad_command_then_buffered_signal(env: Env) -> list[Run]:
    run = await env.start_raw()
    first = await env.raw.poll()
    await env.signal(run)
    await env.observe_error("answer", env.raw.complete(first, commands.start_timer("")))
    await env.raw.step(commands.complete())
    return [run]


@scenario("bad_messages", items=["workflow task: failure causes"])
async def bad_messages(env: Env) -> list[Run]:
    """Messages without a body, and for an update that nobody sent."""
    empty = await env.start_raw("empty")
    task = await env.raw.poll()
    await env.observe_error("without a body", env.raw.complete(task, messages=[Message(id="m", protocol_instance_id="nobody")]))
    await env.raw.complete(task, commands.complete())
    unknown = await env.start_raw("unknown")
    task = await env.raw.poll()
    response = commands.respond("nobody", Outcome(success=payloads("done")))
    await env.observe_error("for an unknown update", env.raw.complete(task, messages=[response]))
    await env.raw.step(commands.complete())
    return [empty, unknown]


@scenario("a_timer_id_is_free_again_after_cancel", items=["timer: cancel", "workflow task: many commands"])
async def a_timer_id_is_free_again_after_cancel(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step(
        commands.start_timer("t"),
        commands.cancel_timer("t"),
        commands.start_timer("t"),
        commands.cancel_timer("t"),
        commands.complete(),
    )
    return [run]


@scenario("a_timer_of_zero_duration_fires", items=["timer: fire"])
async def a_timer_of_zero_duration_fires(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step(commands.start_timer("t", 0))
    await env.raw.step(commands.complete())
    return [run]


@scenario("a_run_may_fail_without_a_failure", items=["workflow task: normal"])
async def a_run_may_fail_without_a_failure(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step(commands.fail(Failure()))
    return [run]
