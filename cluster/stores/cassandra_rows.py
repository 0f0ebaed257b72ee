"""Runs and histories in Cassandra: what a checkpoint comes to, where each row lies, and how rows are read back.

A run's row and the pointer to its workflow id's current run share a partition: (shard, slot), where the slot follows from
namespace and workflow id. A history is a partition of its own; a long blob is stored in parts, since Cassandra takes no
mutation beyond 16 MiB.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from zlib import crc32

from cluster.stores.base import CorruptRecord, HistoryBlob, RunKey, ShardId, Snapshot, SnapshotRows
from cluster.stores.cassandra_connection import CassandraSession, Step
from cluster.stores.cassandra_statements import POINTER
from cluster.stores.framing import DamagedFrame, context_of_history, context_of_snapshot, history_context, seal, unseal
from cluster.stores.sql_rows import key_columns, key_of, snapshot

# Part of the schema: rows would have to move if it changed. A shard of 100,000 runs of 2 KB has partitions of 12 MB.
SLOTS_COUNT: Final = 16
# A mutation is at most half a commit log segment, 16 MiB by default; a transaction carries some bytes beside the value.
VALUE_BYTES_MAX: Final = 15 << 20
HISTORY_PART_BYTES: Final = 4 << 20
# One message to one partition.
BATCH_STEPS_MAX: Final = 64
BATCH_BYTES_MAX: Final = 512 << 10
READ_KEYS_MAX: Final = 50

Columns = tuple[bytes, bytes, bytes]  # namespace, workflow, run
Place = tuple[int, int]  # wake_bucket, wake_at


class Loaded(NamedTuple):
    """A row as found; `columns` are those of `sql_rows.snapshot`."""

    columns: tuple[Any, ...]
    stamp: int


def slot_of(columns: Columns) -> int:
    return crc32(columns[1], crc32(columns[0])) % SLOTS_COUNT


def pointer_of(columns: Columns) -> Columns:
    return columns[0], columns[1], POINTER


def checked_value(sealed: bytes) -> bytes:
    if len(sealed) > VALUE_BYTES_MAX:
        raise ValueError(f"a value of {len(sealed)} bytes is too large for a mutation of Cassandra ({VALUE_BYTES_MAX})")
    return sealed


def _checked_bigint(number: int | None) -> int | None:
    if number is not None and not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"{number} does not fit in a bigint")
    return number


async def all_done(jobs: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Runs all to their end, also when one fails: nothing of ours is then under way any more. Raises the first error."""
    results = await asyncio.gather(*jobs, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@dataclass(slots=True)
class Plan:
    """A checkpoint, resolved: no key is written twice, and none both written and deleted."""

    histories: list[tuple[Columns, HistoryBlob, bytes]] = field(default_factory=list)  # with the sealed bytes
    rows: dict[Columns, tuple[Snapshot, bytes]] = field(default_factory=dict)
    pointers: dict[Columns, bytes | None] = field(default_factory=dict)  # by `pointer_of`: the run to name, None = none
    deletions: set[Columns] = field(default_factory=set)

    @property
    def is_empty(self) -> bool:
        return not (self.histories or self.rows or self.deletions)


def plan_of(
    shard: ShardId, snapshots: Sequence[Snapshot], histories: Sequence[HistoryBlob], deletions: Sequence[RunKey]
) -> Plan:
    """Raises ValueError for what no column takes, before anything is written."""
    plan = Plan(deletions={key_columns(key) for key in deletions})
    blobs = {(blob.key, blob.branch, blob.first_event_id): blob for blob in histories}
    for blob in blobs.values():
        columns = key_columns(blob.key)
        _checked_bigint(blob.last_event_id)
        if columns not in plan.deletions:
            plan.histories.append((columns, blob, seal(blob.data, context_of_history(shard, blob))))
    for row in snapshots:
        columns = key_columns(row.key)
        _checked_bigint(row.wake_at), _checked_bigint(row.changed_position)
        if row.is_current:
            plan.pointers[pointer_of(columns)] = columns[2]
        if columns not in plan.deletions:
            plan.rows[columns] = (row, checked_value(seal(row.data, context_of_snapshot(shard, row))))
    for pointer, run_id in plan.pointers.items():
        if (*pointer[:2], run_id) in plan.deletions:
            plan.pointers[pointer] = None
    return plan


class RunRows:
    """The tables outlast_runs and outlast_history."""

    def __init__(self, session: CassandraSession) -> None:
        self._session = session

    # --- writing --------------------------------------------------------------------------------------------------------
    async def places_before(self, shard: ShardId, plan: Plan) -> dict[Columns, Place]:
        """Where the wake-ups of the runs in the plan are now. Adds to the plan the pointers that its deletions take away."""
        asked = {*plan.rows, *plan.deletions} | {pointer_of(columns) for columns in plan.deletions}
        places: dict[Columns, Place] = {}
        for *key, wake_at, bucket, current_run_id in await self._by_key("places", shard, asked):
            columns: Columns = (key[0], key[1], key[2])
            if columns[2] == POINTER:
                if (*columns[:2], current_run_id) in plan.deletions:
                    plan.pointers.setdefault(columns, None)
            elif wake_at is not None and bucket is not None:
                places[columns] = (bucket, wake_at)
        return places

    async def write_histories(self, shard: ShardId, stamp: int, plan: Plan) -> None:
        await all_done(self._write_history(shard, stamp, *each) for each in plan.histories)

    async def _write_history(self, shard: ShardId, stamp: int, columns: Columns, blob: HistoryBlob, sealed: bytes) -> None:
        parts = [sealed[start : start + HISTORY_PART_BYTES] for start in range(0, len(sealed), HISTORY_PART_BYTES)]
        head = (shard, *columns, blob.branch, blob.first_event_id)
        for part in reversed(range(len(parts))):  # the first one last: it says how many there are
            values = (*head, part, blob.last_event_id, len(parts), parts[part], stamp)
            await self._session.write(("write_history", values))

    async def write_rows(self, shard: ShardId, stamp: int, plan: Plan, places: dict[Columns, Place]) -> None:
        """Rows, pointers and deletions of rows, slot by slot; a row comes with its pointer."""
        by_slot: dict[int, list[tuple[Columns, Step, int]]] = {}
        for columns, (row, sealed) in plan.rows.items():
            bucket = places[columns][0] if columns in places else None
            values = (row.is_open, row.wake_at, row.changed_position, sealed, bucket, stamp, stamp)
            slot = slot_of(columns)
            by_slot.setdefault(slot, []).append((columns, ("write_row", (shard, slot, *columns, *values)), len(sealed)))
        for columns in plan.deletions:
            slot = slot_of(columns)
            by_slot.setdefault(slot, []).append((columns, ("delete_row", (stamp, shard, slot, *columns)), 0))
        for pointer, run_id in plan.pointers.items():
            slot = slot_of(pointer)
            if run_id is None:
                step: Step = ("delete_row", (stamp, shard, slot, *pointer))
            else:
                step = ("write_pointer", (shard, slot, *pointer, run_id, stamp))
            by_slot.setdefault(slot, []).append((pointer, step, 0))
        for steps in by_slot.values():
            steps.sort(key=lambda each: each[0])  # a pointer sorts behind its runs
        await all_done(
            self._session.write(*batch)
            for steps in by_slot.values()
            for batch in batches([(step, size) for _, step, size in steps])
        )

    async def delete_histories(self, shard: ShardId, stamp: int, plan: Plan) -> None:
        await all_done(self._session.write(("delete_history", (stamp, shard, *columns))) for columns in plan.deletions)

    # --- reading --------------------------------------------------------------------------------------------------------
    async def _by_key(self, name: str, shard: ShardId, keys: Iterable[Columns]) -> list[tuple[Any, ...]]:
        by_slot: dict[int, list[Columns]] = {}
        for columns in keys:
            by_slot.setdefault(slot_of(columns), []).append(columns)
        pages = await all_done(
            self._session.read(name, shard, slot, wanted[start : start + READ_KEYS_MAX])
            for slot, wanted in by_slot.items()
            for start in range(0, len(wanted), READ_KEYS_MAX)
        )
        return [row for page in pages for row in page]

    async def load(self, shard: ShardId, keys: Iterable[Columns]) -> dict[Columns, Loaded]:
        """The rows that there are."""
        wanted = set(keys)
        found = await self._by_key("rows", shard, wanted | {pointer_of(columns) for columns in wanted})
        current = {(*row[:2], row[8]) for row in found if row[2] == POINTER}
        loaded = {}
        for row in found:
            columns: Columns = (row[0], row[1], row[2])
            if columns in wanted:
                loaded[columns] = Loaded((*row[:7], columns in current), row[7] or 0)
        return loaded

    async def current(self, shard: ShardId, workflow: Columns) -> Loaded | None:
        """The run that the pointer of `workflow` (its run id does not matter) names."""
        pointer = pointer_of(workflow)
        while rows := await self._session.read("pointer", shard, slot_of(pointer), *pointer):
            columns: Columns = (pointer[0], pointer[1], rows[0][0] or b"")
            loaded = (await self.load(shard, [columns])).get(columns)
            if loaded is None or loaded.columns[7]:
                return loaded
            # The pointer moved between the two reads: look again.
        return None

    async def histories(
        self, shard: ShardId, key: RunKey, branch: int, first_event_id: int, last_event_id: int
    ) -> list[HistoryBlob]:
        of = (shard, *key_columns(key), branch)
        begin = first_event_id
        if first_event_id > 1:  # the first wanted blob is the last one that begins at or before the first wanted event
            floor = await self._session.read("history_begin", *of, first_event_id)
            begin = floor[0][0] if floor else first_event_id
        blobs: dict[int, list[tuple[Any, ...]]] = {}
        for first, *columns in await self._session.read("history", *of, begin, last_event_id):
            blobs.setdefault(first, []).append(tuple(columns))
        found = [self._whole(shard, key, branch, first, parts) for first, parts in blobs.items()]
        return [blob for blob in found if blob.last_event_id >= first_event_id]

    def _whole(self, shard: ShardId, key: RunKey, branch: int, first: int, parts: Sequence[tuple[Any, ...]]) -> HistoryBlob:
        """Joins the parts; those beyond the count were left by a longer blob of the same name."""
        _, last, count, _ = parts[0]
        pieces = {part: data for part, _, _, data in parts}
        joined = b"".join(pieces.get(part) or b"" for part in range(count or 0))
        try:
            return HistoryBlob(key, branch, first, last, unseal(joined, history_context(shard, key, branch, first, last)))
        except DamagedFrame as damage:
            raise CorruptRecord(f"shard {shard}: history of {key} from event {first}: {damage}", key=key) from damage

    # --- lists ----------------------------------------------------------------------------------------------------------
    async def keys_after(self, shard: ShardId, after: Columns | None, limit: int) -> tuple[list[Columns], Columns | None]:
        """Up to `limit` next keys in order over all slots, and where to go on; None if there are no more."""
        # Twice a slot's share and the same again for pointers; where a slot has more, only what is certain is returned.
        share = 4 * limit // SLOTS_COUNT + 8
        place = () if after is None else after
        name = "keys" if after is None else "keys_after"
        pages = await all_done(self._session.read(name, shard, slot, *place, share) for slot in range(SLOTS_COUNT))
        found = sorted((row[0], row[1], row[2]) for page in pages for row in page)
        end = min(((page[-1][0], page[-1][1], page[-1][2]) for page in pages if len(page) == share), default=None)
        certain = [key for key in found if key[2] != POINTER and (end is None or key <= end)]
        return certain[:limit], certain[limit - 1] if len(certain) > limit else end

    async def changed_after(self, shard: ShardId, position: int, limit: int) -> list[tuple[int, Columns]]:
        """(changed_position, key) of the next `limit` rows in order, and of all others at the last one's position.

        Reads the whole shard: it serves the state transfer to a region that lags, for which an index would be dear at each
        checkpoint.
        """
        found: list[tuple[int, Columns]] = []
        for slot in range(SLOTS_COUNT):
            rows = await self._session.read("changed", shard, slot, position)
            found += [(row[0], (row[1], row[2], row[3])) for row in rows if row[3] != POINTER]
            found.sort()
            while 0 < limit < len(found) and found[-1][0] != found[limit - 1][0]:
                found.pop()
        return found


def add(page: SnapshotRows, shard: ShardId, loaded: Loaded) -> None:
    """Appends a good row to the page, or the key of a damaged one to `corrupt`."""
    try:
        page.append(snapshot(shard, loaded.columns))
    except CorruptRecord:
        page.corrupt.append(key_of(*loaded.columns[:3]))


def batches(steps: Sequence[tuple[Step, int]]) -> Iterator[list[Step]]:
    """Cuts the steps of one partition into messages. The int is a step's bytes."""
    batch: list[Step] = []
    batch_bytes = 0
    for step, size in steps:
        if batch and (len(batch) >= BATCH_STEPS_MAX or batch_bytes + size > BATCH_BYTES_MAX):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(step)
        batch_bytes += size
    if batch:
        yield batch
