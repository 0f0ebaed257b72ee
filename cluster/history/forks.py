"""A fork: two regions have written the same run. The branch that loses is kept, readable; what was told to it is salvaged.

The rows that say so are durable before the journal is. So a crash at any point leaves either the fork as it was, and the sender,
which has no answer, sends again; or the outcome.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import structlog

from cluster.core.branches import Head, Point, contains, head_of, history_hash, lca_event, lca_transition
from cluster.core.events import join_framed, split_framed
from cluster.core.ledger import REAPPLIED, LedgerLine, Outcome
from cluster.core.reapply import reapply
from cluster.core.salvage import salvage
from cluster.core.state import RunState, SnapshotFormatError, checksum, decode_state, encode_state
from cluster.core.table import IllegalTransition
from cluster.history.foreign_entries import Change, append, at_hand, is_as_it_was, state_as_entry, store_events
from cluster.history.regions import acts_for
from cluster.history.replicas import KeptBranch, Replicas
from cluster.history.run import Run
from cluster.history.run_delta import LosingBranch, RunDelta
from cluster.history.shard import Shard
from cluster.stores.base import RunKey

log = structlog.get_logger("history")


class Poison(Exception):
    """The delta cannot be taken in, now or later: it goes into quarantine, and the run here stays as it is."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Arrived(NamedTuple):
    """A state that another region sent, read and compared with what it claims to be."""

    state: RunState
    head: Head
    encoded: bytes
    events_from: int
    events: list[bytes]

    def events_after(self, event_id: int) -> list[bytes]:
        return self.events[max(0, event_id + 1 - self.events_from) :]


def arrived(key: RunKey, head: Head, encoded: bytes, events_from: int, framed: bytes, digest: str = "") -> Arrived:
    """Raises Poison."""
    try:
        state = decode_state(encoded)
        events = list(split_framed(framed))
    except (SnapshotFormatError, msgspec.MsgspecError, ValueError, IndexError) as error:
        raise Poison(f"the state or the events cannot be read: {error!r}") from error
    if RunKey(state.namespace_id, state.workflow_id, state.run_id) != key:
        raise Poison(f"the state is of another run: {state.workflow_id} {state.run_id}")
    if head_of(state) != head:
        raise Poison("the state is not at the head that it was sent for")
    if digest and checksum(state) != digest:
        raise Poison("the state's checksum is not what the sender computed")
    if events_from + len(events) - 1 != head.last_event_id:
        raise Poison(f"events from {events_from} on, {len(events)} of them, do not end at {head.last_event_id}")
    found = Arrived(state, head, encoded, events_from, events)
    if events_from == 1:
        require_hash(head, events)
    return found


def require_hash(head: Head, events: list[bytes]) -> None:
    """events: from the first one on. Raises Poison."""
    if head.history_hash and history_hash(events) != head.history_hash:
        raise Poison("the events are not those that the state's hash is of")


# --- theirs wins -------------------------------------------------------------------------------------------------------


async def replace_branch(shard: Shard, run: Run, delta: RunDelta, common: Point, transition: Point) -> list[LedgerLine] | None:
    """Their branch becomes the run's history. None: the run has changed meanwhile, judge anew. Raises Poison, CallerError."""
    theirs = arrived(run.key, delta.head, delta.state, delta.events_from, delta.events, delta.checksum)
    async with shard.checkpointer.lock:  # a checkpoint would write our tail behind theirs
        state, key, replicas = run.state, run.key, _replicas(shard)
        prefix = await shard.events(run, 1, common.number)
        lost = await shard.events(run, common.number + 1, state.next_event_id - 1)
        news = theirs.events_after(common.number)
        require_hash(theirs.head, prefix + news)
        if not is_as_it_was(shard, run, key, state):
            return None
        number = replicas.next_number(key)
        await store_events(shard, key, run.branch, run.stored_event_id + 1, list(run.tail))
        await store_events(shard, key, number, 1, prefix + news)
        ledger = _ledger(shard, theirs.state, state, common.number, transition.number, lost, news)
        await replicas.keep(
            key,
            KeptBranch(run.branch, head_of(state), 1, encode_state(state), ledger),
            KeptBranch(number, theirs.head, 1),
        )
        if await at_hand(shard, key) is not run or not is_as_it_was(shard, run, key, state):
            return None
        done = append(shard, Change(key, run, theirs.state, [state_as_entry(shard, key, theirs.state, theirs.encoded)]))
    await done
    await _reapply(shard, run, ledger)
    return ledger


# --- ours wins ---------------------------------------------------------------------------------------------------------


