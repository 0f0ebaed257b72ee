"""This node's part at the witness: it keeps its region's lease, and hears of moves that nobody could tell it.

    the leading node   renews the lease; after a new term looks at every namespace first; takes in what the owner registers say
    every other node   looks at the lease, so that it knows how long it may acknowledge; reads the records anew after a new term
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import msgspec
import structlog

from cluster.core.errors import CallerError
from cluster.namespaces.record import DELETED, NamespaceRecord
from replication.failover import OwnershipAlarm
from replication.failover_ports import FailoverPorts, nanoseconds, reason_of
from replication.witness import LagNote, Owner, Witness, WitnessError, is_possible
from replication.witness_lease import LeaseObserver, LeaseSettings, OwnLease
from replication.witness_owners import OwnerRegister, Owners, adopted

log = structlog.get_logger("replication")

CONCURRENCY = 16


class WitnessWatch:
    """On every node. The lag is gathered in a loop of its own, so that a node that hangs does not cost the lease."""

    def __init__(self, ports: FailoverPorts, witness: Witness, settings: LeaseSettings, node: str) -> None:
        self._ports, self.settings = ports, settings
        here = ports.calls.here
        self.owners = Owners(witness, here, ports.clock, ports.ids)
        self.lease = OwnLease(witness, here, node, settings, ports.now_s)
        self.observer = LeaseObserver(witness, here, settings, ports.now_s)
        self._lag: dict[str, LagNote] = {}
        self._lag_failing_since_s: float | None = None
        self._failures: dict[str, str] = {}  # by loop
        self._moved_at_s: dict[str, tuple[int, float]] = {}  # namespace id -> version, and when this node saw it first
        self._has_listed = False

    # --- the loops: each step returns how long to pause ------------------------------------------------------------------------
    async def look_after_lease(self) -> float:
        began_s = self._ports.now_s()
        is_leading = self._ports.is_leading()
        await self._guarded("lease", self.keep_lease if is_leading else self.follow)
        pause_s = self.settings.renew_s if is_leading and "lease" not in self._failures else self.settings.look_s
        return max(0.0, pause_s - (self._ports.now_s() - began_s))

    async def look_at_owners(self) -> float:
        if self._ports.is_leading():
            await self._guarded("owners", self.take_in_owners)
        return self.settings.renew_s

    async def gather_lag(self) -> float:
        if self._ports.is_leading():
            try:
                self._lag = await self._ports.lag()
                self._lag_failing_since_s = None
            except CallerError as error:
                log.info("the lag is not known now", reason=error.message)
                if self._lag_failing_since_s is None:
                    self._lag_failing_since_s = self._ports.now_s()
        return self.settings.renew_s

    def _lag_now(self) -> dict[str, LagNote]:
        """While a node of this region cannot be asked, what was known last grows older: who takes over judges by that."""
        if self._lag_failing_since_s is None:
            return self._lag
        age_ns = nanoseconds(self._ports.now_s() - self._lag_failing_since_s)
        return {peer: msgspec.structs.replace(note, oldest_ns=note.oldest_ns + age_ns) for peer, note in self._lag.items()}

    async def _guarded(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        """What passes is tried again, and said once."""
        try:
            await step()
        except (WitnessError, CallerError) as failure:
            if reason_of(failure) != self._failures.get(name):
                log.warning("the witness, or this region's records, cannot be used now", what=name, reason=reason_of(failure))
            self._failures[name] = reason_of(failure)
        else:
            if self._failures.pop(name, ""):
                log.info("the witness can be used again", what=name)

    # --- the lease -------------------------------------------------------------------------------------------------------------
    async def keep_lease(self) -> None:
        """Raises WitnessError, CallerError."""
        if not await self.lease.renew(self._lag_now()):
            await self._confirm_all()
        elif self.lease.should_refresh:
            await self.follow()

    async def follow(self) -> None:
        """Raises WitnessError, CallerError."""
        await self.lease.look()
        if self.lease.should_refresh and self.lease.latest is not None:
            term = self.lease.latest.term
            await self._ports.namespaces.refresh()
            self.lease.trust(term)

    async def _confirm_all(self) -> None:
        await self._ports.namespaces.refresh()
        here = self._ports.calls.here
        await in_parallel(self._confirm(record) for record in shared(self._ports) if record.active_cluster == here)
        if await self.lease.confirm():
            log.info("this region holds its lease, and has looked at all its namespaces")

    async def _confirm(self, record: NamespaceRecord) -> None:
        owner = await self.owners.confirm(record.id, record.ownership)
        if owner is not None:
            log.warning("a namespace was moved while this region was away", namespace=record.name, owner=owner.active)
            await self._take_in(owner)

    # --- what the witness says of namespaces -----------------------------------------------------------------------------------
    async def take_in_owners(self) -> None:
        """Raises WitnessError, CallerError."""
        registers = await self.owners.all()
        self._note_moves(registers.items())
        for record in shared(self._ports):
            owner = registers[record.id].owner if record.id in registers else None
            if owner is not None and owner.version > record.failover_version:
                await self._take_in(owner)

    async def _take_in(self, owner: Owner) -> None:
        try:
            is_possible(owner, self._ports.regions())
        except OwnershipAlarm as alarm:
            log.error("the witness cannot be right about a namespace", id=owner.namespace_id, reason=str(alarm))
            return
        await self._ports.change_ownership(owner.namespace_id, lambda ownership: adopted(ownership, owner), is_witnessed=True)

    # --- when namespaces were moved, by this node's own clock -------------------------------------------------------------------
    def _note_moves(self, registers: Iterable[tuple[str, OwnerRegister]]) -> None:
        now_s = self._ports.now_s()
        for namespace_id, (owner, _) in registers:
            if owner is not None and self._moved_at_s.get(namespace_id, (0, 0.0))[0] != owner.version:
                self._moved_at_s[namespace_id] = owner.version, now_s if self._has_listed else -1.0
        self._has_listed = True

    def known_for_s(self, owner: Owner) -> float | None:
        """None: it was moved before this node began."""
        version, at_s = self._moved_at_s.get(owner.namespace_id, (0, -1.0))
        return self._ports.now_s() - at_s if version == owner.version and at_s >= 0 else None


def shared(ports: FailoverPorts) -> list[NamespaceRecord]:
    """The namespaces that other regions have, too."""
    return [record for record in ports.namespaces.all_cached() if record.is_replicated and record.state != DELETED]


async def in_parallel(jobs: Iterable[Awaitable[None]], concurrency: int = CONCURRENCY) -> None:
    """All of them, so many at once. The first failure is raised when all have ended."""
    gate = asyncio.Semaphore(concurrency)

    async def gated(job: Awaitable[None]) -> None:
        async with gate:
            await job

    outcomes = await asyncio.gather(*(gated(job) for job in jobs), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
