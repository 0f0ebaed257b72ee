"""Is every stored state the fold of its stored history? Reads a store that no node uses any more."""

from __future__ import annotations

import cluster.core.machines  # noqa: F401  (registers the appliers)
from cluster.core.apply import fold_events
from cluster.core.events import split_framed
from cluster.core.state import RunState, checksum, decode_state
from cluster.core.without_notes import without_notes
from cluster.history.events import BLOB_BRANCH
from cluster.stores.base import RunKey, ShardId, Store

PAGE_ROWS = 200


async def disagreements(store: Store, shards: int) -> tuple[int, list[str]]:
    """(runs looked at, one line for each run whose stored state differs from the fold of its events)."""
    found: list[str] = []
    count = 0
    for number in range(shards):
        after: RunKey | None = None
        while rows := await store.runs(ShardId(number), after, PAGE_ROWS):
            for row in rows:
                state = decode_state(row.data)
                if state.buffered:
                    continue  # its state is ahead of its history until the next flush
                count += 1
                if difference := await _difference(store, ShardId(number), row.key, state):
                    found.append(f"{row.key.workflow_id} {row.key.run_id}: {difference}")
            after = rows[-1].key
    return count, found


async def _difference(store: Store, shard: ShardId, key: RunKey, state: RunState) -> str:
    blobs = await store.history(shard, key, BLOB_BRANCH, 1, state.next_event_id - 1)
    events = [event for blob in blobs for event in split_framed(blob.data)]
    folded = without_notes(fold_events(key.namespace_id, key.workflow_id, key.run_id, events))
    stored = without_notes(state)
    if checksum(folded) == checksum(stored):
        return ""
    names = [name for name in stored.__struct_fields__ if getattr(stored, name) != getattr(folded, name)]
    return "; ".join(f"{name}: stored {getattr(stored, name)!r}, folded {getattr(folded, name)!r}" for name in names)[:500]
