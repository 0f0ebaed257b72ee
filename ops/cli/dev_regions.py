"""`outlast dev --regions 2`: linked regions on this machine, each a process and a store of its own, until SIGTERM or SIGINT.

| a region                            | what happens                                                                           |
|-------------------------------------|----------------------------------------------------------------------------------------|
| cannot start                        | all end, with its code                                                                 |
| ends later (killed, say)            | the others go on and take over; `outlast dev --db DIR --region NAME` runs it again     |
| ends later, with --restart          | it is started again on the same ports, later each time                                 |
| (this process gets SIGTERM, SIGINT) | all end                                                                                |

The children are those of `outlast server --processes` (child.py), and so is what is said to them (child_messages.py).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import structlog

from cluster.stores.base import StoreError
from ops.cli.child_messages import LINE_BYTES_MAX, Refused, Serving, Start, Stop
from ops.cli.dev_options import DevOptions, namespaces_of
from ops.cli.dev_plan import RegionPlan, lines_of, plan_regions, save, with_store
from ops.cli.exit_codes import EXIT_CLUSTER, EXIT_DATABASE, EXIT_FAILED, EXIT_OK, complain
from ops.cli.logs import only_errors
from ops.cli.processes import BACKOFF_MAX_S, BACKOFF_MIN_S, LIVED_S, STOP_GRACE_S, Child
from ops.cli.serving import run_in_loop
from ops.services.processes import ServiceUnavailable

log = structlog.get_logger("outlast.regions")


def run_regions(options: DevOptions) -> int:
    """The exit code. Raises WrongOption."""
    with ExitStack() as stack:
        if options.db is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outlast-regions-")))
        else:
            directory = options.db.absolute()
            directory.mkdir(parents=True, exist_ok=True)
        plans = plan_regions(options, directory)
        try:
            plans = [_with_server(plan, directory, stack) for plan in plans]
        except (ServiceUnavailable, StoreError) as error:
            return complain(f"--stores: {error}", EXIT_DATABASE)
        return run_in_loop(RegionSet(plans, options, directory).run())


def _with_server(plan: RegionPlan, directory: Path, stack: ExitStack) -> RegionPlan:
    """A database server that lives as long as this run, where one is wanted. Raises ServiceUnavailable, StoreError."""
    if plan.kind == "sqlite":
        return plan
    from ops.cli.schema_engines import upgrade
    from ops.services.databases import engine_server, fresh_database

    print(f"starting {plan.kind} for region {plan.name}", file=sys.stderr, flush=True)
    server = stack.enter_context(engine_server(plan.kind))
    plan = with_store(plan, fresh_database(plan.kind, server, directory).url(), directory)

    async def make_tables() -> None:
        await upgrade("store", plan.config.store_config)
        await upgrade("visibility", plan.config.visibility_config)

    with only_errors():
        asyncio.run(make_tables())
    return plan


class RegionSet:
    """See the module's text; `run` is the whole of it."""

    def __init__(self, plans: list[RegionPlan], options: DevOptions, directory: Path) -> None:
        self._plans = {plan.name: plan for plan in plans}
        self._options, self._directory = options, directory
        self._children: dict[str, Child] = {}
        self._serving: set[str] = set()
        self._all_serving, self._stop = asyncio.Event(), asyncio.Event()
        self._is_linked = False
        self._code = EXIT_OK
        self._began = time.monotonic()

    async def run(self) -> int:
        """The exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        keepers = [loop.create_task(self._keep(name), name=f"region {name}") for name in self._plans]
        try:
            await self._first_of(self._all_serving.wait(), self._stop.wait())
            if not self._stop.is_set():
                await self._link()
            await asyncio.gather(*keepers)
            return self._code
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            for child in self._children.values():
                child.kill()

    async def _link(self) -> None:
        from ops.cli.dev_linking import NotLinked, link_regions, until_armed

        addresses = {plan.name: plan.address for plan in self._plans.values()}
        try:
            await link_regions(addresses, namespaces_of(self._options))
            await until_armed({plan.name: plan.http_address for plan in self._plans.values()})
        except NotLinked as error:
            self._code = complain(str(error), EXIT_CLUSTER)
            self._stop.set()
            return
        self._is_linked = True
        for line in lines_of(list(self._plans.values())):
            print(line)
        shared = ", ".join(namespaces_of(self._options))
        took_ms = (time.monotonic() - self._began) * 1000
        first = next(iter(self._plans.values()))
        print(
            f"Outlast ready: {len(self._plans)} regions, linked, in {self._directory}; {shared} in all of them, "
            f"clients at {first.address} or any other ({took_ms:.0f} ms)",
            flush=True,
        )

    # --- one region -------------------------------------------------------------------------------------------------------
    async def _keep(self, name: str) -> None:
        failures = 0
        while not self._stop.is_set():
            child = await self._start(name)
            code = await self._attend(name, child)
            self._gone(name)
            if self._stop.is_set():
                self._code = self._code or (EXIT_OK if code == EXIT_OK else EXIT_FAILED)
                return
            if not self._is_linked:
                self._cannot_start(name, child, code)
                return
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
            told = f"region {name} (pid {child.process.pid}) ended with {how}"
            if not self._options.restart:
                again = f"outlast dev --db {self._directory} --region {name}"
                complain(f"{told}; the others go on. `{again}` runs it again", code)
                self._end_when_alone(code)
                return
            failures = 1 if time.monotonic() - child.began_at > LIVED_S else failures + 1
            pause_s = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** (failures - 1))
            complain(f"{told}; it is started again in {pause_s:g} s", code)
            await self._first_of(self._stop.wait(), timeout_s=pause_s)

    async def _start(self, name: str) -> Child:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            command = (sys.executable, "-P", "-m", "ops.cli.child", str(theirs.fileno()))
            process = await asyncio.create_subprocess_exec(
                *command,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.__stderr__,
            )
        child = Child(process, *await asyncio.open_unix_connection(sock=ours, limit=LINE_BYTES_MAX))
        child.node_id = f"{name}-{os.uname().nodename}"
        self._children[name] = child
        config = msgspec.structs.replace(self._plans[name].config, node_id=child.node_id)
        child.say(Start(config, self._options.log_level.lower(), "console", os.getpid()))
        return child

    async def _attend(self, name: str, child: Child) -> int:
        """Until it has ended: its exit code, negative for a signal."""
        hearing = asyncio.ensure_future(self._hear(name, child))
        await self._first_of(hearing, self._stop.wait())
        if not hearing.done():
            child.say(Stop())
            await asyncio.wait([hearing], timeout=self._plans[name].config.drain_s + STOP_GRACE_S)
            if not hearing.done():
                log.error("a region did not stop in time and is killed", region=name)
                child.kill()
        await hearing
        return await child.ended()

    async def _hear(self, name: str, child: Child) -> None:
        async for message in child.messages():
            match message:
                case Serving(port, http_port):
                    self._plans[name] = self._plans[name].serving(port, http_port, child.process.pid)
                    save(self._directory, self._plans)
                    self._serving.add(name)
                    if self._serving == set(self._plans):
                        self._all_serving.set()
                    if self._is_linked:
                        print(*lines_of([self._plans[name]]), flush=True)
                case Refused():
                    child.refused = message

    def _gone(self, name: str) -> None:
        self._serving.discard(name)
        self._plans[name] = msgspec.structs.replace(self._plans[name], pid=0)
        save(self._directory, self._plans)

    def _cannot_start(self, name: str, child: Child, code: int) -> None:
        refused = child.refused or Refused(f"ended with {code} before it was ready", EXIT_FAILED)
        self._code = complain(f"region {name}: {refused.text}", refused.code)
        self._stop.set()

    def _end_when_alone(self, code: int) -> None:
        """The last one has ended: nothing is left to look after."""
        if not any(child.process.returncode is None for child in self._children.values()):
            self._code = EXIT_OK if code == EXIT_OK else EXIT_FAILED
            self._stop.set()

    async def _first_of(self, *waits: Awaitable[Any], timeout_s: float | None = None) -> None:
        """Until one is done. What was passed as a future goes on; the rest is cancelled."""
        futures = [asyncio.ensure_future(wait) for wait in waits]
        await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for future, given in zip(futures, waits, strict=True):
            if future is not given:
                future.cancel()
