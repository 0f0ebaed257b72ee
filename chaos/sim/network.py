"""The network between the nodes of a simulated world: `cluster.wire.network.Network` on virtual time.

    Fabric        all machines and the ways between them; what goes wrong is done here
    NodeNetwork   the fabric as one node sees it: connect, listen
    End           one side of a connection: the Pipe of the protocol there

As TCP: bytes of one connection stay in order and whole, different connections race. A cut way carries nothing; what was under
way waits and arrives after the healing, or the connection is reset then. Of a process that dies the kernel tells its peers, of a
machine that dies nobody does until somebody writes to its next life. Callbacks run as the node's own: a paused node hears later,
a dead one never.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import Counter, deque
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

from chaos.sim.faults import FaultPlan
from chaos.sim.loop import running_loop
from chaos.sim.rand import Streams
from cluster.wire.network import Listener

P = TypeVar("P", bound=asyncio.Protocol)
STALL_S_MAX = 8.0
SLOW_BYTES_PER_S = 20_000


class LinkFault(StrEnum):
    """What befalls one connection."""

    CONNECT_REFUSED = "connect_refused"
    RESET_MID_FRAME = "reset_mid_frame"  # a part of what was written arrives, then the connection breaks on both sides
    GOES_SILENT = "goes_silent"  # half open: from now on nothing arrives either way, and nobody is told
    STALLS = "stalls"  # this direction stands still for seconds


class Way:
    """From one machine to another."""

    def __init__(self, delays: random.Random, delay_s_max: float) -> None:
        self.delays = delays
        self.delay_s_max = delay_s_max
        self.bytes_per_s: int | None = None
        self.is_cut = False

    def delay_s(self) -> float:
        return self.delays.uniform(0, self.delay_s_max)


class Fabric:
    """See the module's text. Machines are named by the hosts of their addresses."""

    def __init__(self, streams: Streams, plan: FaultPlan, delay_s_max: float) -> None:
        self.plan = plan
        self.counts: Counter[str] = Counter()
        self._streams = streams
        self._delay_s_max = delay_s_max
        self._ways: dict[tuple[str, str], Way] = {}
        self._listeners: dict[str, SimListener] = {}
        self._down: set[str] = set()  # machines without power: they answer nothing at all
        self._ends: list[End] = []
        self._changed: list[asyncio.Future[None]] = []
        self.world = contextvars.copy_context()  # made by the world: arrivals are nobody's own

    def node(self, host: str) -> NodeNetwork:
        return NodeNetwork(self, host)

    def way(self, source: str, target: str) -> Way:
        way = self._ways.get((source, target))
        if way is None:
            way = self._ways[source, target] = Way(self._streams(f"way {source} {target}"), self._delay_s_max)
        return way

    # --- trouble --------------------------------------------------------------------------------------------------------
    def cut(self, source: str, target: str, is_one_way: bool) -> None:
        running_loop().trace("cut", source=source, target=target, one_way=is_one_way)
        self.way(source, target).is_cut = True
        if not is_one_way:
            self.way(target, source).is_cut = True

    def slow(self, source: str, target: str, bytes_per_s: int | None) -> None:
        running_loop().trace("slow link", source=source, target=target, bytes_per_s=bytes_per_s)
        self.way(source, target).bytes_per_s = bytes_per_s

    def heal(self, source: str, target: str, resets: bool = False) -> None:
        """Both ways. resets: what was connected across the cut is found to be broken."""
        running_loop().trace("heal link", source=source, target=target, resets=resets)
        for pair in ((source, target), (target, source)):
            way = self.way(*pair)
            way.is_cut, way.bytes_per_s = False, None
        for end in [end for end in self._ends if {end.host, end.peer.host} == {source, target}]:
            if resets:
                end.reset("the connection was reset after a cut")
            else:
                end.deliver_later()
        self._tell_changed()

    def heal_all(self) -> None:
        for source, target in sorted({(min(pair), max(pair)) for pair in self._ways}):
            self.heal(source, target)

    def died(self, host: str, is_machine: bool) -> None:
        """The process there is gone, or the whole machine: then nobody is told."""
        self._listeners.pop(host, None)
        if is_machine:
            self._down.add(host)
        for end in [end for end in self._ends if end.host == host]:
            end.owner_died(tells_peer=not is_machine)

    def began(self, host: str) -> None:
        self._down.discard(host)
        self._tell_changed()

    def is_down(self, host: str) -> bool:
        return host in self._down

    # --- for the parts of this file ---------------------------------------------------------------------------------------
    def _tell_changed(self) -> None:
        waiting, self._changed = self._changed, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    async def _passage(self, source: str, target: str) -> None:
        """Returns when a packet can go there and back; for ever away, if the machine is."""
        while self._down & {target} or self.way(source, target).is_cut or self.way(target, source).is_cut:
            changed: asyncio.Future[None] = running_loop().create_future()
            self._changed.append(changed)
            await changed

    async def connect(self, source: str, address: str, factory: Callable[[], P]) -> P:
        target = address.rpartition(":")[0]
        fault = self.plan.draw(frozenset({LinkFault.CONNECT_REFUSED}))
        await self._passage(source, target)
        await asyncio.sleep(self.way(source, target).delay_s())
        listener = self._listeners.get(target)
        if fault is not None or listener is None or listener.address != address:
            await asyncio.sleep(self.way(target, source).delay_s())
            raise ConnectionRefusedError(f"{address} refuses the connection")
        near, far = End(self, source, contextvars.copy_context()), End(self, target, listener.context)
        near.peer, far.peer = far, near
        self._ends = [*(end for end in self._ends if not end.is_past), near, far]
        running_loop().call_soon(far.accept, listener.factory, context=far.context)
        try:
            await asyncio.sleep(self.way(target, source).delay_s())
            protocol = factory()
            near.accept(lambda: protocol)
        except BaseException:
            near.abort()
            raise
        self.counts["connected"] += 1
        return protocol

    def listen(self, host: str, address: str, factory: Callable[[], asyncio.Protocol]) -> SimListener:
        if host in self._listeners:
            raise OSError(f"{address} is in use")
        self.began(host)
        listener = self._listeners[host] = SimListener(self, host, address, factory)
        return listener

    def unlisten(self, listener: SimListener) -> None:
        if self._listeners.get(listener.host) is listener:
            del self._listeners[listener.host]


