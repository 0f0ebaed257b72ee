"""What a worker played by hand may answer."""

from __future__ import annotations

from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import ActivityType, Payload, Payloads
from temporalio.api.enums.v1 import CommandType

from cluster.core.events import duration

NAMESPACE_NAME = "ns"
QUEUE = "tq"


def text(value: str) -> Payloads:
    return Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=f'"{value}"'.encode())])


def complete() -> Command:
    command = Command(command_type=CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
    command.complete_workflow_execution_command_attributes.result.CopyFrom(text("ok"))
    return command


def continue_as_new() -> Command:
    command = Command(command_type=CommandType.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION)
    command.continue_as_new_workflow_execution_command_attributes.workflow_type.name = "W"
    command.continue_as_new_workflow_execution_command_attributes.task_queue.name = QUEUE
    return command


def timer(timer_id: str, seconds: float) -> Command:
    command = Command(command_type=CommandType.COMMAND_TYPE_START_TIMER)
    command.start_timer_command_attributes.timer_id = timer_id
    command.start_timer_command_attributes.start_to_fire_timeout.CopyFrom(duration(int(seconds * 1e9)))
    return command


def activity(activity_id: str, timeout_s: float = 10.0) -> Command:
    command = Command(command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
    attributes = command.schedule_activity_task_command_attributes
    attributes.activity_id = activity_id
    attributes.activity_type.CopyFrom(ActivityType(name="A"))
    attributes.task_queue.name = QUEUE
    attributes.start_to_close_timeout.CopyFrom(duration(int(timeout_s * 1e9)))
    attributes.schedule_to_close_timeout.CopyFrom(duration(int(timeout_s * 1e9) * 100))
    return command


def child(workflow_id: str) -> Command:
    command = Command(command_type=CommandType.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION)
    attributes = command.start_child_workflow_execution_command_attributes
    attributes.namespace = NAMESPACE_NAME
    attributes.workflow_id = workflow_id
    attributes.workflow_type.name = "C"
    attributes.task_queue.name = "children"
    return command
