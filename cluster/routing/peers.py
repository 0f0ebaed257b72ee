"""The other nodes of this region as the parts of one node see them: the ring, calls out, calls in.

The ring changes only with a fresh view: while the registry is silent everybody stays where they are. A ring is an opinion; what
it says of shards is made true by their moving (shard_moves.py) and fenced by the store.

    peers.ring.owner_of_shard(7)      who should have it now
    await peers.call(node, ...)       one framed call; never to this node itself
    peers.serve(method, handler)      what other nodes may ask of this one
    peers.on_ring(callback)           callback(before, after), in a turn of the loop of its own
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from cluster.core.errors import unavailable, unimplemented
from cluster.membership.members import Membership, NodeInfo, View
from cluster.membership.ring import Ring
from cluster.wire.client import WireClient
from cluster.wire.connection import Peer

log = structlog.get_logger("outlast.routing")

# payload, deadline (loop.time() seconds) -> payload. Raises CallerError.
PeerMethod = Callable[[bytes, float | None], Awaitable[bytes]]
OnRing = Callable[[Ring, Ring], None]


class Peers:
    """See the module's text. One per node. `client` None: there are no others, and never will be."""

    def __init__(self, membership: Membership, me: NodeInfo, client: WireClient | None) -> None:
        self.me = me.node_id
        self.membership = membership
        self.ring = Ring((), me.shard_count)
        self._client = client
        self._methods: dict[str, PeerMethod] = {}
        self._listeners: list[OnRing] = []
        self.has_left = False
        self.is_serving = False  # every method is there: what is not known from now on will never be
        membership.on_change(self._on_view)

    # --- the ring -------------------------------------------------------------------------------------------------------
    def look(self) -> None:
        """Takes the view there is now; called once after joining, so that nothing waits for the first change."""
        self._on_view(self.membership.members())

    def on_ring(self, callback: OnRing) -> None:
        self._listeners.append(callback)

    def is_me(self, node: NodeInfo | None) -> bool:
        return node is not None and node.node_id == self.me

    @property
    def has_heirs(self) -> bool:
        """Another node is ready: it would take over what this one leaves."""
        return any(node_id != self.me for node_id in self.ring.nodes)

    @property
    def has_others(self) -> bool:
        """There may be other nodes now or later."""
        return self._client is not None

    def others(self) -> list[NodeInfo]:
        """Every other member whatever its state, for news that concerns all."""
        return [node for node in self.membership.members().nodes if node.node_id != self.me]

    def _on_view(self, view: View) -> None:
        if view.is_stale:
            if not self.has_left:
                log.warning("the membership registry is silent: nobody moves")
            return
        before, after = self.ring, Ring(view.nodes, self.ring.shard_count)
        if self._client is not None:
            addresses = {node.address for node in view.nodes}
            for gone in {node.address for node in before.nodes.values()} - addresses:
                self._client.disconnect(gone)
        if before.nodes == after.nodes:
            return
        self.ring = after
        log.info("ring", nodes=sorted(after.nodes), mine=len(after.shards_of(self.me)))
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.call_soon(listener, before, after)

    # --- calls out ------------------------------------------------------------------------------------------------------
    async def call(
        self, node: NodeInfo, method: str, payload: bytes, deadline: float | None = None, *, is_long_poll: bool = False
    ) -> bytes:
        """As WireClient.call. deadline: loop.time() seconds."""
        assert node.node_id != self.me, "a call for this node stays in the process"
        assert self._client is not None, "a node that is alone has nobody to call"
        return await self._client.call(node.address, method, payload, deadline, is_long_poll=is_long_poll)

    # --- calls in -------------------------------------------------------------------------------------------------------
    def serve(self, method: str, handler: PeerMethod) -> None:
        assert method not in self._methods, f"{method} is served twice"
        self._methods[method] = handler

    async def handle(self, method: str, payload: bytes, deadline: float | None, peer: Peer) -> bytes:
        """The WireServer's handler."""
        handler = self._methods.get(method)
        if handler is None and not self.is_serving:
            raise unavailable(f"node {self.me} is starting: retry")
        if handler is None:
            raise unimplemented(f"node {self.me} does not know the internal call {method}: is it of an older version?")
        return await handler(payload, deadline)
