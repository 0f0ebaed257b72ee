"""Which run of a workflow id is the current one, of those in a shard's memory. The store keeps a pointer for the others.

What begins here is current when it begins: the shard's single writer puts runs one behind the other. Runs that another region
wrote may arrive in any order, so there the better claim decides (cluster/core/merge.py), in all regions alike.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.core.merge import RunClaim, claim_of
from cluster.core.state import RunState
from cluster.history.regions import written_version
from cluster.history.run import Run
from cluster.stores.base import RunKey

Name = tuple[str, str]
Rank = tuple[bool, int, bool, int, int, str]


def name_of(key: RunKey) -> Name:
    return key.namespace_id, key.workflow_id


def nobody(namespace_id: str, workflow_id: str) -> RunClaim | None:
    """Without other regions no deleted run is remembered."""
    return None


class CurrentRuns:
    """One shard's."""

    def __init__(self, buried: Callable[[str, str], RunClaim | None]) -> None:
        """buried: the best claim of a deleted run of the workflow id."""
        self._buried = buried
        self._runs: dict[Name, Run] = {}
        self._contenders: dict[Name, set[Run]] = {}  # of the runs that another region has written, those in memory
        self.beaten: dict[Name, Run] = {}  # open runs that another region's has displaced

    def get(self, name: Name) -> Run | None:
        return self._runs.get(name)

    def is_beyond(self, new: RunState, version: int) -> bool:
        """Whether another region has written the current run under a higher version: then no run of its id begins here."""
        current = self._runs.get((new.namespace_id, new.workflow_id))
        return current is not None and written_version(current.state) > version

    def begins(self, run: Run) -> None:
        """The run has taken the place of the one before it."""
        former = self._runs.get(name_of(run.key))
        if former is not None:
            former.is_current = False
        run.is_current = True
        self._runs[name_of(run.key)] = run

    def claims(self, run: Run) -> Run | None:
        """Another region has written the run. The store's current run must be in memory. Returns the run that becomes current."""
        name = name_of(run.key)
        former = self._runs.get(name)
        self._contenders.setdefault(name, set()).add(run)
        if former is run:  # it may have been closed, or beaten
            best = max((one for one in self._contenders[name] if not one.state.is_deleted), key=_rank_of, default=run)
            if best is run or _rank_of(best) <= _rank_of(run):
                return None
            self.begins(best)
            return best
        if former is not None and not former.state.is_deleted:
            is_better = _rank_of(run) > _rank_of(former)
        else:  # a closed run does not take the place of a deleted one that came after it
            claim = self._buried(*name) if former is None else claim_of(former.state)
            is_better = claim is None or run.state.is_open or _rank_of(run) > _rank(claim, False)
        if not is_better:
            return None
        if former is not None:
            self._contenders[name].add(former)
            if former.state.is_open and run.state.is_open:
                self.beaten[name] = former
        self.begins(run)
        return run

    def loaded(self, run: Run) -> None:
        """The store's pointer names this run. A run in memory may have become current since."""
        run.is_current = self._runs.setdefault(name_of(run.key), run) is run

    def leaves(self, run: Run) -> None:
        """The run leaves memory, or is deleted: then the store's pointer may name a run that came after it."""
        if self._runs.get(name_of(run.key)) is run:
            del self._runs[name_of(run.key)]
        if self.beaten.get(name_of(run.key)) is run:
            del self.beaten[name_of(run.key)]
        contenders = self._contenders.get(name_of(run.key))
        if contenders is not None:
            contenders.discard(run)
            if not contenders:
                del self._contenders[name_of(run.key)]

    def clear(self) -> None:
        self._runs.clear()
        self.beaten.clear()
        self._contenders.clear()


def _rank_of(run: Run) -> Rank:
    return _rank(claim_of(run.state), run.state.is_open and not run.state.is_deleted)


def _rank(claim: RunClaim, is_open: bool) -> Rank:
    """As winner_of_runs, but a run whose place another has taken comes last, and of one version's runs an open one comes first:
    the end that a region gives to a run that lost is written under its own version, and must not make it the current one."""
    return (
        claim.is_last_of_chain,
        claim.last_version,
        is_open,
        claim.start_version,
        claim.started_at,
        claim.run_id,
    )
