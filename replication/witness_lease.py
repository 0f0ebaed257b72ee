"""Leases without clocks: a region lives as long as its counter at the witness moves, each side by its own monotonic clock.

    the leading node   raises the counter every ttl/4. Its deadline is ttl after it BEGAN to, so it ends first
    its other nodes    see the counter move: their deadline is ttl after they began the last reading that did not show it yet
    other regions      hold the lease for expired when a reading that began ttl after they first saw the counter shows it unmoved;
                       then they end it (`end`): a compare-and-swap on what they saw, so a heartbeat that came first wins

A write under the lease takes effect after it began and is seen after it took effect: whatever the delays, the owner's deadline is
before anybody's verdict. A region whose lease was ended begins a new term, and acknowledges nothing under it until it has
looked at each of its namespaces (witness_owners.py). Rates of clocks may differ by DRIFT_SHARE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import Enum

import msgspec
import structlog

from replication.witness import (
    ABSENT,
    REGION_PREFIX,
    Heartbeat,
    LagNote,
    Register,
    Witness,
    WitnessError,
    decode_heartbeat,
    encode,
    region_key,
    swap_for_sure,
)

log = structlog.get_logger("replication")

Monotonic = Callable[[], float]  # seconds

DRIFT_SHARE = 0.02


class LeaseSettings(msgspec.Struct, frozen=True):
    """ttl_s: how long a region may be silent. is_strict: it acknowledges nothing past its own deadline."""

    ttl_s: float = 10.0
    is_strict: bool = False

    @property
    def renew_s(self) -> float:
        return self.ttl_s / 4

    @property
    def look_s(self) -> float:
        return self.ttl_s / 8


class OwnLease:
    """Of this region, as this node sees it."""

    def __init__(self, witness: Witness, region: str, node: str, settings: LeaseSettings, now_s: Monotonic) -> None:
        self._witness, self._now_s = witness, now_s
        self._region, self._node, self.settings = region, node, settings
        self._deadline_s = -math.inf
        self._seen: tuple[int, int] | None = None  # term and counter
        self._look_began_s = -math.inf  # when the last reading began that showed `_seen`
        self.latest: Heartbeat | None = None
        self._trusted_term = 0

    @property
    def is_held(self) -> bool:
        """Whether nobody can have declared it expired yet. Synchronous: the last word before something is acknowledged."""
        return self._now_s() < self._deadline_s and self.latest is not None and self.latest.term == self._trusted_term

    @property
    def should_refresh(self) -> bool:
        """A term has been confirmed whose moves of namespaces this node may not have heard of: read the records, then `trust`."""
        return self.latest is not None and self.latest.is_confirmed and self.latest.term != self._trusted_term

    def trust(self, term: int) -> None:
        """This node's records are at least as new as the beginning of the term."""
        self._trusted_term = term

    @property
    def held_s(self) -> float:
        """How long it is still held; negative when it is not."""
        return self._deadline_s - self._now_s()

    async def renew(self, lag: Mapping[str, LagNote] | None = None) -> bool:
        """By the leading node. False: it holds the lease, but must look at its namespaces and call `confirm` before it may
        acknowledge. Raises WitnessError; the deadline stays where it was."""
        began_s = self._now_s()  # before the reading: a late write of a former try then also counts from here at least
        found = await self._witness.read(region_key(self._region))
        before = decode_heartbeat(found.data) if found is not None else None
        return await self._write(began_s, before, found.version if found is not None else ABSENT, lag or {})

    async def _write(self, began_s: float, before: Heartbeat | None, version: int, lag: Mapping[str, LagNote]) -> bool:
        settings = self.settings
        if before is None or before.ended_by:
            # Also the very first one: what the witness says of this region's namespaces may be older than its lease.
            term = before.term + 1 if before is not None else 1
            counter = before.counter + 1 if before is not None else 1
            beat = Heartbeat(region=self._region, counter=counter, term=term, is_confirmed=False)
            if before is not None:
                log.warning("this region's lease was ended; it begins a new term", ended_by=before.ended_by, term=term)
        else:
            beat = msgspec.structs.replace(before, counter=before.counter + 1)
        beat = msgspec.structs.replace(
            beat, node=self._node, ttl_s=settings.ttl_s, is_strict=settings.is_strict, lag=dict(lag)
        )
        if await swap_for_sure(self._witness, region_key(self._region), encode(beat), version) is None:
            await self.look()  # another node of this region was first, or somebody ended the lease
            return self.latest is None or self.latest.is_confirmed
        self._took(beat, began_s)
        return beat.is_confirmed

    def _took(self, beat: Heartbeat, began_s: float) -> None:
        """A value that took effect after `began_s`. ttl: the observers count with the one that is written."""
        self.latest = beat
        self._seen = beat.term, beat.counter
        self._look_began_s = began_s
        if beat.ended_by or not beat.is_confirmed:
            self._deadline_s = -math.inf
        else:
            self._deadline_s = max(self._deadline_s, began_s + beat.ttl_s * (1 - DRIFT_SHARE))

    async def confirm(self) -> bool:
        """Every namespace was looked at. False: the lease was ended again, or another node leads. Raises WitnessError."""
        began_s = self._now_s()
        found = await self._witness.read(region_key(self._region))
        if found is None:
            return False
        before = decode_heartbeat(found.data)
        if before.ended_by or self.latest is None or before.term != self.latest.term or before.node != self._node:
            return False
        beat = msgspec.structs.replace(before, counter=before.counter + 1, is_confirmed=True)
        if await swap_for_sure(self._witness, region_key(self._region), encode(beat), found.version) is None:
            return False
        self._took(beat, began_s)
        self.trust(beat.term)
        return True

    async def look(self) -> None:
        """By every other node. Raises WitnessError."""
        began_s = self._now_s()
        found = await self._witness.read(region_key(self._region))
        if found is None:
            return
        beat = decode_heartbeat(found.data)
        self.latest = beat
        if beat.ended_by or not beat.is_confirmed:
            self._deadline_s = -math.inf
        elif self._seen is not None and (beat.term, beat.counter) != self._seen:
            self._deadline_s = max(self._deadline_s, self._look_began_s + beat.ttl_s * (1 - DRIFT_SHARE))
        self._seen = beat.term, beat.counter
        self._look_began_s = began_s


