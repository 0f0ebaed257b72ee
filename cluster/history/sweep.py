"""When runs are woken: near times from the heap, far ones from the store's index, looked through again and again.

A run in memory is in the heap if its time is near; the sweep, twice per horizon, finds those that have come near, in memory
and in the index. A run that leaves memory while it owes something has no time in the index (its row says "now", so that a
restart finds it), so its time stays in the heap however far it is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from cluster.core.errors import CallerError, Code
from cluster.history.run import Run
from cluster.history.wakeups import Wakeups
from cluster.stores.base import CorruptRecord, RunKey, SnapshotRows, StoreError

if TYPE_CHECKING:
    from cluster.history.shard import Shard

log = structlog.get_logger("history")

DUE_PAGE = 500
AGAIN_NS = 1_000_000_000  # until a time that has come is looked at again, when nothing could be done


class Sweep:
    """One shard's."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._wakeups = Wakeups(shard.clock, self._on_wake)
        self._timer: asyncio.TimerHandle | None = None
        self._swept_until = 0  # what is due before that is in memory or in the heap

    def __len__(self) -> int:
        return len(self._wakeups)

    def set(self, run: Run) -> None:
        """Takes the time of a run in memory."""
        at = run.wake_at = self._shard.wake_of(run.state)
        horizon = self._shard.clock.now_ns() + self._shard.config.timer_horizon_ns
        self._wakeups.set(run.key, at if at and at <= horizon else 0)

    def set_again(self, run: Run) -> None:
        """The time has come, but nothing could be done yet: a moment later, not at once for ever."""
        at = self._shard.wake_of(run.state)
        if at:
            self._wakeups.set(run.key, max(at, self._shard.clock.now_ns() + AGAIN_NS))

    def run_leaves(self, run: Run) -> None:
        """The run leaves memory."""
        if run.state.is_deleted:
            self._wakeups.set(run.key, 0)
        elif run.active:
            self._wakeups.set(run.key, self._shard.wake_of(run.state))

    def close(self) -> None:
        self._wakeups.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_wake(self, key: RunKey, at: int) -> None:
        run = self._shard.runs.get(key)
        if run is not None:
            self._shard.on_wake(self._shard, run)
        else:
            self._shard.spawn(self._load_and_wake(key), f"wake-{self._shard.id}")

    async def _load_and_wake(self, key: RunKey) -> None:
        shard = self._shard
        try:
            run = await shard.run(key)
        except CallerError as error:
            if error.code is not Code.UNAVAILABLE:
                log.error("a run with a due timer cannot be loaded", run=key, error=error.message)
            elif shard.is_open:
                self._wakeups.set(key, shard.clock.now_ns() + AGAIN_NS)
            return
        if run is not None:
            shard.on_wake(shard, run)

    async def look(self) -> None:
        """Brings what the index says is due soon (or owed) into memory. Raises StoreError."""
        shard = self._shard
        if self._timer is not None:
            self._timer.cancel()
        until = shard.clock.now_ns() + shard.config.timer_horizon_ns
        after = (self._swept_until + 1, RunKey("", "", "")) if self._swept_until else None
        while True:
            left_count = shard.left_count
            rows = await shard.store.due(shard.id, until, DUE_PAGE, after)
            if not shard.is_open:
                return
            if left_count != shard.left_count:
                continue  # a run left memory meanwhile: its row may be older here than in the store
            self._take(rows)
            if len(rows) < DUE_PAGE:
                break
            after = (rows[-1].wake_at or 0, rows[-1].key)
            shard.evict_idle()
        self._swept_until = until
        delay_s = shard.config.timer_horizon_ns / 2 / 1e9
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._start)

    async def look_anew(self) -> None:
        """As at the opening: what is owed now was not before. Raises StoreError."""
        self._swept_until = 0
        await self.look()

    def _take(self, rows: SnapshotRows) -> None:
        shard = self._shard
        for key in rows.corrupt:
            log.error("a run's row is corrupt; the run is left alone", run=key, shard=shard.id)
        for row in rows:
            if row.key not in shard.runs and row.key not in shard.set_aside_runs:
                try:
                    run = shard.admit(row)
                    shard.settle(run, run.state)
                except CorruptRecord as error:
                    log.error("a run's row is corrupt; the run is left alone", run=row.key, error=str(error))

    def _start(self) -> None:
        self._timer = None
        if self._shard.is_open:
            self._shard.spawn(self._look_again(), f"sweep-{self._shard.id}")

    async def _look_again(self) -> None:
        for run in list(self._shard.runs.values()):
            self.set(run)
        try:
            await self.look()
        except StoreError as error:
            self._shard.fail(error)
