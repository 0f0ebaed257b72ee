"""A Nexus operation: work that another team's service does, called over HTTP until it has been started, heard of when it ends.

scheduled    to be called now
blocked      to be called, but its endpoint's circuit breaker is open: whoever delivers holds it back
backing off  waits for its next attempt
started      its handler has it and will call back

A callback may come before the answer to the start: then the started event is written first (nexus_results.py). Attempts are
notes; history shows how it began, that its handler has it, and how it ended. A cancel request is a machine of its own,
with its own attempts; it never ends the operation, only the handler does. Here: the machines and what time does to them.
Commands are in nexus_commands.py, answers of handlers in nexus_results.py, what operators see in nexus_pending.py.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from temporalio.api.enums.v1 import EventType, NexusOperationCancellationState, TimeoutType
from temporalio.api.failure.v1 import Failure, NexusOperationFailureInfo, TimeoutFailureInfo
from temporalio.api.history.v1 import (
    HistoryEvent,
    NexusOperationCancelRequestCompletedEventAttributes,
    NexusOperationCancelRequestedEventAttributes,
    NexusOperationCancelRequestFailedEventAttributes,
    NexusOperationScheduledEventAttributes,
    NexusOperationStartedEventAttributes,
    NexusOperationTimedOutEventAttributes,
)

from cluster.core.entry import NexusNote
from cluster.core.events import duration_ns, timestamp_ns
from cluster.core.nexus_state import NexusCancellation, NexusOperation
from cluster.core.state import RunState
from cluster.core.table import Table, applies
from cluster.core.transition import Transition

ENDS = ("NexusOperationCompleted", "NexusOperationFailed", "NexusOperationCanceled", "NexusOperationTimedOut")
PENDING = ("scheduled", "blocked", "backing off", "started")

TABLE = Table(
    "nexus operation",
    [
        # source         trigger                         target
        ("none", "NexusOperationScheduled", "scheduled"),
        ("none", "NexusOperationCancelRequested", "none"),  # its end is buffered: the worker could not know
        ("scheduled", "attempt failed", "backing off"),
        ("scheduled", "blocked", "blocked"),
        ("blocked", "unblocked", "scheduled"),
        ("blocked", "attempt failed", "backing off"),  # the breaker's probe
        ("backing off", "due", "scheduled"),
        ("scheduled", "NexusOperationStarted", "started"),
        ("blocked", "NexusOperationStarted", "started"),  # called back for an attempt that seemed to have failed
        ("backing off", "NexusOperationStarted", "started"),
        ("started", "NexusOperationCancelRequestCompleted", "started"),
        ("started", "NexusOperationCancelRequestFailed", "started"),
        *((source, "NexusOperationCancelRequested", source) for source in PENDING),
        *((source, end, "none") for source in PENDING for end in ENDS),
    ],
)
CANCEL_TABLE = Table(
    "nexus cancellation",
    [
        # source         trigger                         target
        ("none", "NexusOperationCancelRequested", "waiting"),
        ("waiting", "operation started", "scheduled"),  # at once if it has started: before, its handler gave it no token
        ("scheduled", "attempt failed", "backing off"),
        ("scheduled", "blocked", "blocked"),
        ("blocked", "unblocked", "scheduled"),
        ("blocked", "attempt failed", "backing off"),
        ("backing off", "due", "scheduled"),
        *((source, "NexusOperationCancelRequestCompleted", "succeeded") for source in ("scheduled", "blocked", "backing off")),
        *((source, "NexusOperationCancelRequestFailed", "failed") for source in ("scheduled", "blocked", "backing off")),
    ],
)

CANCEL = NexusOperationCancellationState
TIMEOUT = TimeoutType
UNSUCCESSFUL = "nexus operation completed unsuccessfully"
# What is due, in the order in which it is done if it is due at the same moment: an end makes the rest needless.
_TIMEOUTS = (TIMEOUT.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE, TIMEOUT.TIMEOUT_TYPE_SCHEDULE_TO_START, TIMEOUT.TIMEOUT_TYPE_START_TO_CLOSE)
_RETRY, _CANCEL_RETRY = len(_TIMEOUTS), len(_TIMEOUTS) + 1
_POSITION_OF_CANCEL = {0: "waiting", 1: "scheduled", 2: "backing off", 3: "succeeded", 4: "failed"}


def position(operation: NexusOperation | None) -> str:
    """The machine's state, derived."""
    if operation is None:
        return "none"
    if operation.is_started:
        return "started"
    if operation.next_attempt_at:
        return "backing off"
    return "blocked" if operation.blocked_reason else "scheduled"


def cancel_position(operation: NexusOperation | None) -> str:
    """The state of the cancel request's machine."""
    cancellation = operation.cancellation if operation is not None else None
    if cancellation is None:
        return "none"
    return "blocked" if cancellation.blocked_reason else _POSITION_OF_CANCEL[cancellation.state]


# --- fold --------------------------------------------------------------------------------------------------------------


