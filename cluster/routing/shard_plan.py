"""Which shards a node takes, and whom it asks for them: pure, from a ring and what is known of who had them before."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from cluster.membership.ring import Ring


class Take(NamedTuple):
    """A shard to take. ask: the node that may have it now and is alive, "" = nobody has it."""

    shard: int
    ask: str


class Plan(NamedTuple):
    takes: tuple[Take, ...]
    gives: tuple[int, ...]


def plan(me: str, ring: Ring, owned: Collection[int], former: Mapping[int, str], alive: Collection[str]) -> Plan:
    """Pure. owned: what this node has. former: the last node that had each shard, as far as known. alive: all members."""
    takes = []
    for shard in ring.shards_of(me):
        if shard not in owned:
            ask = former.get(shard, "")
            takes.append(Take(shard, ask if ask != me and ask in alive else ""))
    takes.sort(key=lambda take: (take.ask != "", take.shard))
    others = (shard for shard in sorted(owned) if (owner := ring.owner_of_shard(shard)) is not None and owner.node_id != me)
    return Plan(tuple(takes), tuple(others))


def formers(me: str, known: Mapping[int, str], before: Ring, after: Ring) -> dict[int, str]:
    """Who had each shard before this ring, besides this node. For the first ring one sees, it is whoever would have the shard
    if this node were not there: rendezvous hashing makes that the same node."""
    former = dict(known)
    without_me: Ring | None = None
    for shard, owner in enumerate(before.shard_owners):
        if owner is not None:
            if owner.node_id != me:
                former[shard] = owner.node_id
        elif shard not in former:
            without_me = without_me or Ring((node for node in after.nodes.values() if node.node_id != me), after.shard_count)
            if (other := without_me.owner_of_shard(shard)) is not None:
                former[shard] = other.node_id
    return former
