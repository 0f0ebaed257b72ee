"""One seed: what it draws, the safety phase (faults), the liveness phase (healed: everything must move), and the verdict."""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from dataclasses import dataclass, field

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice import v1 as api

from chaos.checkers.histories import RunHistory
from chaos.checkers.ledger import Ledger
from chaos.checkers.moves import every_run_ended, everything_outstanding_moves, outstanding
from chaos.sim.clients import LOST, Requests
from chaos.sim.disk import TORN_CHECKPOINT, VISIBILITY_DOWN, Chronicle
from chaos.sim.faults import FaultPlan, ReplyFault, StorePlan, WorkerFault, draw_rates
from chaos.sim.logs import errors_collected
from chaos.sim.loop import running_loop, simulate
from chaos.sim.programs import RELEASE, payloads
from chaos.sim.rand import Streams
from chaos.sim.trace import Trace
from chaos.sim.verdict import Evidence, collect_histories, is_fed, judge, list_agrees, lost_children, states_agree
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

    @property
    def acked_count(self) -> int:
        return sum(count for name, count in self.acts.items() if name.endswith(".acked"))


class Story:
    """Everything of one seed."""

    def __init__(self, seed: int) -> None:
        streams = self.streams = Streams(seed)
        draw = streams("story")
        self.safety_s = round(draw.uniform(*SAFETY_S), 3)
        self.store_faults = FaultPlan(streams("store faults"), draw_rates(streams("store rates"), FaultKind, 0.001, 0.03))
        self.reply_faults = FaultPlan(streams("reply faults"), draw_rates(streams("reply rates"), ReplyFault, 0.005, 0.1))
        self.worker_faults = FaultPlan(streams("worker faults"), draw_rates(streams("worker rates"), WorkerFault, 0.01, 0.15))
        self.visibility_faults = FaultPlan(streams("index faults"), {VISIBILITY_DOWN: draw.choice([0.0, 0.1, 0.9])})
        self.torn_checkpoints = FaultPlan(streams("torn checkpoints"), {TORN_CHECKPOINT: draw.choice([0.0, 0.01, 0.1])})
        self.crash_every_s = draw.choice([0.0, 3.0, 10.0])
        self.forget_every_s = draw.choice([0.0, 5.0])
        self.world = World(
            streams,
            draw_config(streams("config")),
            StorePlan(self.store_faults),
            self.reply_faults,
            self.visibility_faults,
            self.torn_checkpoints,
        )
        self.ledger = Ledger()
        self.requests = Requests(self.world, self.ledger, streams("requests"))
        self.workload = Workload(
            self.world, self.requests, draw.choice([2, 5, 8]), draw.choice([1, 2, 4]), draw.choice([0.05, 0.3, 1.0])
        )
        tasks = Tasks()
        self.workers = [
            SimWorker(
                f"worker-{number}",
                self.world,
                self.requests,
                self.worker_faults,
                tasks,
                is_sticky=draw.random() < 0.5,
                takes_next=draw.random() < 0.5,
            )
            for number in range(2)
        ]
        self.chronicle = Chronicle(self.world.disk)
        self.injected: Counter[str] = Counter()
        self.violations: list[str] = []
        self._healing = asyncio.Event()

    def drew(self) -> str:
        """The seed's choices, for people."""
        rates = {
            plan_name: {str(kind): round(rate, 4) for kind, rate in plan.rates.items()}
            for plan_name, plan in self._plans().items()
        }
        return (
            f"safety {self.safety_s} s, crash every {self.crash_every_s} s, workers forget every {self.forget_every_s} s, "
            f"{self.workload.clients_count} clients on {len(self.workload.ids)} ids, pause {self.workload.pause_s} s\n"
            f"server {self.world.config}\nrates {rates}\n"
            f"sticky {[worker.is_sticky for worker in self.workers]}, takes next {[worker.takes_next for worker in self.workers]}"
        )

    def _plans(self) -> dict[str, FaultPlan]:
        return {
            "store": self.store_faults,
            "reply": self.reply_faults,
            "worker": self.worker_faults,
            "visibility": self.visibility_faults,
            "torn": self.torn_checkpoints,
        }

    # --- phases ---------------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        loop = running_loop()
        loop.trace("drew", text=self.drew())
        await self.world.start()
        for worker in self.workers:
            worker.start()
        trouble = [loop.create_task(self._crashes()), loop.create_task(self._forgetting())]
        clients = loop.create_task(self.workload.run())
        await asyncio.sleep(self.safety_s)
        loop.trace("heal")
        self.workload.stop()
        self._healing.set()
        for plan in self._plans().values():
            plan.active = False
        self.world.wire.delay_s_max = min(self.world.wire.delay_s_max, HEALED_DELAY_S_MAX)
        await asyncio.gather(*trouble)
        if self.world.node is None:
            await self.world.start()
        await clients
        await self._liveness()
        loop.trace("over", runs=len(self.chronicle.states))

    async def _crashes(self) -> None:
        draw = self.streams("crashes")
        while self.crash_every_s and not await self._is_over(draw.uniform(0, 2 * self.crash_every_s)):
            if draw.random() < 0.75:
                self.injected["crash"] += 1
                self.world.slot.crash()
            else:
                self.injected["graceful_stop"] += 1
                await self.world.stop()
            await asyncio.sleep(draw.uniform(0, 1.0))
            await self.world.start()

    async def _forgetting(self) -> None:
        draw = self.streams("forgetting")
        while self.forget_every_s and not await self._is_over(draw.uniform(0, 2 * self.forget_every_s)):
            self.injected["worker_restart"] += 1
            draw.choice(self.workers).forget()

    async def _is_over(self, after_s: float) -> bool:
        """Whether healing has begun, at the latest after that time."""
        try:
            async with asyncio.timeout(after_s):
                await self._healing.wait()
        except TimeoutError:
            return False
        return True

    async def _liveness(self) -> None:
        """After one more crash everything that is due moves by itself. Then every run is told to come to an end; those that do
        not are stuck."""
        self.world.slot.crash()
        await self.world.start()
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
        node = self.world.node
        assert node is not None
        fed_until = running_loop().time() + FEED_S_MAX
        while not is_fed(node) and running_loop().time() < fed_until:
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
        node = self.world.node
        assert node is not None
        return node.clock.now_ns() - running_loop().now_ns() + virtual_ns

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
        self.violations += await states_agree(self.world, self.chronicle, histories)
        self.violations += await list_agrees(self.world, self.chronicle, histories)
        self.world.slot.crash()
        await self.world.start()
        again = await collect_histories(self.world, self.chronicle)
        for first, second in zip(histories, again, strict=True):
            if first.events != second.events:
                self.violations.append(f"after another crash the history of {first.workflow_id} {first.run_id} is another one")
        self.violations += [f"after another crash: {text}" for text in await states_agree(self.world, self.chronicle, again)]
        for history in histories:
            for event in history.events:
                running_loop().trace("event", run=history.run_id, data=event.SerializeToString(deterministic=True))

    def result(self, seed: int) -> Result:
        injected = self.injected.copy()
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
        )


def run_seed(seed: int, keep_text: bool = False) -> Result:
    """Runs one seed from beginning to end."""
    trace = Trace(keep_text)
    story: Story | None = None
    extra: list[str] = []

    async def main() -> float:
        nonlocal story
        story = Story(seed)
        await story.run()
        extra.extend(f"escaped: {failure.get('message')}: {failure.get('exception')!r}" for failure in running_loop().failures)
        return running_loop().time()

    virtual_s = 0.0
    with errors_collected(extra):
        try:
            virtual_s = simulate(main(), trace, limit_s=86_400.0)
        except Exception as error:  # whatever ends the story is its verdict
            place = traceback.extract_tb(error.__traceback__)[-1]
            extra.append(f"{type(error).__name__}: {error} ({place.filename.rsplit('/', 1)[-1]}:{place.lineno})")
    result = story.result(seed) if story is not None else Result(seed)
    result.violations += extra
    result.digest, result.virtual_s, result.trace = trace.digest(), virtual_s, trace.text()
    return result
