"""The shard actor: the single writer of the runs of a range of workflow ids.

Decide and apply are synchronous, so there are no per-run locks: a request changes memory at once and is answered when the
journal says its entries are durable. Memory is never ahead of what a reader is told, because readers wait too. If an
append fails or its outcome is unknown, the shard is dropped whole; a new one takes a new lease and replays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from cluster.config import Limits, ShardConfig
from cluster.core.apply import apply_entry, new_state
from cluster.core.due import wake_at
from cluster.core.entry import decode_group, encode_entry
from cluster.core.errors import CallerError, Code
from cluster.core.events import split_framed
from cluster.core.machines import lifecycle
from cluster.core.state import RunState, decode_state
from cluster.core.transition import Context, Transition
from cluster.history.checkpoint import BLOB_BRANCH, Checkpointer
from cluster.history.journal import Group, Journal, shard_is_moving
from cluster.history.run import Run
from cluster.history.wakeups import Wakeups
from cluster.seams import Clock, Ids, Spawn
from cluster.stores.base import CorruptRecord, Lease, RunKey, ShardId, Snapshot, Store, StoreError, StoreUnavailable

log = structlog.get_logger("history")

DUE_PAGE = 500


class Shard:
    """See the module's text. `after_commit(run)` is called for each run whose change has become durable."""

    def __init__(
        self,
        id: ShardId,
        store: Store,
        clock: Clock,
        ids: Ids,
        spawn: Spawn,
        config: ShardConfig,
        limits: Limits,
        namespace_name: Callable[[str], str],
        retention_ns: Callable[[str], int],
        after_commit: Callable[[Shard, Run], None],
        is_fed: Callable[[Run], bool],
        on_failed: Callable[[Shard], None],
    ) -> None:
        self.id = id
        self.store = store
        self.clock = clock
        self.ids = ids
        self.spawn = spawn
        self.config = config
        self.limits = limits
        self.lease: Lease
        self.journal: Journal
        self.runs: dict[RunKey, Run] = {}
        self.dirty: dict[RunKey, Run] = {}
        self.is_open = False
        self.is_fed = is_fed
        self._current: dict[tuple[str, str], Run] = {}
        self._loads: dict[Any, asyncio.Future[Run | None]] = {}
        self._touched: dict[int, dict[RunKey, Run]] = {}
        self._namespace_name = namespace_name
        self._retention_ns = retention_ns
        self._after_commit = after_commit
        self._on_failed = on_failed
        self._checkpointer = Checkpointer(self)
        self._sweep: asyncio.TimerHandle | None = None
        self._swept_until = 0  # what is due before that is in memory or in the heap
        self.wakeups = Wakeups(clock, self._on_wake)
        self.on_wake: Callable[[Shard, Run], None] = lambda shard, run: None

    # --- life ---------------------------------------------------------------------------------------------------------

    async def open(self, owner: str) -> None:
        """Takes the lease, replays the journal, looks for what is due. Raises StoreError."""
        self.lease = await self.store.acquire(self.id, owner)
        truncated_to, last = await self.store.journal_bounds(self.id)
        self.journal = Journal(
            self.store, self.lease, last, self.config, self.spawn, self._on_durable, lambda error: self.fail(error)
        )
        await self._replay(truncated_to)
        self.is_open = True
        for run in list(self.runs.values()):
            self._settle(run)
        await self._sweep_due()
        if self.dirty:
            self._checkpointer.request()

    async def _replay(self, after: int) -> None:
        while records := await self.store.read_journal(self.id, after):
            for record in records:
                for entry in decode_group(record.data):
                    key = RunKey(entry.namespace_id, entry.workflow_id, entry.run_id)
                    run = self.runs.get(key) or await self._load_for_replay(key)
                    if run is None:
                        run = Run(key, new_state(*_parts(key)), is_current=False, position=0, stored_event_id=0)
                        self.runs[key] = run
                    if record.position <= run.position and not run.is_dirty:
                        continue  # the row contains it already
                    is_first = run.state.next_event_id == 1
                    state = apply_entry(run.state, entry)
                    if is_first and entry.first_event_id > 1:  # begins with a stored prefix
                        run.stored_event_id = entry.first_event_id - 1
                    run.take(state, entry)
                    run.position = record.position
                    self._mark_dirty(run)
                    if is_first:
                        self._become_current(run)
            after = records[-1].position

    async def _load_for_replay(self, key: RunKey) -> Run | None:
        row = await self.store.load(self.id, key)
        if row is None:
            return None
        run = self._admit(row)
        return run

    async def close(self) -> None:
        """Ends in good order: what is dirty is checkpointed, nobody is left waiting."""
        if self.is_open:
            try:
                await self._checkpointer.write()
            except StoreError as error:
                log.warning("checkpoint at close failed; the journal will be replayed", shard=self.id, error=str(error))
        self._end()

    def fail(self, error: StoreError) -> None:
        """The store's word is unknown or the lease is lost: memory may be wrong, so it is dropped."""
        if not self.is_open:
            return
        log.warning("shard dropped; it will be replayed", shard=self.id, error=repr(error))
        self.journal.end(error)
        self._end()
        self._on_failed(self)

    def _end(self) -> None:
        self.is_open = False
        self._checkpointer.close()
        self.wakeups.close()
        if self._sweep is not None:
            self._sweep.cancel()
        if hasattr(self, "journal"):
            self.journal.end(StoreUnavailable("shard closed"))
        for run in self.runs.values():
            run.is_evicted = True
            run.fail_waiters(shard_is_moving())
        self.runs.clear()
        self.dirty.clear()
        self._current.clear()

    # --- reading --------------------------------------------------------------------------------------------------------

    async def run(self, key: RunKey) -> Run | None:
        """The run, from memory or its row. Raises CallerError."""
        run = self.runs.get(key)
        if run is None:
            run = await self._load_once(key, lambda: self.store.load(self.id, key))
        return None if run is None or run.state.is_deleted else run

    async def current(self, namespace_id: str, workflow_id: str) -> Run | None:
        """The current run of a workflow id. Raises CallerError."""
        name = (namespace_id, workflow_id)
        run = self._current.get(name)
        if run is None:
            run = await self._load_once(name, lambda: self.store.current_run(self.id, namespace_id, workflow_id))
            run = self._current.get(name, run)
        return None if run is None or run.state.is_deleted else run

    async def find(self, namespace_id: str, workflow_id: str, run_id: str) -> Run:
        """The named run, or the current one for an empty run id. Raises NOT_FOUND."""
        if run_id:
            run = await self.run(RunKey(namespace_id, workflow_id, run_id))
        else:
            run = await self.current(namespace_id, workflow_id)
        if run is None:
            raise lifecycle.unknown_run(workflow_id, run_id)
        run.used_at = asyncio.get_running_loop().time()
        return run

    async def _load_once(self, what: Any, load: Callable[[], Any]) -> Run | None:
        self.require_open()
        loading = self._loads.get(what)
        if loading is None:
            loading = asyncio.ensure_future(self._load(load))
            self._loads[what] = loading
            loading.add_done_callback(lambda done: self._loads.pop(what, None))
        run = await asyncio.shield(loading)
        self.require_open()
        return run

    async def _load(self, load: Callable[[], Any]) -> Run | None:
        try:
            row: Snapshot | None = await load()
        except CorruptRecord as error:
            raise CallerError(
                Code.DATA_LOSS, f"The stored state of this workflow is corrupt: {error}. Restore it from another region or a backup."
            ) from error
        except StoreError as error:
            raise shard_is_moving() from error
        if row is None:
            return None
        self.require_open()
        run = self.runs.get(row.key)
        if run is None:
            run = self._admit(row)
            self._settle(run)
        return run

    def _admit(self, row: Snapshot) -> Run:
        state = decode_state(row.data)
        run = Run(
            row.key,
            state,
            is_current=row.is_current,
            position=row.changed_position,
            stored_event_id=state.next_event_id - 1,
        )
        run.fed = feed_signature(state)
        self.runs[row.key] = run
        if row.is_current:
            self._current.setdefault((row.key.namespace_id, row.key.workflow_id), run)
        return run

    async def events(self, run: Run, first: int, last: int) -> list[bytes]:
        """Encoded events first..last of a run, from the store and the tail. Raises CallerError."""
        if first > last:
            return []
        tail_first = run.stored_event_id + 1
        tail = run.tail
        if first >= tail_first:
            return tail[first - tail_first : last - tail_first + 1]
        state_tail = list(tail) if last >= tail_first else []
        try:
            blobs = await self.store.history(self.id, run.key, BLOB_BRANCH, first, min(last, tail_first - 1))
        except CorruptRecord as error:
            raise CallerError(
                Code.DATA_LOSS, f"The stored history of this workflow is corrupt: {error}. Restore it from another region or a backup."
            ) from error
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

    # --- writing --------------------------------------------------------------------------------------------------------

    def context(self, namespace_id: str) -> Context:
        return Context(self._namespace_name(namespace_id), self.clock.now_ns(), self.ids, self.limits)

    def begin(self, run: Run) -> Transition:
        """A transition of this run, decided at once and committed without an await in between."""
        return Transition(run.state, self.context(run.key.namespace_id))

    def commit(self, *changes: tuple[Run | None, Transition]) -> asyncio.Future[None]:
        """Applies transitions (run None = a new run) as one append; the future is done when it is durable."""
        self.require_open()
        position = 0
        for run, t in changes:
            if run is not None and t.is_empty:
                position = max(position, run.position)
                continue
            if run is not None and run.is_evicted:
                raise shard_is_moving()
            entry = t.entry()
            position = self.journal.add(encode_entry(entry))
            if run is None:
                key = RunKey(entry.namespace_id, entry.workflow_id, entry.run_id)
                assert key not in self.runs, "a run id is made once"
                run = Run(key, t.state, is_current=False, position=position, stored_event_id=entry.first_event_id - 1)
                self.runs[key] = run
                self._become_current(run)
            run.take(t.state, entry)
            run.position = position
            for notice in t.notices:
                run.rejected[notice.update_id] = notice.failure
            self._mark_dirty(run)
            self._touched.setdefault(position, {})[run.key] = run
        self._checkpointer.request()
        return self.journal.durable(position)

    def durable(self, run: Run) -> asyncio.Future[None]:
        """Done when what this run shows now is durable: reads wait for it."""
        return self.journal.durable(run.position)

    async def all_durable(self) -> None:
        """Returns when everything this shard has taken so far is durable. Raises UNAVAILABLE."""
        if self.is_open and self.journal.last_position > self.journal.durable_position:
            await self.journal.durable(self.journal.last_position)

    def is_durable(self, run: Run) -> bool:
        return run.position <= self.journal.durable_position

    def require_open(self) -> None:
        if not self.is_open:
            raise shard_is_moving()

    def forget(self, run: Run) -> None:
        """Drops a run from memory (evicted, or deleted)."""
        run.is_evicted = True
        self.runs.pop(run.key, None)
        name = (run.key.namespace_id, run.key.workflow_id)
        if self._current.get(name) is run:
            del self._current[name]
        run.fail_waiters(shard_is_moving())
        if run.state.is_deleted:
            self.wakeups.set(run.key, 0)

    def evict_idle(self) -> None:
        """Clean and idle runs above the bound leave memory, least recently used first."""
        excess = len(self.runs) - self.config.idle_runs_in_memory_max
        if excess <= 0:
            return
        idle = [run for run in self.runs.values() if self._is_idle(run)]
        idle.sort(key=lambda run: run.used_at)
        for run in idle[:excess]:
            self.forget(run)

    def _is_idle(self, run: Run) -> bool:
        return not (
            run.is_dirty
            or run.waiters
            or run.queries
            or any(isinstance(served, asyncio.Task) for served in run.active.values())
            or not self.is_fed(run)
            or not self.is_durable(run)
        )

    def _mark_dirty(self, run: Run) -> None:
        run.is_dirty = True
        self.dirty[run.key] = run

    def _become_current(self, run: Run) -> None:
        name = (run.key.namespace_id, run.key.workflow_id)
        former = self._current.get(name)
        if former is not None:
            former.is_current = False
        run.is_current = True
        self._current[name] = run

    def _on_durable(self, group: Group) -> None:
        for run in self._touched.pop(group.position, {}).values():
            if self.is_durable(run) and not run.is_evicted:
                self._settle(run)
                run.wake_waiters()

    def _settle(self, run: Run) -> None:
        """Makes the outside agree with a durable state: wake-up, effects, visibility."""
        run.used_at = asyncio.get_running_loop().time()
        self._after_commit(self, run)
        self.set_wake(run)

    # --- timers ---------------------------------------------------------------------------------------------------------

    def set_wake(self, run: Run) -> None:
        at = run.wake_at = self.wake_of(run.state)
        horizon = self.clock.now_ns() + self.config.timer_horizon_ns
        self.wakeups.set(run.key, at if at and at <= horizon else 0)

    def wake_of(self, state: RunState) -> int:
        """An open run's earliest timer, a closed run's end of retention."""
        if state.is_open or not state.closed_at or state.is_deleted:
            return wake_at(state)
        return state.closed_at + self._retention_ns(state.namespace_id)

    def _on_wake(self, key: RunKey, at: int) -> None:
        run = self.runs.get(key)
        if run is not None:
            self.on_wake(self, run)
        else:
            self.spawn(self._load_and_wake(key), f"wake-{self.id}")

    async def _load_and_wake(self, key: RunKey) -> None:
        try:
            run = await self.run(key)
        except CallerError as error:
            log.error("a run with a due timer cannot be loaded", run=key, error=error.message)
            return
        if run is not None:
            self.on_wake(self, run)

    async def _sweep_due(self) -> None:
        """Brings what the store's index says is due soon (or owed) into memory, again and again."""
        if self._sweep is not None:
            self._sweep.cancel()
        until = self.clock.now_ns() + self.config.timer_horizon_ns
        after = (self._swept_until + 1, RunKey("", "", "")) if self._swept_until else None
        while True:
            rows = await self.store.due(self.id, until, DUE_PAGE, after)
            for key in rows.corrupt:
                log.error("a run's row is corrupt; the run is left alone", run=key, shard=self.id)
            for row in rows:
                if row.key not in self.runs:
                    run = self._admit(row)
                    run.fed = () if row.wake_at == 0 else run.fed
                    self._settle(run)
            if len(rows) < DUE_PAGE:
                break
            after = (rows[-1].wake_at or 0, rows[-1].key)
        self._swept_until = until
        delay_s = self.config.timer_horizon_ns / 2 / 1e9
        self._sweep = asyncio.get_running_loop().call_later(delay_s, self._start_sweep)

    def _start_sweep(self) -> None:
        self._sweep = None
        if self.is_open:
            self.spawn(self._sweep_again(), f"sweep-{self.id}")

    async def _sweep_again(self) -> None:
        for run in list(self.runs.values()):
            self.set_wake(run)
        try:
            await self._sweep_due()
        except StoreError as error:
            self.fail(error)


def feed_signature(state: RunState) -> tuple[Any, ...]:
    """What the visibility row shows; when it changes, the row is written again."""
    return (state.status, state.search_attributes, state.memo, state.first_task_at, state.task_queue, state.is_deleted)


def _parts(key: RunKey) -> tuple[str, str, str]:
    return key.namespace_id, key.workflow_id, key.run_id
