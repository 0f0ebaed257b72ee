"""Checkpoints: in the background the shard writes what changed and truncates its journal.

Many transitions of a run become one row and one blob. The bound on recovery is the bound on the journal; a slice is
encoded without a pause, so that it never blocks requests for longer than that takes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cluster.core.effects import effects
from cluster.core.errors import CallerError
from cluster.core.events import join_framed
from cluster.core.state import encode_state
from cluster.history.current_runs import name_of
from cluster.history.run import Run
from cluster.stores.base import HistoryBlob, RunKey, Snapshot, StoreError

if TYPE_CHECKING:
    from cluster.history.shard import Shard

SLICE_RUNS = 200


class Checkpointer:
    """One shard's. `request` is cheap and may be called at every commit."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._timer: asyncio.TimerHandle | None = None
        self._is_running = False
        self.lock = asyncio.Lock()

    def request(self) -> None:
        """Something changed: a checkpoint comes within the interval, or at once when the journal is long."""
        journal, config = self._shard.journal, self._shard.config
        is_long = (
            journal.entries_since_cut >= config.checkpoint_entries_max
            or journal.bytes_since_cut >= config.checkpoint_journal_bytes_max
        )
        if self._is_running:
            return
        if is_long:
            self._start()
        elif self._timer is None:
            delay_s = config.checkpoint_interval_ns / 1e9
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._start)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self.close()
        if not self._is_running:
            self._is_running = True
            self._shard.spawn(self._run(), f"checkpoint-{self._shard.id}")

    async def _run(self) -> None:
        try:
            await self.write()
        except StoreError as error:
            self._shard.fail(error)
        except CallerError:
            if self._shard.is_open:  # else the journal failed meanwhile, and the shard is replayed
                raise
        finally:
            self._is_running = False
        if self._shard.is_open and self._shard.dirty:
            self.request()

    async def write(self) -> None:
        """Writes all that is dirty now. Raises StoreError, or UNAVAILABLE if the journal fails; nothing is lost then."""
        async with self.lock:  # the cut of one must not overtake the rows of another
            await self._write()

    async def write_runs(self, keys: list[RunKey]) -> None:
        """Writes these, of those that are dirty. Raises StoreError, UNAVAILABLE."""
        async with self.lock:
            await self._write_slice(keys)

    async def _write(self) -> None:
        shard = self._shard
        journal = shard.journal
        cut = journal.seal()
        journal.entries_since_cut = journal.bytes_since_cut = 0
        keys = list(shard.dirty)
        for start in range(0, len(keys), SLICE_RUNS):
            await self._write_slice(keys[start : start + SLICE_RUNS])
        if cut > journal.durable_position:
            await journal.durable(cut)
        if shard.is_open:
            truncate_to = cut if shard.truncation_max is None else min(cut, shard.truncation_max)
            await shard.store.checkpoint(shard.lease, [], [], [], truncate_to)
            shard.evict_idle()

    async def _write_slice(self, keys: list[RunKey]) -> None:
        shard = self._shard
        position = shard.journal.seal()  # whatever changes a run from here on lies in a later record
        written: list[tuple[Run, int, int, int, bool]] = []
        snapshots: list[Snapshot] = []
        blobs: list[HistoryBlob] = []
        gone: list[Run] = []
        for run in [run for key in keys if (run := shard.dirty.pop(key, None)) is not None]:
            state, is_fed = run.state, shard.is_fed(run)
            if state.is_deleted and is_fed and not shard.owes(state) and shard.may_remove(run):
                gone.append(run)
                if run.is_current and not run.is_pointed_to and shard.current_runs.get(name_of(run.key)) in (None, run):
                    # The store's pointer may still lead to the run before it: it is moved here, and goes with this one.
                    snapshots.append(snapshot_of(run, is_fed, shard.due_of(state)))
                continue
            if state.is_deleted or not is_fed:
                shard.mark_dirty(run)  # looked at again, until it can be deleted, or its row can say its real time
                if run.row_position == run.position:
                    continue
            snapshots.append(snapshot_of(run, is_fed, shard.due_of(state)))
            if run.tail:
                events = join_framed(run.tail)
                blobs.append(HistoryBlob(run.key, run.branch, run.stored_event_id + 1, run.last_event_id, events))
            written.append((run, len(run.tail), run.last_event_id, run.position, run.is_current))
        if position > shard.journal.durable_position:
            await shard.journal.durable(position)
        await shard.store.checkpoint(shard.lease, snapshots, blobs, [run.key for run in gone], 0)
        for run, tail_count, last_event_id, row_position, is_current in written:
            del run.tail[:tail_count]
            run.stored_event_id = last_event_id
            run.row_position = row_position
            run.is_pointed_to = run.is_pointed_to or is_current
            run.is_dirty = run.key in shard.dirty
        for run in gone:  # not earlier: until now the store would have shown it to readers
            shard.forget(run)
            if shard.replicas is not None:
                await shard.replicas.removed(run.key)


def snapshot_of(run: Run, is_fed: bool, wake_at: int) -> Snapshot:
    """The run's row. wake_at 0 says that something is owed now: an effect, or its visibility row."""
    state = run.state
    is_owing = not is_fed or bool(effects(state)) or state.is_deleted  # a deleted one owes its removal
    return Snapshot(
        key=run.key,
        data=encode_state(state),
        is_current=run.is_current,
        is_open=state.is_open,
        wake_at=0 if is_owing else (wake_at or None),
        changed_position=run.position,
    )
