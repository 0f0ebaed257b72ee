"""Pipes in memory whose ends belong to nodes of a simulated loop: what arrives at a node runs as that node, and dies with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from chaos.sim.loop import owned_by
from tests.wire.pipes import MemoryListener, MemoryNetwork

P = TypeVar("P", bound=asyncio.Protocol)


class _OwnedProtocol(asyncio.Protocol):
    """Stands before a node's protocol. The bytes of a dead node's peer go nowhere."""

    def __init__(self, inner: asyncio.Protocol, network: OwnedNetwork) -> None:
        self._inner, self._network = inner, network
        self.pipe: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.pipe = transport
        self._run(self._inner.connection_made, transport)

    def data_received(self, data: bytes) -> None:
        self._run(self._inner.data_received, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run(self._inner.connection_lost, exc)

    def pause_writing(self) -> None:
        self._run(self._inner.pause_writing)

    def resume_writing(self) -> None:
        self._run(self._inner.resume_writing)

    def _run(self, callback: Callable[..., Any], *args: Any) -> None:
        if not self._network.is_dead:
            with owned_by(self._network.owner):
                callback(*args)


class OwnedNetwork:
    """One node's view of a MemoryNetwork."""

    def __init__(self, network: MemoryNetwork, owner: str) -> None:
        self.owner = owner
        self.is_dead = False
        self._network = network
        self._ends: list[_OwnedProtocol] = []
        self._addresses: list[str] = []

    async def connect(self, address: str, factory: Callable[[], P]) -> P:
        made: list[P] = []

        def owned() -> asyncio.Protocol:
            made.append(factory())
            return self._own(made[-1])

        await self._network.connect(address, owned)
        return made[-1]

    async def listen(self, address: str, factory: Callable[[], asyncio.Protocol]) -> MemoryListener:
        listener = await self._network.listen(address, lambda: self._own(factory()))
        self._addresses.append(address)
        return listener

    def _own(self, inner: asyncio.Protocol) -> _OwnedProtocol:
        if self.is_dead:
            raise ConnectionRefusedError(f"{self.owner} is dead")
        end = _OwnedProtocol(inner, self)
        self._ends.append(end)
        return end

    def die(self) -> None:
        """Called from outside, when the node has been killed: the system closes what it had open."""
        self.is_dead = True
        for address in self._addresses:
            self._network.listening.pop(address, None)
        for end in self._ends:
            if end.pipe is not None:
                end.pipe.abort()
