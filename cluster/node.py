"""The composition root: the only place (beside the simulator's world) where concrete clocks, ids, stores and servers are made.

    start   open the store -> who is this cluster -> take a place among the nodes -> shards -> listen
    drain   hand the shards to other nodes, refuse new calls, end parked polls, let the rest finish
    close   stop listening, history (checkpoint), leave the others, visibility, store; the order of start, backwards

What the parts are and how they hold together is assembly.py. Heavy modules are imported where they are used, so that
`outlast --help` stays quick and a wrong option fails at once.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from cluster.file_lock import DatabaseInUse, FileLock
from cluster.membership.members import NodeInfo
from cluster.node_config import MEMORY, NodeConfig
from cluster.routing.place import FindMembers, Place
from cluster.seams import JobSet, SystemClock, SystemIds
from cluster.wire.network import Network, TcpNetwork, Tls

if TYPE_CHECKING:
    from cluster.assembly import Assembly
    from cluster.core.errors import CallerError
    from cluster.frontend.authorisation import Policy
    from cluster.frontend.cluster_identity import ClusterIdentity
    from cluster.frontend.http_pages import HttpPages
    from cluster.frontend.service import Frontend
    from cluster.frontend.transport_grpc import GrpcTransport
    from cluster.history.service import HistoryService
    from cluster.membership.members import Membership
    from cluster.namespaces.registry import NamespaceRegistry
    from cluster.nexus.http_client import GuardedClient
    from cluster.routing.matching import RoutedMatching
    from cluster.routing.peers import Peers
    from cluster.stores.base import Store
    from cluster.visibility.base import VisibilityStore
    from nexus.gateway import Gateway
    from replication.figures import Family
    from replication.witness import Witness

__all__ = ["MEMORY", "DatabaseInUse", "FileLock", "Node", "NodeConfig", "NotLoopback"]

log = structlog.get_logger("outlast.node")


class NotLoopback(Exception):
    """No security is configured, so only loopback addresses may be listened on."""


class Node:
    """One process. Make it, start it, and close it once, in one event loop.

    find_members: where a node with `wire` but without `etcd` learns who else there is.
    """

    def __init__(self, config: NodeConfig, find_members: FindMembers | None = None) -> None:
        self.config = config
        self.node_id = config.node_id or f"{os.uname().nodename}-{os.getpid()}"
        self.clock = SystemClock()
        self.ids = SystemIds()
        self.spawn = JobSet(self._job_failed)
        self.port = 0
        self.http_port = 0
        self.started_in_ms = 0.0
        self.failed: asyncio.Event = asyncio.Event()
        self.drain_asked: asyncio.Event = asyncio.Event()
        self.store: Store
        self.visibility: VisibilityStore
        self._witness: Witness | None = None
        self.assembly: Assembly
        self.place: Place
        self.frontend: Frontend
        self._find_members = find_members
        self._transport: GrpcTransport | None = None
        self._http: HttpPages | None = None
        self._opened: list[tuple[str, Any]] = []  # what to close, in the order of opening

    @property
    def identity(self) -> ClusterIdentity:
        return self.assembly.identity

    @property
    def namespaces(self) -> NamespaceRegistry:
        return self.assembly.namespaces

    @property
    def history(self) -> HistoryService:
        return self.assembly.history

    @property
    def matching(self) -> RoutedMatching:
        return self.assembly.matching

    @property
    def peers(self) -> Peers:
        return self.assembly.peers

    # --- start ------------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Raises NotLoopback, DatabaseInUse, PortInUse, StoreError, IdentityDiffers, MembershipRefused, MembershipUnavailable,
        InsecureListener, OSError (files of keys); then nothing is left open."""
        began = time.monotonic()
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        self.started_in_ms = (time.monotonic() - began) * 1000

    async def _start(self) -> None:
        from cluster.frontend.authorisation import Anyone, LoopbackOnly, is_loopback

        config = self.config
        if not is_loopback(config.ip) and not config.allow_insecure:
            raise NotLoopback(f"no security is configured: Outlast listens on loopback addresses only, not on {config.ip}")
        await self._open_stores()
        await self._assemble()
        await self._take_place()
        await self._take_part()
        await self._listen(Anyone() if config.allow_insecure else LoopbackOnly())

    async def _open_stores(self) -> None:
        from cluster.engines import make_store, make_visibility, open_witness

        store, visibility = self.config.store_config, self.config.visibility_config
        if store.kind == "sqlite" and store.url != MEMORY and not store.is_shared:
            self._opened.append(("lock", FileLock(store.url)))
        self.store = make_store(store)
        await self.store.open()
        self._opened.append(("store", self.store))
        self.visibility = make_visibility(visibility)
        await self.visibility.open()
        self._opened.append(("visibility", self.visibility))
        self._witness = await open_witness(self.config.regions)
        if self._witness is not None:
            self._opened.append(("witness", self._witness))

    async def _assemble(self) -> None:
        from cluster.assembly import Assembly, Seams, Settings
        from cluster.frontend.cluster_identity import WantedIdentity
        from cluster.frontend.front_tls import channel_options, client_credentials
        from cluster.frontend.remote_grpc import GrpcRegions
        from cluster.namespaces.remote_cluster_grpc import GrpcAskCluster
        from replication.control import FailoverSettings

        config = self.config
        settings = Settings(
            owner=f"{self.node_id}/{os.getpid()}",
            identity=WantedIdentity(
                cluster_name=config.cluster_name,
                shard_count=config.shards,
                initial_failover_version=config.initial_failover_version,
            ),
            namespaces=config.namespaces,
            search_attributes=config.search_attributes,
            address=f"{config.ip}:{config.port}",
            http_address=f"{config.ip}:{config.http_port}",
            limits=config.limits,
            shard=config.shard,
            failover=FailoverSettings(config.regions.lease, config.regions.automatic),
        )
        tls = config.tls
        ask = GrpcAskCluster(None if tls is None else client_credentials(tls), options=channel_options(tls))
        seams = Seams(
            self.clock, self.ids, self.spawn, self.store, self.visibility, ask, partial(GrpcRegions, tls=tls), self._witness
        )
        self.assembly = Assembly(seams, settings)
        await self.assembly.load()

    async def _take_place(self) -> None:
        from cluster.failures import as_caller_error

        config, identity = self.config, self.identity
        me = NodeInfo(
            node_id=self.node_id,
            address="",
            roles=config.roles,
            zone=config.zone,
            version=version("outlast"),
            shard_count=identity.shard_count,
            cluster_id=identity.cluster_id,
            started_at=self.clock.now_ns(),
            incarnation=self.ids.uuid(),
        )
        wire = config.wire
        def explain(error: Exception, method: str) -> CallerError:
            return as_caller_error(error, method, self.ids)

        self.place = Place(self._network(), self.ids, wire.limits if wire else None, explain)
        self._opened.append(("place", self.place))
        listen = f"[{wire.ip}]:{wire.port}" if wire and ":" in wire.ip else f"{wire.ip}:{wire.port}" if wire else ""
        peer_name = wire.tls.peer_name or None if wire and wire.tls else None
        peers = await self.place.open(
            me, listen, self._members if wire else None, wire.advertise if wire else "", peer_name
        )
        self.assembly.connect(peers)

    def _network(self) -> Network | None:
        wire = self.config.wire
        if wire is None:
            return None
        tls = wire.tls
        if tls is None:
            return TcpNetwork(allow_plain=self.config.allow_insecure)
        return TcpNetwork(Tls(Path(tls.certificate), Path(tls.key), Path(tls.authority), tls.peer_name or None))

    async def _members(self, me: NodeInfo) -> Membership:
        if self._find_members is not None:
            return await self._find_members(me)
        from cluster.membership.etcd import EtcdMembership

        assert self.config.etcd is not None, "a node with a node-to-node port needs etcd or a list of members"
        return EtcdMembership(self.config.etcd, self.clock, self.ids, self.spawn)

    async def _take_part(self) -> None:
        """From here on the ring gives this node its share."""
        self._opened.append(("parts", self.assembly))
        if self._witness is not None:
            self._opened.remove(("witness", self._witness))  # the parts close it
        self.assembly.overview.on_drain(self.drain_asked.set)
        await self.assembly.start(self.place.ready)
        if self.config.wire is not None:
            self.spawn(self._until_expelled(), "expelled")

    async def _until_expelled(self) -> None:
        reason = await self.place.expelled()
        log.error("this node can be no member any more and stops", reason=reason)
        self.failed.set()

    async def _listen(self, policy: Policy) -> None:
        from cluster.frontend.front_tls import server_context
        from cluster.frontend.http_pages import HttpPages
        from cluster.frontend.region_grpc import RegionHandlers
        from cluster.frontend.region_pages import RegionPages
        from cluster.frontend.transport_grpc import GrpcTransport, PortInUse
        from cluster.metrics.exposition import CONTENT_TYPE, Exposition

        config = self.config
        self.frontend = self.assembly.front(policy, time.perf_counter)
        counts = {"matching_events": lambda: self.matching.counts}
        exposition = Exposition(self.frontend.figures, self._gauges(), counts, self._families)
        regions = self.assembly.regions
        mounts = []
        if regions is not None:
            regions.control.is_healthy = lambda: not self._fault()
            region_pages = RegionPages(regions.control.admin, self.ids, self.frontend.drain)
            self._opened.append(("region pages", region_pages))
            mounts.append(region_pages.mount)
        gateway, client = self._nexus_gateway()
        mounts.append(gateway.mount)
        self._http = HttpPages(self._fault, exposition.page, CONTENT_TYPE, self.assembly.overview.describe, mounts)
        try:
            self.http_port = await self._http.start(config.ip, config.http_port, config.is_port_shared)
        except OSError as error:
            raise PortInUse(f"{config.ip}:{config.http_port} (http) cannot be bound: {error.strerror or error}") from error
        self._opened.append(("http", self._http))
        self._opened.append(("nexus gateway", gateway))  # closed before the port: whoever waits is told to ask again
        self.assembly.nexus.use_http(client, f"http://{config.ip}:{self.http_port}/namespaces/{{namespace}}/nexus/callback")
        if "frontend" in config.roles:
            others = [] if regions is None else [RegionHandlers(regions.port, self.ids)]
            transport = GrpcTransport(self.frontend.handlers, config.limits, self.ids, others)
            context = server_context(config.tls) if config.tls is not None else None
            self.port = await transport.start(config.ip, config.port, config.is_port_shared, context)
            self._transport = transport
            self._opened.append(("grpc", transport))

    def _nexus_gateway(self) -> tuple[Gateway, GuardedClient]:
        from cluster.frontend.authorisation import is_loopback
        from cluster.nexus.http_client import GuardedClient
        from cluster.routing.history_of_regions import HistoryOfRegions
        from nexus.behind import make_gateway
        from nexus.egress import LOOPBACK_NETWORKS, Egress, EgressSettings

        # A server that only this machine reaches may call this machine; any other one calls nobody inside its network.
        egress = Egress(EgressSettings(allowed_networks=LOOPBACK_NETWORKS if is_loopback(self.config.ip) else ()))
        self._opened.append(("egress", egress))
        parts = self.assembly
        remote = parts.regions.remote if parts.regions is not None else None
        history = HistoryOfRegions(self.identity.cluster_name, parts.routed_history, remote)
        gateway = make_gateway(
            parts.nexus, parts.namespaces, history, parts.tokens, self.clock, self.ids,
            egress=egress, is_draining=lambda: self.frontend.drain.has_begun,
        )  # fmt: skip
        return gateway, GuardedClient(egress)

    def _families(self) -> list[Family]:
        regions = self.assembly.regions
        return [] if regions is None else regions.figures.families()

    def _gauges(self) -> list[tuple[str, str, Callable[[], float]]]:
        return [
            ("outlast_store_written_bytes", "Payload bytes handed to the store since the start", self.store.bytes_written),
            ("outlast_task_queues", "Task queues in memory", lambda: self.matching.queue_count),
            ("outlast_started_in_seconds", "How long the start took", lambda: self.started_in_ms / 1000),
            ("outlast_journal_appends", "Groups appended to the journals that are open", lambda: self._journals("appends_count")),
            ("outlast_journal_entries", "Entries in those groups", lambda: self._journals("appended_entries_count")),
            ("outlast_shards_owned", "Shards this node has open", lambda: len(self.history.owned)),
        ]

    def _journals(self, count: str) -> float:
        return float(sum(getattr(shard.journal, count) for shard in self.history.ownership.open.values()))

    def _fault(self) -> str:
        """ "" while the node is well."""
        if self.failed.is_set():
            return "a background job failed"
        return "draining" if self.frontend.drain.has_begun else ""

    def _job_failed(self, name: str, failure: BaseException) -> None:
        """A background job must not end by an exception: the node is no longer whole, and says so."""
        log.error("job failed", job=name, exc_info=failure)
        self.failed.set()

    # --- stop -------------------------------------------------------------------------------------------------------------
    async def drain(self, hands_over: bool = True) -> None:
        """Hands its shards to other nodes (hands_over, and where there are any), refuses new calls, ends parked polls, waits
        up to drain_s for the rest."""
        if not hasattr(self, "frontend"):
            return
        if hands_over and self.peers.has_heirs:
            await self.assembly.hand_over(self.place.leaving, self.config.hand_over_s)
        if self._transport is not None:
            await self._transport.say_not_serving()
        self.frontend.drain.begin()
        self.matching.drain()
        if self.assembly.regions is not None:
            self.assembly.regions.forwarding.end_polls()
        if not await self.frontend.drain.wait_until_idle(self.config.drain_s):
            log.warning("calls still in flight after the drain", seconds=self.config.drain_s)

    async def close(self) -> None:
        """Backwards through what was opened; goes on after a failure, and raises the first one."""
        first: Exception | None = None
        while self._opened:
            name, part = self._opened.pop()
            try:
                await part.close()
            except Exception as failure:
                log.error("could not be closed", part=name, exc_info=failure)
                first = first or failure
        await self.spawn.close()
        if first is not None:
            raise first
