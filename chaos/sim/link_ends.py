"""One side of a stream between regions: `replication.link.Link`, with what befalls its messages.

    message            arrives after the delay of its way, and after all that were sent before it, unless it is late
    late, doubled      as a network below the stream would not do it, and as the session must bear it all the same
    lost               is the end of the link: a stream has no holes
    half open          from then on nothing arrives, and nobody is told until a ping finds out
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING

from chaos.sim.loop import running_loop
from replication.link import LinkDown

if TYPE_CHECKING:
    from chaos.sim.between import Between

ROOM_BYTES = 256 * 1024  # under way, before a sender waits
LATE_S_MAX = 2.0


class LinkFault(StrEnum):
    """Of one message; the first of each side, by which the two know each other, comes whole and in its place or not at all."""

    BREAKS = "region_link_breaks"
    DOUBLED = "region_message_doubled"
    LATE = "region_message_late"
    HALF_OPEN = "region_link_half_open"


class LinkEnd:
    """What is under way from here, what has arrived here."""

    peer: LinkEnd

    def __init__(self, between: Between, host: str) -> None:
        self.host = host
        self.is_over = False  # closed here, or found to be broken
        self.is_gone = False  # nobody lives here any more
        self.handler: asyncio.Task[None] | None = None
        self._between = between
        self._arrived: deque[bytes] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._held: list[bytes] = []  # have come as far as the cut
        self._sent_count = self._under_way_bytes = 0
        self._not_before_ns = 0
        self._without_room: list[asyncio.Future[None]] = []
        self._is_half_open = False
        self._reason = "the link is closed"

    # --- Link ---------------------------------------------------------------------------------------------------------------
    async def send(self, data: bytes) -> None:
        while self._under_way_bytes > ROOM_BYTES and not self.is_over:
            room: asyncio.Future[None] = running_loop().create_future()
            self._without_room.append(room)
            await room
        if self.is_over:
            raise LinkDown(self._reason)
        self._sent_count += 1
        fault = self._between.messages.draw() if self._sent_count > 1 else None
        if fault is not None:
            running_loop().trace("region message fault", source=self.host, target=self.peer.host, fault=fault)
        if fault == LinkFault.BREAKS:
            self.peer.breaks("a message was lost")
            self.breaks("a message was lost")
            raise LinkDown(self._reason)
        if fault == LinkFault.HALF_OPEN:
            self._is_half_open = self.peer._is_half_open = True
            self._between.ping_later(self)
            self._between.ping_later(self.peer)
        self._post(data, is_late=fault == LinkFault.LATE)
        if fault == LinkFault.DOUBLED:
            self._post(data, is_late=True)
        await asyncio.sleep(0)

    def _post(self, data: bytes, is_late: bool) -> None:
        loop, way = running_loop(), self._between.way(self.host, self.peer.host)
        took_s = len(data) / way.bytes_per_s if way.bytes_per_s else 0.0
        at_ns = max(loop.now_ns(), self._not_before_ns) + round(took_s * 1e9)
        self._not_before_ns = at_ns
        at_ns += round(way.delay_s() * 1e9)
        if is_late:
            at_ns += round(way.delays.uniform(0, LATE_S_MAX) * 1e9)
        else:
            at_ns = self._not_before_ns = max(at_ns, self._not_before_ns)
        self._under_way_bytes += len(data)
        loop.call_at_ns(at_ns, self._comes, data, context=self._between.world)

    async def receive(self) -> bytes:
        while not self._arrived:
            if self.is_over:
                raise LinkDown(self._reason)
            self._waiting = running_loop().create_future()
            await self._waiting
        return self._arrived.popleft()

    def close(self) -> None:
        """The other side hears of it after what was sent before."""
        if self.is_over:
            return
        self.breaks("the link is closed")
        way = self._between.way(self.host, self.peer.host)
        at_ns = max(running_loop().now_ns(), self._not_before_ns) + round(way.delay_s() * 1e9)
        running_loop().call_at_ns(at_ns, self._closed_there, context=self._between.world)

    # --- what happens to it ---------------------------------------------------------------------------------------------------
    @property
    def is_half_open(self) -> bool:
        return self._is_half_open

    def breaks(self, reason: str) -> None:
        """This side is told now; what has not arrived here never does."""
        if self.is_over:
            return
        self.is_over, self._reason = True, reason
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        self._tell_room()

    def way_opened(self) -> None:
        held, self._held = self._held, []
        for data in held:
            self._comes(data)

    def _comes(self, data: bytes) -> None:
        """At the other side, unless the way is cut: then it waits there, and what comes later behind it."""
        if self._is_half_open or self._held or not self._between.is_open(self.host, self.peer.host):
            self._held.append(data)
            return
        self._under_way_bytes -= len(data)
        self._tell_room()
        peer = self.peer
        if peer.is_over or peer.is_gone:
            return
        peer._arrived.append(data)
        if peer._waiting is not None and not peer._waiting.done():
            peer._waiting.set_result(None)

    def _tell_room(self) -> None:
        waiting, self._without_room = self._without_room, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    def _closed_there(self) -> None:
        if self._between.is_open(self.host, self.peer.host) and not self._is_half_open:
            self.peer.breaks("the other side has closed the link")
        else:
            self._between.ping_later(self.peer)
