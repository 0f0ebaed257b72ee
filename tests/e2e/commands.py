"""Commands and update messages as a raw worker sends them. Fields given as keywords overwrite the defaults."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import temporalio.api.command.v1 as attributes_of
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import ActivityType, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import CommandType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.protocol.v1 import Message
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Acceptance, Meta, Outcome, Rejection, Request, Response


def duration(value_s: float) -> Duration:
    result = Duration()
    result.FromTimedelta(timedelta(seconds=value_s))
    return result


def schedule_activity(activity_id: str, task_queue: str, **fields: Any) -> Command:
    attributes: dict[str, Any] = {
        "activity_id": activity_id,
        "activity_type": ActivityType(name="act"),
        "task_queue": TaskQueue(name=task_queue),
        "start_to_close_timeout": duration(10),
    }
    return Command(
        command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK,
        schedule_activity_task_command_attributes=attributes_of.ScheduleActivityTaskCommandAttributes(**(attributes | fields)),
    )


def cancel_activity(scheduled_event_id: int) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK,
        request_cancel_activity_task_command_attributes=attributes_of.RequestCancelActivityTaskCommandAttributes(
            scheduled_event_id=scheduled_event_id
        ),
    )


def start_timer(timer_id: str, after_s: float = 60) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_START_TIMER,
        start_timer_command_attributes=attributes_of.StartTimerCommandAttributes(
            timer_id=timer_id, start_to_fire_timeout=duration(after_s)
        ),
    )


def cancel_timer(timer_id: str) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_CANCEL_TIMER,
        cancel_timer_command_attributes=attributes_of.CancelTimerCommandAttributes(timer_id=timer_id),
    )


def complete(result: Payloads | None = None) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
        complete_workflow_execution_command_attributes=attributes_of.CompleteWorkflowExecutionCommandAttributes(result=result),
    )


def fail(reason: Failure) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION,
        fail_workflow_execution_command_attributes=attributes_of.FailWorkflowExecutionCommandAttributes(failure=reason),
    )


def cancel_workflow(details: Payloads | None = None) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION,
        cancel_workflow_execution_command_attributes=attributes_of.CancelWorkflowExecutionCommandAttributes(details=details),
    )


def marker(name: str, **fields: Any) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_RECORD_MARKER,
        record_marker_command_attributes=attributes_of.RecordMarkerCommandAttributes(marker_name=name, **fields),
    )


def continue_as_new(task_queue: str = "", **fields: Any) -> Command:
    attributes: dict[str, Any] = {"workflow_type": WorkflowType(name="Raw"), "task_queue": TaskQueue(name=task_queue)}
    return Command(
        command_type=CommandType.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
        continue_as_new_workflow_execution_command_attributes=attributes_of.ContinueAsNewWorkflowExecutionCommandAttributes(
            **(attributes | fields)
        ),
    )


def start_child(workflow_id: str, **fields: Any) -> Command:
    attributes: dict[str, Any] = {"workflow_id": workflow_id, "workflow_type": WorkflowType(name="RawChild")}
    return Command(
        command_type=CommandType.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION,
        start_child_workflow_execution_command_attributes=attributes_of.StartChildWorkflowExecutionCommandAttributes(
            **(attributes | fields)
        ),
    )


def signal_external(workflow_id: str, run_id: str = "", signal_name: str = "hello", **fields: Any) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION,
        signal_external_workflow_execution_command_attributes=attributes_of.SignalExternalWorkflowExecutionCommandAttributes(
            execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id), signal_name=signal_name, **fields
        ),
    )


def cancel_external(workflow_id: str, run_id: str = "", **fields: Any) -> Command:
    attributes = attributes_of.RequestCancelExternalWorkflowExecutionCommandAttributes(
        workflow_id=workflow_id, run_id=run_id, **fields
    )
    return Command(
        command_type=CommandType.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION,
        request_cancel_external_workflow_execution_command_attributes=attributes,
    )


def message_command(message_id: str) -> Command:
    """Tells where among the commands a protocol message takes effect."""
    return Command(
        command_type=CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE,
        protocol_message_command_attributes=attributes_of.ProtocolMessageCommandAttributes(message_id=message_id),
    )


def _message(message_id: str, update_id: str, body: Acceptance | Rejection | Response) -> Message:
    packed = AnyMessage()
    packed.Pack(body)
    return Message(id=message_id, protocol_instance_id=update_id, body=packed)


def update_request(request: Message) -> Request:
    """The update that a poll's message carries."""
    result = Request()
    assert request.body.Unpack(result)
    return result


def accept(request: Message) -> Message:
    acceptance = Acceptance(
        accepted_request_message_id=request.id,
        accepted_request_sequencing_event_id=request.event_id,
        accepted_request=update_request(request),
    )
    return _message(request.protocol_instance_id + "/accept", request.protocol_instance_id, acceptance)


def accept_admitted(event: HistoryEvent) -> Message:
    """Accepts an update that came as an event, which holds the request, instead of a message."""
    request = event.workflow_execution_update_admitted_event_attributes.request
    update_id = request.meta.update_id
    acceptance = Acceptance(
        accepted_request_message_id=update_id + "/request",
        accepted_request_sequencing_event_id=event.event_id,
        accepted_request=request,
    )
    return _message(update_id + "/accept", update_id, acceptance)


def reject(request: Message, reason: Failure) -> Message:
    rejection = Rejection(
        rejected_request_message_id=request.id,
        rejected_request_sequencing_event_id=request.event_id,
        rejected_request=update_request(request),
        failure=reason,
    )
    return _message(request.protocol_instance_id + "/reject", request.protocol_instance_id, rejection)


def respond(update_id: str, outcome: Outcome) -> Message:
    return _message(update_id + "/complete", update_id, Response(meta=Meta(update_id=update_id), outcome=outcome))
