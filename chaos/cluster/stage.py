"""A region under load: clients and workers on all nodes, the ledger of what they were told, and the audit at the end.

async with stage(plan, report, console) as it:     region up, canaries placed, load runs
    ...                                            a course breaks things
    await it.heal()                                everything is up again, and every shard takes writes through every node
    await it.audit()                               load ends, runs end, everything is read back and checked
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import IO, Any, cast

from rich.console import Console
from temporalio.client import Client
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.worker import Worker

from chaos.checkers.ledger import Act, Ledger, Outcome
from chaos.cluster.canaries import Canaries
from chaos.cluster.load import ClusterLoad
from chaos.cluster.plan import Plan, Report
from chaos.cluster.region import Region, region
from chaos.cluster.requests import ClusterRequests
from chaos.cluster.spread import Spread
from chaos.crash.bank import Bank
from chaos.crash.load import ACCOUNTS, CLOSED_ACCOUNTS
from chaos.crash.worker import WorkerProcess, build_worker
from chaos.crash.workflows import Activities
from chaos.sim.rand import Streams
from ops.cluster_servers import NodeServer

HEAL_S_MAX = 60.0


def quiet_runtime(log: str) -> Runtime:
    """The workers' complaints about lost connections go to a file: they are what a campaign is made of."""
    logger = logging.getLogger("temporalio")
    logger.handlers, logger.propagate = [logging.FileHandler(log)], False
    logger.setLevel(logging.WARNING)
    telemetry = LoggingConfig(
        filter=TelemetryFilter(core_level="WARN", other_level="ERROR"), forwarding=LogForwardingConfig(logger)
    )
    return Runtime(telemetry=TelemetryConfig(logging=telemetry))


