"""Every store call of every canonical workflow fails once, in every way: nothing may be lost or done twice.

A try is one whole simulated run with exactly one fault, at the n-th store call after the node is ready. It must end with the same
essence of histories as the undisturbed run, and with all checkers content.
"""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import dataclass, field

from chaos.checkers.ledger import Ledger
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
from cluster.config import ShardConfig
from cluster.stores.faulty import Fault, FaultKind, kinds_for

__all__ = ["STORIES", "Report", "run_all", "run_once"]

KINDS = (FaultKind.ERROR_BEFORE, FaultKind.ERROR_AFTER, FaultKind.UNKNOWN_NOT_EXECUTED, FaultKind.LEASE_LOST)
END_S_MAX = 300.0
# Short checkpoints and no idle runs in memory: every kind of store call occurs within a few seconds.
CONFIG = WorldConfig(shards=1, shard=ShardConfig(checkpoint_interval_ns=300_000_000, idle_runs_in_memory_max=0))


class OneFault:
    """A plan that hits one call, counted over all lives from `arm` on."""

    def __init__(self, index: int, kind: FaultKind | None) -> None:
        self._index = index
        self._kind = kind
        self._is_armed = False
        self.methods: list[str] = []
        self.hit = ""

    def arm(self) -> None:
        self._is_armed = True

    def __call__(self, _: int, method: str) -> Fault | None:
        if not self._is_armed:
            return None
        index = len(self.methods)
        self.methods.append(method)
        if index != self._index or self._kind is None or self._kind not in kinds_for(method):
            return None
        self.hit = method
        return Fault(self._kind)


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


def run_once(name: str, index: int = -1, kind: FaultKind | None = None) -> Try:
    """One run of a canonical workflow with one fault, or with none."""
    made = Try(OneFault(index, kind))
    with errors_collected(made.violations):
        try:
            simulate(_run(name, made), limit_s=3_600.0)
        except Exception as error:  # whatever ends the run is its verdict
            place = traceback.extract_tb(error.__traceback__)[-1]
            made.violations.append(f"{type(error).__name__}: {error} ({place.filename.rsplit('/', 1)[-1]}:{place.lineno})")
    return made


async def _run(name: str, made: Try) -> None:
    streams = Streams(1)
    none = FaultPlan(streams("none"), {}, active=False)
    world = World(streams, CONFIG, Plans(made.plan, none, none, none, none, none))
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
        while not is_fed(world):
            await asyncio.sleep(0.5)
    histories = await collect_histories(world, chronicle)
    made.essence = essence(histories)
    made.violations += judge(Evidence(ledger, histories, requests.asked, requests.ended))
    made.violations += await states_agree(world, chronicle, histories)
    made.violations += await list_agrees(world, chronicle, histories)
    made.violations += world.unexpected
    made.violations += [f"{act.kind} {act.token} ended {act.outcome}: {act.error}" for act in ledger if act.outcome == "unknown"]
    made.violations += [f"escaped: {failure.get('exception')!r}" for failure in running_loop().failures]


def run_all(name: str, every: int = 1, offset: int = 0) -> Report:
    """Every kind at every call index (or at one in so many)."""
    quiet = run_once(name)
    report = Report(len(quiet.plan.methods), failures=[f"without a fault: {text}" for text in quiet.violations])
    if quiet.violations:
        return report
    for index in range(offset, len(quiet.plan.methods), every):
        for kind in KINDS:
            if kind not in kinds_for(quiet.plan.methods[index]):
                continue
            tried = run_once(name, index, kind)
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
