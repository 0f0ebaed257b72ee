"""Commands about Nexus operations: schedule one, ask for the cancel of one. The machine is in nexus_operation.py."""

from __future__ import annotations

import json

from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command, ScheduleNexusOperationCommandAttributes
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    NexusOperationCancelRequestedEventAttributes,
    NexusOperationScheduledEventAttributes,
)
from temporalio.api.sdk.v1 import UserMetadata

from cluster.core.errors import CallerError
from cluster.core.events import attributes_of, duration, duration_ns, parse_event
from cluster.core.machines.commands import BadCommand, Completion, check_size, command
from cluster.core.retry import check_duration
from cluster.core.state import RunState
from cluster.core.transition import EndpointRef

_BAD_SCHEDULE = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_NEXUS_OPERATION_ATTRIBUTES
_BAD_CANCEL = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_NEXUS_OPERATION_ATTRIBUTES
_TOO_MANY = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_PENDING_NEXUS_OPERATIONS_LIMIT_EXCEEDED
_ENDS = (
    EventType.EVENT_TYPE_NEXUS_OPERATION_COMPLETED,
    EventType.EVENT_TYPE_NEXUS_OPERATION_FAILED,
    EventType.EVENT_TYPE_NEXUS_OPERATION_CANCELED,
    EventType.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT,
)

PENDING_OPERATIONS_MAX = 2_000  # as of activities; component.nexusoperations.limit.operation.concurrency is 30 today
NAME_BYTES_MAX = 1_000  # component.nexusoperations.limit.service.name.length, .operation.name.length
HEADER_BYTES_MAX = 8_192  # component.nexusoperations.limit.header.size: keys and values
# component.nexusoperations.disallowedHeaders: what the server itself says to a handler, or to another server.
DISALLOWED_HEADERS = frozenset(
    (
        "request-timeout",
        "xdc-redirection",
        "xdc-redirection-api",
        "xdc-redirection-source-cell",
        "caller-name",
        "caller-type",
        "call-initiation",
        "temporal-principal-type",
        "temporal-principal-name",
    )
)


@command(CommandType.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION)
def _schedule(c: Completion, command: Command) -> None:
    if not command.HasField("schedule_nexus_operation_command_attributes"):
        raise BadCommand(_BAD_SCHEDULE, "empty ScheduleNexusOperationCommandAttributes")
    wish = command.schedule_nexus_operation_command_attributes
    endpoint = _endpoint(c, wish.endpoint)
    _check_names(wish)
    _check_spans(wish)
    size_text = "ScheduleNexusOperationCommandAttributes.Input exceeds size limit"
    check_size(c, wish.input.ByteSize(), _BAD_SCHEDULE, size_text)
    header = _header(wish)
    if len(c.t.state.operations) >= PENDING_OPERATIONS_MAX:
        text = f"workflow has reached the pending nexus operation limit of {PENDING_OPERATIONS_MAX} for this namespace"
        raise BadCommand(_TOO_MANY, text)
    attributes = NexusOperationScheduledEventAttributes(
        endpoint=wish.endpoint,
        endpoint_id=endpoint.id,
        service=wish.service,
        operation=wish.operation,
        input=wish.input if wish.HasField("input") else None,
        nexus_header=header,
        request_id=c.t.context.ids.uuid(),
        workflow_task_completed_event_id=c.completed_event_id,
    )
    _set_spans(attributes, wish, c.t.state)
    c.t.add(EventType.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED, attributes, user_metadata=_metadata(command))


def _endpoint(c: Completion, name: str) -> EndpointRef:
    found = c.t.context.endpoint(name)
    if found is None:
        raise BadCommand(_BAD_SCHEDULE, f"endpoint {_quoted(name)} not found")
    if not found.is_allowed:
        text = f"caller namespace {_quoted(c.t.context.namespace)} unauthorized for {_quoted(name)}"
        raise BadCommand(_BAD_SCHEDULE, text)
    return found


def _check_names(wish: ScheduleNexusOperationCommandAttributes) -> None:
    for what, name in (("Service", wish.service), ("Operation", wish.operation)):
        if len(name.encode()) > NAME_BYTES_MAX:
            text = f"ScheduleNexusOperationCommandAttributes.{what} exceeds length limit of {NAME_BYTES_MAX}"
            raise BadCommand(_BAD_SCHEDULE, text)


