"""The calling side of one connection: the handshake, calls in flight by id, credit, what is left when it breaks."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import suppress
from typing import Any

from cluster.core.errors import CallerError, Code, resource_exhausted
from cluster.wire.connection import Connection, Identity, Peer
from cluster.wire.credit import Credit
from cluster.wire.errors import ConnectionLost, Unreachable, deadline_exceeded, from_failure
from cluster.wire.frames import (
    MAGIC,
    VERSION_MAX,
    VERSION_MIN,
    Cancel,
    Failure,
    Frame,
    Goodbye,
    Hello,
    Refused,
    Request,
    Response,
    Welcome,
)
from cluster.wire.limits import WireLimits
from cluster.wire.network import certificate_names
from cluster.wire.states import CLIENT, State


class OutgoingCall:
    """A request in flight. When its caller has left, it stays until the server's answer gives its credit back."""

    __slots__ = ("answer", "connection", "id", "is_long_poll", "method", "size")

    def __init__(self, connection: ClientConnection, call_id: int, method: str, size: int, is_long_poll: bool) -> None:
        self.connection, self.id, self.method, self.size, self.is_long_poll = connection, call_id, method, size, is_long_poll
        self.answer: asyncio.Future[bytes] = connection.loop.create_future()

    def expire(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(deadline_exceeded(self.method))
            self.connection.send(Cancel(self.id))


class ClientConnection(Connection):
    """See the module's text. `welcomed` is done with None when calls may begin, or with the reason why they never will."""

    rules = CLIENT

    def __init__(self, me: Identity, address: str, limits: WireLimits) -> None:
        super().__init__(limits)
        self.address = address
        self.peer = Peer("", 0)
        self.welcomed: asyncio.Future[str | None] = self.loop.create_future()
        self.used_at = self.loop.time()
        self._me = me
        self._calls: dict[int, OutgoingCall] = {}
        self._last_id = 0
        self._credit = Credit(0, 0)
        self._payload_bytes_max = 0
        self._is_retired = False
        # Calls that wait for credit, in their order: (size, future). Long polls queue apart, so that they hold nobody up.
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._waiting_polls: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def is_usable(self) -> bool:
        """New calls may begin."""
        return self.state is State.OPEN and not self._is_retired

    @property
    def in_flight(self) -> int:
        return len(self._calls)

    # --- the handshake --------------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.send(Hello(MAGIC, VERSION_MIN, VERSION_MAX, *self._me))

    def take(self, frame: Frame) -> None:
        if type(frame) is Response:
            if (call := self._settled(frame.id)) is not None:
                call.answer.set_result(frame.payload)
        elif type(frame) is Failure:
            if (call := self._settled(frame.id)) is not None:
                call.answer.set_exception(from_failure(frame))
        elif isinstance(frame, Welcome):
            self._enter(frame)
        elif isinstance(frame, Refused):
            self.abort(f"{self.address} refuses this node: {frame.reason}")
        elif isinstance(frame, Goodbye):
            if self.state is State.CLOSED:
                self.abort(f"{self.address} ended the handshake: {frame.reason}")
            self._refuse_waiting(f"{self.address}: {frame.reason}")
            self.close_if_idle("the peer said goodbye")

    def _enter(self, welcome: Welcome) -> None:
        me = self._me
        if not VERSION_MIN <= welcome.version <= VERSION_MAX:
            wrong = f"it chose protocol version {welcome.version}, this node speaks {VERSION_MIN} to {VERSION_MAX}"
        elif (welcome.cluster_id, welcome.shard_count) != (me.cluster_id, me.shard_count):
            wrong = f"it serves cluster {welcome.cluster_id[:200]!r} with {welcome.shard_count} shards, not {me.cluster_id!r}"
            wrong += f" with {me.shard_count}"
        else:
            self.peer = Peer(welcome.node_id, welcome.version, certificate_names(self.pipe.get_extra_info("peercert")))
            self._payload_bytes_max = min(
                welcome.payload_bytes_max, welcome.request_bytes_max, self.limits.payload_bytes_max
            )
            requests_max = min(welcome.requests_max, self.limits.requests_in_flight_max)
            # The share of long polls holds for a server that grants less than we are set to, too.
            share = self.limits.long_polls_in_flight_max / self.limits.requests_in_flight_max
            self._credit = Credit(requests_max, welcome.request_bytes_max, max(1, int(requests_max * share)))
            self.opened()
            self.welcomed.set_result(None)
            return
        self.close(f"{self.address} is not of this cluster: {wrong}")

    # --- calls ----------------------------------------------------------------------------------------------------------
    async def call(self, method: str, payload: bytes, deadline: float | None, is_long_poll: bool) -> bytes:
        """Raises CallerError: the peer's own, or one of this module's imports from errors.py."""
        now = self.loop.time()
        self.used_at = now
        if deadline is None:
            deadline = now + self.limits.call_timeout_s
        deadline = min(deadline, now + self.limits.call_timeout_max_s)
        size = len(payload)
        if size > self._payload_bytes_max:
            most = self._payload_bytes_max
            raise resource_exhausted(f"{method}: {size} bytes are too many, between nodes at most {most} may travel")
        if len(method) > self.limits.method_chars_max:
            raise CallerError(Code.INVALID_ARGUMENT, f"a method name of {len(method)} characters")
        waiting = self._waiting_polls if is_long_poll else self._waiting
        if waiting or not self._credit.take(size, is_long_poll):
            await self._credit_granted(waiting, size, method, deadline)
            now = self.loop.time()
            if not self.is_usable:  # it ended between the grant and this line
                self._give_back(size, is_long_poll)
                raise Unreachable(f"{self.address}: {self.end_reason or 'the peer said goodbye'}")
        left_s = deadline - now
        if left_s <= 0:
            self._give_back(size, is_long_poll)
            raise deadline_exceeded(method)
        self._last_id += 1
        call = OutgoingCall(self, self._last_id, method, size, is_long_poll)
        self._calls[call.id] = call
        self.send(Request(call.id, method, math.ceil(left_s * 1000), payload))
        timer = self.loop.call_at(deadline, call.expire)
        try:
            return await call.answer
        except asyncio.CancelledError:
            if call.answer.cancelled():  # otherwise the answer came in the same moment
                self.send(Cancel(call.id))
            raise
        finally:
            timer.cancel()

    def _settled(self, call_id: int) -> OutgoingCall | None:
        """Every request has one answer, which gives its credit back; None if nobody waits for it any more."""
        call = self._calls.pop(call_id, None)
        if call is None:
            self.close(f"{self.address} answered call {call_id}, which is not in flight")
            return None
        self._give_back(call.size, call.is_long_poll)
        if not self.is_usable:
            self.close_if_idle("its last call has ended")
        return None if call.answer.done() else call

    # --- credit ---------------------------------------------------------------------------------------------------------
    async def _credit_granted(
        self, waiting: deque[tuple[int, asyncio.Future[None]]], size: int, method: str, deadline: float
    ) -> None:
        """Returns with the credit taken. Waits in turn, until the deadline at the latest."""
        if len(self._waiting) + len(self._waiting_polls) >= self.limits.requests_waiting_max:
            raise resource_exhausted(f"{self.address}: too many calls wait for their turn, please retry")
        turn: asyncio.Future[None] = self.loop.create_future()
        entry = (size, turn)
        waiting.append(entry)
        late = resource_exhausted(f"{self.address} has no room for {method} within its deadline, please retry")
        timer = self.loop.call_at(deadline, _fail, turn, late)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give_back(size, waiting is self._waiting_polls)  # granted in the moment of the cancellation
            else:
                with suppress(ValueError):  # not there any more if the connection's end has emptied the queue
                    waiting.remove(entry)
                self._admit()  # a smaller call behind this one may fit now
            raise
        finally:
            timer.cancel()

    def _give_back(self, size: int, is_long_poll: bool) -> None:
        self._credit.give_back(size, is_long_poll)
        if self._waiting or self._waiting_polls:
            self._admit()

    def _admit(self) -> None:
        """First come, first served within each queue; short calls before long polls."""
        for queue, is_long_poll in ((self._waiting, False), (self._waiting_polls, True)):
            while queue and (queue[0][1].done() or self._credit.take(queue[0][0], is_long_poll)):
                _, turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)

    def _refuse_waiting(self, reason: str) -> None:
        for queue in (self._waiting, self._waiting_polls):
            for _, turn in queue:
                _fail(turn, Unreachable(reason))
            queue.clear()

    # --- the end --------------------------------------------------------------------------------------------------------
    def retire(self) -> None:
        """No new calls; it ends when the last of those under way does."""
        self._is_retired = True
        self.close_if_idle("replaced")

    def close_if_idle(self, reason: str) -> None:
        if not self._calls and not self._waiting and not self._waiting_polls:
            self.close(reason)

    def ended(self) -> None:
        reason = self.end_reason
        if not self.welcomed.done():
            self.welcomed.set_result(reason)
        self._refuse_waiting(f"{self.address}: {reason}")
        calls, self._calls = self._calls, {}
        for call in calls.values():
            _fail(call.answer, ConnectionLost(f"{self.address}: {reason}; {call.method} may have been executed"))


def _fail(waiting: asyncio.Future[Any], error: CallerError) -> None:
    if not waiting.done():
        waiting.set_exception(error)
