"""The namespaces of a cluster: registered, described, changed and deleted; what other regions say of them is merged.

What may be asked is in changes.py and regions.py, the rows and this node's cache of them in rows.py, merging in incoming.py.

Deletion renames: the row is marked deleted (with its new name), written again under the new name, and removed under the old
one. Each step can be repeated, and `load` finishes a rename that a crash cut in two.
"""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec
from temporalio.api.errordetails.v1 import (
    NamespaceAlreadyExistsFailure,
    NamespaceInvalidStateFailure,
)
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest, UpdateNamespaceRequest

from cluster.config import DAY_NS, Limits
from cluster.core.errors import CallerError, Code, failed_precondition, invalid_argument, unavailable
from cluster.namespaces import changes, regions
from cluster.namespaces.incoming import IncomingNamespaces, Taken
from cluster.namespaces.merging import stamped
from cluster.namespaces.ownership_changes import OwnershipChanges
from cluster.namespaces.record import DELETED, DEPRECATED, REGISTERED, NamespaceRecord
from cluster.namespaces.remote_clusters import Cluster, RemoteClusters
from cluster.namespaces.rows import KIND, Entry, NamespaceRows, namespace_not_found
from cluster.seams import Clock, Ids
from cluster.stores.base import Store
from cluster.visibility.search_attributes import Schema
from replication.failover import Ownership

__all__ = ["KIND", "SYSTEM_NAMESPACE", "SYSTEM_NAMESPACE_ID", "NamespaceRegistry", "namespace_not_found"]

SYSTEM_NAMESPACE = "temporal-system"
# The real server's id, which tools know.
SYSTEM_NAMESPACE_ID = "32049b68-7872-4094-8e63-d0dd59896a83"
_SYSTEM_RETENTION_NS = 7 * DAY_NS
# An update is tried again this often when another one comes first; each failed try means that one other succeeded.
_CONFLICTS_MAX = 100
_SUFFIX_CHARS_MIN = 5

# Told of a namespace just marked deleted: starts removing its workflows, and ends by calling `forget`.
OnDelete = Callable[[NamespaceRecord], Awaitable[None]]


def _already_exists(name: str) -> CallerError:
    return CallerError(Code.ALREADY_EXISTS, f'Namespace "{name}" already exists', NamespaceAlreadyExistsFailure())


def _is_deleted(name: str) -> CallerError:
    detail = NamespaceInvalidStateFailure(namespace=name, state=DELETED, allowed_states=[REGISTERED, DEPRECATED])
    return failed_precondition("Namespace has invalid state: Deleted. Must be Registered or Deprecated.", detail)


