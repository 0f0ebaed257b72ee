"""Membership without a registry: the nodes are listed in the configuration, or told by the process that starts them.

For one machine (`--processes N`). Nobody notices here that a node is gone: whoever starts the processes calls `replace`. The
state of other nodes is what the list says; `set_state` is seen by this process alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from cluster.membership.listeners import Views
from cluster.membership.members import MembershipRefused, NodeInfo, NodeState, OnChange, View


class StaticMembership:
    """See the module's text."""

    def __init__(self, nodes: Iterable[NodeInfo]) -> None:
        self._nodes = _by_id(nodes)
        self._views = Views()
        self._me: str | None = None

    async def join(self, me: NodeInfo) -> None:
        listed = self._nodes.get(me.node_id)
        if listed is None:
            raise MembershipRefused(f"node {me.node_id} is not in the list of members: {', '.join(sorted(self._nodes))}")
        if listed.address != me.address:
            raise MembershipRefused(f"node {me.node_id} listens on {me.address}, the list says {listed.address}")
        for other in self._nodes.values():
            if (other.cluster_id, other.shard_count) != (me.cluster_id, me.shard_count):
                raise MembershipRefused(
                    f"node {other.node_id} is listed with cluster {other.cluster_id!r} and {other.shard_count} shards,"
                    f" this node has {me.cluster_id!r} and {me.shard_count}"
                )
        self._me = me.node_id
        self._nodes[me.node_id] = me
        self._show()

    async def set_state(self, state: NodeState) -> None:
        assert self._me is not None, "set_state before join"
        self._nodes[self._me] = msgspec.structs.replace(self._nodes[self._me], state=state)
        self._show()

    async def leave(self) -> None:
        if self._me is not None:
            del self._nodes[self._me]
            self._me = None
            self._show()

    def replace(self, nodes: Iterable[NodeInfo]) -> None:
        """The list has changed: a process was started or has ended. This node's own entry stays as it is here."""
        mine = self._nodes.get(self._me) if self._me is not None else None
        self._nodes = _by_id(nodes) | ({mine.node_id: mine} if mine else {})
        self._show()

    def members(self) -> View:
        return self._views.current

    def on_change(self, callback: OnChange) -> Callable[[], None]:
        return self._views.listen(callback)

    async def expelled(self) -> str:
        """Never: a list does not expel."""
        await asyncio.get_running_loop().create_future()
        raise AssertionError("a future nobody holds was set")

    def _show(self) -> None:
        self._views.show([self._nodes[node_id] for node_id in sorted(self._nodes)], is_stale=False)


def _by_id(nodes: Iterable[NodeInfo]) -> dict[str, NodeInfo]:
    found: dict[str, NodeInfo] = {}
    for node in nodes:
        if node.node_id in found:
            raise MembershipRefused(f"node {node.node_id} is listed twice")
        found[node.node_id] = node
    return found
