"""A network in memory: connections without sockets, so that tests (and a simulation) run on virtual time.

`MemoryNetwork` is the seam's second implementation. Bytes arrive after `delay_s`, in order; a cut host neither hears nor answers,
and nobody is told: that is a half-open connection. What was sent meanwhile arrives when the cut heals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

P = TypeVar("P", bound=asyncio.Protocol)


class MemoryPipe(asyncio.Transport):
    """One end. It splits what is written, so that no reader can rely on whole frames."""

    def __init__(self, network: MemoryNetwork, protocol: asyncio.Protocol, address: str) -> None:
        super().__init__()
        self.network, self.protocol, self.address = network, protocol, address
        self.other: MemoryPipe | None = None
        self.is_ended = self._is_closing = self._is_paused = False
        self._unsent = 0
        self._high, self._low = 64 * 1024, 16 * 1024
        self._stalled: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing or self.is_ended:
            return
        self.network.writes += 1
        cut = max(1, len(data) // 3)
        for part in (bytes(data[:cut]), bytes(data[cut:])):
            self._unsent += len(part)
            if part:
                self._move(part)
        if self._unsent > self._high and not self._is_paused:
            self._is_paused = True
            self.protocol.pause_writing()

    def _move(self, part: bytes) -> None:
        assert self.other is not None
        asyncio.get_running_loop().call_later(self.network.delay_s, self._arrive, part)

    def _arrive(self, part: bytes) -> None:
        other = self.other
        assert other is not None
        if self.network.is_cut(self.address, other.address) or other.address in self.network.unread:
            self._stalled.append(part)
            return
        self._unsent -= len(part)
        if not other.is_ended:
            other.protocol.data_received(part)
        if self._is_paused and self._unsent <= self._low:
            self._is_paused = False
            self.protocol.resume_writing()

    def read_again(self) -> None:
        stalled, self._stalled = self._stalled, []
        for part in stalled:
            self._arrive(part)
        if self._is_closing and not self.is_ended:
            self._close_when_sent()

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_later(self.network.delay_s, self._close_when_sent)

    def _close_when_sent(self) -> None:
        if self._stalled or (self.other and self.network.is_cut(self.address, self.other.address)):
            return  # what is not taken keeps the end from coming: it comes after it, or by abort
        self.abort()

    def abort(self) -> None:
        loop = asyncio.get_running_loop()
        self._is_closing = True
        loop.call_soon(self._end, None)
        if self.other is not None and not self.network.is_cut(self.address, self.other.address):
            loop.call_later(self.network.delay_s, self.other._end, None)

    def _end(self, failure: Exception | None) -> None:
        if not self.is_ended:
            self.is_ended = True
            self.network.pipes.discard(self)
            self.protocol.connection_lost(failure)

    def is_closing(self) -> bool:
        return self._is_closing or self.is_ended

    def get_write_buffer_size(self) -> int:
        return self._unsent

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high or self._high
        self._low = low or self._high // 4

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class MemoryListener:
    def __init__(self, network: MemoryNetwork, address: str) -> None:
        self._network, self.address = network, address

    def close(self) -> None:
        self._network.listening.pop(self.address, None)


class MemoryNetwork:
    """`cut` holds addresses nothing reaches or leaves; `unread` those that take no bytes (their process hangs)."""

    def __init__(self, delay_s: float = 0.001) -> None:
        self.delay_s = delay_s
        self.listening: dict[str, Callable[[], asyncio.Protocol]] = {}
        self.pipes: set[MemoryPipe] = set()
        self.cut: set[str] = set()
        self.unread: set[str] = set()
        self.connects = self.writes = 0

    def heal(self) -> None:
        """What was on its way all the time arrives now, in order, as TCP's repetitions make it."""
        self.cut.clear()
        for address in sorted({pipe.address for pipe in self.pipes} - self.unread):
            self.read_again(address)

    def is_cut(self, *addresses: str) -> bool:
        return not self.cut.isdisjoint(addresses)

    def read_again(self, address: str) -> None:
        self.unread.discard(address)
        for pipe in sorted(self.pipes, key=lambda each: each.address):
            if pipe.other is not None and pipe.other.address == address:
                pipe.read_again()

    async def connect(self, address: str, factory: Callable[[], P]) -> P:
        self.connects += 1
        await asyncio.sleep(self.delay_s)
        if self.is_cut(address):
            await asyncio.get_running_loop().create_future()  # no answer to a SYN
        if address not in self.listening:
            raise ConnectionRefusedError(f"nobody listens on {address}")
        near, far = factory(), self.listening[address]()
        here, there = MemoryPipe(self, near, f"client{self.connects}"), MemoryPipe(self, far, address)
        here.other, there.other = there, here
        self.pipes |= {here, there}
        far.connection_made(there)
        near.connection_made(here)
        return near

    async def listen(self, address: str, factory: Callable[[], asyncio.Protocol]) -> MemoryListener:
        if address in self.listening:
            raise OSError(f"{address} is in use")
        self.listening[address] = factory
        return MemoryListener(self, address)
