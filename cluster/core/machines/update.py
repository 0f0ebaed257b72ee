"""Updates: a call into a running workflow that may be refused without a trace.

admitted (a note) -> sent with a workflow task -> accepted (an event) -> completed (an event). A rejection removes it.
An admitted update survives a crash here (its note is in the journal), in the public server the client must repeat it.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from msgspec.structs import replace
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.history.v1 import (
    HistoryEvent,
    WorkflowExecutionUpdateAcceptedEventAttributes,
    WorkflowExecutionUpdateAdmittedEventAttributes,
    WorkflowExecutionUpdateCompletedEventAttributes,
)
from temporalio.api.protocol.v1 import Message
from temporalio.api.update.v1 import Acceptance, Outcome, Rejection, Request, Response

from cluster.core.entry import UpdateGoneNote, UpdateNote
from cluster.core.errors import resource_exhausted
from cluster.core.events import timestamp_ns
from cluster.core.machines import lifecycle, workflow_task
from cluster.core.machines.commands import BadCommand, Completion, command
from cluster.core.table import Table, applies, on_flush
from cluster.core.state import RunState, Update, UpdateStage
from cluster.core.transition import Transition

TABLE = Table(
    "update",
    [
        ("none", "admitted", "admitted"),
        ("none", "WorkflowExecutionUpdateAdmitted", "admitted"),  # reapplied by a reset
        ("none", "WorkflowExecutionUpdateAccepted", "accepted"),  # rebuilt from events alone
        ("admitted", "WorkflowExecutionUpdateAccepted", "accepted"),  # rebuilt, or accepted by a later task's worker
        ("admitted", "sent", "sent"),
        ("sent", "returned", "admitted"),  # its task failed or timed out
        ("sent", "WorkflowExecutionUpdateAccepted", "accepted"),
        ("sent", "rejected", "none"),
        ("admitted", "rejected", "none"),
        ("accepted", "WorkflowExecutionUpdateCompleted", "completed"),
    ],
)

_BAD = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE
M = TypeVar("M", bound=ProtobufMessage)
_TYPE_URL = "type.googleapis.com/"


class Rejected(msgspec.Struct, frozen=True):
    """A notice to whoever waits for this update: refused, no trace stays."""

    update_id: str
    failure: bytes


def position(state: RunState, update_id: str) -> str:
    update = state.updates.get(update_id)
    return UpdateStage(update.stage).name.lower() if update is not None else "none"


# --- fold --------------------------------------------------------------------------------------------------------------


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED)
def _admitted(state: RunState, event: HistoryEvent, attributes: WorkflowExecutionUpdateAdmittedEventAttributes) -> None:
    update_id = attributes.request.meta.update_id
    TABLE.step(position(state, update_id), "WorkflowExecutionUpdateAdmitted")
    state.updates[update_id] = Update(
        update_id,
        UpdateStage.ADMITTED,
        request=attributes.request.SerializeToString(),
        admitted_event_id=event.event_id,
        admitted_at=timestamp_ns(event.event_time),
    )


@on_flush(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED)
def _admitted_flushed(state: RunState, event: HistoryEvent) -> None:
    update_id = event.workflow_execution_update_admitted_event_attributes.request.meta.update_id
    if (update := state.updates.get(update_id)) is not None:
        state.updates[update_id] = replace(update, admitted_event_id=event.event_id)


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED)
def _accepted(state: RunState, event: HistoryEvent, attributes: WorkflowExecutionUpdateAcceptedEventAttributes) -> None:
    update_id = attributes.protocol_instance_id
    TABLE.step(position(state, update_id), "WorkflowExecutionUpdateAccepted")
    before = state.updates.get(update_id)
    state.updates[update_id] = Update(
        update_id,
        UpdateStage.ACCEPTED,
        admitted_event_id=before.admitted_event_id if before is not None else 0,
        accepted_event_id=event.event_id,
    )


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED)
def _completed(state: RunState, event: HistoryEvent, attributes: WorkflowExecutionUpdateCompletedEventAttributes) -> None:
    update_id = attributes.meta.update_id
    TABLE.step(position(state, update_id), "WorkflowExecutionUpdateCompleted")
    state.updates[update_id] = replace(
        state.updates[update_id], stage=UpdateStage.COMPLETED, completed_event_id=event.event_id
    )


# --- decide ------------------------------------------------------------------------------------------------------------


def admit(t: Transition, request: Request) -> bool:
    """Takes an update in and sees to a workflow task that carries it. False = this update id is known already."""
    state = t.state
    update_id = request.meta.update_id
    if update_id in state.updates:
        return False
    lifecycle.require_open(state)
    limits = t.context.limits
    if sum(1 for update in state.updates.values() if update.stage < UpdateStage.COMPLETED) >= limits.updates_in_flight_max:
        raise resource_exhausted(
            f"limit on number of concurrent in-flight updates has been reached ({limits.updates_in_flight_max}): "
            "wait until one of them completes"
        )
    if len(state.updates) >= limits.updates_total_max:
        raise resource_exhausted(
            f"limit on number of total updates has been reached ({limits.updates_total_max}): continue as new"
        )
    TABLE.step("none", "admitted")
    t.note(UpdateNote(Update(update_id, UpdateStage.ADMITTED, request=request.SerializeToString(), admitted_at=t.now)))
    if not lifecycle.is_waiting_for_first_task(state):
        workflow_task.schedule(t, speculative=True)
    return True


def send(t: Transition) -> None:
    """The workflow task that has just started carries all admitted updates."""
    task = t.state.task
    assert task is not None and task.is_started
    for update in list(t.state.updates.values()):
        if update.stage == UpdateStage.ADMITTED:
            TABLE.step("admitted", "sent")
            t.note(UpdateNote(replace(update, stage=UpdateStage.SENT, sent_task_id=task.scheduled_event_id)))


def messages(state: RunState) -> list[Message]:
    """The protocol messages that go with the started workflow task."""
    task = state.task
    assert task is not None and task.is_started
    found = []
    for update in state.updates.values():
        if update.stage == UpdateStage.SENT:
            body = AnyMessage(type_url=_TYPE_URL + Request.DESCRIPTOR.full_name, value=update.request)
            found.append(
                Message(
                    id=f"{update.update_id}/request",
                    protocol_instance_id=update.update_id,
                    event_id=task.started_event_id - 1,
                    body=body,
                )
            )
    return found


def only_rejects(protocol_messages: list[Message]) -> bool:
    """Whether a worker's answer does nothing but reject updates."""
    return all(message.body.Is(Rejection.DESCRIPTOR) for message in protocol_messages)


