"""What PostgreSQL and MySQL have in common between structs and columns: keys as bytes, frames, pages, slices of a checkpoint.

Keys are stored as UTF-8 bytes. Their order is then the order of code points on every server, whatever its collation, and a
zero character, which PostgreSQL's text cannot hold, is a byte like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.stores.base import (
    CorruptRecord,
    HistoryBlob,
    JournalRecord,
    MetadataRow,
    RunKey,
    ShardId,
    Snapshot,
    SnapshotRows,
)
from cluster.stores.framing import (
    DamagedFrame,
    context_of_history,
    context_of_snapshot,
    history_context,
    journal_context,
    metadata_context,
    seal,
    snapshot_context,
    unseal,
)

Row = Sequence[Any]  # one row as a driver returns it

# The longest key parts: sizes of MySQL's columns, so that each index stays below InnoDB's 3,072 bytes (PostgreSQL: 2,704).
NAMESPACE_BYTES_MAX = 255
WORKFLOW_BYTES_MAX = 1_024
RUN_BYTES_MAX = 255
METADATA_BYTES_MAX = 1_024

SHARD_MAX = (1 << 31) - 1  # an INTEGER column

# A slice of a checkpoint is one transaction; an append of the same shard waits for at most one.
SLICE_ROWS_MAX = 256
SLICE_BYTES_MAX = 1 << 20

Part = HistoryBlob | Snapshot | RunKey


# --- keys ------------------------------------------------------------------------------------------------------------
def column(text: str, bytes_max: int) -> bytes:
    """A key part as stored; ValueError if it cannot be."""
    stored = text.encode()
    if len(stored) > bytes_max:
        raise ValueError(f"a key part of {len(stored)} bytes is longer than {bytes_max}")
    return stored


def key_columns(key: RunKey) -> tuple[bytes, bytes, bytes]:
    return (
        column(key.namespace_id, NAMESPACE_BYTES_MAX),
        column(key.workflow_id, WORKFLOW_BYTES_MAX),
        column(key.run_id, RUN_BYTES_MAX),
    )


def checked_shard(shard: int) -> int:
    if not 0 <= shard <= SHARD_MAX:
        raise ValueError(f"shard {shard} is out of range")
    return shard


def text_of(stored: bytes) -> str:
    """A damaged key must not make a whole list unreadable: its row then fails its checksum and is named in `corrupt`."""
    return stored.decode("utf-8", "replace")


def key_of(namespace_id: bytes, workflow_id: bytes, run_id: bytes) -> RunKey:
    return RunKey(text_of(namespace_id), text_of(workflow_id), text_of(run_id))


# --- checkpoints -----------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Slice:
    """A part of a checkpoint, resolved so that its statements may run in any order: no key is written twice, and none both
    written and deleted. The pointers of `current`, `unset` and `unset_if` are three sets without a common member.
    """

    histories: list[tuple[Any, ...]] = field(default_factory=list)  # namespace, workflow, run, branch, first, last, sealed
    rows: list[tuple[Any, ...]] = field(default_factory=list)  # namespace, workflow, run, is_open, wake_at, changed, sealed
    current: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)  # pointers to move
    unset: list[tuple[bytes, bytes]] = field(default_factory=list)  # pointers to drop, whatever they name
    unset_if: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)  # pointers to drop if they name this run
    deletions: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)  # runs to drop with their histories
    payload_bytes: int = 0


def slices(shard: ShardId, parts: Sequence[Part]) -> Iterator[Slice]:
    """Cuts a checkpoint in order; at least one slice, since an empty checkpoint still checks its lease."""
    start, size = 0, 0
    for place, part in enumerate(parts):
        if place > start and (place - start >= SLICE_ROWS_MAX or size + _size(part) > SLICE_BYTES_MAX):
            yield _resolved(shard, parts[start:place])
            start, size = place, 0
        size += _size(part)
    yield _resolved(shard, parts[start:])


def _size(part: Part) -> int:
    return 0 if isinstance(part, RunKey) else len(part.data)


def _resolved(shard: ShardId, parts: Sequence[Part]) -> Slice:
    deleted = {part for part in parts if isinstance(part, RunKey)}
    histories: dict[tuple[RunKey, int, int], HistoryBlob] = {}
    rows: dict[RunKey, Snapshot] = {}
    pointers: dict[tuple[str, str], RunKey] = {}
    for part in parts:
        if isinstance(part, HistoryBlob):
            histories[part.key, part.branch, part.first_event_id] = part
        elif isinstance(part, Snapshot):
            rows[part.key] = part
            if part.is_current:
                pointers[part.key.namespace_id, part.key.workflow_id] = part.key
    return Slice(
        histories=[
            (
                *key_columns(blob.key),
                blob.branch,
                blob.first_event_id,
                blob.last_event_id,
                seal(blob.data, context_of_history(shard, blob)),
            )
            for blob in histories.values()
            if blob.key not in deleted
        ],
        rows=[
            (
                *key_columns(row.key),
                row.is_open,
                row.wake_at,
                row.changed_position,
                seal(row.data, context_of_snapshot(shard, row)),
            )
            for row in rows.values()
            if row.key not in deleted
        ],
        current=[key_columns(key) for key in pointers.values() if key not in deleted],
        unset=[key_columns(key)[:2] for key in pointers.values() if key in deleted],
        unset_if=[key_columns(key) for key in deleted if (key.namespace_id, key.workflow_id) not in pointers],
        deletions=[key_columns(key) for key in deleted],
        payload_bytes=sum(_size(part) for part in parts),
    )


# --- rows to structs -------------------------------------------------------------------------------------------------
def records(shard: ShardId, after: int, rows: Sequence[Row]) -> list[JournalRecord]:
    """`rows`: truncation mark, position, sealed; in order."""
    found: list[JournalRecord] = []
    expected = max(after, rows[0][0]) + 1 if rows else 0
    for _, position, stored in rows:
        if position != expected:
            raise CorruptRecord(f"journal of shard {shard}: record {expected} is missing", position=expected)
        try:
            found.append(JournalRecord(position, unseal(stored, journal_context(shard, position))))
        except DamagedFrame as damage:
            raise CorruptRecord(f"journal of shard {shard}: record {position}: {damage}", position=position) from damage
        expected += 1
    return found


def snapshot(shard: ShardId, row: Row) -> Snapshot:
    """`row`: namespace, workflow, run, is_open, wake_at, changed, sealed, is_current."""
    namespace_id, workflow_id, run_id, is_open, wake_at, changed_position, stored, is_current = row
    key = key_of(namespace_id, workflow_id, run_id)
    try:
        data = unseal(stored, snapshot_context(shard, key, is_open, wake_at, changed_position))
    except DamagedFrame as damage:
        raise CorruptRecord(f"shard {shard}: row of {key}: {damage}", key=key) from damage
    return Snapshot(key, data, bool(is_current), bool(is_open), wake_at, changed_position)


def add_snapshots(page: SnapshotRows, shard: ShardId, rows: Sequence[Row]) -> None:
    """Appends the good rows, and the keys of the damaged ones to `corrupt`."""
    for row in rows:
        try:
            page.append(snapshot(shard, row))
        except CorruptRecord as damage:
            assert damage.key is not None
            page.corrupt.append(damage.key)


def blobs(shard: ShardId, key: RunKey, branch: int, rows: Sequence[Row]) -> list[HistoryBlob]:
    """`rows`: first, last, sealed; in order."""
    found = []
    for first, last, stored in rows:
        try:
            data = unseal(stored, history_context(shard, key, branch, first, last))
        except DamagedFrame as damage:
            raise CorruptRecord(f"shard {shard}: history of {key} from event {first}: {damage}", key=key) from damage
        found.append(HistoryBlob(key, branch, first, last, data))
    return found


def metadata(kind: str, row: Row) -> MetadataRow:
    """`row`: id, version, sealed."""
    id, version, stored = text_of(row[0]), row[1], row[2]
    try:
        return MetadataRow(kind, id, version, unseal(stored, metadata_context(kind, id, version)))
    except DamagedFrame as damage:
        raise CorruptRecord(f"metadata {kind} {id}: {damage}") from damage