async def keep_loser(shard: Shard, run: Run, loser: LosingBranch) -> list[LedgerLine]:
    """Their branch is kept beside ours; where this region is active, what was told to it is appended to ours, once.

    Raises Poison, CallerError, StoreError.
    """
    key, replicas = run.key, _replicas(shard)
    theirs = arrived(key, loser.head, loser.state, loser.events_from, loser.events)
    while True:
        state = run.state
        head = head_of(state)
        if contains(head, loser.head):
            return []  # it has not lost after all
        common, transition = lca_event(head, loser.head).number, lca_transition(head, loser.head).number
        if theirs.events_from > common + 1:
            raise Poison(f"events of the losing branch from {theirs.events_from} on, and {common + 1} is where it begins")
        ours = await shard.events(run, common + 1, state.next_event_id - 1)
        news = theirs.events_after(common)
        ledger = _ledger(shard, state, theirs.state, common, transition, news, ours)
        same = next((one for one in replicas.losers(key, state) if contains(one.head, loser.head)), None)
        if same is not None and same.head != loser.head:
            return []  # a longer piece of the same branch was kept and salvaged
        number = 0
        if same is not None:
            number, ledger = same.number, _told_before(same.ledger, ledger)
        else:
            number = replicas.next_number(key)
            await store_events(shard, key, number, common + 1, news)
        await replicas.keep(key, KeptBranch(number, loser.head, common + 1, loser.state, ledger))
        if is_as_it_was(shard, run, key, state):
            await _reapply(shard, run, ledger)
            return ledger
        shard.require_open()
        again = await at_hand(shard, key)
        if again is None or again.state.is_deleted:
            return ledger
        run = again


async def losing_branch(shard: Shard, key: RunKey, winner: RunState, kept: KeptBranch) -> LosingBranch:
    """A branch that was kept, as it is told: with its events from the fork on. Raises StoreError."""
    first = max(kept.events_from, lca_event(head_of(winner), kept.head).number + 1)
    events: list[bytes] = []
    for blob in await shard.store.history(shard.id, key, kept.number, first, kept.head.last_event_id):
        for event_id, event in enumerate(split_framed(blob.data), blob.first_event_id):
            if first <= event_id <= kept.head.last_event_id:
                events.append(event)
    return LosingBranch(kept.head, kept.state, first, join_framed(events))


async def salvage_kept(shard: Shard, namespace_id: str) -> None:
    """This region has become active: what was told to branches that lost while it was passive is its to append now.

    Raises CallerError, StoreError.
    """
    for key in _replicas(shard).forked(namespace_id):
        run = await at_hand(shard, key)
        if run is None or run.state.is_deleted:
            continue
        for kept in _replicas(shard).losers(key, run.state):
            try:
                await keep_loser(shard, run, await losing_branch(shard, key, run.state, kept))
            except Poison as error:
                log.error("a branch that was kept cannot be salvaged", run=key, branch=kept.number, reason=error.reason)


def _ledger(
    shard: Shard,
    winner: RunState,
    loser: RunState,
    common_event_id: int,
    common_transition: int,
    loser_events: list[bytes],
    winner_events: list[bytes],
) -> list[LedgerLine]:
    """The active region says what becomes of the loser; the others are told by its transitions."""
    if not acts_for(shard.regions, winner):
        return []
    try:
        return salvage(
            winner,
            loser,
            common_event_id=common_event_id,
            common_transition=common_transition,
            loser_events=loser_events,
            winner_events=winner_events,
        )
    except (ValueError, IllegalTransition) as error:
        raise Poison(f"the losing branch cannot be salvaged: {error!r}") from error


def _told_before(before: list[LedgerLine], now: list[LedgerLine]) -> list[LedgerLine]:
    """The same branch once more: what was appended the first time is a duplicate now, and its line stays as it was."""
    known = {(line.source, line.number): line for line in before if line.outcome in REAPPLIED}
    return [known.get((line.source, line.number), line) if line.outcome is Outcome.DUPLICATE else line for line in now]


async def _reapply(shard: Shard, run: Run, ledger: list[LedgerLine]) -> None:
    """An ordinary transition of the winner. What was appended once is known by its key."""
    lines = [line for line in ledger if line.outcome is Outcome.REAPPLY]
    if not lines or not run.state.is_open or run.is_evicted or not acts_for(shard.regions, run.state):
        return
    t = shard.begin(run)
    for line in lines:
        reapply(t, line)
    await shard.commit((run, t))


def _replicas(shard: Shard) -> Replicas:
    assert shard.replicas is not None, "a shard that knows of no other regions was told of one"
    return shard.replicas
