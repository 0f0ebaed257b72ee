"""One region of a simulated world: a disk, a registry, a network, and nodes with lives of their own.

Real in a node: everything that `cluster/assembly.py` puts together, its place among the others (membership, wire, ring), and the
frontend with its one interceptor list. Simulated: clock, ids, store (memory, with faults and latency), visibility (memory), the
bytes between nodes, etcd, and the transport to clients, which hands a Call and a decoded request to the same handlers as gRPC.
The order of things follows `cluster/node.py`; what that file adds (files, ports, grpc) cannot run on a simulated loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chaos.checkers.ownership import Ownership
from chaos.sim.config import WorldConfig
from chaos.sim.disk import ArchivedStore, SimVisibility
from chaos.sim.faults import FaultPlan, SimStore
from chaos.sim.loop import running_loop
from chaos.sim.network import Fabric
from chaos.sim.nodes import NodeDied, NodeSlot, Wire
from chaos.sim.peer_calls import PeerPlan, make_faulty
from chaos.sim.rand import SimClock, SimIds
from chaos.sim.registry import SimEtcd, SimMembership
from cluster.assembly import Assembly, Seams, Settings
from cluster.core.errors import CallerError
from cluster.failures import as_caller_error
from cluster.frontend.authorisation import LoopbackOnly
from cluster.frontend.call import Call
from cluster.frontend.cluster_identity import WantedIdentity
from cluster.frontend.methods import METHODS
from cluster.frontend.service import Frontend
from cluster.history.service import HistoryService
from cluster.membership.etcd_entries import EtcdSettings
from cluster.membership.flapping import FlapLimits
from cluster.membership.members import ROLES, Membership, MembershipRefused, MembershipUnavailable, NodeInfo
from cluster.membership.ring import Ring
from cluster.routing.place import Place
from cluster.seams import JobSet
from cluster.stores.base import StoreError
from cluster.stores.faulty import Fault
from cluster.visibility.memory import MemoryVisibility
from replication.link import Link

if TYPE_CHECKING:
    from chaos.sim.world import World

PEER = "ipv4:127.0.0.1:40000"
PORT = 7400
DRAIN_S = 5.0
HAND_OVER_S = 10.0
RESTART_S_MAX = 2.0
NEVER_HELD_BACK = FlapLimits(free_joins=1_000)


@dataclass(frozen=True)
class Plans:
    """What goes wrong by itself, drawn per occasion."""

    store: Callable[[int, str], Fault | None]
    replies: FaultPlan
    visibility: FaultPlan
    torn_checkpoints: FaultPlan
    links: FaultPlan
    registry: FaultPlan
    peers: PeerPlan


class SimNode:
    """One life of one node: everything in memory, nothing of it survives."""

    def __init__(self, region: Region, host: str, life: int) -> None:
        self.region = region
        self.host = host
        self.life = life
        world, config = region.world, region.config
        named = f"{host} life {life}"
        self.clock = SimClock(running_loop().now_ns, skew_ns=region.skews_ns.get(host, 0))
        self.ids = SimIds(world.streams(f"ids of {named}"))
        self.spawn = JobSet(world.job_failed)
        latency = world.streams(f"store latency of {named}")
        self.store = SimStore(region.disk, region.plans.store, latency, config.store_latency_s_max)
        self.visibility = SimVisibility(
            region.index, region.plans.visibility, world.streams(f"visibility of {named}"), config.store_latency_s_max
        )
        self.assembly = Assembly(
            self._seams(),
            Settings(
                owner=f"{host}#{life}",
                identity=WantedIdentity(
                    shard_count=config.shards,
                    cluster_name=config.cluster_name,
                    initial_failover_version=config.initial_failover_version,
                ),
                limits=config.limits,
                shard=config.shard,
                namespaces=config.namespaces,
                address=f"{host}:7233",
            ),
        )
        network = region.fabric.node(host) if region.is_cluster else None
        self.place = Place(network, self.ids, explain=self._explain)
        self.frontend: Frontend

    def _seams(self) -> Seams:
        alone = Seams(self.clock, self.ids, self.spawn, self.store, self.visibility)
        between = self.region.world.between
        if between is None:
            return alone
        return replace(alone, ask_cluster=between.asked_by(self.host), make_regions=between.seen_by(self.host))

    @property
    def history(self) -> HistoryService:
        return self.assembly.history

    @property
    def ring(self) -> Ring:
        return self.place.peers.ring

    async def start(self) -> None:
        """Raises StoreError, CallerError, MembershipUnavailable: then this process ends and another one is started."""
        await self.store.open()
        await self.assembly.load()
        identity = self.assembly.identity
        me = NodeInfo(
            self.host, "", ROLES, "", "simulated", identity.shard_count, identity.cluster_id, self.clock.now_ns(), self.ids.uuid()
        )
        peers = await self.place.open(me, f"{self.host}:{PORT}", self._find_members)
        if self.region.is_cluster:
            make_faulty(peers, self.region.plans.peers, self.region.world.streams(f"peer faults of {self.host} life {self.life}"))
            peers.on_ring(self._ring_changed)
            self.spawn(self._until_expelled(), "expelled")
        self.assembly.connect(peers)
        await self.assembly.start(self.place.ready)
        self.frontend = self.assembly.front(LoopbackOnly())

    async def _find_members(self, me: NodeInfo) -> Membership:
        region = self.region
        settings = EtcdSettings(
            ("simulated",), flapping=FlapLimits() if region.config.holds_back_flapping else NEVER_HELD_BACK
        )
        delays = region.world.streams(f"registry calls of {self.host} life {self.life}")
        return SimMembership(region.etcd, self.host, settings, self.clock, self.ids, self.spawn, delays)

    def _ring_changed(self, before: Ring, after: Ring) -> None:
        owners = [owner.node_id if owner else "" for owner in after.shard_owners]
        self.region.ownership.ring_seen(f"{self.host}#{self.life}", running_loop().now_ns(), owners)
        running_loop().trace("ring", node=f"{self.host}#{self.life}", nodes=" ".join(after.nodes), owners=" ".join(owners))

    async def _until_expelled(self) -> None:
        reason = await self.place.expelled()
        self.region.world.blame(f"{self.host}#{self.life} was expelled: {reason}")

    def _explain(self, failure: Exception, method: str) -> CallerError:
        """What another node is told of a failure here."""
        self._look_at(failure, method)
        return as_caller_error(failure, method, self.ids)

    def _look_at(self, failure: Exception, method: str) -> None:
        if not isinstance(failure, CallerError | StoreError) and type(failure).__name__ != "VisibilityUnavailable":
            self.region.world.blame(f"{method}: {type(failure).__name__}: {failure}", failure)

    async def serve(self, name: str, data: bytes, deadline_s: float, metadata: Mapping[str, str] | None = None) -> bytes:
        """One call as the transport does it: decoded here, encoded again. Raises CallerError and nothing else."""
        method = METHODS[name]
        call = Call(method.path, dict(metadata or {}), running_loop().time() + deadline_s, PEER, data)
        try:
            answer = await self.frontend.handlers[name](call, method.request.FromString(data))
        except Exception as failure:
            self._look_at(failure, name)
            raise as_caller_error(failure, method.path, self.ids) from failure
        return answer if isinstance(answer, bytes) else answer.SerializeToString()

    async def serve_region(self, method: str, data: bytes, metadata: Mapping[str, str]) -> bytes:
        """One call of another region. Raises CallerError and nothing else."""
        assert self.assembly.regions is not None
        try:
            return await self.assembly.regions.port.serve(method, metadata, data)
        except Exception as failure:
            self._look_at(failure, method)
            raise as_caller_error(failure, method, self.ids) from failure

    async def accept_region(self, link: Link) -> None:
        """A stream of another region, until it ends."""
        assert self.assembly.regions is not None
        await self.assembly.regions.port.accept(link)

    async def stop(self) -> None:
        """As on SIGTERM: hand over, drain, then close in good order."""
        if self.place.peers.has_heirs:
            await self.assembly.hand_over(self.place.leaving, HAND_OVER_S)
        self.frontend.drain.begin()
        self.assembly.matching.drain()
        await self.frontend.drain.wait_until_idle(DRAIN_S)
        await self.assembly.close()
        await self.place.close()
        await self.spawn.close()


class Region:
    """See the module's text. `nodes` are the ready ones."""

    def __init__(self, world: World, name: str, plans: Plans, config: WorldConfig) -> None:
        self.world, self.name, self.plans, self.config = world, name, plans, config
        streams = world.streams
        self.skews_ns: dict[str, int] = {}  # by host: how far its clock is off
        self.is_cluster = config.nodes > 1
        self.ownership = Ownership()
        self.disk = ArchivedStore(plans.torn_checkpoints, streams(f"cuts {name}"), self.ownership)
        self.index = MemoryVisibility()
        self.fabric = Fabric(streams, plans.links, config.link_delay_s_max)
        self.etcd = SimEtcd(plans.registry, config.watch_delay_s_max)
        self.slots: dict[str, NodeSlot[SimNode]] = {}
        self.wires: dict[str, Wire[SimNode]] = {}
        for number in range(1, config.nodes + 1):
            host = f"{name}-n{number}"
            slot: NodeSlot[SimNode] = NodeSlot(host, lambda life, host=host: self._build(host, life))  # type: ignore[misc]
            self.slots[host] = slot
            self.wires[host] = Wire(slot, plans.replies, streams(f"wire {host}"), config.wire_delay_s_max)

    async def _build(self, host: str, life: int) -> SimNode:
        node = SimNode(self, host, life)
        if self.world.between is not None:
            self.world.between.began(host)
        await node.start()
        return node

    @property
    def nodes(self) -> list[SimNode]:
        return [slot.node for slot in self.slots.values() if slot.node is not None]

    async def start_all(self) -> None:
        await asyncio.gather(*(self.start(slot) for slot in self.slots.values() if slot.node is None))

    async def start(self, slot: NodeSlot[SimNode]) -> SimNode:
        """Starts a life, as a supervisor does: again and again until one is ready."""
        while True:
            try:
                return await slot.start()
            except (StoreError, CallerError, NodeDied, MembershipUnavailable, MembershipRefused, OSError) as error:
                running_loop().trace("start failed", node=slot.owner, error=f"{type(error).__name__}: {error}")
                if isinstance(error, MembershipRefused):
                    self.world.blame(f"{slot.owner} was refused: {error}")
                self.world.failed_starts_count += 1
                if not running_loop().is_dead(slot.owner):
                    self.crash(slot)
                await asyncio.sleep(self.world.streams(f"restarts {slot.name}").uniform(0.05, RESTART_S_MAX))

    def crash(self, slot: NodeSlot[SimNode], is_machine: bool = False) -> None:
        """SIGKILL, or the power of the whole machine: then no peer is told."""
        slot.crash()
        self.fabric.died(slot.name, is_machine)
        if self.world.between is not None:
            self.world.between.died(slot.name, is_machine)

    async def stop(self, slot: NodeSlot[SimNode]) -> None:
        """Ends the life in good order, as SIGTERM does; what is left after that dies with the process."""
        node = slot.node
        assert node is not None
        try:
            await slot.run_inside(node.stop, "stop")
        except NodeDied:
            return
        except (StoreError, MembershipUnavailable) as error:
            running_loop().trace("stop failed", node=slot.owner, error=type(error).__name__)
        self.crash(slot)

    def heal(self) -> None:
        self.fabric.heal_all()
        self.etcd.heal()
