"""Which node owns a shard or a task-queue partition: rendezvous hashing over the ready nodes that have the role.

Every node gives every key a weight, by a hash of both; the heaviest owns it. So a node that comes takes only what it now weighs
most for, about 1/n, and one that goes leaves the rest where it is: not on average but by construction. Chosen over a hash
circle (uhashring): no virtual nodes to tune, better balance at few nodes, the ranking names the stand-by owners, thirty lines
of pure code with a hash that is fixed here. Its price, one hash per node and key, is paid once per change for shards.
A node in state leaving owns nothing in the ring; until its shards have moved it still answers for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

from cluster.membership.members import NodeInfo, NodeState

HISTORY, MATCHING = "history", "matching"
CACHED_PARTITIONS_MAX = 20_000


class Move(NamedTuple):
    """A shard that changes hands; None = nobody."""

    shard: int
    from_node: str | None
    to_node: str | None


def shard_key(shard: int) -> bytes:
    return b"shard/%d" % shard


def partition_key(namespace_id: str, task_queue: str, kind: str, partition: int = 0) -> bytes:
    """Lengths in front: no two different partitions have the same key."""
    parts = [part.encode("utf-8", "surrogatepass") for part in (namespace_id, task_queue, kind)]
    return b"queue/%d/" % partition + b"".join(b"%d:%s" % (len(part), part) for part in parts)


class Ring:
    """One view's answer to "who owns it?". Immutable: a new view makes a new ring."""

    def __init__(self, nodes: Iterable[NodeInfo], shard_count: int) -> None:
        self.shard_count = shard_count
        ready = sorted((node for node in nodes if node.state is NodeState.READY), key=lambda node: node.node_id)
        self.nodes = {node.node_id: node for node in ready}
        # The node's part of the hash is a key of blake2b, computed once.
        seeds = {node.node_id: blake2b(node.node_id.encode(), digest_size=16).digest() for node in ready}
        self._seeds = {
            role: [(seeds[node.node_id], node) for node in ready if role in node.roles]
            for role in {role for node in ready for role in node.roles}
        }
        self._partitions: dict[bytes, NodeInfo | None] = {}
        self.shard_owners = tuple(self.owner(HISTORY, shard_key(shard)) for shard in range(shard_count))

    def with_role(self, role: str) -> list[NodeInfo]:
        return [node for _, node in self._seeds.get(role, ())]

    def owner(self, role: str, key: bytes) -> NodeInfo | None:
        """None if no ready node has the role."""
        best: NodeInfo | None = None
        most = b""
        for seed, node in self._seeds.get(role, ()):
            weight = blake2b(key, digest_size=8, key=seed).digest()
            if weight > most or best is None:
                best, most = node, weight
        return best

    def ranked(self, role: str, key: bytes) -> list[NodeInfo]:
        """The owner first, then whoever would own it if those before were gone."""
        weighed = [(blake2b(key, digest_size=8, key=seed).digest(), node) for seed, node in self._seeds.get(role, ())]
        return [node for _, node in sorted(weighed, key=lambda pair: pair[0], reverse=True)]

    def owner_of_shard(self, shard: int) -> NodeInfo | None:
        if not 0 <= shard < self.shard_count:
            raise ValueError(f"shard {shard} of {self.shard_count}")
        return self.shard_owners[shard]

    def owner_of_partition(self, namespace_id: str, task_queue: str, kind: str, partition: int = 0) -> NodeInfo | None:
        key = partition_key(namespace_id, task_queue, kind, partition)
        try:
            return self._partitions[key]
        except KeyError:
            if len(self._partitions) >= CACHED_PARTITIONS_MAX:
                self._partitions.clear()
            owner = self._partitions[key] = self.owner(MATCHING, key)
            return owner

    def shards_of(self, node_id: str) -> list[int]:
        return [shard for shard, owner in enumerate(self.shard_owners) if owner is not None and owner.node_id == node_id]

    def standbys(self, role: str, key: bytes, count: int) -> list[NodeInfo]:
        """Whom to prepare besides the owner: of other zones first, within that by rank."""
        nodes = self.ranked(role, key)
        zones = {node.zone for node in nodes[:1]}
        others, chosen = nodes[1:], []
        for node in others:
            if node.zone not in zones:
                zones.add(node.zone)
                chosen.append(node)
        chosen += [node for node in others if node not in chosen]
        return chosen[:count]

    def spread(self) -> dict[str, dict[str, int]]:
        """zone -> node id -> shards it owns; nodes with none included. For people and for alarms."""
        owned = Counter(owner.node_id for owner in self.shard_owners if owner is not None)
        zones: dict[str, dict[str, int]] = {}
        for node in self.with_role(HISTORY):
            zones.setdefault(node.zone, {})[node.node_id] = owned[node.node_id]
        return zones


def moves(before: Ring, after: Ring) -> list[Move]:
    """The shards that change hands between two rings of the same cluster."""
    if before.shard_count != after.shard_count:
        raise ValueError(f"{before.shard_count} shards cannot become {after.shard_count}")
    all_shards = (
        Move(shard, old.node_id if old else None, new.node_id if new else None)
        for shard, (old, new) in enumerate(zip(before.shard_owners, after.shard_owners, strict=True))
    )
    return [move for move in all_shards if move.from_node != move.to_node]