class SimListener:
    def __init__(self, fabric: Fabric, host: str, address: str, factory: Callable[[], asyncio.Protocol]) -> None:
        self.host, self.address, self.factory = host, address, factory
        self.context = contextvars.copy_context()
        self._fabric = fabric

    def close(self) -> None:
        self._fabric.unlisten(self)


class NodeNetwork:
    """What one node's wire is given."""

    def __init__(self, fabric: Fabric, host: str) -> None:
        self._fabric, self._host = fabric, host

    async def connect(self, address: str, factory: Callable[[], P]) -> P:
        return await self._fabric.connect(self._host, address, factory)

    async def listen(self, address: str, factory: Callable[[], asyncio.Protocol]) -> Listener:
        return self._fabric.listen(self._host, address, factory)


FIN, RST = object(), object()


class End(asyncio.Transport):
    """One side of a connection; `_sent` is what has been written here and has not arrived there."""

    peer: End

    def __init__(self, fabric: Fabric, host: str, context: contextvars.Context) -> None:
        super().__init__()
        self.host, self.context = host, context
        self._fabric = fabric
        self._protocol: asyncio.Protocol | None = None
        self._sent: deque[tuple[int, object]] = deque()  # (when it arrives, bytes or FIN or RST)
        self._sent_bytes = 0
        self._high, self._low = 64 * 1024, 16 * 1024
        self._is_pausing = False  # the protocol was told to write no more
        self._is_closing = False  # by this side; whatever arrives is answered by a reset
        self._is_over = False  # connection_lost was called, or never will be
        self._is_silent = False
        self._not_before_ns = 0

    def accept(self, factory: Callable[[], asyncio.Protocol]) -> None:
        if self._is_over:
            return
        self._protocol = factory()
        self._protocol.connection_made(self)

    # --- Pipe -------------------------------------------------------------------------------------------------------------
    def write(self, data: Any) -> None:
        if self._is_closing or self._is_over or not data:
            return
        fault = self._fabric.plan.draw(frozenset({*LinkFault}) - {LinkFault.CONNECT_REFUSED})
        if fault is not None:
            running_loop().trace("link fault", source=self.host, target=self.peer.host, fault=fault)
        if fault == LinkFault.RESET_MID_FRAME:
            self._send(bytes(data[: self._way.delays.randrange(len(data))]))
            self._send(RST)
            self._lose(ConnectionResetError("injected: connection reset"))
            return
        if fault == LinkFault.GOES_SILENT:
            self._is_silent = self.peer._is_silent = True
        elif fault == LinkFault.STALLS:
            self._not_before_ns = running_loop().now_ns() + round(self._way.delays.uniform(0, STALL_S_MAX) * 1e9)
        if len(data) > 1 and self._way.delays.random() < 0.2:  # the reader must put frames together again
            cut = self._way.delays.randrange(1, len(data))
            self._send(bytes(data[:cut]))
            data = data[cut:]
        self._send(bytes(data))
        if self._sent_bytes > self._high and not self._is_pausing and self._protocol is not None:
            self._is_pausing = True
            self._protocol.pause_writing()

    def close(self) -> None:
        if not self._is_closing and not self._is_over:
            self._send(FIN)
            self._lose(None)

    def abort(self) -> None:
        if not self._is_over:
            self._drop_sent()
            self._send(RST)
            self._lose(None)

    def is_closing(self) -> bool:
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        return self._sent_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    # --- what happens to it -------------------------------------------------------------------------------------------------
    def reset(self, reason: str) -> None:
        """Broken in the middle: this side is told now, what it had sent is lost."""
        self._drop_sent()
        self._lose(ConnectionResetError(reason))

    def owner_died(self, tells_peer: bool) -> None:
        self._is_over = self._is_closing = True
        if tells_peer:
            self._send(RST)
        else:
            self._drop_sent()

    @property
    def is_past(self) -> bool:
        return self._is_over and not self._sent

    def _drop_sent(self) -> None:
        self._sent.clear()
        self._sent_bytes = 0

    def _lose(self, reason: Exception | None) -> None:
        if self._is_over:
            return
        self._is_closing = self._is_over = True
        if self._protocol is not None:
            running_loop().call_soon(self._protocol.connection_lost, reason, context=self.context)

    # --- bytes under way ------------------------------------------------------------------------------------------------------
    @property
    def _way(self) -> Way:
        return self._fabric.way(self.host, self.peer.host)

    def _send(self, what: object) -> None:
        """In order: it arrives after all that was sent before."""
        way, now_ns = self._way, running_loop().now_ns()
        size = len(what) if isinstance(what, bytes) else 0
        if isinstance(what, bytes) and not what:
            return
        took_s = size / way.bytes_per_s if way.bytes_per_s else 0.0
        earliest_ns = max(now_ns, self._not_before_ns, self._sent[-1][0] if self._sent else 0)
        self._sent.append((earliest_ns + round((took_s + way.delay_s()) * 1e9), what))
        self._sent_bytes += size
        if len(self._sent) == 1:
            self.deliver_later()

    def deliver_later(self) -> None:
        if self._sent:
            at_ns = max(self._sent[0][0], running_loop().now_ns())
            running_loop().call_at_ns(at_ns, self._deliver, context=self._fabric.world)

    def _deliver(self) -> None:
        """One thing arrives, unless the way is cut: then a packet that says something once is lost, and bytes wait."""
        loop = running_loop()
        if not self._sent or self._sent[0][0] > loop.now_ns():
            return
        if self._way.is_cut or self._is_silent:
            if self._sent[0][1] is RST:
                self._sent.popleft()
            return
        _, what = self._sent.popleft()
        if isinstance(what, bytes):
            self._sent_bytes -= len(what)
        if self._fabric.is_down(self.peer.host):
            return  # into the void
        if self._is_pausing and self._sent_bytes <= self._low and not self._is_over:
            self._is_pausing = False
            loop.call_soon(self._resume, context=self.context)
        loop.call_soon(self.peer._arrived, what, context=self.peer.context)
        if self.peer._is_over and isinstance(what, bytes):
            self.peer._send(RST)  # nobody listens there any more
        self.deliver_later()

    def _resume(self) -> None:
        if self._protocol is not None and not self._is_over:
            self._protocol.resume_writing()

    def _arrived(self, what: object) -> None:
        if self._is_over or self._protocol is None:
            return
        if what is RST:
            self._lose(ConnectionResetError("connection reset by peer"))
        elif what is FIN:
            if not self._protocol.eof_received():
                self.close()
        else:
            assert isinstance(what, bytes)
            self._protocol.data_received(what)
