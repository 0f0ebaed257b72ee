"""What another region says of a global namespace, taken into this region's registry.

| the record that came                                   | outcome     | what happens                                            |
|--------------------------------------------------------|-------------|---------------------------------------------------------|
| is local there                                         | local       | nothing: it is not for others                           |
| of an id that was deleted here and is gone             | gone        | nothing; the other side may have to be told             |
| unknown here, this region is not on its list           | not for us  | nothing                                                 |
| unknown here, its name belongs to another namespace    | name taken  | nothing now; it is offered again later                  |
| unknown here, and deleted                              | known       | a tombstone, so that an older record does not revive it |
| unknown here                                           | created     | as it came                                              |
| local here (a copy that this region is dropping)       | local here  | nothing now; it is offered again later                  |
| from a region that is not on the list                  | not member  | nothing                                                 |
| gives one failover version to two owners               | alarm       | nothing is written over; the log and the answer say so  |
| older than or equal to ours                            | known       | nothing                                                 |
| with news                                              | changed     | the merged record; a deletion is carried out here too   |

Every outcome may be met by sending again: taking a record twice, or in another order, ends the same (merging.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum

import msgspec
import structlog

from cluster.core.errors import CallerError, Code, unavailable
from cluster.namespaces import merging
from cluster.namespaces.record import DELETED, NamespaceRecord
from cluster.namespaces.remote_clusters import RemoteClusters
from cluster.namespaces.rows import Entry, NamespaceRows
from replication.failover import OwnershipAlarm, check_owner

log = structlog.get_logger("outlast.namespaces")

_CONFLICTS_MAX = 100


class Outcome(Enum):
    CREATED = "created"
    CHANGED = "changed"
    KNOWN = "known"
    GONE = "gone"
    LOCAL = "local"
    LOCAL_HERE = "local here"
    NOT_FOR_US = "not for us"
    NOT_MEMBER = "not member"
    NAME_TAKEN = "name taken"
    ALARM = "alarm"


# What will be different when the same record comes again later, without anybody changing it.
PASSING = frozenset({Outcome.NAME_TAKEN, Outcome.LOCAL_HERE})


class Taken(msgspec.Struct, frozen=True):
    """record: as it is here now, if it is. has_news: ours has something that theirs lacks, so it should be sent back."""

    outcome: Outcome
    record: NamespaceRecord | None = None
    has_news: bool = False
    reason: str = ""


class IncomingNamespaces:
    """delete: marks, renames and announces, as the registry's own deletion does."""

    def __init__(
        self,
        rows: NamespaceRows,
        clusters: RemoteClusters,
        here: str,
        delete: Callable[[NamespaceRecord], Awaitable[NamespaceRecord]],
    ) -> None:
        self._rows, self._clusters, self._here, self._delete = rows, clusters, here, delete

    async def merge(self, theirs: NamespaceRecord, source: str, is_fresh: bool = False) -> Taken:
        """source: the region that sent it. is_fresh: the rows were read a moment ago. Raises UNAVAILABLE when the store does not
        answer."""
        if not theirs.is_global:
            return Taken(Outcome.LOCAL, reason=f"namespace {theirs.name} is local in {source}")
        for _ in range(_CONFLICTS_MAX):
            if not is_fresh:
                await self._rows.read_all()
            is_fresh = False
            entry = self._rows.cached_by_id(theirs.id)
            taken = await (self._unknown(theirs, source) if entry is None else self._known(entry, theirs, source))
            if taken is not None:
                return taken
        raise unavailable(f"namespace {theirs.name} is being changed by many callers; retry")

    async def _unknown(self, theirs: NamespaceRecord, source: str) -> Taken | None:
        """None: another write came first."""
        if await self._rows.is_buried(theirs.id):
            return Taken(Outcome.GONE, has_news=theirs.state != DELETED)
        if self._here not in theirs.members:
            return Taken(Outcome.NOT_FOR_US)
        if source not in theirs.members:
            return self._not_member(theirs, source)
        if (alarm := self._alarm_of(theirs)) is not None:
            return alarm
        if theirs.state == DELETED:
            await self._rows.bury(theirs)
            return Taken(Outcome.KNOWN)
        try:
            there = await self._rows.read(theirs.name)
        except CallerError as error:
            if error.code is not Code.NOT_FOUND:
                raise
        else:
            reason = f"the name {theirs.name} is that of another namespace here, {there.record.id}, not of {theirs.id}"
            log.warning("a namespace of another region cannot be created here", source=source, reason=reason)
            return Taken(Outcome.NAME_TAKEN, reason=reason)
        ours = msgspec.structs.replace(theirs, renamed_to="")
        return Taken(Outcome.CREATED, ours) if await self._rows.put(ours, expected_version=0) else None

    async def _known(self, entry: Entry, theirs: NamespaceRecord, source: str) -> Taken | None:
        """None: another write came first."""
        ours = entry.record
        if not ours.is_global:
            return Taken(Outcome.LOCAL_HERE, ours, reason=f"namespace {ours.name} is local here")
        if (alarm := self._alarm_of(theirs)) is not None:
            return alarm
        try:
            merged = merging.merged(ours, theirs)
        except OwnershipAlarm as alarm_:
            return self._alarm(theirs, alarm_)
        if source not in ours.members and source not in merged.members:
            return self._not_member(theirs, source)
        has_news = not merging.is_same(merged, theirs)
        if merging.is_same(merged, ours):
            return Taken(Outcome.KNOWN, ours, has_news)
        if merged.failover_version != ours.failover_version:
            log.info(
                "a namespace has another owner",
                namespace=ours.name,
                owner=merged.active_cluster,
                version=merged.failover_version,
                instead_of=ours.active_cluster,
                version_before=ours.failover_version,
            )
        if merged.state == DELETED and ours.state != DELETED:
            return await self._deleted(entry, merged, has_news)
        return Taken(Outcome.CHANGED, merged, has_news) if await self._rows.put(merged, entry.version) else None

    async def _deleted(self, entry: Entry, merged: NamespaceRecord, has_news: bool) -> Taken | None:
        if not await self._rows.put(merged, entry.version):
            return None
        return Taken(Outcome.CHANGED, await self._delete(merged), has_news)

    def _not_member(self, theirs: NamespaceRecord, source: str) -> Taken:
        return Taken(Outcome.NOT_MEMBER, reason=f"{source} is not on the list of namespace {theirs.name}")

    def _alarm_of(self, theirs: NamespaceRecord) -> Taken | None:
        try:
            check_owner(theirs.ownership, self._clusters.regions())
        except OwnershipAlarm as alarm:
            return self._alarm(theirs, alarm)
        return None

    def _alarm(self, theirs: NamespaceRecord, alarm: OwnershipAlarm) -> Taken:
        log.error("regions disagree on who owns a namespace", namespace=theirs.name, id=theirs.id, reason=str(alarm))
        return Taken(Outcome.ALARM, reason=str(alarm))
