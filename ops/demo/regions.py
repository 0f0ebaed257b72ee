"""The demo's regions as processes: `outlast dev --regions 2`, one of them killed, and run again with `--region`.

What an operator would ask by `outlast failover`, `region` and `ledger` is asked here by the same calls.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ops.cli.dev_plan import RegionPlan, load
from ops.cli.region_calls import CannotAsk, act, look
from ops.servers import LoggedProcess, ServerFailed, process_alive, tail, wait_gone

NAMES = ("one", "two")
START_TIMEOUT_S = 240.0  # a Cassandra takes its time
STOP_TIMEOUT_S = 60.0
GONE_S = 10.0
ACT_S = 60.0
LOOK_S = 0.1
NAMED_MAX = 5


class Regions:
    """Two, linked, with `default` in both. `directory` is emptied first."""

    def __init__(self, directory: Path, stores: str) -> None:
        self.directory, self._stores = directory, stores
        self.log = directory.parent / "regions.log"
        self._all: LoggedProcess | None = None
        self._again: dict[str, LoggedProcess] = {}
        self._killed: set[str] = set()
        self.plans: dict[str, RegionPlan] = {}

    def start(self) -> None:
        """Raises ServerFailed."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        options = ["--regions", "2", "--port", "0", "--http-port", "0", "--stores", self._stores]
        self._all = self._process(options, self.log)
        self._all.wait_ready(START_TIMEOUT_S)
        self.plans = load(self.directory)

    def _process(self, options: list[str], log: Path) -> LoggedProcess:
        outlast = str(Path(sys.executable).with_name("outlast"))
        command = [outlast, "dev", "--db", str(self.directory), *options]
        return LoggedProcess(command, log, "Outlast ready", {"PYTHONUNBUFFERED": "1"})

    def address(self, name: str) -> str:
        return self.plans[name].address

    def describe(self, name: str) -> str:
        plan = self.plans[name]
        return f"region {name}: {plan.kind}, {plan.config.shards} shards, {plan.address} (pid {plan.pid})"

    def kill(self, name: str) -> None:
        """SIGKILL, and waits until the process is gone."""
        pid = self.plans[name].pid
        self._killed.add(name)
        os.kill(pid, signal.SIGKILL)
        if not wait_gone(pid, GONE_S):
            raise ServerFailed(f"region {name} (pid {pid}) is still there after SIGKILL")

    def run_again(self, name: str) -> None:
        """Raises ServerFailed."""
        again = self._process(["--region", name], self.directory.parent / f"region-{name}.log")
        self._again[name] = again
        again.wait_ready(START_TIMEOUT_S)
        self._killed.discard(name)

    def ended(self) -> str:
        """Which of them ended by itself, with its last words; "" when none did."""
        if self._all is None or self._all.process.poll() is not None:
            return f"the regions' process ended by itself:\n{tail(self.log)}"
        for name, plan in self.plans.items():
            if name in self._killed:
                continue
            again = self._again.get(name)
            is_alive = process_alive(plan.pid) if again is None else again.process.poll() is None
            if not is_alive and name not in self._killed:
                return f"region {name} ended by itself:\n{tail(self.log if again is None else again.log)}"
        return ""

    def stop(self) -> None:
        """Raises ServerFailed when one takes too long."""
        for process in (*self._again.values(), self._all):
            if process is not None:
                process.end(signal.SIGTERM, STOP_TIMEOUT_S)

    def link(self, asked: str, port: int) -> None:
        """The other region is reached by that port from now on."""
        self.act(asked, "link", address=f"127.0.0.1:{port}")

    # --- what an operator asks --------------------------------------------------------------------------------------------
    def look(self, name: str, call: str, **parameters: str) -> Any:
        """GET /regions/<call> of that region. Raises ServerFailed."""
        try:
            return look(self.plans[name].http_address, call, **parameters)
        except CannotAsk as error:
            raise ServerFailed(f"region {name}, {call}: {error}") from error

    def act(self, name: str, call: str, **parameters: Any) -> Any:
        try:
            return act(self.plans[name].http_address, call, parameters, ACT_S)
        except CannotAsk as error:
            raise ServerFailed(f"region {name}, {call}: {error}") from error

    def difference(self, asked: str, other: str) -> str:
        """As the regions themselves find it (`outlast region verify`), or why they cannot say; "" = they are equal."""
        try:
            wanted = {"namespace": "default", "region": other, "is_fresh": False}
            report = act(self.plans[asked].http_address, "verify", wanted, ACT_S)[0]
        except CannotAsk as error:
            return str(error)
        found = [*report["differences"], *report["behind"]]
        named = "; ".join(f"{one['workflow_id']}: {one['what']}" for one in found[:NAMED_MAX])
        return "" if report["verdict"] == "equal" else f"{report['verdict']}: {named}"

    def owner(self, asked: str) -> str:
        """Of `default`, as the region says."""
        namespaces = self.look(asked, "failover/status")["namespaces"]
        return str(next(one["active"] for one in namespaces if one["name"] == "default"))

    def wait_owner(self, asked: str, wanted: str, timeout_s: float) -> None:
        """Raises ServerFailed."""
        deadline = time.monotonic() + timeout_s
        while (owner := self.owner(asked)) != wanted:
            if time.monotonic() > deadline:
                raise ServerFailed(f"after {timeout_s:.0f} s region {asked} still says that `default` is active in {owner}")
            time.sleep(LOOK_S)

    def wait_well(self, name: str, timeout_s: float) -> None:
        """Until it sees no problem. Raises ServerFailed."""
        deadline = time.monotonic() + timeout_s
        while problems := self.look(name, "status")["problems"]:
            if time.monotonic() > deadline:
                raise ServerFailed(f"after {timeout_s:.0f} s region {name} says: {'; '.join(problems)}")
            time.sleep(LOOK_S)
