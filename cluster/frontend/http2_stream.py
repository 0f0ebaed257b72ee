"""One stream of an HTTP/2 connection: a request and its answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from cluster.frontend import http2_frames as h2

if TYPE_CHECKING:
    from cluster.frontend.http2_connection import Connection
    from cluster.frontend.http2_sending import Sending


class Sink(Protocol):
    """Where a request goes."""

    def data(self, payload: bytes) -> None: ...

    def end(self) -> None:
        """The request is complete."""

    def lose(self) -> None:
        """Nobody waits for the answer any more."""


class _Nowhere:
    """What still comes of a request that is answered."""

    def data(self, payload: bytes) -> None:
        """Dropped."""

    def end(self) -> None:
        """Nothing is left to do."""

    def lose(self) -> None:
        """Nothing is left to do."""


NOWHERE = _Nowhere()


class Stream:
    """`send_*` of a stream that is lost do nothing: whoever answers learns of it by `Sink.lose`.

    out: what waits for the client's window: finished frames (bytes) and data (memoryview), in order.
    """

    __slots__ = (
        "_sending", "connection", "id", "is_answered", "is_complete", "is_lost", "out", "room", "sink", "unfinished_bytes",
        "window",
    )  # fmt: skip

    def __init__(self, id: int, connection: Connection, sending: Sending) -> None:
        self.id, self.connection, self._sending = id, connection, sending
        self.window = sending.stream_window
        self.sink: Sink = NOWHERE
        self.out: list[bytes | memoryview] = []
        self.room: asyncio.Future[None] | None = None
        self.is_complete = self.is_answered = self.is_lost = False
        self.unfinished_bytes = 0

    def lose(self) -> None:
        """The connection has forgotten it."""
        self.is_lost = True
        self.out.clear()
        if self.room is not None and not self.room.done():
            self.room.set_result(None)
        sink, self.sink = self.sink, NOWHERE
        sink.lose()

    def send_unary(self, message: bytes) -> None:
        """A whole good answer."""
        if not self.is_lost:
            self._sending.unary(self, message)
            self._answered()

    def send_headers(self, fields: list[tuple[bytes, bytes]], is_last: bool = False) -> None:
        if self.is_lost:
            return
        self.out.append(h2.headers_frames(self.id, fields, self._sending.frame_bytes_max, is_last))
        self._sending.push(self)
        if is_last:
            self._answered()

    async def send_data(self, data: bytes) -> None:
        """Returns when the client's window has taken it."""
        if self.is_lost:
            return
        self.out.append(memoryview(data))
        self._sending.push(self)
        if self.out:
            self.room = asyncio.get_running_loop().create_future()
            await self.room
            self.room = None

    def give_credit(self, bytes_count: int) -> None:
        """So many bytes of the request are consumed: the client may send as many more."""
        if not self.is_lost:
            self.connection.taken(self, min(bytes_count, self.unfinished_bytes))
            self._sending.credit(self.id, bytes_count)

    def _answered(self) -> None:
        self.is_answered = True
        self.sink = NOWHERE
        if not self.out:
            self.gone()

    def gone(self) -> None:
        """All of the answer has left."""
        if not self.is_complete:  # the client may stop
            self._sending.control(h2.rst_stream(self.id, h2.NO_ERROR))
        self.is_lost = True
        self.connection.forget(self)
