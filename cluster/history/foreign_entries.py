"""Entries that another region wrote, or that say what it wrote: appended to our journal, and taken as the runs' state."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from cluster.core.branches import head_of
from cluster.core.entry import Base, Entry, Note, encode_entry
from cluster.core.events import join_framed
from cluster.core.state import RunState
from cluster.history.journal import shard_is_moving
from cluster.history.run import Run
from cluster.stores.base import HistoryBlob, RunKey, StoreError

if TYPE_CHECKING:
    from cluster.history.shard import Shard


class Change(NamedTuple):
    """run None: it is not here yet. entries: with their encoding."""

    key: RunKey
    run: Run | None
    state: RunState
    entries: list[tuple[Entry, bytes]]


async def at_hand(shard: Shard, key: RunKey) -> Run | None:
    """The run, deleted or not, with the current run of its workflow id in memory beside it. Raises CallerError."""
    while True:
        await shard.run(key)
        run = shard.runs.get(key)
        current = await shard.current(key.namespace_id, key.workflow_id)
        if shard.runs.get(key) is run and (current is None or not current.is_evicted):
            return run


def is_as_it_was(shard: Shard, run: Run | None, key: RunKey, state: RunState | None) -> bool:
    found = shard.runs.get(key)
    return found is run and (run is None or run.state is state)


def append(shard: Shard, *changes: Change) -> asyncio.Future[None]:
    """One append for all; done when it is durable. The runs, and the current ones beside them, must be at hand."""
    shard.require_open()
    position = shard.journal.add(*(data for change in changes for _, data in change.entries))
    for key, found, state, entries in changes:
        run = found
        if run is None:
            first_event_id = entries[0][0].first_event_id
            new = RunState(key.namespace_id, key.workflow_id, key.run_id)
            run = shard.runs[key] = Run(key, new, is_current=False, position=0, stored_event_id=first_event_id - 1)
        for entry, _ in entries:
            run.take(state, entry)
        run.branch = shard.branch_of(run)
        run.position = position
        shard.mark_dirty(run)
        shard.touched.setdefault(position, {})[run] = state
        if (current := shard.current_runs.claims(run)) is not None:
            shard.mark_dirty(current)  # the store's pointer follows its row
    shard.checkpointer.request()
    return shard.journal.durable(position)


def state_as_entry(shard: Shard, key: RunKey, state: RunState, encoded: bytes) -> tuple[Entry, bytes]:
    """No transition of the run: another region's state as it is. The events must have been stored."""
    last_event_id = state.next_event_id - 1
    version = head_of(state).last_transition.version
    entry = Entry(*_name(key), last_event_id + 1, shard.clock.now_ns(), [Base(encoded, last_event_id)], version)
    return entry, encode_entry(entry)


def note_as_entry(shard: Shard, run: Run, note: Note) -> tuple[Entry, bytes]:
    """A note of this region alone, on a run that is another's to write: under the version that the run has."""
    state = run.state
    version = head_of(state).last_transition.version
    entry = Entry(*_name(run.key), state.next_event_id, shard.clock.now_ns(), [note], version)
    return entry, encode_entry(entry)


async def store_events(shard: Shard, key: RunKey, branch: int, first_event_id: int, events: list[bytes]) -> None:
    """Durable at return. Raises UNAVAILABLE: the shard is dropped then, as after any failed write."""
    if not events:
        return
    blob = HistoryBlob(key, branch, first_event_id, first_event_id + len(events) - 1, join_framed(events))
    try:
        await shard.store.checkpoint(shard.lease, [], [blob], [], 0)
    except StoreError as error:
        shard.fail(error)
        raise shard_is_moving() from error


def _name(key: RunKey) -> tuple[str, str, str]:
    return key.namespace_id, key.workflow_id, key.run_id
