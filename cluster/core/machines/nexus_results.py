"""What handlers answer, and what becomes of an operation by it. Whoever delivers calls these, one transition each.

Each returns whether it changed anything: an answer that came before, or that nobody waits for any more, changes nothing. So
a call that is repeated after a crash, a callback that comes twice or too late, and two answers that cross each other are
harmless. request_id is the one the operation was scheduled with; "" = whoever calls knows that it is the right one.
"""

from __future__ import annotations

from collections.abc import Sequence

from temporalio.api.common.v1 import Link, Payload
from temporalio.api.enums.v1 import EventType, TimeoutType
from temporalio.api.failure.v1 import ApplicationFailureInfo, CanceledFailureInfo, Failure
from temporalio.api.history.v1 import (
    NexusOperationCanceledEventAttributes,
    NexusOperationCancelRequestCompletedEventAttributes,
    NexusOperationCancelRequestFailedEventAttributes,
    NexusOperationCompletedEventAttributes,
    NexusOperationFailedEventAttributes,
    NexusOperationStartedEventAttributes,
)

from cluster.core.machines import workflow_task
from cluster.core.machines.nexus_operation import (
    CANCEL,
    add_timed_out,
    cancel_position,
    change,
    change_cancellation,
    expected,
    is_callable,
    position,
    wrapped,
)
from cluster.core.nexus_state import NexusOperation
from cluster.core.retry import failure_to_keep, next_call_at
from cluster.core.transition import Transition

TOKEN_BYTES_MAX = 4_096  # component.nexusoperations.limit.operation.token.length
FAILURE_BYTES_MAX = 4 * 1024  # what the state carries from attempt to attempt, as of activities
RESULT_TOO_LARGE = "http: response body too large"


# --- the start was answered --------------------------------------------------------------------------------------------


def record_started(
    t: Transition, scheduled_event_id: int, request_id: str, token: str, links: Sequence[Link] = ()
) -> bool:
    """The handler has it and will call back. A token longer than a state should carry fails the operation."""
    operation = expected(t.state, scheduled_event_id, request_id)
    if operation is None or operation.is_started:
        return False
    size = len(token.encode())
    if size > TOKEN_BYTES_MAX:
        text = f"invalid operation token: length exceeds allowed limit ({size}/{TOKEN_BYTES_MAX})"
        return record_failed(t, scheduled_event_id, request_id, call_error(text))
    _add_started(t, operation, token, links, t.now)
    workflow_task.schedule(t)
    return True


def record_completed(
    t: Transition, scheduled_event_id: int, request_id: str, result: Payload | None, links: Sequence[Link] = ()
) -> bool:
    """The start's answer was the result. One that is too large fails the operation: it would be as large the next time."""
    operation = expected(t.state, scheduled_event_id, request_id)
    if operation is None:
        return False
    if result is not None and result.ByteSize() > t.context.limits.payload_bytes_max:
        return record_failed(t, scheduled_event_id, request_id, call_error(RESULT_TOO_LARGE))
    _add_completed(t, operation, result, links)
    workflow_task.schedule(t)
    return True


def record_failed(t: Transition, scheduled_event_id: int, request_id: str, cause: Failure) -> bool:
    """The operation failed, or could not be started and never will be (an answer that is not to be retried)."""
    operation = expected(t.state, scheduled_event_id, request_id)
    if operation is None:
        return False
    _add_failed(t, operation, cause)
    workflow_task.schedule(t)
    return True


def record_canceled(t: Transition, scheduled_event_id: int, request_id: str, cause: Failure) -> bool:
    """The handler says that it was cancelled."""
    operation = expected(t.state, scheduled_event_id, request_id)
    if operation is None:
        return False
    _add_canceled(t, operation, cause)
    workflow_task.schedule(t)
    return True


def record_timed_out(t: Transition, scheduled_event_id: int, timeout_type: TimeoutType.ValueType) -> bool:
    """So little time is left (nexus_operation.call_deadline) that no further call is made."""
    operation = expected(t.state, scheduled_event_id)
    if operation is None:
        return False
    add_timed_out(t, operation, timeout_type)
    workflow_task.schedule(t)
    return True


def record_attempt_failed(
    t: Transition,
    scheduled_event_id: int,
    attempt: int,
    failure: Failure,
    *,
    is_retryable: bool = True,
    next_at: int = 0,
) -> bool:
    """The call failed. attempt: as the effect names it; an older one's failure says nothing about the one under way.

    next_at: ns since the epoch, when the handler said when to come again; 0 = by the usual backoff.
    """
    operation = expected(t.state, scheduled_event_id)
    if operation is None or not is_callable(operation) or operation.attempt != attempt:
        return False
    if not is_retryable:
        return record_failed(t, scheduled_event_id, operation.request_id, failure)
    change(
        t,
        operation,
        "attempt failed",
        attempt=attempt + 1,
        last_attempt_at=t.now,
        last_failure=failure_to_keep(failure, FAILURE_BYTES_MAX),
        next_attempt_at=next_at or next_call_at(t.now, attempt + 1, t.context.ids.jitter()),
        blocked_reason="",
    )
    return True


def record_blocked(t: Transition, scheduled_event_id: int, reason: str) -> bool:
    """The endpoint's circuit breaker has opened (reason: why), or closed again (reason empty)."""
    operation = expected(t.state, scheduled_event_id)
    if operation is None or position(operation) != ("scheduled" if reason else "blocked"):
        return False
    change(t, operation, "blocked" if reason else "unblocked", blocked_reason=reason)
    return True


