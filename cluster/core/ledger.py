"""The ledger's words: what becomes of each thing that only the losing branch (or run) had.

outcome      what follows
reapply      appended to the winner
reset        the winner has closed: it is reset to its last workflow task, and this is appended there
inbox        the winner has closed and is not reset: it waits for the next run of the workflow id (or its successor)
duplicate    the winner has this very fact already
merged       what it wanted is so in the winner, or another line brings it
run again    an activity's result that is not taken over
rolled back  it has not happened; the reason says what takes its place
"""

from __future__ import annotations

from enum import StrEnum

import msgspec
from temporalio.api.enums.v1 import EventType, UpdateAdmittedEventOrigin
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionUpdateAdmittedEventAttributes
from temporalio.api.update.v1 import Request

from cluster.core.apply import EVENT_NAMES


class Outcome(StrEnum):
    REAPPLY = "reapply"
    RESET = "reset"
    INBOX = "inbox"
    DUPLICATE = "duplicate"
    MERGED = "merged"
    RUN_AGAIN = "run again"
    ROLLED_BACK = "rolled back"


REAPPLIED = frozenset((Outcome.REAPPLY, Outcome.RESET, Outcome.INBOX))


class Source(StrEnum):
    """Where the loser had it."""

    EVENT = "event"
    BUFFERED = "buffered"
    UPDATE = "update"  # admitted by a note only


class LedgerLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that the loser had and the winner's history has not, and what becomes of it."""

    namespace_id: str
    workflow_id: str
    run_id: str  # the loser's
    source: Source
    number: int  # event id; of what was buffered or only admitted: which of them, from 0
    version: int
    event_type: int
    outcome: Outcome
    reason: str
    key: str = ""  # request id by which the winner knows it, once it was appended
    event: bytes = b""  # what is to be appended, encoded
    started: bytes = b""  # of an adopted activity: its ActivityTaskStarted
    branch: str = ""  # names the branch: the last event and the last transition that the winner shares; "0.0" = a whole run
    winner_run_id: str = ""  # to which it was appended
    winner_event_id: int = 0  # as which it was appended; 0 = not yet, or behind a workflow task, where it gets its id later
    is_past_cut: bool = False  # the other region had it, and this one did not, when this one took over by force

    @property
    def name(self) -> str:
        return EVENT_NAMES[self.event_type]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(LedgerLine)


def encode_line(line: LedgerLine) -> bytes:
    return _encoder.encode(line)


def decode_line(data: bytes) -> LedgerLine:
    return _decoder.decode(data)


def admitted_event(request: Request, version: int = 0) -> HistoryEvent:
    return HistoryEvent(
        event_type=EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED,
        version=version,
        workflow_execution_update_admitted_event_attributes=WorkflowExecutionUpdateAdmittedEventAttributes(
            request=request, origin=UpdateAdmittedEventOrigin.UPDATE_ADMITTED_EVENT_ORIGIN_REAPPLY
        ),
    )


def requested_update(event: HistoryEvent) -> Request | None:
    """The update that an admitted or accepted event is about; None if the event leaves it to an earlier one."""
    if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED:
        return event.workflow_execution_update_admitted_event_attributes.request
    accepted = event.workflow_execution_update_accepted_event_attributes
    return accepted.accepted_request if accepted.HasField("accepted_request") else None
