"""Verification between the two regions of `two_regions.py`, and the planting of what it must find."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

from cluster.core.errors import unavailable
from cluster.core.state import RunState, decode_state, encode_state
from cluster.stores.base import Lease, RunKey, ShardId, Snapshot
from replication.verify import VerifyReport, VerifyService
from replication.verify_limits import VerifyLimits
from replication.verify_node import ThisNode, ThisRegion
from tests.history.world import NAMESPACE
from tests.replication.two_regions import Pair, RegionWorld

LIMITS = VerifyLimits(page_runs=3, prefixes_at_once=5, answer_bytes_max=500, settle_s_max=5.0, heal_s_max=10.0)


class MemoryPort:
    """replication/port.py without a network. The other region answers as long as it lives and is linked."""

    def __init__(self, pair: Pair, world: RegionWorld) -> None:
        self.pair, self.world = pair, world
        self.here = world.name
        self.other: MemoryPort
        self.asked_count = 0
        self._answerers: dict[str, Callable[[str, bytes], Awaitable[bytes]]] = {}

    def answer(self, method: str, answerer: Callable[[str, bytes], Awaitable[bytes]]) -> None:
        self._answerers[method] = answerer

    async def ask(self, peer: str, method: str, data: bytes, timeout_s: float = 10.0) -> bytes:
        other = self.other
        if peer != other.here or not other.world.is_alive or not self.pair.is_linked:
            raise unavailable("nobody answers")
        self.asked_count += 1

        async def answer() -> bytes:
            return await other._answerers[method](self.here, data)

        found: bytes = await other.world.inside(answer)
        return found

    def peers(self) -> list[str]:
        return list(self.world.peers)


class Comparing:
    """Of the lives that the two regions have now: after a restart another one is made."""

    def __init__(self, pair: Pair, limits: VerifyLimits = LIMITS) -> None:
        self.ports = MemoryPort(pair, pair.one), MemoryPort(pair, pair.two)
        self.ports[0].other, self.ports[1].other = self.ports[1], self.ports[0]
        self.services = [self._service(port, limits) for port in self.ports]

    def _service(self, port: MemoryPort, limits: VerifyLimits) -> VerifyService:
        life = port.world.region_life
        node = ThisNode(port.here, life.history, life.region, life.spawn, lambda peer, namespace: True, limits)
        region = ThisRegion(node, port.world.shards_count, list)
        return VerifyService(
            port, region, port.world.clock, life.ids, lambda peer: [NAMESPACE.id], lambda: True, limits
        )

    async def verify(self, of: int = 0, *, is_fresh: bool = False, heals: bool = True, is_deep: bool = True) -> VerifyReport:
        port, service = self.ports[of], self.services[of]

        async def work() -> VerifyReport:
            return await service.verify(
                port.other.here, NAMESPACE.id, is_fresh=is_fresh, heals=heals, is_deep=is_deep
            )

        found: VerifyReport = await port.world.inside(work)
        return found


def told(report: VerifyReport) -> set[tuple[str, str]]:
    """Workflow ids, and what is wrong with them."""
    return {(one.workflow_id, one.what) for one in report.differences}


# --- planting ----------------------------------------------------------------------------------------------------------


async def tamper(pair: Pair, world: RegionWorld, work: Callable[[], Awaitable[None]]) -> None:
    """Works on a region's store while it is down, with nothing of it left in the journal or in memory."""
    await world.settle(1)
    await world.checkpoint()
    world.crash()
    await work()
    await pair.restart(world)
    await world.settle(1)


async def lease_of(world: RegionWorld, workflow_id: str) -> Lease:
    return await world.store.acquire(ShardId(world_shard(world, workflow_id)), "tamperer")


def world_shard(world: RegionWorld, workflow_id: str) -> int:
    digest = hashlib.blake2b(f"{NAMESPACE.id}/{workflow_id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % world.shards_count


async def row_of(world: RegionWorld, workflow_id: str, run_id: str) -> Snapshot:
    row = await world.store.load(ShardId(world_shard(world, workflow_id)), RunKey(NAMESPACE.id, workflow_id, run_id))
    assert row is not None
    return row


async def rewrite_state(world: RegionWorld, workflow_id: str, run_id: str, change: Callable[[RunState], None]) -> None:
    row = await row_of(world, workflow_id, run_id)
    state = decode_state(row.data)
    change(state)
    changed = Snapshot(row.key, encode_state(state), row.is_current, row.is_open, row.wake_at, row.changed_position)
    await world.store.checkpoint(await lease_of(world, workflow_id), [changed], [], [], 0)
