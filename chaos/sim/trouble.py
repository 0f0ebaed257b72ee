"""What befalls whole nodes, the ways between them and the registry, at seeded moments, until healing begins.

One node: crash, graceful stop, pause. A cluster: also machines without power, pauses beyond the lease, cuts one way and both,
slow links, a registry that is away, out of one node's reach or without its data, and nodes that are added.
Troubles overlap; one node has one trouble of its own at a time. Each ends by itself or by `heal`, which puts everything right.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import StrEnum

from chaos.sim.loop import running_loop
from chaos.sim.network import SLOW_BYTES_PER_S
from chaos.sim.nodes import NodeSlot
from chaos.sim.rand import Streams
from chaos.sim.region import Region, SimNode

LEASE_S = 5.0


class NodeTrouble(StrEnum):
    CRASH = "crash"
    GRACEFUL_STOP = "graceful_stop"
    PAUSE = "pause"  # shorter than a membership lease
    LONG_PAUSE = "long_pause"  # longer: its shards are others' when it goes on
    MACHINE_CRASH = "machine_crash"  # no peer is told
    NODE_ADDED = "node_added"
    CUT = "cut"
    CUT_ONE_WAY = "cut_one_way"
    SLOW_LINK = "slow_link"
    REGISTRY_DOWN = "registry_down"
    REGISTRY_OUT_OF_REACH = "registry_out_of_reach"  # of one node
    REGISTRY_WITHOUT_DATA = "registry_without_data"


WEIGHTS = {
    NodeTrouble.CRASH: 6,
    NodeTrouble.GRACEFUL_STOP: 3,
    NodeTrouble.PAUSE: 2,
    NodeTrouble.LONG_PAUSE: 3,
    NodeTrouble.MACHINE_CRASH: 2,
    NodeTrouble.NODE_ADDED: 0,  # by its own hour
    NodeTrouble.CUT: 2,
    NodeTrouble.CUT_ONE_WAY: 2,
    NodeTrouble.SLOW_LINK: 1,
    NodeTrouble.REGISTRY_DOWN: 1,
    NodeTrouble.REGISTRY_OUT_OF_REACH: 2,
    NodeTrouble.REGISTRY_WITHOUT_DATA: 1,
}
OF_ONE_NODE = (NodeTrouble.CRASH, NodeTrouble.GRACEFUL_STOP, NodeTrouble.PAUSE)


class Trouble:
    """`run` until `heal`, in one region. name: of its stream of draws."""

    def __init__(self, region: Region, streams: Streams, name: str = "trouble") -> None:
        self.region = region
        self.injected: Counter[str] = Counter()
        self._draw = draw = streams(name)
        self._healing = asyncio.Event()
        self._busy: set[str] = set()
        self._jobs: list[asyncio.Task[None]] = []
        self.is_cluster = region.config.nodes > 1
        self.every_s = draw.choice([0.0, 3.0, 10.0]) if not self.is_cluster else draw.choice([0.0, 1.5, 4.0, 10.0])
        kinds = list(NodeTrouble) if self.is_cluster else list(OF_ONE_NODE)
        kinds = [kind for kind in kinds if WEIGHTS[kind]]
        # Some seeds know few kinds and those often: what only a repetition shows is found by them.
        self.kinds = [kind for kind in kinds if draw.random() < 0.5] if self.is_cluster else kinds
        self.kinds = self.kinds or [draw.choice(kinds)]
        self.joins_at_s = [round(draw.uniform(0.0, 20.0), 3) for _ in self.slots[region.config.begin_with :]]

    def drew(self) -> str:
        kinds = " ".join(self.kinds)
        return f"trouble every {self.every_s} s of {kinds}; nodes {self.region.config.nodes}, later ones at {self.joins_at_s} s"

    @property
    def slots(self) -> list[NodeSlot[SimNode]]:
        return list(self.region.slots.values())

    async def run(self) -> None:
        loop = running_loop()
        for slot, at_s in zip(self.slots[self.region.config.begin_with :], self.joins_at_s, strict=True):
            self._busy.add(slot.name)
            self._jobs.append(loop.create_task(self._add(slot, at_s)))
        while self.every_s and not await self.is_over(self._draw.uniform(0, 2 * self.every_s)):
            kind = self._draw.choices(self.kinds, [WEIGHTS[kind] for kind in self.kinds])[0]
            does: Callable[[], Awaitable[bool]] = getattr(self, f"_{kind}")
            self._jobs.append(loop.create_task(self._do(kind, does)))
        await asyncio.gather(*self._jobs)

    async def is_over(self, after_s: float) -> bool:
        """Whether healing has begun, at the latest after that time."""
        try:
            async with asyncio.timeout(after_s):
                await self._healing.wait()
        except TimeoutError:
            return False
        return True

    def heal(self) -> None:
        """Every trouble under way ends now; `run` returns when that is done."""
        self._healing.set()

    async def _do(self, kind: NodeTrouble, does: Callable[[], Awaitable[bool]]) -> None:
        if await does():
            self.injected[kind] += 1

    # --- of a node --------------------------------------------------------------------------------------------------------
    def _pick(self) -> NodeSlot[SimNode] | None:
        """A node that lives and is left alone otherwise; it is the caller's until `_busy` forgets it."""
        free = [slot for slot in self.slots if slot.node is not None and slot.name not in self._busy]
        if not free:
            return None
        slot = self._draw.choice(free)
        self._busy.add(slot.name)
        return slot

    def claim_all(self) -> list[NodeSlot[SimNode]]:
        """All nodes that live and are left alone otherwise; they are the caller's until `release`."""
        free = [slot for slot in self.slots if slot.node is not None and slot.name not in self._busy]
        self._busy |= {slot.name for slot in free}
        return free

    def release(self, slots: list[NodeSlot[SimNode]]) -> None:
        self._busy -= {slot.name for slot in slots}

    async def _crash(self, is_machine: bool = False) -> bool:
        if (slot := self._pick()) is None:
            return False
        self.region.crash(slot, is_machine)
        await self.is_over(self._draw.uniform(0, self._draw.choice([1.0, 1.0, 2 * LEASE_S]) if self.is_cluster else 1.0))
        await self.region.start(slot)
        self._busy.discard(slot.name)
        return True

    async def _machine_crash(self) -> bool:
        return await self._crash(is_machine=True)

    async def _graceful_stop(self) -> bool:
        if (slot := self._pick()) is None:
            return False
        await self.region.stop(slot)
        await self.is_over(self._draw.uniform(0, self._draw.choice([1.0, 2 * LEASE_S]) if self.is_cluster else 1.0))
        await self.region.start(slot)
        self._busy.discard(slot.name)
        return True

    async def _pause(self, least_s: float = 0.1, most_s: float = LEASE_S - 1) -> bool:
        if (slot := self._pick()) is None:
            return False
        slot.pause()
        await self.is_over(self._draw.uniform(least_s, most_s))
        slot.resume()
        self._busy.discard(slot.name)
        return True

    async def _long_pause(self) -> bool:
        return await self._pause(LEASE_S + 0.5, 4 * LEASE_S)

    async def _add(self, slot: NodeSlot[SimNode], at_s: float) -> None:
        if not await self.is_over(at_s):
            self.injected[NodeTrouble.NODE_ADDED] += 1
        await self.region.start(slot)
        self._busy.discard(slot.name)

    # --- of the ways ------------------------------------------------------------------------------------------------------
    def _pair(self) -> tuple[str, str]:
        one, other = self._draw.sample([slot.name for slot in self.slots], 2)
        return one, other

    async def _cut(self, is_one_way: bool = False) -> bool:
        one, other = self._pair()
        resets = self._draw.random() < 0.5
        self.region.fabric.cut(one, other, is_one_way)
        await self.is_over(self._draw.uniform(0.2, 4 * LEASE_S))
        self.region.fabric.heal(one, other, resets)
        return True

    async def _cut_one_way(self) -> bool:
        return await self._cut(is_one_way=True)

    async def _slow_link(self) -> bool:
        one, other = self._pair()
        self.region.fabric.slow(one, other, SLOW_BYTES_PER_S)
        await self.is_over(self._draw.uniform(1.0, 2 * LEASE_S))
        self.region.fabric.slow(one, other, None)
        return True

    # --- of the registry --------------------------------------------------------------------------------------------------
    async def _registry_down(self, has_lost_data: bool = False) -> bool:
        etcd = self.region.etcd
        if not etcd.is_up:
            return False
        etcd.go_down()
        await self.is_over(self._draw.uniform(0.2, 4 * LEASE_S))
        etcd.come_up(has_lost_data)
        return True

    async def _registry_without_data(self) -> bool:
        return await self._registry_down(has_lost_data=True)

    async def _registry_out_of_reach(self) -> bool:
        host = self._draw.choice(self.slots).name
        self.region.etcd.reach(host, False)
        await self.is_over(self._draw.uniform(0.2, 4 * LEASE_S))
        self.region.etcd.reach(host, True)
        return True
