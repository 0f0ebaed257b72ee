"""What other regions say to this one over gRPC, on the public port: `/outlast.region.v1.Region/...`, bytes in and out.

| path      | what                                                                                                       |
|-----------|------------------------------------------------------------------------------------------------------------|
| `Stream`  | bidirectional: a `Link`, whose messages may be longer than one gRPC message; they go in pieces             |
| any other | one call with one answer: `RegionPort.serve`                                                               |

A piece is one gRPC message: a byte that says whether more of the same message follows, then bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import grpc

from cluster.core.errors import CallerError
from cluster.failures import STATUS_DETAILS_HEADER, as_caller_error, shown_message, status_bytes
from cluster.seams import Ids
from replication.link import Link, LinkDown

PREFIX = "/outlast.region.v1.Region/"
STREAM = PREFIX + "Stream"
PIECE_BYTES_MAX = 1024 * 1024  # well below what a frontend takes in one gRPC message
MESSAGE_BYTES_MAX = 256 * 1024 * 1024  # the longest history (50 MiB), its state, and what lost beside it
_LAST, _MORE = b"\0", b"\1"
_STATUS = {code.value[0]: code for code in grpc.StatusCode}


class _Stream(Protocol):
    """Both of grpc's ends have these."""

    async def write(self, data: bytes) -> None: ...

    async def read(self) -> Any: ...


class GrpcLink:
    """end: called once by close()."""

    def __init__(self, stream: _Stream, end: Callable[[], None]) -> None:
        self._stream, self._end = stream, end
        self._sending = asyncio.Lock()  # the pieces of one message follow each other
        self._is_closed = False

    async def send(self, data: bytes) -> None:
        async with self._sending:
            for start in range(0, max(len(data), 1), PIECE_BYTES_MAX):
                piece = data[start : start + PIECE_BYTES_MAX]
                mark = _MORE if start + PIECE_BYTES_MAX < len(data) else _LAST
                await self._guarded(self._stream.write(mark + piece))

    async def receive(self) -> bytes:
        pieces: list[bytes] = []
        bytes_count = 0
        while True:
            piece = await self._guarded(self._stream.read())
            if not isinstance(piece, bytes) or not piece:
                raise LinkDown("the other region has ended the link")
            bytes_count += len(piece)
            if bytes_count > MESSAGE_BYTES_MAX:
                raise LinkDown(f"a message of more than {MESSAGE_BYTES_MAX} bytes")
            if piece[:1] == _LAST and not pieces:
                return piece[1:]
            pieces.append(piece[1:])
            if piece[:1] == _LAST:
                return b"".join(pieces)

    async def _guarded(self, step: Awaitable[Any]) -> Any:
        try:
            return await step
        except grpc.aio.AioRpcError as error:
            raise LinkDown(error.details() or error.code().name) from error
        except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise LinkDown(f"the link is closed: {error!r}") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise LinkDown("the link was cancelled") from None  # grpc says so when the connection under it is closed

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._end()


def dialled(channel: Any, headers: Mapping[str, str]) -> GrpcLink:
    """A new stream over a connection to another region."""
    call = channel.stream_stream(STREAM)(metadata=tuple(headers.items()))

    def end() -> None:
        call.cancel()

    return GrpcLink(call, end)


class Served(Protocol):
    """replication/port.py."""

    async def serve(self, method: str, metadata: Mapping[str, str], data: bytes) -> bytes: ...

    async def accept(self, link: Link) -> None: ...


class RegionHandlers(grpc.GenericRpcHandler):
    """For the transport, beside the public services."""

    def __init__(self, port: Served, ids: Ids) -> None:
        self._port, self._ids = port, ids
        self._stream: Any = grpc.stream_stream_rpc_method_handler(self._accept)

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        if not path.startswith(PREFIX):
            return None
        return self._stream if path == STREAM else grpc.unary_unary_rpc_method_handler(self._unary(path))

    async def _accept(self, requests: Any, context: Any) -> None:
        await self._port.accept(GrpcLink(context, lambda: None))  # the stream ends with this handler

    def _unary(self, path: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def serve(data: bytes, context: Any) -> bytes:
            metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
            try:
                return await self._port.serve(path.removeprefix(PREFIX), metadata, data)
            except Exception as failure:
                refusal: CallerError = as_caller_error(failure, path, self._ids)
            trailer = ((STATUS_DETAILS_HEADER, status_bytes(refusal)),)
            await context.abort(_STATUS[int(refusal.code)], shown_message(refusal), trailer)
            raise AssertionError("abort raises")

        return serve
