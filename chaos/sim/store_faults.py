"""Every store call of every canonical workflow fails once, in every way: nothing may be lost or done twice."""

from __future__ import annotations

from chaos.sim.canonical import STORIES
from chaos.sim.config import WorldConfig
from chaos.sim.faults import FaultPlan
from chaos.sim.one_fault import OneFault, Report, Target, Try
from chaos.sim.one_fault import run_all as run_all_of
from chaos.sim.one_fault import run_once as run_one_of
from chaos.sim.peer_calls import nothing_wrong
from chaos.sim.region import Plans
from cluster.config import ShardConfig
from cluster.stores.faulty import Fault, FaultKind, kinds_for

__all__ = ["STORIES", "Report", "run_all", "run_once"]


def _plans(one: OneFault, none: FaultPlan) -> Plans:
    def store(_: int, method: str) -> Fault | None:
        kind = one.next(method)
        return Fault(FaultKind(kind)) if kind is not None else None

    return Plans(store, none, none, none, none, none, nothing_wrong)


STORE = Target(
    # Short checkpoints and no idle runs in memory: every kind of store call occurs within a few seconds.
    WorldConfig(shards=1, shard=ShardConfig(checkpoint_interval_ns=300_000_000, idle_runs_in_memory_max=0)),
    (FaultKind.ERROR_BEFORE, FaultKind.ERROR_AFTER, FaultKind.UNKNOWN_NOT_EXECUTED, FaultKind.LEASE_LOST),
    kinds_for,
    _plans,
)


def run_once(name: str, index: int = -1, kind: FaultKind | None = None) -> Try:
    return run_one_of(STORE, name, index, kind)


def run_all(name: str, every: int = 1, offset: int = 0) -> Report:
    return run_all_of(STORE, name, every, offset)
