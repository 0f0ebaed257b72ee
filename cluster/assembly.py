"""How the parts of a node are put together from its seams: for the node (real seams) and the simulator's world (simulated ones).

    load     who is this cluster (stored once) -> keys -> namespaces
    connect  ring and peers -> matching, history, and the routers before them
    start    shards, what deletion left half done, queue settings
    front    the handlers behind the one interceptor list

Nothing here makes a clock, a socket or a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec
import structlog
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest

from cluster.config import Limits, ShardConfig
from cluster.core.errors import CallerError, Code
from cluster.frontend.authorisation import Policy
from cluster.frontend.cluster_identity import ClusterIdentity, WantedIdentity, load_identity
from cluster.frontend.handlers.services import Services
from cluster.frontend.handlers.task_queues import load_task_queue_configs
from cluster.frontend.namespace_removal import NamespaceRemoval
from cluster.frontend.service import Frontend
from cluster.history.regions import RegionsOfRecords
from cluster.history.service import HistoryService
from cluster.matching.limits import MatchingLimits
from cluster.matching.service import Matching
from cluster.namespaces.record import NamespaceRecord
from cluster.namespaces.registry import NamespaceRegistry, namespace_not_found
from cluster.namespaces.remote_clusters import AskCluster, Cluster, RemoteClusters, nobody_to_ask
from cluster.nexus.endpoints import EndpointRegistry
from cluster.nexus.parts import NexusParts
from cluster.region_parts import RegionParts
from cluster.routing.history import RoutedHistory
from cluster.routing.matching import RoutedMatching
from cluster.routing.news import News
from cluster.routing.overview import Overview
from cluster.routing.peers import Peers
from cluster.routing.shard_moves import ShardMoves
from cluster.seams import Clock, Ids, Spawn
from cluster.stores.base import Store
from cluster.tokens import Tokens, load_keys
from cluster.visibility.base import VisibilityStore
from cluster.visibility.search_attributes import Schema, validate
from replication.control import FailoverSettings
from replication.link import MakeRegions
from replication.witness import Witness

log = structlog.get_logger("outlast.node")

SETTLE_S_MAX = 20.0  # for a joining node's shards to be handed over; those that come later come while it serves


@dataclass(frozen=True)
class Seams:
    """What differs between a process and the simulator."""

    clock: Clock
    ids: Ids
    spawn: Spawn
    store: Store
    visibility: VisibilityStore
    ask_cluster: AskCluster = nobody_to_ask
    make_regions: MakeRegions | None = None  # None: this server has no way to other regions
    witness: Witness | None = None  # open; closed with the assembly


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """owner: names this process in the shards' leases. addresses: where clients connect."""

    owner: str
    identity: WantedIdentity = WantedIdentity()
    namespaces: tuple[str, ...] = ("default",)
    search_attributes: Mapping[str, int] = {}
    address: str = ""
    http_address: str = ""
    limits: Limits = Limits()
    shard: ShardConfig = ShardConfig()
    failover: FailoverSettings = FailoverSettings()


class KnownNamespaces:
    """The registry as history sees it: what this node knows, without waiting. A call reaches history only after the frontend
    found its namespace, so what is not known here does not exist."""

    def __init__(self, registry: NamespaceRegistry) -> None:
        self._registry = registry

    def by_name(self, name: str) -> NamespaceRecord:
        return self._known(self._registry.cached(name), name)

    def by_id(self, id: str) -> NamespaceRecord:
        return self._known(self._registry.cached_by_id(id), id)

    def _known(self, record: NamespaceRecord | None, named: str) -> NamespaceRecord:
        if record is None:
            raise namespace_not_found(named)
        return record


