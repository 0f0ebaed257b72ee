"""One HTTP/2 connection, the server's side (RFC 9113, without TLS, by prior knowledge as gRPC does it).

    bytes in --> data_received --> a frame's method --> the stream's Sink (what the service above made of it)
    answer   --> send_unary in one write where the windows allow it, else Stream.out and _push as they open

Why an own one: grpcio's asyncio server takes about 200 us of CPU for a call, a large part of it in handing every step of a call
from one thread to another and back. Here a call is one task on the loop's thread (ops/bench).

What a client may cost: streams, bytes of unfinished requests, header blocks, pings and resets are bounded; beyond that the
connection ends with ENHANCE_YOUR_CALM. Whoever does not answer pings is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

from cluster.frontend import http2_frames as h2
from cluster.frontend.http2_frames import ConnectionFault, StreamFault
from cluster.frontend.http2_headers import LIST_BYTES_MAX, Field, HeaderDecoder, HeadersFault, HeadersTooLarge
from cluster.frontend.http2_sending import Sending
from cluster.frontend.http2_stream import Sink, Stream

STREAMS_MAX = 10_000
BLOCK_BYTES_MAX = LIST_BYTES_MAX  # of the frames of one header block together
BLOCK_FRAMES_MAX = 64
CONNECTION_WINDOW_BYTES = 64 * 1024 * 1024
UNFINISHED_BYTES_MAX = 64 * 1024 * 1024  # of requests that are not complete; four mebibytes is the largest single one
RESETS_IN_A_ROW_MAX = 20_000
EMPTY_FRAMES_IN_A_ROW_MAX = 10_000
PING_INTERVAL_MIN_S = 10.0  # as the public server asks; SDKs ping every 30 s
PING_STRIKES_MAX = 2
KEEPALIVE_S, KEEPALIVE_TIMEOUT_S = 60.0, 20.0
GREETING_TIMEOUT_S = 20.0  # who connects and says nothing


class Service(Protocol):
    """What is above: gRPC (front.py)."""

    stream_window_bytes: int

    def head_of(self, fields: list[Field]) -> Any:
        """What a block of request headers means; equal blocks may get the same object, so nobody changes it."""

    def open(self, stream: Stream, head: Any) -> Sink:
        """A request begins. May answer at once."""

    def joined(self, connection: Connection) -> None: ...

    def left(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """See the module's text."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self._service, self._loop = service, loop
        self.peer = ""
        self.streams: dict[int, Stream] = {}
        self.sending = Sending(self.streams)
        self._decoder: HeaderDecoder[Any] = HeaderDecoder(service.head_of)
        self._rest = b""
        self._is_greeted = False
        self._block: list[bytes] = []  # of a header block that goes on in the next frame
        self._block_of = (0, 0)  # its stream and flags
        self._last_id = 0
        self._is_leaving = self._has_ended = False
        self._unfinished_bytes = 0
        self._credit_bytes = 0  # received, not yet given back as window
        self._resets_in_a_row = self._empty_frames_in_a_row = 0
        self._heard_at = self._pinged_at = 0.0
        self._is_ping_unanswered = False
        self._ping_strikes, self._client_pinged_at, self._sent_when_pinged = 0, -PING_INTERVAL_MIN_S, -1
        self._keepalive: asyncio.TimerHandle | None = None
        self._on_frame: tuple[Callable[[int, int, bytes], None], ...] = (
            self._data,
            self._headers,
            self._priority,
            self._rst_stream,
            self._settings,
            self._push_promise,
            self._ping,
            self._goaway,
            self._window_update,
            self._continuation,
        )

    # --- the socket ---------------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.sending.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self.peer = peer_name(transport.get_extra_info("peername"))
        settings = {
            h2.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
            h2.INITIAL_WINDOW_SIZE: self._service.stream_window_bytes,
            h2.MAX_HEADER_LIST_SIZE: LIST_BYTES_MAX,
        }
        self.sending.control(
            h2.settings_frame(settings) + h2.window_update(0, CONNECTION_WINDOW_BYTES - h2.WINDOW_BYTES_DEFAULT)
        )
        self._heard_at = self._loop.time()
        self._keepalive = self._loop.call_later(GREETING_TIMEOUT_S, self._look)
        self._service.joined(self)

    def connection_lost(self, reason: Exception | None) -> None:
        if self._keepalive is not None:
            self._keepalive.cancel()
        self.sending.is_lost = True
        streams = list(self.streams.values())
        self.streams.clear()
        for stream in streams:
            stream.lose()
        self._service.left(self)

    def pause_writing(self) -> None:
        self.sending.pause()

    def resume_writing(self) -> None:
        self.sending.resume()

    def eof_received(self) -> bool:
        return False  # the transport closes itself

    def data_received(self, data: bytes) -> None:
        if self._has_ended:
            return
        self._heard_at = self._loop.time()
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at, end = 0, len(data)
        try:
            if not self._is_greeted:
                if not data.startswith(h2.PREFACE[:end]):
                    raise ConnectionFault(h2.PROTOCOL_ERROR, "this port speaks HTTP/2 for gRPC")
                if end < len(h2.PREFACE):
                    self._rest = data
                    return
                self._is_greeted = True
                at = len(h2.PREFACE)
            on_frame = self._on_frame
            while end - at >= 9:
                high, low, kind, flags, stream_id = h2.read_head(data, at)
                length = high << 8 | low
                if length > h2.FRAME_BYTES_MAX:
                    raise ConnectionFault(h2.FRAME_SIZE_ERROR, "a frame above the size that was agreed")
                stop = at + 9 + length
                if stop > end:
                    break
                if self._block and kind != h2.CONTINUATION:
                    raise ConnectionFault(h2.PROTOCOL_ERROR, "a header block that is not continued")
                payload = data[at + 9 : stop]
                at = stop
                if kind < 10:  # others are ignored, says the RFC
                    on_frame[kind](flags, stream_id & 0x7FFFFFFF, payload)
        except ConnectionFault as fault:
            self._end(fault.code, fault.reason)
            return
        if at < end:
            self._rest = data[at:]

    # --- frames that carry calls ----------------------------------------------------------------------------------------
    def _headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        payload = h2.unpadded(flags, payload)
        if flags & h2.WITH_PRIORITY:
            payload = payload[5:]
        if flags & h2.END_HEADERS:
            self._on_block(flags, stream_id, payload)
        else:
            self._block, self._block_of = [payload], (stream_id, flags)

    def _continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._block or stream_id != self._block_of[0]:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "a continuation of nothing")
        self._block.append(payload)
        if sum(map(len, self._block)) > BLOCK_BYTES_MAX or len(self._block) > BLOCK_FRAMES_MAX:
            raise ConnectionFault(h2.ENHANCE_YOUR_CALM, "headers too large")
        if flags & h2.END_HEADERS:
            block, self._block = b"".join(self._block), []
            self._on_block(self._block_of[1], stream_id, block)

    def _on_block(self, flags: int, stream_id: int, block: bytes) -> None:
        try:
            head = self._decoder.decode(block)  # also where nobody wants it: the table must stay the client's
        except HeadersFault as fault:
            raise ConnectionFault(h2.COMPRESSION_ERROR, str(fault)) from fault
        except HeadersTooLarge:
            raise ConnectionFault(h2.ENHANCE_YOUR_CALM, "headers too large") from None
        is_last = bool(flags & h2.END_STREAM)
        if not stream_id & 1:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "a stream id that is not a client's")
        if stream_id <= self._last_id:
            stream = self.streams.get(stream_id)
            if stream is None or stream.is_complete:
                return  # of a call that has ended here
            if not is_last:
                raise ConnectionFault(h2.PROTOCOL_ERROR, "headers in the middle of a request")
            self._completed(stream)
            return
        self._last_id = stream_id
        if self._is_leaving:
            return  # it was told by GOAWAY that nobody listens
        if len(self.streams) >= STREAMS_MAX:
            self.sending.control(h2.rst_stream(stream_id, h2.REFUSED_STREAM))
            return
        stream = Stream(stream_id, self, self.sending)
        self.streams[stream_id] = stream
        stream.is_complete = is_last
        sink = self._service.open(stream, head)
        if not stream.is_answered:
            stream.sink = sink
        if is_last:
            self._completed(stream)

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        received_bytes = len(payload)
        if flags & h2.PADDED:
            payload = h2.unpadded(flags, payload)
        self._credit_bytes += received_bytes
        if self._credit_bytes > CONNECTION_WINDOW_BYTES // 4:
            self.sending.credit(0, self._credit_bytes)
            self._credit_bytes = 0
        stream = self.streams.get(stream_id)
        if stream is None or stream.is_complete:
            if stream_id > self._last_id or stream_id == 0:
                raise ConnectionFault(h2.PROTOCOL_ERROR, "data of no stream")
            return
        if payload:
            self._unfinished_bytes += len(payload)
            stream.unfinished_bytes += len(payload)
            if self._unfinished_bytes > UNFINISHED_BYTES_MAX:
                raise ConnectionFault(h2.ENHANCE_YOUR_CALM, "too many unfinished requests")
            stream.sink.data(payload)
        elif not flags & h2.END_STREAM:
            self._empty_frames_in_a_row += 1
            if self._empty_frames_in_a_row > EMPTY_FRAMES_IN_A_ROW_MAX:
                raise ConnectionFault(h2.ENHANCE_YOUR_CALM, "too many empty frames")
        if flags & h2.END_STREAM:
            self._completed(stream)

    def _completed(self, stream: Stream) -> None:
        """The client has said all of its request."""
        stream.is_complete = True
        self._resets_in_a_row = self._empty_frames_in_a_row = 0
        self.taken(stream, stream.unfinished_bytes)
        if stream.is_answered:
            self.forget(stream)
        else:
            stream.sink.end()

    def taken(self, stream: Stream, bytes_count: int) -> None:
        """So many bytes of the request wait no more for the rest."""
        stream.unfinished_bytes -= bytes_count
        self._unfinished_bytes -= bytes_count

    def _rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(h2.FRAME_SIZE_ERROR, "a reset of the wrong size")
        if stream_id > self._last_id or stream_id == 0:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "a reset of no stream")
        self._resets_in_a_row += 1
        if self._resets_in_a_row > RESETS_IN_A_ROW_MAX:
            raise ConnectionFault(h2.ENHANCE_YOUR_CALM, "too many resets")
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.forget(stream)
            stream.lose()

    def forget(self, stream: Stream) -> None:
        """The stream is over; when it was the last one of a connection that leaves, so is that."""
        self.taken(stream, stream.unfinished_bytes)
        self.streams.pop(stream.id, None)
        if self._is_leaving and not self.streams:
            self.sending.close()

    # --- frames about the connection --------------------------------------------------------------------------------------
    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id != 0:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "settings of a stream")
        if len(payload) % 6 or (flags & h2.ACK and payload):
            raise ConnectionFault(h2.FRAME_SIZE_ERROR, "settings of the wrong size")
        if flags & h2.ACK:
            return
        for name, value in h2.read_setting(payload):
            if name == h2.INITIAL_WINDOW_SIZE:
                self.sending.set_stream_window(value)
            elif name == h2.MAX_FRAME_SIZE:
                if not h2.FRAME_BYTES_MAX <= value <= 0xFFFFFF:
                    raise ConnectionFault(h2.PROTOCOL_ERROR, "a frame size out of bounds")
                self.sending.frame_bytes_max = value
        self.sending.control(h2.frame(h2.SETTINGS, h2.ACK, 0))
        self.sending.go_on()  # not before: until it is told so, the client holds us to its former settings

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id != 0 or len(payload) != 8:
            raise ConnectionFault(h2.FRAME_SIZE_ERROR, "a ping of the wrong size")
        if flags & h2.ACK:
            self._is_ping_unanswered = False
            return
        now, sent = self._loop.time(), self.sending.sent_count
        if sent != self._sent_when_pinged:
            self._ping_strikes = 0  # while something flows a client may measure the line, as official ones do
        elif now - self._client_pinged_at < PING_INTERVAL_MIN_S:
            self._ping_strikes += 1
            if self._ping_strikes > PING_STRIKES_MAX:
                raise ConnectionFault(h2.ENHANCE_YOUR_CALM, "too_many_pings")  # official clients look for this word
        self._client_pinged_at, self._sent_when_pinged = now, sent
        self.sending.control(h2.frame(h2.PING, h2.ACK, 0, payload))

    def _window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(h2.FRAME_SIZE_ERROR, "a window update of the wrong size")
        more_bytes = h2.read_number(payload)[0] & 0x7FFFFFFF
        if stream_id > self._last_id:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "a window update of no stream")
        if stream_id and stream_id not in self.streams:
            return
        try:
            self.sending.widen(stream_id, more_bytes)
        except StreamFault as fault:
            stream = self.streams[stream_id]
            self.sending.control(h2.rst_stream(stream_id, fault.code))
            self.forget(stream)
            stream.lose()

    def _goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        """The client opens no streams any more; those that are open go on, and the client closes."""

    def _priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Advice that nobody has to take."""

    def _push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ConnectionFault(h2.PROTOCOL_ERROR, "a client does not push")

    # --- the end ----------------------------------------------------------------------------------------------------------
    def leave(self) -> None:
        """No new streams; closed when the last one has ended."""
        if not self._is_leaving:
            self._is_leaving = True
            self.sending.control(h2.goaway(self._last_id, h2.NO_ERROR))
            if not self.streams:
                self.sending.close()

    def drop(self) -> None:
        self.sending.abort()

    def _end(self, code: int, reason: str) -> None:
        self._is_leaving = self._has_ended = True
        self.sending.control(h2.goaway(self._last_id, code, reason))
        self.sending.close()

    def _look(self) -> None:
        """Whether the client is still there: when it is silent for long, it is asked."""
        now = self._loop.time()
        if not self._is_greeted or (self._is_ping_unanswered and self._heard_at < self._pinged_at):
            self.drop()
            return
        silent_s = now - self._heard_at
        self._is_ping_unanswered = silent_s >= KEEPALIVE_S
        if self._is_ping_unanswered:
            self._pinged_at = now
            self.sending.control(h2.frame(h2.PING, 0, 0, b"outlast?"))
        wait_s = KEEPALIVE_TIMEOUT_S if self._is_ping_unanswered else KEEPALIVE_S - silent_s
        self._keepalive = self._loop.call_later(wait_s, self._look)


def peer_name(address: Any) -> str:
    """As grpc writes it."""
    if not isinstance(address, tuple):
        return "unix:"
    host, port = address[0], address[1]
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
