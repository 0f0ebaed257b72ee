"""A node's place among the others: its node-to-node port, its entry in the membership, and the peers it sees.

    open     listen -> who am I (with the address others reach) -> join, owning nothing yet
    ready    take part: the ring gives this node its share
    leaving  the ring gives its share to others
    close    leave, stop listening, end the connections

A node alone has a place too: a list of one, no port, no connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from cluster.core.errors import unavailable
from cluster.membership.members import Membership, NodeInfo, NodeState
from cluster.membership.static import StaticMembership
from cluster.routing.peers import Peers
from cluster.seams import Ids
from cluster.wire.client import WireClient
from cluster.wire.connection import Identity, Peer
from cluster.wire.limits import WireLimits
from cluster.wire.network import Network
from cluster.wire.server import Explain, WireServer, masked

# Makes the membership to join; told who this node is, since only now its port is known.
FindMembers = Callable[[NodeInfo], Awaitable[Membership]]


class Place:
    """See the module's text. `network` None: alone."""

    def __init__(self, network: Network | None, ids: Ids, limits: WireLimits | None = None, explain: Explain = masked) -> None:
        self._network, self._ids, self._limits, self._explain = network, ids, limits or WireLimits(), explain
        self._server: WireServer | None = None
        self._client: WireClient | None = None
        self._membership: Membership | None = None
        self.me: NodeInfo
        self.peers: Peers

    async def open(
        self, me: NodeInfo, listen: str, find_members: FindMembers | None, advertise: str = "", peer_name: str | None = None
    ) -> Peers:
        """me.address is filled in here. Raises OSError, InsecureListener, MembershipRefused, MembershipUnavailable."""
        if self._network is None:
            self.me = me
            self._membership = StaticMembership([me])
        else:
            assert find_members is not None, "a node with a port needs members to talk to"
            identity = Identity(me.node_id, me.cluster_id, me.shard_count)
            self._server = WireServer(self._handle, identity, self._network, self._limits, self._explain, peer_name)
            bound = await self._server.start(listen)
            self.me = msgspec.structs.replace(me, address=advertised(bound, advertise))
            self._client = WireClient(identity, self._network, self._ids, self._limits)
            self._membership = await find_members(self.me)
        self.peers = Peers(self._membership, self.me, self._client)
        await self._membership.join(self.me)
        return self.peers

    async def ready(self) -> None:
        """The ring gives this node its share. Raises MembershipUnavailable."""
        assert self._membership is not None
        await self._membership.set_state(NodeState.READY)
        self.peers.look()

    async def leaving(self) -> None:
        """Raises MembershipUnavailable; the others learn of it later then."""
        assert self._membership is not None
        await self._membership.set_state(NodeState.LEAVING)
        self.peers.look()

    async def expelled(self) -> str:
        """As Membership.expelled."""
        assert self._membership is not None
        return await self._membership.expelled()

    async def close(self) -> None:
        if hasattr(self, "peers"):
            self.peers.has_left = True
        if self._membership is not None:
            await self._membership.leave()
        if self._server is not None:
            await self._server.stop()
        if self._client is not None:
            await self._client.close()

    async def _handle(self, method: str, payload: bytes, deadline: float | None, peer: Peer) -> bytes:
        if not hasattr(self, "peers"):
            raise unavailable("this node is starting: retry")
        return await self.peers.handle(method, payload, deadline, peer)


def advertised(bound: str, advertise: str) -> str:
    """host:port for the others: as bound, or the advertised host with the bound port unless it names its own."""
    if not advertise:
        return bound
    host, _, port = advertise.rpartition(":")
    if host and port.isdigit() and (":" not in host or host.startswith("[")):
        return advertise
    return f"{advertise}:{bound.rpartition(':')[2]}"
