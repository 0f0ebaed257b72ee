"""Compares this region's copy of a namespace with another one's, tells what differs, and has it told again.

    roots -> (they differ) children, level by level -> workflow ids -> the truth about those, on both sides
          -> again, until what was under way has arrived and what was changing is at rest
          -> what differs for good is told again by both sides, and looked at once more

outcome of a run                  | in the report
----------------------------------+------------------------------------------------------------------------------------------
equal, or equal at a later look   | nothing
untold: the owner's cursor is     | `behind`: a lag explains it
not there yet                     |
differs for good                  | `differences`, with what and where; `healed` if telling it again was enough

Histories that were damaged in a store are named, and never written over.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

import msgspec
import structlog

from cluster.core.errors import CallerError, unavailable
from cluster.seams import Clock, Ids, Spawn
from cluster.stores.base import RunKey
from replication.verification import DEPTH, Difference, Kind, Sums, WorkflowFacts, differences_of, differing
from replication.verify_limits import VerifyLimits
from replication.verify_node import (
    FACTS,
    NODES,
    RESEND,
    ROOTS,
    FactsAsk,
    NodesAsk,
    ResendAsk,
    RootsAsk,
    RootsTold,
    Side,
    There,
    ThisRegion,
    serve,
    sums_of,
)

log = structlog.get_logger("replication")

WORKFLOWS_ASKED_AT_ONCE = 50


class VerifyReport(msgspec.Struct, frozen=True):
    """differences: those for good that telling again did not heal. examined_count: workflow ids that were not equal at first.
    changing_count: those that never came to rest. unexamined_count: those beyond the bound."""

    peer: str
    namespace_id: str
    at: int  # when it began, ns since the epoch
    seconds: float
    is_deep: bool
    runs_here: int
    runs_there: int
    examined_count: int = 0
    unexamined_count: int = 0
    changing_count: int = 0
    behind: list[Difference] = []
    differences: list[Difference] = []
    healed: list[Difference] = []

    @property
    def is_equal(self) -> bool:
        return not (self.differences or self.behind or self.changing_count or self.unexamined_count)

    @property
    def verdict(self) -> str:
        """equal, behind (what is under way explains all that differs), or different."""
        if self.differences:
            return "different"
        return "equal" if self.is_equal else "behind"

    def count_of(self, kind: Kind) -> int:
        return len(self.behind) if kind is Kind.BEHIND else sum(one.kind is kind for one in self.differences)


class Port(Protocol):
    """replication/port.py"""

    here: str

    def answer(self, method: str, answerer: Callable[[str, bytes], Awaitable[bytes]]) -> None: ...

    async def ask(self, peer: str, method: str, data: bytes, timeout_s: float = 10.0) -> bytes: ...

    def peers(self) -> list[str]: ...


class _Seen(msgspec.Struct, frozen=True):
    """A workflow id on both sides, without what only tells how far it was told."""

    ours: WorkflowFacts
    theirs: WorkflowFacts
    differences: list[Difference]

    @property
    def is_behind(self) -> bool:
        return any(one.kind is Kind.BEHIND for one in self.differences)

    def is_as(self, other: _Seen | None) -> bool:
        if other is None:
            return False
        return (_at_rest(self.ours), _at_rest(self.theirs)) == (_at_rest(other.ours), _at_rest(other.theirs))


class VerifyService:
    """One node's. shared_with(peer): the namespaces that both have. is_leader: whether this node does it from time to time."""

    def __init__(
        self,
        port: Port,
        here: ThisRegion,
        clock: Clock,
        ids: Ids,
        shared_with: Callable[[str], Iterable[str]],
        is_leader: Callable[[], bool],
        limits: VerifyLimits,
    ) -> None:
        self.reports: dict[tuple[str, str], VerifyReport] = {}  # the last one, by peer and namespace
        self.counts: Counter[str] = Counter()  # of all, by verdict; and runs that were healed
        self._port, self._here, self._clock, self._ids = port, here, clock, ids
        self.shared_with, self._is_leader, self._limits = shared_with, is_leader, limits
        for method in (ROOTS, NODES, FACTS, RESEND):
            port.answer(method, self._answerer(method))

    def _answerer(self, method: str) -> Callable[[str, bytes], Awaitable[bytes]]:
        async def answer(peer: str, data: bytes) -> bytes:
            return await serve(self._here, method, data)

        return answer

    def start(self, spawn: Spawn) -> None:
        spawn(self._run(), "verification")

    async def _run(self) -> None:
        """For ever: all shared namespaces with all peers."""
        number = 0
        while True:
            await asyncio.sleep(self._limits.every_s * (0.8 + 0.4 * self._ids.jitter()))
            if not self._is_leader():
                continue
            number += 1
            for peer in self._port.peers():
                for namespace_id in sorted(self.shared_with(peer)):
                    try:
                        await self.verify(peer, namespace_id, is_deep=number % self._limits.deep_every == 0)
                    except CallerError as error:
                        self.counts["not possible"] += 1
                        log.info("regions cannot be compared now", peer=peer, namespace=namespace_id, reason=error.message)

    # --- one comparison -----------------------------------------------------------------------------------------------------

    async def verify(
        self, peer: str, namespace_id: str, *, is_deep: bool = True, is_fresh: bool = False, heals: bool = True
    ) -> VerifyReport:
        """is_deep: stored histories are compared with the hashes of the states; is_fresh: also of runs that have not changed
        since the last time. Raises CallerError: UNAVAILABLE when one of the two cannot answer now."""
        if peer not in self._port.peers() or namespace_id not in set(self.shared_with(peer)):
            raise unavailable(f"region {peer} does not share the namespace {namespace_id} with this one")
        report = await _Comparison(self._here, self._their_side(peer), self._port.here, peer, namespace_id, is_deep, self).run(
            is_fresh, heals
        )
        self.reports[peer, namespace_id] = report
        self.counts[report.verdict] += 1
        self.counts["healed"] += len(report.healed)
        if report.differences or report.healed:
            named = [msgspec.to_builtins(one) for one in (*report.differences, *report.healed)[:10]]
            log.error("regions differ", peer=peer, namespace=namespace_id, count=len(report.differences), first=named)
        return report

    def _their_side(self, peer: str) -> There:
        return There(lambda method, data: self._port.ask(peer, method, data, self._limits.build_wait_s + 30.0))

    @property
    def limits(self) -> VerifyLimits:
        return self._limits

    def now_ns(self) -> int:
        return self._clock.now_ns()

    def new_round(self) -> str:
        return self._ids.uuid()


