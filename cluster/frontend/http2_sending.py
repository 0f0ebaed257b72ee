"""The sending half of an HTTP/2 connection: windows of the other side, and what waits for them to open."""

from __future__ import annotations

import asyncio
from struct import Struct

from cluster.frontend import http2_frames as h2
from cluster.frontend.http2_frames import ConnectionFault, StreamFault
from cluster.frontend.http2_headers import encode_headers
from cluster.frontend.http2_stream import Stream

CONTROL_BYTES_MAX = 256 * 1024  # answers to pings and settings that a client does not fetch

_OK_BLOCK = encode_headers([(b":status", b"200"), (b"content-type", b"application/grpc")])
_OK_TRAILERS_BLOCK = encode_headers([(b"grpc-status", b"0")])
_OK = Struct(f">HBBBI{len(_OK_BLOCK)}sHBBBIBI").pack  # the headers, and the beginning of the data
_OK_TRAILERS = Struct(f">HBBBI{len(_OK_TRAILERS_BLOCK)}s").pack
_PREFIX = Struct(">BI").pack


class Sending:
    """Of one connection, whose open streams are `streams`."""

    def __init__(self, streams: dict[int, Stream]) -> None:
        self.transport: asyncio.Transport
        self.window = h2.WINDOW_BYTES_DEFAULT
        self.stream_window = h2.WINDOW_BYTES_DEFAULT
        self.frame_bytes_max = h2.FRAME_BYTES_MAX
        self.sent_count = 0  # of what belongs to calls
        self.is_lost = False
        self._streams = streams
        self._blocked: dict[int, Stream] = {}
        self._is_paused = False
        self._control_bytes = 0  # while paused

    def control(self, frames: bytes) -> None:
        """What no window holds back. A client that asks and asks and fetches no answer is dropped."""
        if self.is_lost:
            return
        if self._is_paused:
            self._control_bytes += len(frames)
            if self._control_bytes > CONTROL_BYTES_MAX:
                self.abort()
                return
        self.transport.write(frames)

    def credit(self, stream_id: int, bytes_count: int) -> None:
        """The client may send so many bytes more, on a stream or in all (0)."""
        self.sent_count += 1
        self.control(h2.window_update(stream_id, bytes_count))

    def unary(self, stream: Stream, message: bytes) -> None:
        """Headers, one message, trailers: in one piece if it fits."""
        self.sent_count += 1
        length, id = len(message), stream.id
        size = length + 5
        block = len(_OK_BLOCK)
        if size <= self.frame_bytes_max and size <= stream.window and size <= self.window and not self._is_paused:
            self.window -= size
            head = _OK(0, block, h2.HEADERS, h2.END_HEADERS, id, _OK_BLOCK, size >> 8, size & 255, h2.DATA, 0, id, 0, length)
            self.transport.write(head + message + self._ok_trailers(id))
            return
        stream.out += (
            h2.frame(h2.HEADERS, h2.END_HEADERS, id, _OK_BLOCK),
            memoryview(_PREFIX(0, length) + message),
            self._ok_trailers(id),
        )
        self.push(stream)

    @staticmethod
    def _ok_trailers(id: int) -> bytes:
        block = _OK_TRAILERS_BLOCK
        return _OK_TRAILERS(0, len(block), h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, id, block)

    def push(self, stream: Stream) -> None:
        """Sends what the windows allow of what the stream has; the rest when they open."""
        out = stream.out
        while out:
            part = out[0]
            if isinstance(part, bytes):
                self.sent_count += 1
                self.transport.write(part)
                out.pop(0)
                continue
            room = min(self.window, stream.window, self.frame_bytes_max, len(part))
            if self._is_paused or (room <= 0 and len(part)):
                self._blocked[stream.id] = stream
                return
            self.sent_count += 1
            self.transport.write(h2.frame(h2.DATA, 0, stream.id, bytes(part[:room])))
            self.window -= room
            stream.window -= room
            if room == len(part):
                out.pop(0)
            else:
                out[0] = part[room:]
        self._blocked.pop(stream.id, None)
        if stream.room is not None and not stream.room.done():
            stream.room.set_result(None)

    def go_on(self) -> None:
        """With what waited, now that there may be room."""
        for stream in list(self._blocked.values()):
            if self._is_paused or self.window <= 0:
                return
            if self._streams.get(stream.id) is not stream:
                del self._blocked[stream.id]
                continue
            self.push(stream)
            if not stream.out and stream.is_answered:
                stream.gone()

    def widen(self, stream_id: int, more_bytes: int) -> None:
        """A WINDOW_UPDATE of an open stream, or of the connection (0). Raises ConnectionFault, StreamFault."""
        if stream_id == 0:
            if more_bytes == 0:
                raise ConnectionFault(h2.PROTOCOL_ERROR, "a window update of nothing")
            self.window += more_bytes
            if self.window > h2.WINDOW_BYTES_LIMIT:
                raise ConnectionFault(h2.FLOW_CONTROL_ERROR, "a window without end")
        else:
            stream = self._streams[stream_id]
            stream.window += more_bytes
            if more_bytes == 0 or stream.window > h2.WINDOW_BYTES_LIMIT:
                raise StreamFault(h2.FLOW_CONTROL_ERROR if more_bytes else h2.PROTOCOL_ERROR)
        self.go_on()

    def set_stream_window(self, bytes_count: int) -> None:
        """Of streams to come; those that are open change by as much, below zero even. `go_on` when that is acknowledged. Raises
        ConnectionFault."""
        if bytes_count > h2.WINDOW_BYTES_LIMIT:
            raise ConnectionFault(h2.FLOW_CONTROL_ERROR, "a window without end")
        change = bytes_count - self.stream_window
        self.stream_window = bytes_count
        for stream in self._streams.values():
            stream.window += change

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._control_bytes = 0
        self.go_on()

    def close(self) -> None:
        """When all that was written has left."""
        if not self.is_lost:
            self.transport.close()

    def abort(self) -> None:
        if not self.is_lost:
            self.transport.abort()
