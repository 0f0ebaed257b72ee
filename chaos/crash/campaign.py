"""One campaign: load and kills, then quiet, then the checks.

Safety phase: clients and worker run without a break while the server is killed again and again. Liveness phase: no more kills
and no new work; within `quiet_s_max` every run must have ended. Then everything is read back and checked. A campaign that did too
little work fails as well, since a run can pass by doing nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from temporalio.client import Client
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError

from chaos.checkers.histories import RunHistory, Violation
from chaos.checkers.ledger import Act, ActKind, Ledger, Outcome
from chaos.crash.bank import Bank
from chaos.crash.collect import ListedRun, as_json, count_runs, fetch_histories, list_runs
from chaos.crash.load import ACCOUNTS, CLOSED_ACCOUNTS, Load
from chaos.crash.requests import Requests
from chaos.crash.server import Server
from chaos.crash.verdict import judge
from chaos.crash.worker import WorkerProcess, build_worker
from chaos.crash.workflows import Activities
from chaos.sim.rand import Streams

WORK_WAIT_S_MAX = 12.0


@dataclass
class Plan:
    """What to do. address: an existing server instead of our own (nothing is killed then)."""

    seed: int
    kills: int
    folder: Path
    address: str = ""
    peer_cli: str = ""
    load_s: float = 20.0  # how long the load runs when nothing is killed
    quiet_s_max: float = 60.0
    acks_min: int = 200
    # Outlast decides "terminate the old run, start the new one" at one instant; other servers read the clock several times.
    clock_tolerance_ns: int = 0
    tag: str = ""  # ends every workflow id, since a server that is not ours may hold the runs of other campaigns


@dataclass
class Report:
    plan: Plan
    kills_done: int = 0
    kills_while_starting: int = 0
    worker_kills: int = 0
    seconds: float = 0.0
    quiet_s: float = 0.0
    runs: int = 0
    events: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    figures: dict[str, object] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.violations


def quiet_runtime(log: Path) -> Runtime:
    """The worker's complaints about lost connections and closed accounts go to a file: they are what a campaign is made of."""
    handler = logging.FileHandler(log)
    logger = logging.getLogger("temporalio")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.WARNING)
    telemetry = LoggingConfig(
        filter=TelemetryFilter(core_level="WARN", other_level="ERROR"), forwarding=LogForwardingConfig(logger)
    )
    return Runtime(telemetry=TelemetryConfig(logging=telemetry))


def part(sorted_values: list[float], share: float) -> float:
    """The value below which that share of all values lies."""
    return sorted_values[min(int(share * len(sorted_values)), len(sorted_values) - 1)]


