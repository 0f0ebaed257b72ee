"""A completion callback: whoever attached it to a run is called over HTTP once the run has closed for good.

standby      the run is open, or its work goes on in another run that has the callback too
scheduled    to be called now
blocked      to be called, but the circuit breaker of its address is open: whoever delivers holds it back
backing off  waits for its next attempt
succeeded, failed  called, or refused for ever

Attempts are notes. That it is scheduled follows from the close event, whatever closed the run: but a run that continues as
new or is retried hands its callbacks on, and one that was closed by a reset leaves them to the run that goes on in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace
from temporalio.api.common.v1 import Callback as PublicCallback
from temporalio.api.common.v1 import Link, Payload
from temporalio.api.enums.v1 import CallbackState, EventType, RetryState
from temporalio.api.failure.v1 import (
    ApplicationFailureInfo,
    CanceledFailureInfo,
    Failure,
    TerminatedFailureInfo,
    TimeoutFailureInfo,
)
from temporalio.api.history.v1 import HistoryEvent

from cluster.config import Limits
from cluster.core.entry import CallbackNote
from cluster.core.errors import failed_precondition, invalid_argument, unimplemented
from cluster.core.events import timestamp_ns
from cluster.core.retry import next_call_at
from cluster.core.state import Callback, RunState
from cluster.core.table import Table
from cluster.core.transition import Transition

TABLE = Table(
    "completion callback",
    [
        # source         trigger           target
        ("none", "attached", "standby"),
        ("standby", "run closed", "scheduled"),
        ("scheduled", "delivered", "succeeded"),
        ("scheduled", "refused", "failed"),
        ("scheduled", "attempt failed", "backing off"),
        ("scheduled", "blocked", "blocked"),
        ("blocked", "unblocked", "scheduled"),
        ("blocked", "delivered", "succeeded"),  # the breaker's probe
        ("blocked", "refused", "failed"),
        ("blocked", "attempt failed", "backing off"),
        ("backing off", "due", "scheduled"),
    ],
)

URL_BYTES_MAX = 1_000  # frontend.callbackURLMaxLength
HEADER_BYTES_MAX = 8_192  # frontend.callbackHeaderMaxLength: keys and values
SYSTEM_URL = "temporal://system"  # a caller that is reached inside the cluster: no address, its token says where
_POSITIONS = {
    CallbackState.CALLBACK_STATE_STANDBY: "standby",
    CallbackState.CALLBACK_STATE_SCHEDULED: "scheduled",
    CallbackState.CALLBACK_STATE_BACKING_OFF: "backing off",
    CallbackState.CALLBACK_STATE_SUCCEEDED: "succeeded",
    CallbackState.CALLBACK_STATE_FAILED: "failed",
}
_STATES = {place: state for state, place in _POSITIONS.items()} | {"blocked": CallbackState.CALLBACK_STATE_SCHEDULED}


def position(callback: Callback) -> str:
    """The machine's state."""
    if callback.blocked_reason:
        return "blocked"
    return _POSITIONS[CallbackState.ValueType(callback.state)]


# --- fold --------------------------------------------------------------------------------------------------------------


def take_attached(state: RunState, callbacks: Iterable[PublicCallback], at: int, request_id: str = "") -> None:
    """Callbacks of a started event, or of one that attached them later (then request_id says which request did)."""
    for callback in callbacks:
        TABLE.step("none", "attached")
        state.callbacks.append(Callback(callback.SerializeToString(deterministic=True), at, request_id=request_id))


def take_close(state: RunState, retry_state: int) -> None:
    """The run has closed. retry_state: what the close event says about a retry of the run."""
    if state.is_reset_away or retry_state == RetryState.RETRY_STATE_IN_PROGRESS:
        return
    for index, callback in enumerate(state.callbacks):
        if position(callback) == "standby":
            TABLE.step("standby", "run closed")
            state.callbacks[index] = replace(callback, state=CallbackState.CALLBACK_STATE_SCHEDULED)


# --- questions ---------------------------------------------------------------------------------------------------------


def is_callable(callback: Callback) -> bool:
    """Whether it is owed now: while it is blocked too, for the breaker decides where it is delivered."""
    return position(callback) in ("scheduled", "blocked")


def due_at(state: RunState) -> int:
    """ns since the epoch: when the next attempt of one is due; 0 = none."""
    return min((one.next_attempt_at for one in state.callbacks if one.next_attempt_at), default=0)


def check(callbacks: Sequence[PublicCallback], limits: Limits) -> None:
    """Raises CallerError in the public server's words. Where they may go to is checked at the edge, and when one is sent."""
    if len(callbacks) > limits.callbacks_per_run_max:
        raise invalid_argument(f"cannot attach more than {limits.callbacks_per_run_max} callbacks to a workflow")
    for callback in callbacks:
        variant = callback.WhichOneof("variant")
        if variant != "nexus":
            raise unimplemented(f"unknown callback variant: {variant}")
        _check_url(callback.nexus.url)
        size = sum(len(key.encode()) + len(value.encode()) for key, value in callback.nexus.header.items())
        if size > HEADER_BYTES_MAX:
            raise invalid_argument(f"invalid header: header size longer than max allowed size of {HEADER_BYTES_MAX}")


def _check_url(url: str) -> None:
    if len(url.encode()) > URL_BYTES_MAX:
        raise invalid_argument(f"invalid url: url length longer than max length allowed of {URL_BYTES_MAX}")
    if url == SYSTEM_URL:
        return
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in ("http", "https"):
        raise invalid_argument(f"invalid url: unknown scheme: {url}")
    if not rest or rest[0] in "/?#":
        raise invalid_argument("invalid url: missing host")


