"""Two or three regions that fail over: real registries, witness, decisions and handovers, on virtual time and stores in memory.

    world = FailoverWorld("one", "two")        before a loop runs
    await world.begin(); world.kill("one")     regions die, ways between them and to the witness are cut, clocks are wrong
    world.shipped                              the stream is played: how far each region is told of the others' journals

The witness is a store in memory behind a way of its own per region (`WayToWitness`): late, lost, or done and reported as failed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from chaos.sim.loop import owned_by, running_loop
from chaos.sim.rand import SimClock, SimIds, Streams
from cluster.core.errors import unavailable
from cluster.namespaces.ownership_changes import OwnershipChanges
from cluster.namespaces.record import NamespaceRecord
from cluster.namespaces.regions import is_active_here
from cluster.namespaces.registry import NamespaceRegistry
from cluster.namespaces.remote_clusters import Cluster, RemoteClusters
from cluster.seams import JobSet
from cluster.stores.memory import MemoryStore
from replication import failover
from replication.automatic import AutomaticSettings
from replication.control import FailoverControl, FailoverSettings
from replication.failover import Ownership
from replication.failover_ports import FailoverPorts
from replication.failover_report import Backlog, ShardBacklog
from replication.handover import HandoverSettings
from replication.witness import LagNote, Register, WitnessUnavailable, WitnessUnknown
from replication.witness_lease import LeaseSettings
from replication.witness_store import StoreWitness

TTL_S = 10.0
SHARDS = 2
SETTINGS = FailoverSettings(
    lease=LeaseSettings(ttl_s=TTL_S),
    automatic=AutomaticSettings(failing_s=4.0, probe_timeout_s=1.0, cool_down_s=300.0, stagger_s=8.0),
    handover=HandoverSettings(timeout_s=20.0, freeze_s=5.0, drain_events_max=10),
)


class WayToWitness:
    """One region's. delay_s: the longest, each way. failing: the share of calls that fail, each in its own manner."""

    kind = "simulated"

    def __init__(self, truth: StoreWitness, draw: random.Random, delay_s: float = 0.0, failing: float = 0.0) -> None:
        self._truth, self._draw = truth, draw
        self.delay_s, self.failing = delay_s, failing
        self.is_cut = False
        self.late: list[asyncio.Task[None]] = []

    async def _travel(self) -> None:
        if self.delay_s:
            await asyncio.sleep(self._draw.uniform(0, self.delay_s))
        if self.is_cut:
            await asyncio.sleep(1.5)
            raise WitnessUnavailable("cut off")

    async def read(self, key: str) -> Register | None:
        await self._travel()
        if self._draw.random() < self.failing:
            raise WitnessUnavailable("lost")
        found = await self._truth.read(key)
        await self._travel()
        return found

    async def list(self, prefix: str) -> Mapping[str, Register]:
        await self._travel()
        if self._draw.random() < self.failing:
            raise WitnessUnavailable("lost")
        found = await self._truth.list(prefix)
        await self._travel()
        return found

    async def swap(self, key: str, data: bytes, expected_version: int) -> int | None:
        await self._travel()
        fate = self._draw.random() / self.failing if self.failing else 9.0
        if fate < 0.25:
            raise WitnessUnavailable("lost on the way")
        if fate < 0.5:
            self.late.append(asyncio.get_running_loop().create_task(self._later(key, data, expected_version)))
            raise WitnessUnknown("no answer, and it may come late")
        version = await self._truth.swap(key, data, expected_version)
        if fate < 1.0:
            raise WitnessUnknown("done, and the answer lost")
        try:
            await self._travel()
        except WitnessUnavailable as cut:
            raise WitnessUnknown("cut off before the answer came") from cut
        return version

    async def _later(self, key: str, data: bytes, expected_version: int) -> None:
        await asyncio.sleep(self._draw.uniform(0, 4 * self.delay_s + 1))
        await self._truth.swap(key, data, expected_version)

    async def close(self) -> None:
        """The truth goes on."""