def take_message(c: Completion, message: Message) -> None:
    """One of the worker's messages: an acceptance, a rejection or a response."""
    body = message.body
    update_id = message.protocol_instance_id
    if body.Is(Acceptance.DESCRIPTOR):
        _accept(c, update_id, _unpack(body, Acceptance()))
    elif body.Is(Rejection.DESCRIPTOR):
        reject(c.t, update_id, _unpack(body, Rejection()).failure)
    elif body.Is(Response.DESCRIPTOR):
        _respond(c, update_id, _unpack(body, Response()))
    else:
        raise BadCommand(_BAD, f"Message {message.id!r} has a body of type {body.type_url!r}, which is no update message")


@command(CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE)
def _protocol_message(c: Completion, command: Command) -> None:
    message_id = command.protocol_message_command_attributes.message_id
    if not message_id:
        raise BadCommand(_BAD, "ProtocolMessageCommandAttributes is not set on ProtocolMessageCommand.")
    message = c.messages.pop(message_id, None)
    if message is None:
        raise BadCommand(_BAD, f'ProtocolMessageCommand referenced absent message ID "{message_id}"')
    take_message(c, message)


def reject(t: Transition, update_id: str, failure: Failure) -> None:
    """Refused by the workflow: whoever waits hears why, the run keeps no trace."""
    if not TABLE.allows(position(t.state, update_id), "rejected"):
        raise BadCommand(_BAD, f'unable to reject update "{update_id}": it is {position(t.state, update_id)}')
    TABLE.step(position(t.state, update_id), "rejected")
    t.note(UpdateGoneNote(update_id))
    t.notices.append(Rejected(update_id, failure.SerializeToString()))


def reject_unprocessed(t: Transition) -> None:
    """A worker that was sent an update and neither accepted nor rejected it does not know updates."""
    for update in list(t.state.updates.values()):
        if update.stage == UpdateStage.SENT:
            failure = Failure(
                message="Workflow Update is rejected because it wasn't processed by worker. "
                "Probably, Workflow Update is not supported by the worker.",
                source="Server",
                application_failure_info=ApplicationFailureInfo(type="UnprocessedUpdate", non_retryable=True),
            )
            reject(t, update.update_id, failure)


def outcome_of_close(update: Update) -> Outcome | None:
    """What an accepted update that the close overtook answers with; None for one that was never accepted."""
    if update.stage != UpdateStage.ACCEPTED:
        return None
    failure = Failure(
        message="Workflow Update failed because the Workflow completed before the Update completed.",
        source="Server",
        application_failure_info=ApplicationFailureInfo(type="AcceptedUpdateCompletedWorkflow", non_retryable=True),
    )
    return Outcome(failure=failure)


def _accept(c: Completion, update_id: str, acceptance: Acceptance) -> None:
    state = c.t.state
    update = state.updates.get(update_id)
    where = position(state, update_id)
    if update is None and not acceptance.HasField("accepted_request"):
        raise BadCommand(_BAD, f'accepted_request is not set on update.Acceptance message body for unknown update "{update_id}"')
    if not TABLE.allows(where, "WorkflowExecutionUpdateAccepted"):
        raise BadCommand(_BAD, f'unable to accept update "{update_id}": it is {where}')
    request = Request.FromString(update.request) if update is not None and update.request else acceptance.accepted_request
    has_admitted_event = update is not None and update.admitted_event_id
    c.t.add(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
        WorkflowExecutionUpdateAcceptedEventAttributes(
            protocol_instance_id=update_id,
            accepted_request_message_id=acceptance.accepted_request_message_id,
            accepted_request_sequencing_event_id=acceptance.accepted_request_sequencing_event_id,
            accepted_request=None if has_admitted_event else request,
        ),
    )


def _respond(c: Completion, update_id: str, response: Response) -> None:
    state = c.t.state
    where = position(state, update_id)
    if not response.HasField("outcome"):
        raise BadCommand(_BAD, "outcome is not set on update.Response message body.")
    if not TABLE.allows(where, "WorkflowExecutionUpdateCompleted"):
        raise BadCommand(_BAD, f'unable to complete update "{update_id}": it is {where}')
    meta = response.meta
    if not meta.update_id:
        meta.update_id = update_id
    c.t.add(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED,
        WorkflowExecutionUpdateCompletedEventAttributes(
            meta=meta, accepted_event_id=state.updates[update_id].accepted_event_id, outcome=response.outcome
        ),
    )


def _unpack(body: AnyMessage, into: M) -> M:
    try:
        into.ParseFromString(body.value)
    except DecodeError as error:
        raise BadCommand(_BAD, f"message body of type {body.type_url!r} cannot be read: {error}") from error
    return into
