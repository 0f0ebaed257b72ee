"""What a shard has of a namespace, as facts to be compared: its rows, overlaid with what is newer in memory.

`read_copy` is everything, as a hash tree; what has not changed since the last copy is not looked at again. While it reads, runs
change, so a copy may be wrong about those. `read_workflows` is the truth about a few workflow ids, and what a verdict rests on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import NamedTuple

from cluster.core.branches import NOTHING, Head, contains, head_of, rank
from cluster.core.errors import CallerError, Code
from cluster.core.events import next_hash
from cluster.core.state import RunState, checksum
from cluster.history.events import HistoryIsGone, read_events
from cluster.history.journal import shard_is_moving
from cluster.history.replicas import TOMBSTONE_AGE_NS_MIN, Tombstone
from cluster.history.run import Run, run_of
from cluster.history.shard import Shard
from cluster.stores.base import CorruptRecord, RunKey, Snapshot
from replication.verification import HashTree, RunFacts, WorkflowFacts, current_item, run_item, tombstone_item
from replication.verify_limits import VerifyLimits

Name = tuple[str, str]  # workflow id, run id
WORKFLOW_PAGE_RUNS = 10  # most workflow ids have fewer runs
LOOKS_MAX = 5  # at a few workflow ids, before it is said that they change too fast


class Known(NamedTuple):
    """Of a run that was looked at. over_at: when its retention is over (ns since the epoch), so that it counts in no region; 0 =
    not known yet."""

    position: int
    is_deep: bool
    item: int
    over_at: int = 0


class Mark(NamedTuple):
    """Where a shard stood: while it stands there, its copy is good."""

    range_id: int
    position: int
    tombstones_count: int
    is_deep: bool


class Copy:
    """Of one shard's part of one namespace."""

    def __init__(self, mark: Mark) -> None:
        self.mark: Mark | None = mark  # None: something in it was seen to be wrong
        self.runs: dict[Name, Known] = {}
        self.tree = HashTree()

        self.runs_count = 0


class Pace:
    """Lets others run after so much work."""

    def __init__(self, slice_bytes: int) -> None:
        self._slice_bytes = slice_bytes
        self._spent = 0

    async def spend(self, size: int) -> None:
        self._spent += size
        if self._spent >= self._slice_bytes:
            self._spent = 0
            await asyncio.sleep(0)


class Look(NamedTuple):
    """How to look at a shard. region: whose it is; is_deep: stored histories are compared with the states' hashes."""

    shard: Shard
    namespace_id: str
    region: str
    is_deep: bool
    limits: VerifyLimits

    def mark(self) -> Mark:
        shard = self.shard
        return Mark(shard.lease.range_id, shard.journal.last_position, len(self.tombstones()), self.is_deep)

    def tombstones(self) -> list[Tombstone]:
        assert self.shard.replicas is not None
        return [one for one in self.shard.replicas.tombstones(-1) if one.key.namespace_id == self.namespace_id]

    def over_at(self, state: RunState) -> int:
        """When the run's retention is over, 0 for one that is open."""
        return 0 if state.is_open or not state.closed_at or state.is_deleted else self.shard.due_of(state)

    def is_over(self, over_at: int, margin_s: float = 0.0) -> bool:
        return 0 < over_at <= self.shard.clock.now_ns() + int(margin_s * 1e9)

    def is_forgotten(self, tombstone: Tombstone) -> bool:
        """Whether each region may drop it by now, or soon."""
        age_ns = self.shard.clock.now_ns() - tombstone.at
        return age_ns >= TOMBSTONE_AGE_NS_MIN - int(self.limits.tombstone_margin_s * 1e9)

    def is_fading(self, tombstone: Tombstone) -> bool:
        age_ns = self.shard.clock.now_ns() - tombstone.at
        return age_ns >= TOMBSTONE_AGE_NS_MIN - 2 * int(self.limits.tombstone_margin_s * 1e9)

    def damaged(self, reason: str) -> RunFacts:
        return RunFacts(NOTHING, "", (), f"damaged in {self.region}: {reason}")