class Calls:
    """replication.port.RegionPort, over a way that may be cut."""

    def __init__(self, world: FailoverWorld, here: str) -> None:
        self._world, self.here = world, here
        self.answerers: dict[str, Callable[[str, bytes], Awaitable[bytes]]] = {}

    def peers(self) -> list[str]:
        return [name for name in self._world.names if name != self.here]

    def answer(self, method: str, answerer: Callable[[str, bytes], Awaitable[bytes]]) -> None:
        assert method not in self.answerers
        self.answerers[method] = answerer

    async def ask(self, peer: str, method: str, data: bytes, timeout_s: float = 10.0) -> bytes:
        world = self._world
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(world.delay_s)
                if not world.can_reach(self.here, peer):
                    await asyncio.sleep(world.refusal_s)
                    raise unavailable(f"region {peer} cannot be reached")
                there = world.regions[peer]
                with owned_by(there.owner):
                    job = asyncio.get_running_loop().create_task(there.serve(method, self.here, data))
                # Whoever asks may give up; the work goes on there, or is dead.
                job.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
                answer = await asyncio.shield(job)
                await asyncio.sleep(world.delay_s)
                if not world.can_reach(peer, self.here):
                    raise unavailable(f"the answer of region {peer} was lost")
                return answer
        except TimeoutError:
            raise unavailable(f"region {peer} did not answer in time") from None


class FailoverRegion:
    """One region of one node; `shards` is what its stream looks like."""

    def __init__(self, world: FailoverWorld, name: str, number: int) -> None:
        self.world, self.name = world, name
        self.life = 0
        self.is_alive = False
        self.store = MemoryStore()
        own = Cluster(name=name, initial_failover_version=number, address=f"{name}:7233", shard_count=SHARDS)
        self.cluster = own
        self.way = WayToWitness(world.truth, world.streams(f"way of {name}"))
        self.skew_ns = 0
        self.rate = 1.0
        self.is_strict = False
        self.is_healthy = True
        self.knows_lag = True
        self.settings = world.settings
        # What the stream would say: position of each shard, by peer how far that is told, and what waits of each namespace.
        self.last_position = dict.fromkeys(range(SHARDS), 100)
        self.cursors: dict[str, dict[int, int]] = {}
        self.is_catching_up = False
        self.unaware_until_s = 0.0  # its shards' nodes do not know of a freeze before
        self.quarantined_count = 0
        self.lag: dict[str, LagNote] = {other: LagNote() for other in world.names if other != name}

    @property
    def owner(self) -> str:
        return f"{self.name}#{self.life}"

    async def start(self) -> None:
        self.life += 1
        self.is_alive = True
        with owned_by(self.owner):
            await asyncio.get_running_loop().create_task(self._start())

    async def _start(self) -> None:
        world = self.world
        loop = running_loop()
        self.clock = SimClock(loop.now_ns, skew_ns=self.skew_ns)
        ids = SimIds(Streams(self.life)(f"ids of {self.name}"))
        clusters = RemoteClusters(self.store, self.cluster, world.ask)
        self.registry = NamespaceRegistry(self.store, self.clock, ids, here=self.name, clusters=clusters)
        await self.registry.load()
        for other in world.names:
            if other != self.name:
                await self.registry.add_or_update_cluster(f"{other}:7233", "", True, True)
        self.ownership = OwnershipChanges(self.registry._rows, self.name)
        self.calls = Calls(world, self.name)
        self.jobs = JobSet(world.job_failed)
        ports = FailoverPorts(
            calls=self.calls,
            namespaces=self.registry,
            change_ownership=self.ownership.change_ownership,
            regions=clusters.regions,
            backlog=self.backlog,
            lag=self._lag,
            quarantined=self._quarantined,
            is_leading=lambda: True,
            is_healthy=lambda: self.is_healthy,
            clock=self.clock,
            ids=ids,
            spawn=self.jobs,
            now_s=lambda: loop.time() * self.rate,
        )
        settings = msgspec.structs.replace(
            self.settings, lease=msgspec.structs.replace(self.settings.lease, is_strict=self.is_strict)
        )
        witness = self.way if world.has_witness else None
        self.control = FailoverControl(ports, settings, f"node of {self.name} {self.life}", witness)
        self.ownership.before_move = self.control.before_move
        self.control.start()

    async def serve(self, method: str, peer: str, data: bytes) -> bytes:
        return await self.calls.answerers[method](peer, data)

    async def backlog(self, namespace_id: str, peer: str) -> Backlog:
        record = self.registry.cached_by_id(namespace_id)
        assert record is not None
        is_frozen = not is_active_here(record, self.name) and asyncio.get_running_loop().time() >= self.unaware_until_s
        cursors = self.cursors.get(peer, self.last_position)
        shards = {
            number: ShardBacklog(last, cursors[number], last - cursors[number], self.is_catching_up, is_frozen)
            for number, last in self.last_position.items()
        }
        return Backlog(SHARDS, shards)

    async def _lag(self) -> dict[str, LagNote]:
        if not self.knows_lag:
            raise unavailable("a node of the region does not answer")
        return self.lag

    async def _quarantined(self, namespace_id: str) -> int:
        return self.quarantined_count

    def record(self, name: str = "orders") -> NamespaceRecord:
        record = self.registry.cached(name)
        assert record is not None, f"{self.name} has no namespace {name}"
        return record

    async def inside(self, job: Callable[[], Awaitable[object]]) -> object:
        """As a job of the region's node: it dies with it."""

        async def run() -> object:
            return await job()

        with owned_by(self.owner):
            return await asyncio.get_running_loop().create_task(run())


