"""What a broken worker answers: the workflow task fails with its cause (or the whole call is refused), and the run goes on."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowTaskFailedCause
from temporalio.api.workflowservice import v1 as api

from tests.e2e import commands
from tests.fuzz.pools import FUZZ
from tests.security.standing import Standing, start, unique

# A command without attributes -> the cause its workflow task fails with.
WITHOUT_ATTRIBUTES = {
    "SCHEDULE_ACTIVITY_TASK": "BAD_SCHEDULE_ACTIVITY_ATTRIBUTES",
    "REQUEST_CANCEL_ACTIVITY_TASK": "BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES",
    "START_TIMER": "BAD_START_TIMER_ATTRIBUTES",
    "CANCEL_TIMER": "BAD_CANCEL_TIMER_ATTRIBUTES",
    "COMPLETE_WORKFLOW_EXECUTION": "BAD_COMPLETE_WORKFLOW_EXECUTION_ATTRIBUTES",
    "FAIL_WORKFLOW_EXECUTION": "BAD_FAIL_WORKFLOW_EXECUTION_ATTRIBUTES",
    "CANCEL_WORKFLOW_EXECUTION": "BAD_CANCEL_WORKFLOW_EXECUTION_ATTRIBUTES",
    "CONTINUE_AS_NEW_WORKFLOW_EXECUTION": "BAD_CONTINUE_AS_NEW_ATTRIBUTES",
    "RECORD_MARKER": "BAD_RECORD_MARKER_ATTRIBUTES",
    "SCHEDULE_NEXUS_OPERATION": "BAD_SCHEDULE_NEXUS_OPERATION_ATTRIBUTES",
    "REQUEST_CANCEL_NEXUS_OPERATION": "BAD_REQUEST_CANCEL_NEXUS_OPERATION_ATTRIBUTES",
    "START_CHILD_WORKFLOW_EXECUTION": "BAD_START_CHILD_EXECUTION_ATTRIBUTES",
    "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION": "BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES",
    "REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION": "BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES",
    "UPSERT_WORKFLOW_SEARCH_ATTRIBUTES": "BAD_SEARCH_ATTRIBUTES",
    "MODIFY_WORKFLOW_PROPERTIES": "BAD_MODIFY_WORKFLOW_PROPERTIES_ATTRIBUTES",
    "PROTOCOL_MESSAGE": "BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE",
}
# Not served: refused as unknown.
NOT_SERVED: set[str] = set()


async def task_of_a_new_run(standing: Standing) -> Any:
    queue = unique("q")
    await standing.stage.ask("StartWorkflowExecution", start(queue=queue))
    return await standing.poll(queue)


def answer_with(task: Any, *wanted: Command) -> api.RespondWorkflowTaskCompletedRequest:
    return api.RespondWorkflowTaskCompletedRequest(namespace=FUZZ, task_token=task.task_token, commands=wanted)


def test_every_command_type_is_in_a_table() -> None:
    known = {name.removeprefix("COMMAND_TYPE_") for name in CommandType.DESCRIPTOR.values_by_name} - {"UNSPECIFIED"}
    assert known == WITHOUT_ATTRIBUTES.keys() | NOT_SERVED


@pytest.mark.parametrize("kind", sorted(WITHOUT_ATTRIBUTES))
async def test_a_command_without_attributes_fails_the_task_with_its_cause(standing: Standing, kind: str) -> None:
    task = await task_of_a_new_run(standing)
    command = Command(command_type=CommandType.Value(f"COMMAND_TYPE_{kind}"))
    answer = await standing.send("RespondWorkflowTaskCompleted", answer_with(task, commands.start_timer("good"), command))
    assert answer.code == "INVALID_ARGUMENT" and answer.message
    events = await standing.events(task.workflow_execution.workflow_id)
    failed = [event for event in events if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED]
    cause = failed[-1].workflow_task_failed_event_attributes.cause
    assert WorkflowTaskFailedCause.Name(cause) == f"WORKFLOW_TASK_FAILED_CAUSE_{WITHOUT_ATTRIBUTES[kind]}"
    assert not [event for event in events if event.event_type == EventType.EVENT_TYPE_TIMER_STARTED], (
        "good ones before it count not"
    )
    again = await standing.poll(task_queue_of(events))
    await standing.stage.ask("RespondWorkflowTaskCompleted", answer_with(again, commands.complete()))
    last = (await standing.events(task.workflow_execution.workflow_id))[-1]
    assert last.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED


def task_queue_of(events: list[Any]) -> str:
    name: str = events[0].workflow_execution_started_event_attributes.task_queue.name
    return name


@pytest.mark.parametrize(
    "number", [0, *(CommandType.Value(f"COMMAND_TYPE_{name}") for name in sorted(NOT_SERVED)), 999, -1, 2**31 - 1]
)
async def test_an_unknown_command_is_refused_and_the_task_stays_open(standing: Standing, number: int) -> None:
    task = await task_of_a_new_run(standing)
    workflow_id = task.workflow_execution.workflow_id
    before = await standing.events(workflow_id)
    command = Command(command_type=number)  # type: ignore[arg-type]
    answer = await standing.send("RespondWorkflowTaskCompleted", answer_with(task, command))
    assert answer.code == "INVALID_ARGUMENT" and "command type" in answer.message
    assert await standing.events(workflow_id) == before
    await standing.stage.ask("RespondWorkflowTaskCompleted", answer_with(task, commands.complete()))


async def test_attributes_of_another_command_do_not_count(standing: Standing) -> None:
    task = await task_of_a_new_run(standing)
    command = commands.start_timer("t")
    command.command_type = CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK
    answer = await standing.send("RespondWorkflowTaskCompleted", answer_with(task, command))
    assert answer.code == "INVALID_ARGUMENT" and answer.message.startswith("BadScheduleActivityAttributes")


async def test_times_no_clock_can_hold_fail_the_task_or_are_brought_down(standing: Standing) -> None:
    for seconds in (-1, -(2**63), 2**63 - 1, 315_576_000_001):
        task = await task_of_a_new_run(standing)
        command = commands.start_timer("t")
        command.start_timer_command_attributes.start_to_fire_timeout.seconds = seconds
        answer = await standing.send("RespondWorkflowTaskCompleted", answer_with(task, command))
        assert answer.code == ("INVALID_ARGUMENT" if seconds < 0 else "OK"), (seconds, answer)
        await standing.stage.check_run(FUZZ, task.workflow_execution.workflow_id, "")
