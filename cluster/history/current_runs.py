"""Which run of a workflow id is the current one, of those in a shard's memory. The store keeps a pointer for the others.

What begins here is current when it begins: the shard's single writer puts runs one behind the other. Runs that another region
wrote may arrive in any order, so there the better claim decides (cluster/core/merge.py), in all regions alike.

A deleted run keeps its place: after it there is no current run until one with a better claim comes, in whatever order the
regions hear of the runs, and however far the store's pointer had followed. In memory the deleted run itself stands for that, or
one made in its stead; the next checkpoint moves the pointer to it and removes both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from cluster.core.branches import NOT_REPLICATED
from cluster.core.merge import RunClaim, claim_of
from cluster.core.state import RunState
from cluster.core.transition import Context
from cluster.history.regions import written_version
from cluster.history.run import Run, feed_signature
from cluster.stores.base import RunKey

Name = tuple[str, str]
Rank = tuple[bool, int, int, int, str]


class Buried(NamedTuple):
    """A run that was deleted, and the claim that it had."""

    key: RunKey
    claim: RunClaim


def name_of(key: RunKey) -> Name:
    return key.namespace_id, key.workflow_id


def nobody(namespace_id: str, workflow_id: str) -> Sequence[Buried]:
    """Without other regions no deleted run is remembered."""
    return ()


class CurrentRuns:
    """One shard's."""

    def __init__(self, buried: Callable[[str, str], Sequence[Buried]]) -> None:
        """buried: the deleted runs of the workflow id."""
        self._buried = buried
        self._runs: dict[Name, Run] = {}
        self._contenders: dict[Name, set[Run]] = {}  # of the runs that another region has written, those in memory
        self.on_vacant: Callable[[Run], None] = lambda deleted: None  # it is to be checkpointed
        self.on_begin: Callable[[Run], None] = lambda run: None  # it is the current one now
        self.on_beaten: Callable[[Run], None] = lambda run: None  # open, and another region's has its place
        self.find: Callable[[RunKey], Run | None] = lambda key: None  # a run in memory

    def get(self, name: Name) -> Run | None:
        return self._runs.get(name)

    def is_beyond(self, new: RunState, version: int) -> bool:
        """Whether another region has written the current run (or one that is deleted) under a higher version: then no run of
        its id begins here."""
        name = new.namespace_id, new.workflow_id
        current = self._runs.get(name)
        if current is not None and written_version(current.state) > version:
            return True
        return any(one.claim.last_version > version for one in self._buried(*name))

    def begins_at(self, name: Name, context: Context) -> int:
        """The time of a run that begins now: later than that of the run before it, whatever the clocks say, since regions tell
        the later one by it."""
        if context.version == NOT_REPLICATED:
            return context.now
        former = self._runs.get(name)
        before = [one.claim.began_at for one in self._buried(*name)]
        if former is not None:
            before.append(former.state.took_id_at)
        return max([context.now, *(at + 1 for at in before)])

    def begins(self, run: Run, *, is_replay: bool = False) -> None:
        """The run has taken the place of the one before it. is_replay: what it became is replayed yet (see `replayed`)."""
        former = self._runs.get(name_of(run.key))
        if former is not None and former is not run:
            former.is_current = former.is_pointed_to = False
        run.is_current = True
        self._runs[name_of(run.key)] = run
        if run.state.next_event_id > 1 and not is_replay:  # one that begins now has no state yet, and comes after all others
            self.make_place(name_of(run.key))
        self.on_begin(run)

    def claims(self, run: Run) -> Run | None:
        """Another region has written the run. The store's current run must be in memory. Returns the run that becomes current."""
        name = name_of(run.key)
        former = self._runs.get(name)
        contenders = self._contenders.setdefault(name, set())
        contenders.add(run)
        best = former
        if former is run:  # it may have been closed, or beaten
            live = [one for one in contenders if not one.state.is_deleted]
            best = max([*live, run], key=_rank_of)
        elif not run.state.is_deleted and (former is None or former.state.is_deleted or _rank_of(run) > _rank_of(former)):
            best = run
        if best is None or best is former or self._later_dead(name, best) is not None:
            self.make_place(name)
            return None
        self.begins(best)
        if former is not None:
            contenders.add(former)
            if former.state.is_open and not former.state.is_deleted:
                self.on_beaten(former)
        return best

    def losers(self, name: Name) -> list[Run]:
        """Of the runs in memory, those that are open although another has their place."""
        found = [one for one in self._contenders.get(name, ()) if one.state.is_open and not one.state.is_deleted]
        return sorted((one for one in found if not one.is_current), key=lambda one: one.key)

    def loaded(self, run: Run) -> None:
        """The store's pointer names this run. A run in memory may have become current since."""
        run.is_current = self._runs.setdefault(name_of(run.key), run) is run
        self.make_place(name_of(run.key))
        if run.is_current:
            self.on_begin(run)

    def make_place(self, name: Name) -> None:
        """If a deleted run came after the one that is current, there is none."""
        current = self._runs.get(name)
        if current is None or current.state.is_deleted or (dead := self._later_dead(name, current)) is None:
            return
        self._contenders.setdefault(name, set()).add(current)
        found = self.find(dead)
        deleted = found if found is not None and found.state.is_deleted else _stand_in(dead)
        current.is_current = current.is_pointed_to = False
        deleted.is_current = True
        self._runs[name] = deleted
        self.on_vacant(deleted)
        if current.state.is_open:
            self.on_beaten(current)

    def contend_again(self, name: Name) -> Run | None:
        """A deleted run's claim is less than it seemed. Returns the run that becomes current."""
        became = None
        for one in sorted(self._contenders.get(name, ()), key=lambda one: one.key):
            if not one.state.is_deleted and not one.is_evicted:
                became = self.claims(one) or became
        return became

    def replayed(self) -> list[Run]:
        """All entries are folded: only now is it known what each run claims. Returns the current runs."""
        for name in list(self._runs):
            self.contend_again(name)
            self.make_place(name)
        return list(self._runs.values())

    def who_beats(self, loser: Run) -> Run | None:
        """The run that has the place of this one: the current one, or one that stands for a deleted run that came after it."""
        current = self._runs.get(name_of(loser.key))
        if current is None and (dead := self._later_dead(name_of(loser.key), loser)) is not None:
            return _stand_in(dead)
        return None if current is loser else current

    def _later_dead(self, name: Name, run: Run) -> RunKey | None:
        """The deleted run, if any, whose claim is better than that of this one."""
        former = self._runs.get(name)
        in_memory = [*self._contenders.get(name, ()), *([] if former is None else [former])]
        dead = {one.key: one for one in self._buried(*name)}
        for one in in_memory:
            if one.state.is_deleted and not one.is_stand_in:
                dead.setdefault(one.key, Buried(one.key, claim_of(one.state)))
        dead.pop(run.key, None)
        if not dead:
            return None
        last = max(dead.values(), key=lambda one: _rank(one.claim))
        return last.key if _rank(last.claim) > _rank_of(run) else None

    def leaves(self, run: Run) -> None:
        """The run leaves memory: then the store's pointer may name a run that came after it."""
        if self._runs.get(name_of(run.key)) is run:
            del self._runs[name_of(run.key)]
        contenders = self._contenders.get(name_of(run.key))
        if contenders is not None:
            contenders.discard(run)
            if not contenders:
                del self._contenders[name_of(run.key)]

    def clear(self) -> None:
        self._runs.clear()
        self._contenders.clear()


def _stand_in(key: RunKey) -> Run:
    """Of a deleted run that is not in memory: it only says that nobody has its place."""
    state = RunState(key.namespace_id, key.workflow_id, key.run_id, is_deleted=True)
    run = Run(key, state, is_current=True, position=0, stored_event_id=0)
    run.is_stand_in = True
    run.fed = feed_signature(state)
    return run


def lesser_claim(one: RunClaim | None, other: RunClaim | None) -> RunClaim | None:
    """Of one deleted run, as two regions have deleted it: the end that each gave it must not make its claim a better one."""
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda claim: _rank(claim))


def _rank_of(run: Run) -> Rank:
    return _rank(claim_of(run.state))


def _rank(claim: RunClaim) -> Rank:
    """As winner_of_runs, but a run whose place another has taken comes last. Whether a run is open has no say: a claim must not
    fall when the run closes, since what it displaced may have left memory by then."""
    return claim.is_last_of_chain, claim.last_version, claim.start_version, claim.began_at, claim.run_id
