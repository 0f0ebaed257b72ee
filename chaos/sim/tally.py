"""What many seeds did together: the work, the faults, the speed; a batch that never injected a kind of fault has not tried it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

from chaos.sim.between import BetweenFault
from chaos.sim.disk import TORN_CHECKPOINT, VISIBILITY_DOWN
from chaos.sim.failovers import FailoverKind
from chaos.sim.faults import ReplyFault, WorkerFault
from chaos.sim.link_ends import LinkFault as MessageFault
from chaos.sim.network import LinkFault
from chaos.sim.peer_calls import PeerFault
from chaos.sim.region_trouble import RegionFault
from chaos.sim.registry import RegistryFault
from chaos.sim.story import Result
from chaos.sim.trouble import OF_ONE_NODE, NodeTrouble
from cluster.stores.faulty import FaultKind

# A batch this large must have injected every kind of fault at least once.
SEEDS_FOR_EVERY_KIND = 100
KINDS_OF_ONE_NODE = frozenset(
    map(str, [*FaultKind, *ReplyFault, *WorkerFault, *OF_ONE_NODE, VISIBILITY_DOWN, TORN_CHECKPOINT])
)
KINDS_OF_REGIONS = frozenset(map(str, [*BetweenFault, *MessageFault, *FailoverKind, *RegionFault]))
KINDS = KINDS_OF_ONE_NODE | frozenset(map(str, [*NodeTrouble, *LinkFault, *PeerFault, *RegistryFault]))


class Tally:
    """`add` each result in order, then `lines`."""

    def __init__(self) -> None:
        self.failing: list[Result] = []
        self.injected: Counter[str] = Counter()
        self._acts: Counter[str] = Counter()
        self._took_ms: dict[tuple[int, int], list[int]] = {}  # by number of regions and of all nodes
        self._served_ms: list[int] = []
        self._runs_count = self._events_count = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, result: Result) -> None:
        if result.acked_count == 0:
            result.violations.append("nothing was acked: the run proves nothing")
        if result.violations:
            self.failing.append(result)
        self.injected.update({str(kind): number for kind, number in result.injected.items()})
        self._acts.update(result.acts)
        self._took_ms.setdefault((result.regions_count, result.nodes_count), []).append(result.took_ms)
        if result.nodes_count > 1:
            self._served_ms += result.served_ms
        self._runs_count += result.runs_count
        self._events_count += result.events_count
        self._hash.update(result.digest.encode())

    @property
    def seeds_count(self) -> int:
        return sum(map(len, self._took_ms.values()))

    def missing(self) -> list[str]:
        """Kinds of faults that so many seeds should have tried and did not."""
        if self.seeds_count < SEEDS_FOR_EVERY_KIND:
            return []
        wanted = KINDS_OF_ONE_NODE if set(self._took_ms) == {(1, 1)} else KINDS
        if any(regions > 1 for regions, _ in self._took_ms):
            wanted |= KINDS_OF_REGIONS
        return sorted(wanted - self.injected.keys())

    def lines(self) -> Iterator[str]:
        yield f"{self.seeds_count} seeds, {self._runs_count} runs, {self._events_count} events"
        yield "speed    " + ", ".join(
            f"{len(took)} seeds of {nodes} nodes{_in(regions)} at {1000 * len(took) / max(1, sum(took)):.1f} seeds per s and core"
            for (regions, nodes), took in sorted(self._took_ms.items())
        )
        if served := sorted(self._served_ms):
            p50, p99 = (served[int(share * (len(served) - 1))] for share in (0.5, 0.99))
            times = f"p50 {p50}, p99 {p99}, max {served[-1]}"
            yield f"served   every shard by every node, virtual ms after the last fault or crash: {times}"
        yield "acts     " + ", ".join(f"{name} {number}" for name, number in sorted(self._acts.items()))
        yield "injected " + ", ".join(f"{name} {number}" for name, number in sorted(self.injected.items()))
        yield f"hash     {self._hash.hexdigest()}"
        if missing := self.missing():
            yield f"never injected: {', '.join(missing)}: these faults were not tried"
        if self.failing:
            yield "failing seeds: " + " ".join(str(result.seed) for result in self.failing)


def _in(regions: int) -> str:
    return "" if regions == 1 else f" in {regions} regions"
