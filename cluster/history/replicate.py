"""A shard takes in what another region tells of a run: `replicate(shard, delta)`.

verdict (core/merge.py)  what follows
-----------------------  ------------------------------------------------------------------------------------------------
known                    nothing, once what we have is durable
extends, by entries      the same entry bytes go into our journal, and the same fold applies them
extends, by a snapshot   the events are stored, then one entry with the state as its base is appended
gap                      Wanted: the sender shall send a snapshot, with the events from the first one that we lack
fork, theirs wins        their history is stored under another branch number, then as a snapshot; ours is kept (forks.py)
fork, ours wins          theirs is kept; where this region is active, what was told to it is appended to ours
contradiction, poison    Poison: the caller puts the delta into quarantine; the run here stays as it is

Between the last look at a run and the append there is no `await`, as everywhere in a shard. Whatever was written to the store
before that does no harm if the run has changed meanwhile: the delta is judged anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cluster.core.apply import apply_entry, new_state
from cluster.core.branches import NOTHING, Head, contains, head_of, lca_event
from cluster.core.entry import DeletedNote, Entry, decode_entry
from cluster.core.errors import CallerError, Code
from cluster.core.ledger import LedgerLine
from cluster.core.machines import lifecycle
from cluster.core.merge import Contradiction, Extends, Gap, Known, Side, claim_of, merge
from cluster.core.state import RunState, checksum
from cluster.history.current_runs import lesser_claim, name_of
from cluster.history.foreign_entries import Change, append, at_hand, is_as_it_was, note_as_entry, state_as_entry, store_events
from cluster.history.forks import Poison, arrived, keep_loser, replace_branch
from cluster.history.inboxes import has_waiting
from cluster.history.journal import shard_is_moving
from cluster.history.regions import may_write
from cluster.history.run import Run
from cluster.history.run_delta import LosingBranch, RunDelta, needs_snapshot
from cluster.history.shard import Shard
from cluster.stores.base import RunKey, StoreError

IDENTITY = "history-service"
EventsAfter = Callable[[int], list[bytes]]


class Applied(NamedTuple):
    """All that the delta says is durable here. ledger: what became of the branch that lost, where this region is active."""

    ledger: tuple[LedgerLine, ...] = ()


class Wanted(NamedTuple):
    """A snapshot, please: this is what we have, and the first event that we lack."""

    have: Head
    events_from: int


async def replicate(shard: Shard, delta: RunDelta) -> Applied | Wanted:
    """Raises Poison; CallerError UNAVAILABLE and NotHere: the same delta may be taken in later."""
    assert shard.replicas is not None, "a shard that knows of no other regions was told of one"
    try:
        while True:
            outcome = await _judge(shard, await at_hand(shard, delta.key), delta)
            if outcome is not None:
                return outcome
    except StoreError as error:
        raise shard_is_moving() from error
    except CallerError as error:
        if error.code is Code.UNAVAILABLE:
            raise
        raise Poison(f"{error.code.name}: {error.message}") from error


async def _judge(shard: Shard, run: Run | None, delta: RunDelta) -> Applied | Wanted | None:
    """None: something has changed meanwhile, judge anew."""
    key, replicas = delta.key, shard.replicas
    assert replicas is not None
    if delta.tombstone:
        return await _bury(shard, run, delta)
    if delta.is_nothing or replicas.is_dead(key) or (run is not None and run.state.is_deleted):
        return await _known(shard, run, delta)
    ours = NOTHING if run is None else head_of(run.state)
    kept = [] if run is None else replicas.losers(key, run.state)
    verdict = merge(ours, delta.head, base=delta.base, events_from=delta.events_from, kept=[one.head for one in kept])
    if isinstance(verdict, Contradiction):
        raise Poison(verdict.reason)
    if isinstance(verdict, Gap):
        return Wanted(verdict.have, verdict.events_from)
    if isinstance(verdict, Known):
        return await _known(shard, run, delta)
    if isinstance(verdict, Extends):
        taken = _extend(shard, run, delta, verdict.skip) if delta.base is not None else _take_state(shard, run, delta)
        return await taken
    assert run is not None, "nothing cannot fork"
    if verdict.wins is Side.THEIRS:
        ledger = await replace_branch(shard, run, delta, verdict.event)
        return None if ledger is None else await _rest(shard, run, delta, ledger)
    loser = LosingBranch(delta.head, delta.state, delta.events_from, delta.events)
    return await _rest(shard, run, delta, await keep_loser(shard, run, loser))


async def _known(shard: Shard, run: Run | None, delta: RunDelta) -> Applied | Wanted:
    """What was kept before a crash may not have been salvaged yet: that is done again, and leads to nothing the second time."""
    ledger: list[LedgerLine] = []
    if run is not None and not run.state.is_deleted:
        await shard.durable(run)
        head = head_of(run.state)
        if delta.state and not contains(head, delta.head):
            if delta.events_from > (common := lca_event(head, delta.head).number) + 1:
                return Wanted(head, common + 1)  # it was asked for when another branch had won here
            loser = LosingBranch(delta.head, delta.state, delta.events_from, delta.events)
            ledger += await keep_loser(shard, run, loser)
    elif run is not None:
        await shard.durable(run)
    return await _rest(shard, run, delta, ledger)


async def _rest(shard: Shard, run: Run | None, delta: RunDelta, ledger: list[LedgerLine]) -> Applied | Wanted:
    """What came along with the run: the branches that it has beaten elsewhere, and the run that continues it."""
    if run is not None and not run.state.is_deleted:
        for loser in delta.losers:
            ledger = ledger + await keep_loser(shard, run, loser)
        ledger = ledger + await _look_at_others(shard, run)
    if delta.successor is not None:
        outcome = await replicate(shard, delta.successor)
        if isinstance(outcome, Wanted):
            return Wanted(delta.head, delta.head.last_event_id + 1)
        ledger = ledger + list(outcome.ledger)
    return Applied(tuple(ledger))


# --- entries -----------------------------------------------------------------------------------------------------------


async def _extend(shard: Shard, run: Run | None, delta: RunDelta, skip: int) -> Applied | Wanted | None:
    key, before = delta.key, None if run is None else run.state
    changes = [_extended(run, key, delta, skip)]
    following = delta.successor
    if following is not None and following.base is not None and following.base.is_empty:
        assert shard.replicas is not None
        there = await at_hand(shard, following.key)
        if await at_hand(shard, key) is not run or not is_as_it_was(shard, run, key, before):
            return None
        if there is None and following.key not in shard.runs and not shard.replicas.is_dead(following.key):
            changes.append(_extended(None, following.key, following, 0))  # a close and its successor are one append
    await append(shard, *changes)
    return await _rest(shard, shard.runs.get(key), delta, [])


def _extended(run: Run | None, key: RunKey, delta: RunDelta, skip: int) -> Change:
    """Raises Poison."""
    entries: list[tuple[Entry, bytes]] = []
    state: RunState = new_state(key.namespace_id, key.workflow_id, key.run_id) if run is None else run.state.fork()
    try:
        for data in delta.entries[skip:]:
            entry = decode_entry(data)
            if RunKey(entry.namespace_id, entry.workflow_id, entry.run_id) != key:
                raise Poison(f"an entry of another run: {entry.workflow_id} {entry.run_id}")
            if needs_snapshot([entry]):
                raise Poison("an entry with a base does not extend anything")
            state = apply_entry(state, entry)
            entries.append((entry, data))
    except Poison:
        raise
    except Exception as error:  # whatever the reason, this run alone stops
        raise Poison(f"the entries cannot be applied: {error!r}") from error
    if head_of(state) != delta.head:
        raise Poison("the entries do not lead to the head that they were sent for")
    if checksum(state) != delta.checksum:
        raise Poison("the state's checksum is not what the sender computed")
    return Change(key, run, state, entries)


# --- a snapshot --------------------------------------------------------------------------------------------------------


async def _take_state(shard: Shard, run: Run | None, delta: RunDelta) -> Applied | Wanted | None:
    theirs = arrived(delta.key, delta.head, delta.state, delta.events_from, delta.events, delta.checksum)
    is_kept = bool(theirs.state.closed_at) and not theirs.state.is_deleted
    if run is None and is_kept and not theirs.state.is_open and shard.ends_at(theirs.state) <= shard.clock.now_ns():
        return await _rest(shard, None, delta, [])  # its retention is over: it would be removed at once
    judged = None if run is None else run.state
    # A checkpoint that is under way would write less of the same events over these; another peer's branch of them, others.
    async with shard.checkpointer.lock:
        # It went on while this waited; or it came from another peer, was stored, and has left memory again.
        if await at_hand(shard, delta.key) is not run or not is_as_it_was(shard, run, delta.key, judged):
            return None
        done = await _append_state(shard, run, delta.key, theirs.state, theirs.encoded, theirs.events_after)
    return await _rest(shard, shard.runs.get(delta.key), delta, []) if done else None


async def _append_state(
    shard: Shard, run: Run | None, key: RunKey, state: RunState, encoded: bytes, events_after: EventsAfter
) -> bool:
    """False: the run has changed meanwhile."""
    assert shard.replicas is not None
    before = None if run is None else run.state
    if not is_as_it_was(shard, run, key, before):
        return False
    stored_event_id, tail = (0, []) if run is None else (run.stored_event_id, list(run.tail))
    events = tail + events_after(stored_event_id + len(tail))
    branch = shard.replicas.branch_of(key, state)
    if run is not None and branch != run.branch:  # it goes on under another number: of what is stored there the beginning lacks
        events, stored_event_id = await shard.events(run, 1, stored_event_id) + events, 0
    await store_events(shard, key, branch, stored_event_id + 1, events)
    if await at_hand(shard, key) is not run or not is_as_it_was(shard, run, key, before):
        return False
    await append(shard, Change(key, run, state, [state_as_entry(shard, key, state, encoded)]))
    return True


# --- the end of a run --------------------------------------------------------------------------------------------------


async def _bury(shard: Shard, run: Run | None, delta: RunDelta) -> Applied:
    """Deleted is deleted, whatever has happened to the run since: it comes back in no region."""
    assert shard.replicas is not None
    name = name_of(delta.key)
    if run is None:
        await shard.replicas.bury(delta.key, delta.tombstone, shard.journal.last_position, delta.claim)
        await shard.current(*name)
        shard.current_runs.make_place(name)
        current = shard.current_runs.get(name)
        if current is not None and current.state.is_deleted and current.is_dirty:
            await shard.checkpointer.write_runs([current.key])  # no entry of the journal says that nobody is current
        return Applied()
    if run.state.is_deleted:
        await shard.durable(run)
        is_first = not shard.replicas.is_dead(delta.key)  # else our own claim, if we have deleted it as well, is known
        claim = lesser_claim(delta.claim, claim_of(run.state)) if is_first else delta.claim
        await shard.replicas.bury(delta.key, delta.tombstone, run.position, claim)
        return Applied()
    # First, so that the claim is the one of who deleted it: ending it here would raise it, and what began later would lose.
    await shard.replicas.bury(delta.key, delta.tombstone, run.position, delta.claim or claim_of(run.state))
    if run.is_evicted or run.state.is_deleted:
        return await _bury(shard, await at_hand(shard, delta.key), delta)
    shard.replicas.expired.add(delta.key)  # who deleted it tells all others
    note = DeletedNote(delta.tombstone)
    if may_write(shard.regions, run.state):
        t = shard.begin(run)
        if run.state.is_open:
            lifecycle.terminate(t, reason="Delete workflow execution", details=None, identity=IDENTITY)
        t.note(note)
        await shard.commit((run, t))
    else:
        entry, data = note_as_entry(shard, run, note)
        await append(shard, Change(run.key, run, apply_entry(run.state.fork(), entry), [(entry, data)]))
    shard.current_runs.make_place(name)
    shard.replicas.contend_again(name)
    return Applied()


async def _look_at_others(shard: Shard, run: Run) -> list[LedgerLine]:
    """The run may have lost its workflow id, or taken it from one that is open; it may hold what a later run is to be given."""
    assert shard.replicas is not None
    if has_waiting(run.state):
        await shard.replicas.inboxes.holders.note(run.key)
        await shard.replicas.inboxes.deliver(name_of(run.key))
    await shard.replicas.look_for_successor(run)
    ledger: list[LedgerLine] = []
    losers = shard.current_runs.losers(name_of(run.key))
    if run.state.is_open and not run.is_current and run not in losers:
        losers.append(run)  # it came before the shard was opened anew, and nobody has looked at it since
    for one in losers:
        ledger += await shard.replicas.end_or_note(one)
    return ledger
