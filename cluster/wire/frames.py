"""The codec of the node-to-node protocol: bytes in, frames out, no I/O (in the manner of h11).

On the wire: 4 bytes length (big-endian), then one msgpack array whose first element is the kind of frame. Bytes are handed in
with `receive`, frames are taken out with `next_frame`. Illegal input raises `ProtocolError` and changes nothing: frames
before it come out, and asking again raises again. Why msgpack and not protobuf: 0.4 us a frame against 2-3 (architecture.md, 10).

    kind       way               meaning
    Hello      client -> server  the first frame: who calls, which protocol versions it speaks
    Welcome    server -> client  the chosen version, and the credit this connection has
    Refused    server -> client  no, and why; the connection ends
    Request    client -> server  one call, with the milliseconds it has left
    Cancel     client -> server  nobody waits for this call any more
    Response   server -> client  its answer \\ exactly one of the two for every Request, cancelled ones
    Failure    server -> client  its error  / included: it is what gives the credit of the request back
    Ping       both              show a sign of life
    Pong       both              here it is
    Goodbye    both              I begin nothing new on this connection; what is under way may end
"""

from __future__ import annotations

from typing import Annotated

import msgspec

VERSION_MIN, VERSION_MAX = 1, 1
MAGIC = "outlast-wire"
PREFIX_BYTES = 4

Id = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class ProtocolError(Exception):
    """The peer broke the protocol; its connection cannot be used any more."""


# Handshake frames must be readable by every version, so they may grow at the end. All others are fixed per version: a field
# that is not known here is refused, never dropped.
class Hello(msgspec.Struct, array_like=True, tag=1, gc=False, frozen=True):
    magic: str
    version_min: Count
    version_max: Count
    node_id: str
    cluster_id: str
    shard_count: Count


class Welcome(msgspec.Struct, array_like=True, tag=2, gc=False, frozen=True):
    version: Count
    node_id: str
    cluster_id: str
    shard_count: Count
    requests_max: Count
    request_bytes_max: Count
    payload_bytes_max: Count


class Refused(msgspec.Struct, array_like=True, tag=3, gc=False, frozen=True):
    code: Count
    reason: str


class Request(msgspec.Struct, array_like=True, tag=4, gc=False, frozen=True, forbid_unknown_fields=True):
    id: Id
    method: str
    timeout_ms: Count
    payload: bytes


class Response(msgspec.Struct, array_like=True, tag=5, gc=False, frozen=True, forbid_unknown_fields=True):
    id: Id
    payload: bytes


class Failure(msgspec.Struct, array_like=True, tag=6, gc=False, frozen=True, forbid_unknown_fields=True):
    """details: (type url, message bytes), as google.protobuf.Any."""

    id: Id
    code: Count
    message: str
    details: tuple[tuple[str, bytes], ...] = ()


class Cancel(msgspec.Struct, array_like=True, tag=7, gc=False, frozen=True, forbid_unknown_fields=True):
    id: Id


class Ping(msgspec.Struct, array_like=True, tag=8, gc=False, frozen=True, forbid_unknown_fields=True):
    number: Count


class Pong(msgspec.Struct, array_like=True, tag=9, gc=False, frozen=True, forbid_unknown_fields=True):
    number: Count


class Goodbye(msgspec.Struct, array_like=True, tag=10, gc=False, frozen=True, forbid_unknown_fields=True):
    reason: str


Frame = Hello | Welcome | Refused | Request | Response | Failure | Cancel | Ping | Pong | Goodbye

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode


def encode(frame: Frame) -> bytes:
    """One frame with its length in front. Its size is the sender's care: the receiver refuses what is too long."""
    body = _encode(frame)
    return len(body).to_bytes(PREFIX_BYTES, "big") + body


class FrameReader:
    """Cuts a stream of bytes into frames. `frame_bytes_max` may be raised after the handshake."""

    __slots__ = ("_at", "_data", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._data: bytes | bytearray = b""
        self._at = 0

    @property
    def buffered_bytes(self) -> int:
        return len(self._data) - self._at

    def receive(self, data: bytes) -> None:
        if self._at == len(self._data):
            self._data, self._at = data, 0  # the usual case: whole frames, no copy
        else:
            if not isinstance(self._data, bytearray):
                self._data, self._at = bytearray(memoryview(self._data)[self._at :]), 0
            elif self._at:
                del self._data[: self._at]
                self._at = 0
            self._data += data

    def next_frame(self) -> Frame | None:
        """The next whole frame, None if more bytes are needed. Raises ProtocolError."""
        begin = self._at + PREFIX_BYTES
        if begin > len(self._data):
            return None
        size = int.from_bytes(self._data[self._at : begin], "big")
        if size > self.frame_bytes_max:
            raise ProtocolError(f"a frame of {size} bytes; at most {self.frame_bytes_max} are accepted")
        end = begin + size
        if end > len(self._data):
            return None
        try:
            frame: Frame = _decode(self._data[begin:end])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
            raise ProtocolError(f"not a frame of this protocol: {broken}") from None
        self._at = end
        return frame
