"""A simulated world: its regions, and the way of a client to their nodes.

Today there is one region; several will lie beside each other here, each with a disk, a registry, a network and nodes of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from chaos.sim.config import NAMESPACE, WorldConfig, draw_config
from chaos.sim.disk import ArchivedStore
from chaos.sim.loop import running_loop
from chaos.sim.nodes import NodeSlot
from chaos.sim.rand import Streams
from chaos.sim.region import Plans, Region, SimNode
from cluster.core.errors import CallerError, Code
from cluster.frontend.methods import METHODS

__all__ = ["NAMESPACE", "World", "WorldConfig", "draw_config"]

PATIENT_S = 60.0
LEAVES_A_BAD_NODE = 0.6  # per failed call


class World:
    """The regions and everything that outlives their nodes. `call` is what clients and workers use."""

    def __init__(self, streams: Streams, config: WorldConfig, plans: Plans) -> None:
        self.streams = streams
        self.config = config
        self.unexpected: list[str] = []  # answers and ends that no server may give
        self.unexpected_causes: list[BaseException] = []
        self.failed_starts_count = 0
        self.regions = [Region(self, "r1", plans)]
        self._chosen: dict[str, str] = {}  # caller -> the node it talks to

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
        await asyncio.gather(*(self.region.start(slot) for slot in self.slots[: self.config.begin_with]))

    def blame(self, text: str, cause: BaseException | None = None) -> None:
        """Notes what no server may do; not while the jobs of a world that has ended are being cleared away."""
        if asyncio._get_running_loop() is not None:
            self.unexpected.append(text)
            self.unexpected_causes += [cause] if cause is not None else []

    def job_failed(self, name: str, failure: BaseException) -> None:
        self.blame(f"background job {name} ended by {type(failure).__name__}: {failure}", failure)

    def calm_clients(self, delay_s_max: float) -> None:
        for wire in self.region.wires.values():
            wire.delay_s_max = min(wire.delay_s_max, delay_s_max)

    # --- calls ------------------------------------------------------------------------------------------------------------
    async def call(
        self,
        name: str,
        request: Message,
        deadline_s: float = 10.0,
        on_sent: Callable[[], None] | None = None,
        caller: str = "story",
        via: str | None = None,
    ) -> Any:
        """The response message. Raises CallerError. `on_sent` is called for every copy of the request that goes out.

        caller: sticks to a node until that fails, and sometimes changes without need. via: this node, for once."""
        data = request.SerializeToString()
        host = via or self._choose(caller)
        try:
            wire = self.region.wires[host]
            answer = await wire.call(name, lambda node: node.serve(name, data, deadline_s), deadline_s, on_sent)
        except CallerError as error:
            if via is None and error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
                self._leave(caller, LEAVES_A_BAD_NODE)
            raise
        return METHODS[name].response.FromString(answer)

    def _choose(self, caller: str) -> str:
        hosts = list(self.region.slots)
        if len(hosts) == 1:
            return hosts[0]
        self._leave(caller, self.config.callers_switch)
        if caller not in self._chosen:
            self._chosen[caller] = self.streams(f"choices of {caller}").choice(hosts)
        return self._chosen[caller]

    def _leave(self, caller: str, probability: float) -> None:
        if len(self.region.slots) > 1 and self.streams(f"choices of {caller}").random() < probability:
            self._chosen.pop(caller, None)

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
