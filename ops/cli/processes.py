"""`outlast server --processes N`: N node processes of one machine behind one gRPC and one HTTP port, without etcd.

The supervisor serves nothing. It holds the ports (SO_REUSEPORT: the kernel spreads connections over the processes) and the lock
of an SQLite file, starts the processes, and tells each of them which others there are (child_messages.py).

| a process                            | the supervisor                                                             |
|--------------------------------------|----------------------------------------------------------------------------|
| ends before all have served once     | ends all, and with the code of that one: a wrong setting is told once      |
| ends with 0 later (asked to leave)   | tells the others; it stays away. When none is left, ends with 0            |
| ends otherwise, or answers no pings  | tells the others, who take its shards; starts it again, later each time    |
| (the supervisor gets SIGTERM, SIGINT) | tells all to stop together: no shard moves for nothing                     |
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from cluster.file_lock import FileLock
from cluster.frontend.transport_grpc import PortInUse
from cluster.membership.members import NodeInfo, NodeState
from cluster.node_config import MEMORY, NodeConfig, WireConfig
from ops.cli.child_messages import (
    LINE_BYTES_MAX,
    Changed,
    Joining,
    Members,
    Message,
    Ping,
    Pong,
    Refused,
    Serving,
    Start,
    Stop,
    ToSupervisor,
    decoded,
    encode,
)
from ops.cli.exit_codes import EXIT_FAILED, EXIT_OK, complain, refusal_of
from ops.cli.server import check_database, store_name
from ops.cli.serving import listening
from ops.region.settings import LogSection

log = structlog.get_logger("outlast.processes")

BACKOFF_MIN_S, BACKOFF_MAX_S = 0.5, 30.0
LIVED_S = 60.0  # a process that served so long has no series of failures
PING_S = 2.0
PINGS_UNANSWERED_MAX = 5  # counted and not timed: a supervisor that was stopped itself must not kill the others for it
STOP_GRACE_S = 15.0  # beyond what a node may take to drain


class Child:
    """One process and this end of its socket."""

    def __init__(self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.process, self._reader, self._writer = process, reader, writer
        self.node_id = ""
        self.is_serving = False
        self.refused: Refused | None = None
        self.pings_unanswered = 0
        self.began_at = time.monotonic()

    def say(self, message: Message) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    def messages(self) -> Any:
        return decoded(self._reader, ToSupervisor)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def ended(self) -> int:
        self._writer.close()
        return await self.process.wait()


class Supervisor:
    """See the module's text; `run` is the whole of it."""

    def __init__(self, config: NodeConfig, count: int, logs: LogSection, say: Callable[[str, int], int] = complain) -> None:
        self._config, self._count, self._logs, self._say = config, count, logs, say
        self._name = config.node_id or os.uname().nodename
        self._children: dict[int, Child] = {}
        self._table: dict[str, NodeInfo] = {}
        self._reserved: list[socket.socket] = []
        self._lock: FileLock | None = None
        self._is_complete = False  # all processes of the first start have joined
        self._has_served = False  # all of them have served at once
        self._first_joined, self._stop = asyncio.Event(), asyncio.Event()
        self._code = EXIT_OK
        self._began = time.monotonic()

    async def run(self) -> int:
        """The exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            await self._prepare()
        except Exception as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            return self._say(refusal.text, refusal.code)
        keepers = [loop.create_task(self._keep(number), name=f"process {number}") for number in range(self._count)]
        kept: asyncio.Future[Any] = asyncio.gather(*keepers)
        pinging: asyncio.Future[Any] = loop.create_task(self._ping(), name="pings")
        try:
            done, _ = await asyncio.wait({kept, pinging}, return_when=asyncio.FIRST_COMPLETED)
            for job in done:  # raises what ended it; the pings end by a failure only
                job.result()
            return self._code
        finally:
            for each in (*keepers, pinging):
                each.cancel()
            await asyncio.gather(kept, pinging, return_exceptions=True)
            for child in self._children.values():
                child.kill()
            await self._release()

    # --- what the processes share -----------------------------------------------------------------------------------------
    async def _prepare(self) -> None:
        """Raises what refusal_of knows."""
        config = self._config
        store = config.store_config
        if store.kind == "sqlite" and store.url != MEMORY:
            self._lock = FileLock(store.url)
        await check_database(config)
        port = self._reserve(config.ip, config.port, "")
        http_port = self._reserve(config.ip, config.http_port, " (http)")
        self._config = msgspec.structs.replace(
            config,
            port=port,
            http_port=http_port,
            is_port_shared=True,
            store=msgspec.structs.replace(store, is_shared=True),
            wire=WireConfig(),
        )

    def _reserve(self, ip: str, port: int, what: str) -> int:
        """Holds a port that the processes share. Somebody else who shares it would get a part of the calls: refused first."""
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        try:
            with socket.socket(family) as alone:
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                alone.bind((ip, port))
                port = alone.getsockname()[1]
            shared = socket.socket(family)
            self._reserved.append(shared)
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            shared.bind((ip, port))
        except OSError as error:
            raise PortInUse(f"{ip}:{port}{what} cannot be bound: {error.strerror or error}") from error
        return port

    async def _release(self) -> None:
        for reserved in self._reserved:
            reserved.close()
        if self._lock is not None:
            await self._lock.close()

    # --- one process ----------------------------------------------------------------------------------------------------
    async def _keep(self, number: int) -> None:
        """Runs process `number`, again and again, until it shall stay away."""
        if number > 0:  # if the first cannot start, it alone says why
            await self._until(self._first_joined)
        failures = 0
        while not self._stop.is_set():
            child = await self._start(number)
            code = await self._attend(child)
            self._gone(child)
            if not self._has_served:
                self._cannot_start(child, code)
            if code == EXIT_OK and not self._stop.is_set():
                log.info("a process was asked to leave", node=child.node_id, left=len(self._table))
                return
            if self._stop.is_set():
                if code != EXIT_OK:
                    self._code = self._code or EXIT_FAILED
                return
            failures = 1 if time.monotonic() - child.began_at > LIVED_S else failures + 1
            pause_s = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** (failures - 1))
            log.error("a process ended, starting it again", node=child.node_id, code=code, pause_s=pause_s)
            await self._until(self._stop, timeout_s=pause_s)

    async def _start(self, number: int) -> Child:
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
        child.node_id = f"{self._name}-{number}"
        self._children[number] = child
        config = msgspec.structs.replace(self._config, node_id=child.node_id)
        child.say(Start(config, self._logs.level, self._logs.format, os.getpid()))
        return child

    async def _attend(self, child: Child) -> int:
        """Until it has ended: its exit code, negative for a signal."""
        hearing = asyncio.ensure_future(self._hear(child))
        await self._until(self._stop, hearing)
        if not hearing.done():
            child.say(Stop())
            config = self._config
            await asyncio.wait([hearing], timeout=config.drain_s + config.hand_over_s + STOP_GRACE_S)
            if not hearing.done():
                log.error("a process did not stop in time and is killed", node=child.node_id)
                child.kill()
        await hearing
        return await child.ended()

    async def _hear(self, child: Child) -> None:
        async for message in child.messages():
            child.pings_unanswered = 0
            match message:
                case Joining(node):
                    self._joined(node)
                case Changed(state):
                    self._show(msgspec.structs.replace(self._table[child.node_id], state=state))
                case Serving():
                    child.is_serving = True
                    self._serving(message)
                case Refused():
                    child.refused = message
                case Pong():
                    pass  # the count above is all it is for

    def _cannot_start(self, child: Child, code: int) -> None:
        if self._stop.is_set():
            return
        if child.refused is not None:
            self._say(child.refused.text, child.refused.code)
        else:
            self._say(f"process {child.node_id} ended with {code} before it was ready", EXIT_FAILED)
        self._code = child.refused.code if child.refused is not None else EXIT_FAILED
        self._stop.set()

    # --- the list of members --------------------------------------------------------------------------------------------
    def _joined(self, node: NodeInfo) -> None:
        self._table[node.node_id] = node
        self._first_joined.set()
        if self._is_complete:
            self._tell()
        elif len(self._table) == self._count:
            # All begin at the same time: were they ready one after the other, the first would take all shards for a moment.
            self._is_complete = True
            ready = {node_id: msgspec.structs.replace(each, state=NodeState.READY) for node_id, each in self._table.items()}
            self._table.update(ready)
            self._tell()

    def _show(self, node: NodeInfo) -> None:
        if self._table[node.node_id] != node:
            self._table[node.node_id] = node
            self._tell()

    def _gone(self, child: Child) -> None:
        child.is_serving = False
        if self._table.pop(child.node_id, None) is not None:
            self._tell()

    def _tell(self) -> None:
        if self._stop.is_set():
            return  # all leave together
        members = Members(tuple(self._table[node_id] for node_id in sorted(self._table)))
        for child in self._children.values():
            if child.node_id in self._table:
                child.say(members)

    # --- all of them ------------------------------------------------------------------------------------------------------
    def _serving(self, first: Serving) -> None:
        if self._has_served or not all(child.is_serving for child in self._children.values()):
            return
        if len(self._children) < self._count:
            return
        self._has_served = True
        config, took_ms = self._config, (time.monotonic() - self._began) * 1000
        print(
            f"Outlast ready: {listening(config.ip, first.port, first.http_port)} node {self._name} processes {self._count} "
            f"store {store_name(config.store_config)} shards {first.shard_count} ({took_ms:.0f} ms)",
            flush=True,
        )

    async def _ping(self) -> None:
        """A process whose event loop stands still answers nobody, and holds its shards."""
        while True:
            await asyncio.sleep(PING_S)
            for child in self._children.values():
                if not child.is_serving:
                    continue
                if child.pings_unanswered >= PINGS_UNANSWERED_MAX:
                    log.error("a process does not answer and is killed", node=child.node_id)
                    child.kill()
                child.pings_unanswered += 1
                child.say(Ping())

    async def _until(
        self, event: asyncio.Event, or_done: asyncio.Future[Any] | None = None, timeout_s: float | None = None
    ) -> None:
        """Until the event, a stop, the future, or the time is over."""
        waits = {asyncio.ensure_future(each.wait()) for each in {event, self._stop}}
        try:
            await asyncio.wait({*waits, *({or_done} if or_done else ())}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
