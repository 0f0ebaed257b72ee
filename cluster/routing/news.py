"""News of changed metadata, to every node: what one node acknowledged, the others know a moment later.

`tell` returns when all that can be reached have heard it, or after TELL_S. Who could not be reached looks by itself every
LOOK_S (an outage of the way between two nodes delays news, it does not lose them).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from cluster.core.errors import CallerError
from cluster.membership.members import NodeInfo
from cluster.routing.peers import Peers
from cluster.seams import Spawn
from cluster.stores.base import StoreError

log = structlog.get_logger("outlast.routing")

TELL_S = 1.0
LOOK_S = 10.0

Look = Callable[[], Awaitable[None]]


class News:
    """One per node. Topics are names of metadata, such as "namespaces"."""

    def __init__(self, peers: Peers, spawn: Spawn) -> None:
        self._peers, self._spawn = peers, spawn
        self._looks: dict[str, Look] = {}
        peers.serve("news", self._heard)

    def listen(self, topic: str, look: Look) -> None:
        """look: reads the topic's metadata anew. Raises CallerError when that fails for now."""
        self._looks[topic] = look

    def start(self) -> None:
        self._spawn(self._look_around(), "metadata refresh")

    async def tell(self, topic: str) -> None:
        others = self._peers.others()
        if others:
            deadline = asyncio.get_running_loop().time() + TELL_S
            await asyncio.gather(*(self._tell(node, topic, deadline) for node in others))

    async def _tell(self, node: NodeInfo, topic: str, deadline: float) -> None:
        try:
            await self._peers.call(node, "news", topic.encode(), deadline)
        except CallerError as error:
            log.info("a node could not be told, it will look by itself", node=node.node_id, topic=topic, error=error.message)

    async def _heard(self, payload: bytes, deadline: float | None) -> bytes:
        look = self._looks.get(payload.decode("utf-8", "replace"))
        if look is not None:  # a newer node may have topics that do not exist here
            await look()
        return b""

    async def _look_around(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._peers.others():
                continue
            for topic, look in self._looks.items():
                try:
                    await look()
                except (CallerError, StoreError) as error:
                    log.warning("metadata cannot be read now, will be tried again", topic=topic, error=str(error))
