"""The index of wake-ups in Cassandra: which runs of a shard are due, in order, without ever reading through what was deleted.

An *entry* (wake_at, run) lies in a bucket; a row names the bucket of its entry (`wake_bucket`), and both carry the
checkpoint's stamp.

    bucket = slice << 32 | generation      slice: wake_at in steps of 275 s; -1 for what is due at once (wake_at <= 0)

A generation ends after ENTRIES_MAX entries, so a bucket never holds more than about that many, dead or alive: a page of it
stays far below Cassandra's limit of tombstones (100,000) even if each of its entries was deleted. Buckets that may hold
entries are listed in outlast_wake_buckets. A reader merges the buckets of the slices it wants.

**An entry counts only if its run's row says the same**, by stamp or by time. So the order of a checkpoint's writes is
enough, and none has to be atomic with another (`write` is called before the rows are written, `forget` after it):

| order | what                              | a crash behind it leaves                                                      |
|-------|-----------------------------------|-------------------------------------------------------------------------------|
| 1     | entries of the rows to be written | entries newer than their rows: they do not count, the replay writes them again |
| 2     | their buckets into the list       | the same                                                                      |
| 3     | (the rows)                        | entries older than their rows: they do not count, the next reader names them  |
| 4     | deletion of the former entries    |                                                                               |

A reader of the list with a bucket's stamp has all entries of that stamp before its eyes, because of the order of 1 and 2. If
it finds the bucket empty, the bucket may be struck off *at that stamp*: a later checkpoint lists it again with a greater one.
What readers find to be cleaned is deleted by the next checkpoint, each at its own stamp, from which no newer write suffers.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

from cluster.stores.base import ShardId
from cluster.stores.cassandra_connection import CassandraSession, Step
from cluster.stores.cassandra_fence import Fence
from cluster.stores.cassandra_rows import Columns, Loaded, Place, Plan, all_done, batches

SLICE_BITS: Final = 38
GENERATION_BITS: Final = 32
ENTRIES_MAX: Final = 8_192
# How many buckets are read side by side, and how many entries of each at a time.
WINDOW_BUCKETS: Final = 32
CHUNK_ENTRIES: Final = 128
# What waits for the next checkpoint to delete it; more is found again.
LITTER_MAX: Final = 2_000
PRUNE_BUCKETS: Final = 4

_FIRST: Final = (-(1 << 63), b"", b"", b"")
_BIGINT_MAX: Final = (1 << 63) - 1


class Entry(NamedTuple):
    wake_at: int
    columns: Columns
    bucket: int
    stamp: int
    changed_position: int


def slice_of(wake_at: int) -> int:
    return -1 if wake_at <= 0 else wake_at >> SLICE_BITS


def bucket_of(wake_at: int, generation: int) -> int:
    return slice_of(wake_at) << GENERATION_BITS | generation


class Wakeups:
    """One shard's index."""

    def __init__(self, session: CassandraSession, fence: Fence) -> None:
        self._session = session
        self._fence = fence
        self._shard: ShardId = fence.shard
        self._generation: int | None = None
        self._entries_count = 0
        self._litter: dict[tuple[object, ...], Step] = {}
        self._pruned_to = -1 << 63

    # --- writing, within a checkpoint -----------------------------------------------------------------------------------
    async def write(self, stamp: int, plan: Plan) -> dict[Columns, Place]:
        """Steps 1 and 2. Returns where each row's entry lies."""
        if self._generation is None or self._entries_count >= ENTRIES_MAX:
            self._generation = (stamp >> 20) & 0xFFFF_FFFF  # about seconds: a new one is in a bucket of its own
            self._entries_count = 0
        places: dict[Columns, Place] = {}
        by_bucket: dict[int, list[tuple[Step, int]]] = {}
        for columns, (row, _) in plan.rows.items():
            if row.wake_at is not None:
                bucket = bucket_of(row.wake_at, self._generation)
                places[columns] = (bucket, row.wake_at)
                values = (self._shard, bucket, row.wake_at, *columns, row.changed_position, stamp, stamp)
                by_bucket.setdefault(bucket, []).append((("write_wakeup", values), 0))
        self._entries_count += len(places)
        await all_done(self._session.write(*batch) for steps in by_bucket.values() for batch in batches(steps))
        if by_bucket:
            listed = [(("write_bucket", (self._shard, bucket, stamp, stamp)), 0) for bucket in by_bucket]
            await all_done(self._session.write(*batch) for batch in batches(listed))
        return places

    async def forget(self, stamp: int, former: dict[Columns, Place], now: dict[Columns, Place]) -> None:
        """Step 4, and what readers found to be litter."""
        by_bucket: dict[int, list[tuple[Step, int]]] = {}
        for columns, (bucket, wake_at) in former.items():
            if now.get(columns) != (bucket, wake_at):
                step: Step = ("delete_wakeup", (stamp, self._shard, bucket, wake_at, *columns))
                by_bucket.setdefault(bucket, []).append((step, 0))
        litter, self._litter = self._litter, {}
        await all_done(
            [
                *(self._session.write(*batch) for steps in by_bucket.values() for batch in batches(steps)),
                *(self._session.write(step) for step in litter.values()),
            ]
        )

    async def prune(self, now: int) -> None:
        """Looks at the next few listed buckets of the past, in turn, and notes the empty ones."""
        last = bucket_of(now, 0) - 1
        some = await self._session.read("some_buckets", self._shard, self._pruned_to, last, PRUNE_BUCKETS)
        self._pruned_to = some[-1][0] if len(some) == PRUNE_BUCKETS else -1 << 63
        for bucket, stamp in some:
            if not await self._session.read("wakeups", self._shard, bucket, *_FIRST, 1):
                self._note(("delete_bucket", (stamp, self._shard, bucket)))

    # --- reading --------------------------------------------------------------------------------------------------------
    async def entries(self, after: tuple[int, Columns] | None, until: int) -> AsyncIterator[Entry]:
        """Entries with wake_at <= until behind `after`, in order, whether they count or not."""
        lowest = -1 if after is None else slice_of(after[0])
        bounds = (lowest << GENERATION_BITS, min(((slice_of(until) + 1) << GENERATION_BITS) - 1, _BIGINT_MAX))
        listed = [(bucket, stamp) for bucket, stamp in await self._session.read("buckets", self._shard, *bounds)]
        place = _FIRST if after is None else (after[0], *after[1])
        for window in _windows(listed):
            cursors = [_Cursor(self._session, self._shard, bucket, place) for bucket, _ in window]
            await all_done(cursor.fill() for cursor in cursors)
            if after is None:
                for (bucket, stamp), cursor in zip(window, cursors, strict=True):
                    if not cursor.entries:
                        self._note(("delete_bucket", (stamp, self._shard, bucket)))
            heap = [(cursor.entries[0][:2], n) for n, cursor in enumerate(cursors) if cursor.entries]
            heapq.heapify(heap)
            while heap:
                (wake_at, _), n = heap[0]
                if wake_at > until:
                    break
                yield cursors[n].entries[cursors[n].at]
                following = await cursors[n].next()
                if following is None:
                    heapq.heappop(heap)
                else:
                    heapq.heapreplace(heap, (following[:2], n))

    def counts(self, entry: Entry, loaded: Loaded | None) -> bool:
        """Whether the run is due as the entry says; notes entries that never will count again."""
        if loaded is not None:
            is_litter = entry.stamp < loaded.stamp
        else:
            # Without a row: deleted, or about to be written for the first time. The journal decides: once it was cut behind
            # the entry's position, the row is there or was deleted.
            is_litter = entry.stamp <= self._fence.stamp_done and entry.changed_position <= self._fence.truncated_to
        if is_litter:
            self._note(("delete_wakeup", (entry.stamp, self._shard, entry.bucket, entry.wake_at, *entry.columns)))
        # By stamp also where the row's time is damaged; by time also while a checkpoint writes the same entry again.
        return loaded is not None and (loaded.stamp == entry.stamp or loaded.columns[4] == entry.wake_at)

    def _note(self, step: Step) -> None:
        if len(self._litter) < LITTER_MAX:
            name, values = step
            self._litter[name, *values[1:]] = step