class _Comparison:
    """See the module's text."""

    def __init__(
        self, ours: Side, theirs: Side, here: str, peer: str, namespace_id: str, is_deep: bool, service: VerifyService
    ) -> None:
        self._ours, self._theirs, self._here, self._peer = ours, theirs, here, peer
        self._namespace_id, self._is_deep, self._service = namespace_id, is_deep, service
        self._limits = service.limits
        self._loop = asyncio.get_running_loop()

    async def run(self, is_fresh: bool, heals: bool) -> VerifyReport:
        at, began_s = self._service.now_ns(), self._loop.time()
        ask = RootsAsk(self._namespace_id, self._service.new_round(), self._is_deep, is_fresh)
        ours, theirs = await asyncio.gather(self._root(self._ours, ask), self._root(self._theirs, ask))
        report = VerifyReport(self._peer, self._namespace_id, at, 0.0, self._is_deep, ours.runs_count, theirs.runs_count)
        if ours.root != theirs.root:
            names, rest_count = await self._descend()
            settled = await self._settle(names, self._limits.settle_s_max)
            behind = [one for seen in settled.values() for one in seen.differences if seen.is_behind]
            for_good = {name: seen for name, seen in settled.items() if not seen.is_behind}
            left, healed = for_good, list[Difference]()
            if heals and for_good:
                left, healed = await self._heal(for_good)
            report = msgspec.structs.replace(
                report,
                examined_count=len(names),
                unexamined_count=rest_count,
                changing_count=self._changing_count,
                behind=behind,
                differences=[one for seen in left.values() for one in seen.differences],
                healed=healed,
            )
        return msgspec.structs.replace(report, seconds=self._loop.time() - began_s)

    async def _root(self, side: Side, ask: RootsAsk) -> RootsTold:
        until_s = self._loop.time() + self._limits.ready_s_max
        while not (told := await side.roots(ask)).is_ready:
            if self._loop.time() > until_s:
                raise unavailable("a region's hash tree is not ready in time")
            await asyncio.sleep(self._limits.pause_s)
        return told

    async def _descend(self) -> tuple[list[str], int]:
        """Workflow ids that are not equal, and how many more there are than are looked at."""
        prefixes = [""]
        for _ in range(DEPTH + 1):
            found: list[str] = []
            for start in range(0, len(prefixes), self._limits.prefixes_at_once):
                ask = NodesAsk(self._namespace_id, prefixes[start : start + self._limits.prefixes_at_once])
                ours, theirs = await asyncio.gather(self._ours.nodes(ask), self._theirs.nodes(ask))
                found += differing(_sums(ours.children), _sums(theirs.children))
            prefixes = found
        bound = self._limits.examined_max
        return prefixes[:bound], max(0, len(prefixes) - bound)

    # --- the truth ----------------------------------------------------------------------------------------------------------

    async def _settle(self, names: Sequence[str], within_s: float) -> dict[str, _Seen]:
        """Looks until nothing changes or is under way any more; what differs then, by workflow id."""
        until_s = self._loop.time() + within_s
        pause_s = self._limits.pause_s
        before: dict[str, _Seen] = {}
        settled: dict[str, _Seen] = {}
        while True:
            seen = await self._look(names)
            settled |= {name: one for name, one in seen.items() if one.is_as(before.get(name)) and not one.is_behind}
            unsettled = {name: one for name, one in seen.items() if name not in settled}
            if not unsettled or self._loop.time() >= until_s:
                break
            before, names = unsettled, list(unsettled)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)
        behind = {name: one for name, one in unsettled.items() if one.is_behind}
        self._changing_count = len(unsettled) - len(behind)
        return settled | behind

    async def _look(self, names: Sequence[str]) -> dict[str, _Seen]:
        """Those that differ."""
        found: dict[str, _Seen] = {}
        for start in range(0, len(names), WORKFLOWS_ASKED_AT_ONCE):
            some = list(names[start : start + WORKFLOWS_ASKED_AT_ONCE])
            ours, theirs = await asyncio.gather(
                self._facts(self._ours, some, self._peer), self._facts(self._theirs, some, self._here)
            )
            for name in some:
                if differences := differences_of(ours[name], theirs[name]):
                    found[name] = _Seen(ours[name], theirs[name], differences)
        return found

    async def _facts(self, side: Side, names: list[str], peer: str) -> dict[str, WorkflowFacts]:
        found: dict[str, WorkflowFacts] = {}
        while names:
            told = await side.facts(FactsAsk(self._namespace_id, names, peer, self._is_deep))
            found.update((one.workflow_id, one) for one in told.facts)
            if not told.facts and told.left:
                raise unavailable("a region answers nothing of what it was asked for")
            names = told.left
        return found

    # --- healing ------------------------------------------------------------------------------------------------------------

    async def _heal(self, differing: dict[str, _Seen]) -> tuple[dict[str, _Seen], list[Difference]]:
        """Both sides tell the runs again: merging is the same whoever is told. Returns what is left, and what is equal now."""
        plain, contended = set[RunKey](), set[RunKey]()
        for name, seen in differing.items():
            for one in seen.differences:
                facts = [side.runs.get(one.run_id) for side in (seen.ours, seen.theirs)]
                if one.run_id and not any(found is not None and found.damage for found in facts):
                    plain.add(RunKey(self._namespace_id, name, one.run_id))
                if one.run_id:
                    continue
                both = {seen.ours.current_run_id, seen.theirs.current_run_id} - {""}
                contended |= {RunKey(self._namespace_id, name, run_id) for run_id in both}
        for keys, are_contended in ((plain - contended, False), (contended, True)):
            if keys:
                ask = ResendAsk(sorted(keys), self._peer, are_contended)
                await asyncio.gather(
                    self._ours.resend(ask), self._theirs.resend(msgspec.structs.replace(ask, peer=self._here))
                )
        until_s = self._loop.time() + (self._limits.heal_s_max if plain or contended else 0.0)
        pause_s, left = self._limits.pause_s, differing
        while left and self._loop.time() < until_s:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)
            left = await self._look(list(left))
        named = {(one.workflow_id, one.run_id) for seen in left.values() for one in seen.differences}
        before = [one for seen in differing.values() for one in seen.differences]
        return left, [one for one in before if (one.workflow_id, one.run_id) not in named]


def _sums(children: dict[str, dict[str, bytes]]) -> dict[str, Sums]:
    return {prefix: sums_of(told) for prefix, told in children.items()}


def _at_rest(facts: WorkflowFacts) -> WorkflowFacts:
    return msgspec.structs.replace(facts, untold=())
