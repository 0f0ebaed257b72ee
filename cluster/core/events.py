"""HistoryEvents as the core builds and frames them.

A framed event is the event's bytes as an element of `History.events` (field 1, length-delimited): joining framed events
gives an encoded temporal.api.history.v1.History, so stored blobs and poll answers are joined, never parsed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

SECOND_NS = 1_000_000_000

# Event type -> name of its attributes field: the oneof's fields are in the order of no one's wish, their names are regular.
ATTRIBUTES_FIELD: dict[int, str] = {
    number: name.removeprefix("EVENT_TYPE_").lower() + "_event_attributes"
    for name, number in EventType.items()
    if number != 0
}
_IRREGULAR = {
    field.name for field in HistoryEvent.DESCRIPTOR.oneofs_by_name["attributes"].fields
} ^ set(ATTRIBUTES_FIELD.values())
assert not _IRREGULAR, _IRREGULAR

# Facts that follow from commands or from the machinery itself: they are written at once even while a task is started.
# All others are buffered then, so that the worker's commands sit on the history it has seen.
NEVER_BUFFERED: frozenset[int] = frozenset(
    (
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
        EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
        EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED,
        EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
        EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED,
        EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
        EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED,
        EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED,
        EventType.EVENT_TYPE_TIMER_STARTED,
        EventType.EVENT_TYPE_TIMER_CANCELED,
        EventType.EVENT_TYPE_MARKER_RECORDED,
        EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED,
        EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
        EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
        EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
        EventType.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED,
        EventType.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED,
        EventType.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUESTED,
    )
)

# At a flush these come after everything else, so that a result never precedes the start it belongs to.
FLUSHED_LAST: frozenset[int] = frozenset(
    (
        EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
        EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED,
        EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED,
        EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT,
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED,
        EventType.EVENT_TYPE_NEXUS_OPERATION_COMPLETED,
        EventType.EVENT_TYPE_NEXUS_OPERATION_FAILED,
        EventType.EVENT_TYPE_NEXUS_OPERATION_CANCELED,
        EventType.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT,
    )
)


def timestamp(at: int) -> Timestamp:
    return Timestamp(seconds=at // SECOND_NS, nanos=at % SECOND_NS)


def timestamp_or_none(at: int) -> Timestamp | None:
    return timestamp(at) if at else None


def timestamp_ns(stamp: Timestamp) -> int:
    return stamp.seconds * SECOND_NS + stamp.nanos


def duration(ns: int) -> Duration:
    return Duration(seconds=ns // SECOND_NS, nanos=ns % SECOND_NS)


def duration_or_none(ns: int) -> Duration | None:
    return duration(ns) if ns else None


def duration_ns(span: Duration) -> int:
    return span.seconds * SECOND_NS + span.nanos


def attributes_of(event: HistoryEvent) -> Message:
    """The event's attributes message."""
    message: Message = getattr(event, ATTRIBUTES_FIELD[event.event_type])
    return message


def frame(event: bytes) -> bytes:
    """One event as an element of History.events."""
    size = len(event)
    head = bytearray(b"\x0a")
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + event


def join_framed(events: Iterable[bytes]) -> bytes:
    """Encoded History of these events."""
    return b"".join(map(frame, events))


def split_framed(blob: bytes | memoryview) -> Iterator[bytes]:
    """The events of an encoded History, still encoded. Raises ValueError where the framing is broken."""
    at, end = 0, len(blob)
    while at < end:
        if blob[at] != 0x0A:
            raise ValueError(f"broken history blob at byte {at}")
        at += 1
        size = shift = 0
        while True:
            byte = blob[at]
            at += 1
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        if at + size > end:
            raise ValueError(f"truncated history blob at byte {at}")
        yield bytes(blob[at : at + size])
        at += size


def next_hash(before: bytes, event: bytes) -> bytes:
    """The hash of a history that goes on by this encoded event; b"" before the first: the same for the same prefix only."""
    return hashlib.blake2b(before + event, digest_size=16).digest()


def parse_event(data: bytes) -> HistoryEvent:
    return HistoryEvent.FromString(data)


def parse_events(data: Sequence[bytes]) -> list[HistoryEvent]:
    return [HistoryEvent.FromString(one) for one in data]