class Stage:
    """See the module's text. Times are time.monotonic()."""

    def __init__(self, plan: Plan, report: Report, console: Console, region: Region, timeline: IO[str]) -> None:
        self.plan, self.report, self.console, self.region = plan, report, console, region
        self.streams = Streams(plan.seed)
        self.begun = time.monotonic()
        self.ledger = Ledger()
        self.disturbed: set[str] = set()  # nodes that something is done to at the moment
        self.bank = Bank.opened(plan.folder / "bank.db", ACCOUNTS, CLOSED_ACCOUNTS)
        self.clients: dict[str, Client] = {}
        self.spread: Spread
        self.requests: ClusterRequests
        self.load: ClusterLoad
        self.canaries: Canaries
        self.worker_process: WorkerProcess
        self.worker_kills = 0
        self._timeline = timeline
        self._runtime = quiet_runtime(str(plan.folder / "worker.log"))
        self._workers: list[tuple[Worker, asyncio.Task[None]]] = []
        self._jobs: list[asyncio.Task[None]] = []
        self._clients_jobs: list[asyncio.Task[None]] = []

    # --- what was done ----------------------------------------------------------------------------------------------------
    def note(self, what: str, **fields: object) -> None:
        self._timeline.write(json.dumps({"at_s": round(self.now_s, 3), "what": what, **fields}, default=str) + "\n")

    def say(self, text: str) -> None:
        self.console.print(f"  {self.now_s:6.1f} s  {text}", markup=False)

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.begun

    def acks(self) -> int:
        return sum(act.outcome == Outcome.ACKED for act in self.ledger)

    # --- start --------------------------------------------------------------------------------------------------------
    async def connect(self, node: NodeServer) -> Client:
        """The node's client becomes one of those that the load draws from."""
        client = await Client.connect(node.address, runtime=self._runtime)
        self.clients[node.node_id] = client
        if hasattr(self, "spread"):
            self.spread.clients.append(client)
        return client

    def disconnect(self, node: NodeServer) -> None:
        """The node is taken out for good."""
        self.spread.clients.remove(self.clients.pop(node.node_id))

    def undisturbed(self) -> Sequence[Client]:
        return [client for node_id, client in self.clients.items() if node_id not in self.disturbed]

    async def begin(self) -> None:
        for node in self.region.nodes.nodes:
            await self.connect(node)
        self.spread = Spread(list(self.clients.values()), self.streams("spread"))
        self.requests = ClusterRequests(cast(Client, self.spread), self.ledger, self.streams("requests"))
        self.requests.on_end = self._note_act
        self.load = ClusterLoad(self.spread, self.requests, self.streams)
        self.canaries = Canaries(self.undisturbed, self.plan.shards)
        await self.canaries.start()
        activities = Activities(self.bank.move, self.load.hand_out, self.streams("activities"), self.bank.note_retried)
        nodes = self.region.nodes.nodes
        folder = self.plan.folder
        self.worker_process = WorkerProcess(nodes[1 % len(nodes)].address, folder / "bank.db", folder / "worker_process.log")
        await self.worker_process.start(self.plan.seed)
        for node in nodes[:3:2]:
            worker = build_worker(self.clients[node.node_id], activities)
            self._workers.append((worker, asyncio.create_task(worker.run(), name=f"worker on {node.node_id}")))
        self._job(self.load.complete_outside(), "complete-outside")
        self._job(self._fetch_tasks(), "fetch-tasks")
        self._clients_jobs = [asyncio.create_task(client) for client in self.load.clients()]

    def _job(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._jobs.append(asyncio.create_task(work, name=name))

    async def _fetch_tasks(self) -> None:
        """What the worker process was given to complete from outside."""
        while True:
            for task in self.bank.take_tasks():
                self.load.hand_out(*task)
            await asyncio.sleep(0.05)

    def _note_act(self, act: Act) -> None:
        self.note(act.kind, token=act.token, id=act.workflow_id, outcome=act.outcome, attempts=act.attempts, error=act.error)

    # --- while it runs ------------------------------------------------------------------------------------------------
    async def under_load(self, work: Coroutine[Any, Any, None], clients_may_end: bool = False) -> None:
        """Runs a course; a worker or client that ends before its time ends the campaign."""
        awaited = asyncio.create_task(work)
        others = [*(job for _, job in self._workers), *self._jobs, *([] if clients_may_end else self._clients_jobs)]
        try:
            while not awaited.done():
                await asyncio.wait([awaited, *others], return_when=asyncio.FIRST_COMPLETED)
                for other in others:
                    if other.done() and not awaited.done():
                        other.result()
                        raise RuntimeError(f"{other.get_name()} ended before its time")
        finally:
            awaited.cancel()
            await asyncio.gather(awaited, return_exceptions=True)
        awaited.result()

    async def work_for(self, duration_s: float) -> None:
        """Lets the load run; fails where no act at all gets through in that time."""
        before = self.acks()
        await asyncio.sleep(duration_s)
        if duration_s >= 1.0 and self.acks() == before:
            self.report.violate("liveness", f"not one request was acknowledged in {duration_s:.0f} s, until {self.now_s:.0f} s")

    async def kill_worker(self) -> None:
        await self.worker_process.kill()
        self.worker_kills += 1
        self.note("kill worker", number=self.worker_kills)
        await self.worker_process.start(self.plan.seed + self.worker_kills)

    async def healthy(self, give_up_s: float = HEAL_S_MAX) -> bool:
        """Every shard takes writes through every node that nothing is done to."""
        silent = await self.canaries.silent(self.undisturbed(), give_up_s)
        for text in silent:
            since = f"at {self.now_s:.1f} s nothing is broken since {give_up_s:.0f} s"
            self.report.violate("liveness", f"{since}, but silent: {text}")
        return not silent

    # --- end ------------------------------------------------------------------------------------------------------------
    async def stop_load(self) -> None:
        self.load.stop()
        await self.under_load(_all(self._clients_jobs), clients_may_end=True)
        self._clients_jobs = []

    async def end_load(self) -> None:
        """Whatever happened: no client and no worker of this stage runs any more."""
        if hasattr(self, "requests"):
            self.requests.on_end = lambda _: None  # calls that are cut off here end after the timeline is closed
        for job in (*self._jobs, *self._clients_jobs):
            job.cancel()
        await asyncio.gather(*self._jobs, *self._clients_jobs, return_exceptions=True)
        if hasattr(self, "worker_process"):
            await self.worker_process.kill()
        for worker, job in self._workers:
            with contextlib.suppress(TimeoutError):  # a worker that lost its server for good must not hide why
                await asyncio.wait_for(worker.shutdown(), 20)
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)
        self._workers, self._jobs, self._clients_jobs = [], [], []


async def _all(jobs: Sequence[asyncio.Task[None]]) -> None:
    await asyncio.gather(*jobs)


@contextlib.asynccontextmanager
async def stage(
    plan: Plan, report: Report, console: Console, outlast: Mapping[int, Sequence[str]] | None = None
) -> AsyncIterator[Stage]:
    """Begun; ended however the block ends."""
    with (plan.folder / "timeline.jsonl").open("w") as timeline:
        async with region(plan.store, plan.folder, count=plan.nodes, shards=plan.shards, outlast=outlast) as there:
            it = Stage(plan, report, console, there, timeline)
            it.say(f"{plan.nodes} nodes on {plan.store} are ready")
            try:
                await it.begin()
                yield it
            finally:
                await it.end_load()
                it.bank.close()
                it.ledger.save(plan.folder / "ledger.jsonl")
                report.seconds = it.now_s
