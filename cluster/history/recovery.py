"""Replay: what the journal holds beyond the rows is folded into memory when a shard is opened.

A row may be ahead of the journal's beginning (a checkpoint that was written but not truncated): what it contains already is
passed over. A run that cannot be replayed (its row is damaged, or its entries do not fit) is set aside alone, and the journal
is not truncated behind its first entry, since that may be the only copy of what was acknowledged.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from cluster.core.apply import apply_entry, new_state
from cluster.core.entry import Base, DeletedNote, Entry, decode_group
from cluster.core.state import RunState
from cluster.history.run import Run
from cluster.stores.base import CorruptRecord, JournalRecord, RunKey

if TYPE_CHECKING:
    from cluster.history.shard import Shard

log = structlog.get_logger("history")

LOADS_AT_ONCE = 64


class Replay:
    """One shard's, once."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._looked_up: set[RunKey] = set()
        self._foreign: set[RunKey] = set()  # runs with entries of other regions
        self._rowless: set[RunKey] = set()  # entries without a beginning: a deleted run, whose deletion must come yet

    async def run(self, after: int) -> None:
        """Raises StoreError (LeaseLost, if what does not fit is another owner's work), EntryFormatError for records of a newer
        version."""
        shard, journal = self._shard, self._shard.journal
        while records := await shard.store.read_journal(shard.id, after):
            groups = [(record.position, decode_group(record.data)) for record in records]
            await self._load_rows(groups)
            for position, entries in groups:
                for entry in entries:
                    self._take(position, entry)
            # Counted as not yet checkpointed: else a process that is killed again and again would never cut its journal.
            journal.entries_since_cut += sum(len(entries) for _, entries in groups)
            journal.bytes_since_cut += _bytes_of(records)
            after = records[-1].position
        if shard.set_aside_runs or self._rowless:
            # Rows and journal that do not fit together may be of two moments, with another owner's checkpoint in between.
            await shard.store.checkpoint(shard.lease, [], [], [], 0)
        await self._settle_current_runs()
        for key, reason in shard.set_aside_runs.items():
            log.error("a run cannot be replayed and is set aside", run=key, shard=shard.id, reason=reason)
        for key in self._rowless:
            log.error("a run's row is missing, and nothing says that it was deleted", run=key, shard=shard.id)

    async def _settle_current_runs(self) -> None:
        """A run that lost its place may have been replayed without the one that has it now."""
        shard = self._shard
        for current in shard.current_runs.replayed():
            state, successor = current.state, current.state.new_run_id or current.state.reset_run_id
            key = RunKey(state.namespace_id, state.workflow_id, successor)
            if shard.replicas is None or not successor or current.key not in self._foreign or key in shard.set_aside_runs:
                continue
            try:
                row = None if key in shard.runs else await shard.store.load(shard.id, key)
                run = shard.runs.get(key) or (None if row is None else shard.admit(row))
            except CorruptRecord as error:
                log.error("the row of a run that took another's place is corrupt", run=key, error=str(error))
                continue
            if run is not None and (became := shard.current_runs.claims(run)) is not None:
                shard.mark_dirty(became)

    async def _load_rows(self, groups: list[tuple[int, list[Entry]]]) -> None:
        places: dict[RunKey, int] = {}
        for position, entries in groups:
            for entry in entries:
                key = RunKey(entry.namespace_id, entry.workflow_id, entry.run_id)
                if key not in self._looked_up:
                    places.setdefault(key, position)
                if self._is_foreign(entry):
                    self._foreign.add(key)
        self._looked_up.update(places)
        keys = list(places)
        for start in range(0, len(keys), LOADS_AT_ONCE):
            await asyncio.gather(*(self._load_row(key, places[key]) for key in keys[start : start + LOADS_AT_ONCE]))

    async def _load_row(self, key: RunKey, position: int) -> None:
        shard = self._shard
        try:
            row = await shard.store.load(shard.id, key)
            if row is not None and key not in shard.runs:
                shard.admit(row)
            if key in self._foreign:  # it may have been written behind the back of the current run
                row = await shard.store.current_run(shard.id, key.namespace_id, key.workflow_id)
                if row is not None and row.key not in shard.runs:
                    shard.admit(row)
        except CorruptRecord as error:
            self._set_aside(error.key or key, str(error), position)

    def _take(self, position: int, entry: Entry) -> None:
        shard = self._shard
        key = RunKey(entry.namespace_id, entry.workflow_id, entry.run_id)
        if key in shard.set_aside_runs:
            return
        run = shard.runs.get(key)
        if run is None:
            if not _begins_run(entry):
                self._pass_over(key, entry)
                return
            state = new_state(key.namespace_id, key.workflow_id, key.run_id)
            run = Run(key, state, is_current=False, position=0, stored_event_id=0)
            shard.runs[key] = run
        if position <= run.position and run.position == run.row_position:
            if _begins_run(entry) and not self._is_foreign(entry) and not run.state.is_deleted:
                shard.current_runs.begins(run, is_replay=True)  # behind the runs that began before it
            return  # the row contains it
        is_first = run.state.next_event_id == 1
        try:
            state = apply_entry(run.state, entry)
        except Exception as error:  # poison: whatever the reason, this run alone stops
            self._set_aside(key, f"entry at journal position {position} cannot be applied: {error!r}", position)
            return
        self._keep(run, state, entry, position, is_first)

    def _keep(self, run: Run, state: RunState, entry: Entry, position: int, is_first: bool) -> None:
        """An entry of the journal that the run's row did not contain."""
        shard = self._shard
        run.take(state, entry)
        run.branch = shard.branch_of(run)
        run.position = position
        shard.mark_dirty(run)
        if self._is_foreign(entry):
            if (current := shard.current_runs.claims(run)) is not None:
                shard.mark_dirty(current)
        elif is_first:
            shard.current_runs.begins(run, is_replay=True)

    def _is_foreign(self, entry: Entry) -> bool:
        """Whether another region wrote it. What it is to the workflow id is then not said by the order in which it came."""
        is_bare_state = len(entry.items) == 1 and isinstance(entry.items[0], Base)
        return is_bare_state or not self._shard.regions.is_ours(entry.version)

    def _set_aside(self, key: RunKey, reason: str, position: int) -> None:
        """A run that cannot be replayed: it answers DATA_LOSS, the shard goes on."""
        shard = self._shard
        shard.set_aside_runs[key] = reason
        shard.truncation_max = min(position - 1, position if shard.truncation_max is None else shard.truncation_max)
        run = shard.runs.get(key)
        if run is not None:
            shard.dirty.pop(key, None)
            shard.forget(run)

    def _pass_over(self, key: RunKey, entry: Entry) -> None:
        """The run was deleted from the store, and the crash came before the truncation."""
        self._rowless.add(key)
        if any(isinstance(item, DeletedNote) for item in entry.items):
            self._rowless.discard(key)


def _begins_run(entry: Entry) -> bool:
    return entry.first_event_id == 1 or isinstance(entry.items[0], Base)


def _bytes_of(records: list[JournalRecord]) -> int:
    return sum(len(record.data) for record in records)
