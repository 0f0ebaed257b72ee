"""The fold from what the registry says to the members: pure, so that every order of news can be tested."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.membership.members import NodeInfo


class MemberTable:
    """Who is a member now. `lingering` are those that a registry without its data does not know (yet) any more."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeInfo] = {}
        self.lingering: set[str] = set()

    def put(self, node: NodeInfo) -> None:
        self.nodes[node.node_id] = node
        self.lingering.discard(node.node_id)

    def remove(self, node_id: str) -> None:
        self.nodes.pop(node_id, None)
        self.lingering.discard(node_id)

    def replace(self, nodes: Iterable[NodeInfo], has_lost_data: bool) -> None:
        """A whole reading. Whoever is missing in it has left, unless the registry itself has lost its data."""
        read = {node.node_id: node for node in nodes}
        missing = self.nodes.keys() - read.keys()
        self.lingering = set(missing) if has_lost_data else (self.lingering & missing)
        kept = {node_id: self.nodes[node_id] for node_id in self.lingering}
        self.nodes = kept | read

    def drop_lingering(self) -> bool:
        """Their time to register again is over. True if somebody went."""
        for node_id in self.lingering:
            del self.nodes[node_id]
        dropped, self.lingering = bool(self.lingering), set()
        return dropped

    def ordered(self) -> tuple[NodeInfo, ...]:
        return tuple(self.nodes[node_id] for node_id in sorted(self.nodes))
