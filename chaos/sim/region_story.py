"""One seed of several regions: they are linked, live through faults while namespaces move, heal, agree, and come to an end.

Clients and workers talk to one region each and never change it: what a region does not own itself, it forwards.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.operatorservice.v1 import AddOrUpdateRemoteClusterRequest
from temporalio.api.workflowservice import v1 as api

from chaos.checkers.ledger import Ledger, Outcome
from chaos.checkers.moves import outstanding
from chaos.checkers.ownership import moves_follow_the_ring, one_writer_per_shard
from chaos.checkers.written import Written
from chaos.sim.between import Between, BetweenFault, address_of
from chaos.sim.clients import LOST, Requests
from chaos.sim.disk import TORN_CHECKPOINT, VISIBILITY_DOWN, Chronicle
from chaos.sim.failovers import Failovers
from chaos.sim.faults import FaultPlan, ReplyFault, StorePlan, WorkerFault, draw_rates
from chaos.sim.link_ends import LinkFault as MessageFault
from chaos.sim.loop import running_loop
from chaos.sim.network import LinkFault
from chaos.sim.peer_calls import PeerFault, drawn
from chaos.sim.programs import RELEASE, payloads
from chaos.sim.rand import Streams
from chaos.sim.region import Plans, Region
from chaos.sim.region_config import draw_regions
from chaos.sim.region_trouble import RegionTrouble
from chaos.sim.region_verdict import Gathering, watch_writes
from chaos.sim.registry import RegistryFault
from chaos.sim.story import Result
from chaos.sim.trouble import Trouble
from chaos.sim.verdict import lost_children, open_in_one_place
from chaos.sim.workers import SimWorker, Tasks
from chaos.sim.workload import Workload
from chaos.sim.world import World
from cluster.core.effects import effects
from cluster.core.errors import CallerError, Code
from cluster.region_parts import RegionParts
from cluster.stores.base import RunKey
from cluster.stores.faulty import FaultKind

SAFETY_S = (10.0, 40.0)
CONVERGE_S_MAX = 180.0
END_S_MAX = 600.0
RELEASE_EVERY_S = 3.0
LOST_CHILDREN_S = 100.0
SETUP_S_MAX = 60.0
HEALED_DELAY_S_MAX = 0.02
LOOK_S = 0.5
PLACES_S_MAX = 60.0
CANARIES = 2


Run = tuple[str, Callable[[], Coroutine[Any, Any, None]]]

# What a story can do without, for finding out what a failure needs (shrink.py).
FAULTS = ("store", "reply", "worker", "link", "peer", "registry", "call", "message", "visibility", "torn")
PARTS = (*FAULTS, "node-trouble", "region-trouble", "failovers", "clients-r1", "clients-r2", "clients-r3")


class RegionStory:
    """Everything of one seed. less: PARTS that are left out."""

    def __init__(
        self, seed: int, regions: int | None = None, nodes: int | None = None, less: frozenset[str] = frozenset()
    ) -> None:
        streams = self.streams = Streams(seed)
        draw = streams("story of regions")
        self.safety_s = round(draw.uniform(*SAFETY_S), 3)
        self.plans = _draw_plans(streams)
        configs = draw_regions(streams("config of regions"), regions, nodes)
        self.world = world = World(streams, configs[0], self._plans_of_nodes(), configs[1:])
        calls, messages = self.plans["call"], self.plans["message"]
        self.between = world.between = Between(streams, world.regions, calls, messages, draw.choice([0.002, 0.05, 0.3]))
        self.namespaces = [f"ns{number}" for number in range(1, 1 + draw.choice([1, 1, 2, 3]))]
        self.failovers = Failovers(world, streams, self.namespaces)
        self.troubles = {region.name: Trouble(region, streams, f"trouble {region.name}") for region in world.regions}
        self.region_trouble = RegionTrouble(world, self.between, streams, self.failovers, self.troubles)
        self.ledgers = {name: Ledger() for name in self.namespaces}
        self.requests: list[Requests] = []
        self.workloads: list[Workload] = []
        self.workers: list[SimWorker] = []
        ids_count, pause_s = draw.choice([1, 2, 4]), draw.choice([0.1, 0.5, 1.5])
        for name in self.namespaces:
            for region in world.regions:
                self._people_of(region, name, ids_count, pause_s)
        self.written = Written({region.name: region.config.initial_failover_version for region in world.regions})
        self.chronicles = {region.name: Chronicle(region.disk) for region in world.regions}
        self.injected: Counter[str] = Counter()
        self.less = less
        self.violations: list[str] = []
        self.served_ms: list[int] = []
        watch_writes(world, self.written)

    def _plans_of_nodes(self) -> Plans:
        plans = self.plans
        return Plans(
            StorePlan(plans["store"]),
            plans["reply"],
            plans["visibility"],
            plans["torn"],
            plans["link"],
            plans["registry"],
            drawn(plans["peer"]),
        )

    def _people_of(self, region: Region, namespace: str, ids_count: int, pause_s: float) -> None:
        draw, door = self.streams(f"people of {region.name} {namespace}"), self.world.doors[region.name]
        name = f"{region.name}-{namespace}"
        requests = Requests(door, self.ledgers[namespace], self.streams(f"requests {name}"), 0.1, 40.0, namespace, f"{name}-")
        self.requests.append(requests)
        clients_count, deletes = draw.choice([1, 2, 4]), draw.random() < 0.3
        self.workloads.append(Workload(door, requests, clients_count, ids_count, pause_s, f"client-{name}", deletes))
        self.workers.append(
            SimWorker(
                f"worker-{name}",
                door,
                requests,
                self.plans["worker"],
                Tasks(is_one_region=False),
                is_sticky=draw.random() < 0.5,
                takes_next=draw.random() < 0.5,
                pollers_count=draw.choice([1, 2]),
                poll_s=draw.choice([5.0, 20.0]),
            )
        )

    def drew(self) -> str:
        """The seed's choices, for people."""
        rates = {name: {str(kind): round(rate, 4) for kind, rate in plan.rates.items()} for name, plan in self.plans.items()}
        troubles = "\n".join(f"{name}: {trouble.drew()}" for name, trouble in self.troubles.items())
        configs = "\n".join(f"{region.name}: {region.config}" for region in self.world.regions)
        return (
            f"safety {self.safety_s} s, {self.failovers.drew()}, {self.region_trouble.drew()}\n"
            f"{troubles}\n{configs}\nrates {rates}\n"
            + "\n".join(
                f"{one.name}: {one.clients_count} clients on {len(one.ids)} ids, pause {one.pause_s}" for one in self.workloads
            )
        )

    # --- phases -------------------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        loop = running_loop()
        loop.trace("drew", text=self.drew())
        await self._set_up()
        for worker in self.workers:
            worker.start()
        jobs: list[asyncio.Task[None]] = [loop.create_task(run()) for name, run in self._troubles() if name not in self.less]
        clients = [
            loop.create_task(one.run()) for one in self.workloads if f"clients-{one.name.split('-')[1]}" not in self.less
        ]
        self._switch(True)
        await asyncio.sleep(self.safety_s)
        loop.trace("heal")
        for workload in self.workloads:
            workload.stop()
        self._switch(False)
        self.world.calm_clients(HEALED_DELAY_S_MAX)
        self.between.calm(HEALED_DELAY_S_MAX)
        self.failovers.heal()
        self.region_trouble.heal()
        for trouble in self.troubles.values():
            trouble.heal()
        await asyncio.gather(*jobs)
        self.between.heal_all()
        for region in self.world.regions:
            region.heal()
            await region.start_all()
        began = loop.time()
        self.violations += await self.failovers.settle()
        await asyncio.gather(*clients)
        await self._every_door_serves()
        await self._agree("after the last fault")
        self.served_ms.append(round((loop.time() - began) * 1000))
        await self._judge()

    def _troubles(self) -> list[Run]:
        """Those that run until healing begins. What adds later nodes has to run in any case."""
        of_nodes: list[Run] = [("node-trouble", one.run) for one in self.troubles.values()]
        if "node-trouble" in self.less:
            for trouble in self.troubles.values():
                trouble.every_s = 0.0
            of_nodes = [("", one.run) for one in self.troubles.values()]
        return [("failovers", self.failovers.run), ("region-trouble", self.region_trouble.run), *of_nodes]

    def _switch(self, is_on: bool) -> None:
        for name, plan in self.plans.items():
            plan.active = is_on and name not in self.less

    async def _set_up(self) -> None:
        """Links the regions, and makes the namespaces in all of them; nothing goes wrong yet."""
        self._switch(False)
        await self.world.start()
        await asyncio.gather(*(region.start_all() for region in self.world.regions if region.config.begin_with == 0))
        for one in self.world.regions:
            for other in self.world.regions:
                if one is not other:
                    await self._patiently(one, "AddOrUpdateRemoteCluster", _link_to(other.name))
        for number, name in enumerate(self.namespaces):
            home = self.world.regions[number % len(self.world.regions)]
            request = api.RegisterNamespaceRequest(namespace=name, is_global_namespace=True, active_cluster_name=home.name)
            request.workflow_execution_retention_period.FromSeconds(86_400 * 3)
            for region in self.world.regions:
                request.clusters.add(cluster_name=region.name)
            await self._patiently(home, "RegisterNamespace", request)
        await self._until(self._knows_all, "the regions did not come to know each other", SETUP_S_MAX)
        running_loop().trace("set up")

    async def _patiently(self, region: Region, name: str, request: object) -> None:
        until = running_loop().time() + SETUP_S_MAX
        while True:
            try:
                await self.world.doors[region.name].call(name, request)  # type: ignore[arg-type]
                return
            except CallerError as error:
                if error.code is not Code.UNAVAILABLE or running_loop().time() > until:
                    raise
            await asyncio.sleep(0.2)

    async def _knows_all(self) -> bool:
        return all(
            node.assembly.namespaces.cached(name) is not None
            and node.assembly.regions is not None
            and _has_keys(node.assembly.regions)
            for region in self.world.regions
            for node in region.nodes
            for name in self.namespaces
        )

    async def _until(self, holds: Callable[[], Awaitable[bool]], otherwise: str, within_s: float) -> bool:
        until = running_loop().time() + within_s
        while not await holds():
            if running_loop().time() > until:
                self.violations += [otherwise] if otherwise else []
                return False
            await asyncio.sleep(LOOK_S)
        return True

    # --- after the faults -----------------------------------------------------------------------------------------------------
    async def _agree(self, when: str) -> None:
        """The regions come to have the same runs; a run that goes on meanwhile is no disagreement for long."""
        gathering = Gathering(self)
        if not await self._until(gathering.has_converged, "", CONVERGE_S_MAX):
            self.violations += [f"I16 {when}: {text}" for text in await gathering.differences()]

    async def _every_door_serves(self) -> None:
        """Whoever asks any region is served, wherever the namespace is active (I25)."""
        for requests in self.requests:
            ids = [f"canary-{requests.prefix}{number}" for number in range(CANARIES)]
            tries = [await requests.start("canary", workflow_id, [["marker"]]) for workflow_id in ids]
            if all(act.outcome != Outcome.ACKED for act in tries):
                self.violations.append(f"I25: no start is acknowledged by the door of {requests.prefix}: {tries[-1].error}")

    async def _judge(self) -> None:
        gathering = Gathering(self)
        until = running_loop().time() + PLACES_S_MAX
        while (found := await gathering.before_the_end()) and running_loop().time() < until:
            await asyncio.sleep(1.0)  # a run that lost is ended a moment after the regions have it
        self.violations += found
        await self._end_all()
        await self._agree("at the end")
        await self._until(gathering.are_rows_written, "visibility is not told of everything", 60.0)
        self.violations += await gathering.judge()
        for region in self.world.regions:
            ownership = region.ownership
            self.violations += map(str, [*one_writer_per_shard(ownership), *moves_follow_the_ring(ownership)])
            await self._until(lambda region=region: _are_in_one_place(region), "", PLACES_S_MAX)  # type: ignore[misc]
            self.violations += [f"{region.name}: {text}" for text in open_in_one_place(region)]
        running_loop().trace("over", runs=len(gathering.states(self.world.region.name)))

    async def _end_all(self) -> None:
        """Every run is told to come to an end; those that do not are stuck (I30)."""
        until = running_loop().time() + END_S_MAX
        released: set[RunKey] = set()
        while (waiting := self._unfinished()) and running_loop().time() < until:
            if running_loop().time() > until - END_S_MAX + LOST_CHILDREN_S:
                await self._end_those_with_lost_children(waiting)
            for key in waiting:
                if key not in released and await self._release(key):
                    released.add(key)
            await asyncio.sleep(RELEASE_EVERY_S)
        for key in self._unfinished():
            owner = self._owner_of(key.namespace_id)
            state = self.chronicles[owner].states[key]
            self.violations.append(f"I30: {key} is {'open' if state.is_open else 'closed'} and owes {effects(state)} in {owner}")

    async def _end_those_with_lost_children(self, waiting: list[RunKey]) -> None:
        """As in a story of one region (verdict.lost_children): what is told once was told to the run before the reset."""
        gathering = Gathering(self)
        for name in self.namespaces:
            by_run = {one.run_id: one for one in await gathering.histories(self.world.region, name)}
            requests = next(one for one in self.requests if one.namespace == name)
            for key in waiting:
                history = by_run.get(key.run_id)
                if history is None or {item.what for item in outstanding(history)} != {"child"}:
                    continue
                if lost_children(history, by_run):
                    self.injected["lost_child"] += await requests.end("story", "terminate", key.workflow_id, key.run_id)

    def _owner_of(self, namespace_id: str) -> str:
        for name in self.namespaces:
            record = self.failovers.newest(name)
            if record is not None and record.id == namespace_id:
                return record.active_cluster
        raise AssertionError(f"nobody has namespace {namespace_id}")

    def _unfinished(self) -> list[RunKey]:
        """As the owner of each has it: open, or closed and owing something to others."""
        found: list[RunKey] = []
        for region, chronicle in self.chronicles.items():
            for key in chronicle.unfinished():
                if self._owner_of(key.namespace_id) == region and not chronicle.states[key].is_deleted:
                    found.append(key)
        return sorted(found)

    async def _release(self, key: RunKey) -> bool:
        name = next(one for one in self.namespaces if (record := self.failovers.newest(one)) and record.id == key.namespace_id)
        request = api.SignalWorkflowExecutionRequest(
            namespace=name,
            workflow_execution=WorkflowExecution(workflow_id=key.workflow_id, run_id=key.run_id),
            signal_name=RELEASE,
            input=payloads("go on"),
        )
        door = self.world.doors[self.streams("doors of releases").choice(self.world.regions).name]
        try:
            await door.call("SignalWorkflowExecution", request)
        except CallerError as error:
            if error.code not in LOST | {Code.NOT_FOUND, Code.FAILED_PRECONDITION}:
                raise
            return error.code == Code.NOT_FOUND  # it came to an end by itself
        return True

    def result(self, seed: int) -> Result:
        injected = self.injected + self.failovers.injected + self.region_trouble.injected
        for trouble in self.troubles.values():
            injected += trouble.injected
        for plan in self.plans.values():
            injected.update(plan.injected)
        acts: Counter[str] = Counter()
        for ledger in self.ledgers.values():
            acts.update(ledger.counts())
        violations = [*self.violations, *self.world.unexpected]
        if not acts:
            violations.append("nothing was asked")
        runs = {key.run_id: state for one in self.chronicles.values() for key, state in one.states.items()}
        return Result(
            seed,
            violations=violations,
            acts=dict(sorted(acts.items())),
            injected=injected,
            runs_count=len(runs),
            events_count=sum(state.next_event_id - 1 for state in runs.values()),
            drew=self.drew(),
            nodes_count=sum(region.config.nodes for region in self.world.regions),
            regions_count=len(self.world.regions),
            served_ms=self.served_ms,
        )


