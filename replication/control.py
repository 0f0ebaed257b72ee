"""Failovers of a node: asked for by an operator or another region, and, with a witness, decided by itself.

    fail_over     one namespace: graceful, forced, or hybrid. Any region may be asked; a graceful one is the owner's to carry out
    fail_over_all many of them, so many at once
    plan, status  what to look at before, and what is going on
    may_acknowledge, before_move   what history and the registry ask of the witness; see each

Make it, `start` it with the node's other jobs. Without a witness nothing is automatic, and a failover is decided where it is
asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import msgspec
import structlog

from cluster.core.errors import CallerError, Code, failed_precondition, invalid_argument, unavailable
from cluster.namespaces.ownership_changes import BeforeMove
from cluster.namespaces.record import NamespaceRecord
from replication import failover
from replication.automatic import AutomaticSettings
from replication.automatic_watch import AutomaticFailover, Move
from replication.failover import NotAllowed, Ownership, OwnershipAlarm, State
from replication.failover_plan import FailoverPlan
from replication.failover_ports import FailoverPorts, nanoseconds, reason_of, repeat, tell_owner
from replication.failover_report import (
    ALIVE,
    FAIL_OVER,
    OPINION,
    OWNERSHIP,
    Check,
    FailoverReport,
    FailoverRequest,
    Kind,
    Opinion,
    OwnershipTold,
    PeerState,
)
from replication.handover import Handover, HandoverSettings, give_up_overdue
from replication.witness import Witness, WitnessError
from replication.witness_lease import LeaseSettings
from replication.witness_owners import Owners, WitnessedMoves, adopted
from replication.witness_watch import WitnessWatch, shared

log = structlog.get_logger("replication")

T = TypeVar("T")

_TELL_S = 2.0
OVERDUE_LOOK_S = 1.0


class FailoverSettings(msgspec.Struct, frozen=True):
    """concurrency: how many namespaces fail over at once."""

    lease: LeaseSettings = LeaseSettings()
    automatic: AutomaticSettings = AutomaticSettings()
    handover: HandoverSettings = HandoverSettings()
    concurrency: int = 16


class FailoverStatus(msgspec.Struct, frozen=True):
    """lease_held_s: None without a witness. regions: where the machine of each other region stands. waiting: namespace id -> why
    it is not taken over now. moves: the automatic ones, oldest first. handovers: namespaces that this node hands over now."""

    lease_held_s: float | None
    is_leading: bool
    regions: dict[str, str]
    waiting: dict[str, str]
    moves: list[Move]
    handovers: list[str]


class FailoverControl:
    def __init__(self, ports: FailoverPorts, settings: FailoverSettings, node: str, witness: Witness | None = None) -> None:
        self._ports, self.settings, self._witness = ports, settings, witness
        self.watch = WitnessWatch(ports, witness, settings.lease, node) if witness is not None else None
        self.automatic = AutomaticFailover(ports, self.watch, settings.automatic) if self.watch is not None else None
        if self.automatic is not None:
            self.automatic.fail_back = self._fail_back
        self._owners: Owners | None = self.watch.owners if self.watch is not None else None
        # To be given to OwnershipChanges and the registry: every failover passes the witness. None without one.
        self.before_move: BeforeMove | None = WitnessedMoves(self._owners) if self._owners is not None else None
        self._plan = FailoverPlan(ports, settings.handover, self._owners)
        self._handing_over: dict[str, str] = {}
        self._jobs: list[asyncio.Task[None]] = []
        for method, answerer in (
            (ALIVE, self._answer_alive),
            (OPINION, self._answer_opinion),
            (OWNERSHIP, self._answer_ownership),
            (FAIL_OVER, self._answer_fail_over),
        ):
            ports.calls.answer(method, answerer)

    def start(self) -> None:
        loops: dict[str, Callable[[], Awaitable[float]]] = {"handovers that are overdue": self._look_at_overdue}
        if self.watch is not None and self.automatic is not None:
            loops["lease at the witness"] = self.watch.look_after_lease
            loops["owners at the witness"] = self.watch.look_at_owners
            loops["lag for the witness"] = self.watch.gather_lag
            loops["automatic failover"] = self.automatic.look_around
        self._jobs = [self._ports.spawn(repeat(self._ports, name, step), name) for name, step in loops.items()]

    async def close(self) -> None:
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        if self._witness is not None:
            await self._witness.close()

    async def _look_at_overdue(self) -> float:
        if self._ports.is_leading():
            try:
                await give_up_overdue(self._ports)
            except CallerError as error:
                log.info("a handover cannot be given up now", reason=error.message)
        return OVERDUE_LOOK_S

    # --- what history asks ---------------------------------------------------------------------------------------------------
    def may_acknowledge(self, namespace_id: str) -> bool:
        """Whether a write that a client made in this region, and that is durable now, may be acknowledged: the journal asks in
        the step in which it tells the waiter. False only in strict mode, for a namespace that other regions have, past this
        region's deadline at the witness. The write is durable all the same: its caller is told to retry (UNAVAILABLE)."""
        if self.watch is None or not self.settings.lease.is_strict:
            return True
        record = self._ports.namespaces.cached_by_id(namespace_id)
        if record is None or not record.is_replicated:
            return True
        return record.active_cluster == self._ports.calls.here and self.watch.lease.is_held

    # --- what operators ask --------------------------------------------------------------------------------------------------
    async def plan(self, namespace: str | None, to: str) -> list[Check]:
        """namespace None: all that could move there. Raises CallerError."""
        if namespace is not None:
            return await self._plan.checks(await self._ports.namespaces.by_name(namespace), to)
        records = [record for record in shared(self._ports) if to in record.members and record.active_cluster != to]
        lists = await asyncio.gather(*(self._plan.checks(record, to) for record in records))
        return [check for checks in lists for check in checks]

    def status(self) -> FailoverStatus:
        automatic = self.automatic
        return FailoverStatus(
            lease_held_s=self.watch.lease.held_s if self.watch is not None else None,
            is_leading=self._ports.is_leading(),
            regions={name: watch.state.value for name, watch in automatic.watches.items()} if automatic is not None else {},
            waiting=dict(automatic.waiting) if automatic is not None else {},
            moves=list(automatic.moves) if automatic is not None else [],
            handovers=sorted(self._handing_over.values()),
        )

    async def fail_over(
        self, namespace: str, to: str, kind: Kind, timeout_s: float | None = None, without_witness: bool = False
    ) -> FailoverReport:
        """timeout_s: of the graceful part. without_witness: forced on the operator's own responsibility while the witness cannot
        be asked; two regions may then issue versions that do not know of each other, and merging sorts it out.

        Raises CallerError for what cannot be asked for (NOT_FOUND, INVALID_ARGUMENT); what goes wrong is in the report.
        """
        began_s = self._ports.now_s()
        record = await self._ports.namespaces.by_name(namespace)
        self._check(record, to)
        if record.active_cluster == to and record.ownership.state is State.NORMAL:
            reason = "it is active there already"
            return self._told(record, record.active_cluster, to, kind, began_s, reason, is_done=True)
        if kind is Kind.AUTOMATIC:
            raise invalid_argument("an automatic failover is not asked for")
        if kind is Kind.FORCED:
            return await self._forced(record, to, kind, began_s, "", without_witness)
        tried = await self._graceful(record, to, self.settings.handover.timeout_s if timeout_s is None else timeout_s)
        if tried.is_done or kind is Kind.GRACEFUL:
            return msgspec.structs.replace(tried, kind=kind, total_ns=nanoseconds(self._ports.now_s() - began_s))
        return await self._forced(record, to, kind, began_s, f"not graceful: {tried.reason}", without_witness)

    async def fail_over_all(
        self,
        namespaces: Iterable[str],
        to: str,
        kind: Kind,
        timeout_s: float | None = None,
        on_progress: Callable[[FailoverReport], None] = lambda report: None,
    ) -> list[FailoverReport]:
        """So many at once; a namespace that cannot be moved does not stop the others. In the order of the names."""
        gate = asyncio.Semaphore(self.settings.concurrency)

        async def one(name: str) -> FailoverReport:
            async with gate:
                try:
                    report = await self.fail_over(name, to, kind, timeout_s)
                except CallerError as error:
                    report = FailoverReport(
                        namespace_id="", namespace=name, kind=kind, moved_from="", to=to, is_done=False, reason=error.message
                    )
                on_progress(report)
                return report

        return list(await asyncio.gather(*(one(name) for name in namespaces)))

    async def _fail_back(self, namespace: str, to: str) -> FailoverReport:
        return await self.fail_over(namespace, to, Kind.GRACEFUL)

    def _check(self, record: NamespaceRecord, to: str) -> None:
        if not record.is_global:
            raise failed_precondition(f"namespace {record.name} is local: it cannot fail over")
        if to not in self._ports.regions().usable:
            raise invalid_argument(f"Invalid cluster name: {to}")
        if to not in record.members:
            raise invalid_argument(f"namespace {record.name} is not in region {to}")

    # --- graceful ------------------------------------------------------------------------------------------------------------
    async def _graceful(self, record: NamespaceRecord, to: str, timeout_s: float) -> FailoverReport:
        began_s, owner = self._ports.now_s(), record.active_cluster
        if owner == self._ports.calls.here:
            return await self._hand_over(record, to, timeout_s)
        request = FailoverRequest(record.id, to, timeout_s)
        limit_s = timeout_s + self.settings.handover.freeze_s + self.settings.handover.confirm_s + _TELL_S
        try:
            data = await self._ports.calls.ask(owner, FAIL_OVER, msgspec.msgpack.encode(request), limit_s)
            report = msgspec.msgpack.decode(data, type=FailoverReport)
        except (CallerError, msgspec.MsgspecError) as error:
            return self._told(record, owner, to, Kind.GRACEFUL, began_s, f"its owner, {owner}, cannot do it: {reason_of(error)}")
        if report.is_done and self._owners is not None:
            await self._adopt(record)
        return report

    async def _hand_over(self, record: NamespaceRecord, to: str, timeout_s: float) -> FailoverReport:
        if record.id in self._handing_over or record.ownership.state is State.HANDOVER:
            reason = "a handover is under way"
            return self._told(record, self._ports.calls.here, to, Kind.GRACEFUL, self._ports.now_s(), reason)
        self._handing_over[record.id] = record.name
        try:
            return await Handover(self._ports, self.settings.handover, record, to).run(timeout_s)
        finally:
            del self._handing_over[record.id]

    # --- forced --------------------------------------------------------------------------------------------------------------
    async def _forced(
        self, record: NamespaceRecord, to: str, kind: Kind, began_s: float, reason: str, without_witness: bool
    ) -> FailoverReport:
        ports, here, moved_from = self._ports, self._ports.calls.here, record.active_cluster
        lag = self.watch.observer.lag_of(moved_from, to) if self.watch is not None and moved_from != here else None

        def decided(ownership: Ownership) -> Ownership:
            return failover.fail_over(ownership, to, ports.regions(), here, ports.clock.now_ns())

        try:
            if self._owners is not None and not without_witness:
                record = await self._adopt(record)
            record = await ports.change_ownership(record.id, decided, is_witnessed=without_witness)
        except (NotAllowed, OwnershipAlarm, CallerError, WitnessError) as error:
            reason = "; ".join(filter(None, (reason, f"it could not be forced: {reason_of(error)}")))
            return self._told(record, moved_from, to, kind, began_s, reason)
        written_s = ports.now_s()
        unheard = await self._spread(record)
        if unheard:
            reason = "; ".join(filter(None, (reason, f"not told yet: {', '.join(unheard)}")))
        report = self._told(record, moved_from, to, kind, began_s, reason, is_done=record.active_cluster == to)
        events = lag.events_of(record.id) if lag is not None else None
        return msgspec.structs.replace(report, record_ns=nanoseconds(written_s - began_s), events_behind=events)

    async def _adopt(self, record: NamespaceRecord) -> NamespaceRecord:
        """With what the witness knows of it. Raises WitnessError, CallerError."""
        assert self._owners is not None
        owner, _ = await self._owners.read(record.id)
        if owner is None or owner.version <= record.failover_version:
            return record
        return await self._ports.change_ownership(record.id, lambda one: adopted(one, owner), is_witnessed=True)

    async def _spread(self, record: NamespaceRecord) -> list[str]:
        """Tells the namespace's other regions. Returns those that did not hear it: they will, by records.py or the witness."""

        async def tell(region: str) -> str:
            try:
                await tell_owner(self._ports.calls, region, record.id, record.ownership, _TELL_S)
            except CallerError as error:
                log.info("a region was not told of a failover", region=region, reason=error.message)
                return region
            return ""

        others = [region for region in record.members if region != self._ports.calls.here]
        return [region for region in await asyncio.gather(*map(tell, others)) if region]

    def _told(
        self, record: NamespaceRecord, moved_from: str, to: str, kind: Kind, began_s: float, reason: str, is_done: bool = False
    ) -> FailoverReport:
        return FailoverReport(
            namespace_id=record.id,
            namespace=record.name,
            kind=kind,
            moved_from=moved_from,
            to=to,
            is_done=is_done,
            version=record.failover_version,
            reason=reason,
            total_ns=nanoseconds(self._ports.now_s() - began_s),
        )

    # --- what other regions ask ----------------------------------------------------------------------------------------------
    async def _answer_alive(self, peer: str, data: bytes) -> bytes:
        if not self._ports.is_healthy():
            raise unavailable(f"region {self._ports.calls.here} is not well")
        return b""

    async def _answer_opinion(self, peer: str, data: bytes) -> bytes:
        """Probed now: an opinion that was formed earlier may be of another time."""
        about = data.decode("utf-8", "replace")
        if about not in self._ports.calls.peers() or self.automatic is None:
            raise failed_precondition(f"region {self._ports.calls.here} has no opinion on region {about}")
        return msgspec.msgpack.encode(Opinion(await self.automatic.probe(about)))

    async def _answer_ownership(self, peer: str, data: bytes) -> bytes:
        told = _decoded(data, OwnershipTold)
        record = self._ports.namespaces.cached_by_id(told.namespace_id)
        if record is None or peer not in record.members:
            return msgspec.msgpack.encode(PeerState(False))  # nothing that would be this peer's business
        news = told.ownership
        if news is not None and news.version > record.failover_version:
            try:
                failover.check_owner(news, self._ports.regions())
                record = await self._ports.change_ownership(record.id, lambda one: failover.merge(one, news), is_witnessed=True)
            except OwnershipAlarm as alarm:
                raise failed_precondition(f"region {self._ports.calls.here} refuses it: {alarm}") from alarm
        state = PeerState(
            is_known=True,
            active=record.active_cluster,
            version=record.failover_version,
            is_in_handover=record.ownership.state is State.HANDOVER,
            is_member=self._ports.calls.here in record.members,
            quarantined_count=await self._ports.quarantined(record.id),
        )
        return msgspec.msgpack.encode(state)

    async def _answer_fail_over(self, peer: str, data: bytes) -> bytes:
        request = _decoded(data, FailoverRequest)
        record = self._ports.namespaces.cached_by_id(request.namespace_id)
        here = self._ports.calls.here
        if record is None or peer not in record.members:
            raise CallerError(Code.NOT_FOUND, f"region {here} shares no such namespace with {peer}")
        if record.active_cluster != here:
            raise failed_precondition(f"it is active in {record.active_cluster}, not in {here}")
        self._check(record, request.to)
        if request.to == here:
            return msgspec.msgpack.encode(self._told(record, here, here, Kind.GRACEFUL, self._ports.now_s(), "", is_done=True))
        return msgspec.msgpack.encode(await self._hand_over(record, request.to, request.timeout_s))


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.MsgspecError as broken:
        raise invalid_argument(f"a call of another region cannot be read: {broken}") from broken
