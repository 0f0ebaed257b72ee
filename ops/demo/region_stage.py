"""The story of two regions, on real processes: one is killed amid transfers, two takes over, one returns, and gets it back.

    1 both regions, a worker in each that knows its own region only, a client that knows both
    2 half of the transfers are done: the line between the regions is cut, and half a second later region one gets SIGKILL, with
      what it has acknowledged meanwhile. Nobody tells region two: it finds out and takes over
    3 all transfers end, in region two
    4 region one returns with what it had not shipped: the ledger, the histories of both, the bank
    5 more transfers flow while the namespace goes back, gracefully: nothing may be lost
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError

from ops.demo.audit import audit
from ops.demo.bank import Bank, Transfer, draw_transfers
from ops.demo.region_audit import RegionReport, RunName, differing, outcomes, unexplained
from ops.demo.region_client import ClientOfRegions
from ops.demo.regions import NAMES, Regions
from ops.demo.stage import WorkerProcess, quiet_runtime
from ops.servers import ServerFailed, tail
from ops.services.proxy import TcpProxy, tcp_proxy

OPEN_TRANSFERS = 24  # in flight at once, so that the kill always meets some
CUT_AT_SHARE = 0.45
CUT_S = 0.5  # before the kill: what is acknowledged meanwhile has not been shipped
LATE_SHARE = 0.1  # more transfers, for the fail-back
TAKEOVER_S_MAX = 30.0
EQUAL_S_MAX = 40.0
LOOK_S = 0.2
LOCAL = {"xdc-redirection": "false"}  # asks a region for its own copy


class RegionStage:
    """One performance. `tell` gets a line for each thing that happens, `progress` the number of finished transfers."""

    def __init__(
        self, directory: Path, stores: str, count: int, seed: int, tell: Callable[[str], None], progress: Callable[[int], None]
    ) -> None:
        self._directory, self._tell, self._progress = directory, tell, progress
        self._regions = Regions(directory / "regions", stores)
        self._bank_file = directory / "accounts.db"
        late = max(10, int(count * LATE_SHARE))
        self._transfers, self._count = draw_transfers(count + late, seed), count
        self._results: dict[str, str] = {}
        self._changed = asyncio.Condition()
        self._workers: dict[str, WorkerProcess] = {}
        self._clients: dict[str, Client] = {}
        self._lines: list[TcpProxy] = []  # between the regions, one for each direction of calls
        self._killed_at = 0.0
        self.report = RegionReport(transfers=count + late, stores=stores, late_transfers=late)

    async def perform(self) -> RegionReport:
        """Raises ServerFailed when something does not happen that must, or a process ends that nobody killed."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for old in self._directory.glob("*.*"):
            if old.is_file():
                old.unlink()
        bank = Bank(self._bank_file)
        bank.create()
        async with AsyncExitStack() as stack:  # the lines between the regions end last: workers ask through them until they end
            try:
                await asyncio.to_thread(self._regions.start)
                began = time.monotonic()
                await self._open(stack)
                client = ClientOfRegions(self._clients)
                await self._beside(self._story(client), client.watch(), self._watch())
                self._finish(bank, client, time.monotonic() - began)
            finally:
                bank.close()
                await asyncio.gather(*(asyncio.to_thread(worker.stop) for worker in self._workers.values()))
                await asyncio.to_thread(self._regions.stop)
        return self.report

    async def _open(self, stack: AsyncExitStack) -> None:
        runtime = quiet_runtime()
        for name, other in (("one", "two"), ("two", "one")):
            self._tell(self._regions.describe(name))
            line = await stack.enter_async_context(tcp_proxy(self._regions.plans[other].config.port))
            self._lines.append(line)
            await asyncio.to_thread(self._regions.link, name, line.port)
        for name in NAMES:
            await asyncio.to_thread(self._regions.wait_well, name, EQUAL_S_MAX)
            address = self._regions.address(name)
            self._workers[name] = WorkerProcess(address, self._bank_file, self._directory / f"worker-{name}.log")
            self._clients[name] = await Client.connect(address, namespace="default", runtime=runtime)
        await asyncio.gather(*(asyncio.to_thread(worker.restart) for worker in self._workers.values()))
        self._tell("a worker in each region, which knows only that region's address")

    async def _beside(self, work: Coroutine[Any, Any, None], *watches: Coroutine[Any, Any, None]) -> None:
        """The work; whichever of them ends first ends all, and raises what it raised."""
        jobs = [asyncio.create_task(one) for one in (work, *watches)]
        done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        for job in done:
            job.result()

    async def _watch(self) -> None:
        """Ends only by raising: a process that dies by itself would otherwise look like a very slow demo."""
        while True:
            if ended := await asyncio.to_thread(self._regions.ended):
                raise ServerFailed(ended)
            for name, worker in self._workers.items():
                if not worker.alive():
                    raise ServerFailed(f"the worker of region {name} ended by itself:\n{tail(worker.log)}")
            await asyncio.sleep(LOOK_S)

    # --- the story --------------------------------------------------------------------------------------------------------
    async def _story(self, client: ClientOfRegions) -> None:
        async with asyncio.TaskGroup() as jobs:
            jobs.create_task(self._flow(client, self._transfers[: self._count]))
            jobs.create_task(self._lose_region_one())
        self.report.rto_s = client.started_at.get("two", time.monotonic()) - self._killed_at
        self._tell(f"{len(self._results):>4} done: all of them, in region two")
        await self._return_of_region_one(client)
        await self._fail_back(client)

    async def _flow(self, client: ClientOfRegions, transfers: list[Transfer]) -> None:
        gate = asyncio.Semaphore(OPEN_TRANSFERS)
        async with asyncio.TaskGroup() as jobs:
            for transfer in transfers:
                jobs.create_task(self._one(client, transfer, gate))

    async def _one(self, client: ClientOfRegions, transfer: Transfer, gate: asyncio.Semaphore) -> None:
        async with gate:
            self._results[transfer.transfer_id] = await client.run(transfer)
        async with self._changed:
            self._changed.notify_all()
        self._progress(len(self._results))

    async def _lose_region_one(self) -> None:
        due = int(CUT_AT_SHARE * self._count)
        async with self._changed:
            while len(self._results) < due:
                await self._changed.wait()
        self._tell(f"{len(self._results):>4} done: the line between the regions is cut")
        for line in self._lines:
            line.mode = "lose_requests"
            line.cut()
        await asyncio.sleep(CUT_S)
        self.report.done_before_kill = len(self._results)
        self._killed_at = time.monotonic()
        await asyncio.to_thread(self._regions.kill, "one")
        self._tell(f"{len(self._results):>4} done: SIGKILL to region one")
        await asyncio.to_thread(self._regions.wait_owner, "two", "two", TAKEOVER_S_MAX)
        report = self.report
        report.takeover_s = time.monotonic() - self._killed_at
        moves = (await asyncio.to_thread(self._regions.look, "two", "failover/status"))["moves"]
        moved = [one for move in moves for one in move["reports"] if one["namespace"] == "default"]
        if not moved:
            report.problems.append("region two owns the namespace, and no automatic failover is noted there")
            return
        report.detect_s, report.decide_s = moved[-1]["detect_ns"] / 1e9, moved[-1]["decide_ns"] / 1e9
        told = f"silent for {report.detect_s:.1f} s, watched for {report.decide_s:.1f} s more"
        self._tell(f"{len(self._results):>4} done: region two has taken over by itself after {report.takeover_s:.1f} s ({told})")

    async def _return_of_region_one(self, client: ClientOfRegions) -> None:
        began = time.monotonic()
        for line in self._lines:
            line.mode = "pass"
        await asyncio.to_thread(self._regions.run_again, "one")
        for name in NAMES:
            await asyncio.to_thread(self._regions.wait_well, name, EQUAL_S_MAX)
        self._tell("region one is back, and linked again")
        await self._until_verified()
        self.report.return_s = time.monotonic() - began
        lines = await self._ledger("two")
        conflicts = await asyncio.to_thread(self._regions.look, "two", "conflicts", namespace="default")
        problems = unexplained(conflicts, lines, client.started_again)
        self.report.problems += problems
        self.report.unexplained = len(problems)
        self.report.ledger, self.report.rpo_events = outcomes(lines), len(lines)
        self.report.rpo_workflows = len({line["workflow_id"] for line in lines})
        await self._compare()
        told = f"both regions verified to be equal {self.report.return_s:.1f} s after its start"
        self._tell(f"{told}; the ledger has {len(lines)} lines")

    async def _fail_back(self, client: ClientOfRegions) -> None:
        before = await self._lost()
        late = asyncio.create_task(self._flow(client, self._transfers[self._count :]))
        try:
            async with self._changed:  # in the middle of them
                while len(self._results) < self._count + self.report.late_transfers // 3:
                    await self._changed.wait()
            asked = {"namespaces": ["default"], "to": "one", "kind": "graceful", "timeout_s": 20.0}
            moved = (await asyncio.to_thread(lambda: self._regions.act("two", "failover/run", **asked)))[0]
            self._tell(f"{len(self._results):>4} done: back in region one: {moved['reason'] or 'gracefully'}")
            await late
        finally:
            late.cancel()
            await asyncio.gather(late, return_exceptions=True)
        report = self.report
        report.fail_back_ms, report.frozen_ms = moved["total_ns"] / 1e6, moved["freeze_ns"] / 1e6
        if not moved["is_done"] or moved["events_behind"]:
            report.problems.append(f"the fail-back was not graceful: {moved['reason']}, events behind {moved['events_behind']}")
        for name in NAMES:
            await asyncio.to_thread(self._regions.wait_owner, name, "one", EQUAL_S_MAX)
        await self._until_verified()
        report.fail_back_lost = len(await self._lost() - before)
        if report.fail_back_lost:
            report.problems.append(f"the graceful fail-back has {report.fail_back_lost} lines in the ledger")
        await self._compare()

    # --- what both have ---------------------------------------------------------------------------------------------------
    async def _ledger(self, name: str) -> list[dict[str, Any]]:
        page = await asyncio.to_thread(self._regions.look, name, "ledger", namespace="default")
        return list(page["lines"])

    async def _lost(self) -> set[tuple[str, str, int, int]]:
        """By either region's ledger: a region that becomes active goes through the branches once more."""
        lines = [line for name in NAMES for line in await self._ledger(name)]
        return {(line["run_id"], line["source"], line["number"], line["version"]) for line in lines}

    async def _until_verified(self) -> None:
        """By the regions themselves: their hash trees. Raises ServerFailed."""
        deadline = time.monotonic() + EQUAL_S_MAX
        while told := await asyncio.to_thread(self._regions.difference, "two", "one"):
            if time.monotonic() > deadline:
                raise ServerFailed(f"after {EQUAL_S_MAX:.0f} s the regions are not verified to be equal: {told}")
            await asyncio.sleep(LOOK_S)

    async def _compare(self) -> None:
        """By what a client reads: every history of each region's own copy. Visibility lags, so the lists are looked at again."""
        deadline = time.monotonic() + EQUAL_S_MAX
        while True:
            one, two = await asyncio.gather(*(self._checksums(self._clients[name]) for name in NAMES))
            problems = differing(one, two)
            missing = [one.transfer_id for one in self._transfers if one.transfer_id in self._results]
            known = {workflow_id for workflow_id, _ in two}
            problems += [f"{name} is in no region" for name in missing if name not in known]
            if not problems or time.monotonic() > deadline:
                break
            await asyncio.sleep(LOOK_S)
        self.report.problems += problems
        self.report.runs_compared = len(one)
        self.report.checksum_one, self.report.checksum_two = _checksum(one), _checksum(two)

    async def _checksums(self, client: Client) -> dict[RunName, str]:
        gate = asyncio.Semaphore(OPEN_TRANSFERS)

        async def of(name: RunName) -> tuple[RunName, str]:
            async with gate:
                handle = client.get_workflow_handle(name[0], run_id=name[1])
                history = await self._again(lambda: handle.fetch_history(rpc_metadata=LOCAL))
                digest = hashlib.sha256()
                for event in history.events:
                    digest.update(event.SerializeToString(deterministic=True))
                return name, digest.hexdigest()

        async def names() -> list[RunName]:
            return [(run.id, run.run_id) async for run in client.list_workflows("", rpc_metadata=LOCAL)]

        return dict(await asyncio.gather(*map(of, await self._again(names))))

    async def _again(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Once more: a node that has just begun may say that it does not know yet."""
        try:
            return await call()
        except RPCError:
            await asyncio.sleep(LOOK_S)
            return await call()

    def _finish(self, bank: Bank, client: ClientOfRegions, seconds: float) -> None:
        report, entries = self.report, bank.entries()
        results = list(self._results.values())
        report.transferred, report.refunded = results.count("transferred"), results.count("refunded")
        report.cents_after = bank.total_cents()
        report.repeated_calls, report.seconds = client.repeated_count, seconds
        report.started_again = len(client.started_again)
        report.repeated_bookings = sum(asked_count - 1 for *_, asked_count in entries)
        report.problems += audit(self._transfers, self._results, entries, bank.balances())
        if report.checksum_one != report.checksum_two:
            report.problems.append("the checksums of the two regions' histories differ")
        if "two" not in client.started_at:
            report.problems.append("no transfer was started in region two, so nothing was shown")


def _checksum(of: dict[RunName, str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(of):
        digest.update(f"{name[0]}\0{name[1]}\0{of[name]}\n".encode())
    return digest.hexdigest()[:16]
