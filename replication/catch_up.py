"""Catching a peer up by state: every run that has changed since the cursor is told once, as it is when its turn comes.

A peer that is new, one that was away for longer than the queue could hold, and one whose sender was restarted are the same case.
Runs in memory whose rows are older come first, and tombstones; then the rows in the order in which they changed, so that the
cursor can follow. What changes after the target is told by the live stream; if its base is not there, as a snapshot again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import structlog

from cluster.history.run import run_of
from cluster.history.shard import Shard
from cluster.stores.base import CorruptRecord
from replication.run_news import RunNews

log = structlog.get_logger("replication")

COUNTED_PAGES = 10  # pages are counted together: the count is that far ahead of what is told


class Step(NamedTuple):
    """covers: with this one and all before it, everything up to that position is told; 0 = nothing more than before."""

    news: RunNews
    position: int
    covers: int


class CatchUp:
    """Of one source shard, for one peer. `ships`: whether the peer has the namespace. left: runs that are not told yet, by
    namespace, as far as they are counted; began_at: ns since the epoch."""

    def __init__(self, shard: Shard, cursor: int, target: int, ships: Callable[[str], bool], page_runs: int) -> None:
        self._shard, self._ships, self._page_runs = shard, ships, page_runs
        self._after = self._counted = cursor
        self._is_counted = False
        self.left: Counter[str] = Counter()
        self.began_at = shard.clock.now_ns()
        self._steps: deque[Step] = deque()
        self.target = cursor
        self.is_read = False  # to the end
        self.extend(target)

    @property
    def is_ended(self) -> bool:
        return self.is_read and not self._steps

    def extend(self, target: int) -> None:
        """The live stream has lost what came up to here. (Again: no second look at what was read before.)"""
        shard = self._shard
        for key, run in shard.runs.items():
            if self.target < run.position != run.row_position and self._ships(key.namespace_id):
                self._steps.append(Step(RunNews(key, []), run.position, 0))
                self.left[key.namespace_id] += 1
        assert shard.replicas is not None
        for tombstone in shard.replicas.tombstones(self.target):
            if self._ships(tombstone.key.namespace_id):
                news = RunNews(tombstone.key, [], tombstone=tombstone.reason, claim=tombstone.claim)
                self._steps.append(Step(news, tombstone.position, 0))
                self.left[tombstone.key.namespace_id] += 1
        self.target = max(self.target, target)
        self.is_read = self._is_counted = False

    async def next(self) -> Step | None:
        """None: there is no more. Raises StoreError."""
        while not self._steps and not self.is_read:
            await self._count()
            await self._read()
        if not self._steps:
            self.left.clear()  # rows that were counted and have changed since are the live stream's
            return None
        step = self._steps.popleft()
        self._told(step.news.key.namespace_id)
        return step

    def _told(self, namespace_id: str) -> None:
        if self.left[namespace_id] > 1:
            self.left[namespace_id] -= 1
        else:
            del self.left[namespace_id]

    async def _count(self) -> None:
        if self._is_counted:
            return
        limit = COUNTED_PAGES * self._page_runs
        rows = await self._shard.store.changed(self._shard.id, self._counted, limit)
        for row in rows:
            if row.changed_position > self.target:
                self._is_counted = True
                return
            self._counted = row.changed_position
            if self._ships(row.key.namespace_id):
                self.left[row.key.namespace_id] += 1
        self._is_counted = len(rows) < limit

    async def _read(self) -> None:
        shard = self._shard
        rows = await shard.store.changed(shard.id, self._after, self._page_runs)
        for key in rows.corrupt:
            log.error("a damaged run cannot be told to a peer", run=key, shard=shard.id)
        for number, row in enumerate(rows):
            if row.changed_position > self.target:
                self.is_read = True
                break
            self._after = row.changed_position
            is_last = number + 1 == len(rows) or rows[number + 1].changed_position > row.changed_position
            if not self._ships(row.key.namespace_id):
                continue
            try:
                run = run_of(row)
            except (CorruptRecord, msgspec.MsgspecError) as error:
                log.error("a damaged run cannot be told to a peer", run=row.key, shard=shard.id, error=str(error))
                continue
            run.branch = shard.branch_of(run)
            news = RunNews(row.key, [], row=run)
            self._steps.append(Step(news, row.changed_position, row.changed_position if is_last else 0))
        if len(rows) < self._page_runs:
            self.is_read = True