@applies(EventType.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED)
def _scheduled(state: RunState, event: HistoryEvent, attributes: NexusOperationScheduledEventAttributes) -> None:
    TABLE.step(position(state.operations.get(event.event_id)), "NexusOperationScheduled")
    a = attributes
    state.operations[event.event_id] = NexusOperation(
        scheduled_event_id=event.event_id,
        endpoint=a.endpoint,
        endpoint_id=a.endpoint_id,
        service=a.service,
        operation=a.operation,
        request_id=a.request_id,
        scheduled_at=timestamp_ns(event.event_time),
        scheduled_version=event.version,
        schedule_to_close_ns=duration_ns(a.schedule_to_close_timeout),
        schedule_to_start_ns=duration_ns(a.schedule_to_start_timeout),
        start_to_close_ns=duration_ns(a.start_to_close_timeout),
    )


@applies(EventType.EVENT_TYPE_NEXUS_OPERATION_STARTED)
def _started(state: RunState, event: HistoryEvent, attributes: NexusOperationStartedEventAttributes) -> None:
    operation = state.operations.get(attributes.scheduled_event_id)
    TABLE.step(position(operation), "NexusOperationStarted")
    assert operation is not None
    at = timestamp_ns(event.event_time)
    state.operations[operation.scheduled_event_id] = replace(
        operation,
        token=attributes.operation_token or attributes.operation_id,  # the older name, in histories of older servers
        started_at=at,
        attempt=operation.attempt + 1,
        last_attempt_at=at,
        last_failure=b"",
        next_attempt_at=0,
        blocked_reason="",
        cancellation=_sendable(operation, at),
    )


def _sendable(operation: NexusOperation, at: int) -> NexusCancellation | None:
    """The cancel request of an operation that has started."""
    if operation.cancellation is None:
        return None
    CANCEL_TABLE.step(cancel_position(operation), "operation started")
    return replace(operation.cancellation, state=CANCEL.NEXUS_OPERATION_CANCELLATION_STATE_SCHEDULED, requested_at=at)


@applies(EventType.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUESTED)
def _cancel_requested(
    state: RunState, event: HistoryEvent, attributes: NexusOperationCancelRequestedEventAttributes
) -> None:
    operation = state.operations.get(attributes.scheduled_event_id)
    TABLE.step(position(operation), "NexusOperationCancelRequested")
    if operation is None:
        return
    CANCEL_TABLE.step(cancel_position(operation), "NexusOperationCancelRequested")
    asked = replace(operation, cancellation=NexusCancellation(event.event_id))
    if asked.is_started:
        asked = replace(asked, cancellation=_sendable(asked, timestamp_ns(event.event_time)))
    state.operations[asked.scheduled_event_id] = asked


@applies(EventType.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED)
def _cancel_completed(
    state: RunState, event: HistoryEvent, attributes: NexusOperationCancelRequestCompletedEventAttributes
) -> None:
    _cancel_answered(state, event, attributes.scheduled_event_id, "NexusOperationCancelRequestCompleted", b"")


@applies(EventType.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_FAILED)
def _cancel_failed(
    state: RunState, event: HistoryEvent, attributes: NexusOperationCancelRequestFailedEventAttributes
) -> None:
    failure = attributes.failure.SerializeToString(deterministic=True)
    _cancel_answered(state, event, attributes.scheduled_event_id, "NexusOperationCancelRequestFailed", failure)


def _cancel_answered(state: RunState, event: HistoryEvent, scheduled_event_id: int, trigger: str, failure: bytes) -> None:
    operation = state.operations.get(scheduled_event_id)
    TABLE.step(position(operation), trigger)
    target = CANCEL_TABLE.step(cancel_position(operation), trigger)
    assert operation is not None and operation.cancellation is not None
    states = {"succeeded": CANCEL.NEXUS_OPERATION_CANCELLATION_STATE_SUCCEEDED}
    cancellation = replace(
        operation.cancellation,
        state=states.get(target, CANCEL.NEXUS_OPERATION_CANCELLATION_STATE_FAILED),
        attempt=operation.cancellation.attempt + 1,
        last_attempt_at=timestamp_ns(event.event_time),
        last_failure=failure,
        next_attempt_at=0,
        blocked_reason="",
    )
    state.operations[scheduled_event_id] = replace(operation, cancellation=cancellation)


def _ends(event_type: EventType.ValueType, trigger: str) -> None:
    @applies(event_type)
    def _ended(state: RunState, event: HistoryEvent, attributes: Any) -> None:
        TABLE.step(position(state.operations.get(attributes.scheduled_event_id)), trigger)
        del state.operations[attributes.scheduled_event_id]


for _type, _trigger in zip(
    (
        EventType.EVENT_TYPE_NEXUS_OPERATION_COMPLETED,
        EventType.EVENT_TYPE_NEXUS_OPERATION_FAILED,
        EventType.EVENT_TYPE_NEXUS_OPERATION_CANCELED,
        EventType.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT,
    ),
    ENDS,
    strict=True,
):
    _ends(_type, _trigger)


