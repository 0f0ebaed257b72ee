"""What goes wrong in a simulated run, drawn from the seed: store faults, reply faults, worker faults.

Every plan can be switched off (`active = False`): the safety phase ends, the liveness phase begins. Every plan counts what it
really injected, since a run whose faults never bit proves nothing. A seed first draws which kinds it uses at all and how often
(some bugs need one fault kind alone, many times), then each call draws by those rates.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from chaos.sim.loop import running_loop
from chaos.sim.owners import far_away
from cluster.stores.base import Lease, Store
from cluster.stores.faulty import Fault, FaultKind, FaultyStore, kinds_for

T = TypeVar("T")
K = TypeVar("K", bound=StrEnum)


class ReplyFault(StrEnum):
    """Between client and node."""

    REPLY_DROPPED = "reply_dropped"  # executed, but the client sees UNAVAILABLE
    REQUEST_LOST = "request_lost"  # not executed, and the client sees UNAVAILABLE
    REQUEST_DOUBLED = "request_doubled"  # a second copy with the same request id runs while the first is in flight


class WorkerFault(StrEnum):
    """What a simulated worker does with a task instead of its work."""

    HANGS = "hangs"  # takes the task and never answers
    SLOW = "slow"  # answers after the task has timed out
    ANSWERS_TWICE = "answers_twice"
    ANSWERS_STALE = "answers_stale"  # answers again with the token of an earlier task
    BAD_COMMAND = "bad_command"  # a command with missing or impossible attributes
    FAILS_TASK = "fails_task"  # RespondWorkflowTaskFailed, or an activity failure


def draw_rates(stream: random.Random, kinds: type[K], low: float = 0.002, high: float = 0.1) -> dict[K, float]:
    """Each kind is in this run with probability 1/2; its rate per call is log-uniform. At least one kind is in."""
    rates = {kind: math.exp(stream.uniform(math.log(low), math.log(high))) for kind in kinds if stream.random() < 0.5}
    return rates or {stream.choice(list(kinds)): high}


@dataclass
class FaultPlan:
    """Draws a fault, or none, per occasion, and counts what it gave out."""

    stream: random.Random
    rates: Mapping[Any, float]  # of one StrEnum; Mapping is invariant in its key, so its type cannot say so
    active: bool = True
    injected: Counter[str] = field(default_factory=Counter)

    def draw(self, allowed: frozenset[str] | None = None) -> str | None:
        """One number per occasion, whatever is allowed, so that the stream stays in step."""
        drawn = self.stream.random()
        if not self.active:
            return None
        for kind, rate in sorted(self.rates.items()):
            if drawn < rate:
                if allowed is not None and kind not in allowed:
                    return None
                self.injected[kind] += 1
                return str(kind)
            drawn -= rate
        return None


class StorePlan:
    """A `cluster.stores.faulty.Plan` on top of a FaultPlan. One plan serves all lives of a node, so counts add up."""

    def __init__(self, plan: FaultPlan, slow_s_max: float = 5.0) -> None:
        self.plan = plan
        self.slow_s_max = slow_s_max

    def __call__(self, index: int, method: str) -> Fault | None:
        kind = self.plan.draw(frozenset(kinds_for(method)))
        if kind is None:
            return None
        seconds = self.plan.stream.uniform(0, self.slow_s_max) if kind == FaultKind.SLOW else 0.0
        running_loop().trace("store fault", method=method, fault=kind)
        return Fault(FaultKind(kind), seconds)


class SimStore(FaultyStore):
    """One life's connection to the store: with latency both ways, and on the far side of it.

    Each call runs as a job of the world, not of the node: when the node dies, what it had sent still arrives and is
    executed (perhaps after its successor took the lease), locks inside the store are released, and nobody sees the answer.
    """

    def __init__(
        self, inner: Store, plan: Callable[[int, str], Fault | None], latency: random.Random, latency_s_max: float = 0.01
    ) -> None:
        super().__init__(inner, plan)
        self._latency = latency
        self._latency_s_max = latency_s_max

    async def _call(self, method: str, run: Callable[[], Awaitable[T]], lease: Lease | None = None) -> T:
        there, back = (self._latency.uniform(0, self._latency_s_max) for _ in range(2))
        arrive = super()._call

        async def execute() -> T:
            await asyncio.sleep(there)
            return await arrive(method, run, lease)

        return await far_away(execute, f"store {method}", back)
