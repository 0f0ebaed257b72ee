"""A client that speaks frames, so that a test can send what no library would. Written apart from the server's code, but for the
decoder of headers, which has tests of its own.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass

from cluster.frontend.http2_headers import Field, HeaderDecoder, encode_headers

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK, PADDED = 1, 4, 1, 8
WAIT_S = 5.0


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def number(self) -> int:
        """The error code of a reset or a GOAWAY, the bytes of a window update."""
        at = 4 if self.kind == GOAWAY else 0
        return int(struct.unpack_from(">I", self.payload, at)[0])


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *item) for item in values.items()))


def request_fields(path: str, *more: Field) -> list[Field]:
    fixed = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"test")]
    return [*fixed, (b"content-type", b"application/grpc"), (b"te", b"trailers"), *more]


def message(data: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(data)) + data


def call(stream: int, path: str, data: bytes = b"", *more: Field) -> bytes:
    """A whole request."""
    block = encode_headers(request_fields(path, *more))
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, message(data))


@dataclass
class WindowReader:
    """What the server has allowed on the connection as a whole, and what was sent."""

    given_bytes: int = 65_535
    sent_bytes: int = 0


class Client:
    """Settings of the server and their acknowledgements are read over, window updates counted (unless is_every_frame_told)."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, window: WindowReader | None = None
    ) -> None:
        self._reader, self._writer, self._window = reader, writer, window or WindowReader()
        self.is_every_frame_told = False
        self.decoder: HeaderDecoder[list[Field]] = HeaderDecoder(list)

    @classmethod
    async def connect(cls, port: int, values: dict[int, int] | None = None, window: WindowReader | None = None) -> Client:
        client = cls(*await asyncio.open_connection("127.0.0.1", port), window)
        client.send(PREFACE + settings(values or {}))
        return client

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def frame(self) -> Frame:
        """The next one. Raises asyncio.IncompleteReadError when the server has closed."""
        async with asyncio.timeout(WAIT_S):
            while True:
                head = await self._reader.readexactly(9)
                length = int.from_bytes(head[:3], "big")
                kind, flags, stream = struct.unpack(">BBI", head[3:])
                found = Frame(kind, flags, stream, await self._reader.readexactly(length))
                if kind == WINDOW and stream == 0:
                    self._window.given_bytes += found.number
                if kind not in (SETTINGS, WINDOW) or self.is_every_frame_told:
                    return found

    async def answer(self, stream: int) -> tuple[dict[str, str], bytes]:
        """All fields and data of one stream, to its end."""
        fields: dict[str, str] = {}
        data = b""
        while True:
            found = await self.frame()
            if found.stream != stream:
                continue
            if found.kind == HEADERS:
                assert found.flags & END_HEADERS
                fields |= {name.decode(): value.decode() for name, value in self.decoder.decode(found.payload)}
            elif found.kind == DATA:
                data += found.payload
            else:
                raise AssertionError(f"stream {stream} ended with {found}")
            if found.flags & END_STREAM:
                return fields, data

    async def until(self, kind: int) -> Frame:
        while (found := await self.frame()).kind != kind:
            pass
        return found

    async def is_closed(self) -> bool:
        """Reads what is left; whether the server then closes."""
        try:
            while True:
                await self.frame()
        except (asyncio.IncompleteReadError, ConnectionError):
            return True
        except TimeoutError:
            return False

    async def close(self) -> None:
        self._writer.close()