# --- one run -----------------------------------------------------------------------------------------------------------


async def run_facts(look: Look, run: Run) -> RunFacts:
    """Of the state that the run has now. Raises UNAVAILABLE, StoreError."""
    shard, state = look.shard, run.state
    assert shard.replicas is not None
    losers = _longest(one.head for one in shard.replicas.losers(run.key, state))
    facts = RunFacts(head_of(state), checksum(state), losers)
    if not look.is_deep or not state.history_hash:
        return facts
    reason = await _history_damage(look, run, state)
    if reason and run.state is state:  # else it was about what is not there any more
        return RunFacts(facts.head, facts.checksum, facts.losers, f"damaged in {look.region}: {reason}")
    return facts


async def _history_damage(look: Look, run: Run, state: RunState) -> str:
    """Why the stored events are not those of the state, "" if they are."""
    digest, last = b"", state.next_event_id - 1
    for first in range(1, last + 1, look.limits.events_at_once):
        upto = min(last, first + look.limits.events_at_once - 1)
        try:
            events = await read_events(look.shard.store, look.shard.id, run, first, upto)
        except HistoryIsGone:
            return ""
        except CallerError as error:
            if error.code is not Code.DATA_LOSS:
                raise
            return error.message
        for event in events:
            digest = next_hash(digest, event)
    return "" if digest == state.history_hash else "the stored events are not those that its state was folded from"


def _longest(heads: Iterable[Head]) -> tuple[Head, ...]:
    """Of pieces of one branch the longest: which pieces were kept depends on what was heard when."""
    kept: list[Head] = []
    for head in sorted(heads, key=rank, reverse=True):
        if not any(contains(longer, head) for longer in kept):
            kept.append(head)
    return tuple(reversed(kept))


def _run_of_row(look: Look, row: Snapshot) -> Run:
    """Raises CorruptRecord."""
    run = run_of(row)
    run.branch = look.shard.branch_of(run)
    return run


# --- all of a shard ----------------------------------------------------------------------------------------------------


async def read_copy(look: Look, before: Copy | None) -> Copy:
    """Raises UNAVAILABLE, StoreError."""
    mark = look.mark()
    if before is not None and before.mark == mark:
        return before
    copy, pace = Copy(mark), Pace(look.limits.slice_bytes)
    currents: dict[str, str] = {}
    unwritten = [run for run in look.shard.runs.values() if run.position != run.row_position]
    await _read_rows(look, copy, {} if before is None else before.runs, currents, pace)
    await _overlay_evicted(look, copy, unwritten, pace)
    deleted = await _overlay_memory(look, copy, currents, pace)
    if not look.shard.is_open:
        raise shard_is_moving()
    for (workflow_id, run_id), known in copy.runs.items():
        if look.is_over(known.over_at):
            continue
        copy.runs_count += 1
        copy.tree.add(workflow_id, known.item)
        if currents.get(workflow_id) == run_id:
            copy.tree.add(workflow_id, current_item(workflow_id, run_id))
        await pace.spend(300)
    tombstones = {(one.key.workflow_id, one.key.run_id): look.is_forgotten(one) for one in look.tombstones()}
    for workflow_id, run_id in {*deleted, *tombstones}:
        if not tombstones.get((workflow_id, run_id), False) and (workflow_id, run_id) not in copy.runs:
            copy.tree.add(workflow_id, tombstone_item(workflow_id, run_id))
    return copy