def check_room(state: RunState, count: int, limits: Limits) -> None:
    """Raises FAILED_PRECONDITION if so many more are too many."""
    if count and len(state.callbacks) + count > limits.callbacks_per_run_max:
        raise failed_precondition(
            f"cannot attach more than {limits.callbacks_per_run_max} callbacks to a workflow "
            f"({len(state.callbacks)} callbacks already attached)"
        )


def as_kept(callbacks: Iterable[PublicCallback]) -> list[PublicCallback]:
    """As events tell them: header keys in lower case, as HTTP has them."""
    kept = []
    for callback in callbacks:
        one = PublicCallback()
        one.CopyFrom(callback)
        if any(key != key.lower() for key in one.nexus.header):
            header = {key.lower(): value for key, value in sorted(callback.nexus.header.items())}
            one.nexus.header.clear()
            one.nexus.header.update(header)
        kept.append(one)
    return kept


class Completion(msgspec.Struct, frozen=True):
    """What is told to whoever waits. state: the protocol's word; failure None = succeeded, with the result or without one."""

    state: str
    started_at: int
    closed_at: int
    link: Link
    result: Payload | None = None
    failure: Failure | None = None


def completion(state: RunState, namespace: str, callback: Callback, close: HistoryEvent) -> Completion:
    """How the closed run ended, for this callback. Third parties may hear it: of a termination no reason is told."""
    link = Link()
    event = link.workflow_event
    event.namespace, event.workflow_id, event.run_id = namespace, state.workflow_id, state.run_id
    if callback.request_id in state.request_ids:  # attached later, by an event that may have been buffered
        event.request_id_ref.request_id = callback.request_id
        event.request_id_ref.event_type = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED
    else:
        event.event_ref.event_id = 1
        event.event_ref.event_type = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    word, result, failure = _outcome(close)
    return Completion(word, state.started_at, timestamp_ns(close.event_time), link, result, failure)


def _outcome(close: HistoryEvent) -> tuple[str, Payload | None, Failure | None]:
    kind = close.event_type
    if kind == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
        payloads = close.workflow_execution_completed_event_attributes.result.payloads
        return "succeeded", payloads[0] if payloads else None, None  # an operation has one result
    if kind == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
        return "failed", None, close.workflow_execution_failed_event_attributes.failure
    if kind == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
        canceled = close.workflow_execution_canceled_event_attributes
        info = CanceledFailureInfo(details=canceled.details if canceled.HasField("details") else None)
        return "canceled", None, Failure(message="operation canceled", canceled_failure_info=info)
    if kind == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT:
        info_of_time = TimeoutFailureInfo()
        return "failed", None, Failure(message="operation exceeded internal timeout", timeout_failure_info=info_of_time)
    assert kind == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED, f"event type {kind} ends no operation"
    return "failed", None, Failure(message="operation terminated", terminated_failure_info=TerminatedFailureInfo())


# --- decide ------------------------------------------------------------------------------------------------------------


def record_delivered(t: Transition, index: int) -> bool:
    """Whoever waited has heard it. False = that was known."""
    callback = _owed(t, index)
    if callback is None:
        return False
    _change(t, index, "delivered", attempt=callback.attempt + 1, last_attempt_at=t.now, last_failure=b"", blocked_reason="")
    return True


def record_attempt_failed(
    t: Transition, index: int, attempt: int, message: str, *, is_retryable: bool = True, next_at: int = 0
) -> bool:
    """The call failed. attempt: as the effect names it; an older one's failure says nothing about the one under way.

    next_at: ns since the epoch, when the other side said when to come again; 0 = by the usual backoff.
    """
    callback = _owed(t, index)
    if callback is None or callback.attempt != attempt:
        return False
    failure = Failure(message=message, application_failure_info=ApplicationFailureInfo(non_retryable=not is_retryable))
    next_attempt_at = next_at or next_call_at(t.now, attempt + 1, t.context.ids.jitter())
    _change(
        t,
        index,
        "attempt failed" if is_retryable else "refused",
        attempt=attempt + 1,
        last_attempt_at=t.now,
        last_failure=failure.SerializeToString(),
        next_attempt_at=next_attempt_at if is_retryable else 0,
        blocked_reason="",
    )
    return True


def record_blocked(t: Transition, index: int, reason: str) -> bool:
    """The circuit breaker of its address has opened (reason: why), or closed again (reason empty)."""
    callback = _owed(t, index)
    if callback is None or position(callback) != ("scheduled" if reason else "blocked"):
        return False
    _change(t, index, "blocked" if reason else "unblocked", blocked_reason=reason)
    return True


def decide_due(t: Transition) -> None:
    """Next attempts whose time has come."""
    for index, callback in enumerate(list(t.state.callbacks)):
        if callback.next_attempt_at and callback.next_attempt_at <= t.now:
            _change(t, index, "due", next_attempt_at=0)


def _owed(t: Transition, index: int) -> Callback | None:
    callbacks = t.state.callbacks
    if not 0 <= index < len(callbacks) or not is_callable(callbacks[index]):
        return None
    return callbacks[index]


def _change(t: Transition, index: int, trigger: str, **changes: Any) -> None:
    callback = t.state.callbacks[index]
    target = TABLE.step(position(callback), trigger)
    t.note(CallbackNote(index, replace(callback, state=_STATES[target], **changes)))
