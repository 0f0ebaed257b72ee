"""Is every stored state the fold of its stored history? Reads a store that no node uses any more."""

from __future__ import annotations

import cluster.core.machines  # noqa: F401  (registers the appliers)
from cluster.core.events import split_framed
from cluster.core.state import RunState, decode_state
from cluster.history.events import BLOB_BRANCH, fold_difference
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
                count += 1
                if state.buffered:
                    continue  # its state is ahead of its history until the next flush
                if difference := await _difference(store, ShardId(number), row.key, state):
                    found.append(f"{row.key.workflow_id} {row.key.run_id}: {difference}")
            after = rows[-1].key
    return count, found


async def _difference(store: Store, shard: ShardId, key: RunKey, state: RunState) -> str:
    blobs = await store.history(shard, key, BLOB_BRANCH, 1, state.next_event_id - 1)
    return fold_difference(state, [event for blob in blobs for event in split_framed(blob.data)])
