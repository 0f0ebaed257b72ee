"""A run's encoded events, from where they are: stored blobs, and the tail that no checkpoint has written yet."""

from __future__ import annotations

from cluster.core.errors import CallerError, Code
from cluster.core.events import split_framed
from cluster.history.journal import shard_is_moving
from cluster.history.run import Run
from cluster.stores.base import CorruptRecord, ShardId, Store, StoreError

BLOB_BRANCH = 0


async def read_events(store: Store, shard: ShardId, run: Run, first: int, last: int) -> list[bytes]:
    """Encoded events first..last of a run, from the store and the tail. Raises CallerError."""
    if first > last:
        return []
    tail_first = run.stored_event_id + 1
    tail = run.tail
    if first >= tail_first:
        return tail[first - tail_first : last - tail_first + 1]
    state_tail = list(tail) if last >= tail_first else []
    try:
        blobs = await store.history(shard, run.key, BLOB_BRANCH, first, min(last, tail_first - 1))
    except CorruptRecord as error:
        raise data_loss("history", str(error)) from error
    except StoreError as error:
        raise shard_is_moving() from error
    found: list[bytes] = []
    for blob in blobs:
        for offset, event in enumerate(split_framed(blob.data)):
            if first <= blob.first_event_id + offset <= min(last, tail_first - 1):
                found.append(event)
    if len(found) != min(last, tail_first - 1) - first + 1:
        raise CallerError(Code.DATA_LOSS, f"History events {first} to {last} of run {run.key.run_id} are not all there.")
    return found + state_tail[: last - tail_first + 1]


def data_loss(what: str, reason: str) -> CallerError:
    return CallerError(
        Code.DATA_LOSS, f"The stored {what} of this workflow is corrupt: {reason}. Restore it from another region or a backup."
    )
