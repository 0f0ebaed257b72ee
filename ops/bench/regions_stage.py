"""What the bench of regions plays on: a region by itself, and two that can be linked, each a process on a file of its own."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from temporalio.api.workflowservice.v1 import CountWorkflowExecutionsRequest, WorkflowServiceStub

from cluster.node_config import NodeConfig, StoreConfig
from ops.bench.regions_link import Away
from ops.cli.dev_linking import link_regions
from ops.cli.dev_plan import RegionPlan, save
from ops.servers import START_TIMEOUT_S, LoggedProcess, free_port

NAMESPACE = "default"
HERE_ONLY = (("xdc-redirection", "false"),)  # the answer is this region's, whichever is active
WAIT_S_MAX = 300.0


class Late(Exception):
    """Something did not happen in time."""


class RegionProcess:
    """`outlast dev --region NAME`."""

    def __init__(self, directory: Path, name: str, number: int, *, has_namespace: bool) -> None:
        self.name, self.directory = name, directory / name
        config = NodeConfig(
            port=free_port(),
            http_port=free_port(),
            store=StoreConfig(kind="sqlite", url=str(self.directory / "outlast.db")),
            namespaces=(NAMESPACE,) if has_namespace else (),
            shards=4,
            cluster_name=name,
            initial_failover_version=number,
        )
        self.plan = RegionPlan(name=name, kind="sqlite", config=config)
        self.address = self.plan.address
        self._child: LoggedProcess | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None, f"{self.name} does not run"
        return self._child.process.pid

    def __enter__(self) -> RegionProcess:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        save(self.directory, {self.name: self.plan})
        outlast = str(Path(sys.executable).with_name("outlast"))
        command = [outlast, "dev", "--region", self.name, "--db", str(self.directory)]
        self._child = LoggedProcess(command, self.directory / "server.log", "Outlast ready", {"PYTHONUNBUFFERED": "1"})
        self._child.wait_ready(START_TIMEOUT_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._child is not None:
            self._child.end(signal.SIGTERM)

    # --- looking ----------------------------------------------------------------------------------------------------------
    def status(self) -> dict[str, Any]:
        page: dict[str, Any] = self._page("status", None)
        return page

    def verify(self) -> dict[str, Any]:
        """With the only other region."""
        reports: list[dict[str, Any]] = self._page("verify", {"namespace": NAMESPACE, "is_fresh": True})
        return reports[0]

    def _page(self, name: str, asked: dict[str, Any] | None) -> Any:
        data = None if asked is None else json.dumps(asked).encode()
        url = f"http://{self.plan.http_address}/regions/{name}"
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=WAIT_S_MAX) as answer:
            return json.load(answer)

    def runs_count(self) -> int:
        """That its own visibility has."""
        with grpc.insecure_channel(self.address) as channel:
            stub: Any = WorkflowServiceStub(channel)
            request = CountWorkflowExecutionsRequest(namespace=NAMESPACE)
            return int(stub.CountWorkflowExecutions(request, metadata=HERE_ONLY, timeout=10.0).count)

    def lag_events(self) -> int:
        """That the other region lacks; more than 0 as long as it is caught up."""
        peers = self.status()["regions"]
        return sum(peer["events"] + peer["is_catching_up"] for peer in peers)


class Stage:
    """`alone` has no other region; `one` and `two` reach each other over `links`."""

    def __init__(self, directory: Path) -> None:
        self.alone = RegionProcess(directory, "alone", 1, has_namespace=True)
        self.one = RegionProcess(directory, "one", 1, has_namespace=True)
        self.two = RegionProcess(directory, "two", 2, has_namespace=False)
        self.links = {region.name: Away(region.plan.config.port) for region in (self.one, self.two)}

    def link(self) -> None:
        """Raises NotLinked."""
        addresses = {name: f"127.0.0.1:{link.port}" for name, link in self.links.items()}
        asyncio.run(link_regions(addresses, [NAMESPACE]))

    def apart(self, delay_s: float) -> None:
        for link in self.links.values():
            link.delay_s = delay_s

    def cut(self, is_cut: bool) -> None:
        for link in self.links.values():
            link.is_cut = is_cut

    def bytes_count(self) -> int:
        return sum(link.bytes_count for link in self.links.values())

    def wait_told(self) -> float:
        """Until `two` has all of `one`. Returns the seconds."""
        return wait_for("the other region has everything", lambda: self.one.lag_events() == 0)


def wait_for(what: str, is_so: Callable[[], bool]) -> float:
    """Raises Late."""
    began = time.monotonic()
    while not is_so():
        if time.monotonic() > began + WAIT_S_MAX:
            raise Late(f"not within {WAIT_S_MAX:.0f} s: {what}")
        time.sleep(0.1)
    return time.monotonic() - began
