"""What a failover is asked for, how it went, and what regions and nodes tell each other about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from replication.failover import Ownership

# Calls between regions, over RegionPort.
FAIL_OVER = "Failover"  # FailoverRequest -> FailoverReport, to the owner
OWNERSHIP = "FailoverOwnership"  # OwnershipTold -> PeerState: who owns it now, and how it looks there
ALIVE = "FailoverAlive"  # b"" -> b"": a probe
OPINION = "FailoverOpinion"  # a region's name -> Opinion: whether the asked region can reach it


class Kind(StrEnum):
    """graceful: the owner freezes, drains and hands over, or nothing changes. forced: now. hybrid: graceful for a while, then
    forced. automatic: decided by this machinery, forced in form."""

    GRACEFUL = "graceful"
    FORCED = "forced"
    HYBRID = "hybrid"
    AUTOMATIC = "automatic"


class FailoverReport(msgspec.Struct, frozen=True, kw_only=True):
    """Of one namespace. reason: why it is not done, or what the reader should know. version: the failover version now.

    detect_ns: from the last sign of life until the region was held for silent; decide_ns: from then until it was held for gone;
    drain_ns: before the freeze; freeze_ns: while nobody answered; record_ns: from the decision (or the call) until the record of
    the new owner was durable here; total_ns: of the call. 0 = there was no such phase.
    """

    namespace_id: str
    namespace: str
    kind: Kind
    moved_from: str
    to: str
    is_done: bool
    version: int = 0
    reason: str = ""
    events_behind: int | None = None  # what the new owner lacked at the cut, as far as it is known; None = it is not
    detect_ns: int = 0
    decide_ns: int = 0
    drain_ns: int = 0
    freeze_ns: int = 0
    record_ns: int = 0
    total_ns: int = 0


class FailoverRequest(msgspec.Struct, frozen=True):
    """timeout_s: of the whole handover."""

    namespace_id: str
    to: str
    timeout_s: float


class OwnershipTold(msgspec.Struct, frozen=True):
    """ownership None: only asks."""

    namespace_id: str
    ownership: Ownership | None = None


class PeerState(msgspec.Struct, frozen=True):
    """How a namespace looks in a region. is_known: it has a record of it. quarantined_count: runs that it could not take in."""

    is_known: bool
    active: str = ""
    version: int = 0
    is_in_handover: bool = False
    is_member: bool = False
    quarantined_count: int = 0


class Opinion(msgspec.Struct, frozen=True):
    is_reachable: bool


class Check(msgspec.Struct, frozen=True):
    """One line of a plan. is_hard: a graceful failover is not begun while it fails."""

    namespace: str
    name: str
    ok: bool
    reason: str = ""
    is_hard: bool = True


# --- how far the destination is ------------------------------------------------------------------------------------------------
class ShardBacklog(msgspec.Struct, frozen=True):
    """Of one open shard, for one peer and one namespace. cursor: up to there the peer has everything; events: of the namespace,
    waiting or under way. is_frozen: the node of the shard knows that the namespace takes nothing any more."""

    last_position: int
    cursor: int
    events: int
    is_catching_up: bool
    is_frozen: bool


class Backlog(msgspec.Struct, frozen=True):
    """Of a region: all nodes' shards together. A shard that is open nowhere at this moment is missing: nothing is known of it."""

    shards_count: int
    shards: dict[int, ShardBacklog] = {}
    oldest_at: int = 0  # when the oldest event that waits was written, ns since the epoch; 0 = none

    @property
    def missing(self) -> list[int]:
        return [number for number in range(self.shards_count) if number not in self.shards]

    @property
    def events(self) -> int:
        return sum(shard.events for shard in self.shards.values())

    @property
    def positions(self) -> int:
        return sum(max(0, shard.last_position - shard.cursor) for shard in self.shards.values())

    @property
    def is_catching_up(self) -> bool:
        return any(shard.is_catching_up for shard in self.shards.values())

    @property
    def is_frozen(self) -> bool:
        return not self.missing and all(shard.is_frozen for shard in self.shards.values())

    def has_passed(self, targets: Mapping[int, int]) -> bool:
        return all(number in self.shards and self.shards[number].cursor >= target for number, target in targets.items())

    def describe(self) -> str:
        if self.missing:
            return f"shards {self.missing[:5]} are open nowhere, or not linked"
        state = "a catch-up is under way, " if self.is_catching_up else ""
        return f"{state}{self.events} events of the namespace and {self.positions} groups are not there yet"


def united(backlogs: Iterable[Backlog]) -> Backlog:
    """Of the nodes of a region."""
    shards: dict[int, ShardBacklog] = {}
    count, oldest_at = 0, 0
    for one in backlogs:
        shards |= one.shards
        count = max(count, one.shards_count)
        oldest_at = min(filter(None, (oldest_at, one.oldest_at)), default=0)
    return Backlog(count, shards, oldest_at)
