"""What a node needs to live with other regions, put together from its other parts; a piece of assembly.py.

    connect   senders and receivers over this node's shards, the port, records, keys, activation
    start     feeds, links, and the jobs that look after them
    control   failovers, verification, admin calls (region_control.py)
    news      a record or a linked region has changed: everybody here who must know
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.frontend.forwarding import Forwarding, regions_of_namespace
from cluster.history.activation import Activation
from cluster.history.service import HistoryService
from cluster.history.write_modes import WriteModes
from cluster.namespaces.record import DELETED
from cluster.namespaces.registry import NamespaceRegistry
from cluster.region_control import RegionControl
from cluster.routing.history import RoutedHistory
from cluster.routing.news import News
from cluster.routing.peers import Peers
from cluster.routing.replicas import RoutedReplicas
from cluster.seams import Clock, Ids, Spawn
from cluster.stores.base import Store
from cluster.tokens import Tokens
from replication.control import FailoverSettings
from replication.figures import RegionFigures
from replication.link import MakeRegions
from replication.newcomers import Newcomers
from replication.port import RegionPort
from replication.receiver import Share
from replication.records import Records
from replication.region import Region
from replication.token_keys import KeyExchange
from replication.witness import Witness

KEYS_TOPIC = "token keys"


class RegionParts:
    """One node's."""

    def __init__(
        self,
        make_regions: MakeRegions,
        store: Store,
        clock: Clock,
        ids: Ids,
        spawn: Spawn,
        tokens: Tokens,
        namespaces: NamespaceRegistry,
        history: HistoryService,
        routed: RoutedHistory,
        peers: Peers,
        news: News,
        failover: FailoverSettings,
        witness: Witness | None,
    ) -> None:
        self._namespaces, self._spawn = namespaces, spawn
        here = namespaces.clusters.own.name
        self.remote = make_regions(self._address_of)
        self.region = Region(history, store, clock, spawn, self._has, None, self._share_of, self._shared_with)
        routed_replicas = RoutedReplicas(routed, peers, history.shard_number, self.region.apply)
        self.region.take_in = routed_replicas.take_in
        self.port = RegionPort(namespaces.clusters, self.remote, self.region, spawn, ids)

        def is_leader() -> bool:
            return peers.is_me(peers.ring.owner_of_shard(0))

        self.is_leader: Callable[[], bool] = is_leader
        self.records = Records(self.port, namespaces, spawn, is_leader)
        self.newcomers = Newcomers(self.region, store, self._shared_with)
        history.write_modes = WriteModes(lambda: list(self.region.senders.values()), clock.now_ns)
        self.activation = Activation(history, namespaces.all_cached)
        self.forwarding = Forwarding(here, namespaces, self.remote)
        self.keys = KeyExchange(
            self.port, store, ids, tokens, regions_of_namespace(namespaces), is_leader, lambda: self._keys_changed(news)
        )
        news.listen(KEYS_TOPIC, self.keys.reload)
        self.control = RegionControl(
            self.port, self.region, namespaces, history, store, self.newcomers, peers, clock, ids, spawn, is_leader,
            self._shared_with, failover, witness,
        )  # fmt: skip
        self.figures = RegionFigures(self.region, self.control.verification, self._name_of, clock.now_ns)

    async def start(self) -> None:
        """Raises StoreError."""
        await self.keys.reload()
        self.port.start()
        self.records.start()
        self.keys.start(self._spawn)
        self._spawn(self.activation.run(), "namespaces that move")
        self._spawn(self.newcomers.run(), "namespaces that are new to a region")
        self.control.start()
        self.namespaces_changed()

    async def close(self) -> None:
        await self.control.close()
        await self.port.close()

    def namespaces_changed(self) -> None:
        """Records, or the linked regions, may have changed on this node."""
        self.port.look()
        self.activation.look()
        self.newcomers.look()
        self.records.changed()
        self.keys.look()
        self.forwarding.namespaces_changed()

    async def _keys_changed(self, news: News) -> None:
        await self.keys.reload()
        await news.tell(KEYS_TOPIC)

    # --- what the stream asks ---------------------------------------------------------------------------------------------
    def _address_of(self, region: str) -> str | None:
        cluster = self._namespaces.clusters.named(region)
        return cluster.address if cluster is not None and cluster.is_connection_enabled else None

    def _has(self, peer: str, namespace_id: str) -> bool:
        """Whether what happens here in the namespace is told to that region."""
        record = self._namespaces.cached_by_id(namespace_id)
        here = self._namespaces.clusters.own.name
        return record is not None and record.is_replicated and peer in record.members and here in record.members

    def _name_of(self, namespace_id: str) -> str:
        record = self._namespaces.cached_by_id(namespace_id)
        return namespace_id if record is None else record.name

    def _shared_with(self, peer: str) -> frozenset[str]:
        here = self._namespaces.clusters.own.name
        shared = (one for one in self._namespaces.all_cached() if one.is_replicated and {peer, here} <= set(one.members))
        return frozenset(record.id for record in shared)

    async def _share_of(self, peer: str, namespace_id: str) -> Share:
        """Raises CallerError UNAVAILABLE."""
        namespaces, here = self._namespaces, self._namespaces.clusters.own.name
        record = namespaces.cached_by_id(namespace_id)
        if record is None or peer not in record.members:
            await namespaces.refresh()
            record = namespaces.cached_by_id(namespace_id)
        if record is None:
            return Share.GONE if await namespaces.is_buried(namespace_id) else Share.UNKNOWN
        if record.state == DELETED or here not in record.members:
            return Share.GONE
        return Share.SHARED if record.is_replicated and peer in record.members else Share.FOREIGN