class NamespaceRegistry:
    """Call `load` before anything else. `here` is this cluster's name. clusters: the other regions it knows; without, it is alone
    and has the first initial failover version."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        limits: Limits | None = None,
        here: str = "active",
        on_delete: OnDelete | None = None,
        clusters: RemoteClusters | None = None,
    ) -> None:
        self._clock = clock
        self._ids = ids
        self._limits = limits or Limits()
        self._here = here
        self._on_delete = on_delete
        self._rows = NamespaceRows(store)
        self.ownership_changes = OwnershipChanges(self._rows, here)  # its `before_move` is asked by `update`, too
        self.clusters = clusters or RemoteClusters(store, Cluster(name=here, initial_failover_version=1))
        assert self.clusters.own.name == here
        self._incoming = IncomingNamespaces(self._rows, self.clusters, here, self._carry_out_deletion)

    @property
    def on_change(self) -> Callable[[], Awaitable[None]] | None:
        """Tells the other nodes, after every acknowledged write of namespaces and remote clusters."""
        return self._rows.on_change

    @on_change.setter
    def on_change(self, tell: Callable[[], Awaitable[None]] | None) -> None:
        self._rows.on_change = self.clusters.on_change = tell

    async def load(self) -> None:
        """Reads all namespaces, makes the system's own, and finishes deletions that were interrupted.

        on_delete is called again, perhaps twice, for every deleted namespace that is still there: so may its workflows be.
        """
        await self.clusters.load()
        await self._rows.read_all()
        if SYSTEM_NAMESPACE not in self._rows.by_name:
            await self._create_system_namespace()
        for entry in list(self._rows.by_name.values()):
            if entry.record.renamed_to:
                await self.delete(entry.record.name)
        await self.announce_deleted()

    async def refresh(self) -> None:
        """Reads what other nodes wrote. Raises UNAVAILABLE."""
        await self.clusters.load()
        await self._rows.read_all()

    async def announce_deleted(self) -> None:
        """Again, for every deleted namespace that is still there: the node that was removing its workflows may be gone."""
        for entry in list(self._rows.by_name.values()):
            if entry.record.state == DELETED:
                await self._announce(entry.record)

    # --- lookups --------------------------------------------------------------------------------------------------------
    def cached(self, name: str) -> NamespaceRecord | None:
        """Without a read of the store, for every call's way in; None may mean that another node has just made it."""
        entry = self._rows.by_name.get(name)
        return entry.record if entry is not None else None

    def cached_by_id(self, namespace_id: str) -> NamespaceRecord | None:
        entry = self._rows.cached_by_id(namespace_id)
        return entry.record if entry is not None else None

    def cached_schema(self, namespace_id: str) -> Schema | None:
        entry = self._rows.cached_by_id(namespace_id)
        return entry.schema if entry is not None else None

    def all_cached(self) -> builtins.list[NamespaceRecord]:
        return [entry.record for entry in self._rows.by_name.values()]

    async def by_name(self, name: str) -> NamespaceRecord:
        """Raises NOT_FOUND with its typed detail."""
        return (await self._rows.entry_by_name(name)).record

    async def by_id(self, namespace_id: str) -> NamespaceRecord:
        """Raises NOT_FOUND with its typed detail."""
        return (await self._rows.entry_by_id(namespace_id)).record

    async def schema(self, namespace_id: str) -> Schema:
        """The search attributes that exist in the namespace."""
        return (await self._rows.entry_by_id(namespace_id)).schema

    async def describe(self, name: str, namespace_id: str) -> NamespaceRecord:
        """By name or by id, read from the store, so that a caller sees what any node acknowledged."""
        if name and namespace_id:
            raise invalid_argument("GetNamespace operation failed. Both ID and Name specified in request.")
        if namespace_id:
            await self._rows.read_all()
            return await self.by_id(namespace_id)
        if not name:
            raise invalid_argument("Namespace not set on request.")
        return (await self._rows.read(name)).record

    async def list(
        self, page_size: int, page_token: bytes, include_deleted: bool = False
    ) -> tuple[list[NamespaceRecord], bytes]:
        """In the order of names. page_size 0 means 100, as on the real server."""
        if page_size < 0:
            raise invalid_argument("PageSize must be positive.")
        after = _name_of_token(page_token)
        await self._rows.read_all()
        names = sorted(name for name, entry in self._rows.by_name.items() if include_deleted or entry.record.state != DELETED)
        rest = [name for name in names if after is None or name > after]
        page = rest[: min(page_size or 100, self._limits.visibility_page_rows_max)]
        token = msgspec.msgpack.encode(("namespaces", page[-1])) if len(page) < len(rest) else b""
        return [self._rows.by_name[name].record for name in page], token

    # --- changes --------------------------------------------------------------------------------------------------------
    async def register(self, request: RegisterNamespaceRequest) -> NamespaceRecord:
        now_ns = self._clock.now_ns()
        record = changes.registered(
            request, self._ids.uuid(), now_ns, self._here, self.clusters.regions(), self._limits
        )
        while not await self._rows.put(record, expected_version=0):
            try:
                await self._rows.read(record.name)
            except CallerError as error:
                if error.code is Code.NOT_FOUND:
                    continue  # who had the name was deleted in between: it is free
                raise
            raise _already_exists(record.name)
        return record

    async def update(self, request: UpdateNamespaceRequest) -> NamespaceRecord:
        """As UpdateNamespace. A state of deleted marks only; `delete` also renames and removes."""
        self._check_not_system(request.namespace, "update")
        known, now_ns = self.clusters.regions(), self._clock.now_ns()
        return await self._change(
            request.namespace, lambda record: changes.updated(record, request, self._here, known, self._limits, now_ns)
        )

    async def decide(self, name: str, decision: Callable[[Ownership], Ownership]) -> NamespaceRecord:
        """A step of the ownership's machine (replication/failover.py) as one compare-and-swap, for whoever carries a failover
        out. Raises what the decision raises."""
        return await self._change(name, lambda record: record.owned(decision(record.ownership)))

    async def deprecate(self, name: str) -> NamespaceRecord:
        self._check_not_system(name, "deprecate")

        def deprecated(record: NamespaceRecord) -> NamespaceRecord:
            if record.state != DEPRECATED:
                regions.check_state_change(record)
            return changes.with_state(record, DEPRECATED)

        return await self._change(name, deprecated)

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
        return await self._carry_out_deletion(found)

    async def _carry_out_deletion(self, found: NamespaceRecord) -> NamespaceRecord:
        marked = await self._change(found.name, self._marked_deleted, is_deletion=True)
        if marked.renamed_to:
            marked = await self._finish_rename(self._rows.by_name[marked.name])
        await self._announce(marked)
        return marked

    async def forget(self, namespace_id: str) -> None:
        """Removes a deleted namespace's row, once nothing of it is left. Of a global one a tombstone stays."""
        entry = await self._rows.entry_by_id(namespace_id)
        if entry.record.state != DELETED:
            raise failed_precondition(f"namespace {entry.record.name} is not deleted")
        if entry.record.is_global:
            await self._rows.bury(entry.record)
        await self._rows.remove(entry)

    async def _announce(self, record: NamespaceRecord) -> None:
        if self._on_delete is not None:
            await self._on_delete(record)

    # --- other regions --------------------------------------------------------------------------------------------------
    async def merge(self, theirs: NamespaceRecord, source: str) -> Taken:
        """What the region `source` says of a namespace. May be repeated, in any order. Raises UNAVAILABLE."""
        return await self._incoming.merge(theirs, source)

    async def merge_all(self, theirs: builtins.list[NamespaceRecord], source: str) -> builtins.list[Taken]:
        """The same for many, with one look at the store. Raises UNAVAILABLE; some may have been merged then."""
        await self._rows.read_all()
        return [await self._incoming.merge(record, source, is_fresh=True) for record in theirs]

    async def is_buried(self, namespace_id: str) -> bool:
        """Whether it was a global namespace that was deleted here, and is gone. Raises UNAVAILABLE."""
        return await self._rows.is_buried(namespace_id)

    async def add_or_update_cluster(
        self, address: str, http_address: str, is_connected: bool, is_replicated: bool
    ) -> Cluster:
        """As AddOrUpdateRemoteCluster: who is at the address is asked there."""
        await self._rows.read_all()
        return await self.clusters.add_or_update(address, http_address, is_connected, is_replicated, self.all_cached())

    async def remove_cluster(self, name: str) -> None:
        """As RemoveRemoteCluster."""
        await self._rows.read_all()
        await self.clusters.remove(name, self.all_cached())

    async def shared(self) -> builtins.list[NamespaceRecord]:
        """All that other regions have to know: the global namespaces that are here, and which were deleted. It goes to each of
        them: one that is taken off a list must hear of it, one that never was on it leaves it aside. Raises UNAVAILABLE."""
        await self._rows.read_all()
        records = [record for record in self.all_cached() if record.is_global and not record.renamed_to]
        return [record for record in records if self._here in record.members] + await self._rows.tombstones()

    # --- deletion -------------------------------------------------------------------------------------------------------
    def _check_not_system(self, name: str, verb: str) -> None:
        if name == SYSTEM_NAMESPACE:
            raise failed_precondition(f"unable to {verb} system namespace")

    def _marked_deleted(self, record: NamespaceRecord) -> NamespaceRecord:
        """With the first free new name. One that is renamed already, whatever the length of its suffix, stays as it is."""
        if record.state != DELETED:
            regions.check_deletion(record, self._here)
            record = regions.detached(record, self._here)
        suffixes = [f"-deleted-{record.id[:length]}" for length in range(_SUFFIX_CHARS_MIN, len(record.id) + 1)]
        if record.state == DELETED and record.name.endswith(tuple(suffixes)):
            return record
        free = [name for suffix in suffixes if self._is_free(name := record.name + suffix, record.id)]
        if not free:
            raise unavailable(f"no free name for the deleted namespace {record.name}; retry")
        renamed_to = record.renamed_to if record.renamed_to in free else free[0]
        return msgspec.structs.replace(record, state=DELETED, renamed_to=renamed_to)

    def _is_free(self, name: str, namespace_id: str) -> bool:
        taken = self._rows.by_name.get(name)
        return taken is None or taken.record.id == namespace_id

    async def _finish_rename(self, entry: Entry) -> NamespaceRecord:
        old = entry.record
        renamed = msgspec.structs.replace(old, name=old.renamed_to, renamed_to="")
        if not await self._rows.put(renamed, expected_version=0):
            there = await self._rows.read(renamed.name)
            if there.record.id != old.id:
                raise unavailable(f"the name {renamed.name} was taken meanwhile; retry")
        await self._rows.remove(entry)
        self._rows.lead(renamed)
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
        if not await self._rows.put(record, expected_version=0):
            await self._rows.read(SYSTEM_NAMESPACE)  # another node was first

    async def _change(
        self, name: str, change: Callable[[NamespaceRecord], NamespaceRecord], is_deletion: bool = False
    ) -> NamespaceRecord:
        """Read, change, compare and swap; again when another change came first."""
        if not name:
            raise invalid_argument("Namespace not set on request.")
        for _ in range(_CONFLICTS_MAX):
            entry = await self._rows.read(name)
            if entry.record.state == DELETED and not is_deletion:
                raise _is_deleted(name)
            changed = stamped(entry.record, change(entry.record), self._here)
            if changed.failover_version != entry.record.failover_version:
                await self.ownership_changes.agree(entry.record, changed.ownership)
            if changed == entry.record or await self._rows.put(changed, entry.version):
                return changed
        raise unavailable(f"namespace {name} is being changed by many callers; retry")


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
