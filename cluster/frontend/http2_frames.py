"""HTTP/2's frames (RFC 9113) as bytes: kinds, flags, error codes, and how those are built that a server sends."""

from __future__ import annotations

from struct import Struct
from typing import Final

from cluster.frontend.http2_headers import encode_headers

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
FRAME_BYTES_MAX: Final = 16_384  # the least that everybody must take, and all that we take
WINDOW_BYTES_DEFAULT: Final = 65_535
WINDOW_BYTES_LIMIT: Final = (1 << 31) - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR = range(7)
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 7, 8, 9
ENHANCE_YOUR_CALM: Final = 11

read_head: Final = Struct(">HBBBI").unpack_from  # length (two parts), kind, flags, stream id
read_setting: Final = Struct(">HI").iter_unpack
read_number: Final = Struct(">I").unpack
_head: Final = Struct(">HBBBI").pack
_two_numbers: Final = Struct(">II").pack
_setting: Final = Struct(">HI").pack
_number: Final = Struct(">I").pack


class ConnectionFault(Exception):
    """What the other side sent breaks the protocol for the whole connection: it is told by a GOAWAY and dropped."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class StreamFault(Exception):
    """... for one stream, which is reset."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    length = len(payload)
    return _head(length >> 8, length & 255, kind, flags, stream_id) + payload


def headers_frames(stream_id: int, fields: list[tuple[bytes, bytes]], frame_bytes_max: int, is_last: bool) -> bytes:
    """One frame, or several where the block is longer than a frame may be; nothing else may come between them."""
    block = encode_headers(fields)
    last = END_STREAM if is_last else 0
    if len(block) <= frame_bytes_max:
        return frame(HEADERS, last | END_HEADERS, stream_id, block)
    pieces = [block[start : start + frame_bytes_max] for start in range(0, len(block), frame_bytes_max)]
    frames = [frame(HEADERS, last, stream_id, pieces[0])]
    frames += [frame(CONTINUATION, 0, stream_id, piece) for piece in pieces[1:-1]]
    return b"".join((*frames, frame(CONTINUATION, END_HEADERS, stream_id, pieces[-1])))


def settings_frame(settings: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_setting(name, value) for name, value in settings.items()))


def window_update(stream_id: int, bytes_count: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, _number(bytes_count))


def rst_stream(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, _number(code))


def goaway(last_stream_id: int, code: int, reason: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, _two_numbers(last_stream_id, code) + reason.encode())


def unpadded(flags: int, payload: bytes) -> bytes:
    """Raises ConnectionFault."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]
