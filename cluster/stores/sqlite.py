"""The embedded store: one SQLite file, or memory. The default of a single node.

    SqliteStore            this file: the contract, checkpoints cut into slices, figures
      sqlite_threads.py    which thread runs a call, which calls share a commit, what an error means
      sqlite_rows.py       the statements
      sqlite_schema.py     tables, version, connections

Durability: `sync="full"` (default) answers a write after its fsync. `sync="normal"` may lose the last moments at power loss
(not at a crash of the process): the log is synced only when it is transferred to the main file; the file stays consistent.
`:memory:` loses everything with the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

from cluster.stores import sqlite_rows as rows
from cluster.stores.base import (
    HistoryBlob,
    JournalRecord,
    Lease,
    MetadataRow,
    RunKey,
    ShardId,
    Snapshot,
    SnapshotRows,
)
from cluster.stores.framing import journal_context, seal
from cluster.stores.sqlite_schema import SyncMode, connect, create_or_check
from cluster.stores.sqlite_threads import InlineLanes, Lanes, ThreadLanes

# A slice of a checkpoint is one transaction, and an append waits for at most one: about 5 ms each.
SLICE_ROWS_MAX = 256
SLICE_BYTES_MAX = 1 << 20

_Part = HistoryBlob | Snapshot | RunKey


class SqliteStore:
    """Implements `cluster.stores.base.Store` on the standard library's sqlite3."""

    kind = "sqlite"

    def __init__(
        self,
        path: str,
        sync: SyncMode = "full",
        *,
        busy_timeout_ms: int = 5_000,
        readers_count: int = 2,
        cache_kib: int = 16 * 1024,
    ) -> None:
        if sync not in ("full", "normal"):
            raise ValueError(f"sync is {sync!r}, must be 'full' or 'normal'")
        if readers_count < 1:
            raise ValueError("readers_count must be at least 1")
        writer = partial(connect, path, sync, busy_timeout_ms, cache_kib)
        reader = partial(connect, path, sync, busy_timeout_ms, cache_kib, read_only=True)
        prepare = partial(create_or_check, path=path)
        self._lanes: Lanes = (
            InlineLanes(writer, prepare) if path == ":memory:" else ThreadLanes(writer, reader, prepare, readers_count)
        )
        self._bytes_written = 0

    async def open(self) -> None:
        await self._lanes.start()

    async def close(self) -> None:
        await self._lanes.stop()

    # --- shards -----------------------------------------------------------------------------------------------------
    async def acquire(self, shard: ShardId, owner: str) -> Lease:
        return cast(Lease, await self._lanes.write(partial(rows.acquire, shard=shard, owner=owner)))

    async def append(self, lease: Lease, position: int, data: bytes) -> None:
        sealed = seal(data, journal_context(lease.shard, position))
        await self._lanes.write(partial(rows.append, lease=lease, position=position, sealed=sealed))
        self._bytes_written += len(data)

    async def read_journal(self, shard: ShardId, after: int, limit: int = 1000) -> list[JournalRecord]:
        read = partial(rows.read_journal, shard=shard, after=after, limit=limit)
        return cast(list[JournalRecord], await self._lanes.read(read))

    async def journal_bounds(self, shard: ShardId) -> tuple[int, int]:
        return cast(tuple[int, int], await self._lanes.read(partial(rows.journal_bounds, shard=shard)))

    async def checkpoint(
        self,
        lease: Lease,
        snapshots: Sequence[Snapshot],
        histories: Sequence[HistoryBlob],
        deletions: Sequence[RunKey],
        truncate_to: int,
    ) -> None:
        slices = list(_slices([*histories, *snapshots, *deletions]))
        for number, parts in enumerate(slices, 1):
            write = partial(
                rows.write_slice,
                lease=lease,
                histories=[part for part in parts if isinstance(part, HistoryBlob)],
                snapshots=[part for part in parts if isinstance(part, Snapshot)],
                deletions=[part for part in parts if isinstance(part, RunKey)],
                truncate_to=truncate_to,
                is_last=number == len(slices),
            )
            await self._lanes.write(write, has_several_statements=True)
            self._bytes_written += sum(_size(part) for part in parts)
        if truncate_to > 0:
            while await self._lanes.write(partial(rows.remove_truncated, shard=lease.shard)):
                pass  # each step is a transaction of its own, so that appends get in between

    # --- runs -------------------------------------------------------------------------------------------------------
    async def load(self, shard: ShardId, key: RunKey) -> Snapshot | None:
        return cast(Snapshot | None, await self._lanes.read(partial(rows.load, shard=shard, key=key)))

    async def current_run(self, shard: ShardId, namespace_id: str, workflow_id: str) -> Snapshot | None:
        read = partial(rows.current_run, shard=shard, namespace_id=namespace_id, workflow_id=workflow_id)
        return cast(Snapshot | None, await self._lanes.read(read))

    async def history(
        self, shard: ShardId, key: RunKey, branch: int, first_event_id: int, last_event_id: int
    ) -> list[HistoryBlob]:
        read = partial(
            rows.history, shard=shard, key=key, branch=branch, first_event_id=first_event_id, last_event_id=last_event_id
        )
        return cast(list[HistoryBlob], await self._lanes.read(read))

    async def due(
        self, shard: ShardId, until: int, limit: int, after: tuple[int, RunKey] | None = None
    ) -> SnapshotRows:
        return await self._list(partial(rows.due, shard=shard, until=until, limit=limit, after=after))

    async def next_wake_at(self, shard: ShardId, after: int) -> int | None:
        return cast(int | None, await self._lanes.read(partial(rows.next_wake_at, shard=shard, after=after)))

    async def changed(self, shard: ShardId, after_position: int, limit: int) -> SnapshotRows:
        return await self._list(partial(rows.changed, shard=shard, after_position=after_position, limit=limit))

    async def runs(self, shard: ShardId, after: RunKey | None, limit: int) -> SnapshotRows:
        return await self._list(partial(rows.runs, shard=shard, after=after, limit=limit))

    async def _list(self, read: Any) -> SnapshotRows:
        return cast(SnapshotRows, await self._lanes.read(read))

    # --- metadata ---------------------------------------------------------------------------------------------------
    async def metadata_get(self, kind: str, id: str) -> MetadataRow | None:
        return cast(MetadataRow | None, await self._lanes.read(partial(rows.metadata_get, kind=kind, id=id)))

    async def metadata_list(self, kind: str) -> list[MetadataRow]:
        return cast(list[MetadataRow], await self._lanes.read(partial(rows.metadata_list, kind=kind)))

    async def metadata_put(self, kind: str, id: str, data: bytes, expected_version: int) -> int | None:
        write = partial(rows.metadata_put, kind=kind, id=id, data=data, expected_version=expected_version)
        return cast(int | None, await self._lanes.write(write))

    async def metadata_delete(self, kind: str, id: str, expected_version: int) -> bool:
        write = partial(rows.metadata_delete, kind=kind, id=id, expected_version=expected_version)
        return cast(bool, await self._lanes.write(write))

    # --- figures ----------------------------------------------------------------------------------------------------
    def bytes_written(self) -> int:
        return self._bytes_written


def _size(part: _Part) -> int:
    return 0 if isinstance(part, RunKey) else len(part.data)


def _slices(parts: Sequence[_Part]) -> Iterator[Sequence[_Part]]:
    """Cuts a checkpoint in order; at least one slice, since an empty checkpoint still checks its lease."""
    start, size = 0, 0
    for place, part in enumerate(parts):
        if place > start and (place - start >= SLICE_ROWS_MAX or size + _size(part) > SLICE_BYTES_MAX):
            yield parts[start:place]
            start, size = place, 0
        size += _size(part)
    yield parts[start:]
