"""A fork: two regions have written the same run. The branch that loses is kept, readable; what was told to it is salvaged.

The rows that say so are durable before the journal is. So a crash at any point leaves either the fork as it was, and the sender,
which has no answer, sends again; or the outcome.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import structlog

from cluster.core.branches import Head, Point, contains, head_of, history_hash, lca_event
from cluster.core.events import join_framed, split_framed
from cluster.core.ledger import LedgerLine
from cluster.core.state import RunState, SnapshotFormatError, checksum, decode_state, encode_state
from cluster.history.events import events_of
from cluster.history.foreign_entries import Change, append, at_hand, is_as_it_was, state_as_entry, store_events
from cluster.history.journal import shard_is_moving
from cluster.history.replicas import KeptBranch, Replicas
from cluster.history.run import Run
from cluster.history.run_delta import LosingBranch, RunDelta
from cluster.history.salvaging import Lost, settle_loss
from cluster.history.salvaging import Poison as Poison
from cluster.history.shard import Shard
from cluster.stores.base import RunKey

log = structlog.get_logger("history")


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


async def replace_branch(shard: Shard, run: Run, delta: RunDelta, common: Point) -> list[LedgerLine] | None:
    """Their branch becomes the run's history. None: the run has changed meanwhile, judge anew. Raises Poison, CallerError."""
    theirs = arrived(run.key, delta.head, delta.state, delta.events_from, delta.events, delta.checksum)
    state, key, replicas = run.state, run.key, _replicas(shard)
    async with shard.checkpointer.lock:  # a checkpoint would write our tail behind theirs
        if not is_as_it_was(shard, run, key, state):  # it went on while this waited
            return None
        prefix = await shard.events(run, 1, common.number)
        lost = await shard.events(run, common.number + 1, state.next_event_id - 1)
        news = theirs.events_after(common.number)
        require_hash(theirs.head, prefix + news)
        if not is_as_it_was(shard, run, key, state):
            return None
        number = replicas.next_number(key)
        await store_events(shard, key, run.branch, run.stored_event_id + 1, list(run.tail))
        await store_events(shard, key, number, 1, prefix + news)
        await replicas.keep(
            key,
            KeptBranch(run.branch, head_of(state), 1, encode_state(state)),
            KeptBranch(number, theirs.head, 1),
        )
        if await at_hand(shard, key) is not run or not is_as_it_was(shard, run, key, state):
            return None
        done = append(shard, Change(key, run, theirs.state, [state_as_entry(shard, key, theirs.state, theirs.encoded)]))
    await done
    return await settle_loss(shard, key, Lost(state, 1, prefix + lost))


# --- ours wins ---------------------------------------------------------------------------------------------------------


async def keep_loser(shard: Shard, run: Run, loser: LosingBranch) -> list[LedgerLine]:
    """Their branch is kept beside ours; where this region is active, what was told to it is appended to ours, once.

    Raises Poison, CallerError, StoreError.
    """
    key = run.key
    theirs = arrived(key, loser.head, loser.state, loser.events_from, loser.events)
    if theirs.events_from > (common := lca_event(head_of(run.state), loser.head).number) + 1:
        raise Poison(f"events of the losing branch from {theirs.events_from} on, and {common + 1} is where it begins")
    async with shard.checkpointer.lock:  # else the branch may be replaced meanwhile, and two be kept under one number
        now = await at_hand(shard, key)  # it may have left memory, and gone on since
        if now is None or theirs.events_from > lca_event(head_of(now.state), loser.head).number + 1:
            raise shard_is_moving()  # it was replaced by one that parts from the loser earlier: it is asked for anew
        whole = await _from_the_first(shard, now, theirs)
        is_kept = await _keep(shard, now, theirs, loser.state)
    # The winner may change from here on, to one that parts from the loser earlier: all of its events are at hand.
    return await settle_loss(shard, key, Lost(theirs.state, whole.events_from, whole.events)) if is_kept else []


async def _keep(shard: Shard, run: Run, theirs: Arrived, encoded: bytes) -> bool:
    """False: it has not lost after all, or a longer piece of the same branch was kept and salvaged."""
    key, replicas, head = run.key, _replicas(shard), head_of(run.state)
    listed = replicas.losers(key, run.state)
    if contains(head, theirs.head) or any(one.head != theirs.head and contains(one.head, theirs.head) for one in listed):
        return False
    common = lca_event(head, theirs.head).number
    same = next((one for one in listed if contains(theirs.head, one.head)), None)
    if same is None:
        number = replicas.next_number(key)
        await store_events(shard, key, number, common + 1, theirs.events_after(common))
        await replicas.keep(key, KeptBranch(number, theirs.head, common + 1, encoded))
    elif same.head != theirs.head:  # it has grown
        last = same.head.last_event_id
        await store_events(shard, key, same.number, last + 1, theirs.events_after(last))
        await replicas.keep(key, KeptBranch(same.number, theirs.head, same.events_from, encoded))
    return True


async def _from_the_first(shard: Shard, run: Run, theirs: Arrived) -> Arrived:
    if theirs.events_from == 1:
        return theirs
    shared = await shard.events(run, 1, theirs.events_from - 1)
    return theirs._replace(events_from=1, events=shared + theirs.events)


async def losing_branch(shard: Shard, run: Run, kept: KeptBranch) -> LosingBranch:
    """A branch that was kept, as it is told: with all of its events, since where it forks off depends on which branch the other
    side has. Raises CallerError, StoreError."""
    events = await _events_of_branch(shard, run, kept, kept.head.last_event_id)
    return LosingBranch(kept.head, kept.state, kept.head.last_event_id - len(events) + 1, join_framed(events))


async def _events_of_branch(shard: Shard, run: Run, kept: KeptBranch, last: int) -> list[bytes]:
    """Up to that one. Those before the fork are in the branch it forked off from, which may have lost since."""
    first, shared = kept.events_from, kept.events_from - 1
    blobs = await shard.store.history(shard.id, run.key, kept.number, first, last) if first <= last else []
    events = events_of(blobs, first, last)
    if not shared:
        return events
    if lca_event(head_of(run.state), kept.head).number >= shared:
        return await shard.events(run, 1, shared) + events
    for other in _replicas(shard).listed(run.key):
        if other.events_from < first and lca_event(other.head, kept.head).number >= shared:
            return await _events_of_branch(shard, run, other, shared) + events
    return events


async def salvage_kept(shard: Shard, namespace_id: str) -> None:
    """This region has become active: what lost while it was passive is its to end, and what that was told is its to append now.

    Raises CallerError, StoreError.
    """
    replicas = _replicas(shard)
    for key in replicas.forked(namespace_id):
        run = await at_hand(shard, key)
        if run is None or run.state.is_deleted:
            continue
        for kept in replicas.losers(key, run.state):
            try:
                await keep_loser(shard, run, await losing_branch(shard, run, kept))
            except Poison as error:
                log.error("a branch that was kept cannot be salvaged", run=key, branch=kept.number, reason=error.reason)
    await replicas.look_again()


def _replicas(shard: Shard) -> Replicas:
    assert shard.replicas is not None, "a shard that knows of no other regions was told of one"
    return shard.replicas
