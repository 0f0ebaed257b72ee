"""The two courses; see the package's README.

    kill       load in region one, the line between the regions is cut, SIGKILL; region two takes over by itself; one returns
    graceful   load in the owner's region while all namespaces are handed over, to and fro
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from temporalio.api.replication.v1 import ClusterReplicationConfig
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    ListNamespacesRequest,
    ListWorkflowExecutionsRequest,
    RegisterNamespaceRequest,
    WorkflowServiceStub,
)

from chaos.regions.audit import Verdict, judge, tokens_of
from chaos.regions.load import Load
from chaos.regions.record import Record
from chaos.regions.report import DrillReport, GracefulReport
from ops.demo.regions import NAMES, Regions
from ops.servers import ServerFailed
from ops.services.proxy import TcpProxy, tcp_proxy

CLIENTS = 12
CUT_S = 0.5
TAKEOVER_S_MAX = 60.0
EQUAL_S_MAX = 180.0
LOOK_S = 0.1
PAGE = 1000
RETENTION_S = 86_400
READERS = 16  # histories that are read at once


class Drill:
    def __init__(self, directory: Path, stores: str, namespaces_count: int, seed: int, tell: Callable[[str], None]) -> None:
        self._regions = Regions(directory / "regions", stores)
        self._names = [f"team-{number}" for number in range(namespaces_count)]
        self._seed, self._tell = seed, tell
        self._channels: dict[str, Any] = {}
        self._lines: list[TcpProxy] = []
        self.record = Record()

    @contextlib.asynccontextmanager
    async def _open(self) -> Any:
        try:
            await asyncio.to_thread(self._regions.start)
            async with contextlib.AsyncExitStack() as stack:
                for name, other in (("one", "two"), ("two", "one")):
                    line = await stack.enter_async_context(tcp_proxy(self._regions.plans[other].config.port))
                    self._lines.append(line)
                    await asyncio.to_thread(self._regions.link, name, line.port)
                for name in NAMES:
                    await asyncio.to_thread(self._regions.wait_well, name, EQUAL_S_MAX)
                    self._channels[name] = grpc.aio.insecure_channel(self._regions.address(name))
                await self._register()
                yield
        finally:
            for channel in self._channels.values():
                await channel.close()
            await asyncio.to_thread(self._regions.stop)

    async def _register(self) -> None:
        stub: Any = WorkflowServiceStub(self._channels["one"])
        clusters = [ClusterReplicationConfig(cluster_name=name) for name in NAMES]
        for namespace in self._names:
            request = RegisterNamespaceRequest(
                namespace=namespace, is_global_namespace=True, active_cluster_name="one", clusters=clusters
            )
            request.workflow_execution_retention_period.FromSeconds(RETENTION_S)
            await stub.RegisterNamespace(request, timeout=10)
        await self._until(lambda: self._all_owned_by("two", "one"), EQUAL_S_MAX, "region two knows all namespaces")
        self._tell(f"{len(self._names)} namespaces are in both regions, active in region one")

    async def _owners(self, asked: str) -> dict[str, str]:
        stub: Any = WorkflowServiceStub(self._channels[asked])
        owners: dict[str, str] = {}
        token = b""
        while True:
            request = ListNamespacesRequest(page_size=PAGE, next_page_token=token)
            page = await stub.ListNamespaces(request, timeout=30, wait_for_ready=True)
            owners |= {one.namespace_info.name: one.replication_config.active_cluster_name for one in page.namespaces}
            token = page.next_page_token
            if not token:
                return owners

    async def _all_owned_by(self, asked: str, owner: str) -> bool:
        owners = await self._owners(asked)
        return all(owners.get(namespace) == owner for namespace in self._names)

    async def _until(self, is_so: Callable[[], Awaitable[bool]], within_s: float, what: str) -> None:
        try:
            async with asyncio.timeout(within_s):
                while not await is_so():
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise DrillFailed(f"not within {within_s:.0f} s: {what}") from None

    # --- kill -----------------------------------------------------------------------------------------------------------------
    async def kill(self, before_s: float, after_s: float) -> DrillReport:
        """Raises DrillFailed, ServerFailed."""
        report = DrillReport(namespaces=len(self._names))
        async with self._open():
            load = Load(self._channels, "one", self._names, self.record, self._seed)
            jobs = [asyncio.create_task(load.client(0.01)) for _ in range(CLIENTS)]
            await asyncio.sleep(before_s)
            self._tell(f"{len(self.record.told)} acknowledgements; the line is cut, then region one is killed")
            self._line("lose_requests")
            cut_at = time.monotonic()
            await asyncio.sleep(CUT_S)
            await asyncio.to_thread(self._regions.kill, "one")
            killed_at = time.monotonic()
            load.region = "two"
            report.told_before = sum(one.at <= cut_at for one in self.record.told)
            report.told_in_cut = sum(one.at > cut_at and one.region == "one" for one in self.record.told)
            moved = await self._watch_takeover(killed_at)
            report.takeover_s = sorted(moved.values())
            self._tell(f"region two owns all of them after {max(moved.values()):.1f} s")
            await asyncio.sleep(after_s)
            load.stop()
            await asyncio.gather(*jobs)
            first = {name: at - killed_at for (region, name), at in self.record.first_at.items() if region == "two"}
            report.first_write_s = sorted(first.values())
            await asyncio.to_thread(self._regions.run_again, "one")
            returned_at = time.monotonic()
            self._line("pass")
            await self._until(lambda: self._all_owned_by("one", "two"), EQUAL_S_MAX, "region one knows the new owner")
            await self._equal()
            report.equal_s = time.monotonic() - returned_at
            self._tell(f"both regions are equal {report.equal_s:.1f} s after region one returned")
            verdict, report.ledger, report.unexplained_lines = await self._judge("two")
            report.take(verdict, self.record)
        return report

    def _line(self, mode: Any) -> None:
        for line in self._lines:
            line.mode = mode

    async def _watch_takeover(self, killed_at: float) -> dict[str, float]:
        """Namespace -> seconds after the kill when region two owned it."""
        moved: dict[str, float] = {}

        async def have_moved() -> bool:
            owners = await self._owners("two")
            for name in self._names:
                if owners.get(name) == "two" and name not in moved:
                    moved[name] = time.monotonic() - killed_at
            return len(moved) == len(self._names)

        await self._until(have_moved, TAKEOVER_S_MAX, "region two owns all namespaces")
        return moved

    async def _equal(self) -> None:
        """As the regions themselves find it, for every namespace, in bundles."""
        deadline = time.monotonic() + EQUAL_S_MAX
        left = list(self._names)
        while left:
            reports = await asyncio.gather(*(asyncio.to_thread(self._verify, name) for name in left[:READERS]))
            unequal = [name for name, verdict in zip(left[:READERS], reports, strict=True) if verdict != "equal"]
            left = left[READERS:] + unequal
            if unequal and time.monotonic() > deadline:
                raise DrillFailed(f"not equal after {EQUAL_S_MAX:.0f} s: {', '.join(unequal[:5])}: {reports}")

    def _verify(self, namespace: str) -> str:
        """The verdict, or why there is none yet."""
        try:
            found = self._regions.act("two", "verify", namespace=namespace, region="one", is_fresh=True)
        except ServerFailed as error:
            return str(error)
        return str(found[0]["verdict"])

    async def _judge(self, asked: str) -> tuple[Verdict, dict[str, int], int]:
        ledger = await asyncio.to_thread(self._regions.look, asked, "ledger")
        runs: dict[tuple[str, str], dict[str, list[str]]] = {}
        gate = asyncio.Semaphore(READERS)
        stub: Any = WorkflowServiceStub(self._channels[asked])

        async def read(namespace: str) -> None:
            async with gate:
                listed = await stub.ListWorkflowExecutions(
                    ListWorkflowExecutionsRequest(namespace=namespace, page_size=PAGE), timeout=20
                )
                for one in listed.executions:
                    request = GetWorkflowExecutionHistoryRequest(namespace=namespace, execution=one.execution)
                    tokens: list[str] = []
                    while True:
                        page = await stub.GetWorkflowExecutionHistory(request, timeout=20)
                        tokens += tokens_of(page.history.events)
                        if not page.next_page_token:
                            break
                        request.next_page_token = page.next_page_token
                    of_id = runs.setdefault((namespace, one.execution.workflow_id), {})
                    of_id[one.execution.run_id] = tokens

        await asyncio.gather(*(read(namespace) for namespace in self._names))
        verdict = judge(self.record.told, runs, ledger["lines"])
        return verdict, ledger["summary"]["by_outcome"], int(ledger["summary"]["unexplained"])

    # --- graceful -------------------------------------------------------------------------------------------------------------
    async def graceful(self, failovers_count: int, between_s: float) -> GracefulReport:
        """Raises DrillFailed, ServerFailed."""
        report = GracefulReport(namespaces=len(self._names))
        async with self._open():
            load = Load(self._channels, "one", self._names, self.record, self._seed)
            jobs = [asyncio.create_task(load.client(0.01)) for _ in range(CLIENTS)]
            for number in range(failovers_count):
                await asyncio.sleep(between_s)
                to = NAMES[(number + 1) % 2]
                rows = await asyncio.to_thread(
                    self._regions.act, to, "failover/run", to=to, kind="graceful", namespaces=self._names, timeout_s=20.0
                )
                report.take(rows)
                self._tell(f"{number + 1:>3} all to region {to}: {report.last()}")
            await asyncio.sleep(between_s)
            load.stop()
            await asyncio.gather(*jobs)
            await self._equal()
            verdict, report.ledger, _ = await self._judge("one")
            report.judge(verdict, self.record)
        return report


class DrillFailed(Exception):
    """Something did not happen that must."""


