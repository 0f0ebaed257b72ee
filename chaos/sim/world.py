"""A simulated world: its regions, and the way of a client to their nodes.

One region, or several with a network between them (between.py), each with a disk, a registry, a network and nodes of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from chaos.sim.config import NAMESPACE, WorldConfig, draw_config
from chaos.sim.disk import ArchivedStore
from chaos.sim.loop import running_loop
from chaos.sim.nodes import NodeSlot
from chaos.sim.rand import Streams
from chaos.sim.region import Plans, Region, SimNode
from cluster.core.errors import CallerError, Code
from cluster.frontend.methods import METHODS

if TYPE_CHECKING:
    from chaos.sim.between import Between

__all__ = ["NAMESPACE", "Door", "World", "WorldConfig", "draw_config"]

PATIENT_S = 60.0
LEAVES_A_BAD_NODE = 0.6  # per failed call


class World:
    """The regions and everything that outlives their nodes. `doors` are how clients and workers get in."""

    def __init__(self, streams: Streams, config: WorldConfig, plans: Plans, further: Sequence[WorldConfig] = ()) -> None:
        """config: the first region's; further: those of the other regions."""
        self.streams = streams
        self.config = config
        self.between: Between | None = None  # set by whoever makes a world of several regions, before it starts
        self.unexpected: list[str] = []  # answers and ends that no server may give
        self.unexpected_causes: list[BaseException] = []
        self.failed_starts_count = 0
        self.regions = [Region(self, f"r{number}", plans, one) for number, one in enumerate([config, *further], 1)]
        self.doors = {region.name: Door(self, region) for region in self.regions}

    @property
    def region(self) -> Region:
        return self.regions[0]

    @property
    def disk(self) -> ArchivedStore:
        return self.region.disk

    @property
    def nodes(self) -> list[SimNode]:
        return self.region.nodes

    @property
    def slots(self) -> list[NodeSlot[SimNode]]:
        return list(self.region.slots.values())

    async def start(self) -> None:
        """The nodes that are there from the beginning, all at once."""
        starting = [
            region.start(slot) for region in self.regions for slot in list(region.slots.values())[: region.config.begin_with]
        ]
        await asyncio.gather(*starting)

    def blame(self, text: str, cause: BaseException | None = None) -> None:
        """Notes what no server may do; not while the jobs of a world that has ended are being cleared away."""
        if asyncio._get_running_loop() is not None:
            self.unexpected.append(text)
            self.unexpected_causes += [cause] if cause is not None else []

    def job_failed(self, name: str, failure: BaseException) -> None:
        self.blame(f"background job {name} ended by {type(failure).__name__}: {failure}", failure)

    def calm_clients(self, delay_s_max: float) -> None:
        for region in self.regions:
            for wire in region.wires.values():
                wire.delay_s_max = min(wire.delay_s_max, delay_s_max)

    async def call(
        self,
        name: str,
        request: Message,
        deadline_s: float = 10.0,
        on_sent: Callable[[], None] | None = None,
        caller: str = "story",
        via: str | None = None,
    ) -> Any:
        """Through the first region's door."""
        return await self.doors[self.region.name].call(name, request, deadline_s, on_sent, caller, via)

    async def call_patiently(self, name: str, request: Message) -> Any:
        return await self.doors[self.region.name].call_patiently(name, request)


class Door:
    """One region as clients and workers see it: each sticks to a node until that fails, and sometimes changes without need."""

    def __init__(self, world: World, region: Region) -> None:
        self.world, self.region = world, region
        self._chosen: dict[str, str] = {}  # caller -> the node it talks to

    @property
    def streams(self) -> Streams:
        return self.world.streams

    @property
    def unexpected(self) -> list[str]:
        return self.world.unexpected

    async def call(
        self,
        name: str,
        request: Message,
        deadline_s: float = 10.0,
        on_sent: Callable[[], None] | None = None,
        caller: str = "story",
        via: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Any:
        """The response message. Raises CallerError. `on_sent` is called for every copy of the request that goes out.

        via: this node, for once. metadata: the call's headers."""
        data = request.SerializeToString()
        host = via or self._choose(caller)
        try:
            wire = self.region.wires[host]
            answer = await wire.call(name, lambda node: node.serve(name, data, deadline_s, metadata), deadline_s, on_sent)
        except CallerError as error:
            if via is None and error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
                self._leave(caller, LEAVES_A_BAD_NODE)
            raise
        return METHODS[name].response.FromString(answer)

    def _choose(self, caller: str) -> str:
        hosts = list(self.region.slots)
        if len(hosts) == 1:
            return hosts[0]
        self._leave(caller, self.region.config.callers_switch)
        if caller not in self._chosen:
            self._chosen[caller] = self.streams(f"choices of {caller}").choice(hosts)
        return self._chosen[caller]

    def _leave(self, caller: str, probability: float) -> None:
        if len(self.region.slots) > 1 and self.streams(f"choices of {caller}").random() < probability:
            self._chosen.pop(caller, None)

    async def call_patiently(self, name: str, request: Message, metadata: Mapping[str, str] | None = None) -> Any:
        """As `call`, repeated while the server is unavailable. Raises the last CallerError after PATIENT_S."""
        until = running_loop().time() + PATIENT_S
        while True:
            try:
                return await self.call(name, request, metadata=metadata)
            except CallerError as error:
                if error.code != Code.UNAVAILABLE or running_loop().time() > until:
                    raise
            await asyncio.sleep(0.2)
