"""What of a run's state its public history alone determines: the part that two regions, or a state and its fold, must share."""

from __future__ import annotations

from msgspec.structs import replace
from temporalio.api.enums.v1 import EventType, NexusOperationCancellationState

from cluster.core.nexus_state import NexusCancellation, NexusOperation
from cluster.core.state import Activity, Callback, RunState, UpdateStage, WorkflowTask

_ANSWERED = (
    NexusOperationCancellationState.NEXUS_OPERATION_CANCELLATION_STATE_SUCCEEDED,
    NexusOperationCancellationState.NEXUS_OPERATION_CANCELLATION_STATE_FAILED,
)
# Their events do not tell the request id; but for a start it is made by a salvage (reapply.py).
_WITHOUT_REQUEST_ID = (
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
)


def without_notes(state: RunState) -> RunState:
    """A copy reduced to what public history alone gives: what two regions must agree on whatever notes they have seen.

    Only of a state without buffered events: those have changed it and are not in the history yet.
    """
    bare = state.fork()
    bare.transition_count, bare.transition_history = 0, []
    bare.history_hash = b""  # of the encoded bytes, not of what they say: see hash_differs
    bare.task = _task_without_notes(state.task)
    # Attempts of tasks that wrote no events, queues and workers that only this region has seen.
    bare.task_attempt, bare.task_stamp = 1, 0
    bare.last_task_failure, bare.last_task_failed_cause = b"", 0
    bare.sticky_queue, bare.sticky_timeout_ns = "", 0
    bare.sdk_name, bare.sdk_version = "", ""
    # Request ids of starts and of deliveries are made by the region that acts.
    bare.request_ids = {key: seen for key, seen in state.request_ids.items() if seen.event_type not in _WITHOUT_REQUEST_ID}
    bare.start_request_id, bare.cancel_request_id = "", ""
    bare.children = {key: replace(one, request_id="") for key, one in state.children.items()} if state.is_open else {}
    bare.signals_out = {key: replace(one, request_id="") for key, one in state.signals_out.items()}
    bare.cancels_out = {key: replace(one, request_id="") for key, one in state.cancels_out.items()}
    # Of an activity's attempts, heartbeats, pauses and changed options only the end becomes an event.
    bare.activities = {
        key: Activity(one.scheduled_event_id, one.activity_id, one.activity_type, "", 0, 0)  # a reset moves its times
        for key, one in state.activities.items()
    }
    # A rejection leaves no event, so an update that is only admitted may be gone, whatever its history says.
    bare.updates = {
        key: replace(one, request=b"", sent_task_id=0, admitted_event_id=0, admitted_at=0, links=())
        for key, one in state.updates.items()
        if one.stage >= UpdateStage.ACCEPTED
    }
    bare.callbacks = [Callback(one.callback, 0) for one in state.callbacks]
    bare.operations = {key: _operation_without_notes(one) for key, one in state.operations.items()}
    bare.begun_at, bare.inbox = 0, {}
    bare.parent_told, bare.reset_run_id, bare.is_deleted = False, "", False
    return bare


def hash_differs(folded: RunState, stored: RunState) -> bool:
    """Whether the stored state was made by other events than these. A row that is older than the hash cannot tell.

    folded: of the very bytes that are stored; a message that was parsed and encoded again may have other ones.
    """
    return stored.history_hash not in (b"", folded.history_hash)


def _operation_without_notes(operation: NexusOperation) -> NexusOperation:
    """Calls that failed are notes; a cancel request could be sent when both the operation's start and the request were known."""
    asked = operation.cancellation
    if asked is not None:
        is_answered = asked.state in _ANSWERED
        asked = NexusCancellation(asked.requested_event_id, asked.state if is_answered else 0)
    return replace(
        operation, attempt=0, last_attempt_at=0, last_failure=b"", next_attempt_at=0, blocked_reason="", cancellation=asked
    )


def _task_without_notes(task: WorkflowTask | None) -> WorkflowTask | None:
    if task is None or not task.events_written:
        return None
    return replace(
        task, attempt=1, stamp=0, original_scheduled_at=0, schedule_to_start_at=0, is_sticky=False, started_attributes=b""
    )
