"""The course of the demo, on real processes: server, depot, a worker for each team; orders, trouble amid them, the audit."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client

from ops.demo_nexus.audit import NOWHERE, Report, Seen, audit_histories, audit_orders
from ops.demo_nexus.callers import Callers
from ops.demo_nexus.ledger import Ledger
from ops.demo_nexus.servers import Servers
from ops.demo_nexus.services import Order, Outcome
from ops.demo_nexus.teams import TEAMS
from ops.demo_nexus.worker import quiet_runtime
from ops.servers import LoggedProcess, ServerFailed, tail

HERE = Path(__file__).resolve().parent
READY_S = 40.0
OPEN_ORDERS = 6  # in flight at once, so that the trouble always meets some
TROUBLE_AT_SHARE = 0.4
REFUND_EACH = 4  # every fourth order goes nowhere
COMMAND_EACH = 5  # every fifth is placed by `outlast nexus call`, which is a process to start
LIST_S = 20.0  # until visibility knows all runs
LOOK_S = 0.2


def draw_orders(count: int) -> list[Order]:
    return [
        Order(
            f"{number:03}",
            f"book {number}",
            1_000 + 25 * number,
            NOWHERE if number % REFUND_EACH == REFUND_EACH - 1 else f"{number} Main Street",
        )
        for number in range(count)
    ]


class NexusStage:
    """One performance. `tell` gets a line for each thing that happens."""

    def __init__(
        self, directory: Path, servers: Servers, count: int, has_trouble: bool, tell: Callable[[str], None]
    ) -> None:
        self._directory, self._servers, self._has_trouble, self._tell = directory, servers, has_trouble, tell
        self._orders = draw_orders(count)
        self._outcomes: dict[str, Outcome] = {}
        self._changed = asyncio.Condition()
        self._children: dict[str, LoggedProcess] = {}
        self.report = Report(orders=count)

    async def perform(self) -> Report:
        """Raises ServerFailed when something does not happen that must, or a process ends that nobody killed."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        ledger = Ledger(self._directory / "ledger.db")
        ledger.create()
        try:
            await asyncio.to_thread(self._open)
            began = time.monotonic()
            await self._beside_the_watch(self._story())
            self.report.seconds = time.monotonic() - began
            await self._audit(ledger)
        finally:
            ledger.close()
            for child in self._children.values():
                await asyncio.to_thread(child.end, signal.SIGTERM)
            await asyncio.to_thread(self._servers.stop)
        return self.report

    def _open(self) -> None:
        node = shutil.which("node")
        if node is None or shutil.which("curl") is None:
            raise ServerFailed("the demo needs Node (18 or later) for the depot, and curl for a caller: install them")
        self._servers.start()
        depot = [node, str(HERE / "depot.mjs")]
        self._children["depot"] = LoggedProcess(depot, self._directory / "depot.log", "depot ready")
        for team in TEAMS:
            worker = [sys.executable, "-m", "ops.demo_nexus.worker", "--team", team, "--address", self._servers.address]
            worker += ["--ledger", str(self._directory / "ledger.db")]
            log = self._directory / f"worker-{team}.log"
            self._children[team] = LoggedProcess(worker, log, "worker ready", {"PYTHONUNBUFFERED": "1"})
        for child in self._children.values():
            child.wait_ready(READY_S)
        self._tell(f"{self._servers.what}, three namespaces with a worker each ({', '.join(TEAMS)}), and the depot in Node")
        self._publish()

    def _publish(self) -> None:
        """The teams' endpoints and contracts, as an operator would."""
        text = (HERE / "endpoints.yaml").read_text().replace("DEPOT_URL", self._depot_url())
        file = self._directory / "endpoints.yaml"
        file.write_text(text)
        shutil.copytree(HERE / "contracts", self._directory / "contracts")
        self._outlast("apply", str(file))
        self._tell(f"outlast nexus apply {file.name}, and the catalogue says:")
        self._tell(self._outlast("catalog").rstrip())

    def _outlast(self, *words: str) -> str:
        outlast = str(Path(sys.executable).with_name("outlast"))
        command = [outlast, "nexus", *words, "--grpc-address", self._servers.address]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=READY_S)
        if done.returncode != 0:
            raise ServerFailed(f"outlast nexus {words[0]} ended with {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def _depot_url(self) -> str:
        lines = (self._directory / "depot.log").read_text().splitlines()
        return next(line.split()[-1] for line in lines if line.startswith("depot ready"))

    # --- the story ----------------------------------------------------------------------------------------------------------
    async def _beside_the_watch(self, story: Any) -> None:
        """Whichever ends first ends both, and raises what it raised."""
        jobs = [asyncio.create_task(story), asyncio.create_task(self._watch())]
        done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        for job in done:
            job.result()

    async def _watch(self) -> None:
        """Ends only by raising: a process that dies by itself would otherwise look like a very slow demo."""
        while True:
            for name, child in self._children.items():
                if child.process.poll() is not None:
                    raise ServerFailed(f"{name} ended by itself:\n{tail(child.log)}")
            await asyncio.sleep(LOOK_S)

    async def _story(self) -> None:
        async with asyncio.TaskGroup() as jobs:
            if self._has_trouble:
                jobs.create_task(self._trouble())
            gate = asyncio.Semaphore(OPEN_ORDERS)
            for number, order in enumerate(self._orders):
                jobs.create_task(self._one(number, order, gate))
        self._tell(f"{len(self._outcomes):>4} done: all of them")

    async def _one(self, number: int, order: Order, gate: asyncio.Semaphore) -> None:
        gateways = self._servers.http_addresses
        callers = Callers(gateways[number // 2 % len(gateways)], self._servers.has_lag)
        ways = {"curl": callers.by_curl, "Python": callers.by_python, "outlast nexus call": callers.by_command}
        way = "outlast nexus call" if number % COMMAND_EACH == COMMAND_EACH - 1 else ("curl", "Python")[number % 2]
        async with gate:
            outcome = await ways[way](order)
        self._outcomes[order.order_id] = outcome
        self.report.unknown_results += callers.unknown_count
        self.report.by_caller[way] = self.report.by_caller.get(way, 0) + 1
        async with self._changed:
            self._changed.notify_all()

    async def _trouble(self) -> None:
        async with self._changed:
            while len(self._outcomes) < TROUBLE_AT_SHARE * len(self._orders):
                await self._changed.wait()
        self.report.done_before = len(self._outcomes)
        began = time.monotonic()
        self.report.trouble = await asyncio.to_thread(self._servers.trouble)
        took_s = time.monotonic() - began
        self._tell(f"{self.report.done_before:>4} done: {self.report.trouble} ({took_s:.1f} s)")

    # --- what is there afterwards -------------------------------------------------------------------------------------------
    async def _audit(self, ledger: Ledger) -> None:
        depot = await asyncio.to_thread(self._parcels)
        report, states = self.report, Counter(outcome.state for outcome in self._outcomes.values())
        report.shipped, report.refunded = states["shipped"], states["refunded"]
        bookings, parcels = ledger.bookings(), depot["parcels"]
        report.problems += audit_orders(self._orders, self._outcomes, bookings, parcels, depot["refused"])
        seen = await self._seen()
        report.problems += audit_histories(self._orders, seen)
        report.runs = {namespace: len(runs) for namespace, runs in seen.runs.items()}
        report.operations = len(seen.operations)
        report.turned_away = depot["turned_away"]
        report.links = sum(bool(handler) for *_, handler in seen.operations)

    def _parcels(self) -> Any:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(self._depot_url() + "/parcels", timeout=READY_S) as answer:
            return json.load(answer)

    async def _seen(self) -> Seen:
        seen = Seen()
        refunds = sum(order.address == NOWHERE for order in self._orders)
        wanted = dict.fromkeys(TEAMS, len(self._orders)) | {"payment": len(self._orders) + refunds}
        for team in TEAMS:
            client = await Client.connect(self._servers.audited_address, namespace=team, runtime=quiet_runtime())
            deadline = time.monotonic() + LIST_S
            while True:
                runs = [(run.id, run.run_id) async for run in client.list_workflows("")]
                if len(runs) >= wanted[team] or time.monotonic() > deadline:
                    break
                await asyncio.sleep(LOOK_S)
            seen.runs[team] = [workflow_id for workflow_id, _ in runs]
            for workflow_id, run_id in runs:
                history = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
                look_at_history(seen, team, workflow_id, list(history.events))
        return seen


def look_at_history(seen: Seen, team: str, workflow_id: str, events: list[HistoryEvent]) -> None:
    """Adds to `seen` what one run's history says of Nexus."""
    handler_of: dict[int, str] = {}
    for event in events:
        name = EventType.Name(event.event_type)
        if name == "EVENT_TYPE_NEXUS_OPERATION_STARTED":
            handlers = [link.workflow_event.workflow_id for link in event.links if link.HasField("workflow_event")]
            started = event.nexus_operation_started_event_attributes
            handler_of[started.scheduled_event_id] = handlers[0] if handlers else ""
        elif "CHILD_WORKFLOW" in name or "EXTERNAL_WORKFLOW" in name or ("ACTIVITY" in name and team != "payment"):
            seen.foreign_events.append(f"{name} in {team}/{workflow_id}")
    for event in events:
        if EventType.Name(event.event_type) == "EVENT_TYPE_NEXUS_OPERATION_SCHEDULED":
            scheduled = event.nexus_operation_scheduled_event_attributes
            handler = handler_of.get(event.event_id, "")
            seen.operations.append((team, workflow_id, scheduled.service, scheduled.operation, handler))
    callers = [
        link.workflow_event.workflow_id
        for callback in events[0].workflow_execution_started_event_attributes.completion_callbacks
        for link in callback.links
        if link.HasField("workflow_event")
    ]
    callers += [link.workflow_event.workflow_id for link in events[0].links if link.HasField("workflow_event")]
    if callers:
        seen.callers[(team, workflow_id)] = callers[0]
