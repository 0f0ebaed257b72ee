"""Calls that our front does not serve itself, passed on to grpcio's server on a socket of this machine: health, reflection, and
the streams of other regions. Messages go both ways as they come, each side no faster than the other takes them.
"""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from typing import Any

import grpc

from cluster.core.errors import CallerError, Code
from cluster.failures import STATUS_DETAILS_HEADER
from cluster.frontend.grpc_front import refuse
from cluster.frontend.grpc_messages import PREFIX_BYTES, RESPONSE, RequestHead, framed, status_fields, too_large, unpacked
from cluster.frontend.http2_headers import Field
from cluster.frontend.http2_stream import Stream

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", -1),  # who answers has its own limits
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
_RESERVED = ("grpc-", "user-agent")  # these the connection to grpcio sets itself
CALLS_MAX = 1_000


class PassingOn:
    """Opens its connection with the first call."""

    def __init__(self, address: str, message_bytes_max: int) -> None:
        self._address, self._message_bytes_max = address, message_bytes_max
        self._channel: Any = None
        self.passed: set[_Passed] = set()

    def open(self, stream: Stream, head: RequestHead) -> _Passed:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._address, options=_OPTIONS)
        return _Passed(self, stream, head, self._channel, self._message_bytes_max)

    async def close(self) -> None:
        tasks = [one.task for one in self.passed]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close(None)


class _Passed:
    """One call on its way. A Sink: the request's bytes come here."""

    def __init__(self, all: PassingOn, stream: Stream, head: RequestHead, channel: Any, message_bytes_max: int) -> None:
        self._all, self._stream, self._head, self._bytes_max = all, stream, head, message_bytes_max
        self._rest = bytearray()
        self._messages: deque[tuple[bytes, int]] = deque()  # with how many bytes of window each has cost
        self._has_more = asyncio.Event()
        self._is_complete = False
        self._fault: CallerError | None = None
        all.passed.add(self)
        self.task = asyncio.get_running_loop().create_task(self._run(channel))
        self.task.add_done_callback(lambda _: all.passed.discard(self))

    # --- the request ------------------------------------------------------------------------------------------------------
    def data(self, payload: bytes) -> None:
        rest = self._rest
        rest += payload
        while len(rest) >= PREFIX_BYTES and self._fault is None:
            length = int.from_bytes(rest[1:PREFIX_BYTES], "big")
            end = PREFIX_BYTES + length
            try:
                if length > self._bytes_max:
                    raise too_large(length, self._bytes_max)
                if len(rest) < end:
                    break
                message = unpacked(rest[0], bytes(rest[PREFIX_BYTES:end]), self._head.encoding, self._bytes_max)
            except CallerError as error:
                self._fault = error
                break
            del rest[:end]
            self._messages.append((message, end))
        self._has_more.set()

    def end(self) -> None:
        self._is_complete = True
        self._has_more.set()

    def lose(self) -> None:
        self.task.cancel()

    # --- both ways --------------------------------------------------------------------------------------------------------
    async def _run(self, channel: Any) -> None:
        head, stream = self._head, self._stream
        if len(self._all.passed) > CALLS_MAX:
            refuse(stream, CallerError(Code.RESOURCE_EXHAUSTED, "too many calls are under way, please retry"))
            return
        metadata = [item for item in (*head.metadata.items(), *head.binaries.items()) if not item[0].startswith(_RESERVED)]
        call = channel.stream_stream(head.path)(metadata=metadata, timeout=head.timeout_s)
        asking = asyncio.get_running_loop().create_task(self._ask(call))
        try:
            has_headers = False
            while isinstance(message := await call.read(), bytes):
                if not has_headers:
                    stream.send_headers([*RESPONSE, *_fields(await call.initial_metadata())])
                    has_headers = True
                await stream.send_data(framed(message))
            code, text = await call.code(), await call.details()
            self._finish(has_headers, code.value[0], text or "", await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            self._finish(has_headers, error.code().value[0], error.details() or "", error.trailing_metadata())
        finally:
            asking.cancel()
            call.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask(self, call: Any) -> None:
        """Hands the request over, message by message. What ends the call is told by its answer."""
        while True:
            while self._messages:
                message, cost_bytes = self._messages.popleft()
                await call.write(message)
                self._stream.give_credit(cost_bytes)
            if self._fault is not None:
                refuse(self._stream, self._fault)
                self.task.cancel()
                return
            if self._is_complete:
                await call.done_writing()
                return
            self._has_more.clear()
            await self._has_more.wait()

    def _finish(self, has_headers: bool, code: int, text: str, trailing: Any) -> None:
        trailers = [*status_fields(code, text), *_fields(trailing)]
        self._stream.send_headers(trailers if has_headers else [*RESPONSE, *trailers], is_last=True)


def _fields(metadata: Any) -> list[Field]:
    fields: list[Field] = []
    for name, value in metadata or ():
        if isinstance(value, bytes) and (name.endswith("-bin") or name == STATUS_DETAILS_HEADER):
            fields.append((name.encode(), base64.b64encode(value).rstrip(b"=")))
        else:
            fields.append((name.encode(), value if isinstance(value, bytes) else str(value).encode()))
    return fields
