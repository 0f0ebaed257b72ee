"""The demo's course: start everything, let transfers flow, kill processes at points of progress, audit.

A fault names its target, so that a later demo can add targets (a second region) without touching the course.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from temporalio.client import Client
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter

from ops.demo.audit import Report, audit
from ops.demo.bank import Bank, Transfer, draw_transfers
from ops.demo.client import Transfers
from ops.servers import LoggedProcess, Server, ServerFailed, tail

OPEN_TRANSFERS = 24  # in flight at once, so that a kill always meets some
WORKER_START_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Fault:
    """SIGKILL the target once this share of the transfers is done, then start it again."""

    at_share: float
    target: str


PLAN = (Fault(0.20, "server"), Fault(0.45, "server"), Fault(0.55, "worker"), Fault(0.70, "server"))


def quiet_runtime() -> Runtime:
    """The SDK warns of every call that it repeats; here outages are the plan, and `Transfers` counts what they cost."""
    level = TelemetryFilter(core_level="ERROR", other_level="ERROR")
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter=level)))


class WorkerProcess:
    """`ops.demo.worker` as a child, started again after a kill."""

    def __init__(self, address: str, accounts: Path, log: Path) -> None:
        self.log = log
        self._command = [sys.executable, "-m", "ops.demo.worker"]
        self._command += ["--address", address, "--namespace", "default", "--accounts", str(accounts)]
        self._child: LoggedProcess | None = None

    def restart(self) -> None:
        self._child = LoggedProcess(self._command, self.log, "worker ready", {"PYTHONUNBUFFERED": "1"})
        self._child.wait_ready(WORKER_START_TIMEOUT_S)

    def kill(self) -> None:
        assert self._child is not None
        self._child.end(signal.SIGKILL)

    def stop(self) -> None:
        if self._child is not None:
            self._child.end(signal.SIGTERM)

    def alive(self) -> bool:
        return self._child is not None and self._child.process.poll() is None


class Stage:
    """One performance. `tell` gets a line for each thing that happens, `progress` the number of finished transfers."""

    def __init__(
        self, directory: Path, server: Server, count: int, seed: int, tell: Callable[[str], None], progress: Callable[[int], None]
    ) -> None:
        self._directory, self._server, self._tell, self._progress = directory, server, tell, progress
        self._bank_file = directory / "accounts.db"
        self._worker = WorkerProcess(server.address, self._bank_file, directory / "worker.log")
        self._targets: dict[str, Server | WorkerProcess] = {"server": server, "worker": self._worker}
        self._down: set[str] = set()  # killed on purpose just now
        self._transfers = draw_transfers(count, seed)
        self._results: dict[str, str] = {}
        self._changed = asyncio.Condition()
        self.report = Report(transfers=count)

    async def perform(self) -> Report:
        """Raises ServerFailed when a process ends that nobody killed."""
        began = time.monotonic()
        self._directory.mkdir(parents=True, exist_ok=True)
        for old in self._directory.glob("*.*"):
            if old.is_file():
                old.unlink()
        bank = Bank(self._bank_file)
        bank.create()
        try:
            await asyncio.to_thread(self._server.start)
            self._tell(f"server ready at {self._server.address} (pid {self._server.pid})")
            await asyncio.to_thread(self._worker.restart)
            self._tell("worker ready")
            client = Transfers(await Client.connect(self._server.address, namespace="default", runtime=quiet_runtime()))
            await self._run_all(client)
            gate = asyncio.Semaphore(OPEN_TRANSFERS)
            retried = await asyncio.gather(*(self._retried(client, transfer, gate) for transfer in self._transfers))
            self._finish(bank, client, sum(retried), time.monotonic() - began)
        finally:
            bank.close()
            for process in (self._worker, self._server):
                await asyncio.to_thread(process.stop)
        return self.report

    async def _run_all(self, client: Transfers) -> None:
        watch = asyncio.create_task(self._watch())
        work = asyncio.create_task(self._flow(client))
        done, _ = await asyncio.wait({watch, work}, return_when=asyncio.FIRST_COMPLETED)
        for job in (watch, work):
            job.cancel()
        await asyncio.gather(watch, work, return_exceptions=True)
        (watch if watch in done else work).result()

    async def _flow(self, client: Transfers) -> None:
        gate = asyncio.Semaphore(OPEN_TRANSFERS)
        async with asyncio.TaskGroup() as jobs:
            jobs.create_task(self._inject())
            for transfer in self._transfers:
                jobs.create_task(self._one(client, transfer, gate))

    async def _one(self, client: Transfers, transfer: Transfer, gate: asyncio.Semaphore) -> None:
        async with gate:
            self._results[transfer.transfer_id] = await client.run(transfer)
        async with self._changed:
            self._changed.notify_all()
        self._progress(len(self._results))

    async def _retried(self, client: Transfers, transfer: Transfer, gate: asyncio.Semaphore) -> int:
        async with gate:
            return await client.retried_activities(transfer)

    async def _inject(self) -> None:
        for fault in PLAN:
            due = int(fault.at_share * len(self._transfers))
            async with self._changed:
                while len(self._results) < due:
                    await self._changed.wait()
            target = self._targets[fault.target]
            self._down.add(fault.target)
            done = len(self._results)
            await asyncio.to_thread(target.kill)
            began = time.monotonic()
            await asyncio.to_thread(target.restart)
            self._down.discard(fault.target)
            self._tell(f"{done:>4} done: SIGKILL to the {fault.target}; back after {time.monotonic() - began:.1f} s")
            if fault.target == "worker":
                self.report.worker_kills += 1
            else:
                self.report.server_kills += 1

    async def _watch(self) -> None:
        """Ends only by raising: a process that dies by itself would otherwise look like a very slow demo."""
        while True:
            for name, process in self._targets.items():
                if name not in self._down and not process.alive() and name not in self._down:
                    raise ServerFailed(f"the {name} ended by itself:\n{tail(process.log)}")
            await asyncio.sleep(0.2)

    def _finish(self, bank: Bank, client: Transfers, retried: int, seconds: float) -> None:
        report, entries = self.report, bank.entries()
        outcomes = list(self._results.values())
        report.transferred, report.refunded = outcomes.count("transferred"), outcomes.count("refunded")
        report.cents_after = bank.total_cents()
        report.retried_activities, report.repeated_calls, report.seconds = retried, client.repeated_count, seconds
        report.repeated_bookings = sum(asked_count - 1 for *_, asked_count in entries)
        report.problems = audit(self._transfers, self._results, entries, bank.balances())
        planned = [fault.target for fault in PLAN]
        if (report.server_kills, report.worker_kills) != (planned.count("server"), planned.count("worker")):
            report.problems.append("not every planned kill took place")
