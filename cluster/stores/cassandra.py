"""The store on Apache Cassandra (4.0 or newer), for a cluster of nodes on one keyspace.

    CassandraStore            this file: the contract
      cassandra_fence.py      lease, journal, stamps: lightweight transactions on one partition per shard
      cassandra_rows.py       runs and histories: plain writes that carry a stamp
      cassandra_wakeups.py    the index of wake-ups
      cassandra_statements.py every statement
      cassandra_connection.py the session, consistency levels, what an error means
      cassandra_schema.py     tables, version, upgrade

Durability: with sync "full" a node is refused whose commit log is periodic, which acknowledges before its disk does
(`commitlog_sync: batch` or `group` is what it should say); "server" takes the nodes as they are, which is sensible where
three replicas do not lose power together. Only the nodes that are up at open are asked. Reads and writes need a quorum of
the replicas.

A checkpoint is not one transaction. Its writes carry its stamp and come in this order: history and wake-ups, rows and
pointers, what they replace, the lease once more, the truncation. Whatever part of it a crash or a stale owner leaves behind
loses against the next owner's, who replays the same journal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from cassandra.cluster import Session

from cluster.stores import sql_rows
from cluster.stores.base import (
    CorruptRecord,
    HistoryBlob,
    JournalRecord,
    Lease,
    MetadataRow,
    RunKey,
    ShardId,
    Snapshot,
    SnapshotRows,
    StoreUnavailable,
    StoreUnknown,
)
from cluster.stores.cassandra_connection import CassandraSession, CassandraTarget, Step
from cluster.stores.cassandra_fence import Fence, Head
from cluster.stores.cassandra_rows import Columns, Plan, RunRows, add, checked_value, plan_of
from cluster.stores.cassandra_schema import found_version
from cluster.stores.cassandra_statements import STATEMENTS
from cluster.stores.cassandra_wakeups import Entry, Wakeups
from cluster.stores.framing import journal_context, metadata_context, seal
from cluster.stores.sql_schema import SCHEMA_VERSION, SchemaStatus, refuse_other_version

SyncMode = Literal["full", "server"]
LOSES_WRITES: Final = "periodic"  # a node's commitlog_sync
PRUNE_INTERVAL_NS: Final = 60_000_000_000
_BIGINT_MAX: Final = (1 << 63) - 1


class CassandraStore:
    """Implements `cluster.stores.base.Store` on cassandra-driver. `now_ns` is only for stamps, which do not depend on it."""

    kind = "cassandra"

    def __init__(
        self,
        target: CassandraTarget | str,
        sync: SyncMode = "full",
        *,
        request_timeout_s: float = 10.0,
        connect_timeout_s: float = 5.0,
        in_flight_max: int = 64,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        if sync not in ("full", "server"):
            raise ValueError(f"sync is {sync!r}, must be 'full' or 'server'")
        if request_timeout_s <= 0 or in_flight_max < 1:
            raise ValueError("request_timeout_s and in_flight_max must be positive")
        self._target = CassandraTarget.from_url(target) if isinstance(target, str) else target
        self._sync = sync
        self._now_ns = now_ns
        self._session = CassandraSession(self._target, request_timeout_s, connect_timeout_s, in_flight_max)
        self._rows = RunRows(self._session)
        self._fences: dict[ShardId, Fence] = {}
        self._wakeups: dict[ShardId, Wakeups] = {}
        self._pruned_at: dict[ShardId, int] = {}
        self._turns: dict[bytes, asyncio.Lock] = {}  # by kind of metadata
        self._uncertain_kinds: set[bytes] = set()
        self._is_open = False
        self._bytes_written = 0

    async def open(self) -> None:
        await self._session.open(self._check, STATEMENTS)
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False
        for fence in self._fences.values():
            await fence.lanes.drain()
            async with fence.checkpoints:
                pass  # one under way ends first
        await self._session.close()

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the store is not open")

    def _check(self, session: Session) -> None:
        """Runs in the thread that connects."""
        name = self._target.name
        refuse_other_version(SchemaStatus(found_version(session, self._target.keyspace), SCHEMA_VERSION), name)
        if self._sync == "full":
            asked = "SELECT value FROM system_views.settings WHERE name = 'commitlog_sync'"
            for host in session.cluster.metadata.all_hosts():
                if host.is_up:
                    found = session.execute(asked, host=host, execution_profile="read").one()
                    if found is not None and found[0] == LOSES_WRITES:
                        raise StoreUnavailable(
                            f"{name}: node {host.address} has commitlog_sync {found[0]} and would lose acknowledged"
                            " writes at a crash (set batch or group; sync='server' takes it as it is)"
                        )

    # --- shards -----------------------------------------------------------------------------------------------------
    def _fence(self, shard: ShardId) -> Fence:
        fence = self._fences.get(shard)
        if fence is None:
            fence = self._fences[shard] = Fence(ShardId(sql_rows.checked_shard(shard)), self._session, self._now_ns)
            self._wakeups[shard] = Wakeups(self._session, fence)
        return fence

    def _wakeups_of(self, shard: ShardId) -> Wakeups:
        self._fence(shard)
        return self._wakeups[shard]

    async def acquire(self, shard: ShardId, owner: str) -> Lease:
        self._check_open()
        return Lease(shard, await self._fence(shard).acquire(owner.encode("utf-8", "replace")[:255]), owner)

    async def append(self, lease: Lease, position: int, data: bytes) -> None:
        self._check_open()
        sealed = checked_value(seal(data, journal_context(lease.shard, position)))
        await self._fence(lease.shard).lanes.submit(lease, position, sealed)
        self._bytes_written += len(data)

    async def journal_bounds(self, shard: ShardId) -> tuple[int, int]:
        head = await self._fence(shard).head()
        return head.truncated_to, head.last_position

    async def read_journal(self, shard: ShardId, after: int, limit: int = 1000) -> list[JournalRecord]:
        head = await self._fence(shard).head()
        while True:
            begin = max(after, head.truncated_to)
            if begin >= head.last_position or limit < 1:
                return []
            rows = await self._session.read("records", shard, begin, head.last_position, limit)
            expected_count = min(limit, head.last_position - begin)
            missing = next((begin + n for n, row in enumerate(rows, 1) if row[0] != begin + n), None)
            if missing is None and len(rows) < expected_count:
                missing = begin + len(rows) + 1
            if missing is None:
                return sql_rows.records(shard, after, [(head.truncated_to, *row) for row in rows])
            again = await self._fence(shard).head()
            if again.truncated_to < missing:
                if missing > begin + 1:  # those before it first, damaged ones by their own name
                    sql_rows.records(shard, after, [(head.truncated_to, *row) for row in rows[: missing - begin - 1]])
                raise CorruptRecord(f"journal of shard {shard}: record {missing} is missing", position=missing)
            head = Head(again.range_id, again.last_position, again.truncated_to, again.stamp)  # cut while we read

    async def checkpoint(
        self,
        lease: Lease,
        snapshots: Sequence[Snapshot],
        histories: Sequence[HistoryBlob],
        deletions: Sequence[RunKey],
        truncate_to: int,
    ) -> None:
        self._check_open()
        fence = self._fence(lease.shard)
        plan = plan_of(lease.shard, snapshots, histories, deletions)
        if not plan.is_empty or plan.pointers:
            async with fence.checkpoints:
                stamp = await fence.reserve(lease, truncate_to)
                try:
                    await self._write(fence, stamp, plan)
                except StoreUnavailable as error:
                    raise StoreUnknown(f"a part of the checkpoint may have been written: {error}") from error
                fence.stamp_done = stamp
            self._bytes_written += sum(len(row.data) for row in snapshots) + sum(len(blob.data) for blob in histories)
        if truncate_to > 0:
            await fence.truncate(lease, truncate_to)
        else:
            await fence.check(lease, truncate_to)

    async def _write(self, fence: Fence, stamp: int, plan: Plan) -> None:
        """See the module's text for the order."""
        shard, wakeups = fence.shard, self._wakeups[fence.shard]
        former = await self._rows.places_before(shard, plan)
        await self._rows.write_histories(shard, stamp, plan)
        places = await wakeups.write(stamp, plan)
        # A deleted run's wake-up goes before its row, which is what names it.
        await wakeups.forget(stamp, {columns: former[columns] for columns in plan.deletions & former.keys()}, {})
        await self._rows.write_rows(shard, stamp, plan, places)
        await wakeups.forget(stamp, {columns: former[columns] for columns in plan.rows.keys() & former.keys()}, places)
        await self._rows.delete_histories(shard, stamp, plan)
        now = stamp * 1_000
        if now - self._pruned_at.setdefault(shard, now) >= PRUNE_INTERVAL_NS:
            self._pruned_at[shard] = now
            await wakeups.prune(now)

    # --- runs -------------------------------------------------------------------------------------------------------
    async def load(self, shard: ShardId, key: RunKey) -> Snapshot | None:
        columns = sql_rows.key_columns(key)
        found = (await self._rows.load(shard, [columns])).get(columns)
        return None if found is None else sql_rows.snapshot(shard, found.columns)

    async def current_run(self, shard: ShardId, namespace_id: str, workflow_id: str) -> Snapshot | None:
        found = await self._rows.current(shard, sql_rows.key_columns(RunKey(namespace_id, workflow_id, "")))
        return None if found is None else sql_rows.snapshot(shard, found.columns)

    async def history(
        self, shard: ShardId, key: RunKey, branch: int, first_event_id: int, last_event_id: int
    ) -> list[HistoryBlob]:
        if first_event_id > last_event_id:
            return []
        return await self._rows.histories(shard, key, branch, first_event_id, last_event_id)

    async def due(
        self, shard: ShardId, until: int, limit: int, after: tuple[int, RunKey] | None = None
    ) -> SnapshotRows:
        page = SnapshotRows()
        if limit < 1:
            return page
        wakeups = self._wakeups_of(shard)
        place = None if after is None else (after[0], sql_rows.key_columns(after[1]))
        waiting: list[Entry] = []
        seen: set[Columns] = set()  # two generations may have a run in the same place
        async for entry in wakeups.entries(place, until):
            waiting.append(entry)
            if len(page) + len(waiting) >= limit:
                await self._add_due(page, shard, waiting, seen)
                waiting = []
                if len(page) >= limit:
                    return page
        await self._add_due(page, shard, waiting, seen)
        return page

    async def _add_due(self, page: SnapshotRows, shard: ShardId, entries: Sequence[Entry], seen: set[Columns]) -> None:
        wakeups = self._wakeups[shard]
        loaded = await self._rows.load(shard, [entry.columns for entry in entries])
        for entry in entries:
            row = loaded.get(entry.columns)
            if wakeups.counts(entry, row) and row is not None and entry.columns not in seen:
                seen.add(entry.columns)
                add(page, shard, row)

    async def next_wake_at(self, shard: ShardId, after: int) -> int | None:
        if after >= _BIGINT_MAX:
            return None
        wakeups = self._wakeups_of(shard)
        async for entry in wakeups.entries((after + 1, (b"", b"", b"")), _BIGINT_MAX):
            loaded = await self._rows.load(shard, [entry.columns])
            if wakeups.counts(entry, loaded.get(entry.columns)):
                return entry.wake_at
        return None

    async def changed(self, shard: ShardId, after_position: int, limit: int) -> SnapshotRows:
        page, position = SnapshotRows(), after_position
        while len(page) < limit:
            found = await self._rows.changed_after(shard, position, limit - len(page))
            if not found:
                break
            loaded = await self._rows.load(shard, [columns for _, columns in found])
            for changed_position, columns in found:
                row = loaded.get(columns)
                # One that changed meanwhile comes later, in its new place.
                if row is not None and row.columns[5] == changed_position:
                    add(page, shard, row)
            position = found[-1][0]
        return page

    async def runs(self, shard: ShardId, after: RunKey | None, limit: int) -> SnapshotRows:
        page = SnapshotRows()
        place: Columns | None = None if after is None else sql_rows.key_columns(after)
        while len(page) < limit:
            keys, place = await self._rows.keys_after(shard, place, limit - len(page))
            loaded = await self._rows.load(shard, keys)
            for columns in keys:
                if columns in loaded:
                    add(page, shard, loaded[columns])
            if place is None:
                break
        return page

    # --- metadata ---------------------------------------------------------------------------------------------------
    async def metadata_get(self, kind: str, id: str) -> MetadataRow | None:
        names = _metadata_key(kind, id)
        found = await self._session.read("metadata_get", *names, is_serial=names[0] in self._uncertain_kinds)
        return sql_rows.metadata(kind, found[0]) if found else None

    async def metadata_list(self, kind: str) -> list[MetadataRow]:
        of_kind, _ = _metadata_key(kind, "")
        rows = await self._session.read("metadata_list", of_kind, is_serial=of_kind in self._uncertain_kinds)
        return [sql_rows.metadata(kind, row) for row in rows]

    async def metadata_put(self, kind: str, id: str, data: bytes, expected_version: int) -> int | None:
        names, version = _metadata_key(kind, id), expected_version + 1
        sealed = checked_value(seal(data, metadata_context(kind, id, version)))
        if expected_version == 0:
            done = await self._decide_metadata(names[0], ("metadata_insert", (*names, sealed)))
        else:
            done = await self._decide_metadata(names[0], ("metadata_update", (version, sealed, *names, expected_version)))
        return version if done else None

    async def metadata_delete(self, kind: str, id: str, expected_version: int) -> bool:
        names = _metadata_key(kind, id)
        return await self._decide_metadata(names[0], ("metadata_delete", (*names, expected_version)))

    async def _decide_metadata(self, kind: bytes, step: Step) -> bool:
        """One a time per partition. After an unknown outcome, reads of that kind are serial until one is certain."""
        async with self._turns.setdefault(kind, asyncio.Lock()):
            try:
                found: dict[str, Any] = await self._session.decide(step)
            except StoreUnknown:
                self._uncertain_kinds.add(kind)
                raise
            self._uncertain_kinds.discard(kind)
            return bool(found["[applied]"])

    # --- figures ----------------------------------------------------------------------------------------------------
    def bytes_written(self) -> int:
        return self._bytes_written


def _metadata_key(kind: str, id: str) -> tuple[bytes, bytes]:
    return sql_rows.column(kind, 255), sql_rows.column(id, sql_rows.METADATA_BYTES_MAX)
