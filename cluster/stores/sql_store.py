"""What PostgreSQL and MySQL have in common as stores: the contract in terms of statements, pages, slices and groups.

    SqlStore               this file: the contract; an engine fills in the methods at its end
      sql_groups.py        appends that wait together are one statement
      sql_pool.py          bounded connections
      sql_rows.py          structs to columns and back, slices of a checkpoint
      sql_statements.py    the statements both engines share
      sql_schema.py        versions and their refusal

The rule that keeps a slow, paused or dead node from harming others: **every write is one message to the server, and no
transaction ever waits for its client**. A lock is held while the server works and until the commit is on disk, never longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from cluster.stores import sql_rows as rows
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
    StoreUnavailable,
)
from cluster.stores.framing import journal_context, metadata_context, seal
from cluster.stores.sql_groups import AppendLanes, Run
from cluster.stores.sql_rows import Row, Slice

SyncMode = Literal["full", "server"]

# How many records one statement removes below the truncation mark; appends get in between.
REMOVE_STEP_COUNT = 2_000


class SqlStore:
    """Implements `cluster.stores.base.Store` but for what touches the driver.

    sync "full" (default) refuses a server that acknowledges before its disk does; "server" takes its settings as they are.
    """

    kind = "sql"

    def __init__(self, sync: SyncMode, statement_timeout_s: float, append_lanes_count: int) -> None:
        if sync not in ("full", "server"):
            raise ValueError(f"sync is {sync!r}, must be 'full' or 'server'")
        if statement_timeout_s <= 0:
            raise ValueError("statement_timeout_s must be positive")
        if append_lanes_count < 1:
            raise ValueError("append_lanes_count must be at least 1")
        self._sync = sync
        self._statement_timeout_s = statement_timeout_s
        self._lanes = AppendLanes(self._write_group, append_lanes_count)
        self._removed_to: dict[int, int] = {}  # by shard: up to where this node removed truncated records
        self._is_open = False
        self._bytes_written = 0

    async def open(self) -> None:
        await self._connect()
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False
        await self._lanes.drain()
        await self._disconnect()

    # --- shards -----------------------------------------------------------------------------------------------------
    async def acquire(self, shard: ShardId, owner: str) -> Lease:
        return Lease(shard, await self._raise_range(rows.checked_shard(shard), owner.encode("utf-8", "replace")[:255]), owner)

    async def append(self, lease: Lease, position: int, data: bytes) -> None:
        if not self._is_open:
            raise StoreUnavailable("the store is not open")
        await self._lanes.submit(lease, position, seal(data, journal_context(lease.shard, position)))
        self._bytes_written += len(data)

    async def read_journal(self, shard: ShardId, after: int, limit: int = 1000) -> list[JournalRecord]:
        return rows.records(shard, after, await self._read("read_journal", shard=shard, after=after, limit=limit))

    async def journal_bounds(self, shard: ShardId) -> tuple[int, int]:
        return (await self._state(shard))[1:]

    async def _state(self, shard: ShardId) -> tuple[int, int, int]:
        """(range_id, truncated_to, last_position)."""
        found = await self._read("bounds", shard=shard)
        if not found:
            return 0, 0, 0
        range_id, truncated_to, last_position = found[0]
        return range_id, truncated_to, max(truncated_to, last_position)

    async def checkpoint(
        self,
        lease: Lease,
        snapshots: Sequence[Snapshot],
        histories: Sequence[HistoryBlob],
        deletions: Sequence[RunKey],
        truncate_to: int,
    ) -> None:
        waiting: Slice | None = None
        for part in rows.slices(lease.shard, [*histories, *snapshots, *deletions]):
            if waiting is not None:
                await self._commit_slice(lease, waiting, truncate_to, is_last=False)
            waiting = part
        assert waiting is not None
        await self._commit_slice(lease, waiting, truncate_to, is_last=True)
        if truncate_to > 0:
            await self._remove(lease.shard, truncate_to)

    async def _commit_slice(self, lease: Lease, part: Slice, truncate_to: int, is_last: bool) -> None:
        if not await self._write_slice(lease, part, truncate_to, is_last):
            range_id, _, last_position = await self._state(lease.shard)
            if range_id != 0 and range_id == lease.range_id and truncate_to > last_position:
                raise ValueError(f"truncate_to {truncate_to} lies beyond the last position {last_position}")
            raise LeaseLost(f"shard {lease.shard}: range {lease.range_id} is fenced by {range_id}")
        self._bytes_written += part.payload_bytes

    async def _remove(self, shard: ShardId, up_to: int) -> None:
        """Removes the records below the mark, in steps, also those that a crash left.

        Remembers where it was: a search for the first record would read all the entries that were removed but not yet cleaned up.
        """
        above = self._removed_to.get(shard)
        if above is None:
            first = (await self._read("first_position", shard=shard))[0][0]
            above = up_to if first is None else first - 1
        while above < up_to:
            step = min(above + REMOVE_STEP_COUNT, up_to)
            await self._write("remove", shard=shard, above=above, up_to=step)
            above = self._removed_to[shard] = step
        self._removed_to[shard] = above

    # --- runs -------------------------------------------------------------------------------------------------------
    async def load(self, shard: ShardId, key: RunKey) -> Snapshot | None:
        found = await self._read("load", shard=shard, **_named(key))
        return rows.snapshot(shard, found[0]) if found else None

    async def current_run(self, shard: ShardId, namespace_id: str, workflow_id: str) -> Snapshot | None:
        named = _named(RunKey(namespace_id, workflow_id, ""))
        found = await self._read("current_run", shard=shard, **named)
        return rows.snapshot(shard, found[0]) if found else None

    async def history(
        self, shard: ShardId, key: RunKey, branch: int, first_event_id: int, last_event_id: int
    ) -> list[HistoryBlob]:
        if first_event_id > last_event_id:
            return []
        named = _named(key)
        found = await self._read("history", shard=shard, **named, branch=branch, first=first_event_id, last=last_event_id)
        return rows.blobs(shard, key, branch, found)

    async def due(
        self, shard: ShardId, until: int, limit: int, after: tuple[int, RunKey] | None = None
    ) -> SnapshotRows:
        place = None if after is None else {"wake_at": after[0], **_named(after[1])}
        return await self._pages("due", shard, limit, place, until=until)

    async def next_wake_at(self, shard: ShardId, after: int) -> int | None:
        found = await self._read("next_wake_at", shard=shard, after=after)
        return found[0][0] if found else None

    async def changed(self, shard: ShardId, after_position: int, limit: int) -> SnapshotRows:
        page, position = SnapshotRows(), after_position
        while len(page) < limit:
            wanted = limit - len(page)
            found = await self._read("changed", shard=shard, position=position, limit=wanted)
            if len(found) == wanted:  # the last position may go on behind the limit: read it whole
                position = found[-1][5]
                whole = await self._read("changed_at", shard=shard, position=position)
                found = [*(row for row in found if row[5] != position), *whole]
            rows.add_snapshots(page, shard, found)
            if len(found) < wanted:
                break
        page.sort(key=lambda row: (row.changed_position, row.key))
        return page

    async def runs(self, shard: ShardId, after: RunKey | None, limit: int) -> SnapshotRows:
        return await self._pages("runs", shard, limit, None if after is None else _named(after))

    async def _pages(self, name: str, shard: ShardId, limit: int, place: dict[str, Any] | None, **bounds: int) -> SnapshotRows:
        """Reads until the page is full of good rows. `place` is the row to go on behind."""
        page = SnapshotRows()
        while len(page) < limit:
            wanted = limit - len(page)
            if place is None:
                found = await self._read(name, shard=shard, limit=wanted, **bounds)
            else:
                found = await self._read(f"{name}_after", shard=shard, limit=wanted, **bounds, **place)
            rows.add_snapshots(page, shard, found)
            if len(found) < wanted:
                break
            last = found[-1]
            place = {"namespace_id": last[0], "workflow_id": last[1], "run_id": last[2]}
            if name == "due":
                place["wake_at"] = last[4]
        return page

    # --- metadata ---------------------------------------------------------------------------------------------------
    async def metadata_get(self, kind: str, id: str) -> MetadataRow | None:
        found = await self._read("metadata_get", **_metadata_key(kind, id))
        return rows.metadata(kind, found[0]) if found else None

    async def metadata_list(self, kind: str) -> list[MetadataRow]:
        return [rows.metadata(kind, row) for row in await self._read("metadata_list", kind=_metadata_key(kind, "")["kind"])]

    async def metadata_put(self, kind: str, id: str, data: bytes, expected_version: int) -> int | None:
        version = expected_version + 1
        named = {**_metadata_key(kind, id), "data": seal(data, metadata_context(kind, id, version))}
        if expected_version == 0:
            done = await self._write("metadata_insert", **named)
        else:
            done = await self._write("metadata_update", **named, version=version, expected_version=expected_version)
        return version if done == 1 else None

    async def metadata_delete(self, kind: str, id: str, expected_version: int) -> bool:
        return await self._write("metadata_delete", **_metadata_key(kind, id), expected_version=expected_version) == 1

    # --- figures ----------------------------------------------------------------------------------------------------
    def bytes_written(self) -> int:
        return self._bytes_written

    # --- what an engine fills in --------------------------------------------------------------------------------------
    async def _connect(self) -> None:
        """Checks server and schema. Raises SchemaMismatch, StoreUnavailable."""
        raise NotImplementedError

    async def _disconnect(self) -> None:
        raise NotImplementedError

    async def _read(self, name: str, **named: Any) -> Sequence[Row]:
        raise NotImplementedError

    async def _write(self, name: str, **named: Any) -> int:
        """Runs a statement by name, committed at return; the number of rows it changed."""
        raise NotImplementedError

    async def _raise_range(self, shard: int, owner: bytes) -> int:
        raise NotImplementedError

    async def _write_group(self, runs: Sequence[Run]) -> set[int]:
        """Appends runs of different shards in one transaction; the shards that took theirs. See `sql_groups.py`."""
        raise NotImplementedError

    async def _write_slice(self, lease: Lease, part: Slice, truncate_to: int, is_last: bool) -> bool:
        """Writes a slice in one transaction; the last one moves the truncation mark. False: refused, nothing written."""
        raise NotImplementedError


def _named(key: RunKey) -> dict[str, Any]:
    return dict(zip(("namespace_id", "workflow_id", "run_id"), rows.key_columns(key), strict=True))


def _metadata_key(kind: str, id: str) -> dict[str, Any]:
    return {"kind": rows.column(kind, 255), "id": rows.column(id, rows.METADATA_BYTES_MAX)}
