"""The shard actor: the single writer of the runs of a range of workflow ids.

Decide and apply are synchronous, so there are no per-run locks: a request changes memory at once and is answered when the
journal says its entries are durable. Memory is never ahead of what a reader is told, because readers wait too. If an
append fails or its outcome is unknown, the shard is dropped whole; a new one takes a new lease and replays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from cluster.config import Limits, ShardConfig
from cluster.core.due import wake_at
from cluster.core.effects import effects
from cluster.core.entry import DeletedNote, Entry, encode_entry
from cluster.core.errors import CallerError, unavailable
from cluster.core.machines import history_limits, lifecycle
from cluster.core.state import RunState
from cluster.core.transition import Context, Transition
from cluster.history.checkpoint import Checkpointer
from cluster.history.current_runs import CurrentRuns, nobody
from cluster.history.endpoints import Endpoints, no_endpoints
from cluster.history.events import data_loss, read_events
from cluster.history.journal import Group, Journal, shard_is_moving
from cluster.history.loads import Loads
from cluster.history.recovery import Replay
from cluster.history.regions import OneRegion, Regions, acts_for, written_version
from cluster.history.replicas import Replicas
from cluster.history.run import Run, feed_signature, run_of
from cluster.history.sweep import Sweep
from cluster.history.takeover import take_over
from cluster.seams import Clock, Ids, Spawn
from cluster.stores.base import Lease, LeaseLost, RunKey, ShardId, Snapshot, Store, StoreError, StoreUnavailable

log = structlog.get_logger("history")


class Shard:
    """See the module's text. `after_commit(shard, run, state)` is called with each state of a run that has become durable."""

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
        after_commit: Callable[[Shard, Run, RunState], None],
        is_fed: Callable[[Run], bool],
        on_failed: Callable[[Shard], None],
        regions: Regions | None = None,
        endpoints: Endpoints = no_endpoints,
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
        self.set_aside_runs: dict[RunKey, str] = {}  # runs that could not be replayed, and why
        self.truncation_max: int | None = None  # the journal keeps what lies behind, for the sake of those
        self.left_count = 0  # how often a run left memory
        self.is_open = False
        self.is_fed = is_fed
        self.regions: Regions = regions or OneRegion()
        self.replicas = Replicas(self) if regions is not None else None
        self.current_runs = CurrentRuns(self.replicas.buried if self.replicas is not None else nobody)
        self.touched: dict[int, dict[Run, RunState]] = {}  # by position of the group: the last state of each run in it
        self._namespace_name = namespace_name
        self._retention_ns = retention_ns
        self._after_commit = after_commit
        self._endpoints = endpoints
        self._on_failed = on_failed
        self.on_wake: Callable[[Shard, Run], None] = lambda shard, run: None
        # Of each durable group: its position, its encoded entries, the last state of each run in it. None: nobody ships them.
        self.on_durable_entries: Callable[[Shard, int, list[bytes], dict[Run, RunState]], None] | None = None
        self.checkpointer = Checkpointer(self)
        self._sweep = Sweep(self)
        self._loads = Loads(self)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def open(self, owner: str, wait_s: float = 0.0) -> None:
        """Takes the lease, lets that of reads run out (wait_s), replays the journal, looks for what is due. Raises StoreError."""
        self.lease = await self.store.acquire(self.id, owner)
        if wait_s and self.lease.range_id > 1:
            await asyncio.sleep(wait_s)
        truncated_to, last = await self.store.journal_bounds(self.id)
        self.journal = Journal(
            self.store, self.lease, last, self.config, self.spawn, self._on_durable, lambda error: self.fail(error)
        )
        if self.replicas is not None:
            await self.replicas.load()
        await Replay(self).run(truncated_to)
        self.is_open = True
        for run in list(self.runs.values()):
            self.settle(run, run.state)
        await self._sweep.look()
        if self.dirty and self.is_open:
            self.checkpointer.request()

    async def close(self) -> None:
        """Ends in good order: what is dirty is checkpointed, nobody is left waiting."""
        if self.is_open:
            try:
                await self.checkpointer.write()
            except (StoreError, CallerError) as error:
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
        self.checkpointer.close()
        self._sweep.close()
        if hasattr(self, "journal"):
            self.journal.end(StoreUnavailable("shard closed"))
        for run in self.runs.values():
            run.is_evicted = True
            run.fail_waiters(shard_is_moving())
        self.runs.clear()
        self.dirty.clear()
        self.current_runs.clear()

    # --- reading --------------------------------------------------------------------------------------------------------

    async def run(self, key: RunKey) -> Run | None:
        """The run, from memory or its row. Raises CallerError."""
        run = self.runs.get(key)
        if run is None:
            self.refuse_set_aside(key)
            run = await self._loads.once(key, lambda: self.store.load(self.id, key))
            run = self.runs.get(key, run)
        return None if run is None or run.state.is_deleted else run

    async def current(self, namespace_id: str, workflow_id: str) -> Run | None:
        """The current run of a workflow id. Raises CallerError."""
        name = (namespace_id, workflow_id)
        run = self.current_runs.get(name)
        if run is None:
            run = await self._loads.once(name, lambda: self.store.current_run(self.id, namespace_id, workflow_id))
            run = self.current_runs.get(name) or run
        return None if run is None or run.state.is_deleted else run

    async def find(self, namespace_id: str, workflow_id: str, run_id: str) -> Run:
        """The named run, or the current one for an empty run id. Raises NOT_FOUND."""
        if run_id:
            run = await self.run(RunKey(namespace_id, workflow_id, run_id))
        else:
            run = await self.current(namespace_id, workflow_id)
        if run is None:
            raise lifecycle.unknown_run(workflow_id, run_id)
        take_over(self, run)
        run.used_at = asyncio.get_running_loop().time()
        return run

    def refuse_set_aside(self, key: RunKey) -> None:
        if (reason := self.set_aside_runs.get(key)) is not None:
            raise data_loss("state", reason)

    def admit(self, row: Snapshot) -> Run:
        """A row becomes a run in memory. Raises CorruptRecord; LeaseLost if only a later owner can have written it."""
        if row.changed_position > self.journal.durable_position:
            raise LeaseLost(f"shard {self.id}: a row is of position {row.changed_position}, beyond this owner's journal")
        run = run_of(row)
        run.branch = self.branch_of(run)
        self.runs[row.key] = run
        if row.is_current:
            self.current_runs.loaded(run)
        if row.wake_at != 0:
            run.fed = feed_signature(run.state)
        elif run.state.is_deleted or not effects(run.state):
            self.mark_dirty(run)  # owed its visibility row alone: once that is written, the row gets its real time
        return run

    def branch_of(self, run: Run) -> int:
        return 0 if self.replicas is None else self.replicas.branch_of(run.key, run.state)

    async def events(self, run: Run, first: int, last: int) -> list[bytes]:
        """Encoded events first..last of a run, from the store and the tail. Raises CallerError."""
        return await read_events(self.store, self.id, run, first, last)

    # --- writing --------------------------------------------------------------------------------------------------------

    def context(self, namespace_id: str) -> Context:
        name, retention_ns = self._namespace_name(namespace_id), self._retention_ns(namespace_id)
        version, endpoint = self.regions.version(namespace_id), partial(self._endpoints, name)
        return Context(name, self.clock.now_ns(), self.ids, self.limits, version, retention_ns, endpoint)

    def owes(self, state: RunState) -> bool:
        """Whether this region has something to do for the run: not for a passive namespace, nor for one that is gone."""
        try:
            is_known = bool(self._namespace_name(state.namespace_id))
        except CallerError:
            is_known = False
        return is_known and acts_for(self.regions, state) and bool(effects(state))

    def may_remove(self, run: Run) -> bool:
        return self.replicas is None or self.replicas.may_remove(run)

    def begin(self, run: Run, context: Context | None = None) -> Transition:
        """A transition of this run, to be committed without an await in between. Raises UNAVAILABLE: it is another region's."""
        context = context or self.context(run.key.namespace_id)
        if context.version < written_version(run.state):
            raise unavailable("This workflow has moved to another region: retry, it will be found there.")
        return Transition(run.state, context)

    def commit(self, *changes: tuple[Run | None, Transition]) -> asyncio.Future[None]:
        """Applies transitions (run None = a new run) as one append; the future is done when it is durable."""
        self.require_open()
        written = [(run, t) for run, t in changes if run is None or not t.is_empty]
        if not written:
            return self.journal.durable(max((run.position for run, _ in changes if run is not None), default=0))
        for run, t in written:
            if run.is_evicted if run is not None else self.current_runs.is_beyond(t.state, t.context.version):
                raise shard_is_moving()
            history_limits.enforce(t)
            assert run is None or run.state.transition_count == t.state.transition_count, "the run changed during the decision"
        entries = [t.entry() for _, t in written]
        self._require_active(entries)
        position = self.journal.add(*map(encode_entry, entries))
        for (run, t), entry in zip(written, entries, strict=True):
            self._take(run or self._new_run(entry), t, entry, position)
        self.checkpointer.request()
        return self.journal.durable(position)

    def _require_active(self, entries: Sequence[Entry]) -> None:
        """Who decided may have looked at the namespace before it moved away, or was frozen. What is deleted, each region removes
        by itself. Raises UNAVAILABLE."""
        for entry in entries:
            if not self.regions.is_active(entry.namespace_id) and not all(isinstance(one, DeletedNote) for one in entry.items):
                raise unavailable("The namespace is moving to another region, please retry.")

    def _new_run(self, entry: Entry) -> Run:
        key = RunKey(entry.namespace_id, entry.workflow_id, entry.run_id)
        assert key not in self.runs, "a run id is made once"
        state = RunState(key.namespace_id, key.workflow_id, key.run_id)
        run = Run(key, state, is_current=False, position=0, stored_event_id=entry.first_event_id - 1)
        self.runs[key] = run
        self.current_runs.begins(run)
        return run

    def _take(self, run: Run, t: Transition, entry: Entry, position: int) -> None:
        run.take(t.state, entry)
        run.position = position
        for notice in t.notices:
            run.rejected[notice.update_id] = notice.failure
        self.mark_dirty(run)
        self.touched.setdefault(position, {})[run] = t.state

    async def read(self, run: Run) -> RunState:
        """What the run shows now, once that is durable; it may have gone on by then. Raises UNAVAILABLE."""
        state = run.state
        await self.durable(run)
        return state

    def durable(self, run: Run) -> asyncio.Future[None]:
        """Done when what this run shows now is durable: reads wait for it."""
        return self.journal.durable(run.position)

    async def all_durable(self) -> None:
        """Returns when everything this shard has taken so far is durable. Raises UNAVAILABLE."""
        self.require_open()
        if self.journal.last_position > self.journal.durable_position:
            await self.journal.durable(self.journal.last_position)

    def is_durable(self, run: Run) -> bool:
        return run.position <= self.journal.durable_position

    def require_open(self) -> None:
        if not self.is_open:
            raise shard_is_moving()

    def forget(self, run: Run) -> None:
        """Drops a run from memory (evicted, or deleted)."""
        run.is_evicted = True
        self.left_count += 1
        self.runs.pop(run.key, None)
        self.current_runs.leaves(run)
        run.fail_waiters(shard_is_moving())
        self._sweep.run_leaves(run)

    def evict_idle(self, spared: Run | None = None) -> None:
        """Clean and idle runs above the bound leave memory, least recently used first."""
        excess = len(self.runs) - self.config.idle_runs_in_memory_max
        if excess <= 0:
            return
        idle = [run for run in self.runs.values() if run is not spared and self._is_idle(run)]
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

    def mark_dirty(self, run: Run) -> None:
        run.is_dirty = True
        self.dirty[run.key] = run

    def _on_durable(self, group: Group) -> None:
        touched = self.touched.pop(group.position, {})
        if self.on_durable_entries is not None:
            self.on_durable_entries(self, group.position, group.entries, touched)
        for run, state in touched.items():
            if not run.is_evicted:
                try:
                    self.settle(run, state)
                except Exception:  # one run's trouble must not end the journal of all
                    log.exception("a run could not be settled after its commit", run=run.key, shard=self.id)
                run.wake_waiters()

    def settle(self, run: Run, state: RunState) -> None:
        """Makes the outside agree with a durable state: wake-up, effects, visibility. The run may have gone on already: if
        that were waited for, a run that never rests would never get its tasks."""
        run.used_at = asyncio.get_running_loop().time()
        self._after_commit(self, run, state)
        self.set_wake(run)

    # --- timers ---------------------------------------------------------------------------------------------------------

    def set_wake(self, run: Run) -> None:
        self._sweep.set(run)

    def set_wake_again(self, run: Run) -> None:
        self._sweep.set_again(run)

    async def look_anew(self) -> None:
        """Looks through the store for all that is owed or due: the namespace of some of it has become active."""
        await self._sweep.look_anew()

    def wake_of(self, state: RunState) -> int:
        """When this region does something for the run; where it is passive, only at the end of its retention."""
        if acts_for(self.regions, state):
            return self.due_of(state)
        return self.ends_at(state) if state.closed_at and not state.is_deleted else 0

    def due_of(self, state: RunState) -> int:
        """An open run's earliest timer, a closed run's next callback or end of retention: whichever region is active."""
        if state.is_open or not state.closed_at or state.is_deleted:
            return wake_at(state)
        ends_at = self.ends_at(state)
        return min(wake_at(state) or ends_at, ends_at)

    def ends_at(self, state: RunState) -> int:
        """When a closed run's retention is over."""
        return state.closed_at + self._retention_ns(state.namespace_id)
