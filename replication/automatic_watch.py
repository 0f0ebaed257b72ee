"""Automatic failover carried out: looks at every other region, and takes what the machine of automatic.py says may be taken.

    each look   the leases at the witness; if one has expired, our own probe and the other regions' opinions
    claim       end the lease, read the owner registers, see that it is ended still, then for each namespace: swap its register,
                write its record here. The order is what makes a region that returns at this moment lose or win, never both
    afterwards  a report: when it was last alive, when it was held for silent and for gone, when each record was written
    fail back   only where it is switched on: once that region has been well for long enough, its namespaces go back gracefully
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog

from cluster.core.errors import CallerError, Code
from cluster.namespaces.record import NamespaceRecord
from replication import failover
from replication.automatic import (
    AutomaticSettings,
    Candidate,
    Sight,
    State,
    Watch,
    cooling_s,
    next_watch,
    rank_of,
    why_not,
)
from replication.failover import NotAllowed, OwnershipAlarm
from replication.failover_ports import FailoverPorts, nanoseconds, reason_of
from replication.failover_report import ALIVE, OPINION, FailoverReport, Kind, Opinion
from replication.witness import Owner, WitnessError
from replication.witness_lease import Life, Sighting
from replication.witness_owners import NOBODY, OwnerRegister, adopted
from replication.witness_watch import WitnessWatch, in_parallel, shared

log = structlog.get_logger("replication")

OPT_OUT = "outlast.automatic-failover"  # key of a namespace's data; "false" opts out
REPORTS_MAX = 2_000


class Move(msgspec.Struct, frozen=True):
    """The namespaces of one region that were taken in one claim, or could not be. first_record_ns: from its last sign of life."""

    region: str
    reports: list[FailoverReport]
    first_record_ns: int = 0


class AutomaticFailover:
    """On every node; only the leading one acts."""

    def __init__(self, ports: FailoverPorts, watch: WitnessWatch, settings: AutomaticSettings) -> None:
        self._ports, self._witness, self.settings = ports, watch, settings
        self.watches: dict[str, Watch] = {}
        self.moves: list[Move] = []
        self.waiting: dict[str, str] = {}  # namespace id -> why it is not taken now
        self._last_alive_s: dict[str, float] = {}
        self._well_since_s: dict[str, float] = {}
        self._is_failing_back = False
        self.fail_back: Callable[[str, str], Awaitable[FailoverReport]] | None = None

    async def look_around(self) -> float:
        """One step of the loop; returns how long to pause."""
        if self.settings.is_on and self._ports.is_leading():
            await self.look()
        else:
            self.watches.clear()
        return self._witness.settings.look_s

    async def look(self) -> None:
        try:
            await self._witness.observer.look()
        except WitnessError as failure:
            log.info("the witness cannot be read now", reason=str(failure))
        peers = self._ports.calls.peers()
        for gone in self.watches.keys() - set(peers):
            del self.watches[gone]
        await asyncio.gather(*(self._look_at(peer, [other for other in peers if other != peer]) for peer in peers))

    async def _look_at(self, peer: str, others: list[str]) -> None:
        sighting = self._witness.observer.sighting(peer)
        if sighting.life in (Life.EXPIRED, Life.ENDED, Life.UNKNOWN):
            self._well_since_s.pop(peer, None)
        is_probe_ok, opinions = True, dict[str, bool]()
        if sighting.life in (Life.EXPIRED, Life.ENDED):
            is_probe_ok, opinions = await self._votes(peer, others)
        else:
            self._last_alive_s[peer] = self._ports.now_s() - sighting.quiet_s
            self._look_back(peer, sighting)
        before = self.watches.get(peer, Watch())
        sight = Sight(
            now_s=self._ports.now_s(),
            life=sighting.life,
            is_probe_ok=is_probe_ok,
            opinions=opinions,
            others_count=len(others),
            left_count=len(self._left(peer)),
        )
        after = self.watches[peer] = next_watch(before, sight, self.settings)
        if after.state is not before.state:
            log.warning("watching a region", region=peer, state=after.state.value, before=before.state.value, probe=is_probe_ok)
        if after.state is State.CLAIMING:
            await self._claim(peer, after)

    def _look_back(self, peer: str, sighting: Sighting) -> None:
        """Of a region whose lease is not expired: for how long has it been well?"""
        now_s = self._ports.now_s()
        if sighting.life is not Life.ALIVE or sighting.heartbeat is None or not sighting.heartbeat.is_confirmed:
            self._well_since_s.pop(peer, None)
            return
        well_s = now_s - self._well_since_s.setdefault(peer, now_s)
        if 0 < self.settings.fail_back_s <= well_s and not self._is_failing_back:
            self._is_failing_back = True
            self._well_since_s[peer] = now_s  # what does not succeed is tried again after as long a time
            self._ports.spawn(self._fail_back_to(peer), f"namespaces back to {peer}")

    async def _fail_back_to(self, peer: str) -> None:
        """One after the other: there is no hurry, and each is frozen for a moment."""
        try:
            registers = await self._witness.owners.all()
            for record in shared(self._ports):
                owner, _ = registers.get(record.id, NOBODY)
                is_its = owner is not None and owner.is_automatic and owner.moved_from == peer and peer in record.members
                if is_its and record.active_cluster == self._ports.calls.here and self.fail_back is not None:
                    report = await self.fail_back(record.name, peer)
                    log.warning("a namespace goes back", namespace=record.name, to=peer, done=report.is_done, why=report.reason)
        except (WitnessError, CallerError) as failure:
            log.warning("not all namespaces could go back", to=peer, reason=reason_of(failure))
        finally:
            self._is_failing_back = False

    async def _votes(self, peer: str, others: list[str]) -> tuple[bool, dict[str, bool]]:
        is_ok, *answers = await asyncio.gather(self.probe(peer), *(self._ask_opinion(other, peer) for other in others))
        return is_ok is True, {other: answer for other, answer in zip(others, answers, strict=True) if answer is not None}

    async def probe(self, peer: str) -> bool:
        """Whether anybody there answers, and is well."""
        try:
            await self._ports.calls.ask(peer, ALIVE, b"", self.settings.probe_timeout_s)
        except CallerError as error:
            # A refusal of any other kind (an older version, say) is an answer.
            return error.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED)
        return True

    async def _ask_opinion(self, other: str, about: str) -> bool | None:
        try:
            data = await self._ports.calls.ask(other, OPINION, about.encode(), 2 * self.settings.probe_timeout_s)
            return msgspec.msgpack.decode(data, type=Opinion).is_reachable
        except (CallerError, msgspec.MsgspecError):
            return None

    # --- what may be taken -------------------------------------------------------------------------------------------------
    def _left(self, peer: str) -> list[NamespaceRecord]:
        here = self._ports.calls.here
        return [one for one in shared(self._ports) if one.active_cluster == peer and here in one.members]

    def _why_not(self, record: NamespaceRecord, owner: Owner | None, watch: Watch) -> str:
        here, now_s = self._ports.calls.here, self._ports.now_s()
        cooling = 0.0
        if owner is not None and owner.is_automatic:
            cooling = cooling_s(owner.at, self._ports.clock.now_ns(), self._witness.known_for_s(owner), self.settings)
        candidate = Candidate(
            namespace_id=record.id,
            rank=rank_of(record.members, record.active_cluster, here),
            waited_s=now_s - watch.since_s,
            lag=self._witness.observer.lag_of(record.active_cluster, here),
            cooling_s=cooling,
            is_allowed=record.data.get(OPT_OUT) != "false",
        )
        return why_not(candidate, self.settings)

    # --- taking ------------------------------------------------------------------------------------------------------------
    async def _claim(self, peer: str, watch: Watch) -> None:
        observer, owners = self._witness.observer, self._witness.owners
        if not self._left(peer):
            return
        reports: list[FailoverReport] = []
        try:
            if not await observer.end(peer):
                return  # it lives: the next look will see it
            registers = await owners.all()
            if not await observer.is_ended_still(peer):
                return
            await in_parallel(
                (self._take(peer, record, registers, watch, reports) for record in self._left(peer)), self.settings.concurrency
            )
        except (WitnessError, CallerError) as failure:
            log.warning("not everything could be taken now", region=peer, reason=reason_of(failure))
        if reports:
            self._note(peer, watch, reports)

    async def _take(
        self,
        peer: str,
        record: NamespaceRecord,
        registers: Mapping[str, OwnerRegister],
        watch: Watch,
        reports: list[FailoverReport],
    ) -> None:
        """Raises WitnessError, CallerError."""
        ports, began_s = self._ports, self._ports.now_s()
        owner, version = registers.get(record.id, NOBODY)
        known = record.ownership if owner is None else adopted(record.ownership, owner)
        if known.active != peer:
            return  # it was moved already; the record follows by itself
        if reason := self._why_not(record, owner, watch):
            if self.waiting.get(record.id) != reason:
                log.warning("a namespace is not taken now", namespace=record.name, region=peer, reason=reason)
            self.waiting[record.id] = reason
            return
        self.waiting.pop(record.id, None)
        try:
            decided = failover.fail_over(known, ports.calls.here, ports.regions(), ports.calls.here, ports.clock.now_ns())
            if not await self._witness.owners.swap(record.id, decided, peer, True, version):
                return  # the owner has returned, or another region was first: the next look will see
            written = await ports.change_ownership(record.id, lambda one: failover.merge(one, decided), is_witnessed=True)
        except (NotAllowed, OwnershipAlarm) as refusal:
            log.error("a namespace cannot be taken", namespace=record.name, region=peer, reason=str(refusal))
            return
        reports.append(self._report(peer, written, watch, began_s))

    def _report(self, peer: str, written: NamespaceRecord, watch: Watch, began_s: float) -> FailoverReport:
        here, now_s = self._ports.calls.here, self._ports.now_s()
        lag = self._witness.observer.lag_of(peer, here)
        return FailoverReport(
            namespace_id=written.id,
            namespace=written.name,
            kind=Kind.AUTOMATIC,
            moved_from=peer,
            to=here,
            is_done=written.active_cluster == here,
            version=written.failover_version,
            events_behind=None if lag is None else lag.events_of(written.id),
            detect_ns=nanoseconds(watch.silent_since_s - self._last_alive_s.get(peer, watch.silent_since_s)),
            decide_ns=nanoseconds(watch.since_s - watch.silent_since_s),
            record_ns=nanoseconds(now_s - watch.since_s),
            total_ns=nanoseconds(now_s - began_s),
        )

    def _note(self, peer: str, watch: Watch, reports: list[FailoverReport]) -> None:
        last_alive_s = self._last_alive_s.get(peer, watch.silent_since_s)
        first_ns = nanoseconds(watch.since_s - last_alive_s) + min(report.record_ns for report in reports)
        self.moves.append(Move(peer, reports, first_ns))
        while len(self.moves) > 1 and sum(len(move.reports) for move in self.moves) > REPORTS_MAX:
            self.moves.pop(0)
        log.warning("namespaces of another region were taken over", region=peer, count=len(reports), first_s=first_ns / 1e9)
