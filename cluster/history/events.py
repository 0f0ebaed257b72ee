"""A run's encoded events, from where they are: stored blobs, and the tail that no checkpoint has written yet."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from cluster.core.apply import fold_events
from cluster.core.errors import CallerError, Code
from cluster.core.events import split_framed
from cluster.core.state import RunState, checksum
from cluster.core.without_notes import hash_differs, without_notes
from cluster.history.journal import shard_is_moving
from cluster.history.run import Run
from cluster.stores.base import CorruptRecord, HistoryBlob, ShardId, Store, StoreError

BLOB_BRANCH = 0  # of a run that no other region has replaced by its own branch
DIFFERENCE_CHARS_MAX = 500

log = structlog.get_logger("history")


class HistoryIsGone(CallerError):
    """The run was removed while its history was read, or has left memory since: whoever looks again sees what is so now."""

    def __init__(self) -> None:
        super().__init__(Code.UNAVAILABLE, "This workflow was removed while its history was read. Please retry.")


async def read_events(store: Store, shard: ShardId, run: Run, first: int, last: int) -> list[bytes]:
    """Encoded events first..last of a run, from the store and the tail. Raises CallerError: DATA_LOSS, HistoryIsGone."""
    if first > last:
        return []
    tail_first = run.stored_event_id + 1
    tail = run.tail
    if first >= tail_first:
        return tail[first - tail_first : last - tail_first + 1]
    state_tail = list(tail) if last >= tail_first else []
    try:
        blobs = await store.history(shard, run.key, run.branch, first, min(last, tail_first - 1))
    except CorruptRecord as error:
        raise data_loss("history", str(error)) from error
    except StoreError as error:
        raise shard_is_moving() from error
    found = events_of(blobs, first, min(last, tail_first - 1))
    if len(found) != min(last, tail_first - 1) - first + 1:
        if run.is_evicted or run.state.is_deleted:
            raise HistoryIsGone
        raise CallerError(Code.DATA_LOSS, f"History events {first} to {last} of run {run.key.run_id} are not all there.")
    return found + state_tail[: last - tail_first + 1]


def events_of(blobs: Sequence[HistoryBlob], first: int, last: int) -> list[bytes]:
    """Events first..last, or those up to the first that is missing. Blobs may overlap: events of another region are stored before
    the journal says so, and a crash may leave them without that. A blob that begins later was written by a later state."""
    found: list[bytes] = []
    for blob in sorted(blobs, key=lambda one: one.first_event_id):
        if blob.first_event_id > first + len(found):
            break
        events = list(split_framed(blob.data))
        del found[max(0, blob.first_event_id - first) :]
        found += events[max(0, first - blob.first_event_id) :]
    return found[: last - first + 1]


def page_end(events: list[bytes], bytes_max: int) -> int:
    """How many of the events make a page: the first always, further ones while they fit."""
    size = 0
    for number, event in enumerate(events):
        size += len(event)
        if size > bytes_max and number:
            return number
    return len(events)


async def disagreement(store: Store, shard: ShardId, run: Run) -> str:
    """Why the run's state is not the fold of its history, "" if it is: the check behind a sample of all loads."""
    state = run.state
    if state.buffered:
        return ""  # its state is ahead of its history until the next flush
    return fold_difference(state, await read_events(store, shard, run, 1, state.next_event_id - 1))


def fold_difference(state: RunState, events: Sequence[bytes]) -> str:
    """Why the state, which has nothing buffered, is not the fold of these events, all of its history; "" if it is."""
    if len(events) != state.next_event_id - 1:
        return f"the state is of {state.next_event_id - 1} events, the history has {len(events)}"
    fold = fold_events(state.namespace_id, state.workflow_id, state.run_id, events)
    folded, stored = without_notes(fold), without_notes(state)
    if checksum(folded) == checksum(stored):
        return "the stored events are not those that the state was folded from" if hash_differs(fold, state) else ""
    names = [name for name in stored.__struct_fields__ if getattr(stored, name) != getattr(folded, name)]
    differ = "; ".join(f"{name}: stored {getattr(stored, name)!r}, folded {getattr(folded, name)!r}" for name in names)
    return f"stored state and fold of {len(events)} events differ in {differ}"[:DIFFERENCE_CHARS_MAX]


async def verify(store: Store, shard: ShardId, run: Run) -> None:
    """Raises the alarm in the log; what is wrong is not written over."""
    try:
        reason = await disagreement(store, shard, run)
    except CallerError as error:
        reason = error.message if error.code == Code.DATA_LOSS else ""
    if reason:
        log.error("a run's stored state is not what its history says", run=run.key, shard=shard, reason=reason)


def data_loss(what: str, reason: str) -> CallerError:
    return CallerError(
        Code.DATA_LOSS, f"The stored {what} of this workflow is corrupt: {reason}. Restore it from another region or a backup."
    )
