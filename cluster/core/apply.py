"""apply(state, entry): the only code that changes a run's state.

It serves live traffic, recovery, replication, reset, tests and the simulator alike. It is total on legal histories;
anything else raises IllegalTransition, which quarantines the run and leaves its shard alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from cluster.core.entry import (
    ActivityNote,
    Base,
    BegunNote,
    Buffered,
    CallbackNote,
    CancelNote,
    ChildDoneNote,
    ChildNote,
    CloseNote,
    DeletedNote,
    Entry,
    Flushed,
    InboxNote,
    NexusNote,
    OutboxNote,
    RequestIdNote,
    StickyNote,
    TaskNote,
    UnbufferNote,
    UpdateGoneNote,
    UpdateNote,
    WorkerNote,
)
from cluster.core.events import ATTRIBUTES_FIELD, next_hash, parse_event
from cluster.core.state import RequestSeen, RunState, decode_state
from cluster.core.table import APPLIERS, FLUSHERS, IllegalTransition


def apply_entry(state: RunState, entry: Entry) -> RunState:
    """Folds one entry. Returns the state (another object only where the entry begins with a Base)."""
    for item in entry.items:
        if isinstance(item, bytes):
            take_event(state, parse_event(item), item)
        elif isinstance(item, Buffered):
            apply_event(state, parse_event(item.event))
            state.buffered.append(item.event)
        elif isinstance(item, Flushed):
            flush_event(state, parse_event(item.event), item.event)
        elif isinstance(item, Base):
            state = decode_state(item.snapshot)
        else:
            apply_note(state, item)
    if not (len(entry.items) == 1 and isinstance(entry.items[0], Base)):
        count_transition(state, entry.version)
    return state


def count_transition(state: RunState, version: int) -> None:
    """One more transition, under this failover version: (count, version) names the state it has led to."""
    history, count = state.transition_history, state.transition_count
    if not history and count:
        history.append((count, 0))  # the row is older than this list: there was but one version
    if history and history[-1][1] == version:
        history[-1] = (count + 1, version)
    elif history and history[-1][1] > version:
        raise IllegalTransition(f"transition {count + 1} of version {version} after version {history[-1][1]}")
    else:
        history.append((count + 1, version))
    state.transition_count = count + 1


def new_state(namespace_id: str, workflow_id: str, run_id: str) -> RunState:
    """The state before the first event."""
    return RunState(namespace_id=namespace_id, workflow_id=workflow_id, run_id=run_id)


def fold(namespace_id: str, workflow_id: str, run_id: str, entries: Iterable[Entry]) -> RunState:
    state = new_state(namespace_id, workflow_id, run_id)
    for entry in entries:
        state = apply_entry(state, entry)
    return state


def fold_events(namespace_id: str, workflow_id: str, run_id: str, events: Iterable[bytes]) -> RunState:
    """The state that public history alone gives: everything but the notes."""
    state = new_state(namespace_id, workflow_id, run_id)
    for data in events:
        take_event(state, parse_event(data), data)
    return state


def apply_event(state: RunState, event: HistoryEvent) -> None:
    """The event's effect on the machines, without taking an event id."""
    applier = APPLIERS.get(event.event_type)
    if applier is None:
        raise IllegalTransition(f"no machine knows event type {event.event_type}")
    attributes: Any = getattr(event, ATTRIBUTES_FIELD[event.event_type])
    applier(state, event, attributes)


def take_event(state: RunState, event: HistoryEvent, data: bytes) -> None:
    """An event (data: encoded) joins the history and changes the state."""
    _number(state, event, data)
    apply_event(state, event)


def flush_event(state: RunState, event: HistoryEvent, data: bytes) -> None:
    """A buffered event joins the history; its effect was taken when it was buffered."""
    assert state.buffered, "a flush without a buffer"
    state.buffered.pop()
    _number(state, event, data)
    flusher = FLUSHERS.get(event.event_type)
    if flusher is not None:
        flusher(state, event)


def _number(state: RunState, event: HistoryEvent, data: bytes) -> None:
    event_id = event.event_id
    if event_id != state.next_event_id:
        raise IllegalTransition(f"event id {event_id} where {state.next_event_id} was due")
    history = state.version_history
    version = event.version
    if history and history[-1][1] == version:
        history[-1] = (event_id, version)
    elif history and history[-1][1] > version:
        raise IllegalTransition(f"event {event_id} of version {version} after version {history[-1][1]}")
    else:
        history.append((event_id, version))
    state.next_event_id = event_id + 1
    state.history_bytes += len(data)
    if state.history_hash or event_id == 1:
        state.history_hash = next_hash(state.history_hash, data)