class Assembly:
    """See the module's text; its methods are called once, in that order."""

    def __init__(self, seams: Seams, settings: Settings) -> None:
        self.seams, self.settings = seams, settings
        self.identity: ClusterIdentity
        self.tokens: Tokens
        self.namespaces: NamespaceRegistry
        self.endpoints: EndpointRegistry
        self.nexus: NexusParts
        self.peers: Peers
        self.matching: RoutedMatching
        self.history: HistoryService
        self.frontend: Frontend
        self.regions: RegionParts | None = None
        self._removal = NamespaceRemoval(seams.spawn)

    # --- load -----------------------------------------------------------------------------------------------------------
    async def load(self) -> None:
        """Raises StoreError, IdentityDiffers."""
        seams, settings = self.seams, self.settings
        self.identity = me = await load_identity(seams.store, seams.ids, settings.identity)
        self.tokens = Tokens(await load_keys(seams.store, seams.ids))
        own = Cluster(
            name=me.cluster_name,
            id=me.cluster_id,
            shard_count=me.shard_count,
            initial_failover_version=me.initial_failover_version,
        )
        clusters = RemoteClusters(seams.store, own, seams.ask_cluster)
        self.namespaces = NamespaceRegistry(
            seams.store, seams.clock, seams.ids, settings.limits, me.cluster_name, self._removal.on_delete, clusters
        )
        await self.namespaces.load()
        self.endpoints = EndpointRegistry(seams.store, seams.clock, seams.ids, self.namespaces, settings.limits)
        await self.endpoints.refresh()
        for name in settings.namespaces:
            await self._ensure_namespace(name)

    async def _ensure_namespace(self, name: str) -> None:
        settings = self.settings
        if self.namespaces.cached(name) is None:
            request = RegisterNamespaceRequest(namespace=name)
            request.workflow_execution_retention_period.FromNanoseconds(settings.limits.retention_default_ns)
            try:
                await self.namespaces.register(request)
            except CallerError as error:
                if error.code is not Code.ALREADY_EXISTS:  # another node that starts now was first
                    raise
        if settings.search_attributes:
            await self.namespaces.add_search_attributes(name, settings.search_attributes)

    # --- connect --------------------------------------------------------------------------------------------------------
    def connect(self, peers: Peers) -> None:
        seams, settings = self.seams, self.settings
        self.peers = peers
        local_matching = Matching(MatchingLimits(), seams.clock, seams.ids, seams.spawn, host=settings.address)
        self.matching = RoutedMatching(local_matching, peers, seams.spawn, seams.ids)
        self.history = HistoryService(
            store=seams.store,
            clock=seams.clock,
            ids=seams.ids,
            spawn=seams.spawn,
            namespaces=KnownNamespaces(self.namespaces),
            matching=self.matching,
            visibility=seams.visibility,
            tokens=self.tokens,
            shards_count=self.identity.shard_count,
            owner=settings.owner,
            config=settings.shard,
            limits=settings.limits,
            check_search_attributes=lambda record, given: validate(
                given, self.schema_of(record), settings.limits, record.name
            ),
            regions=self._regions_of_records(),
            endpoints=self.endpoints.lookup,
        )

        self.moves = ShardMoves(self.history, peers, seams.spawn, seams.ids)
        self.routed_history = RoutedHistory(self.history, peers, self.moves, self.namespaces.by_id)
        self.matching.use_history(self.routed_history)
        self.news = News(peers, seams.spawn)
        self.news.listen("namespaces", self._look_at_namespaces)
        self.namespaces.on_change = self._namespaces_changed
        self.news.listen("task queues", lambda: load_task_queue_configs(seams.store, self.matching))
        self.matching.on_config_change = lambda: self.news.tell("task queues")
        self.news.listen("nexus endpoints", self.endpoints.refresh)
        self.endpoints.on_change = lambda: self.news.tell("nexus endpoints")
        self.nexus = NexusParts(
            self.endpoints, self.matching, self.history, self.tokens, self.namespaces.by_id, settings.http_address
        )
        self.overview = Overview(peers, self.moves.own_rows)
        if seams.make_regions is not None:
            self.regions = RegionParts(
                seams.make_regions, seams.store, seams.clock, seams.ids, seams.spawn, self.tokens, self.namespaces,
                self.history, self.routed_history, peers, self.news, settings.failover, seams.witness,
            )  # fmt: skip
            self.nexus.link(self.regions.port, self.namespaces, self.regions.is_leader, seams.spawn)
        peers.is_serving = True

    def _regions_of_records(self) -> RegionsOfRecords | None:
        if self.seams.make_regions is None:
            return None
        own = self.namespaces.clusters.own
        return RegionsOfRecords(KnownNamespaces(self.namespaces), own.name, own.initial_failover_version)

    async def _namespaces_changed(self) -> None:
        """This node has written. Returns when the others have heard of it."""
        if self.regions is not None:
            self.regions.namespaces_changed()
        await self.news.tell("namespaces")

    async def _look_at_namespaces(self) -> None:
        await self.namespaces.refresh()
        if self.regions is not None:
            self.regions.namespaces_changed()
        if self.peers.is_me(self.peers.ring.owner_of_shard(0)):  # one of the nodes finishes what a dead one was deleting
            await self.namespaces.announce_deleted()

    # --- start ----------------------------------------------------------------------------------------------------------
    async def start(self, ready: Callable[[], Awaitable[None]]) -> None:
        """Returns when this node's shards are open. ready: tells the others that it takes its share."""
        await load_task_queue_configs(self.seams.store, self.matching)
        if self.regions is not None:
            await self.regions.keys.reload()  # before a shard opens: tokens of its tasks must open in the other regions, too
            await self.regions.control.hear_of_moves()  # before it fires timers of runs that another region has gone on with
        if self.peers.has_others:
            await self.history.start(())
            await ready()
            self.moves.start()
            await self.moves.wait_until_settled(asyncio.get_running_loop().time() + SETTLE_S_MAX)
        else:
            await ready()
            await self.history.start()  # says what is wrong with a shard that cannot be opened
            self.moves.start()
        self._removal.start(self.routed_history, self.seams.visibility, self.namespaces.forget)
        self.news.start()
        if self.regions is not None:
            await self.regions.start()

    async def hand_over(self, leaving: Callable[[], Awaitable[None]], timeout_s: float) -> None:
        """Gives this node's shards to others, if there are any; what has not moved in time is closed here."""
        await leaving()
        if not await self.moves.wait_until_empty(asyncio.get_running_loop().time() + timeout_s):
            log.warning("shards left at the end of the hand-over", shards=sorted(self.history.owned))

    async def close(self) -> None:
        if self.regions is not None:
            await self.regions.close()
        await self.moves.close()
        self.matching.close()
        await self.history.close()

    def front(self, policy: Policy, stopwatch_s: Callable[[], float] | None = None) -> Frontend:
        settings = self.settings
        services = Services(
            history=self.routed_history,
            matching=self.matching,
            visibility=self.seams.visibility,
            namespaces=self.namespaces,
            endpoints=self.endpoints,
            store=self.seams.store,
            tokens=self.tokens,
            limits=settings.limits,
            identity=self.identity,
            schema_of=self.schema_of,
            address=settings.address,
            http_address=settings.http_address,
        )
        now_s = asyncio.get_running_loop().time
        forwarding = None if self.regions is None else self.regions.forwarding
        self.frontend = Frontend(services, policy, self.seams.clock, self.seams.ids, now_s, stopwatch_s, forwarding)
        return self.frontend

    def schema_of(self, record: NamespaceRecord) -> Schema:
        """The search attributes of a namespace."""
        return self.namespaces.cached_schema(record.id) or Schema(record.custom_search_attributes)
