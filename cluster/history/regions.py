"""What history must know of the other regions: whether a namespace is active here, and under which version it is written.

A passive namespace has no effects and no wake-ups here, except the end of a retention: its runs only follow what the active
region did. Everything that is owed is a function of the state, so becoming active needs nothing but another look at the runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cluster.core.branches import NOT_REPLICATED, owner_of
from cluster.core.errors import CallerError, unavailable
from cluster.core.state import RunState
from cluster.namespaces.record import NamespaceRecord
from cluster.namespaces.regions import is_active_here

RunName = tuple[str, str, str]


class Regions(Protocol):
    hidden: set[RunName]  # open runs whose workflow id another run has: they do nothing until the active region ends them

    def is_active(self, namespace_id: str) -> bool: ...

    def is_replicated(self, namespace_id: str) -> bool:
        """Whether other regions have the namespace, too."""
        ...

    def version(self, namespace_id: str) -> int:
        """The failover version under which this region would write."""
        ...

    def is_ours(self, version: int) -> bool:
        """Whether this region is the one that may write under that version."""
        ...

    def adopts_activities(self, namespace_id: str) -> bool:
        """Whether an activity's result that only a losing branch has counts where the winner still waits for it."""
        ...


class OneRegion:
    """There is no other region."""

    def __init__(self) -> None:
        self.hidden: set[RunName] = set()

    def is_active(self, namespace_id: str) -> bool:
        return True

    def is_replicated(self, namespace_id: str) -> bool:
        return False

    def version(self, namespace_id: str) -> int:
        return NOT_REPLICATED

    def is_ours(self, version: int) -> bool:
        return True

    def adopts_activities(self, namespace_id: str) -> bool:
        return False


def written_version(state: RunState) -> int:
    """The failover version of the run's last transition."""
    return state.transition_history[-1][1] if state.transition_history else NOT_REPLICATED


def acts_for(regions: Regions, state: RunState) -> bool:
    """Whether this region does what the run owes, and waits for its timers."""
    return may_write(regions, state) and not (state.is_open and regions.hidden and run_name(state) in regions.hidden)


def run_name(state: RunState) -> RunName:
    return state.namespace_id, state.workflow_id, state.run_id


def may_write(regions: Regions, state: RunState) -> bool:
    """Whether this region writes the run. Not where another has written it under a higher version: then the namespace has moved
    there, and this region has not heard of it yet."""
    return regions.is_active(state.namespace_id) and written_version(state) <= regions.version(state.namespace_id)


# Of a namespace that is active here: whether a durable write may be acknowledged now (replication/control.py, strict mode).
MayAcknowledge = Callable[[str], bool]


def always(namespace_id: str) -> bool:
    """There is no witness, or the region goes on without it."""
    return True


def require_acknowledgeable(was_active: bool, may_acknowledge: MayAcknowledge, namespace_id: str) -> None:
    """The last step before an answer leaves: what was done is durable, and this region may still say so. was_active: when the
    call came; what a passive region shows is no acknowledgement. Raises UNAVAILABLE."""
    if was_active and not may_acknowledge(namespace_id):
        raise unavailable(
            "This region's lease at the witness has run out, so nothing is acknowledged: retry with the same request id."
        )


class ById(Protocol):
    def by_id(self, id: str) -> NamespaceRecord: ...


ADOPTS_ACTIVITIES = "outlast.adopt-activities"  # in the data of a namespace: "true"


class RegionsOfRecords:
    """As the records of the namespaces say. A namespace that is gone is treated as one of this region alone."""

    def __init__(self, namespaces: ById, cluster: str, initial_version: int) -> None:
        self._namespaces, self._cluster, self._initial_version = namespaces, cluster, initial_version
        self.hidden: set[RunName] = set()

    def is_active(self, namespace_id: str) -> bool:
        record = self._global(namespace_id)
        return record is None or is_active_here(record, self._cluster)

    def is_replicated(self, namespace_id: str) -> bool:
        record = self._global(namespace_id)
        return record is not None and record.is_replicated

    def version(self, namespace_id: str) -> int:
        record = self._global(namespace_id)
        return NOT_REPLICATED if record is None else record.failover_version

    def is_ours(self, version: int) -> bool:
        return version == NOT_REPLICATED or owner_of(version) == self._initial_version

    def adopts_activities(self, namespace_id: str) -> bool:
        record = self._global(namespace_id)
        return record is not None and record.data.get(ADOPTS_ACTIVITIES) == "true"

    def _global(self, namespace_id: str) -> NamespaceRecord | None:
        try:
            record = self._namespaces.by_id(namespace_id)
        except CallerError:
            return None
        return record if record.is_global else None
