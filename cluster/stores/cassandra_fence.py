"""A shard's fence and its journal in Cassandra: lightweight transactions on one partition, one after another.

The partition's first row, the *head*, holds the lease (range_id, owner), the last position, the truncation mark and the stamp.
The records come behind it. Every write here is one transaction whose condition is on the head:

| call      | condition                                     | writes                                              |
|-----------|-----------------------------------------------|-----------------------------------------------------|
| acquire   | range_id as it was read                       | range_id + 1, owner                                 |
| append    | range_id, last_position = position - 1        | last_position, the record (or a run of them)        |
| reserve   | range_id, stamp < new, last_position >= cut   | stamp                                               |
| truncate  | range_id, truncated_to < cut <= last_position | truncated_to, one range deletion from the beginning |

Why a row and not static columns: a transaction with conditions on static columns alone reads the partition's first live row,
and after a truncation that search goes through everything that was deleted. The head is read by name, whatever lies behind
it. For the same reason no reader of the records begins before the truncation mark.

**Stamps** fence what is not a lightweight transaction. A checkpoint reserves a stamp: greater than every one before, by
condition, and near the clock's microseconds, so that it looks like any other write time. Everything it writes carries the
stamp as its Cassandra write time. So whatever a stale owner has still on its way loses against everything that a later
checkpoint wrote, in whatever order they arrive; and what a later owner has not written yet it will write, since its journal
still contains it.

One node's transactions on a shard take turns: contended ones cost ten times as much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from cluster.stores.base import Lease, LeaseLost, ShardId, StoreUnavailable, StoreUnknown
from cluster.stores.cassandra_connection import CassandraSession, Step
from cluster.stores.cassandra_statements import HEAD
from cluster.stores.sql_groups import AppendLanes, Run

ACQUIRE_TRIES_MAX: Final = 20


class Head(NamedTuple):
    """What the head says; zeros for a new shard."""

    range_id: int = 0
    last_position: int = 0
    truncated_to: int = 0
    stamp: int = 0


class Fence:
    """One shard, as this node sees it. What it remembers are bounds that never shrink, so a stale node cannot harm with them."""

    def __init__(self, shard: ShardId, session: CassandraSession, now_ns: Callable[[], int]) -> None:
        self.shard = shard
        self._session = session
        self._now_ns = now_ns
        self._turn = asyncio.Lock()
        self._is_uncertain = False  # a write of ours may still be on its way: read at SERIAL, which ends it
        self._stamp = 0  # the greatest one known
        self.lanes = AppendLanes(self._write_group, 1)
        self.truncated_to = 0  # at least so far
        self.checkpoints = asyncio.Lock()
        self.stamp_done = 0  # every checkpoint with a stamp up to here has ended

    # --- reading --------------------------------------------------------------------------------------------------------
    async def head(self, is_serial: bool = False) -> Head:
        rows = await self._session.read("head", self.shard, is_serial=is_serial or self._is_uncertain)
        found = Head(*(number or 0 for number in rows[0])) if rows else Head()
        self._stamp = max(self._stamp, found.stamp)
        self.truncated_to = max(self.truncated_to, found.truncated_to)
        return found

    # --- writing --------------------------------------------------------------------------------------------------------
    async def acquire(self, owner: bytes) -> int:
        """Raises the range id and returns it. After it every read sees what earlier leases wrote to the journal."""
        async with self._turn:
            held = await self.head()
            for _ in range(ACQUIRE_TRIES_MAX):
                range_id = held.range_id + 1
                if range_id == 1:
                    step: Step = ("create_head", (self.shard, owner))
                else:
                    step = ("raise_range", (range_id, owner, self.shard, held.range_id))
                if await self._decide(step) is None:
                    self._is_uncertain = False
                    return range_id
                held = await self.head(is_serial=True)
        raise StoreUnavailable(f"shard {self.shard}: others acquired it {ACQUIRE_TRIES_MAX} times meanwhile")

    async def _write_group(self, runs: Sequence[Run]) -> set[int]:
        """Appends; a group of one shard is one run. See `sql_groups.py`."""
        (run,) = runs
        before = run.first_position - 1
        steps: list[Step] = [("advance", (before + len(run.records), self.shard, run.range_id, before))]
        steps += [("record", (self.shard, before + place, sealed)) for place, sealed in enumerate(run.records, 1)]
        async with self._turn:
            return {self.shard} if await self._decide(*steps) is None else set()

    async def reserve(self, lease: Lease, cut: int) -> int:
        """The stamp of a checkpoint that will truncate to `cut`. Raises LeaseLost, ValueError; nothing was written then."""
        async with self._turn:
            while True:
                stamp = max(self._stamp + 1, self._now_ns() // 1_000)
                found = await self._decide(("reserve", (stamp, self.shard, lease.range_id, cut, stamp)))
                if found is None:
                    self._stamp = stamp
                    return stamp
                self._refuse(lease, found, cut)
                self._stamp = max(self._stamp, found.stamp)

    async def truncate(self, lease: Lease, cut: int) -> None:
        async with self._turn:
            steps: list[Step] = [("truncate", (cut, self.shard, lease.range_id, cut, cut)), ("cut", (self.shard, cut))]
            found = await self._decide(*steps)
            if found is not None:
                self._refuse(lease, found, cut)
            self.truncated_to = max(self.truncated_to, cut)

    async def check(self, lease: Lease, cut: int) -> None:
        """Raises LeaseLost if another owner is known to a quorum, ValueError if the journal is shorter than `cut`."""
        self._refuse(lease, await self.head(), cut)

    def _refuse(self, lease: Lease, found: Head, cut: int) -> None:
        if found.range_id == 0 or found.range_id != lease.range_id:
            raise LeaseLost(f"shard {self.shard}: range {lease.range_id} is fenced by {found.range_id}")
        if cut > found.last_position:
            raise ValueError(f"truncate_to {cut} lies beyond the last position {found.last_position}")

    async def _decide(self, *steps: Step) -> Head | None:
        """None if the transaction was applied, else the head as it was found (columns that the condition names)."""
        try:
            found = await self._session.decide(*steps)
        except StoreUnknown:
            self._is_uncertain = True
            raise
        if found["[applied]"]:
            return None
        return Head(**{name: found.get(name) or 0 for name in Head._fields})


assert HEAD == 0, "position - 1 of the first record is the last_position of a new shard"
