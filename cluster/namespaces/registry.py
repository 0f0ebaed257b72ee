"""The namespaces of a cluster: registered, described, changed and deleted; every node's cache of them.

One row of the metadata store per namespace, under its name, so that a name is taken by one compare-and-swap. The id is found by
the cache, which holds all rows; a lookup that the cache cannot answer reads the store, since another node may have written.

Deletion renames: the row is marked deleted (with its new name), written again under the new name, and removed under the old
one. Each step can be repeated, and `load` finishes a rename that a crash cut in two.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec
from temporalio.api.errordetails.v1 import (
    NamespaceAlreadyExistsFailure,
    NamespaceInvalidStateFailure,
    NamespaceNotFoundFailure,
)
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest, UpdateNamespaceRequest

from cluster.config import DAY_NS, Limits
from cluster.core.errors import CallerError, Code, failed_precondition, invalid_argument, not_found, unavailable
from cluster.namespaces import changes
from cluster.namespaces.record import DELETED, DEPRECATED, REGISTERED, NamespaceRecord, decode_record, encode_record
from cluster.seams import Clock, Ids
from cluster.stores.base import MetadataRow, Store, StoreUnavailable, StoreUnknown
from cluster.visibility.search_attributes import Schema

KIND = "namespace"
SYSTEM_NAMESPACE = "temporal-system"
# The real server's id, which tools know.
SYSTEM_NAMESPACE_ID = "32049b68-7872-4094-8e63-d0dd59896a83"
_SYSTEM_RETENTION_NS = 7 * DAY_NS
# An update is tried again this often when another one comes first; each failed try means that one other succeeded.
_CONFLICTS_MAX = 100
_SUFFIX_CHARS_MIN = 5

# Told of a namespace just marked deleted: starts removing its workflows, and ends by calling `forget`.
OnDelete = Callable[[NamespaceRecord], Awaitable[None]]


def namespace_not_found(name_or_id: str) -> CallerError:
    return not_found(f"Namespace {name_or_id} is not found.", NamespaceNotFoundFailure(namespace=name_or_id))


def _already_exists(name: str) -> CallerError:
    return CallerError(Code.ALREADY_EXISTS, f'Namespace "{name}" already exists', NamespaceAlreadyExistsFailure())


def _is_deleted(name: str) -> CallerError:
    detail = NamespaceInvalidStateFailure(namespace=name, state=DELETED, allowed_states=[REGISTERED, DEPRECATED])
    return failed_precondition("Namespace has invalid state: Deleted. Must be Registered or Deprecated.", detail)


class _Entry(msgspec.Struct, frozen=True):
    """A row of the store, decoded."""

    record: NamespaceRecord
    version: int
    schema: Schema


def _entry(row: MetadataRow) -> _Entry:
    record = decode_record(row.data)
    return _Entry(record, row.version, Schema(record.custom_search_attributes))


class NamespaceRegistry:
    """Call `load` before anything else. `here` is this cluster's name."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        limits: Limits | None = None,
        here: str = "active",
        on_delete: OnDelete | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._limits = limits or Limits()
        self._here = here
        self._on_delete = on_delete
        self.on_change: Callable[[], Awaitable[None]] | None = None  # tells the other nodes, after every acknowledged write
        self._by_name: dict[str, _Entry] = {}
        self._name_of_id: dict[str, str] = {}

    async def load(self) -> None:
        """Reads all namespaces, makes the system's own, and finishes deletions that were interrupted.

        on_delete is called again, perhaps twice, for every deleted namespace that is still there: so may its workflows be.
        """
        await self._read_all()
        if SYSTEM_NAMESPACE not in self._by_name:
            await self._create_system_namespace()
        for entry in list(self._by_name.values()):
            if entry.record.renamed_to:
                await self.delete(entry.record.name)
        await self.announce_deleted()

    async def refresh(self) -> None:
        """Reads what other nodes wrote. Raises UNAVAILABLE."""
        await self._read_all()

    async def announce_deleted(self) -> None:
        """Again, for every deleted namespace that is still there: the node that was removing its workflows may be gone."""
        for entry in list(self._by_name.values()):
            if entry.record.state == DELETED:
                await self._announce(entry.record)

    # --- lookups --------------------------------------------------------------------------------------------------------
    def cached(self, name: str) -> NamespaceRecord | None:
        """Without a read of the store, for every call's way in; None may mean that another node has just made it."""
        entry = self._by_name.get(name)
        return entry.record if entry is not None else None

    def cached_by_id(self, namespace_id: str) -> NamespaceRecord | None:
        name = self._name_of_id.get(namespace_id)
        return self.cached(name) if name is not None else None

    def cached_schema(self, namespace_id: str) -> Schema | None:
        name = self._name_of_id.get(namespace_id)
        return self._by_name[name].schema if name is not None else None

    async def by_name(self, name: str) -> NamespaceRecord:
        """Raises NOT_FOUND with its typed detail."""
        return (await self._entry_by_name(name)).record

    async def by_id(self, namespace_id: str) -> NamespaceRecord:
        """Raises NOT_FOUND with its typed detail."""
        return (await self._entry_by_id(namespace_id)).record

    async def schema(self, namespace_id: str) -> Schema:
        """The search attributes that exist in the namespace."""
        return (await self._entry_by_id(namespace_id)).schema

    async def describe(self, name: str, namespace_id: str) -> NamespaceRecord:
        """By name or by id, read from the store, so that a caller sees what any node acknowledged."""
        if name and namespace_id:
            raise invalid_argument("GetNamespace operation failed. Both ID and Name specified in request.")
        if namespace_id:
            await self._read_all()
            return await self.by_id(namespace_id)
        if not name:
            raise invalid_argument("Namespace not set on request.")
        return (await self._read(name)).record

    async def list(
        self, page_size: int, page_token: bytes, include_deleted: bool = False
    ) -> tuple[list[NamespaceRecord], bytes]:
        """In the order of names. page_size 0 means 100, as on the real server."""
        if page_size < 0:
            raise invalid_argument("PageSize must be positive.")
        after = _name_of_token(page_token)
        await self._read_all()
        names = sorted(name for name, entry in self._by_name.items() if include_deleted or entry.record.state != DELETED)
        rest = [name for name in names if after is None or name > after]
        page = rest[: min(page_size or 100, self._limits.visibility_page_rows_max)]
        token = msgspec.msgpack.encode(("namespaces", page[-1])) if len(page) < len(rest) else b""
        return [self._by_name[name].record for name in page], token

    # --- changes --------------------------------------------------------------------------------------------------------
    async def register(self, request: RegisterNamespaceRequest) -> NamespaceRecord:
        now_ns = self._clock.now_ns()
        record = changes.registered(request, self._ids.uuid(), now_ns, self._here, self._limits)
        while not await self._put(record, expected_version=0):
            try:
                await self._read(record.name)
            except CallerError as error:
                if error.code is Code.NOT_FOUND:
                    continue  # who had the name was deleted in between: it is free
                raise
            raise _already_exists(record.name)
        return record

    async def update(self, request: UpdateNamespaceRequest) -> NamespaceRecord:
        """As UpdateNamespace. A state of deleted marks only; `delete` also renames and removes."""
        self._check_not_system(request.namespace, "update")
        return await self._change(
            request.namespace, lambda record: changes.updated(record, request, self._here, self._limits)
        )

    async def deprecate(self, name: str) -> NamespaceRecord:
        self._check_not_system(name, "deprecate")
        return await self._change(name, lambda record: changes.with_state(record, DEPRECATED))

    async def add_search_attributes(self, name: str, added: Mapping[str, int]) -> NamespaceRecord:
        return await self._change(name, lambda record: changes.with_search_attributes(record, added, self._limits))

    async def remove_search_attributes(self, name: str, removed: Iterable[str]) -> NamespaceRecord:
        names = list(removed)
        return await self._change(name, lambda record: changes.without_search_attributes(record, names))

    async def delete(self, name: str, namespace_id: str = "") -> NamespaceRecord:
        """Marks deleted and renames; returns the renamed record. Removing the workflows is `on_delete`'s.

        Deleting a deleted namespace (by its new name or its id) goes on where it stopped.
        """
        if bool(name) == bool(namespace_id):
            raise invalid_argument(
                "only one of namespace or namespace ID must be set" if name else "namespace or namespace ID is required"
            )
        found = await self.describe(name, namespace_id)
        self._check_not_system(found.name, "delete")
        marked = await self._change(found.name, self._marked_deleted, is_deletion=True)
        if marked.renamed_to:
            marked = await self._finish_rename(self._by_name[marked.name])
        await self._announce(marked)
        return marked

    async def forget(self, namespace_id: str) -> None:
        """Removes a deleted namespace's row, once nothing of it is left."""
        entry = await self._entry_by_id(namespace_id)
        if entry.record.state != DELETED:
            raise failed_precondition(f"namespace {entry.record.name} is not deleted")
        await self._remove(entry)

    async def _announce(self, record: NamespaceRecord) -> None:
        if self._on_delete is not None:
            await self._on_delete(record)

    # --- deletion -------------------------------------------------------------------------------------------------------
    def _check_not_system(self, name: str, verb: str) -> None:
        if name == SYSTEM_NAMESPACE:
            raise failed_precondition(f"unable to {verb} system namespace")

    def _marked_deleted(self, record: NamespaceRecord) -> NamespaceRecord:
        """With the first free new name. One that is renamed already, whatever the length of its suffix, stays as it is."""
        suffixes = [f"-deleted-{record.id[:length]}" for length in range(_SUFFIX_CHARS_MIN, len(record.id) + 1)]
        if record.state == DELETED and record.name.endswith(tuple(suffixes)):
            return record
        free = [name for suffix in suffixes if self._is_free(name := record.name + suffix, record.id)]
        if not free:
            raise unavailable(f"no free name for the deleted namespace {record.name}; retry")
        renamed_to = record.renamed_to if record.renamed_to in free else free[0]
        return msgspec.structs.replace(record, state=DELETED, renamed_to=renamed_to)

    def _is_free(self, name: str, namespace_id: str) -> bool:
        taken = self._by_name.get(name)
        return taken is None or taken.record.id == namespace_id

    async def _finish_rename(self, entry: _Entry) -> NamespaceRecord:
        old = entry.record
        renamed = msgspec.structs.replace(old, name=old.renamed_to, renamed_to="")
        if not await self._put(renamed, expected_version=0):
            there = await self._read(renamed.name)
            if there.record.id != old.id:
                raise unavailable(f"the name {renamed.name} was taken meanwhile; retry")
        await self._remove(entry)
        self._name_of_id[renamed.id] = renamed.name
        return renamed

    # --- the store ------------------------------------------------------------------------------------------------------
    async def _create_system_namespace(self) -> None:
        record = NamespaceRecord(
            id=SYSTEM_NAMESPACE_ID,
            name=SYSTEM_NAMESPACE,
            description="Temporal internal system namespace",
            retention_ns=_SYSTEM_RETENTION_NS,
            clusters=[self._here],
            active_cluster=self._here,
            created_at=self._clock.now_ns(),
        )
        if not await self._put(record, expected_version=0):
            await self._read(SYSTEM_NAMESPACE)  # another node was first

    def _keep(self, row: MetadataRow) -> _Entry:
        entry = _entry(row)
        known = self._by_name.get(row.id)
        if known is None or known.record.id != entry.record.id or known.version < entry.version:
            self._by_name[row.id] = entry
        # While a rename is under way both rows have the id; the new one is where it leads.
        if not entry.record.renamed_to or entry.record.id not in self._name_of_id:
            self._name_of_id[entry.record.id] = row.id
        return self._by_name[row.id]

    def _drop(self, name: str) -> None:
        entry = self._by_name.pop(name, None)
        if entry is not None and self._name_of_id.get(entry.record.id) == name:
            del self._name_of_id[entry.record.id]

    async def _read(self, name: str) -> _Entry:
        try:
            row = await self._store.metadata_get(KIND, name)
        except StoreUnavailable as outage:
            raise unavailable("namespaces cannot be read now; retry") from outage
        if row is None:
            self._drop(name)
            raise namespace_not_found(name)
        return self._keep(row)

    async def _read_all(self) -> None:
        try:
            rows = await self._store.metadata_list(KIND)
        except StoreUnavailable as outage:
            raise unavailable("namespaces cannot be read now; retry") from outage
        for name in self._by_name.keys() - {row.id for row in rows}:
            self._drop(name)
        for row in rows:
            self._keep(row)

    async def _entry_by_name(self, name: str) -> _Entry:
        return self._by_name.get(name) or await self._read(name)

    async def _entry_by_id(self, namespace_id: str) -> _Entry:
        if namespace_id not in self._name_of_id:
            await self._read_all()
        name = self._name_of_id.get(namespace_id)
        if name is None:
            raise namespace_not_found(namespace_id)
        return self._by_name[name]

    async def _put(self, record: NamespaceRecord, expected_version: int) -> bool:
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
        await self._tell()
        return True

    async def _tell(self) -> None:
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

    async def _change(
        self, name: str, change: Callable[[NamespaceRecord], NamespaceRecord], is_deletion: bool = False
    ) -> NamespaceRecord:
        """Read, change, compare and swap; again when another change came first."""
        if not name:
            raise invalid_argument("Namespace not set on request.")
        for _ in range(_CONFLICTS_MAX):
            entry = await self._read(name)
            if entry.record.state == DELETED and not is_deletion:
                raise _is_deleted(name)
            changed = change(entry.record)
            if changed == entry.record or await self._put(changed, entry.version):
                return changed
        raise unavailable(f"namespace {name} is being changed by many callers; retry")

    async def _remove(self, entry: _Entry) -> None:
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
        await self._tell()


def _name_of_token(token: bytes) -> str | None:
    if not token:
        return None
    try:
        purpose, name = msgspec.msgpack.decode(token, type=tuple[str, str])
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as broken:
        raise invalid_argument("Invalid NextPageToken.") from broken
    if purpose != "namespaces":
        raise invalid_argument("Invalid NextPageToken.")
    return name
