"""The registry of Nexus endpoints: rows of metadata, one per name, so that a name is taken by one compare-and-swap.

This node holds all of them in memory (`by_name`, `by_id` cost nothing); a change is told to all nodes before it is acknowledged,
as changes of namespaces are. A rename writes the row of the new name, then removes the old one: where a crash leaves both, the
later record of an id counts, and the other row's name is free.

Regions have the same endpoints, with the same ids (replication of records: regions.py). Of two records with one id the later one
counts, of two ids that were given one name in two regions the older one; a deletion leaves a tombstone and is final.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec
from temporalio.api.nexus.v1 import Endpoint, EndpointSpec

from cluster.config import Limits
from cluster.core.errors import CallerError, Code, failed_precondition, invalid_argument, not_found, unavailable
from cluster.core.transition import EndpointRef
from cluster.namespaces.record import NamespaceRecord
from cluster.nexus.endpoint_record import (
    PAGE_ENDPOINTS_DEFAULT,
    PAGE_ENDPOINTS_MAX,
    EndpointRecord,
    decode_record,
    encode_record,
    id_issues,
    public_endpoint,
    refuse,
    spec_issues,
)
from cluster.seams import Clock, Ids
from cluster.stores.base import MetadataRow, Store, StoreUnavailable, StoreUnknown
from nexus.policy import EndpointPolicy

KIND = "nexus endpoint"
TOMBSTONE_KIND = "nexus endpoint tombstone"


class Namespaces(Protocol):
    """Raise CallerError NOT_FOUND."""

    async def by_name(self, name: str) -> NamespaceRecord: ...

    async def by_id(self, namespace_id: str) -> NamespaceRecord: ...


class EndpointRegistry:
    """One per node. Raises CallerError: the public server's refusals, UNAVAILABLE when the store does not answer."""

    def __init__(self, store: Store, clock: Clock, ids: Ids, namespaces: Namespaces, limits: Limits) -> None:
        self.on_change: Callable[[], Awaitable[None]] | None = None
        self._store, self._clock, self._ids, self._namespaces, self._limits = store, clock, ids, namespaces, limits
        self._rows: dict[str, tuple[EndpointRecord, int]] = {}  # by name: the record, the row's version
        self._by_id: dict[str, EndpointRecord] = {}
        self._tombstones: dict[str, EndpointRecord] = {}

    # --- what this node knows ---------------------------------------------------------------------------------------------
    async def refresh(self) -> None:
        """Reads all rows: at the start, and when another node has changed one."""
        try:
            rows, stones = await self._store.metadata_list(KIND), await self._store.metadata_list(TOMBSTONE_KIND)
        except StoreUnavailable as outage:
            raise unavailable("Nexus endpoints cannot be read now; retry") from outage
        self._rows = {row.id: (decode_record(row.data), row.version) for row in rows}
        self._tombstones = {row.id: decode_record(row.data) for row in stones}
        self._index()

    def _index(self) -> None:
        self._by_id = {}
        for record, _ in self._rows.values():
            known = self._by_id.get(record.id)
            if (known is None or known.order < record.order) and record.id not in self._tombstones:
                self._by_id[record.id] = record

    def by_id(self, id: str) -> EndpointRecord | None:
        return self._by_id.get(id)

    def by_name(self, name: str) -> EndpointRecord | None:
        row = self._rows.get(name)
        return None if row is None or self.by_id(row[0].id) != row[0] else row[0]

    def find(self, id: str, name: str) -> EndpointRecord | None:
        """By its id, or, if that was deleted, by its name."""
        return self.by_id(id) or self.by_name(name)

    def lookup(self, caller: str, name: str) -> EndpointRef | None:
        """For commands of workflows. caller: the name of their namespace."""
        record = self.by_name(name)
        return None if record is None else EndpointRef(record.id, record.name, record.allows(caller))

    def records(self) -> list[EndpointRecord]:
        """All of them, by id; those that were deleted, too."""
        known = {**self._by_id, **self._tombstones}
        return [known[id] for id in sorted(known)]

    async def take(self, records: Sequence[EndpointRecord]) -> bool:
        """Of another region. True: something was news here. Commutative and idempotent."""
        await self.refresh()
        is_news = False
        for record in records:
            if record.is_deleted:
                is_news |= await self._take_deletion(record)
            else:
                is_news |= await self._take_record(record)
        if is_news:
            await self._told()
        return is_news

    async def _take_deletion(self, stone: EndpointRecord) -> bool:
        if stone.id in self._tombstones:
            return False
        await self._bury(stone)
        for name, (record, _) in list(self._rows.items()):
            if record.id == stone.id:
                await self._remove_row(name)
        return True

    async def _take_record(self, record: EndpointRecord) -> bool:
        if record.id in self._tombstones:
            return False
        known = self._by_id.get(record.id)
        if known is not None and known.order >= record.order:
            return False
        holder = self.by_name(record.name)
        if holder is not None and holder.id != record.id:
            if (holder.created_at, holder.id) < (record.created_at, record.id):
                await self._bury(msgspec.structs.replace(record, is_deleted=True))
                return True
            await self._bury(msgspec.structs.replace(holder, is_deleted=True))
        if not await self._put(record):
            return False  # somebody here was first; the next exchange sees what that came to
        if known is not None and known.name != record.name:
            await self._remove_row(known.name)
        return True

    async def _bury(self, stone: EndpointRecord) -> None:
        """Its deletion is known from now on, whatever another region still says of it."""
        try:
            await self._store.metadata_put(TOMBSTONE_KIND, stone.id, encode_record(stone), 0)  # a conflict: it is there
        except (StoreUnavailable, StoreUnknown) as outage:
            raise unavailable("the Nexus endpoint cannot be removed now; retry") from outage
        self._tombstones[stone.id] = stone
        self._index()

    # --- calls of operators -------------------------------------------------------------------------------------------------
    async def create(self, spec: EndpointSpec) -> Endpoint:
        namespace = await self._checked(spec)
        await self.refresh()
        if self.by_name(spec.name) is not None:
            raise _exists(spec.name)
        now = self._clock.now_ns()
        record = _with_spec(EndpointRecord(self._ids.uuid(), "", 1, now, now), spec, namespace)
        if not await self._put(record):
            raise _exists(spec.name)
        await self._told()
        return await self._public(record)

    async def update(self, id: str, version: int, spec: EndpointSpec) -> Endpoint:
        namespace = await self._checked(spec)
        await self.refresh()
        before = self.by_id(id)
        if before is None:
            raise not_found(f"error updating Nexus endpoint. endpoint ID {id} not found")
        changed = _with_spec(before, spec, namespace)
        return await self._public(await self._change(before, version, changed))

    async def set_policy(self, id: str, version: int, policy: EndpointPolicy) -> EndpointRecord:
        """No public call says who may use an endpoint: the operator's tool does."""
        await self.refresh()
        before = self.by_id(id)
        if before is None:
            raise _no_such(id)
        return await self._change(before, version, msgspec.structs.replace(before, policy=policy))

    async def _change(self, before: EndpointRecord, version: int, changed: EndpointRecord) -> EndpointRecord:
        if version != before.version:
            raise _other_version(version, before.version)
        changed = msgspec.structs.replace(changed, version=before.version + 1, modified_at=self._clock.now_ns())
        is_renamed = changed.name != before.name
        if is_renamed and self.by_name(changed.name) is not None:
            raise _exists(changed.name)
        if not await self._put(changed):
            if is_renamed:
                raise _exists(changed.name)
            raise unavailable("the Nexus endpoint was changed meanwhile; retry")
        if is_renamed:
            await self._remove_row(before.name)
        await self._told()
        return changed

    async def delete(self, id: str, version: int) -> None:
        issues = id_issues(id)
        if version <= 0:
            issues.append("endpoint version is non-positive")
        refuse(issues)
        await self.refresh()
        record = self.by_id(id)
        if record is None:
            raise not_found(f"error deleting nexus endpoint with ID: {id}")
        await self._bury(msgspec.structs.replace(record, is_deleted=True, modified_at=self._clock.now_ns()))
        await self._remove_row(record.name)
        await self._told()

    async def get(self, id: str) -> Endpoint:
        refuse(id_issues(id))
        record = self.by_id(id)
        if record is None:
            await self.refresh()  # another node may just have made it
            record = self.by_id(id)
        if record is None:
            raise _no_such(id)
        return await self._public(record)

    async def list(self, page_size: int, after: str, name: str) -> tuple[list[Endpoint], str]:
        """Endpoints by id behind `after`, and the last id if there are more. With a name: that one, if there is one."""
        await self.refresh()
        if name:
            named = self.by_name(name)
            return ([] if named is None else [await self._public(named)]), ""
        if page_size < 0:
            raise invalid_argument("page_size is negative")
        if page_size > PAGE_ENDPOINTS_MAX:
            raise invalid_argument(f"page_size exceeds limit of {PAGE_ENDPOINTS_MAX}")
        known = sorted(self._by_id)
        first = bisect_right(known, after)
        page = known[first : first + (page_size or PAGE_ENDPOINTS_DEFAULT)]
        has_more = first + len(page) < len(known)
        return [await self._public(self._by_id[id]) for id in page], page[-1] if has_more else ""

    async def leading_to(self, namespace_id: str) -> str:
        """The name of an endpoint whose workers are in that namespace; "" if there is none."""
        await self.refresh()
        return min((one.name for one in self._by_id.values() if one.namespace_id == namespace_id), default="")

    # --- parts --------------------------------------------------------------------------------------------------------------
    async def _checked(self, spec: EndpointSpec) -> NamespaceRecord | None:
        """The namespace of a worker target. Raises what is wrong with the wish."""
        namespace = None
        if spec.target.WhichOneof("variant") == "worker" and spec.target.worker.namespace:
            try:
                namespace = await self._namespaces.by_name(spec.target.worker.namespace)
            except CallerError as error:
                if error.code is not Code.NOT_FOUND:
                    raise
                raise failed_precondition(
                    f"could not verify namespace referenced by target exists: {error.message}"
                ) from error
        refuse(spec_issues(spec, self._limits))
        return namespace

    async def _public(self, record: EndpointRecord) -> Endpoint:
        name = ""
        if record.namespace_id:
            try:
                name = (await self._namespaces.by_id(record.namespace_id)).name
            except CallerError as error:
                if error.code is not Code.NOT_FOUND:
                    raise  # else it was deleted: its endpoint can still be seen, changed and deleted
        return public_endpoint(record, name)

    async def _put(self, record: EndpointRecord) -> bool:
        """False: another write came first. A row that its record has left under another name is written over."""
        data = encode_record(record)
        known = self._rows.get(record.name)
        expected = 0 if known is None else known[1]
        try:
            version = await self._store.metadata_put(KIND, record.name, data, expected)
        except StoreUnavailable as outage:
            raise unavailable("Nexus endpoints cannot be written now; retry") from outage
        except StoreUnknown as unknown:
            version = await self._outcome(record.name, data)
            if version is None:
                raise unavailable("the write of the Nexus endpoint did not succeed; retry") from unknown
        if version is None:
            await self.refresh()
            return False
        self._rows[record.name] = record, version
        self._index()
        return True

    async def _outcome(self, name: str, data: bytes) -> int | None:
        try:
            row: MetadataRow | None = await self._store.metadata_get(KIND, name)
        except StoreUnavailable as outage:
            raise unavailable("Nexus endpoints cannot be read now; retry") from outage
        return row.version if row is not None and row.data == data else None

    async def _remove_row(self, name: str) -> None:
        known = self._rows.get(name)
        if known is None:
            return
        try:
            is_gone = await self._store.metadata_delete(KIND, name, known[1])
        except (StoreUnavailable, StoreUnknown) as outage:
            raise unavailable("the Nexus endpoint cannot be removed now; retry") from outage
        if not is_gone:
            await self.refresh()
            raise unavailable("the Nexus endpoint was changed meanwhile; retry")
        del self._rows[name]
        self._index()

    async def _told(self) -> None:
        if self.on_change is not None:
            await self.on_change()


def _with_spec(record: EndpointRecord, spec: EndpointSpec, namespace: NamespaceRecord | None) -> EndpointRecord:
    worker = spec.target.worker
    return msgspec.structs.replace(
        record,
        name=spec.name,
        description=spec.description.SerializeToString() if spec.HasField("description") else b"",
        namespace_id=namespace.id if namespace is not None else "",
        task_queue=worker.task_queue if namespace is not None else "",
        url=spec.target.external.url if namespace is None else "",
    )


def _exists(name: str) -> CallerError:
    return CallerError(
        Code.ALREADY_EXISTS, f"error creating Nexus endpoint. Endpoint with name {name} already registered"
    )


def _no_such(id: str) -> CallerError:
    return not_found(f"Nexus endpoint with ID `{id}` not found")


def _other_version(received: int, expected: int) -> CallerError:
    return failed_precondition(f"nexus endpoint version mismatch. received: {received} expected {expected}")
