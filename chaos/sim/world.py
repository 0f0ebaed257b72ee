"""One region in one process on virtual time: the real server code between a simulated disk and a simulated wire.

Real: namespaces, matching, history, the frontend with its one interceptor list. Simulated: clock, ids, store (memory, with faults
and latency), visibility (memory), and the transport, which hands a Call and a decoded request to the same handlers as gRPC.
The composition follows `cluster/node.py`; what that file adds (files, ports, grpc) cannot run on a simulated loop.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from chaos.sim.disk import ArchivedStore, SimVisibility
from chaos.sim.faults import FaultPlan, SimStore
from chaos.sim.loop import running_loop
from chaos.sim.nodes import NodeDied, NodeSlot, Wire
from chaos.sim.rand import SimClock, SimIds, Streams
from cluster.assembly import Assembly, Seams, Settings
from cluster.config import Limits, ShardConfig
from cluster.core.errors import CallerError, Code
from cluster.failures import as_caller_error
from cluster.frontend.authorisation import LoopbackOnly
from cluster.frontend.call import Call
from cluster.frontend.methods import METHODS
from cluster.frontend.service import Frontend
from cluster.history.service import HistoryService
from cluster.matching.service import Matching
from cluster.membership.members import ROLES, NodeInfo
from cluster.namespaces.registry import NamespaceRegistry
from cluster.routing.place import Place
from cluster.seams import JobSet
from cluster.stores.base import StoreError
from cluster.stores.faulty import Fault
from cluster.tokens import Tokens
from cluster.visibility.memory import MemoryVisibility

NAMESPACE = "default"
PEER = "ipv4:127.0.0.1:40000"
DRAIN_S = 5.0
RESTART_S_MAX = 2.0
PATIENT_S = 30.0


@dataclass
class WorldConfig:
    """What a seed draws about the server itself, before anything happens."""

    shards: int = 2
    shard: ShardConfig = field(default_factory=ShardConfig)
    limits: Limits = field(default_factory=Limits)
    store_latency_s_max: float = 0.01
    wire_delay_s_max: float = 0.02


class SimNode:
    """One life of the node: everything in memory, nothing of it survives."""

    def __init__(self, world: World, life: int) -> None:
        self.world = world
        self.life = life
        config = world.config
        self.clock = SimClock(running_loop().now_ns)
        self.ids = SimIds(world.streams(f"ids of life {life}"))
        self.spawn = JobSet(world.job_failed)
        self.store = SimStore(
            world.disk, world.store_plan, world.streams(f"store latency of life {life}"), config.store_latency_s_max
        )
        self.visibility = SimVisibility(
            world.index, world.visibility_faults, world.streams(f"visibility of life {life}"), config.store_latency_s_max
        )
        self.assembly = Assembly(
            Seams(self.clock, self.ids, self.spawn, self.store, self.visibility),
            Settings(
                owner=f"node#{life}",
                shards=config.shards,
                limits=config.limits,
                shard=config.shard,
                namespaces=(NAMESPACE,),
            ),
        )
        self.frontend: Frontend

    @property
    def namespaces(self) -> NamespaceRegistry:
        return self.assembly.namespaces

    @property
    def matching(self) -> Matching:
        return self.assembly.matching

    @property
    def history(self) -> HistoryService:
        return self.assembly.history

    @property
    def tokens(self) -> Tokens:
        return self.assembly.tokens

    async def start(self) -> None:
        """Raises StoreError, CallerError: then this process ends and another one is started."""
        await self.store.open()
        await self.assembly.load()
        identity = self.assembly.identity
        me = NodeInfo(
            f"node{self.life}", "", ROLES, "", "simulated", identity.shard_count, identity.cluster_id, 0, self.ids.uuid()
        )
        place = Place(None, self.ids)
        self.assembly.connect(await place.open(me, "", None))
        await self.assembly.start(place.ready)
        self.frontend = self.assembly.front(LoopbackOnly())

    async def serve(self, name: str, data: bytes, deadline_s: float) -> bytes:
        """One call as the transport does it: decoded here, encoded again. Raises CallerError and nothing else."""
        method = METHODS[name]
        call = Call(method.path, {}, running_loop().time() + deadline_s, PEER)
        try:
            answer = await self.frontend.handlers[name](call, method.request.FromString(data))
        except Exception as failure:
            if not isinstance(failure, CallerError | StoreError) and type(failure).__name__ != "VisibilityUnavailable":
                self.world.unexpected.append(f"{name}: {type(failure).__name__}: {failure}")
                self.world.unexpected_causes.append(failure)
            raise as_caller_error(failure, method.path, self.ids) from failure
        return answer if isinstance(answer, bytes) else answer.SerializeToString()

    async def stop(self) -> None:
        """As on SIGTERM: drain, then close in good order."""
        self.frontend.drain.begin()
        self.matching.drain()
        await self.frontend.drain.wait_until_idle(DRAIN_S)
        await self.history.close()
        await self.spawn.close()


class World:
    """The region and everything that outlives its node. `call` is what clients and workers use."""

    def __init__(
        self,
        streams: Streams,
        config: WorldConfig,
        store_plan: Callable[[int, str], Fault | None],
        reply_faults: FaultPlan,
        visibility_faults: FaultPlan,
        torn_checkpoints: FaultPlan,
    ) -> None:
        self.streams = streams
        self.config = config
        self.disk = ArchivedStore(torn_checkpoints, streams("cuts"))
        self.index = MemoryVisibility()
        self.store_plan = store_plan
        self.visibility_faults = visibility_faults
        self.slot: NodeSlot[SimNode] = NodeSlot("node", self._build)
        self.wire = Wire(self.slot, reply_faults, streams("wire"), config.wire_delay_s_max)
        self.unexpected: list[str] = []  # answers and ends that no server may give
        self.unexpected_causes: list[BaseException] = []
        self.failed_starts_count = 0

    @property
    def node(self) -> SimNode | None:
        return self.slot.node

    async def _build(self, life: int) -> SimNode:
        node = SimNode(self, life)
        await node.start()
        return node

    async def start(self) -> SimNode:
        """Starts a life, as a supervisor does: again and again until one is ready."""
        while True:
            try:
                return await self.slot.start()
            except (StoreError, CallerError, NodeDied) as error:
                running_loop().trace("start failed", error=type(error).__name__)
                self.failed_starts_count += 1
                if not running_loop().is_dead(self.slot.owner):
                    self.slot.crash()
                await asyncio.sleep(self.streams("restarts").uniform(0.05, RESTART_S_MAX))

    async def stop(self) -> None:
        """Ends the life in good order, as SIGTERM does; what is left after that dies with the process."""
        node = self.slot.node
        assert node is not None
        try:
            await self.slot.run_inside(node.stop, "stop")
        except NodeDied:
            return
        except StoreError as error:
            running_loop().trace("stop failed", error=type(error).__name__)
        self.slot.crash()

    def job_failed(self, name: str, failure: BaseException) -> None:
        self.unexpected.append(f"background job {name} ended by {type(failure).__name__}: {failure}")
        self.unexpected_causes.append(failure)

    async def call(
        self, name: str, request: Message, deadline_s: float = 10.0, on_sent: Callable[[], None] | None = None
    ) -> Any:
        """The response message. Raises CallerError. `on_sent` is called for every copy of the request that goes out."""
        data = request.SerializeToString()
        answer = await self.wire.call(name, lambda node: node.serve(name, data, deadline_s), deadline_s, on_sent)
        return METHODS[name].response.FromString(answer)

    async def call_patiently(self, name: str, request: Message) -> Any:
        """As `call`, repeated while the server is unavailable. Raises the last CallerError after PATIENT_S."""
        until = running_loop().time() + PATIENT_S
        while True:
            try:
                return await self.call(name, request)
            except CallerError as error:
                if error.code != Code.UNAVAILABLE or running_loop().time() > until:
                    raise
            await asyncio.sleep(0.2)


def draw_config(stream: random.Random) -> WorldConfig:
    """Small bounds and long latencies show what large and short ones hide, and the other way round."""
    shard = ShardConfig(
        group_entries_max=stream.choice([1, 2, 5, 2_000]),
        checkpoint_interval_ns=stream.choice([50_000_000, 500_000_000, 5_000_000_000]),
        checkpoint_entries_max=stream.choice([5, 50, 20_000]),
        idle_runs_in_memory_max=stream.choice([0, 3, 2_000]),
        timer_horizon_ns=stream.choice([2_000_000_000, 60_000_000_000]),
    )
    limits = Limits(history_page_events_max=stream.choice([10, 30, 1_000]))
    return WorldConfig(
        shards=stream.choice([1, 2, 4]),
        shard=shard,
        limits=limits,
        store_latency_s_max=stream.choice([0.0, 0.005, 0.05]),
        wire_delay_s_max=stream.choice([0.001, 0.02, 0.2]),
    )
