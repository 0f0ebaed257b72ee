"""Runs that a shard must find again without reading all its rows: one small row of metadata each, by workflow id in memory."""

from __future__ import annotations

import hashlib

import msgspec

from cluster.history.current_runs import Name, name_of
from cluster.stores.base import RunKey, Store, StoreUnavailable


def digest_of(key: RunKey) -> str:
    """A run's name as the id of a metadata row, which must be short."""
    return hashlib.blake2b(f"{key.namespace_id}\0{key.workflow_id}\0{key.run_id}".encode(), digest_size=16).hexdigest()


class NotedRuns:
    """Of one kind. `load` before anything else."""

    def __init__(self, store: Store, kind: str) -> None:
        self._store, self._kind = store, kind
        self._versions: dict[RunKey, int] = {}
        self._of: dict[Name, set[RunKey]] = {}

    async def load(self) -> None:
        """Raises StoreError."""
        for row in await self._store.metadata_list(self._kind):
            self._remember(msgspec.msgpack.decode(row.data, type=RunKey), row.version)

    def _remember(self, key: RunKey, version: int) -> None:
        self._versions[key] = version
        self._of.setdefault(name_of(key), set()).add(key)

    def of(self, name: Name) -> list[RunKey]:
        return sorted(self._of.get(name, ()))

    def names(self) -> list[Name]:
        return list(self._of)

    async def note(self, key: RunKey) -> None:
        """Durable at return. Raises StoreError."""
        if key in self._versions:
            return
        version = await self._store.metadata_put(self._kind, digest_of(key), msgspec.msgpack.encode(key), 0)
        if version is None:  # an earlier write that seemed to fail
            row = await self._store.metadata_get(self._kind, digest_of(key))
            if row is None:
                raise StoreUnavailable(f"the note of {key} comes and goes")
            version = row.version
        self._remember(key, version)

    async def forget(self, key: RunKey) -> None:
        """Raises StoreError."""
        version = self._versions.pop(key, None)
        if version is None:
            return
        self._of[name_of(key)].discard(key)
        if not self._of[name_of(key)]:
            del self._of[name_of(key)]
        await self._store.metadata_delete(self._kind, digest_of(key), version)
