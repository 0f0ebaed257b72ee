"""What befalls whole regions and the ways between them, at seeded moments, until healing begins.

Besides it, each region has troubles of its own (trouble.py), and namespaces move (failovers.py). Troubles overlap; each ends by
itself or by `heal`. A disaster is a region that is gone or cut off while its namespaces are taken by another.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import StrEnum

from chaos.sim.between import Between
from chaos.sim.failovers import Failovers
from chaos.sim.loop import running_loop
from chaos.sim.network import SLOW_BYTES_PER_S
from chaos.sim.rand import Streams
from chaos.sim.region import Region
from chaos.sim.trouble import Trouble
from chaos.sim.world import World

LASTS_S = (0.3, 20.0)
JUMP_S_MAX = 300.0


class RegionFault(StrEnum):
    CUT = "regions_cut"
    CUT_ONE_WAY = "regions_cut_one_way"
    PART_CUT = "regions_cut_in_part"  # some nodes of either side
    SWIZZLE = "regions_swizzled"  # ways cut one by one, and healed in another order
    SLOW = "regions_slow"
    BREAK = "region_links_reset"
    KILL = "region_killed"
    PAUSE = "region_paused"
    CLOCK_JUMP = "clock_jump"
    DISASTER = "region_disaster"


WEIGHTS = {
    RegionFault.CUT: 3,
    RegionFault.CUT_ONE_WAY: 3,
    RegionFault.PART_CUT: 2,
    RegionFault.SWIZZLE: 2,
    RegionFault.SLOW: 1,
    RegionFault.BREAK: 3,
    RegionFault.KILL: 2,
    RegionFault.PAUSE: 1,
    RegionFault.CLOCK_JUMP: 1,
    RegionFault.DISASTER: 3,
}


class RegionTrouble:
    """`run` until `heal`."""

    def __init__(
        self, world: World, between: Between, streams: Streams, failovers: Failovers, troubles: dict[str, Trouble]
    ) -> None:
        self.world, self.between, self.failovers, self.troubles = world, between, failovers, troubles
        self.injected: Counter[str] = Counter()
        self._draw = draw = streams("trouble of regions")
        self._healing = asyncio.Event()
        self._jobs: list[asyncio.Task[None]] = []
        self.every_s = draw.choice([0.0, 2.0, 5.0, 12.0])
        kinds = list(RegionFault) if failovers.forced_share else [kind for kind in RegionFault if kind != RegionFault.DISASTER]
        self.kinds = [kind for kind in kinds if draw.random() < 0.5] or [draw.choice(kinds)]

    def drew(self) -> str:
        return f"trouble between regions every {self.every_s} s of {' '.join(self.kinds)}"

    async def run(self) -> None:
        while self.every_s and not await self.is_over(self._draw.uniform(0, 2 * self.every_s)):
            kind = self._draw.choices(self.kinds, [WEIGHTS[kind] for kind in self.kinds])[0]
            does: Callable[[], Awaitable[bool]] = getattr(self, f"_{kind.name.lower()}")
            self._jobs.append(running_loop().create_task(self._do(kind, does)))
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
        self._healing.set()

    async def _do(self, kind: RegionFault, does: Callable[[], Awaitable[bool]]) -> None:
        running_loop().trace("region trouble", trouble=kind)
        if await does():
            self.injected[kind] += 1

    def _two(self) -> tuple[str, str]:
        one, other = self._draw.sample([region.name for region in self.world.regions], 2)
        return one, other

    async def _while_it_lasts(self) -> None:
        await self.is_over(self._draw.uniform(*LASTS_S))

    # --- ways -----------------------------------------------------------------------------------------------------------------
    async def _cut_pairs(self, pairs: list[tuple[str, str]]) -> bool:
        self.between.cut(pairs)
        await self._while_it_lasts()
        self.between.heal(pairs)
        return bool(pairs)

    async def _cut(self) -> bool:
        one, other = self._two()
        return await self._cut_pairs([*self.between.pairs(one, other), *self.between.pairs(other, one)])

    async def _cut_one_way(self) -> bool:
        return await self._cut_pairs(self.between.pairs(*self._two()))

    async def _part_cut(self) -> bool:
        one, other = self._two()
        pairs = [*self.between.pairs(one, other), *self.between.pairs(other, one)]
        return await self._cut_pairs([pair for pair in pairs if self._draw.random() < 0.5])

    async def _swizzle(self) -> bool:
        one, other = self._two()
        pairs = [*self.between.pairs(one, other), *self.between.pairs(other, one)]
        for heals in (False, True):
            self._draw.shuffle(pairs)
            for pair in pairs:
                (self.between.heal if heals else self.between.cut)([pair])
                await self.is_over(self._draw.uniform(0, 3.0))
        return True

    async def _slow(self) -> bool:
        pairs = self.between.pairs(*self._two())
        self.between.slow(pairs, SLOW_BYTES_PER_S)
        await self._while_it_lasts()
        self.between.slow(pairs, None)
        return True

    async def _break(self) -> bool:
        self.between.break_links(*self._two())
        return True

    # --- regions --------------------------------------------------------------------------------------------------------------
    async def _kill(self) -> bool:
        return await self._killed(self._draw.choice(self.world.regions))

    async def _killed(self, region: Region) -> bool:
        trouble = self.troubles[region.name]
        slots, is_machine = trouble.claim_all(), self._draw.random() < 0.5
        for slot in slots:
            region.crash(slot, is_machine)
        await self._while_it_lasts()
        await asyncio.gather(*(region.start(slot) for slot in slots))
        trouble.release(slots)
        return bool(slots)

    async def _pause(self) -> bool:
        region = self._draw.choice(self.world.regions)
        trouble = self.troubles[region.name]
        slots = trouble.claim_all()
        for slot in slots:
            slot.pause()
        await self._while_it_lasts()
        for slot in slots:
            slot.resume()
        trouble.release(slots)
        return bool(slots)

    async def _clock_jump(self) -> bool:
        region = self._draw.choice(self.world.regions)
        host = self._draw.choice(list(region.slots))
        by_ns = round(self._draw.uniform(-JUMP_S_MAX, JUMP_S_MAX) * 1e9)
        region.skews_ns[host] = region.skews_ns.get(host, 0) + by_ns
        node = region.slots[host].node
        if node is not None:
            node.clock.jump(by_ns)
        running_loop().trace("clock jump", node=host, by_ns=by_ns)
        return True

    async def _disaster(self) -> bool:
        """The owner of a namespace is gone, or hears and says nothing; another region takes all that it had."""
        name = self._draw.choice(self.failovers.namespaces)
        record = self.failovers.newest(name)
        if record is None:
            return False
        owner = next(region for region in self.world.regions if region.name == record.active_cluster)
        to = self._draw.choice(self.failovers.others_than(owner.name))
        ends = running_loop().create_task(self._killed(owner) if self._draw.random() < 0.5 else self._isolated(owner))
        await self.is_over(self._draw.uniform(0, 5.0))
        for each in self.failovers.namespaces:
            newest = self.failovers.newest(each)
            if newest is not None and newest.active_cluster == owner.name and not self._healing.is_set():
                await self.failovers.force(each, to)
        return await ends

    async def _isolated(self, region: Region) -> bool:
        pairs = []
        for other in self.failovers.others_than(region.name):
            pairs += [*self.between.pairs(region.name, other.name), *self.between.pairs(other.name, region.name)]
        return await self._cut_pairs(pairs)
