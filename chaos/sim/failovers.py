"""Namespaces move between regions: gracefully, by force, back again, at seeded moments until healing begins.

graceful   the owner freezes the namespace, waits until the other region has all of it, and gives it away; or thaws it
forced     the other region takes it, whatever the owner believes: then both write until they hear of each other
"""

from __future__ import annotations

import asyncio
from collections import Counter
from enum import StrEnum

from temporalio.api.enums.v1 import ReplicationState
from temporalio.api.workflowservice import v1 as api

from chaos.sim.loop import running_loop
from chaos.sim.nodes import NodeDied
from chaos.sim.rand import Streams
from chaos.sim.region import Region
from chaos.sim.world import World
from cluster.core.errors import CallerError
from cluster.namespaces.record import HANDOVER, NORMAL, NamespaceRecord
from replication.failover_report import Kind

DRAIN_S_MAX = 4.0
CONTROL_S_MAX = 60.0
SETTLED_S_MAX = 60.0
LOOK_S = 0.1


class FailoverKind(StrEnum):
    GRACEFUL = "graceful_failover"
    ABORTED = "aborted_failover"  # a graceful one that could not be finished in time
    FORCED = "forced_failover"


class Failovers:
    """`run` until `heal`; `settle` then."""

    def __init__(self, world: World, streams: Streams, namespaces: list[str]) -> None:
        self.world, self.namespaces = world, namespaces
        self.injected: Counter[str] = Counter()
        self._draw = draw = streams("failovers")
        self._healing = asyncio.Event()
        self._busy: set[str] = set()
        self._jobs: list[asyncio.Task[None]] = []
        self.every_s = draw.choice([2.0, 6.0, 15.0])
        self.forced_share = draw.choice([0.0, 0.0, 0.5, 1.0])

    def drew(self) -> str:
        return f"failovers every {self.every_s} s, {self.forced_share} of them forced, of {' '.join(self.namespaces)}"

    @property
    def is_graceful(self) -> bool:
        """Nothing was ever forced."""
        return not self.injected[FailoverKind.FORCED]

    async def run(self) -> None:
        while not await self.is_over(self._draw.uniform(0, 2 * self.every_s)):
            name = self._draw.choice(self.namespaces)
            if name in self._busy:
                continue
            does = self._forced(name) if self._draw.random() < self.forced_share else self._graceful(name)
            self._jobs.append(running_loop().create_task(does))
        await asyncio.gather(*self._jobs)

    async def is_over(self, after_s: float) -> bool:
        try:
            async with asyncio.timeout(after_s):
                await self._healing.wait()
        except TimeoutError:
            return False
        return True

    def heal(self) -> None:
        self._healing.set()

    # --- who has it ---------------------------------------------------------------------------------------------------------
    def records(self, name: str) -> dict[str, NamespaceRecord]:
        """What each region's nodes last read of the namespace, the newest of each."""
        found: dict[str, NamespaceRecord] = {}
        for region in self.world.regions:
            for node in region.nodes:
                record = node.assembly.namespaces.cached(name)
                if record is not None and (region.name not in found or _age(record) > _age(found[region.name])):
                    found[region.name] = record
        return found

    def newest(self, name: str) -> NamespaceRecord | None:
        return max(self.records(name).values(), key=_age, default=None)

    def others_than(self, owner: str) -> list[Region]:
        return [region for region in self.world.regions if region.name != owner]

    # --- by force -------------------------------------------------------------------------------------------------------------
    async def _forced(self, name: str) -> None:
        record = self.newest(name)
        if record is None:
            return
        await self.force(name, self._draw.choice(self.others_than(record.active_cluster)))

    async def force(self, name: str, to: Region) -> bool:
        """Asked of the region that shall have it, a few times."""
        self._busy.add(name)
        request = api.UpdateNamespaceRequest(namespace=name)
        request.replication_config.active_cluster_name = to.name
        self.injected[FailoverKind.FORCED] += 1  # whatever the answer: it may have been done
        done = await self._say(to, request, 5)
        running_loop().trace("forced failover", namespace=name, to=to.name, done=done)
        self._busy.discard(name)
        return done

    # --- gracefully -------------------------------------------------------------------------------------------------------------
    async def _graceful(self, name: str) -> None:
        """By the words of the public API, or by the server's own handover."""
        record = self.newest(name)
        if record is None:
            return
        if self._draw.random() < 0.5:
            await self._by_control(name, record.active_cluster)
            return
        self._busy.add(name)
        owner = next(region for region in self.world.regions if region.name == record.active_cluster)
        to = self._draw.choice(self.others_than(owner.name))
        running_loop().trace("handover begins", namespace=name, owner=owner.name, to=to.name)
        done = await self._set_state(owner, name, HANDOVER, 3) and await self._drained(owner, to, record.id)
        if done:
            request = api.UpdateNamespaceRequest(namespace=name)
            request.replication_config.active_cluster_name = to.name
            done = await self._say(owner, request, 1)
        if not done:
            await self._thaw(owner, name)
        kind = FailoverKind.GRACEFUL if done else FailoverKind.ABORTED
        self.injected[kind] += 1
        running_loop().trace("handover ends", namespace=name, owner=owner.name, to=to.name, done=done)
        self._busy.discard(name)

    async def _by_control(self, name: str, owner: str) -> None:
        """Asked of any node of any region, which asks the owner."""
        self._busy.add(name)
        to = self._draw.choice(self.others_than(owner)).name
        slots = [slot for region in self.world.regions for slot in region.slots.values() if slot.node is not None]
        done = False
        if slots:
            slot = self._draw.choice(slots)
            node = slot.node
            assert node is not None and node.assembly.regions is not None
            failovers = node.assembly.regions.control.failovers
            running_loop().trace("handover asked for", namespace=name, to=to, node=slot.name)
            try:
                async with asyncio.timeout(CONTROL_S_MAX):
                    report = await slot.run_inside(lambda: failovers.fail_over(name, to, Kind.GRACEFUL, DRAIN_S_MAX), "fail over")
                done = report.is_done
                running_loop().trace("handover answered", namespace=name, to=to, done=done, reason=report.reason)
            except (CallerError, NodeDied, TimeoutError) as error:
                running_loop().trace("handover failed", namespace=name, to=to, error=type(error).__name__)
        self.injected[FailoverKind.GRACEFUL if done else FailoverKind.ABORTED] += 1
        self._busy.discard(name)

    async def _drained(self, owner: Region, to: Region, namespace_id: str) -> bool:
        until = running_loop().time() + DRAIN_S_MAX
        while not _has_told_all(owner, to.name, namespace_id):
            if running_loop().time() > until or self._healing.is_set():
                return False
            await asyncio.sleep(LOOK_S)
        return True

    async def _thaw(self, owner: Region, name: str) -> None:
        """Back to normal, as the owner does it by itself when a handover is overdue. It may be given away already."""
        while not await self._set_state(owner, name, NORMAL, 1):
            record = self.records(name).get(owner.name)
            if self._healing.is_set() or (record is not None and record.active_cluster != owner.name):
                return
            await asyncio.sleep(0.5)

    async def _set_state(self, owner: Region, name: str, state: ReplicationState.ValueType, tries: int) -> bool:
        request = api.UpdateNamespaceRequest(namespace=name)
        request.replication_config.state = state
        return await self._say(owner, request, tries)

    async def _say(self, region: Region, request: api.UpdateNamespaceRequest, tries: int) -> bool:
        for _ in range(tries):
            try:
                await self.world.doors[region.name].call("UpdateNamespace", request, 5.0, caller=f"operator of {region.name}")
                return True
            except CallerError as error:
                running_loop().trace("operator refused", region=region.name, error=f"{error.code.name}: {error.message}")
            await asyncio.sleep(0.3)
        return False

    # --- at the end -------------------------------------------------------------------------------------------------------------
    async def settle(self) -> list[str]:
        """All regions agree on who has what, and nothing is frozen; what is wrong otherwise."""
        until = running_loop().time() + SETTLED_S_MAX
        while True:
            wrong = [text for name in self.namespaces if (text := self._disagreement(name))]
            if not wrong or running_loop().time() > until:
                return wrong
            for name in self.namespaces:
                record = self.newest(name)
                if record is not None and record.replication_state == HANDOVER:
                    owner = next(region for region in self.world.regions if region.name == record.active_cluster)
                    await self._set_state(owner, name, NORMAL, 1)
            await asyncio.sleep(0.5)

    def _disagreement(self, name: str) -> str:
        owned = {
            f"{node.host}": _age(record) if (record := node.assembly.namespaces.cached(name)) is not None else ()
            for region in self.world.regions
            for node in region.nodes
        }
        states = {record.replication_state for record in self.records(name).values()}
        if len(set(owned.values())) == 1 and states == {NORMAL}:
            return ""
        return f"I29: the regions do not agree on who has {name}: {owned}, states {sorted(states)}"


def _age(record: NamespaceRecord) -> tuple[int, int]:
    return record.failover_version, record.failover_revision


def _has_told_all(owner: Region, to: str, namespace_id: str) -> bool:
    """Whether every shard of the owner is open, all of it is durable, and the other region has acknowledged it."""
    seen: set[int] = set()
    for node in owner.nodes:
        parts = node.assembly.regions
        assert parts is not None
        lags = parts.region.lag().get(to, {})
        feeds = parts.region.senders[to].feeds if to in parts.region.senders else {}
        for number, shard in node.history.ownership.open.items():
            lag = lags.get(number) if number in feeds and feeds[number].shard is shard else None
            is_durable = shard.is_open and shard.journal.durable_position == shard.journal.last_position
            if lag is None or not is_durable or lag.is_catching_up or lag.entries.get(namespace_id):
                return False
            seen.add(number)
    return len(seen) == owner.config.shards