def apply_note(state: RunState, note: Any) -> None:
    """A note carries the whole new value of what it names."""
    _NOTES[type(note)](state, note)


def _task(state: RunState, note: TaskNote) -> None:
    state.task = note.task
    state.task_attempt = note.next_attempt
    state.task_stamp = note.stamp
    state.last_task_failure = note.failure
    state.last_task_failed_cause = note.failed_cause


def _sticky(state: RunState, note: StickyNote) -> None:
    state.sticky_queue, state.sticky_timeout_ns = note.queue, note.timeout_ns


def _worker(state: RunState, note: WorkerNote) -> None:
    state.sdk_name, state.sdk_version = note.sdk_name, note.sdk_version


def _activity(state: RunState, note: ActivityNote) -> None:
    _must_be(note.activity.scheduled_event_id in state.activities, "activity note without activity")
    state.activities[note.activity.scheduled_event_id] = note.activity


def _unbuffer(state: RunState, note: UnbufferNote) -> None:
    _must_be(note.index < len(state.buffered), "no such buffered event")
    del state.buffered[note.index]


def _child(state: RunState, note: ChildNote) -> None:
    _must_be(note.child.initiated_event_id in state.children, "child note without child")
    state.children[note.child.initiated_event_id] = note.child


def _child_done(state: RunState, note: ChildDoneNote) -> None:
    one = state.children.get(note.initiated_event_id)
    _must_be(one is not None and not one.is_policy_done, "child done twice")
    assert one is not None
    state.children[note.initiated_event_id] = replace(one, is_policy_done=True)  # still told to who asks about the run


def _outbox(state: RunState, note: OutboxNote) -> None:
    if (signal := state.signals_out.get(note.initiated_event_id)) is not None:
        state.signals_out[note.initiated_event_id] = replace(signal, request_id=note.request_id)
    elif (cancel := state.cancels_out.get(note.initiated_event_id)) is not None:
        state.cancels_out[note.initiated_event_id] = replace(cancel, request_id=note.request_id)
    elif (child := state.children.get(note.initiated_event_id)) is not None:
        state.children[note.initiated_event_id] = replace(child, request_id=note.request_id)
    else:
        raise IllegalTransition(f"request id for {note.initiated_event_id}, which is not outstanding")


def _update(state: RunState, note: UpdateNote) -> None:
    state.updates[note.update.update_id] = note.update


def _update_gone(state: RunState, note: UpdateGoneNote) -> None:
    _must_be(state.updates.pop(note.update_id, None) is not None, "update gone twice")


def _request_id(state: RunState, note: RequestIdNote) -> None:
    state.request_ids[note.request_id] = RequestSeen(note.event_type, note.event_id)
    if note.is_start:
        state.start_request_id = note.request_id


def _callback(state: RunState, note: CallbackNote) -> None:
    if note.index == len(state.callbacks):
        state.callbacks.append(note.callback)
    else:
        state.callbacks[note.index] = note.callback


def _nexus(state: RunState, note: NexusNote) -> None:
    _must_be(note.operation.scheduled_event_id in state.operations, "operation note without operation")
    state.operations[note.operation.scheduled_event_id] = note.operation


def _cancel(state: RunState, note: CancelNote) -> None:
    state.cancel_request_id = note.request_id


def _close(state: RunState, note: CloseNote) -> None:
    state.parent_told = note.parent_told
    state.reset_run_id = note.reset_run_id


def _deleted(state: RunState, note: DeletedNote) -> None:
    state.is_deleted = True


def _begun(state: RunState, note: BegunNote) -> None:
    state.begun_at = note.at


def _inbox(state: RunState, note: InboxNote) -> None:
    state.inbox[note.key] = note.item


def _must_be(truth: bool, what: str) -> None:
    if not truth:
        raise IllegalTransition(what)


_NOTES: dict[type, Any] = {
    TaskNote: _task,
    StickyNote: _sticky,
    WorkerNote: _worker,
    ActivityNote: _activity,
    UnbufferNote: _unbuffer,
    ChildNote: _child,
    ChildDoneNote: _child_done,
    OutboxNote: _outbox,
    UpdateNote: _update,
    UpdateGoneNote: _update_gone,
    RequestIdNote: _request_id,
    CallbackNote: _callback,
    NexusNote: _nexus,
    CancelNote: _cancel,
    CloseNote: _close,
    DeletedNote: _deleted,
    BegunNote: _begun,
    InboxNote: _inbox,
}

EVENT_NAMES: dict[int, str] = {
    number: "".join(part.capitalize() for part in name.removeprefix("EVENT_TYPE_").split("_"))
    for name, number in EventType.items()
}
