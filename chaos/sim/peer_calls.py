"""Faults of single calls between nodes, above the wire: not sent, executed but reported as cut off, slow.

The network (network.py) breaks connections and whatever is on them; here each call is hit by itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from enum import StrEnum

from chaos.sim.faults import FaultPlan
from chaos.sim.loop import running_loop
from cluster.membership.members import NodeInfo
from cluster.routing.peers import Peers
from cluster.wire.errors import ConnectionLost, Unreachable

SLOW_S_MAX = 3.0


class PeerFault(StrEnum):
    NOT_SENT = "peer_not_sent"
    ANSWER_LOST = "peer_answer_lost"  # executed, and reported as cut off
    SLOW = "peer_slow"


# Of one call of this method: what goes wrong.
PeerPlan = Callable[[str], PeerFault | None]


def drawn(plan: FaultPlan) -> PeerPlan:
    return lambda method: PeerFault(kind) if (kind := plan.draw()) is not None else None


def nothing_wrong(method: str) -> PeerFault | None:
    return None


def make_faulty(peers: Peers, plan: PeerPlan, delays: random.Random) -> None:
    """From now on this node's calls out go wrong by the plan."""
    real = peers.call

    async def call(
        node: NodeInfo, method: str, payload: bytes, deadline: float | None = None, *, is_long_poll: bool = False
    ) -> bytes:
        fault = plan(method)
        if fault is not None:
            running_loop().trace("peer fault", source=peers.me, target=node.node_id, method=method, fault=fault)
        if fault is PeerFault.NOT_SENT:
            raise Unreachable(f"injected: {method} was not sent")
        if fault is PeerFault.SLOW:
            await asyncio.sleep(delays.uniform(0, SLOW_S_MAX))
        answer = await real(node, method, payload, deadline, is_long_poll=is_long_poll)
        if fault is PeerFault.ANSWER_LOST:
            raise ConnectionLost(f"injected: {method} was executed, its answer lost")
        return answer

    vars(peers)["call"] = call
