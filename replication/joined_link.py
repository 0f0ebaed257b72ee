"""Several small messages as one of the link below: what a message costs there (over gRPC some 0.2 ms of CPU at each end) is then
paid once for all that came within a few milliseconds. Both ends must do it.

    message below = for each message: its length in 4 bytes, and the message
"""

from __future__ import annotations

import asyncio
from collections import deque

from replication.link import Link, LinkDown

LINGER_S = 0.005  # what the first message waits for others; a region is behind by that much more
JOINED_BYTES_MAX = 256 * 1024  # messages that are larger go alone
_LENGTH_BYTES = 4


class JoinedLink:
    """`send` returns when there is room for more. A failure below is raised by the next `send`, and by `receive`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._arrived: deque[bytes] = deque()
        self._flushing: asyncio.Task[None] | None = None
        self._failure: LinkDown | None = None

    async def send(self, data: bytes) -> None:
        if self._failure is not None:
            raise self._failure
        self._waiting.append(data)
        self._waiting_bytes += _LENGTH_BYTES + len(data)
        if self._flushing is None:
            self._flushing = asyncio.ensure_future(self._flush())
        while self._waiting_bytes > JOINED_BYTES_MAX and self._flushing is not None:
            await asyncio.wait([self._flushing])
            if self._failure is not None:
                raise self._failure

    async def _flush(self) -> None:
        try:
            if self._waiting_bytes < JOINED_BYTES_MAX:
                await asyncio.sleep(LINGER_S)
            while self._waiting:
                messages, self._waiting, self._waiting_bytes = self._waiting, [], 0
                await self._link.send(b"".join(len(one).to_bytes(_LENGTH_BYTES, "big") + one for one in messages))
        except LinkDown as error:
            self._failure = error
        finally:
            self._flushing = None

    async def receive(self) -> bytes:
        while not self._arrived:
            self._split(await self._link.receive())
        return self._arrived.popleft()

    def _split(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            end = at + _LENGTH_BYTES + int.from_bytes(data[at : at + _LENGTH_BYTES], "big")
            if end > len(data):
                raise LinkDown("a message that ends too early")
            self._arrived.append(data[at + _LENGTH_BYTES : end])
            at = end

    def close(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
        self._failure = self._failure or LinkDown("closed")
        self._link.close()