class FailoverWorld:
    def __init__(self, *names: str, seed: int = 1, has_witness: bool = True, settings: FailoverSettings = SETTINGS) -> None:
        self.names, self.settings, self.has_witness = names, settings, has_witness
        self.streams = Streams(seed)
        self.truth = StoreWitness(MemoryStore())
        self.delay_s, self.refusal_s = 0.01, 0.1
        self.cuts: set[tuple[str, str]] = set()
        self.failed: list[str] = []
        self.regions = {name: FailoverRegion(self, name, number) for number, name in enumerate(names, 1)}

    def __getitem__(self, name: str) -> FailoverRegion:
        return self.regions[name]

    async def ask(self, address: str) -> Cluster:
        return self.regions[address.removesuffix(":7233")].cluster

    def job_failed(self, name: str, failure: BaseException) -> None:
        self.failed.append(f"{name}: {failure!r}")

    async def begin(self, *namespaces: str, clusters: tuple[str, ...] = ()) -> None:
        """All namespaces belong to the first region at first."""
        for region in self.regions.values():
            await region.start()
        for name in namespaces or ("orders",):
            await self.add_namespace(name, clusters or self.names)

    async def add_namespace(self, name: str, clusters: tuple[str, ...]) -> None:
        first = self.regions[clusters[0]]
        made = NamespaceRecord(
            id=f"id of {name}", name=name, retention_ns=1, created_at=1, clusters=list(clusters), active_cluster=clusters[0]
        )
        known = first.registry.clusters.regions()
        record = made.owned(failover.promote(Ownership(active=clusters[0]), known, clusters[0]))
        for member in clusters:
            assert await self.regions[member].registry._rows.put(record, 0)

    # --- trouble -----------------------------------------------------------------------------------------------------------
    def kill(self, name: str) -> None:
        region = self.regions[name]
        region.is_alive = False
        running_loop().kill(region.owner)

    def can_reach(self, one: str, other: str) -> bool:
        return other in self.regions and self.regions[other].is_alive and (one, other) not in self.cuts

    def cut(self, one: str, other: str) -> None:
        self.cuts |= {(one, other), (other, one)}

    def heal(self) -> None:
        self.cuts.clear()
        for region in self.regions.values():
            region.way.is_cut = False

    # --- looking -----------------------------------------------------------------------------------------------------------
    def owners(self, name: str = "orders") -> dict[str, str]:
        """Who each living region says owns it."""
        return {one.name: one.record(name).active_cluster for one in self.regions.values() if one.is_alive}

    async def until(self, is_true: Callable[[], bool], within_s: float) -> float:
        """Virtual seconds that it took."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while not is_true():
            assert loop.time() < began_s + within_s, f"not within {within_s} s: {self.describe()}"
            await asyncio.sleep(0.05)
        return loop.time() - began_s

    def describe(self) -> str:
        return "\n".join(f"{one.name}: {one.control.status()}" for one in self.regions.values() if one.is_alive)