def _draw_plans(streams: Streams) -> dict[str, FaultPlan]:
    draw = streams("rates of regions")
    kinds = {
        "store": (FaultKind, 0.0005, 0.015),
        "reply": (ReplyFault, 0.005, 0.1),
        "worker": (WorkerFault, 0.01, 0.15),
        "link": (LinkFault, 0.001, 0.02),
        "peer": (PeerFault, 0.001, 0.03),
        "registry": (RegistryFault, 0.002, 0.05),
        "call": (BetweenFault, 0.002, 0.1),
        "message": (MessageFault, 0.002, 0.1),
    }
    plans = {
        name: FaultPlan(streams(f"{name} faults"), draw_rates(streams(f"{name} rates"), kind, low, high))
        for name, (kind, low, high) in kinds.items()
    }
    plans["visibility"] = FaultPlan(streams("index faults"), {VISIBILITY_DOWN: draw.choice([0.0, 0.1, 0.5])})
    plans["torn"] = FaultPlan(streams("torn checkpoints"), {TORN_CHECKPOINT: draw.choice([0.0, 0.01, 0.1])})
    return plans


def _has_keys(parts: RegionParts) -> bool:
    """Whether tokens of each region open in the others, as far as the node knows that exchanges keys."""
    return not parts.is_leader() or parts.keys._exchanged >= set(parts.port.peers())


async def _are_in_one_place(region: Region) -> bool:
    return not open_in_one_place(region)


def _link_to(name: str) -> AddOrUpdateRemoteClusterRequest:
    return AddOrUpdateRemoteClusterRequest(
        frontend_address=address_of(name), enable_remote_cluster_connection=True, enable_replication=True
    )
