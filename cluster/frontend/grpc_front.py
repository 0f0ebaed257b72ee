"""The public port: gRPC over our own HTTP/2 (http2_connection.py), one task for each call and no thread but the loop's.

| a call                              | goes                                                                                  |
|-------------------------------------|---------------------------------------------------------------------------------------|
| of the public services (`METHODS`)  | to its handler, here                                                                  |
| of anything else (health,           | as messages to grpcio's server, which listens within this machine for nobody else     |
| reflection, other regions' streams) | (`passing_on.py`)                                                                     |

A client that gives up (RST_STREAM, a lost connection, its deadline) cancels the handler's task. Deadlines are looked at once a
second: clients watch over their own, to the millisecond; the server only must not work on for nobody.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Awaitable, Callable, Mapping

import structlog

from cluster.core.errors import CallerError, Code, resource_exhausted
from cluster.frontend.grpc_messages import (
    PREFIX_BYTES,
    RESPONSE,
    RequestHead,
    check_length,
    message_of,
    refusal_fields,
    status_fields,
    too_large,
)
from cluster.frontend.http2_connection import Connection
from cluster.frontend.http2_headers import Field
from cluster.frontend.http2_stream import NOWHERE, Sink, Stream

log = structlog.get_logger("outlast.front")

BACKLOG = 1_024
DEADLINE_STEP_S = 1.0
DEADLINE_AHEAD_STEPS_MAX = 120  # a deadline further away is looked at again then
WINDOW_SLACK_BYTES = 64 * 1024

# (headers, deadline, peer, request) -> answer. Raises CallerError, nothing else. Calls with equal headers share them.
Serve = Callable[[Mapping[str, str], float | None, str, bytes], Awaitable[bytes]]
# Takes a stream that no handler here serves; its request comes to the sink.
PassOn = Callable[[Stream, RequestHead], Sink]


class GrpcFront:
    """start() binds, close() ends what is still under way. calls_max: all connections together, parked ones included."""

    def __init__(self, serves: Mapping[str, Serve], pass_on: PassOn, message_bytes_max: int, calls_max: int) -> None:
        self.serves, self.message_bytes_max = serves, message_bytes_max
        self.stream_window_bytes = message_bytes_max + WINDOW_SLACK_BYTES
        self.running: dict[int, _Unary] = {}
        self.numbers = itertools.count()
        self.loop: asyncio.AbstractEventLoop
        self.deadlines = _Deadlines(self.running)
        self._pass_on, self._calls_max = pass_on, calls_max
        self._connections: set[Connection] = set()
        self._servers: list[asyncio.Server] = []
        self._all_left: asyncio.Future[None] | None = None

    async def start(self, host: str, port: int, is_shared: bool, tls: ssl.SSLContext | None = None) -> int:
        """The port, chosen by the system when 0. Raises OSError."""
        loop = self.loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=1)  # SOCK_STREAM
        try:
            for address in dict.fromkeys(str(one[4][0]) for one in found):
                server = await loop.create_server(
                    lambda: Connection(self, loop), address, port, reuse_port=is_shared or None, backlog=BACKLOG, ssl=tls
                )
                self._servers.append(server)
                port = port or server.sockets[0].getsockname()[1]  # "localhost" may be two addresses, on one port
        except BaseException:
            await self.close(0.0)
            raise
        return port

    async def close(self, grace_s: float) -> None:
        """No new connections and no new calls; those under way have so long to end."""
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.leave()
        if self._connections and grace_s:
            self._all_left = self.loop.create_future()
            await asyncio.wait([self._all_left], timeout=grace_s)
        for connection in list(self._connections):
            connection.drop()
        self.deadlines.close()
        tasks = [call.task for call in self.running.values() if call.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()

    # --- what a connection asks (http2_connection.Service) ------------------------------------------------------------------
    def head_of(self, fields: list[Field]) -> RequestHead:
        return RequestHead(fields)

    def open(self, stream: Stream, head: RequestHead) -> Sink:
        if head.fault:
            http_status = [(b":status", head.http_status), RESPONSE[1]]
            code = Code.INTERNAL if head.http_status == b"200" else Code.UNKNOWN
            stream.send_headers([*http_status, *status_fields(int(code), head.fault)], is_last=True)
            return NOWHERE
        serve = self.serves.get(head.path)
        if serve is None:
            return self._pass_on(stream, head)
        if len(self.running) >= self._calls_max:
            refuse(stream, resource_exhausted("too many calls are under way, please retry"))
            return NOWHERE
        return _Unary(self, stream, head, serve)

    def joined(self, connection: Connection) -> None:
        self._connections.add(connection)

    def left(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if self._all_left is not None and not self._connections and not self._all_left.done():
            self._all_left.set_result(None)


def refuse(stream: Stream, error: CallerError) -> None:
    """The whole answer is a status."""
    stream.send_headers([*RESPONSE, *refusal_fields(error)], is_last=True)


class _Unary:
    """One call with one answer."""

    __slots__ = ("_chunks", "_front", "_head", "_serve", "_size", "deadline", "is_late", "number", "stream", "task")

    def __init__(self, front: GrpcFront, stream: Stream, head: RequestHead, serve: Serve) -> None:
        self._front, self.stream, self._head, self._serve = front, stream, head, serve
        self._chunks: list[bytes] = []
        self._size = 0
        self.number = next(front.numbers)
        self.deadline: float | None = None
        self.task: asyncio.Task[None] | None = None
        self.is_late = False

    def data(self, payload: bytes) -> None:
        self._chunks.append(payload)
        self._size += len(payload)
        if len(self._chunks) == 1:
            return
        bytes_max = self._front.message_bytes_max
        try:
            if self._size > bytes_max + PREFIX_BYTES:
                raise too_large(self._size - PREFIX_BYTES, bytes_max)
            if len(self._chunks) == 2:  # a long one: it may say already that it is too long
                check_length(b"".join(self._chunks), bytes_max)
        except CallerError as error:
            self._chunks.clear()
            refuse(self.stream, error)

    def end(self) -> None:
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        front, head = self._front, self._head
        try:
            data = message_of(body, head.encoding, front.message_bytes_max)
        except CallerError as error:
            refuse(self.stream, error)
            return
        loop = front.loop
        if head.timeout_s is not None:
            self.deadline = loop.time() + head.timeout_s
            front.deadlines.add(self.number, self.deadline, loop)
        front.running[self.number] = self
        self.task = loop.create_task(self._run(data))

    async def _run(self, data: bytes) -> None:
        stream = self.stream
        try:
            answer = await self._serve(self._head.metadata, self.deadline, stream.connection.peer, data)
        except CallerError as error:
            refuse(stream, error)
        except asyncio.CancelledError:
            if self.is_late:
                refuse(stream, CallerError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded"))
        else:
            stream.send_unary(answer)
        finally:
            self._ended()

    def _ended(self, task: asyncio.Task[None] | None = None) -> None:
        self._front.running.pop(self.number, None)
        self.task = None

    def lose(self) -> None:
        """The client has gone."""
        if self.task is not None:
            self.task.add_done_callback(self._ended)  # one that has not begun is cancelled without a step
            self.task.cancel()

    def expire(self) -> None:
        if self.task is not None:
            self.is_late = True
            self.task.cancel()


class _Deadlines:
    """Numbers of calls by the second in which they end. One that has ended before stays in its list until then."""

    def __init__(self, running: Mapping[int, _Unary]) -> None:
        self._running = running
        self._steps: dict[int, list[int]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, number: int, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        step = min(int(deadline / DEADLINE_STEP_S) + 1, int(now / DEADLINE_STEP_S) + DEADLINE_AHEAD_STEPS_MAX)
        found = self._steps.get(step)
        if found is None:
            self._steps[step] = [number]
            self._arm(now, loop)
        else:
            found.append(number)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._steps.clear()

    def _arm(self, now: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(max(min(self._steps) * DEADLINE_STEP_S - now, 0.0), self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for step in [step for step in self._steps if step * DEADLINE_STEP_S <= now]:
            for number in self._steps.pop(step):
                call = self._running.get(number)
                if call is None or call.deadline is None:
                    continue
                if call.deadline <= now:
                    call.expire()
                else:
                    self.add(number, call.deadline, loop)
        if self._steps and self._timer is None:
            self._arm(now, loop)
