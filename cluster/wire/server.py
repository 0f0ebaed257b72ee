"""The listening side of node to node: accepts peers of the same cluster, runs their calls, answers each exactly once.

`WireServer(handler, ...)`; handler(method, payload, deadline_s, peer) -> payload, or CallerError; deadline_s in loop.time().
A call whose deadline passes, whose caller gave up or whose connection ended has its job cancelled.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from cluster.core.errors import CallerError, Code, resource_exhausted, unavailable
from cluster.wire.connection import Connection, Identity, Peer
from cluster.wire.credit import Credit
from cluster.wire.errors import as_failure, deadline_exceeded
from cluster.wire.frames import (
    MAGIC,
    VERSION_MAX,
    VERSION_MIN,
    Cancel,
    Frame,
    Goodbye,
    Hello,
    ProtocolError,
    Refused,
    Request,
    Response,
    Welcome,
)
from cluster.wire.limits import WireLimits
from cluster.wire.network import Listener, Network, certificate_names
from cluster.wire.states import SERVER, State

log = structlog.get_logger("outlast.wire")

Handler = Callable[[str, bytes, float | None, Peer], Coroutine[Any, Any, bytes]]
# Any exception that is not a CallerError, and the method -> what the caller is told (cluster/failures.py: as_caller_error).
Explain = Callable[[Exception, str], CallerError]

CANCELLED_BY_CALLER = CallerError(Code.CANCELLED, "the caller gave up")


def masked(failure: Exception, method: str) -> CallerError:
    log.error("unexpected failure of a call from another node", method=method, exc_info=failure)
    return CallerError(Code.INTERNAL, "something went wrong on another node, please retry")


class WireServer:
    """See the module's text. peer_name: a DNS name that a client's certificate must carry."""

    def __init__(
        self,
        handler: Handler,
        me: Identity,
        network: Network,
        limits: WireLimits | None = None,
        explain: Explain = masked,
        peer_name: str | None = None,
    ) -> None:
        self.handler, self.me, self.explain, self.peer_name = handler, me, explain, peer_name
        self.limits = limits or WireLimits()
        self.counts: Counter[str] = Counter()
        # As dicts, so that they end in the order in which they began: a set of objects has another one in every process.
        self.connections: dict[ServerConnection, None] = {}
        self.calls: dict[IncomingCall, None] = {}  # whose jobs still run, those of lost connections included
        self.request_bytes = 0
        self.is_stopping = False
        self._network = network
        self._listener: Listener | None = None

    async def start(self, address: str) -> str:
        """Listens; returns the address with the port that was chosen. Raises OSError."""
        self._listener = await self._network.listen(address, lambda: ServerConnection(self))
        return self._listener.address

    async def stop(self, grace_s: float = 5.0) -> None:
        """No new connections and requests; calls under way have `grace_s`, then their callers get UNAVAILABLE."""
        self.is_stopping = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.stop_taking()
        await self._until_idle(grace_s)
        for call in list(self.calls):
            call.cancel(unavailable("the node is stopping, please retry"))
        await self._until_idle(self.limits.close_timeout_s)
        for call in self.calls:
            log.error("a call does not end although it was cancelled", method=call.method)
        connections = list(self.connections)
        for connection in connections:
            connection.close("the node is stopping")
        if connections:
            await asyncio.wait([connection.lost for connection in connections])  # bounded by close_timeout_s

    async def _until_idle(self, limit_s: float) -> None:
        if jobs := [call.job for call in self.calls]:
            await asyncio.wait(jobs, timeout=limit_s)
            await asyncio.sleep(0)  # the last answers are given by callbacks of those jobs


class IncomingCall:
    """One request under way: its job, its timer, and what its caller is told if it is cut short."""

    __slots__ = ("_connection", "_error", "_id", "_is_answered", "_timer", "job", "method", "size")

    def __init__(self, connection: ServerConnection, request: Request, deadline: float) -> None:
        self._connection, self._id, self.method, self.size = connection, request.id, request.method, len(request.payload)
        self._error: CallerError | None = None
        server, loop = connection.server, connection.loop
        self._timer = loop.call_at(deadline, self._expire)
        self.job = loop.create_task(server.handler(request.method, request.payload, deadline, connection.peer))
        self.job.add_done_callback(self._done)

    def cancel(self, error: CallerError) -> None:
        if self._error is None:
            self._error = error
            self.job.cancel()

    def _expire(self) -> None:
        self.cancel(deadline_exceeded(self.method))

    def _done(self, job: asyncio.Task[bytes]) -> None:
        self._timer.cancel()
        if job.cancelled():
            self._connection.answered(self, self._id, self._error or CANCELLED_BY_CALLER)
        elif (failure := job.exception()) is None:
            answer: object = job.result()
            if not isinstance(answer, bytes):  # a wrong handler is told of loudly, and its caller does not wait for ever
                wrong = TypeError(f"the handler returned {type(answer).__name__}, not bytes")
                answer = self._connection.server.explain(wrong, self.method)
            self._connection.answered(self, self._id, answer)
        elif isinstance(failure, CallerError):
            self._connection.answered(self, self._id, failure)
        elif isinstance(failure, Exception):
            self._connection.answered(self, self._id, self._connection.server.explain(failure, self.method))
        # What is left (SystemExit and the like) has already gone through the loop and ends the process.


class ServerConnection(Connection):
    """One peer that calls us."""

    rules = SERVER
    HELD_PER_STEP, HELD_STEP_S = 4, 0.001

    def __init__(self, server: WireServer) -> None:
        super().__init__(server.limits)
        self.server = server
        self.peer = Peer("", 0)
        self.calls: dict[int, IncomingCall] = {}
        self._credit = Credit(server.limits.requests_in_flight_max, server.limits.request_bytes_in_flight_max)
        self._last_id = 0
        # Requests that came while the peer does not take its answers; bounded by the credit. Request, deadline.
        self._held: deque[tuple[Request, float]] = deque()
        self._is_holding = self._is_beginning = False

    def take(self, frame: Frame) -> None:
        if type(frame) is Request:
            self._take_request(frame)
        elif type(frame) is Cancel:
            self._take_cancel(frame.id)
        elif isinstance(frame, Hello):
            self._greet(frame)
        elif type(frame) is Goodbye:
            self._close_if_drained()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not earlier: of a failed TLS handshake nobody tells this protocol.
        self.server.connections[self] = None
        super().connection_made(transport)

    # --- the handshake ------------------------------------------------------------------------------------------------
    def _greet(self, hello: Hello) -> None:
        names = certificate_names(self.pipe.get_extra_info("peercert"))
        version = min(hello.version_max, VERSION_MAX)
        if refusal := self._refusal(hello, version, names):
            self.server.counts["refused"] += 1
            log.warning("peer refused", peer=hello.node_id[:100], reason=refusal)
            self.close(refusal, Refused(int(Code.FAILED_PRECONDITION), refusal))
            return
        self.peer = Peer(hello.node_id, version, names)
        self.opened()
        me, limits = self.server.me, self.limits
        self.send(
            Welcome(
                version, *me, limits.requests_in_flight_max, limits.request_bytes_in_flight_max, limits.payload_bytes_max
            )
        )

    def _refusal(self, hello: Hello, version: int, names: frozenset[str]) -> str:
        me, theirs = self.server.me, f"versions {hello.version_min} to {hello.version_max}"
        if hello.magic != MAGIC:
            return "this is not the node-to-node protocol"
        if not max(hello.version_min, VERSION_MIN) <= version:
            return f"the peer speaks protocol {theirs}, this node {VERSION_MIN} to {VERSION_MAX}"
        if hello.cluster_id[:200] != me.cluster_id:
            return f"the peer belongs to cluster {hello.cluster_id[:200]!r}, this node to {me.cluster_id!r}"
        if hello.shard_count != me.shard_count:
            return f"the peer counts {hello.shard_count} shards, this node {me.shard_count}"
        if self.server.peer_name is not None and self.server.peer_name not in names:
            return f"the peer's certificate is not one of a node: it does not name {self.server.peer_name}"
        if self.server.is_stopping:
            return "the node is stopping"
        if len(self.server.connections) > self.limits.connections_max:
            return f"more than {self.limits.connections_max} connections"
        return ""

    def stop_taking(self) -> None:
        """The node stops: what has not begun will not, what has may end."""
        self.send(Goodbye("the node is stopping"))
        self._refuse_held(unavailable("the node is stopping, please retry"))

    # --- requests -------------------------------------------------------------------------------------------------------
    def _take_request(self, request: Request) -> None:
        size = len(request.payload)
        if request.id <= self._last_id:
            raise ProtocolError(f"request id {request.id} after {self._last_id}")
        if not self._credit.take(size):
            raise ProtocolError("more requests than the credit allows")
        self._last_id = request.id
        server = self.server
        server.request_bytes += size
        if server.is_stopping:
            self._refuse(request, unavailable("the node is stopping, please retry"))
        elif server.request_bytes > self.limits.total_request_bytes_in_flight_max:
            server.counts["overloaded"] += 1
            self._refuse(request, resource_exhausted("too many bytes of requests are in flight on this node, please retry"))
        else:
            deadline = self.loop.time() + min(request.timeout_ms / 1000, self.limits.call_timeout_max_s)
            if self._is_holding or self._held:
                self._held.append((request, deadline))
            else:
                self._begin(request, deadline)

    def _begin(self, request: Request, deadline: float) -> None:
        call = IncomingCall(self, request, deadline)
        self.calls[request.id] = call
        self.server.calls[call] = None

    def _take_cancel(self, call_id: int) -> None:
        if call_id > self._last_id:
            raise ProtocolError(f"cancel of request {call_id}, which never came")
        if call := self.calls.get(call_id):
            call.cancel(CANCELLED_BY_CALLER)
            return
        for held in self._held:
            if held[0].id == call_id:
                self._held.remove(held)
                self._refuse(held[0], CANCELLED_BY_CALLER)
                return
        # Otherwise the answer is on its way already.

    # --- answers ----------------------------------------------------------------------------------------------------------
    def answered(self, call: IncomingCall, call_id: int, outcome: bytes | CallerError) -> None:
        self.server.calls.pop(call, None)
        del self.calls[call_id]
        self._answer(call_id, call.size, outcome)

    def _refuse(self, request: Request, error: CallerError) -> None:
        self._answer(request.id, len(request.payload), error)

    def _refuse_held(self, error: CallerError) -> None:
        while self._held:
            self._refuse(self._held.popleft()[0], error)

    def _answer(self, call_id: int, size: int, outcome: bytes | CallerError) -> None:
        self._credit.give_back(size)
        self.server.request_bytes -= size
        if isinstance(outcome, bytes):
            if len(outcome) > self.limits.payload_bytes_max:
                most = self.limits.payload_bytes_max
                outcome = resource_exhausted(f"the answer has {len(outcome)} bytes, between nodes at most {most} may travel")
            elif self.state is not State.CLOSED and self.unsent_bytes + len(outcome) > self.limits.answer_bytes_max:
                self.server.counts["answers refused"] += 1
                outcome = resource_exhausted("the caller's node does not take its answers fast enough, please retry")
            else:
                self.server.counts["answered"] += 1
                self.send(Response(call_id, outcome))
        if isinstance(outcome, CallerError):
            self.server.counts["failed"] += 1
            self.send(as_failure(call_id, outcome, self.limits))
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self.state is State.DRAINING and not self.calls and not self._held:
            self.close("drained")

    # --- the transport's side -------------------------------------------------------------------------------------------
    def pause_writing(self) -> None:
        self._is_holding = True

    def resume_writing(self) -> None:
        self._is_holding = False
        self._begin_held()

    def _begin_held(self) -> None:
        """A few at a time, so that their answers can stop the next ones; new requests meanwhile queue behind them."""
        if self._is_holding or self._is_beginning or self.state is State.CLOSED:
            return
        for _ in range(min(self.HELD_PER_STEP, len(self._held))):
            self._begin(*self._held.popleft())
        if self._held:
            self._is_beginning = True
            self.loop.call_later(self.HELD_STEP_S, self._begin_more)

    def _begin_more(self) -> None:
        self._is_beginning = False
        self._begin_held()

    def ended(self) -> None:
        self.server.connections.pop(self, None)
        if self.end_reason != "drained" and not self.server.is_stopping:
            log.info("connection ended", peer=self.peer.node_id, reason=self.end_reason)
        for call in list(self.calls.values()):
            call.cancel(CANCELLED_BY_CALLER)
        self._refuse_held(CANCELLED_BY_CALLER)