# --- the handler called back -------------------------------------------------------------------------------------------


def record_callback(
    t: Transition,
    scheduled_event_id: int,
    request_id: str,
    *,
    token: str = "",
    started_at: int = 0,
    links: Sequence[Link] = (),
    result: Payload | None = None,
    failure: Failure | None = None,
    is_canceled: bool = False,
) -> bool:
    """How the operation ended, whether or not its start has been answered yet. No failure = it completed.

    token, started_at, links: of the started event, if it has to be written first. A start that the handler dates before the
    operation was scheduled, or in the future, is dated to the nearest moment that can be.
    """
    operation = expected(t.state, scheduled_event_id, request_id)
    if operation is None:
        return False
    if not operation.is_started:
        at = min(max(started_at, operation.scheduled_at), t.now) if started_at else t.now
        _add_started(t, operation, token if len(token.encode()) <= TOKEN_BYTES_MAX else "", links, at)
        operation = t.state.operations[scheduled_event_id]
    if failure is None:
        _add_completed(t, operation, result, ())
    elif is_canceled:
        _add_canceled(t, operation, failure)
    else:
        _add_failed(t, operation, failure)
    workflow_task.schedule(t)
    return True


# --- the cancel request was answered -----------------------------------------------------------------------------------


def record_cancel_answer(
    t: Transition,
    scheduled_event_id: int,
    attempt: int,
    failure: Failure | None,
    *,
    is_retryable: bool = False,
    next_at: int = 0,
) -> bool:
    """The handler has the cancel request (failure None), never will, or is to be asked again. It may ignore it all the same."""
    operation = expected(t.state, scheduled_event_id)
    if operation is None or cancel_position(operation) not in ("scheduled", "blocked", "backing off"):
        return False
    cancellation = operation.cancellation
    assert cancellation is not None
    if failure is not None and is_retryable:
        if cancellation.attempt != attempt or cancellation.next_attempt_at:
            return False
        change_cancellation(
            t,
            operation,
            "attempt failed",
            state=CANCEL.NEXUS_OPERATION_CANCELLATION_STATE_BACKING_OFF,
            attempt=attempt + 1,
            last_attempt_at=t.now,
            last_failure=failure_to_keep(failure, FAILURE_BYTES_MAX),
            next_attempt_at=next_at or next_call_at(t.now, attempt + 1, t.context.ids.jitter()),
            blocked_reason="",
        )
        return True
    about = {"requested_event_id": cancellation.requested_event_id, "scheduled_event_id": scheduled_event_id}
    if failure is None:
        completed = NexusOperationCancelRequestCompletedEventAttributes(**about)
        t.add(EventType.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED, completed, worker_may_ignore=True)
    else:
        failed = NexusOperationCancelRequestFailedEventAttributes(failure=failure, **about)
        t.add(EventType.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_FAILED, failed, worker_may_ignore=True)
    workflow_task.schedule(t)
    return True


def record_cancel_blocked(t: Transition, scheduled_event_id: int, reason: str) -> bool:
    """As record_blocked, for its cancel request."""
    operation = expected(t.state, scheduled_event_id)
    if operation is None or cancel_position(operation) != ("scheduled" if reason else "blocked"):
        return False
    change_cancellation(t, operation, "blocked" if reason else "unblocked", blocked_reason=reason)
    return True


# --- events ------------------------------------------------------------------------------------------------------------


def call_error(message: str) -> Failure:
    """Why a call came to nothing that its handler did not say itself."""
    info = ApplicationFailureInfo(type="CallError", non_retryable=True)
    return Failure(message=message, application_failure_info=info)


def _add_started(t: Transition, operation: NexusOperation, token: str, links: Sequence[Link], at: int) -> None:
    t.add(
        EventType.EVENT_TYPE_NEXUS_OPERATION_STARTED,
        NexusOperationStartedEventAttributes(
            scheduled_event_id=operation.scheduled_event_id,
            operation_id=token,  # the older name, still read by older SDKs
            operation_token=token,
            request_id=operation.request_id,
        ),
        links=links,
        at=at,
    )


def _add_completed(t: Transition, operation: NexusOperation, result: Payload | None, links: Sequence[Link]) -> None:
    t.add(
        EventType.EVENT_TYPE_NEXUS_OPERATION_COMPLETED,
        NexusOperationCompletedEventAttributes(
            scheduled_event_id=operation.scheduled_event_id, result=result, request_id=operation.request_id
        ),
        links=links,
    )


def _add_failed(t: Transition, operation: NexusOperation, cause: Failure) -> None:
    t.add(
        EventType.EVENT_TYPE_NEXUS_OPERATION_FAILED,
        NexusOperationFailedEventAttributes(
            scheduled_event_id=operation.scheduled_event_id,
            failure=wrapped(operation, cause),
            request_id=operation.request_id,
        ),
    )


def _add_canceled(t: Transition, operation: NexusOperation, cause: Failure) -> None:
    """What handlers of older SDKs tell as a plain failure is told to the workflow as what it is."""
    if not cause.HasField("canceled_failure_info"):
        told = Failure(message=cause.message, stack_trace=cause.stack_trace, canceled_failure_info=CanceledFailureInfo())
        if cause.HasField("cause"):
            told.cause.CopyFrom(cause.cause)
        cause = told
    t.add(
        EventType.EVENT_TYPE_NEXUS_OPERATION_CANCELED,
        NexusOperationCanceledEventAttributes(
            scheduled_event_id=operation.scheduled_event_id,
            failure=wrapped(operation, cause),
            request_id=operation.request_id,
        ),
    )
