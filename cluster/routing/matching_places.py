"""Which nodes share a task queue, by one ring.

Partition 0 is the root; shard s offers to partition s % count; sticky tasks to the root, since a sticky queue is never split.
"""

from __future__ import annotations

from cluster.matching.limits import MatchingLimits
from cluster.matching.tasks import QueueKey, TaskHint
from cluster.membership.members import NodeInfo
from cluster.membership.ring import MATCHING, Ring

CACHED_QUEUES_MAX = 20_000
Place = tuple[QueueKey, int]  # what one shard has for one queue


class Places:
    """One ring's answer. Immutable: a new ring makes a new one."""

    def __init__(self, ring: Ring, me: str, limits: MatchingLimits) -> None:
        self.ring = ring
        self.me = me
        nodes = ring.with_role(MATCHING)
        # Before the first ring, and when everybody leaves: what is here stays here.
        self.is_local = all(node.node_id == me for node in nodes)
        self.partitions_count = limits.partitions_count if len(nodes) > 1 else 1
        self._nodes = {node.node_id: node for node in nodes}
        self._by_queue: dict[QueueKey, tuple[str, ...]] = {}

    def nodes_of(self, queue: QueueKey) -> tuple[str, ...]:
        """By partition, the root first."""
        if self.is_local:
            return (self.me,)
        known = self._by_queue.get(queue)
        if known is None:
            if len(self._by_queue) >= CACHED_QUEUES_MAX:
                self._by_queue.clear()
            known = self._by_queue[queue] = tuple(
                self._owner(queue, partition) for partition in range(self.partitions_count)
            )
        return known

    def _owner(self, queue: QueueKey, partition: int) -> str:
        node = self.ring.owner_of_partition(queue.namespace_id, queue.name, queue.kind.name.lower(), partition)
        assert node is not None, "there is a matching node, or the places are local"
        return node.node_id

    def node_of(self, hint: TaskHint) -> str:
        return self.node_for(hint.queue, hint.shard, hint.is_sticky)

    def node_for(self, queue: QueueKey, shard: int, is_sticky: bool) -> str:
        if self.is_local:
            return self.me
        return self.nodes_of(queue)[0 if is_sticky else shard % self.partitions_count]

    def incarnation_of(self, node: str) -> str:
        info = self._nodes.get(node)
        return info.incarnation if info is not None else ""

    def info(self, node: str) -> NodeInfo:
        return self._nodes[node]

    def owner_of_workers(self, namespace_id: str) -> str:
        """The heartbeats of a namespace's workers are kept by one node."""
        if self.is_local:
            return self.me
        node = self.ring.owner(MATCHING, b"workers/" + namespace_id.encode("utf-8", "surrogatepass"))
        return self.me if node is None else node.node_id


class CurrentPlaces:
    """The latest places, for parts that are made once."""

    def __init__(self, now: Places) -> None:
        self.now = now

    @property
    def me(self) -> str:
        return self.now.me

    def nodes_of(self, queue: QueueKey) -> tuple[str, ...]:
        return self.now.nodes_of(queue)

    def node_of(self, hint: TaskHint) -> str:
        return self.now.node_of(hint)

    def incarnation_of(self, node: str) -> str:
        return self.now.incarnation_of(node)
