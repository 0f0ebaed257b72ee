"""What both sides of a connection share: frames in by the table of states, writes coalesced, signs of life, the end.

An asyncio protocol over a `Pipe`; it starts no jobs and awaits nothing. Frames sent in one turn of the loop leave as one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from cluster.wire.frames import Frame, FrameReader, Goodbye, Ping, Pong, ProtocolError, encode
from cluster.wire.limits import WireLimits
from cluster.wire.network import Pipe
from cluster.wire.states import Rules, State, next_state


class Identity(NamedTuple):
    """Who this node is: told in the handshake, and compared with what the peer says."""

    node_id: str
    cluster_id: str
    shard_count: int


class Peer(NamedTuple):
    """The other side, as the handshake and its certificate name it."""

    node_id: str
    version: int
    certificate_names: frozenset[str] = frozenset()


class Connection(asyncio.Protocol):
    """See the module's text. A subclass sets `rules`, handles its frames in `take`, and learns of the end in `ended`."""

    rules: Rules
    # A timer later than this was held up with the whole loop (a stopped process, a long collection): what the peer sent
    # meanwhile has not been read yet, and silence means nothing.
    LATE_S = 0.5
    SOON_S = 0.01  # nearer than this is now: a timer armed for what rounding left over would fire again and again

    def __init__(self, limits: WireLimits) -> None:
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.state = State.GREETING
        self.end_reason = ""
        self.bytes_received = self.bytes_sent = 0
        self._reader = FrameReader(limits.envelope_bytes_max)
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._pipe: Pipe | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._watch_due_at = 0.0
        self._heard_at = self.loop.time()
        self._asked_at: float | None = None
        self._pings = 0
        self.lost: asyncio.Future[None] = self.loop.create_future()  # done when the transport is gone

    # --- for the subclass ---------------------------------------------------------------------------------------------
    def take(self, frame: Frame) -> None:
        raise NotImplementedError

    def ended(self) -> None:
        """Called once, when the connection is over; `end_reason` says why."""
        raise NotImplementedError

    def opened(self) -> None:
        """The handshake is done: whole payloads are welcome, and silence is watched from now on."""
        self._reader.frame_bytes_max = self.limits.payload_bytes_max + self.limits.envelope_bytes_max
        self._arm(self.limits.keepalive_s, self._check_alive)

    # --- the transport's side -------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._pipe = transport  # type: ignore[assignment]  # whatever made us gives a Pipe; typeshed knows a base class only
        self.pipe.set_write_buffer_limits(high=self.limits.answer_bytes_hold)
        self._heard_at = self.loop.time()
        self._arm(self.limits.handshake_timeout_s, self._handshake_is_late)

    def data_received(self, data: bytes) -> None:
        if self.state is State.CLOSED:
            return
        self._heard_at = self.loop.time()
        self.bytes_received += len(data)
        self._reader.receive(data)
        try:
            while (frame := self._reader.next_frame()) is not None:
                self.state = next_state(self.rules, self.state, frame)
                if type(frame) is Ping:
                    self.send(Pong(frame.number))
                elif type(frame) is not Pong:
                    self.take(frame)
                if self.state is State.CLOSED:
                    return
        except ProtocolError as breach:
            self.close(f"the peer broke the protocol: {breach}")

    def connection_lost(self, failure: Exception | None) -> None:
        if not self.end_reason:
            self.end_reason = f"connection lost: {failure}" if failure else "the peer closed the connection"
        self.state = State.CLOSED
        self._disarm()
        self._out.clear()
        if not self.lost.done():
            self.lost.set_result(None)
            self.ended()

    # --- sending --------------------------------------------------------------------------------------------------------
    @property
    def pipe(self) -> Pipe:
        assert self._pipe is not None, "used before connection_made"
        return self._pipe

    @property
    def unsent_bytes(self) -> int:
        return self.pipe.get_write_buffer_size() + self._out_bytes

    def send(self, frame: Frame) -> None:
        """Frames sent after the end go nowhere: the end itself is what their callers hear of."""
        if self.state is State.CLOSED:
            return
        if not self._out:
            self.loop.call_soon(self._flush)
        encoded = encode(frame)
        self._out_bytes += len(encoded)
        self._out.append(encoded)

    def _flush(self) -> None:
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._out_bytes = 0
            self.bytes_sent += len(data)
            self.pipe.write(data)

    # --- ending ---------------------------------------------------------------------------------------------------------
    def close(self, reason: str, farewell: Frame | None = None) -> None:
        """Sends what is queued, and the reason, then ends; by force if the peer does not take it in time."""
        if self.state is State.CLOSED:
            return
        self.end_reason = self.end_reason or reason
        self.send(farewell or Goodbye(reason[: self.limits.message_chars_max].encode("utf-8", "replace").decode()))
        self._flush()
        self.state = State.CLOSED
        self._arm(self.limits.close_timeout_s, self.pipe.abort)
        self.pipe.close()

    def abort(self, reason: str) -> None:
        """Ends at once: nobody is listening any more."""
        self.end_reason = self.end_reason or reason
        self.state = State.CLOSED
        self._disarm()
        if self._pipe is not None:
            self._pipe.abort()

    # --- signs of life --------------------------------------------------------------------------------------------------
    def _arm(self, delay_s: float, what: Callable[[], Any]) -> None:
        self._disarm()
        self._watch_due_at = self.loop.time() + delay_s
        self._watch = self.loop.call_at(self._watch_due_at, what)

    def _disarm(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _handshake_is_late(self) -> None:
        self.abort(f"no handshake within {self.limits.handshake_timeout_s:g} s")

    def _check_alive(self) -> None:
        now = self.loop.time()
        was_late = now - self._watch_due_at > self.LATE_S
        silent_s = now - self._heard_at
        if self._asked_at is not None and self._heard_at < self._asked_at and not was_late:
            self.abort(f"the peer gave no sign of life for {silent_s:.1f} s")
        elif silent_s > self.limits.keepalive_s - self.SOON_S:
            self._pings += 1
            self._asked_at = now
            self.send(Ping(self._pings))
            self._arm(self.limits.keepalive_timeout_s, self._check_alive)
        else:
            self._asked_at = None
            self._arm(self.limits.keepalive_s - silent_s, self._check_alive)