# --- questions ---------------------------------------------------------------------------------------------------------


def expected(state: RunState, scheduled_event_id: int, request_id: str = "") -> NexusOperation | None:
    """The pending operation of an open run, if an answer under this request id ("" = any) is still of interest."""
    operation = state.operations.get(scheduled_event_id)
    if not state.is_open or operation is None or (request_id and operation.request_id != request_id):
        return None
    return operation


def is_callable(operation: NexusOperation) -> bool:
    """Whether its start is owed now: while it is blocked too, for the breaker decides where it is delivered."""
    return position(operation) in ("scheduled", "blocked")


def is_cancel_callable(operation: NexusOperation) -> bool:
    """Whether its cancel request is owed now."""
    return cancel_position(operation) in ("scheduled", "blocked")


def deadlines(operation: NexusOperation) -> list[tuple[int, int]]:
    """(ns since the epoch, what is due then) of each that counts now."""
    found: list[tuple[int, int]] = []
    if operation.schedule_to_close_ns:
        found.append((operation.scheduled_at + operation.schedule_to_close_ns, 0))
    if operation.is_started:
        if operation.start_to_close_ns:
            found.append((operation.started_at + operation.start_to_close_ns, 2))
    else:
        if operation.schedule_to_start_ns:
            found.append((operation.scheduled_at + operation.schedule_to_start_ns, 1))
        if operation.next_attempt_at:
            found.append((operation.next_attempt_at, _RETRY))
    if operation.cancellation is not None and operation.cancellation.next_attempt_at:
        found.append((operation.cancellation.next_attempt_at, _CANCEL_RETRY))
    return found


def due_at(operation: NexusOperation) -> int:
    """ns since the epoch: the earliest moment at which `decide_due` has something to do; 0 = never."""
    return min((at for at, _ in deadlines(operation)), default=0)


def call_deadline(operation: NexusOperation) -> tuple[int, TimeoutType.ValueType]:
    """(ns since the epoch, which time-out): when a call to its handler comes too late; 0 = never."""
    found = [one for one in deadlines(operation) if one[1] < _RETRY]
    at, what = min(found, default=(0, 0))
    return at, _TIMEOUTS[what]


# --- decide: time ------------------------------------------------------------------------------------------------------


def decide_due(t: Transition, scheduled_event_id: int) -> bool:
    """Does what is due, in the order of the deadlines. True: tell the workflow."""
    while (operation := t.state.operations.get(scheduled_event_id)) is not None:
        at, what = min(deadlines(operation), default=(t.now + 1, _RETRY))
        if at > t.now:
            return False
        if what == _RETRY:
            change(t, operation, "due", next_attempt_at=0)
        elif what == _CANCEL_RETRY:
            state = CANCEL.NEXUS_OPERATION_CANCELLATION_STATE_SCHEDULED
            change_cancellation(t, operation, "due", state=state, next_attempt_at=0)
        else:
            add_timed_out(t, operation, _TIMEOUTS[what])
            return True
    return False


def add_timed_out(t: Transition, operation: NexusOperation, timeout_type: TimeoutType.ValueType) -> None:
    """Nobody is asked any more; the handler may go on, but what it has to say comes too late."""
    cause = Failure(message="operation timed out", timeout_failure_info=TimeoutFailureInfo(timeout_type=timeout_type))
    t.add(
        EventType.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT,
        NexusOperationTimedOutEventAttributes(
            scheduled_event_id=operation.scheduled_event_id,
            failure=wrapped(operation, cause),
            request_id=operation.request_id,
        ),
    )


# --- steps -------------------------------------------------------------------------------------------------------------


def wrapped(operation: NexusOperation, cause: Failure) -> Failure:
    """A failure as the workflow sees it: which operation failed, and why."""
    info = NexusOperationFailureInfo(
        scheduled_event_id=operation.scheduled_event_id,
        endpoint=operation.endpoint,
        service=operation.service,
        operation=operation.operation,
        operation_id=operation.token,
        operation_token=operation.token,
    )
    return Failure(message=UNSUCCESSFUL, cause=cause, nexus_operation_execution_failure_info=info)


def change(t: Transition, operation: NexusOperation, trigger: str, **changes: Any) -> NexusOperation:
    """Takes a step of the table that no event tells, as one note."""
    target = TABLE.step(position(operation), trigger)
    changed: NexusOperation = replace(operation, **changes)
    assert position(changed) == target, f"{trigger} led to {position(changed)}, not to {target}"
    t.note(NexusNote(changed))
    return changed


def change_cancellation(t: Transition, operation: NexusOperation, trigger: str, **changes: Any) -> None:
    """The same for its cancel request."""
    target = CANCEL_TABLE.step(cancel_position(operation), trigger)
    assert operation.cancellation is not None
    changed = replace(operation, cancellation=replace(operation.cancellation, **changes))
    assert cancel_position(changed) == target, f"{trigger} led to {cancel_position(changed)}, not to {target}"
    t.note(NexusNote(changed))
