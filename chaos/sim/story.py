"""One seed: what it draws, the safety phase (faults), the liveness phase (healed: everything must move), and the verdict."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice import v1 as api

from chaos.checkers.histories import RunHistory
from chaos.checkers.ledger import Ledger
from chaos.checkers.moves import every_run_ended, everything_outstanding_moves, outstanding
from chaos.checkers.ownership import moves_follow_the_ring, one_writer_per_shard
from chaos.sim.clients import LOST, Requests
from chaos.sim.disk import TORN_CHECKPOINT, VISIBILITY_DOWN, Chronicle
from chaos.sim.faults import FaultPlan, ReplyFault, StorePlan, WorkerFault, draw_rates
from chaos.sim.loop import running_loop
from chaos.sim.network import LinkFault
from chaos.sim.peer_calls import PeerFault, drawn
from chaos.sim.programs import RELEASE, payloads
from chaos.sim.rand import Streams
from chaos.sim.region import Plans
from chaos.sim.registry import RegistryFault
from chaos.sim.trouble import Trouble
from chaos.sim.verdict import (
    Evidence,
    collect_histories,
    is_fed,
    judge,
    list_agrees,
    lost_children,
    open_in_one_place,
    states_agree,
)
from chaos.sim.workers import SimWorker, Tasks
from chaos.sim.workload import Workload
from chaos.sim.world import NAMESPACE, World, draw_config
from cluster.core.effects import effects
from cluster.core.errors import CallerError, Code
from cluster.stores.base import RunKey
from cluster.stores.faulty import FaultKind

SAFETY_S = (10.0, 40.0)
LIVENESS_S_MAX = 600.0
LOST_CHILDREN_S = 120.0
SETTLE_S = 25.0  # longer than any task, attempt, backoff or delivery takes without faults
RELEASE_EVERY_S = 5.0
FEED_S_MAX = 60.0
HEALED_DELAY_S_MAX = 0.02
SERVED_S_MAX = 30.0
HELD_BACK_S_MAX = 60.0  # how long a flapping node may hold back (membership/flapping.py)


@dataclass
class Result:
    """What a seed did. violations is empty for a good one."""

    seed: int
    digest: str = ""
    violations: list[str] = field(default_factory=list)
    acts: dict[str, int] = field(default_factory=dict)
    injected: Counter[str] = field(default_factory=Counter)
    runs_count: int = 0
    events_count: int = 0
    virtual_s: float = 0.0
    drew: str = ""
    trace: str = ""
    nodes_count: int = 1
    regions_count: int = 1
    took_ms: int = 0  # of the processor
    served_ms: list[int] = field(default_factory=list)  # from the last fault until every node serves every shard

    @property
    def acked_count(self) -> int:
        return sum(count for name, count in self.acts.items() if name.endswith(".acked"))


class Story:
    """Everything of one seed."""

    def __init__(self, seed: int, nodes: int | None = None) -> None:
        streams = self.streams = Streams(seed)
        draw = streams("story")
        self.safety_s = round(draw.uniform(*SAFETY_S), 3)
        self.store_faults = FaultPlan(streams("store faults"), draw_rates(streams("store rates"), FaultKind, 0.001, 0.03))
        self.reply_faults = FaultPlan(streams("reply faults"), draw_rates(streams("reply rates"), ReplyFault, 0.005, 0.1))
        self.worker_faults = FaultPlan(streams("worker faults"), draw_rates(streams("worker rates"), WorkerFault, 0.01, 0.15))
        self.visibility_faults = FaultPlan(streams("index faults"), {VISIBILITY_DOWN: draw.choice([0.0, 0.1, 0.9])})
        self.torn_checkpoints = FaultPlan(streams("torn checkpoints"), {TORN_CHECKPOINT: draw.choice([0.0, 0.01, 0.1])})
        self.link_faults = FaultPlan(streams("link faults"), draw_rates(streams("link rates"), LinkFault, 0.001, 0.03))
        self.peer_faults = FaultPlan(streams("peer faults"), draw_rates(streams("peer rates"), PeerFault, 0.001, 0.05))
        registry_rates = draw_rates(streams("registry rates"), RegistryFault, 0.002, 0.1)
        self.registry_faults = FaultPlan(streams("registry faults"), registry_rates)
        self.forget_every_s = draw.choice([0.0, 5.0])
        plans = Plans(
            StorePlan(self.store_faults),
            self.reply_faults,
            self.visibility_faults,
            self.torn_checkpoints,
            self.link_faults,
            self.registry_faults,
            drawn(self.peer_faults),
        )
        self.world = World(streams, draw_config(streams("config"), nodes), plans)
        self.trouble = Trouble(self.world.region, streams)
        self.ledger = Ledger()
        self.requests = Requests(self.world, self.ledger, streams("requests"))
        self.workload = Workload(
            self.world, self.requests, draw.choice([2, 5, 8]), draw.choice([1, 2, 4]), draw.choice([0.05, 0.3, 1.0])
        )
        tasks = Tasks()
        # A lone poll and a lone task have to meet wherever they are; a poll that is soon repeated hides it when they do not.
        is_lonely = self.trouble.is_cluster and draw.random() < 0.5
        self.workers = [
            SimWorker(
                f"worker-{number}",
                self.world,
                self.requests,
                self.worker_faults,
                tasks,
                is_sticky=draw.random() < 0.5,
                takes_next=draw.random() < 0.5,
                pollers_count=1 if is_lonely else 2,
                poll_s=draw.choice([5.0, 60.0]) if self.trouble.is_cluster else 20.0,
            )
            for number in range(1 if is_lonely else 2)
        ]
        self.chronicle = Chronicle(self.world.disk)
        self.injected: Counter[str] = Counter()
        self.violations: list[str] = []
        self.served_ms: list[int] = []

    def drew(self) -> str:
        """The seed's choices, for people."""
        rates = {
            plan_name: {str(kind): round(rate, 4) for kind, rate in plan.rates.items()}
            for plan_name, plan in self._plans().items()
        }
        return (
            f"safety {self.safety_s} s, workers forget every {self.forget_every_s} s, {self.trouble.drew()}\n"
            f"{self.workload.clients_count} clients on {len(self.workload.ids)} ids, pause {self.workload.pause_s} s\n"
            f"server {self.world.config}\nrates {rates}\n"
            "workers "
            + "; ".join(
                f"{one.pollers_count} pollers of {one.poll_s} s, sticky {one.is_sticky}, takes next {one.takes_next}"
                for one in self.workers
            )
        )

    def _plans(self) -> dict[str, FaultPlan]:
        return {
            "store": self.store_faults,
            "reply": self.reply_faults,
            "worker": self.worker_faults,
            "visibility": self.visibility_faults,
            "torn": self.torn_checkpoints,
        } | (self._cluster_plans() if self.trouble.is_cluster else {})

    def _cluster_plans(self) -> dict[str, FaultPlan]:
        return {"link": self.link_faults, "peer": self.peer_faults, "registry": self.registry_faults}

    # --- phases ---------------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        loop = running_loop()
        loop.trace("drew", text=self.drew())
        await self.world.start()
        for worker in self.workers:
            worker.start()
        trouble = [loop.create_task(self.trouble.run()), loop.create_task(self._forgetting())]
        clients = loop.create_task(self.workload.run())
        await asyncio.sleep(self.safety_s)
        loop.trace("heal")
        self.workload.stop()
        for plan in self._plans().values():
            plan.active = False
        self.world.calm_clients(HEALED_DELAY_S_MAX)
        self.trouble.heal()
        await asyncio.gather(*trouble)
        self.world.region.heal()
        await self._until_served("after the last fault")
        await clients
        await self._liveness()
        loop.trace("over", runs=len(self.chronicle.states))

    async def _forgetting(self) -> None:
        draw = self.streams("forgetting")
        while self.forget_every_s and not await self.trouble.is_over(draw.uniform(0, 2 * self.forget_every_s)):
            self.injected["worker_restart"] += 1
            draw.choice(self.workers).forget()

    async def _restart(self, share: float) -> None:
        """Crashes each node with that probability, at least one of them, and waits until all are back."""
        draw, slots = self.streams("restarts of all"), self.world.slots
        chosen = [slot for slot in slots if draw.random() < share] or [draw.choice(slots)]
        for slot in chosen:
            self.world.region.crash(slot)
        await self.world.region.start_all()
        await self._until_served("after a crash without faults")

    async def _until_served(self, when: str) -> None:
        """Every shard answers through every node, soon. Takes the time that takes."""
        began = running_loop().time()
        until = began + SERVED_S_MAX + (HELD_BACK_S_MAX if self.world.config.holds_back_flapping else 0.0)
        canaries = canary_ids(self.world)
        for slot in self.world.slots:
            for shard, workflow_id in canaries.items():
                while not (answer := await self._answers(slot.name, workflow_id))[0] and running_loop().time() < until:
                    await asyncio.sleep(0.1)
                if not answer[0]:
                    self.violations.append(f"{when}: {slot.name} cannot serve shard {shard}: {answer[1]}")
        took_ms = round((running_loop().time() - began) * 1000)
        running_loop().trace("served", when=when, ms=took_ms)
        self.served_ms.append(took_ms)

    async def _answers(self, host: str, workflow_id: str) -> tuple[bool, str]:
        request = api.DescribeWorkflowExecutionRequest(
            namespace=NAMESPACE, execution=WorkflowExecution(workflow_id=workflow_id)
        )
        try:
            await self.world.call("DescribeWorkflowExecution", request, 5.0, via=host)
        except CallerError as error:
            return error.code == Code.NOT_FOUND, f"{error.code.name}: {error.message}"
        return True, ""

    async def _liveness(self) -> None:
        """After one more crash everything that is due moves by itself. Then every run is told to come to an end; those that do
        not are stuck."""
        await self._restart(share=0.5)
        before_ns = running_loop().now_ns()
        before = await collect_histories(self.world, self.chronicle)
        await asyncio.sleep(SETTLE_S)
        settled = await collect_histories(self.world, self.chronicle)
        self.violations += map(
            str, everything_outstanding_moves(before, settled, self._server_ns(before_ns), frozenset({"child"}))
        )
        began = running_loop().time()
        released: set[RunKey] = set()
        while (waiting := self.chronicle.unfinished()) and running_loop().time() < began + LIVENESS_S_MAX:
            if running_loop().time() > began + LOST_CHILDREN_S:
                await self._end_those_with_lost_children(waiting)
            for key in waiting:
                if self.chronicle.states[key].is_open and key not in released and await self._release(key):
                    released.add(key)
            await asyncio.sleep(RELEASE_EVERY_S)
        await asyncio.sleep(0.5)  # a node hears of its last append a moment after the disk has it
        fed_until = running_loop().time() + FEED_S_MAX
        while not is_fed(self.world.region) and running_loop().time() < fed_until:
            await asyncio.sleep(0.5)
        histories = await collect_histories(self.world, self.chronicle)
        self.violations += map(str, every_run_ended(histories))
        self.violations += [f"{key} still owes {effects(self.chronicle.states[key])}" for key in self.chronicle.unfinished()]
        await self._judge(histories)

    async def _end_those_with_lost_children(self, waiting: list[RunKey]) -> None:
        by_run = {history.run_id: history for history in await collect_histories(self.world, self.chronicle)}
        for key in waiting:
            history = by_run[key.run_id]
            if {item.what for item in outstanding(history)} == {"child"} and lost_children(history, by_run):
                self.injected["lost_child"] += await self.requests.end("story", "terminate", key.workflow_id, key.run_id)

    def _server_ns(self, virtual_ns: int) -> int:
        return self.world.nodes[0].clock.now_ns() - running_loop().now_ns() + virtual_ns

    async def _release(self, key: RunKey) -> bool:
        """False = the run cannot be told now: it is about to close, or its shard moves."""
        request = api.SignalWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_execution=WorkflowExecution(workflow_id=key.workflow_id, run_id=key.run_id),
            signal_name=RELEASE,
            input=payloads("go on"),
        )
        try:
            await self.world.call("SignalWorkflowExecution", request)
        except CallerError as error:
            if error.code not in LOST | {Code.NOT_FOUND}:
                raise
            return error.code == Code.NOT_FOUND  # it came to an end by itself
        return True

    # --- verdict ----------------------------------------------------------------------------------------------------------
    async def _judge(self, histories: list[RunHistory]) -> None:
        evidence = Evidence(self.ledger, histories, self.requests.asked, self.requests.ended)
        self.violations += judge(evidence)
        ownership = self.world.region.ownership
        self.violations += [*one_writer_per_shard(ownership), *moves_follow_the_ring(ownership)]
        self.violations += await self._states_agree(histories)
        self.violations += await list_agrees(self.world, self.chronicle, histories)
        self.violations += open_in_one_place(self.world.region)
        await self._restart(share=1.0)
        again = await collect_histories(self.world, self.chronicle)
        for first, second in zip(histories, again, strict=True):
            if first.events != second.events:
                self.violations.append(f"after another crash the history of {first.workflow_id} {first.run_id} is another one")
        self.violations += [f"after another crash: {text}" for text in await self._states_agree(again)]
        for history in histories:
            for event in history.events:
                running_loop().trace("event", run=history.run_id, data=event.SerializeToString(deterministic=True))

    async def _states_agree(self, histories: list[RunHistory]) -> list[str]:
        return await states_agree(self.world.region, self.chronicle, histories)

    def result(self, seed: int) -> Result:
        injected = self.injected + self.trouble.injected
        for plan in self._plans().values():
            injected.update(plan.injected)
        violations = [*self.violations, *self.world.unexpected]
        if not self.ledger.counts():
            violations.append("nothing was asked")
        return Result(
            seed,
            violations=violations,
            acts=self.ledger.counts(),
            injected=injected,
            runs_count=len(self.chronicle.states),
            events_count=sum(state.next_event_id - 1 for state in self.chronicle.states.values()),
            drew=self.drew(),
            nodes_count=self.world.config.nodes,
            served_ms=self.served_ms,
        )


def canary_ids(world: World) -> dict[int, str]:
    """A workflow id that nobody uses for each shard."""
    history, found = world.nodes[0].history, dict[int, str]()
    namespace_id = world.nodes[0].assembly.namespaces.cached(NAMESPACE)
    assert namespace_id is not None
    for number in itertools.count():
        if len(found) == world.config.shards:
            return found
        found.setdefault(history.shard_number(namespace_id.id, f"canary-{number}"), f"canary-{number}")
    raise AssertionError("numbers do not end")
