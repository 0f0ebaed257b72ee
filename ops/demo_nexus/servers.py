"""What the teams run on, and what happens to it amid the orders: one server that is killed, or two regions and a failover."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path
from typing import Protocol

from ops.cli.dev_plan import RegionPlan, load
from ops.cli.region_calls import CannotAsk, act
from ops.demo_nexus.teams import TEAMS
from ops.servers import LoggedProcess, OutlastServer, ServerFailed

READY_S = 60.0
FAILOVER_S = 20.0
OUTLAST = str(Path(sys.executable).with_name("outlast"))
NAMESPACES = [word for team in TEAMS for word in ("--namespace", team)]


class Servers(Protocol):
    """Calls block. Raise ServerFailed."""

    what: str
    has_lag: bool  # a gateway may not know yet what was started through it a moment ago

    def start(self) -> None: ...

    def trouble(self) -> str:
        """Makes it, and says what was done; returns when the teams can be served again."""
        ...

    def stop(self) -> None: ...

    @property
    def address(self) -> str:
        """gRPC, for the workers; the same at any time."""
        ...

    @property
    def http_addresses(self) -> list[str]:
        """Of all gateways; each takes any call at any time."""
        ...

    @property
    def audited_address(self) -> str:
        """gRPC, of where the teams' namespaces are active now."""
        ...


class _ServerOfTeams(OutlastServer):
    def command(self) -> list[str]:
        return [*super().command(), *NAMESPACES]


class OneServer:
    what = "one server"
    has_lag = False

    def __init__(self, directory: Path) -> None:
        self._server = _ServerOfTeams(directory / "server")

    def start(self) -> None:
        self._server.start()

    def trouble(self) -> str:
        self._server.kill()
        self._server.restart()
        return "SIGKILL to the server, and a new start"

    def stop(self) -> None:
        self._server.stop()

    @property
    def address(self) -> str:
        return self._server.address

    @property
    def http_addresses(self) -> list[str]:
        return [f"127.0.0.1:{self._server.http_port}"]

    @property
    def audited_address(self) -> str:
        return self.address


class TwoRegions:
    """The teams' namespaces begin in region one and are moved to region two, gracefully. Workers stay connected to region one."""

    what = "two regions"
    has_lag = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._child: LoggedProcess | None = None
        self._plans: dict[str, RegionPlan] = {}
        self._active = "one"

    def start(self) -> None:
        data = self._directory / "regions"
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(parents=True)
        command = [OUTLAST, "dev", "--regions", "2", "--port", "0", "--http-port", "0", "--db", str(data), *NAMESPACES]
        log = self._directory / "regions.log"
        self._child = LoggedProcess(command, log, "Outlast ready", {"PYTHONUNBUFFERED": "1"})
        self._child.wait_ready(READY_S)
        self._plans = load(data)

    def trouble(self) -> str:
        asked = {"namespaces": list(TEAMS), "to": "two", "kind": "graceful", "timeout_s": FAILOVER_S}
        try:
            moves = act(self._plans["two"].http_address, "failover/run", asked, FAILOVER_S * len(TEAMS))
        except CannotAsk as error:
            raise ServerFailed(f"the failover did not succeed: {error}") from error
        if not_done := [f"{one['namespace']}: {one['reason']}" for one in moves if not one["is_done"]]:
            raise ServerFailed(f"the failover did not succeed: {'; '.join(not_done)}")
        self._active = "two"
        return f"{', '.join(TEAMS)} were moved to region two"

    def stop(self) -> None:
        if self._child is not None:
            self._child.end(signal.SIGTERM)
            self._child = None

    @property
    def address(self) -> str:
        return self._plans["one"].address

    @property
    def http_addresses(self) -> list[str]:
        return [plan.http_address for plan in self._plans.values()]

    @property
    def audited_address(self) -> str:
        return self._plans[self._active].address
