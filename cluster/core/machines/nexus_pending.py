"""Pending Nexus operations and completion callbacks as DescribeWorkflowExecution shows them."""

from __future__ import annotations

from temporalio.api.common.v1 import Callback as PublicCallback
from temporalio.api.enums.v1 import CallbackState, NexusOperationCancellationState, PendingNexusOperationState
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflow.v1 import CallbackInfo, NexusOperationCancellationInfo, PendingNexusOperationInfo

from cluster.core.events import duration_or_none, timestamp, timestamp_or_none
from cluster.core.machines.nexus_operation import position
from cluster.core.nexus_state import NexusCancellation, NexusOperation
from cluster.core.state import Callback, RunState

_STATES = {
    "scheduled": PendingNexusOperationState.PENDING_NEXUS_OPERATION_STATE_SCHEDULED,
    "backing off": PendingNexusOperationState.PENDING_NEXUS_OPERATION_STATE_BACKING_OFF,
    "started": PendingNexusOperationState.PENDING_NEXUS_OPERATION_STATE_STARTED,
    "blocked": PendingNexusOperationState.PENDING_NEXUS_OPERATION_STATE_BLOCKED,
}


def pending_operations(state: RunState) -> list[PendingNexusOperationInfo]:
    """In the order in which they were scheduled. A closed run's are those it left behind."""
    return [_operation(one) for one in state.operations.values()]


def callback_infos(state: RunState) -> list[CallbackInfo]:
    """In the order in which they were attached."""
    return [_callback(one) for one in state.callbacks]


def _operation(operation: NexusOperation) -> PendingNexusOperationInfo:
    info = PendingNexusOperationInfo(
        endpoint=operation.endpoint,
        service=operation.service,
        operation=operation.operation,
        operation_id=operation.token,
        operation_token=operation.token,
        scheduled_event_id=operation.scheduled_event_id,
        scheduled_time=timestamp(operation.scheduled_at),
        schedule_to_close_timeout=duration_or_none(operation.schedule_to_close_ns),
        schedule_to_start_timeout=duration_or_none(operation.schedule_to_start_ns),
        start_to_close_timeout=duration_or_none(operation.start_to_close_ns),
        state=_STATES[position(operation)],
        attempt=operation.attempt,
        last_attempt_complete_time=timestamp_or_none(operation.last_attempt_at),
        next_attempt_schedule_time=timestamp_or_none(operation.next_attempt_at),
        blocked_reason=operation.blocked_reason,
    )
    if operation.last_failure:
        info.last_attempt_failure.CopyFrom(Failure.FromString(operation.last_failure))
    if operation.cancellation is not None:
        info.cancellation_info.CopyFrom(_cancellation(operation.cancellation))
    return info


def _cancellation(cancellation: NexusCancellation) -> NexusOperationCancellationInfo:
    """One that waits for the operation's start shows nothing yet, as in the public server."""
    state = NexusOperationCancellationState.ValueType(cancellation.state)
    if cancellation.blocked_reason:
        state = NexusOperationCancellationState.NEXUS_OPERATION_CANCELLATION_STATE_BLOCKED
    info = NexusOperationCancellationInfo(
        state=state,
        requested_time=timestamp_or_none(cancellation.requested_at),
        attempt=cancellation.attempt,
        last_attempt_complete_time=timestamp_or_none(cancellation.last_attempt_at),
        next_attempt_schedule_time=timestamp_or_none(cancellation.next_attempt_at),
        blocked_reason=cancellation.blocked_reason,
    )
    if cancellation.last_failure:
        info.last_attempt_failure.CopyFrom(Failure.FromString(cancellation.last_failure))
    return info


def _callback(callback: Callback) -> CallbackInfo:
    state = CallbackState.ValueType(callback.state)
    info = CallbackInfo(
        callback=PublicCallback.FromString(callback.callback),
        registration_time=timestamp(callback.registered_at),
        state=CallbackState.CALLBACK_STATE_BLOCKED if callback.blocked_reason else state,
        attempt=callback.attempt,
        last_attempt_complete_time=timestamp_or_none(callback.last_attempt_at),
        next_attempt_schedule_time=timestamp_or_none(callback.next_attempt_at),
        blocked_reason=callback.blocked_reason,
    )
    info.trigger.workflow_closed.SetInParent()
    if callback.last_failure:
        info.last_attempt_failure.CopyFrom(Failure.FromString(callback.last_failure))
    return info
