"""The store contract as plain dictionaries: the oracle that every engine is compared with, and the simulator's store.

Written to be read: where the prose of `base.py` leaves a question, this file answers it. Nothing is indexed, lists are
sorted on demand. No call awaits anything, so each is atomic on its event loop. A crash is an owner that never calls again:
the object survives as a disk would, and the next owner acquires.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from cluster.stores.base import (
    HistoryBlob,
    JournalRecord,
    Lease,
    LeaseLost,
    MetadataRow,
    RunKey,
    ShardId,
    Snapshot,
    SnapshotRows,
)


class _Shard:
    """All that is stored for one shard."""

    def __init__(self) -> None:
        self.range_id = 0
        self.truncated_to = 0
        self.last_position = 0
        self.journal: dict[int, bytes] = {}
        self.rows: dict[RunKey, Snapshot] = {}
        self.current: dict[tuple[str, str], str] = {}  # (namespace_id, workflow_id) -> run_id
        self.histories: dict[RunKey, dict[tuple[int, int], HistoryBlob]] = {}  # by (branch, first_event_id)

    def read(self, row: Snapshot) -> Snapshot:
        """The row as a reader sees it: is_current is what the pointer says now."""
        is_current = self.current.get((row.key.namespace_id, row.key.workflow_id)) == row.key.run_id
        return row if row.is_current == is_current else msgspec.structs.replace(row, is_current=is_current)

    def select(self, rows: Iterable[Snapshot], order: Callable[[Snapshot], Any]) -> list[Snapshot]:
        return [self.read(row) for row in sorted(rows, key=order)]


class MemoryStore:
    """Implements `cluster.stores.base.Store`."""

    kind = "memory"

    def __init__(self) -> None:
        self._shards: dict[ShardId, _Shard] = {}
        self._metadata: dict[tuple[str, str], MetadataRow] = {}
        self._bytes_written = 0

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Everything stays, as on a disk."""

    # --- shards -----------------------------------------------------------------------------------------------------
    async def acquire(self, shard: ShardId, owner: str) -> Lease:
        held = self._shards.setdefault(shard, _Shard())
        held.range_id += 1
        return Lease(shard, held.range_id, owner)

    async def append(self, lease: Lease, position: int, data: bytes) -> None:
        held = self._held(lease)
        if position != held.last_position + 1:
            raise LeaseLost(f"shard {lease.shard}: position {position} is not the next one")
        held.journal[position] = data
        held.last_position = position
        self._bytes_written += len(data)

    async def read_journal(self, shard: ShardId, after: int, limit: int = 1000) -> list[JournalRecord]:
        journal = self._shard(shard).journal
        return [JournalRecord(position, journal[position]) for position in sorted(journal) if position > after][:limit]

    async def journal_bounds(self, shard: ShardId) -> tuple[int, int]:
        held = self._shard(shard)
        return held.truncated_to, held.last_position

    async def checkpoint(
        self,
        lease: Lease,
        snapshots: Sequence[Snapshot],
        histories: Sequence[HistoryBlob],
        deletions: Sequence[RunKey],
        truncate_to: int,
    ) -> None:
        held = self._held(lease)
        if truncate_to > held.last_position:
            raise ValueError(f"truncate_to {truncate_to} lies beyond the last position {held.last_position}")
        for blob in histories:
            held.histories.setdefault(blob.key, {})[blob.branch, blob.first_event_id] = blob
            self._bytes_written += len(blob.data)
        for row in snapshots:
            held.rows[row.key] = row
            if row.is_current:
                held.current[row.key.namespace_id, row.key.workflow_id] = row.key.run_id
            self._bytes_written += len(row.data)
        for key in deletions:
            held.rows.pop(key, None)
            held.histories.pop(key, None)
            if held.current.get((key.namespace_id, key.workflow_id)) == key.run_id:
                del held.current[key.namespace_id, key.workflow_id]
        for position in range(held.truncated_to + 1, truncate_to + 1):
            del held.journal[position]
        held.truncated_to = max(held.truncated_to, truncate_to)

    # --- runs -------------------------------------------------------------------------------------------------------
    async def load(self, shard: ShardId, key: RunKey) -> Snapshot | None:
        held = self._shard(shard)
        row = held.rows.get(key)
        return None if row is None else held.read(row)

    async def current_run(self, shard: ShardId, namespace_id: str, workflow_id: str) -> Snapshot | None:
        run_id = self._shard(shard).current.get((namespace_id, workflow_id))
        return None if run_id is None else await self.load(shard, RunKey(namespace_id, workflow_id, run_id))

    async def history(
        self, shard: ShardId, key: RunKey, branch: int, first_event_id: int, last_event_id: int
    ) -> list[HistoryBlob]:
        blobs = self._shard(shard).histories.get(key, {}) if first_event_id <= last_event_id else {}
        return [
            blob
            for (of_branch, _), blob in sorted(blobs.items())
            if of_branch == branch and blob.last_event_id >= first_event_id and blob.first_event_id <= last_event_id
        ]

    async def due(
        self, shard: ShardId, until: int, limit: int, after: tuple[int, RunKey] | None = None
    ) -> SnapshotRows:
        held = self._shard(shard)
        waiting = [(row.wake_at, row.key) for row in held.rows.values() if row.wake_at is not None and row.wake_at <= until]
        wanted = sorted(place for place in waiting if after is None or place > after)
        return SnapshotRows(held.read(held.rows[key]) for _, key in wanted[:limit])

    async def next_wake_at(self, shard: ShardId, after: int) -> int | None:
        times = (row.wake_at for row in self._shard(shard).rows.values())
        return min((wake_at for wake_at in times if wake_at is not None and wake_at > after), default=None)

    async def changed(self, shard: ShardId, after_position: int, limit: int) -> SnapshotRows:
        held = self._shard(shard)
        newer = [row for row in held.rows.values() if row.changed_position > after_position]
        rows = held.select(newer, lambda row: (row.changed_position, row.key))
        while 0 < limit < len(rows) and rows[limit].changed_position == rows[limit - 1].changed_position:
            limit += 1
        return SnapshotRows(rows[:limit])

    async def runs(self, shard: ShardId, after: RunKey | None, limit: int) -> SnapshotRows:
        held = self._shard(shard)
        behind = [row for row in held.rows.values() if after is None or row.key > after]
        return SnapshotRows(held.select(behind, lambda row: row.key)[:limit])

    # --- metadata -----------------------------------------------------------------------------------------------------
    async def metadata_get(self, kind: str, id: str) -> MetadataRow | None:
        return self._metadata.get((kind, id))

    async def metadata_list(self, kind: str) -> list[MetadataRow]:
        return [row for (of_kind, _), row in sorted(self._metadata.items()) if of_kind == kind]

    async def metadata_put(self, kind: str, id: str, data: bytes, expected_version: int) -> int | None:
        found = self._metadata.get((kind, id))
        if expected_version != (0 if found is None else found.version):
            return None
        self._metadata[kind, id] = MetadataRow(kind, id, expected_version + 1, data)
        return expected_version + 1

    async def metadata_delete(self, kind: str, id: str, expected_version: int) -> bool:
        found = self._metadata.get((kind, id))
        if found is None or found.version != expected_version:
            return False
        del self._metadata[kind, id]
        return True

    # --- figures ------------------------------------------------------------------------------------------------------
    def bytes_written(self) -> int:
        return self._bytes_written

    def _shard(self, shard: ShardId) -> _Shard:
        """The shard for reading; one that nobody acquired yet is empty."""
        return self._shards.get(shard) or _Shard()

    def _held(self, lease: Lease) -> _Shard:
        """The shard for writing, if the lease is its newest."""
        held = self._shards.get(lease.shard)
        if held is None or held.range_id != lease.range_id:
            raise LeaseLost(f"shard {lease.shard}: range {lease.range_id} is fenced")
        return held
