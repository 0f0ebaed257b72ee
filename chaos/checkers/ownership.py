"""Who wrote a shard when, as the store saw it: one writer at a time, by range id and not by anybody's opinion.

| promise | how it would show |
|---|---|
| a stale owner cannot write | a record or rows under a range id older than the newest that was acquired before |
| a row never goes back | a row of an earlier position than the one it replaces |
| one writer per range | two owners appended under one range id |
| nobody takes a shard without being told to | an acquire by a node none of whose rings of late gave it the shard |

A record is what acknowledgements rest on, so an owner whose appends all fail acknowledges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

SECOND_NS = 1_000_000_000
# An acquire may still be on its way, or wait for the former owner to let go, when the ring has moved on.
RING_MEMORY_NS = 10 * SECOND_NS


@dataclass(frozen=True)
class Acquired:
    at_ns: int
    shard: int
    range_id: int
    owner: str


@dataclass(frozen=True)
class Appended:
    at_ns: int
    shard: int
    range_id: int
    owner: str
    position: int


@dataclass(frozen=True)
class Checkpointed:
    """Rows were written. went_back: a run whose row was of a later position before, "" = none."""

    at_ns: int
    shard: int
    range_id: int
    owner: str
    went_back: str = ""


@dataclass
class Ownership:
    """Everything in the order in which the store did it, and what rings the nodes had (owner -> (since, owner node by shard))."""

    events: list[Acquired | Appended | Checkpointed] = field(default_factory=list)
    rings: dict[str, list[tuple[int, Sequence[str]]]] = field(default_factory=dict)

    def ring_seen(self, owner: str, at_ns: int, owners: Sequence[str]) -> None:
        self.rings.setdefault(owner, []).append((at_ns, owners))


def one_writer_per_shard(ownership: Ownership) -> list[str]:
    newest: dict[int, int] = {}
    writers: dict[tuple[int, int], str] = {}
    violations: list[str] = []
    for event in ownership.events:
        if isinstance(event, Acquired):
            if event.range_id <= newest.get(event.shard, 0):
                violations.append(f"shard {event.shard}: {event.owner} acquired range {event.range_id}, not a newer one")
            newest[event.shard] = max(newest.get(event.shard, 0), event.range_id)
            continue
        held = newest.get(event.shard, 0)
        what = f"appended {event.position}" if isinstance(event, Appended) else "wrote rows"
        if event.range_id != held:
            violations.append(
                f"shard {event.shard}: {event.owner} {what} under range {event.range_id}"
                f" after range {held} was acquired: a fenced owner's write was taken"
            )
        if isinstance(event, Checkpointed) and event.went_back:
            violations.append(f"shard {event.shard}: {event.owner} wrote an older row over that of {event.went_back}")
        writer = writers.setdefault((event.shard, event.range_id), event.owner)
        if writer != event.owner:
            violations.append(f"shard {event.shard}: {writer} and {event.owner} both wrote under range {event.range_id}")
    return violations


def moves_follow_the_ring(ownership: Ownership) -> list[str]:
    """Owners are named "<node id>#<life>"; those without rings (a single node, a fault plan's thief) are passed over."""
    violations: list[str] = []
    for event in ownership.events:
        if not isinstance(event, Acquired) or not (rings := ownership.rings.get(event.owner)):
            continue
        node_id = event.owner.partition("#")[0]
        until = [since for since, _ in rings[1:]] + [event.at_ns + 1]
        told = any(
            owners[event.shard] == node_id
            for (since, owners), end in zip(rings, until, strict=True)
            if since <= event.at_ns and end >= event.at_ns - RING_MEMORY_NS
        )
        if not told:
            violations.append(f"shard {event.shard} was acquired by {event.owner}, no ring it had gave it that shard")
    return violations
