"""The cluster as one node sees it, for people: members, ring, and which shards are open where (each node is asked for its own).

Shape of `describe`: {"node", "is_stale", "nodes": [...], "ring": [node id by shard], "shards": [...], "unreachable": [node ids]}.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from cluster.core.errors import CallerError
from cluster.membership.members import NodeInfo
from cluster.routing.peers import Peers

ASK_S = 2.0

ShardRows = Callable[[], Iterable[dict[str, Any]]]


class Overview:
    """One per node. `shard_rows` gives this node's own shards."""

    def __init__(self, peers: Peers, shard_rows: ShardRows) -> None:
        self._peers, self._shard_rows = peers, shard_rows
        self._drain: Callable[[], None] | None = None
        peers.serve("cluster.shards", self._shards)
        peers.serve("cluster.describe", self._described)
        peers.serve("cluster.drain", self._asked_to_drain)

    def on_drain(self, drain: Callable[[], None]) -> None:
        """drain: what happens when an operator asks this node to leave."""
        self._drain = drain

    async def describe(self) -> dict[str, Any]:
        peers = self._peers
        view, ring = peers.membership.members(), peers.ring
        others = peers.others()
        found = await asyncio.gather(*(self._ask(node) for node in others))
        shards = [*self._own(), *(row for rows in found if rows for row in rows)]
        owners = [owner.node_id if owner else None for owner in ring.shard_owners]
        return {
            "node": peers.me,
            "is_stale": view.is_stale,
            "shard_count": ring.shard_count,
            "nodes": [_node(node, owners.count(node.node_id), node.node_id in view.lingering) for node in view.nodes],
            "ring": owners,
            "shards": sorted(shards, key=lambda row: (row["shard"], row["node"])),
            "unreachable": [node.node_id for node, rows in zip(others, found, strict=True) if rows is None],
        }

    def _own(self) -> list[dict[str, Any]]:
        return [{"node": self._peers.me, **row} for row in self._shard_rows()]

    async def _ask(self, node: NodeInfo) -> list[dict[str, Any]] | None:
        try:
            answer = await self._peers.call(node, "cluster.shards", b"", asyncio.get_running_loop().time() + ASK_S)
        except CallerError:
            return None  # told as unreachable
        return msgspec.msgpack.decode(answer, type=list[dict[str, Any]])

    async def _shards(self, payload: bytes, deadline: float | None) -> bytes:
        return msgspec.msgpack.encode(self._own())

    async def _described(self, payload: bytes, deadline: float | None) -> bytes:
        return msgspec.msgpack.encode(await self.describe())

    async def _asked_to_drain(self, payload: bytes, deadline: float | None) -> bytes:
        assert self._drain is not None, "on_drain comes before the node takes part"
        self._drain()
        return b""


def _node(node: NodeInfo, shards_count: int, is_lingering: bool) -> dict[str, Any]:
    row = msgspec.to_builtins(node)
    return {**row, "shards": shards_count, "is_lingering": is_lingering}
