"""Exactly one fault, at the n-th call, in every way, for every n: the ground under store_faults.py and peer_faults.py.

A try is one whole simulated run of a canonical workflow. It must end with the same essence of histories as the undisturbed run,
and with all checkers content.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum

from chaos.checkers.ledger import Ledger
from chaos.checkers.ownership import one_writer_per_shard
from chaos.sim.canonical import STORIES, essence
from chaos.sim.clients import Requests
from chaos.sim.disk import Chronicle
from chaos.sim.faults import FaultPlan
from chaos.sim.logs import errors_collected
from chaos.sim.loop import running_loop, simulate
from chaos.sim.rand import Streams
from chaos.sim.region import Plans
from chaos.sim.verdict import Evidence, collect_histories, is_fed, judge, list_agrees, states_agree
from chaos.sim.workers import SimWorker, Tasks
from chaos.sim.world import World, WorldConfig

END_S_MAX = 300.0


class OneFault:
    """Hits one call, counted over all lives and nodes from `arm` on."""

    def __init__(self, index: int, kind: StrEnum | None, allowed: Callable[[str], Collection[str]]) -> None:
        self._index, self._kind, self._allowed = index, kind, allowed
        self._is_armed = False
        self.methods: list[str] = []
        self.hit = ""

    def arm(self) -> None:
        self._is_armed = True

    def next(self, method: str) -> StrEnum | None:
        if not self._is_armed:
            return None
        index = len(self.methods)
        self.methods.append(method)
        if index != self._index or self._kind is None or self._kind not in self._allowed(method):
            return None
        self.hit = method
        return self._kind


@dataclass(frozen=True)
class Target:
    """What is hit, and in which world. plans: the one fault, and a plan that does nothing."""

    config: WorldConfig
    kinds: tuple[StrEnum, ...]
    allowed: Callable[[str], Collection[str]]
    plans: Callable[[OneFault, FaultPlan], Plans]


@dataclass
class Try:
    """One run: what its histories say, which calls it made, and what was wrong with it."""

    plan: OneFault
    essence: dict[str, list[list[str]]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


@dataclass
class Report:
    calls_count: int = 0
    tries_count: int = 0
    failures: list[str] = field(default_factory=list)


def run_once(target: Target, name: str, index: int = -1, kind: StrEnum | None = None) -> Try:
    """One run of a canonical workflow with one fault, or with none."""
    made = Try(OneFault(index, kind, target.allowed))
    with errors_collected(made.violations):
        try:
            simulate(_run(target, name, made), limit_s=3_600.0)
        except Exception as error:  # whatever ends the run is its verdict
            place = traceback.extract_tb(error.__traceback__)[-1]
            made.violations.append(f"{type(error).__name__}: {error} ({place.filename.rsplit('/', 1)[-1]}:{place.lineno})")
    return made


async def _run(target: Target, name: str, made: Try) -> None:
    streams = Streams(1)
    none = FaultPlan(streams("none"), {}, active=False)
    world = World(streams, target.config, target.plans(made.plan, none))
    ledger = Ledger()
    requests = Requests(world, ledger, streams("requests"), hasty=0.0, give_up_s=120.0)
    await world.start()
    worker = SimWorker("worker", world, requests, none, Tasks(), is_sticky=True, takes_next=False)
    made.plan.arm()
    worker.start()
    chronicle = Chronicle(world.disk)
    async with asyncio.timeout(END_S_MAX):
        await STORIES[name](requests)
        while chronicle.unfinished():
            await asyncio.sleep(0.5)
        await asyncio.sleep(0.5)  # a node hears of its last append a moment after the disk has it
        while not is_fed(world.region):
            await asyncio.sleep(0.5)
    histories = await collect_histories(world, chronicle)
    made.essence = essence(histories)
    made.violations += judge(Evidence(ledger, histories, requests.asked, requests.ended))
    made.violations += one_writer_per_shard(world.region.ownership)
    made.violations += await states_agree(world.region, chronicle, histories)
    made.violations += await list_agrees(world, chronicle, histories)
    made.violations += world.unexpected
    made.violations += [f"{act.kind} {act.token} ended {act.outcome}: {act.error}" for act in ledger if act.outcome == "unknown"]
    made.violations += [f"escaped: {failure.get('exception')!r}" for failure in running_loop().failures]


def run_all(target: Target, name: str, every: int = 1, offset: int = 0) -> Report:
    """Every kind at every call index (or at one in so many)."""
    quiet = run_once(target, name)
    report = Report(len(quiet.plan.methods), failures=[f"without a fault: {text}" for text in quiet.violations])
    if quiet.violations:
        return report
    for index in range(offset, len(quiet.plan.methods), every):
        for kind in target.kinds:
            if kind not in target.allowed(quiet.plan.methods[index]):
                continue
            tried = run_once(target, name, index, kind)
            report.tries_count += 1
            where = f"{name}: {kind} at call {index} ({tried.plan.hit or 'never made'})"
            if not tried.plan.hit:
                report.failures.append(f"{where}: the fault was not injected")
            report.failures += [f"{where}: {text}" for text in tried.violations]
            if not tried.violations and tried.essence != quiet.essence:
                report.failures.append(f"{where}: other histories: {_first_difference(quiet.essence, tried.essence)}")
    return report


def _first_difference(one: dict[str, list[list[str]]], other: dict[str, list[list[str]]]) -> str:
    for workflow_id in sorted(one.keys() | other.keys()):
        if one.get(workflow_id) != other.get(workflow_id):
            return f"{workflow_id}: {one.get(workflow_id)} / {other.get(workflow_id)}"
    return "none"