class _Cursor:
    """Reads one bucket in order, a chunk at a time."""

    def __init__(self, session: CassandraSession, shard: ShardId, bucket: int, place: tuple[int, bytes, bytes, bytes]) -> None:
        self._session = session
        self._of = (shard, bucket)
        self._place = place
        self._is_last = False
        self.entries: list[Entry] = []
        self.at = 0

    async def fill(self) -> None:
        rows = await self._session.read("wakeups", *self._of, *self._place, CHUNK_ENTRIES)
        self._is_last = len(rows) < CHUNK_ENTRIES
        self.at = 0
        self.entries = [Entry(row[0], (row[1], row[2], row[3]), self._of[1], row[5] or 0, row[4] or 0) for row in rows]
        if rows:
            self._place = (rows[-1][0], rows[-1][1], rows[-1][2], rows[-1][3])

    async def next(self) -> Entry | None:
        self.at += 1
        if self.at == len(self.entries):
            if self._is_last:
                return None
            await self.fill()
        return self.entries[self.at] if self.entries else None


def _windows(listed: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Groups of buckets to be merged, in order; the buckets of a slice stay together."""
    windows: list[list[tuple[int, int]]] = []
    for each in listed:
        is_same_slice = windows and windows[-1][-1][0] >> GENERATION_BITS == each[0] >> GENERATION_BITS
        if not windows or (len(windows[-1]) >= WINDOW_BUCKETS and not is_same_slice):
            windows.append([])
        windows[-1].append(each)
    return windows
