"""A graceful failover, carried out by the region that owns the namespace: nothing is lost, or nothing has happened.

    step      until                                                               what goes wrong
    --------  ------------------------------------------------------------------  -------------------------------------------
    drain     the peer lacks little, and no catch-up is under way                 not in time: nothing was changed
    freeze    the record says handover: nobody here takes anything any more       refused: nothing was changed
    settle    each node of each shard says that it knows, and where its journal   not in time, or the peer could not take a
              ends; the peer has everything up to there                           run in: back to normal
    switch    the witness, then the record give the namespace to the peer         the witness does not agree: back to normal
    confirm   the peer says that it owns it                                       it will hear of it later; said in the report

A handover that nobody finishes (this node died) is given up by its region when its time is over: `handover_until`.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from cluster.core.errors import CallerError, Code
from cluster.namespaces.record import DELETED, NamespaceRecord
from replication import failover
from replication.failover import NotAllowed, Ownership, OwnershipAlarm, State
from replication.failover_ports import FailoverPorts, nanoseconds, reason_of, tell_owner
from replication.failover_report import Backlog, FailoverReport, Kind

log = structlog.get_logger("replication")


class HandoverSettings(msgspec.Struct, frozen=True):
    """timeout_s: of a whole graceful failover unless the caller says otherwise. freeze_s: of the part in which nobody is served.
    drain_*_max: what may be left when it is frozen. confirm_s: how long the peer may take to say that it owns the namespace."""

    timeout_s: float = 60.0
    freeze_s: float = 10.0
    drain_events_max: int = 500
    drain_positions_max: int = 2_000
    poll_s: float = 0.02
    drain_poll_s: float = 0.2
    confirm_s: float = 5.0
    call_timeout_s: float = 2.0


class Handover:
    """One namespace's, once."""

    def __init__(self, ports: FailoverPorts, settings: HandoverSettings, record: NamespaceRecord, to: str) -> None:
        self._ports, self._settings, self._to = ports, settings, to
        self._record, self._from = record, ports.calls.here
        self._began_s = ports.now_s()
        self._drained_s = self._frozen_s = 0.0
        self._freeze_ends_s = 0.0
        self._until_ns = 0  # also what our handover is known by

    async def run(self, timeout_s: float) -> FailoverReport:
        """Does not raise for what may go wrong: the report says it."""
        ends_s = self._began_s + timeout_s
        if reason := await self._drain(ends_s):
            return self._report(reason)
        if reason := await self._freeze():
            return self._report(reason)
        reason = "the handover was ended from outside"
        is_moved = False
        try:
            reason = await self._settle() or await self._switch()
            is_moved = not reason
        finally:
            if not is_moved:
                await self._thaw()
        if not is_moved:
            return self._report(reason)
        return self._report(await self._confirm(), is_done=True)

    # --- the steps: each returns why it did not succeed, "" if it did ------------------------------------------------------
    async def _drain(self, ends_s: float) -> str:
        reason = ""
        while True:
            try:
                left = await self._backlog()
                if not left.missing and not left.is_catching_up and self._is_little(left):
                    self._drained_s = self._ports.now_s()
                    return ""
                reason = left.describe()
            except CallerError as error:
                reason = reason_of(error)
            if self._ports.now_s() >= ends_s:
                return f"{self._to} did not come close enough in time: {reason}"
            await asyncio.sleep(self._settings.drain_poll_s)

    def _is_little(self, left: Backlog) -> bool:
        return left.events <= self._settings.drain_events_max and left.positions <= self._settings.drain_positions_max

    async def _freeze(self) -> str:
        ports, settings = self._ports, self._settings
        self._frozen_s = ports.now_s()
        self._freeze_ends_s = self._frozen_s + settings.freeze_s
        # Whoever gives it up for us comes a little later than we ourselves do.
        self._until_ns = ports.clock.now_ns() + nanoseconds(settings.freeze_s + settings.confirm_s)

        def begun(ownership: Ownership) -> Ownership:
            if ownership.active != self._from:
                raise NotAllowed(f"it is active in {ownership.active} by now")
            return failover.begin_handover(ownership, self._from, ports.clock.now_ns(), self._to, self._until_ns)

        try:
            self._record = await ports.change_ownership(self._record.id, begun)
        except (NotAllowed, CallerError) as error:
            await self._thaw()  # an outcome that is not known may be that it is frozen
            return f"it could not be frozen: {reason_of(error)}"
        return ""

    async def _settle(self) -> str:
        targets: dict[int, int] | None = None
        reason = ""
        while self._ports.now_s() < self._freeze_ends_s:
            try:
                left = await self._backlog()
                if targets is None and left.is_frozen:
                    targets = {number: shard.last_position for number, shard in left.shards.items()}
                if targets is not None and left.has_passed(targets):
                    return await self._refusal_of_peer()
                reason = left.describe() if targets is not None else "not every node knows of the freeze yet"
            except CallerError as error:
                reason = reason_of(error)
            await asyncio.sleep(self._settings.poll_s)
        return f"{self._to} did not have everything in time: {reason}"

    async def _refusal_of_peer(self) -> str:
        try:
            there = await tell_owner(self._ports.calls, self._to, self._record.id, None, self._settings.call_timeout_s)
        except CallerError as error:
            return f"{self._to} cannot be asked: {reason_of(error)}"
        if not there.is_known or not there.is_member:
            return f"{self._to} does not have the namespace"
        if there.quarantined_count:
            return f"{self._to} could not take in {there.quarantined_count} of its runs: see its quarantine"
        return ""

    async def _switch(self) -> str:
        ports = self._ports

        def finished(ownership: Ownership) -> Ownership:
            if ownership.active == self._to:
                return ownership  # an earlier try went well, and nobody could say so
            if not self._is_ours(ownership):
                raise NotAllowed("the handover was ended meanwhile")
            return failover.finish_handover(ownership, ports.regions(), self._from, ports.clock.now_ns())

        while True:
            try:
                self._record = await ports.change_ownership(self._record.id, finished)
                return ""
            except (NotAllowed, OwnershipAlarm) as error:
                return f"it could not be switched: {error}"
            except CallerError as error:
                # The witness may have it written already: to go on is better than to go back.
                if error.code is not Code.UNAVAILABLE or ports.now_s() >= self._freeze_ends_s:
                    return f"it could not be switched: {error.message}"
            await asyncio.sleep(self._settings.drain_poll_s)

    def _is_ours(self, ownership: Ownership) -> bool:
        return ownership.state is State.HANDOVER and ownership.handover_until == self._until_ns and ownership.active == self._from

    async def _confirm(self) -> str:
        """The peer hears of it from here first: the freeze ends when it knows."""
        ports, settings = self._ports, self._settings
        ends_s = ports.now_s() + settings.confirm_s
        while True:
            try:
                ownership = self._record.ownership
                there = await tell_owner(ports.calls, self._to, self._record.id, ownership, settings.call_timeout_s)
                if there.version >= ownership.version:
                    return ""
                reason = f"it says version {there.version}"
            except CallerError as error:
                reason = reason_of(error)
            if ports.now_s() >= ends_s:
                return f"it is done, but {self._to} has not confirmed it yet: {reason}"
            await asyncio.sleep(settings.poll_s)

    async def _thaw(self) -> None:
        """Back to normal, if it is our handover that froze it."""
        ports = self._ports

        def normal(ownership: Ownership) -> Ownership:
            if not self._is_ours(ownership):
                return ownership
            return failover.abort_handover(ownership, self._from, ports.clock.now_ns())

        try:
            self._record = await ports.change_ownership(self._record.id, normal)
        except CallerError as error:
            log.error("a handover cannot be ended now; it is given up when its time is over", reason=reason_of(error))

    # --- what it looks at ----------------------------------------------------------------------------------------------------
    async def _backlog(self) -> Backlog:
        return await self._ports.backlog(self._record.id, self._to)

    def _report(self, reason: str, is_done: bool = False) -> FailoverReport:
        now_s = self._ports.now_s()
        return FailoverReport(
            namespace_id=self._record.id,
            namespace=self._record.name,
            kind=Kind.GRACEFUL,
            moved_from=self._from,
            to=self._to,
            is_done=is_done,
            version=self._record.failover_version,
            reason=reason,
            events_behind=0 if is_done else None,
            drain_ns=nanoseconds((self._drained_s or now_s) - self._began_s),
            freeze_ns=nanoseconds(now_s - self._frozen_s) if self._frozen_s else 0,
            total_ns=nanoseconds(now_s - self._began_s),
        )


async def give_up_overdue(ports: FailoverPorts) -> None:
    """Handovers of this region that nobody finishes any more. By the leading node, again and again. Raises CallerError."""
    now_ns, here = ports.clock.now_ns(), ports.calls.here
    for record in ports.namespaces.all_cached():
        owned = record.ownership
        if record.state != DELETED and failover.give_up_overdue(owned, here, now_ns) is not owned:
            log.warning("a handover was not finished in time, it ends", namespace=record.name, to=record.handover_to)
            await ports.change_ownership(record.id, lambda one: failover.give_up_overdue(one, here, now_ns))