async def _read_rows(look: Look, copy: Copy, before: dict[Name, Known], currents: dict[str, str], pace: Pace) -> None:
    shard, after = look.shard, RunKey(look.namespace_id, "", "")
    while True:
        page = await shard.store.runs(shard.id, after, look.limits.page_runs)
        for key in page.corrupt:
            if key.namespace_id == look.namespace_id:
                damaged = run_item(key.workflow_id, key.run_id, look.damaged("its row cannot be read"))
                copy.runs[key.workflow_id, key.run_id] = Known(0, look.is_deep, damaged)
        rows = [row for row in page if row.key.namespace_id == look.namespace_id]
        wanted: list[Snapshot] = []
        for row in rows:
            name = row.key.workflow_id, row.key.run_id
            if row.is_current:
                currents[row.key.workflow_id] = row.key.run_id
            known = before.get(name)
            if known is not None and known.position == row.changed_position and known.is_deep >= look.is_deep:
                copy.runs[name] = known
            else:
                wanted.append(row)
        for start in range(0, len(wanted), look.limits.runs_at_once):
            some = wanted[start : start + look.limits.runs_at_once]
            for row, found in zip(some, await asyncio.gather(*(_row_known(look, row) for row in some)), strict=True):
                if found is not None:
                    copy.runs[row.key.workflow_id, row.key.run_id] = found
                await pace.spend(len(row.data))
        if len(page) < look.limits.page_runs or len(rows) < len(page):
            return
        after = page[-1].key


async def _row_known(look: Look, row: Snapshot) -> Known | None:
    """None: it is deleted."""
    key = row.key
    try:
        run = _run_of_row(look, row)
    except CorruptRecord as error:
        return Known(0, look.is_deep, run_item(key.workflow_id, key.run_id, look.damaged(str(error))))
    return None if run.state.is_deleted else await _known(look, run)


async def _known(look: Look, run: Run) -> Known:
    position, over_at = run.position, look.over_at(run.state)
    item = run_item(run.key.workflow_id, run.key.run_id, await run_facts(look, run))
    return Known(position, look.is_deep, item, over_at)


async def _overlay_evicted(look: Look, copy: Copy, unwritten: list[Run], pace: Pace) -> None:
    """Runs whose rows were written behind the reader's back, and which have left memory since."""
    for run in unwritten:
        await pace.spend(100)
        name = run.key.workflow_id, run.key.run_id
        if not run.is_evicted or run.state.is_deleted or run.key.namespace_id != look.namespace_id:
            continue
        known = copy.runs.get(name)
        if known is None or known.position < run.position:
            copy.runs[name] = await _known(look, run)
            await pace.spend(1_000)


async def _overlay_memory(look: Look, copy: Copy, currents: dict[str, str], pace: Pace) -> set[Name]:
    """What the store does not have yet. Returns the runs that are deleted, and may have no tombstone so far."""
    shard, deleted = look.shard, set[Name]()
    assert shard.replicas is not None
    for key, run in list(shard.runs.items()):
        await pace.spend(100)
        if key.namespace_id != look.namespace_id:
            continue
        name = key.workflow_id, key.run_id
        if run.state.is_deleted:
            copy.runs.pop(name, None)
            if key not in shard.replicas.expired:
                deleted.add(name)
            continue
        known = copy.runs.get(name)
        if known is None or known.position != run.position:
            copy.runs[name] = await _known(look, run)
            await pace.spend(1_000)
    for key, reason in shard.set_aside_runs.items():
        if key.namespace_id == look.namespace_id:
            damaged = run_item(key.workflow_id, key.run_id, look.damaged(reason))
            copy.runs[key.workflow_id, key.run_id] = Known(0, look.is_deep, damaged)
    for workflow_id in {name[0] for name in copy.runs}:
        currents[workflow_id] = _current_of(look, workflow_id, currents.get(workflow_id, ""))
        await pace.spend(50)
    return deleted


def _current_of(look: Look, workflow_id: str, stored: str) -> str:
    """The store's pointer is what counts, unless memory has gone on from there."""
    run = look.shard.current_runs.get((look.namespace_id, workflow_id))
    if run is None:
        return stored
    if run.state.is_deleted:
        return ""
    return run.key.run_id if run.is_dirty or run.position != run.row_position else stored


# --- a few workflow ids, as they are -----------------------------------------------------------------------------------


class _Memory(NamedTuple):
    """Of some workflow ids: what is in memory and beside the rows."""

    runs: dict[str, list[Run]]
    tombstones: dict[str, list[Tombstone]]


