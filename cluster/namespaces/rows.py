"""The rows of the namespaces in the metadata store, and this node's cache of them.

One row per namespace, under its name, so that a name is taken by one compare-and-swap. The id is found by the cache, which holds
all rows; a lookup that the cache cannot answer reads the store, since another node may have written. A global namespace that was
deleted and is gone leaves a tombstone under its id: what another region still says of it must not bring it back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure

from cluster.core.errors import CallerError, not_found, unavailable
from cluster.namespaces.record import NamespaceRecord, decode_record, encode_record
from cluster.stores.base import MetadataRow, Store, StoreUnavailable, StoreUnknown
from cluster.visibility.search_attributes import Schema

KIND = "namespace"
TOMBSTONE_KIND = "namespace tombstone"


def namespace_not_found(name_or_id: str) -> CallerError:
    return not_found(f"Namespace {name_or_id} is not found.", NamespaceNotFoundFailure(namespace=name_or_id))


class Entry(msgspec.Struct, frozen=True):
    """A row of the store, decoded."""

    record: NamespaceRecord
    version: int
    schema: Schema


def _entry(row: MetadataRow) -> Entry:
    record = decode_record(row.data)
    return Entry(record, row.version, Schema(record.custom_search_attributes))


class NamespaceRows:
    """Raises CallerError: NOT_FOUND with its typed detail, UNAVAILABLE when the store does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.on_change: Callable[[], Awaitable[None]] | None = None
        self.by_name: dict[str, Entry] = {}
        self._name_of_id: dict[str, str] = {}

    def cached_by_id(self, namespace_id: str) -> Entry | None:
        name = self._name_of_id.get(namespace_id)
        return self.by_name.get(name) if name is not None else None

    async def entry_by_name(self, name: str) -> Entry:
        return self.by_name.get(name) or await self.read(name)

    async def entry_by_id(self, namespace_id: str) -> Entry:
        if namespace_id not in self._name_of_id:
            await self.read_all()
        name = self._name_of_id.get(namespace_id)
        if name is None:
            raise namespace_not_found(namespace_id)
        return self.by_name[name]

    async def read(self, name: str) -> Entry:
        try:
            row = await self._store.metadata_get(KIND, name)
        except StoreUnavailable as outage:
            raise unavailable("namespaces cannot be read now; retry") from outage
        if row is None:
            self._drop(name)
            raise namespace_not_found(name)
        return self._keep(row)

    async def read_all(self) -> None:
        try:
            rows = await self._store.metadata_list(KIND)
        except StoreUnavailable as outage:
            raise unavailable("namespaces cannot be read now; retry") from outage
        for name in self.by_name.keys() - {row.id for row in rows}:
            self._drop(name)
        for row in rows:
            self._keep(row)

    async def put(self, record: NamespaceRecord, expected_version: int) -> bool:
        """False when another write came first. An unknown outcome is looked up: either the row is ours, or it is not."""
        data = encode_record(record)
        try:
            version = await self._store.metadata_put(KIND, record.name, data, expected_version)
        except StoreUnavailable as outage:
            raise unavailable("namespaces cannot be written now; retry") from outage
        except StoreUnknown:
            version = await self._outcome(record, data, expected_version)
        if version is None:
            return False
        self._keep(MetadataRow(KIND, record.name, version, data))
        await self.tell()
        return True

    async def tell(self) -> None:
        if self.on_change is not None:
            await self.on_change()

    async def _outcome(self, record: NamespaceRecord, data: bytes, expected_version: int) -> int | None:
        """What became of a write whose outcome is unknown: its version, or None when another write came first."""
        try:
            row = await self._store.metadata_get(KIND, record.name)
        except StoreUnavailable as outage:
            raise unavailable("namespaces cannot be read now; retry") from outage
        if row is None or row.version <= expected_version:
            raise unavailable("the write of the namespace did not succeed; retry")
        if row.version == expected_version + 1:
            return row.version if row.data == data else None
        # Others have written since. A new namespace is ours if its id is; a change is made again, which does no harm.
        return expected_version + 1 if expected_version == 0 and decode_record(row.data).id == record.id else None

    async def remove(self, entry: Entry) -> None:
        """The row of this id is gone at return; that another removed it first is as good."""
        name = entry.record.name
        try:
            if not await self._store.metadata_delete(KIND, name, entry.version):
                row = await self._store.metadata_get(KIND, name)
                if row is not None and decode_record(row.data).id == entry.record.id:
                    raise unavailable(f"namespace {name} was changed meanwhile; retry")
        except (StoreUnavailable, StoreUnknown) as outage:
            raise unavailable("the namespace cannot be removed now; retry") from outage
        self._drop(name)
        await self.tell()

    def _keep(self, row: MetadataRow) -> Entry:
        entry = _entry(row)
        known = self.by_name.get(row.id)
        if known is None or known.record.id != entry.record.id or known.version < entry.version:
            self.by_name[row.id] = entry
        # While a rename is under way both rows have the id; the new one is where it leads.
        if not entry.record.renamed_to or entry.record.id not in self._name_of_id:
            self._name_of_id[entry.record.id] = row.id
        return self.by_name[row.id]

    def lead(self, record: NamespaceRecord) -> None:
        """Its id leads to the name it has now: the row of the old one may have been dropped after this one was kept."""
        self._name_of_id[record.id] = record.name

    def _drop(self, name: str) -> None:
        entry = self.by_name.pop(name, None)
        if entry is not None and self._name_of_id.get(entry.record.id) == name:
            del self._name_of_id[entry.record.id]

    # --- tombstones -----------------------------------------------------------------------------------------------------
    async def bury(self, record: NamespaceRecord) -> None:
        """Leaves what other regions need to know of a deleted namespace: that it is, and whose business it was."""
        stone = msgspec.structs.replace(
            record, description="", owner_email="", data={}, custom_search_attributes={}, stamps={}, renamed_to=""
        )
        try:
            await self._store.metadata_put(TOMBSTONE_KIND, record.id, encode_record(stone), 0)  # a conflict: it is there
        except (StoreUnavailable, StoreUnknown) as outage:
            raise unavailable("the namespace cannot be removed now; retry") from outage

    async def is_buried(self, namespace_id: str) -> bool:
        try:
            return await self._store.metadata_get(TOMBSTONE_KIND, namespace_id) is not None
        except StoreUnavailable as outage:
            raise unavailable("namespaces cannot be read now; retry") from outage

    async def tombstones(self) -> list[NamespaceRecord]:
        try:
            return [decode_record(row.data) for row in await self._store.metadata_list(TOMBSTONE_KIND)]
        except StoreUnavailable as outage:
            raise unavailable("namespaces cannot be read now; retry") from outage