def _check_spans(wish: ScheduleNexusOperationCommandAttributes) -> None:
    for what, span in (
        ("ScheduleToCloseTimeout", wish.schedule_to_close_timeout),
        ("ScheduleToStartTimeout", wish.schedule_to_start_timeout),
        ("StartToCloseTimeout", wish.start_to_close_timeout),
    ):
        try:
            check_duration(span, f"ScheduleNexusOperationCommandAttributes.{what} is invalid")
        except CallerError as error:
            raise BadCommand(_BAD_SCHEDULE, error.message) from error


def _header(wish: ScheduleNexusOperationCommandAttributes) -> dict[str, str]:
    """With its keys in lower case, as HTTP has them."""
    header, size = {}, 0
    for key, value in sorted(wish.nexus_header.items()):
        lower = key.lower()
        if lower in DISALLOWED_HEADERS:
            text = f"ScheduleNexusOperationCommandAttributes.NexusHeader contains a disallowed header key: {_quoted(key)}"
            raise BadCommand(_BAD_SCHEDULE, text)
        header[lower] = value
        size += len(lower.encode()) + len(value.encode())
    if size > HEADER_BYTES_MAX:
        raise BadCommand(_BAD_SCHEDULE, "ScheduleNexusOperationCommandAttributes.NexusHeader exceeds size limit")
    return header


def _set_spans(
    attributes: NexusOperationScheduledEventAttributes, wish: ScheduleNexusOperationCommandAttributes, state: RunState
) -> None:
    """No operation outlasts its run, and no part of it the whole."""
    for field in ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout"):
        if wish.HasField(field):
            getattr(attributes, field).CopyFrom(getattr(wish, field))
    whole_ns, run_ns = duration_ns(wish.schedule_to_close_timeout), state.run_timeout_ns
    if run_ns and (not whole_ns or whole_ns > run_ns):
        whole_ns = run_ns
        attributes.schedule_to_close_timeout.CopyFrom(duration(run_ns))
    parts: tuple[Duration, Duration] = (attributes.schedule_to_start_timeout, attributes.start_to_close_timeout)
    for part in parts:
        if whole_ns and duration_ns(part) > whole_ns:
            part.CopyFrom(duration(whole_ns))


@command(CommandType.COMMAND_TYPE_REQUEST_CANCEL_NEXUS_OPERATION)
def _request_cancel(c: Completion, command: Command) -> None:
    """It is sent when the operation has started. One that ends meanwhile is not told: its worker could not know."""
    if not command.HasField("request_cancel_nexus_operation_command_attributes"):
        raise BadCommand(_BAD_CANCEL, "empty CancelNexusOperationCommandAttributes")
    scheduled_event_id = command.request_cancel_nexus_operation_command_attributes.scheduled_event_id
    operation = c.t.state.operations.get(scheduled_event_id)
    if operation is None and not _ended_unseen(c.t.state, scheduled_event_id):
        what = "requested cancelation for a non-existing or already completed operation"
        raise BadCommand(_BAD_CANCEL, f"{what} with scheduled event ID of {scheduled_event_id}")
    if operation is not None and operation.cancellation is not None:
        what = "cancelation was already requested for an operation"
        raise BadCommand(_BAD_CANCEL, f"{what} with scheduled event ID {scheduled_event_id}")
    c.t.add(
        EventType.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUESTED,
        NexusOperationCancelRequestedEventAttributes(
            scheduled_event_id=scheduled_event_id, workflow_task_completed_event_id=c.completed_event_id
        ),
        user_metadata=_metadata(command),
    )


def _ended_unseen(state: RunState, scheduled_event_id: int) -> bool:
    """Whether the operation's end is buffered: its worker has not seen it."""
    for event in map(parse_event, state.buffered):
        if event.event_type in _ENDS and getattr(attributes_of(event), "scheduled_event_id", 0) == scheduled_event_id:
            return True
    return False


def _quoted(text: str) -> str:
    """As the public server's language quotes it."""
    return json.dumps(text, ensure_ascii=False)


def _metadata(command: Command) -> UserMetadata | None:
    return command.user_metadata if command.HasField("user_metadata") else None
