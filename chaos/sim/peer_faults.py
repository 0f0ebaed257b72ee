"""Every call between the three nodes of a region fails once, in every way, during every canonical workflow.

Nothing may be lost or done twice, whether the call was executed or not.
"""

from __future__ import annotations

from chaos.sim.canonical import STORIES
from chaos.sim.config import WorldConfig
from chaos.sim.faults import FaultPlan
from chaos.sim.one_fault import OneFault, Report, Target, Try
from chaos.sim.one_fault import run_all as run_all_of
from chaos.sim.one_fault import run_once as run_one_of
from chaos.sim.peer_calls import PeerFault
from chaos.sim.region import Plans
from cluster.config import ShardConfig

__all__ = ["STORIES", "Report", "run_all", "run_once"]


def _plans(one: OneFault, none: FaultPlan) -> Plans:
    def peers(method: str) -> PeerFault | None:
        kind = one.next(method)
        return PeerFault(kind) if kind is not None else None

    return Plans(lambda index, method: None, none, none, none, none, none, peers)


PEERS = Target(
    WorldConfig(
        nodes=3,
        begin_with=3,
        shards=6,
        shard=ShardConfig(checkpoint_interval_ns=300_000_000, idle_runs_in_memory_max=0),
        callers_switch=0.3,
    ),
    (PeerFault.NOT_SENT, PeerFault.ANSWER_LOST),
    lambda method: frozenset(PeerFault),
    _plans,
)


def run_once(name: str, index: int = -1, kind: PeerFault | None = None) -> Try:
    return run_one_of(PEERS, name, index, kind)


def run_all(name: str, every: int = 1, offset: int = 0) -> Report:
    return run_all_of(PEERS, name, every, offset)