class Campaign:
    """`run()` does it all and leaves timeline, ledger and (after a violation) histories in the plan's folder."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan = plan
        self.console = console
        self.streams = Streams(plan.seed)
        self.report = Report(plan)
        self.ledger = Ledger()
        self.begun = time.monotonic()
        plan.folder.mkdir(parents=True, exist_ok=True)
        for left in plan.folder.iterdir():
            left.unlink()
        self._timeline: IO[str] = (plan.folder / "timeline.jsonl").open("w")
        self.bank = Bank.opened(plan.folder / "bank.db", ACCOUNTS, CLOSED_ACCOUNTS)
        self.worker: WorkerProcess | None = None
        self.server = (
            None if plan.address else Server(plan.folder / "server.db", plan.folder / "server.log", peer_cli=plan.peer_cli)
        )

    def note(self, what: str, **fields: object) -> None:
        self._timeline.write(json.dumps({"at_s": round(time.monotonic() - self.begun, 4), "what": what, **fields}) + "\n")

    async def run(self) -> Report:
        try:
            if self.server is not None:
                await self.server.start()
            await self._run_against(self.server.address if self.server else self.plan.address)
        finally:
            if self.server is not None and self.server.process is not None and self.server.process.returncode is None:
                self.report.figures["exit code at SIGTERM"] = await self.server.stop()
            self.report.seconds = time.monotonic() - self.begun
            self._timeline.close()
            self.ledger.save(self.plan.folder / "ledger.jsonl")
            self.bank.close()
        return self.report

    async def _run_against(self, address: str) -> None:
        client = await Client.connect(address, runtime=quiet_runtime(self.plan.folder / "worker.log"))
        requests = Requests(client, self.ledger, self.streams("requests"), self.plan.tag)
        requests.on_end = self._note_act
        load = Load(client, requests, self.streams)
        activities = Activities(self.bank.move, load.hand_out, self.streams("activities"), self.bank.note_retried)
        worker = build_worker(client, activities)
        self.worker = WorkerProcess(address, self.plan.folder / "bank.db", self.plan.folder / "worker_process.log")
        await self.worker.start(self.plan.seed)
        working = asyncio.create_task(worker.run(), name="worker")
        completing = asyncio.create_task(load.complete_outside(), name="complete-outside")
        fetching = asyncio.create_task(self._fetch_tasks(load), name="fetch-tasks")
        jobs = [asyncio.create_task(client_job) for client_job in load.clients()]
        try:
            kills = asyncio.create_task(self._kill_again_and_again(load), name="kills")
            await self._until_done(kills, [working, completing, fetching, *jobs])
            self.note("stop")
            load.stop()
            await self._until_done(asyncio.gather(*jobs), [working, completing, fetching])
            listed = await self._until_every_run_ended(client, [working, completing, fetching])
            counted = await count_runs(client) if self.server is not None else len(listed)
        finally:
            for job in (completing, fetching, *jobs):
                job.cancel()
            await asyncio.gather(completing, fetching, *jobs, return_exceptions=True)
            await self.worker.kill()
            with suppress(TimeoutError):  # a worker that lost its server for good must not hide why
                await asyncio.wait_for(worker.shutdown(), 20)
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working
        histories, unreadable = await fetch_histories(client, self._known_runs(listed))
        self._summarise(requests, histories)
        self.report.violations += unreadable
        if counted != len(histories):
            text = f"CountWorkflowExecutions says {counted}, there are {len(histories)} histories"
            self.report.violations.append(Violation("counts_agree", "", "", text))
        self.report.violations += judge(self.ledger, histories, listed, self.bank, load, self.plan.clock_tolerance_ns)
        self.report.violations += self._too_little_work(requests)
        if self.report.violations:
            with (self.plan.folder / "histories.jsonl").open("w") as file:
                file.writelines(json.dumps(as_json(history)) + "\n" for history in histories)

    async def _until_done(self, awaited: asyncio.Future[Any], others: list[asyncio.Task[None]]) -> None:
        """Waits, unless one of the others (worker, clients) ends before its time: that fails the campaign."""
        while not awaited.done():
            await asyncio.wait([awaited, *others], timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
            for other in others:
                if other.done() and not awaited.done():
                    other.result()
                    raise RuntimeError(f"{other.get_name()} ended before its time")
        await awaited

    async def _kill_again_and_again(self, load: Load) -> None:
        if self.server is None:
            await asyncio.sleep(self.plan.load_s)
            return
        stream = self.streams("kills")
        shown_at = time.monotonic()
        while self.report.kills_done < self.plan.kills:
            # Mostly short lives, so that kills also hit what recovery left half done; some long enough for work to get through.
            begun = time.monotonic()
            if stream.random() < 0.25:
                await self._until_work_gets_through()
            await asyncio.sleep(stream.uniform(0.05, 1.6))
            uptime_s = time.monotonic() - begun
            if stream.random() < 0.2:
                await self._kill_worker()
            await self.server.kill()
            self.report.kills_done += 1
            self.note("kill", number=self.report.kills_done, uptime_s=round(uptime_s, 3))
            ready = await self.server.launch()
            if stream.random() < 0.1 and self.report.kills_done < self.plan.kills:
                await asyncio.sleep(stream.uniform(0.0, 0.8))
                self.report.kills_while_starting += not ready.is_set()
                await self.server.kill()
                self.report.kills_done += 1
                self.note("kill", number=self.report.kills_done, ready=ready.is_set())
                ready = await self.server.launch()
            await self.server.wait_ready(ready)
            self.note("ready", after_s=round(self.server.ready_s[-1], 3))
            if time.monotonic() - shown_at > 10 or self.report.kills_done == self.plan.kills:
                shown_at = time.monotonic()
                acked = sum(act.outcome == Outcome.ACKED for act in self.ledger)
                self.console.print(
                    f"  {shown_at - self.begun:6.1f} s  {self.report.kills_done} kills, {acked} acks, {len(load.told)} transfers"
                )

    async def _until_work_gets_through(self) -> None:
        """The official SDK's workers wait up to 10 s between polls while the server keeps dying: some lives last until they
        are back, else a campaign would mostly test a server without work."""
        before = self._worked_count()
        give_up_at = time.monotonic() + WORK_WAIT_S_MAX
        while self._worked_count() == before and time.monotonic() < give_up_at:
            await asyncio.sleep(0.05)

    def _worked_count(self) -> int:
        """Acks that took a worker's part."""
        worked = (ActKind.UPDATE, ActKind.COMPLETION)
        return sum(act.outcome == Outcome.ACKED and act.kind in worked for act in self.ledger)

    async def _fetch_tasks(self, load: Load) -> None:
        """What the worker process was given to complete from outside."""
        while True:
            for task in self.bank.take_tasks():
                load.hand_out(*task)
            await asyncio.sleep(0.05)

    async def _kill_worker(self) -> None:
        assert self.worker is not None
        await self.worker.kill()
        self.report.worker_kills += 1
        self.note("kill worker", number=self.report.worker_kills)
        await self.worker.start(self.plan.seed + self.report.worker_kills)

    async def _until_every_run_ended(self, client: Client, others: list[asyncio.Task[None]]) -> list[ListedRun]:
        """The liveness phase. Entities are told to finish; all else ends by itself. Returns the list at its end."""
        begun = time.monotonic()
        while True:
            for other in others:
                if other.done():
                    other.result()
            if self.server is not None:
                self.server.check_alive()
            listed = [run for run in await list_runs(client) if run.workflow_id.endswith(self.plan.tag)]
            still_open = [run for run in listed if run.is_open]
            self.report.quiet_s = time.monotonic() - begun
            if not still_open or self.report.quiet_s > self.plan.quiet_s_max:
                self.note("quiet", open=[run.workflow_id for run in still_open])
                return listed
            for run in still_open:
                if run.workflow_id.startswith("entity-"):
                    with suppress(RPCError):  # it may have closed since it was listed
                        await client.get_workflow_handle(run.workflow_id).signal("finish")
            await asyncio.sleep(0.5)

    def _known_runs(self, listed: list[ListedRun]) -> list[tuple[str, str]]:
        """Listed runs, and those that an ack named: a run that visibility does not show must not escape the checks."""
        acked = [(act.workflow_id, act.run_id) for act in self.ledger if act.outcome == Outcome.ACKED and act.run_id]
        return [*((run.workflow_id, run.run_id) for run in listed), *acked]

    def _note_act(self, act: Act) -> None:
        self.note(act.kind, token=act.token, id=act.workflow_id, outcome=act.outcome, attempts=act.attempts, error=act.error)

    def _summarise(self, requests: Requests, histories: list[RunHistory]) -> None:
        self.report.runs = len(histories)
        self.report.events = sum(len(history.events) for history in histories)
        self.report.counts = self.ledger.counts()
        ready_s = sorted(self.server.ready_s) if self.server else []
        ready = [round(part(ready_s, share), 2) for share in (0.5, 0.99, 1)] if ready_s else []
        self.report.figures |= {
            "requests retried": requests.retried_count,
            "requests doubled": requests.doubled_count,
            "worker kills": self.report.worker_kills,
            "activities retried": self.bank.count("activities retried"),
            "bank movements repeated": self.bank.count("movements repeated"),
            "ready after s (p50, p99, max)": ready,
            "answers with an error": dict(sorted(requests.errors_count.items())),
        }

    def _too_little_work(self, requests: Requests) -> list[Violation]:
        counts = self.report.counts
        least = {f"{kind}.acked": 5 for kind in ("start", "signal", "update", "completion")}
        faults = [f"only {counts.get(key, 0)} {key}" for key, least_count in least.items() if counts.get(key, 0) < least_count]
        acked = sum(count for key, count in counts.items() if key.endswith(".acked"))
        if acked < self.plan.acks_min:
            faults.append(f"only {acked} acks, at least {self.plan.acks_min} are wanted")
        if self.server is not None and self.report.kills_done < self.plan.kills:
            faults.append(f"only {self.report.kills_done} of {self.plan.kills} kills")
        if self.plan.kills >= 20 and self.report.worker_kills == 0:
            faults.append("no worker was killed")
        if self.plan.kills >= 10 and self.bank.count("movements repeated") == 0:
            faults.append("no activity was repeated after it had done its work")
        if requests.doubled_count == 0 or (self.plan.kills >= 10 and requests.retried_count == 0):
            faults.append(f"{requests.doubled_count} doubled and {requests.retried_count} retried requests: faults did not bite")
        return [Violation("minimum_work", "", "", text) for text in faults]
