"""Which run of a workflow id is the current one, of those in a shard's memory. The store keeps a pointer for the others.

What begins here is current when it begins: the shard's single writer puts runs one behind the other. Runs that another region
wrote may arrive in any order, so there the better claim decides (cluster/core/merge.py), in all regions alike.
"""

from __future__ import annotations

from cluster.core.merge import claim_of
from cluster.core.state import RunState
from cluster.history.run import Run
from cluster.stores.base import RunKey

Name = tuple[str, str]


def name_of(key: RunKey) -> Name:
    return key.namespace_id, key.workflow_id


class CurrentRuns:
    """One shard's."""

    def __init__(self) -> None:
        self._runs: dict[Name, Run] = {}
        self.beaten: dict[Name, Run] = {}  # open runs that another region's has displaced

    def get(self, name: Name) -> Run | None:
        return self._runs.get(name)

    def begins(self, run: Run) -> None:
        """The run has taken the place of the one before it."""
        former = self._runs.get(name_of(run.key))
        if former is not None:
            former.is_current = False
        run.is_current = True
        self._runs[name_of(run.key)] = run

    def claims(self, run: Run) -> None:
        """Another region has written the run. The store's current run must be in memory."""
        former = self._runs.get(name_of(run.key))
        if former is run:
            return
        if former is None or former.state.is_deleted or _is_better(run, former):
            if former is not None and former.state.is_open and run.state.is_open:
                self.beaten[name_of(run.key)] = former
            self.begins(run)

    def loaded(self, run: Run) -> None:
        """The store's pointer names this run. A run in memory may have become current since."""
        run.is_current = self._runs.setdefault(name_of(run.key), run) is run

    def leaves(self, run: Run) -> None:
        """The run leaves memory, or is deleted: then the store's pointer may name a run that came after it."""
        if self._runs.get(name_of(run.key)) is run:
            del self._runs[name_of(run.key)]
        if self.beaten.get(name_of(run.key)) is run:
            del self.beaten[name_of(run.key)]

    def clear(self) -> None:
        self._runs.clear()
        self.beaten.clear()


def _is_better(run: Run, than: Run) -> bool:
    return _rank(run.state) > _rank(than.state)


def _rank(state: RunState) -> tuple[int, bool, bool, int, int, str]:
    """As winner_of_runs, but for one version's runs an open one comes first, then one that nothing has taken the place of: the
    end that a region gives to a run that lost is written under its own version, and must not make that run the current one."""
    claim = claim_of(state)
    return (
        claim.last_version,
        state.is_open,
        claim.is_last_of_chain,
        claim.start_version,
        claim.started_at,
        claim.run_id,
    )
