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
from temporalio.api.enums.v1 import (
    CommandType,
    EventType,
    ResourceExhaustedCause,
    ResourceExhaustedScope,
    WorkflowTaskFailedCause,
)
from temporalio.api.errordetails.v1 import ResourceExhaustedFailure, WorkflowNotReadyFailure
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
from cluster.core.errors import failed_precondition, invalid_argument, resource_exhausted
from cluster.core.events import timestamp_ns
from cluster.core.machines import lifecycle, workflow_task
from cluster.core.machines.commands import BadCommand, Completion, command
from cluster.core.state import RunState, Status, Update, UpdateStage
from cluster.core.table import Table, applies, on_flush
from cluster.core.transition import Transition

TABLE = Table(
    "update",
    [
        ("none", "admitted", "admitted"),
        ("none", "WorkflowExecutionUpdateAdmitted", "admitted"),  # reapplied by a reset
        ("admitted", "WorkflowExecutionUpdateAdmitted", "admitted"),  # rebuilt: it was rejected in between, which no event says
        ("none", "WorkflowExecutionUpdateAccepted", "accepted"),  # rebuilt from events alone; told by its worker alone
        ("admitted", "WorkflowExecutionUpdateAccepted", "accepted"),  # rebuilt; read by its worker in the history
        ("admitted", "sent", "sent"),
        ("sent", "sent", "sent"),  # again: the task that carried it failed or timed out
        ("sent", "WorkflowExecutionUpdateAccepted", "accepted"),
        ("sent", "rejected", "none"),
        ("admitted", "rejected", "none"),
        ("accepted", "WorkflowExecutionUpdateCompleted", "completed"),
    ],
)

_BAD = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE
TASK_ATTEMPTS_MAX = 3  # updateworkflow.failUpdateWorkflowTaskAttemptCount: no worker answers an update while its task fails
TOO_MANY_UPDATES = (
    "The limit on the total number of distinct updates in this workflow has been reached ({}). "
    "Make sure any duplicate updates share an Update ID so the server can deduplicate them, and consider rejecting updates "
    "that you aren't going to process. You can also Continue-as-New to avoid this; we recommend you check "
    "Continue-as-New Suggested in your Workflow."
)
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
        request=attributes.request.SerializeToString(deterministic=True),
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
    """Takes an update in and sees to a workflow task that carries it, at once even if the first task was put off.

    False = this update id is known already. Raises CallerError: closed, paused, failing, about to close, too many.
    """
    state = t.state
    update_id = request.meta.update_id
    is_known = update_id in state.updates
    if not state.is_open and is_known:
        return False
    lifecycle.require_open(state)
    if state.status == Status.PAUSED:
        raise failed_precondition("Workflow is paused. Cannot update the workflow.")
    if (state.task.attempt if state.task is not None else state.task_attempt) >= TASK_ATTEMPTS_MAX:
        raise failed_precondition(
            "Unable to perform workflow execution update due to Workflow Task in failed state.", WorkflowNotReadyFailure()
        )
    lifecycle.require_not_closing(state)
    if is_known:
        return False
    limits = t.context.limits
    if sum(1 for update in state.updates.values() if update.stage < UpdateStage.COMPLETED) >= limits.updates_in_flight_max:
        detail = ResourceExhaustedFailure(
            cause=ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT,
            scope=ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE,
        )
        text = f"limit on number of concurrent in-flight updates has been reached ({limits.updates_in_flight_max})"
        raise resource_exhausted(text, detail)
    if len(state.updates) >= limits.updates_total_max:
        raise failed_precondition(TOO_MANY_UPDATES.format(limits.updates_total_max))
    TABLE.step("none", "admitted")
    encoded = request.SerializeToString(deterministic=True)
    count = state.transition_count + 1  # as it will be
    t.note(UpdateNote(Update(update_id, UpdateStage.ADMITTED, encoded, admitted_at=t.now, admitted_transition=count)))
    workflow_task.schedule(t, speculative=True)
    return True


def send(t: Transition, *, is_heartbeat: bool = False) -> None:
    """The workflow task that has just started carries all updates that wait for an answer.

    is_heartbeat: it went back to the worker that asked for more time and has the former ones: only what is new.
    """
    task = t.state.task
    assert task is not None and task.is_started
    for update in list(t.state.updates.values()):
        if update.stage == UpdateStage.ADMITTED or (update.stage == UpdateStage.SENT and not is_heartbeat):
            TABLE.step(position(t.state, update.update_id), "sent")
            t.note(UpdateNote(replace(update, stage=UpdateStage.SENT, sent_task_id=task.scheduled_event_id)))


