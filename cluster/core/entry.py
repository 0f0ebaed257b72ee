"""An entry: what one transition changed in one run, in order. It is what the journal holds and what regions ship.

What a newer version added is refused, not passed over: replayed and checkpointed without it, it would be lost. So a field that is
added to a note is a new kind of note; fields of the structs within the notes are written only where they are used.

Items are applied in order:
- bytes: a public HistoryEvent, encoded once; takes the next event id and changes the state.
- Buffered: an event that came while a workflow task was started; changes the state now, gets its id at the flush.
- Flushed: a buffered event with its id; joins the history, its effect on the state has been taken already.
- notes: what public history does not show, each as the whole new value.
- Base: a state to begin from (a reset's shared prefix, whose events were stored before the entry). An entry of nothing else
  is no transition of this run: another region's state as it is.
"""

from __future__ import annotations

import msgspec

from cluster.core.nexus_state import NexusOperation
from cluster.core.state import Activity, Callback, Child, InboxItem, Update, WorkflowTask

ENTRY_FORMAT = 1


class Buffered(msgspec.Struct, frozen=True, array_like=True, tag="b", forbid_unknown_fields=True):
    event: bytes


class Flushed(msgspec.Struct, frozen=True, array_like=True, tag="f", forbid_unknown_fields=True):
    event: bytes


class Base(msgspec.Struct, frozen=True, array_like=True, tag="B", forbid_unknown_fields=True):
    """snapshot: encode_state of the fold of the prefix; the prefix's events are in the store already."""

    snapshot: bytes
    last_event_id: int


class TaskNote(msgspec.Struct, frozen=True, array_like=True, tag="t", forbid_unknown_fields=True):
    """The pending workflow task (None = none), the attempt of the next one, and why the last one failed."""

    task: WorkflowTask | None
    next_attempt: int
    stamp: int
    failure: bytes = b""
    failed_cause: int = 0


class StickyNote(msgspec.Struct, frozen=True, array_like=True, tag="s", forbid_unknown_fields=True):
    queue: str
    timeout_ns: int


class WorkerNote(msgspec.Struct, frozen=True, array_like=True, tag="w", forbid_unknown_fields=True):
    """Who completed the last workflow task, as far as its event does not say."""

    sdk_name: str
    sdk_version: str


class ActivityNote(msgspec.Struct, frozen=True, array_like=True, tag="a", forbid_unknown_fields=True):
    activity: Activity


class UnbufferNote(msgspec.Struct, frozen=True, array_like=True, tag="n", forbid_unknown_fields=True):
    """A buffered event that shall never join the history: a timer fired, and was cancelled by a worker that could not know."""

    index: int


class ChildNote(msgspec.Struct, frozen=True, array_like=True, tag="c", forbid_unknown_fields=True):
    child: Child


class ChildDoneNote(msgspec.Struct, frozen=True, array_like=True, tag="d", forbid_unknown_fields=True):
    """The parent-close policy was carried out for this child of a closed run."""

    initiated_event_id: int


class OutboxNote(msgspec.Struct, frozen=True, array_like=True, tag="o", forbid_unknown_fields=True):
    """Request id of an outgoing signal or cancel, made when it was initiated."""

    initiated_event_id: int
    request_id: str


class UpdateNote(msgspec.Struct, frozen=True, array_like=True, tag="u", forbid_unknown_fields=True):
    update: Update


class UpdateGoneNote(msgspec.Struct, frozen=True, array_like=True, tag="g", forbid_unknown_fields=True):
    """Rejected or aborted: no trace stays."""

    update_id: str


class RequestIdNote(msgspec.Struct, frozen=True, array_like=True, tag="r", forbid_unknown_fields=True):
    """A request id this run must recognise: of its start, or of a later attached request."""

    request_id: str
    event_type: int
    event_id: int
    is_start: bool = False


class CallbackNote(msgspec.Struct, frozen=True, array_like=True, tag="k", forbid_unknown_fields=True):
    index: int
    callback: Callback


class NexusNote(msgspec.Struct, frozen=True, array_like=True, tag="N", forbid_unknown_fields=True):
    """An operation's attempts, and those of its cancel request."""

    operation: NexusOperation


class CancelNote(msgspec.Struct, frozen=True, array_like=True, tag="x", forbid_unknown_fields=True):
    """Request id of the accepted cancel request."""

    request_id: str


class CloseNote(msgspec.Struct, frozen=True, array_like=True, tag="z", forbid_unknown_fields=True):
    """After the close: the parent knows; a reset superseded this run."""

    parent_told: bool = False
    reset_run_id: str = ""


class DeletedNote(msgspec.Struct, frozen=True, array_like=True, tag="D", forbid_unknown_fields=True):
    """The run is gone: by its retention, or by an operator's wish."""

    reason: str


class BegunNote(msgspec.Struct, frozen=True, array_like=True, tag="G", forbid_unknown_fields=True):
    """When the run took its workflow id, if that was not when its history begins: a reset."""

    at: int


class InboxNote(msgspec.Struct, frozen=True, array_like=True, tag="I", forbid_unknown_fields=True):
    """On a closed run: what another region's branch (or run) was told, by its key."""

    key: str
    item: InboxItem


Note = (
    TaskNote
    | StickyNote
    | WorkerNote
    | ActivityNote
    | UnbufferNote
    | ChildNote
    | ChildDoneNote
    | OutboxNote
    | UpdateNote
    | UpdateGoneNote
    | RequestIdNote
    | CallbackNote
    | NexusNote
    | CancelNote
    | CloseNote
    | DeletedNote
    | BegunNote
    | InboxNote
)
Item = bytes | Buffered | Flushed | Base | Note


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One transition of one run. first_event_id: the id the first event item takes."""

    namespace_id: str
    workflow_id: str
    run_id: str
    first_event_id: int
    at: int  # ns since the epoch: the `now` of the transition
    items: list[Item]
    version: int = 0  # the namespace's failover version at the transition; 0 = not replicated, or an older record


_encoder = msgspec.msgpack.Encoder()
_group_decoder = msgspec.msgpack.Decoder(list[Entry])
_entry_decoder = msgspec.msgpack.Decoder(Entry)


class EntryFormatError(Exception):
    """The record was written by a newer version of this program."""


def encode_entry(entry: Entry) -> bytes:
    """Of a namespace that is not replicated in the form without a version, which the release before versions reads as well."""
    if entry.version:
        return _encoder.encode(entry)
    return _encoder.encode(
        (entry.namespace_id, entry.workflow_id, entry.run_id, entry.first_event_id, entry.at, entry.items)
    )


def decode_entry(data: bytes) -> Entry:
    return _entry_decoder.decode(data)


def encode_group(encoded_entries: list[bytes]) -> bytes:
    """One journal record: the format byte and a msgpack array of entries that are encoded already."""
    count = len(encoded_entries)
    head = bytes((ENTRY_FORMAT, 0xDD)) + count.to_bytes(4, "big")
    return head + b"".join(encoded_entries)


def decode_group(data: bytes) -> list[Entry]:
    """Raises EntryFormatError for a record of a format this program does not know."""
    if not data or data[0] != ENTRY_FORMAT:
        raise EntryFormatError(f"journal record format {data[:1]!r} is not {ENTRY_FORMAT}: use the version that wrote it")
    try:
        return _group_decoder.decode(memoryview(data)[1:])
    except msgspec.ValidationError as unknown:
        text = f"a journal record holds what this program does not know ({unknown}): use the version that wrote it"
        raise EntryFormatError(text) from None
