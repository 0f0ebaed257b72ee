"""A client and a server for the tests: on virtual time over memory, or on real sockets."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from chaos.sim.loop import SimLoop
from cluster.core.errors import CallerError, Code
from cluster.wire.client import WireClient
from cluster.wire.connection import Identity, Peer
from cluster.wire.limits import WireLimits
from cluster.wire.network import Network
from cluster.wire.server import WireServer
from tests.wire.pipes import MemoryNetwork

T = TypeVar("T")
ME, YOU = Identity("node-a", "cluster-1", 16), Identity("node-b", "cluster-1", 16)
ADDRESS = "node-b:7000"
LIMITS = WireLimits()


class CountedIds:
    """Repeatable; jitter walks through [0, 1)."""

    def __init__(self) -> None:
        self._count = 0

    def token_bytes(self, count: int) -> bytes:
        self._count += 1
        return hashlib.blake2b(str(self._count).encode()).digest()[:count]

    def uuid(self) -> str:
        return self.token_bytes(16).hex()

    def jitter(self) -> float:
        self._count += 1
        return (self._count * 0.37) % 1.0


class Handler:
    """Methods: echo, fail (payload: the message), bug, wait (for `release`), sleep (payload: seconds), big (payload: bytes)."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.running = self.running_max = self.started = self.cancelled = 0
        self.deadlines: list[float | None] = []
        self.peers: set[Peer] = set()

    async def __call__(self, method: str, payload: bytes, deadline_s: float | None, peer: Peer) -> bytes:
        self.started += 1
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        self.deadlines.append(deadline_s)
        self.peers.add(peer)
        try:
            return await self._answer(method, payload)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _answer(self, method: str, payload: bytes) -> bytes:
        if method == "fail":
            raise CallerError(Code.NOT_FOUND, payload.decode())
        if method == "bug":
            raise KeyError("the inside of the server")
        if method == "wait":
            await self.release.wait()
        if method == "sleep":
            await asyncio.sleep(float(payload))
        if method == "big":
            return bytes(int(payload))
        return payload


class World:
    """One server at ADDRESS and one client, not yet connected."""

    def __init__(
        self, network: Network, limits: WireLimits = LIMITS, client_limits: WireLimits | None = None, server: Identity = YOU
    ) -> None:
        self.network = network
        self.handler = Handler()
        self.limits = limits
        self.server = WireServer(self.handler, server, network, limits)
        self.client = WireClient(ME, network, CountedIds(), client_limits or limits)
        self.address = ADDRESS

    async def start(self, address: str = ADDRESS) -> World:
        self.address = await self.server.start(address)
        return self

    async def call(self, method: str, payload: bytes = b"", timeout_s: float | None = 30.0, **more: Any) -> bytes:
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        return await self.client.call(self.address, method, payload, deadline, **more)

    def job(self, method: str, payload: bytes = b"", timeout_s: float | None = 30.0, **more: Any) -> asyncio.Task[bytes]:
        return asyncio.get_running_loop().create_task(self.call(method, payload, timeout_s, **more))

    async def stop(self) -> None:
        await self.client.close()
        await self.server.stop(grace_s=0.1)


def with_limits(**changes: Any) -> WireLimits:
    return msgspec.structs.replace(LIMITS, **changes)


def simulated(story: Callable[[MemoryNetwork], Coroutine[Any, Any, T]], limit_s: float = 3_600.0) -> T:
    """Runs the story on virtual time; exceptions that escape a callback fail it, a deadlock names who waits."""
    loop = SimLoop.create(limit_s=limit_s)
    try:
        return loop.run_until_complete(story(MemoryNetwork()))
    finally:
        loop.close()


async def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_s
    while not condition():
        assert loop.time() < end, f"did not come true within {limit_s} s"
        await asyncio.sleep(0.002)


async def error_of(awaitable: Coroutine[Any, Any, Any] | asyncio.Task[Any]) -> CallerError:
    try:
        result = await awaitable
    except CallerError as error:
        return error
    raise AssertionError(f"no error, but {result!r}")
