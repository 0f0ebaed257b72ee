"""What to look at before a failover: one line per condition, each with what is wrong.

| check             | is about                                                                          | needed for   |
|-------------------|-----------------------------------------------------------------------------------|--------------|
| destination known | a region of that name is known here, and its connection is enabled                | any          |
| member            | the namespace is in that region                                                   | any          |
| moves             | it is not active there already                                                    | any          |
| no handover       | none is under way                                                                 | graceful     |
| version           | the record's failover version belongs to its owner, and the witness agrees        | any          |
| witness           | it can be read (or there is none)                                                 | any          |
| link              | the destination answers, and knows the namespace at the version that is known here | graceful     |
| lag               | it is close enough; no catch-up (only the owner can say)                          | graceful     |
| quarantine        | there is no run of the namespace that it could not take in                        | graceful     |
"""

from __future__ import annotations

from cluster.core.errors import CallerError
from cluster.namespaces.record import NamespaceRecord
from replication.failover import OwnershipAlarm, State, check_owner
from replication.failover_ports import FailoverPorts, reason_of, tell_owner
from replication.failover_report import Check, PeerState
from replication.handover import HandoverSettings
from replication.witness import WitnessError
from replication.witness_owners import Owners

_CALL_S = 2.0


class FailoverPlan:
    """Changes nothing."""

    def __init__(self, ports: FailoverPorts, settings: HandoverSettings, owners: Owners | None) -> None:
        self._ports, self._settings, self._owners = ports, settings, owners

    async def checks(self, record: NamespaceRecord, to: str) -> list[Check]:
        found = self._of_the_record(record, to)
        found.append(await self._witness(record))
        if to == self._ports.calls.here:
            there: PeerState | None = PeerState(
                True, record.active_cluster, record.failover_version, False, to in record.members, await self._quarantined(record)
            )
        else:
            there = await self._link(record, to, found)
        if there is not None:
            found.append(_check(record, "quarantine", not there.quarantined_count, f"{there.quarantined_count} of its runs"))
        found.append(await self._lag(record, to))
        return found

    def _of_the_record(self, record: NamespaceRecord, to: str) -> list[Check]:
        regions, ownership = self._ports.regions(), record.ownership
        try:
            check_owner(ownership, regions)
            alarm = ""
        except OwnershipAlarm as found:
            alarm = str(found)
        is_idle, other = ownership.state is not State.HANDOVER, record.handover_to or "an unnamed region"
        return [
            _check(record, "destination known", to in regions.usable, f"no region {to} is known here, or it is not connected"),
            _check(record, "member", record.is_global and to in record.members, f"it is not in region {to}"),
            _check(record, "moves", record.active_cluster != to, f"it is active in {to} already"),
            _check(record, "no handover", is_idle, f"one to {other} is under way"),
            _check(record, "version", not alarm, alarm),
        ]

    async def _witness(self, record: NamespaceRecord) -> Check:
        if self._owners is None:
            return Check(record.name, "witness", True, "there is none")
        try:
            owner, _ = await self._owners.read(record.id)
        except WitnessError as failure:
            return Check(record.name, "witness", False, f"it cannot be read: {failure}")
        is_known = owner is None or owner.version <= record.failover_version
        return _check(record, "witness", is_known, f"it says {owner.active} under version {owner.version}" if owner else "")

    async def _link(self, record: NamespaceRecord, to: str, found: list[Check]) -> PeerState | None:
        try:
            there = await tell_owner(self._ports.calls, to, record.id, None, _CALL_S)
        except CallerError as error:
            found.append(Check(record.name, "link", False, f"{to} does not answer: {reason_of(error)}"))
            return None
        reason = "" if there.is_known else f"{to} does not know the namespace"
        if not reason and there.version != record.failover_version:
            reason = f"{to} has it at version {there.version}, here it is {record.failover_version}"
        found.append(_check(record, "link", not reason, reason))
        return there

    async def _lag(self, record: NamespaceRecord, to: str) -> Check:
        if record.active_cluster != self._ports.calls.here:
            return Check(record.name, "lag", True, f"only the owner, {record.active_cluster}, knows it", is_hard=False)
        try:
            left = await self._ports.backlog(record.id, to)
        except CallerError as error:
            return Check(record.name, "lag", False, f"a node of this region cannot be asked: {reason_of(error)}", is_hard=False)
        is_close = not left.missing and not left.is_catching_up and left.events <= self._settings.drain_events_max
        return Check(record.name, "lag", is_close, "" if is_close and not left.events else left.describe(), is_hard=False)

    async def _quarantined(self, record: NamespaceRecord) -> int:
        return await self._ports.quarantined(record.id)


def _check(record: NamespaceRecord, name: str, ok: bool, reason: str) -> Check:
    return Check(record.name, name, ok, "" if ok else reason)