def messages(state: RunState) -> list[Message]:
    """The protocol messages that go with the started workflow task. An update of an admitted event needs none."""
    task = state.task
    assert task is not None and task.is_started
    found = []
    for update in state.updates.values():
        is_carried = update.stage == UpdateStage.SENT and update.sent_task_id == task.scheduled_event_id
        if is_carried and not update.admitted_event_id:
            body = AnyMessage(type_url=_TYPE_URL + Request.DESCRIPTOR.full_name, value=update.request)
            found.append(
                Message(
                    id=_message_id(update.update_id),
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
    if not message.HasField("body"):
        raise invalid_argument("nil message body")
    if not message.body.TypeName():
        raise invalid_argument("no message name specified")
    body = message.body
    update_id = message.protocol_instance_id
    if not c.t.state.is_open and not body.Is(Rejection.DESCRIPTOR):
        return  # the run has just ended: what it says of its updates would need an event
    if body.Is(Acceptance.DESCRIPTOR):
        _accept(c, update_id, _unpack(body, Acceptance()))
    elif body.Is(Rejection.DESCRIPTOR):
        _refuse(c.t, update_id, _unpack(body, Rejection()))
    elif body.Is(Response.DESCRIPTOR):
        _respond(c, update_id, _unpack(body, Response()))
    else:
        raise BadCommand(_BAD, f"Message {message.id!r} has a body of type {body.type_url!r}, which is no update message")


@command(CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE)
def _protocol_message(c: Completion, command: Command) -> None:
    if not command.HasField("protocol_message_command_attributes"):
        raise BadCommand(_BAD, "ProtocolMessageCommandAttributes is not set on ProtocolMessageCommand.")
    message_id = command.protocol_message_command_attributes.message_id
    if not message_id:
        raise BadCommand(_BAD, "MessageID is not set on ProtocolMessageCommand.")
    message = c.messages.pop(message_id, None)
    if message is None:
        raise BadCommand(_BAD, f"ProtocolMessageCommand referenced absent message ID {message_id}")
    take_message(c, message)


def reject(t: Transition, update_id: str, failure: Failure) -> None:
    """Refused by the workflow: whoever waits hears why, the run keeps no trace."""
    TABLE.step(position(t.state, update_id), "rejected")
    t.note(UpdateGoneNote(update_id))
    t.notices.append(Rejected(update_id, failure.SerializeToString(deterministic=True)))


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
    if update is None:
        if not acceptance.HasField("accepted_request"):
            raise _unknown(update_id)
        if len(state.updates) >= c.t.context.limits.updates_total_max:
            raise failed_precondition(TOO_MANY_UPDATES.format(c.t.context.limits.updates_total_max))
    _require_step(c, update_id, "WorkflowExecutionUpdateAccepted", "Acceptance")
    if not acceptance.accepted_request_sequencing_event_id:
        raise BadCommand(_BAD, "invalid *update.Acceptance: accepted_request_sequencing_event_id is not set")
    if not acceptance.accepted_request_message_id:
        raise BadCommand(_BAD, "invalid *update.Acceptance: accepted_request_message_id is not set")
    request = Request.FromString(update.request) if update is not None and update.request else acceptance.accepted_request
    has_admitted_event = update is not None and update.admitted_event_id
    c.t.add(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
        WorkflowExecutionUpdateAcceptedEventAttributes(
            protocol_instance_id=update_id,
            accepted_request_message_id=_message_id(update_id),
            accepted_request_sequencing_event_id=acceptance.accepted_request_sequencing_event_id,
            accepted_request=None if has_admitted_event else request,
        ),
    )


def _refuse(t: Transition, update_id: str, rejection: Rejection) -> None:
    if update_id not in t.state.updates:
        if not rejection.HasField("rejected_request"):
            raise _unknown(update_id)
        return  # forgotten here, and now by its worker
    if not TABLE.allows(position(t.state, update_id), "rejected"):
        raise _wrong_step(t.state, update_id, "Rejection", 0)
    reject(t, update_id, rejection.failure)


def _respond(c: Completion, update_id: str, response: Response) -> None:
    state = c.t.state
    if update_id not in state.updates:
        raise _unknown(update_id)
    _require_step(c, update_id, "WorkflowExecutionUpdateCompleted", "Response")
    for is_missing, what in (
        (not response.HasField("meta"), "meta is not set"),
        (not response.meta.update_id, "meta.update_id is not set"),
        (response.meta.update_id != update_id, f"meta.update_id != {update_id}"),
        (not response.HasField("outcome"), "outcome is not set"),
    ):
        if is_missing:
            raise BadCommand(_BAD, f"invalid *update.Response: {what}")
    c.t.add(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED,
        WorkflowExecutionUpdateCompletedEventAttributes(
            meta=response.meta, accepted_event_id=state.updates[update_id].accepted_event_id, outcome=response.outcome
        ),
    )


def _require_step(c: Completion, update_id: str, trigger: str, kind: str) -> None:
    if not TABLE.allows(position(c.t.state, update_id), trigger):
        raise _wrong_step(c.t.state, update_id, kind, c.completed_event_id)


def _wrong_step(state: RunState, update_id: str, kind: str, completed_event_id: int) -> BadCommand:
    """What this very answer has made of the update is provisional."""
    update = state.updates[update_id]
    name = UpdateStage(update.stage).name.capitalize()
    if update.stage >= UpdateStage.ACCEPTED and max(update.accepted_event_id, update.completed_event_id) > completed_event_id:
        name = f"Provisionally{name}"
    text = f"invalid state transition attempted for Update {update_id}: received *update.{kind} message while in state {name}"
    return BadCommand(_BAD, text)


def _unknown(update_id: str) -> BadCommand:
    return BadCommand(
        _BAD,
        f"update {update_id} wasn't found on the server. "
        "This is most likely a transient error which will be resolved automatically by retries",
    )


def _message_id(update_id: str) -> str:
    return f"{update_id}/request"


def _unpack(body: AnyMessage, into: M) -> M:
    try:
        into.ParseFromString(body.value)
    except DecodeError as error:
        raise BadCommand(_BAD, f"message body of type {body.type_url!r} cannot be read: {error}") from error
    return into