async def read_workflows(look: Look, workflow_ids: Collection[str], told_to: int) -> list[WorkflowFacts]:
    """told_to: the position up to which the region that asks has everything. Raises UNAVAILABLE, StoreError."""
    for _ in range(LOOKS_MAX):
        left_count = look.shard.left_count
        stored = [await _stored_runs(look, workflow_id) for workflow_id in workflow_ids]
        memory = _memory_of(look, set(workflow_ids))
        found = [
            await _workflow(look, workflow_id, rows, memory, told_to)
            for workflow_id, rows in zip(workflow_ids, stored, strict=True)
        ]
        if not look.shard.is_open:
            raise shard_is_moving()
        if left_count == look.shard.left_count:  # else a run left memory meanwhile, and its row may have been older
            return found
    raise shard_is_moving()


def _memory_of(look: Look, workflow_ids: set[str]) -> _Memory:
    memory = _Memory({}, {})
    for key, run in look.shard.runs.items():
        if key.workflow_id in workflow_ids and key.namespace_id == look.namespace_id:
            memory.runs.setdefault(key.workflow_id, []).append(run)
    for one in look.tombstones():
        memory.tombstones.setdefault(one.key.workflow_id, []).append(one)
    return memory


async def _workflow(look: Look, workflow_id: str, stored: _Stored, memory: _Memory, told_to: int) -> WorkflowFacts:
    replicas = look.shard.replicas
    assert replicas is not None
    at_hand = {**stored.runs, **{run.key.run_id: run for run in memory.runs.get(workflow_id, ())}}
    current = _current_of(look, workflow_id, stored.current_run_id)
    runs = dict(stored.damaged)
    dead: set[str] = set()
    fading: set[str] = set()
    untold: set[str] = set()
    for run_id, run in at_hand.items():
        if run.position > told_to:
            untold.add(run_id)
        if run.state.is_deleted:
            (fading if run.key in replicas.expired else dead).add(run_id)
            continue
        if look.is_over(look.over_at(run.state), look.limits.fading_margin_s):
            fading.add(run_id)
        runs[run_id] = await run_facts(look, run)
    for one in memory.tombstones.get(workflow_id, ()):
        if one.position > told_to:
            untold.add(one.key.run_id)
        (fading if look.is_fading(one) else dead).add(one.key.run_id)
    for key, reason in look.shard.set_aside_runs.items():
        if (key.namespace_id, key.workflow_id) == (look.namespace_id, workflow_id):
            runs[key.run_id] = look.damaged(reason)
    current = current if current in runs else ""
    told = tuple(sorted(dead - set(runs))), tuple(sorted(fading)), tuple(sorted(untold))
    return WorkflowFacts(workflow_id, current, runs, *told)


class _Stored(NamedTuple):
    """The rows of a workflow id, and the run that the store's pointer names."""

    runs: dict[str, Run]
    damaged: dict[str, RunFacts]
    current_run_id: str


async def _stored_runs(look: Look, workflow_id: str) -> _Stored:
    runs: dict[str, Run] = {}
    damaged: dict[str, RunFacts] = {}
    current, after, limit = "", RunKey(look.namespace_id, workflow_id, ""), WORKFLOW_PAGE_RUNS
    while True:
        page = await look.shard.store.runs(look.shard.id, after, limit)
        for key in page.corrupt:
            if (key.namespace_id, key.workflow_id) == (look.namespace_id, workflow_id):
                damaged[key.run_id] = look.damaged("its row cannot be read")
        rows = [row for row in page if (row.key.namespace_id, row.key.workflow_id) == (look.namespace_id, workflow_id)]
        for row in rows:
            current = row.key.run_id if row.is_current else current
            try:
                runs[row.key.run_id] = _run_of_row(look, row)
            except CorruptRecord as error:
                damaged[row.key.run_id] = look.damaged(str(error))
        if len(page) < limit or len(rows) < len(page):
            return _Stored(runs, damaged, current)
        after, limit = page[-1].key, look.limits.page_runs
