"""Who is a member of this region's cluster, as every node sees it; and the interface that tells it.

A view is an opinion: two nodes may hold different ones for a moment. Nothing is written on the strength of a view alone:
the store's fence decides who writes a shard (architecture.md, section 2).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

import msgspec

ROLES = ("frontend", "history", "matching", "system", "gateway")


class NodeState(StrEnum):
    """joining: known, owns nothing yet. ready: takes its share. leaving: gives its share away, still answers for what it has."""

    JOINING = "joining"
    READY = "ready"
    LEAVING = "leaving"


class NodeInfo(msgspec.Struct, frozen=True):
    """One node. `incarnation` is drawn anew by each process: a restarted node has the same id and another incarnation.

    Only a node itself writes its own entry, so a reader that does not know a newer version's field loses nothing by skipping it.
    """

    node_id: str
    address: str  # host:port of the node-to-node protocol
    roles: tuple[str, ...]
    zone: str
    version: str  # of the software
    shard_count: int
    cluster_id: str
    started_at: int  # ns since the epoch, by the node's own clock: for people to read, compared with nothing
    incarnation: str
    state: NodeState = NodeState.JOINING

    def __post_init__(self) -> None:
        if not self.node_id or "/" in self.node_id or len(self.node_id) > 200:
            raise ValueError(f"node id {self.node_id[:200]!r}: 1 to 200 characters, no slash")
        if unknown := set(self.roles) - set(ROLES):
            raise ValueError(f"unknown roles {sorted(unknown)}; known are {', '.join(ROLES)}")
        if self.shard_count < 1:
            raise ValueError(f"{self.shard_count} shards")


class View(msgspec.Struct, frozen=True):
    """The members, by node id.

    number: grows with every view of this process.
    is_stale: the registry does not answer; this is the last that was known, and nobody should move on the strength of it.
    lingering: members the registry has forgotten with all its data; they are kept for a while, since they will register again.
    """

    nodes: tuple[NodeInfo, ...] = ()
    number: int = 0
    is_stale: bool = True
    lingering: frozenset[str] = frozenset()

    def node(self, node_id: str) -> NodeInfo | None:
        return next((node for node in self.nodes if node.node_id == node_id), None)


class MembershipRefused(Exception):
    """This node can never be a member as it is configured; the message says why."""


class MembershipUnavailable(Exception):
    """The registry did not answer in time. What was wished for is tried on."""


OnChange = Callable[[View], None]


class Membership(Protocol):
    async def join(self, me: NodeInfo) -> None:
        """Registers; returns when this node and the others are in `members()`.

        Raises MembershipRefused, MembershipUnavailable.
        """
        ...

    async def set_state(self, state: NodeState) -> None:
        """Raises MembershipUnavailable; the state is published later then."""
        ...

    async def leave(self) -> None:
        """Takes this node out, at once for the others. Shards should have been handed over before (state LEAVING)."""
        ...

    def members(self) -> View: ...

    def on_change(self, callback: OnChange) -> Callable[[], None]:
        """Calls back with each new view, never from within another call; the result ends it."""
        ...

    async def expelled(self) -> str:
        """Returns when this process can be no member any more, with the reason: it should stop."""
        ...
