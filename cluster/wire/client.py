"""The calling side of node to node: one connection per peer, made when needed, with backoff after failures.

`call` fails at once while a peer is in its backoff: whoever calls has a ring to ask for another node, and a deadline to keep.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import structlog

from cluster.core.errors import resource_exhausted
from cluster.seams import Ids
from cluster.wire.client_connection import ClientConnection
from cluster.wire.connection import Identity, Peer
from cluster.wire.errors import Unreachable, deadline_exceeded
from cluster.wire.limits import WireLimits
from cluster.wire.network import Network

log = structlog.get_logger("outlast.wire")


class _Link:
    """What is known of one address: its connection, or the attempt to make one, or when the next may be made."""

    __slots__ = ("address", "attempt", "connection", "failures", "reason", "retry_at", "waiting_count")

    def __init__(self, address: str) -> None:
        self.address = address
        self.connection: ClientConnection | None = None
        self.attempt: asyncio.Task[None] | None = None
        self.failures = 0
        self.reason = ""
        self.retry_at = 0.0
        self.waiting_count = 0

    def connected(self) -> ClientConnection | None:
        """Its connection now; a method, because it changes while a caller waits."""
        return self.connection


class WireClient:
    """See the module's text. One per node; all of it in one event loop."""

    def __init__(self, me: Identity, network: Network, ids: Ids, limits: WireLimits | None = None) -> None:
        self.limits = limits or WireLimits()
        self.counts: Counter[str] = Counter()
        self._me, self._network, self._ids = me, network, ids
        self._links: dict[str, _Link] = {}
        self._draining: dict[ClientConnection, None] = {}  # replaced, but calls are still under way on them
        self._is_closed = False
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def call(
        self, address: str, method: str, payload: bytes, deadline: float | None = None, *, is_long_poll: bool = False
    ) -> bytes:
        """The peer's answer. deadline: loop.time() seconds; None = `call_timeout_s` from now.

        is_long_poll: the call may wait for something that another call brings; such calls cannot take all the credit.
        Raises CallerError: what the handler there raised; Unreachable (not sent); ConnectionLost (may have been executed);
        DEADLINE_EXCEEDED; RESOURCE_EXHAUSTED (too large, or no credit until the deadline).
        """
        link = self._links.get(address)
        if link is None or link.connection is None or not link.connection.is_usable:
            connection = await self._connected(address, method, deadline)
        else:
            connection = link.connection
        return await connection.call(method, payload, deadline, is_long_poll)

    def peer(self, address: str) -> Peer | None:
        """Who answers at this address; None while there is no connection."""
        link = self._links.get(address)
        connection = link.connection if link else None
        return connection.peer if connection is not None and connection.is_usable else None

    def disconnect(self, address: str) -> None:
        """The node at this address has left: no new call goes there, those under way may end."""
        if link := self._links.pop(address, None):
            if link.attempt is not None:
                link.attempt.cancel()
            self._retire(link)

    async def close(self) -> None:
        """Ends every connection; calls under way get UNAVAILABLE."""
        self._is_closed = True
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        links, self._links = list(self._links.values()), {}
        attempts = [link.attempt for link in links if link.attempt is not None]
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)
        current = [link.connection for link in links if link.connection is not None]
        ending = [*dict.fromkeys([*current, *self._draining])]
        for connection in ending:
            connection.close("this node is stopping")
        if ending:
            await asyncio.wait([connection.lost for connection in ending])  # bounded by close_timeout_s

    # --- connecting -----------------------------------------------------------------------------------------------------
    async def _connected(self, address: str, method: str, deadline: float | None) -> ClientConnection:
        """A usable connection. Calls that come meanwhile share the attempt."""
        if self._is_closed:
            raise Unreachable("this node is stopping")
        loop = asyncio.get_running_loop()
        now = loop.time()
        link = self._link(address, now)
        attempt = link.attempt
        if attempt is None:
            self._retire(link)
            if now < link.retry_at:
                raise Unreachable(f"{address} is not reachable, next attempt in {link.retry_at - now:.2f} s: {link.reason}")
            attempt = link.attempt = loop.create_task(self._connect(link), name=f"connect {address}")
        if link.waiting_count >= self.limits.connect_waiters_max:
            raise resource_exhausted(f"too many calls wait for a connection to {address}, please retry")
        left_s = self.limits.call_timeout_s if deadline is None else deadline - now
        link.waiting_count += 1
        try:
            await asyncio.wait([attempt], timeout=max(0.0, left_s))
        finally:
            link.waiting_count -= 1
        if not attempt.done():
            raise deadline_exceeded(f"{method} (connecting to {address})")
        if (connection := link.connected()) is not None and connection.is_usable:
            return connection
        reason = link.reason or (connection.end_reason if connection else "") or "disconnected meanwhile"
        raise Unreachable(f"{address} is not reachable: {reason}")

    async def _connect(self, link: _Link) -> None:
        """One attempt. Its outcome is in the link: a connection, or the reason."""
        loop = asyncio.get_running_loop()
        made: list[ClientConnection] = []

        def factory() -> ClientConnection:
            made.append(ClientConnection(self._me, link.address, self.limits))
            return made[-1]

        try:
            async with asyncio.timeout(self.limits.connect_timeout_s):
                connection = await self._network.connect(link.address, factory)
                refusal = await connection.welcomed
            if refusal is None:
                self.counts["connected"] += 1
                link.connection, link.reason = connection, ""
                connection.lost.add_done_callback(lambda _: self._lost(link, connection, began_at))
                began_at = loop.time()
                self._sweep_later(loop)
                return
            link.reason = refusal
        except TimeoutError:
            link.reason = f"no connection and handshake within {self.limits.connect_timeout_s:g} s"
        except (OSError, ValueError) as failure:
            link.reason = f"{type(failure).__name__}: {failure}"
        finally:
            link.attempt = None
            for each in made:
                if each is not link.connection:
                    each.abort("the attempt to connect failed")
        self._back_off(link)

    def _back_off(self, link: _Link) -> None:
        """Doubles from backoff_min_s to backoff_max_s; half of it is jitter, so that nodes do not come back all at once."""
        delay_s = min(self.limits.backoff_max_s, self.limits.backoff_min_s * 2 ** min(link.failures, 20))
        link.failures += 1
        link.retry_at = asyncio.get_running_loop().time() + delay_s * (0.5 + 0.5 * self._ids.jitter())
        self.counts["connect failed"] += 1
        log.warning("peer not reachable", address=link.address, failures=link.failures, reason=link.reason)

    def _lost(self, link: _Link, connection: ClientConnection, began_at: float) -> None:
        self._draining.pop(connection, None)
        if link.connection is not connection or self._is_closed:
            return
        link.connection, link.reason = None, connection.end_reason
        lived_s = asyncio.get_running_loop().time() - began_at
        if lived_s >= self.limits.backoff_max_s:
            link.failures = 0  # a connection that held is no flapping peer: the first reconnect is made at once
            link.retry_at = 0.0
        else:
            self._back_off(link)

    def _link(self, address: str, now: float) -> _Link:
        link = self._links.get(address)
        if link is None:
            if len(self._links) >= self.limits.peers_max:
                self._forget_unused(now)
            if len(self._links) >= self.limits.peers_max:
                raise resource_exhausted(f"connections to more than {self.limits.peers_max} nodes")
            link = self._links[address] = _Link(address)
        return link

    def _retire(self, link: _Link) -> None:
        """Its connection takes no new calls: it ends by itself when its last call does."""
        connection, link.connection = link.connection, None
        if connection is not None and not connection.lost.done():
            self._draining[connection] = None
            connection.retire()

    # --- idle connections -----------------------------------------------------------------------------------------------
    def _sweep_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._sweep_timer is None and not self._is_closed:
            self._sweep_timer = loop.call_later(self.limits.idle_s / 4, self._sweep)

    def _sweep(self) -> None:
        self._sweep_timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for link in self._links.values():
            if link.connection is not None and now - link.connection.used_at >= self.limits.idle_s:
                link.connection.close_if_idle("idle")
        self._forget_unused(now)
        if self._links:
            self._sweep_later(loop)

    def _forget_unused(self, now: float) -> None:
        for address, link in list(self._links.items()):
            if link.connection is None and link.attempt is None and now >= link.retry_at:
                del self._links[address]