class Life(Enum):
    """What an observer holds of a region's lease."""

    NONE = "none"  # it never had one
    UNKNOWN = "unknown"  # the witness cannot be read
    ALIVE = "alive"
    EXPIRED = "expired"
    ENDED = "ended"  # somebody has declared it expired


class Sighting(msgspec.Struct, frozen=True):
    """quiet_s: for how long the counter has not moved, at the last reading. version: the register's, for `end`."""

    life: Life
    heartbeat: Heartbeat | None = None
    version: int = ABSENT
    quiet_s: float = 0.0


class _Seen:
    __slots__ = ("heartbeat", "since_s", "version")

    def __init__(self, heartbeat: Heartbeat, version: int, since_s: float) -> None:
        self.heartbeat, self.version, self.since_s = heartbeat, version, since_s


class LeaseObserver:
    """Of all other regions, on one node. After an outage of the witness everybody has a whole ttl to be seen again."""

    def __init__(self, witness: Witness, here: str, settings: LeaseSettings, now_s: Monotonic) -> None:
        self._witness, self._here, self._settings, self._now_s = witness, here, settings, now_s
        self._seen: dict[str, _Seen] = {}
        self._read_began_s = -math.inf  # of the last reading that succeeded

    @property
    def is_blind(self) -> bool:
        """The witness was not readable lately: nothing may be concluded."""
        return self._now_s() - self._read_began_s > self._settings.ttl_s / 2

    async def look(self) -> None:
        """Raises WitnessUnavailable."""
        began_s, was_blind = self._now_s(), self.is_blind
        registers = await self._witness.list(REGION_PREFIX)
        ended_s = self._now_s()
        for key, register in registers.items():
            self._saw(key.removeprefix(REGION_PREFIX), register, ended_s, was_blind)
        self._read_began_s = began_s

    def _saw(self, region: str, register: Register, ended_s: float, was_blind: bool) -> None:
        known = self._seen.get(region)
        if known is None or known.version != register.version or was_blind:
            try:
                beat = decode_heartbeat(register.data)
            except WitnessError as broken:
                log.error("a region's heartbeat cannot be read", region=region, reason=str(broken))
                self._seen.pop(region, None)
                return
            self._seen[region] = _Seen(beat, register.version, ended_s)

    def sighting(self, region: str) -> Sighting:
        if self.is_blind:
            return Sighting(Life.UNKNOWN)
        seen = self._seen.get(region)
        if seen is None:
            return Sighting(Life.NONE)
        quiet_s = self._read_began_s - seen.since_s
        life = Life.EXPIRED if quiet_s >= seen.heartbeat.ttl_s else Life.ALIVE
        if seen.heartbeat.ended_by:
            life = Life.ENDED
        return Sighting(life, seen.heartbeat, seen.version, max(0.0, quiet_s))

    async def end(self, region: str) -> bool:
        """Declares the lease expired. False: it moved meanwhile. True as well when it is ended already. Raises WitnessError."""
        sighting = self.sighting(region)
        if sighting.life is Life.ENDED:
            return True
        if sighting.life is not Life.EXPIRED or sighting.heartbeat is None:
            return False
        ended = msgspec.structs.replace(sighting.heartbeat, ended_by=self._here)
        version = await swap_for_sure(self._witness, region_key(region), encode(ended), sighting.version)
        if version is None:
            return False
        self._seen[region] = _Seen(ended, version, self._now_s())
        return True

    async def is_ended_still(self, region: str) -> bool:
        """Read now. Raises WitnessUnavailable."""
        found = await self._witness.read(region_key(region))
        return found is not None and decode_heartbeat(found.data).ended_by != ""

    def lag_of(self, region: str, peer: str) -> LagNote | None:
        """What the region said at its last heartbeat of what `peer` lacked. None: it did not say."""
        seen = self._seen.get(region)
        return seen.heartbeat.lag.get(peer) if seen is not None else None
