"""What the SQLite store does within one transaction: statements, and rows to structs and back. Synchronous, no threads.

Every function takes a connection first and runs in a lane of `sqlite_threads.py`. The lease is checked by the same transaction
that writes (BEGIN IMMEDIATE), so the fence also holds between two processes that opened the same file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from cluster.stores.base import (
    CorruptRecord,
    HistoryBlob,
    JournalRecord,
    Lease,
    LeaseLost,
    MetadataRow,
    RunKey,
    ShardId,
    Snapshot,
    SnapshotRows,
    StoreDamaged,
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
from cluster.stores.sqlite_schema import POSITION_BITS, SHARD_MAX
from cluster.stores.sqlite_threads import translate

_POSITION_MASK: Final = (1 << POSITION_BITS) - 1

# How many journal records one transaction removes: a truncation of 20,000 must not make the next append wait for all.
TRUNCATE_STEP_COUNT: Final = 1_000

_ACQUIRE: Final = """INSERT INTO shards (shard, range_id, owner) VALUES (?, 1, ?)
    ON CONFLICT (shard) DO UPDATE SET range_id = range_id + 1, owner = excluded.owner RETURNING range_id"""
# Lease and position are part of the insert, so an append is one statement; no counter beside it, so it is one page.
_APPEND: Final = """INSERT OR IGNORE INTO journal (id, data) SELECT ?1, ?2 FROM shards WHERE shard = ?3 AND range_id = ?4
    AND (truncated_to = ?5 - 1 OR EXISTS (SELECT 1 FROM journal WHERE id = ?1 - 1))"""
_BOUNDS: Final = """SELECT range_id, truncated_to,
    (SELECT id FROM journal WHERE id BETWEEN ?2 AND ?3 ORDER BY id DESC LIMIT 1) FROM shards WHERE shard = ?1"""
_WRITE_HISTORY: Final = """INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET last_event_id = excluded.last_event_id, data = excluded.data"""
_WRITE_RUN: Final = """INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET is_open = excluded.is_open, wake_at = excluded.wake_at,
    changed_position = excluded.changed_position, data = excluded.data"""
_WRITE_CURRENT: Final = "INSERT INTO current VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET run_id = excluded.run_id"
_OF_RUN: Final = "WHERE shard = ? AND namespace_id = ? AND workflow_id = ? AND run_id = ?"
_TRUNCATE: Final = """DELETE FROM journal WHERE id IN
    (SELECT id FROM journal WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?)"""

_SNAPSHOT: Final = """SELECT r.namespace_id, r.workflow_id, r.run_id, r.is_open, r.wake_at, r.changed_position, r.data,
    EXISTS (SELECT 1 FROM current c WHERE c.shard = r.shard AND c.namespace_id = r.namespace_id
            AND c.workflow_id = r.workflow_id AND c.run_id = r.run_id) FROM runs r """
_LOAD: Final = _SNAPSHOT + "WHERE r.shard = ? AND r.namespace_id = ? AND r.workflow_id = ? AND r.run_id = ?"
_DUE: Final = _SNAPSHOT + "WHERE r.shard = ? AND r.wake_at <= ? {} ORDER BY r.wake_at, r.namespace_id, r.workflow_id, r.run_id"
_DUE_FIRST: Final = _DUE.format("")
_DUE_AFTER: Final = _DUE.format("AND (r.wake_at, r.namespace_id, r.workflow_id, r.run_id) > (?, ?, ?, ?)")
_CHANGED: Final = _SNAPSHOT + "WHERE r.shard = ? AND r.changed_position > ? ORDER BY r.changed_position"
_RUNS: Final = _SNAPSHOT + "WHERE r.shard = ? {} ORDER BY r.namespace_id, r.workflow_id, r.run_id"
_RUNS_FIRST: Final = _RUNS.format("")
_RUNS_AFTER: Final = _RUNS.format("AND (r.namespace_id, r.workflow_id, r.run_id) > (?, ?, ?)")
# Blobs of a branch do not overlap, so the first wanted one is the last that begins at or before the first wanted event.
_HISTORY: Final = f"""SELECT first_event_id, last_event_id, data FROM history {_OF_RUN} AND branch = ?5 AND first_event_id <= ?7
    AND last_event_id >= ?6 AND ?6 <= ?7 AND first_event_id >= coalesce((SELECT max(first_event_id) FROM history
        WHERE shard = ?1 AND namespace_id = ?2 AND workflow_id = ?3 AND run_id = ?4 AND branch = ?5 AND first_event_id <= ?6), ?6)
    ORDER BY first_event_id"""


# --- shards ----------------------------------------------------------------------------------------------------------
def journal_id(shard: ShardId, position: int) -> int:
    if not 0 <= shard <= SHARD_MAX or not 0 <= position <= _POSITION_MASK:
        raise ValueError(f"shard {shard} or position {position} is out of range")
    return shard << POSITION_BITS | position


def acquire(connection: sqlite3.Connection, shard: ShardId, owner: str) -> Lease:
    journal_id(shard, 0)
    ((range_id,),) = connection.execute(_ACQUIRE, (shard, owner)).fetchall()
    return Lease(shard, range_id, owner)


def append(connection: sqlite3.Connection, lease: Lease, position: int, sealed: bytes) -> None:
    values = (journal_id(lease.shard, position), sealed, lease.shard, lease.range_id, position)
    if connection.execute(_APPEND, values).rowcount != 1:
        raise LeaseLost(f"shard {lease.shard}: range {lease.range_id} is fenced, or {position} is not the next position")


def read_journal(connection: sqlite3.Connection, shard: ShardId, after: int, limit: int) -> list[JournalRecord]:
    with_end = journal_id(shard, _POSITION_MASK)
    connection.execute("BEGIN")  # mark and records from one moment, or a truncation in between looks like a gap
    try:
        mark = connection.execute("SELECT truncated_to FROM shards WHERE shard = ?", (shard,)).fetchone()
        start = max(after, mark[0] if mark else 0)
        rows = connection.execute(
            "SELECT id, data FROM journal WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
            (journal_id(shard, min(start, _POSITION_MASK)), with_end, limit),
        ).fetchall()
    finally:
        connection.execute("COMMIT")
    records = []
    for position, (id, stored) in enumerate(rows, start + 1):
        if id & _POSITION_MASK != position:
            raise CorruptRecord(f"journal of shard {shard}: record {position} is missing", position=position)
        try:
            records.append(JournalRecord(position, unseal(stored, journal_context(shard, position))))
        except DamagedFrame as damage:
            raise CorruptRecord(f"journal of shard {shard}: record {position}: {damage}", position=position) from damage
    return records


def _shard_state(connection: sqlite3.Connection, shard: ShardId) -> tuple[int, int, int]:
    """(range_id, truncated_to, last_position)."""
    row = connection.execute(_BOUNDS, (shard, journal_id(shard, 1), journal_id(shard, _POSITION_MASK))).fetchone()
    if row is None:
        return 0, 0, 0
    range_id, truncated_to, last_id = row
    return range_id, truncated_to, max(truncated_to, 0 if last_id is None else last_id & _POSITION_MASK)


def journal_bounds(connection: sqlite3.Connection, shard: ShardId) -> tuple[int, int]:
    return _shard_state(connection, shard)[1:]


# --- checkpoint ------------------------------------------------------------------------------------------------------
def write_slice(
    connection: sqlite3.Connection,
    lease: Lease,
    histories: Sequence[HistoryBlob],
    snapshots: Sequence[Snapshot],
    deletions: Sequence[RunKey],
    truncate_to: int,
    is_last: bool,
) -> None:
    """A slice of a checkpoint. The last one moves the truncation mark; the records go later (`remove_truncated`)."""
    shard = lease.shard
    range_id, truncated_to, last_position = _shard_state(connection, shard)
    if range_id == 0 or range_id != lease.range_id:
        raise LeaseLost(f"shard {shard}: range {lease.range_id} is fenced by {range_id}")
    if truncate_to > last_position:
        raise ValueError(f"truncate_to {truncate_to} lies beyond the last position {last_position}")
    if histories:
        connection.executemany(_WRITE_HISTORY, [_history_values(shard, blob) for blob in histories])
    if snapshots:
        connection.executemany(_WRITE_RUN, [_run_values(shard, row) for row in snapshots])
        current = [(shard, *_names(row.key)) for row in snapshots if row.is_current]
        connection.executemany(_WRITE_CURRENT, current)
    if deletions:
        runs = [(shard, *_names(key)) for key in deletions]
        for table in ("runs", "history", "current"):
            connection.executemany(f"DELETE FROM {table} {_OF_RUN}", runs)
    if is_last and truncate_to > truncated_to:
        connection.execute("UPDATE shards SET truncated_to = ? WHERE shard = ?", (truncate_to, shard))


def remove_truncated(connection: sqlite3.Connection, shard: ShardId) -> bool:
    """Removes a step of the records below the mark, also those that a crash left. True if there may be more of them."""
    _, truncated_to, _ = _shard_state(connection, shard)
    values = (journal_id(shard, 1), journal_id(shard, truncated_to), TRUNCATE_STEP_COUNT)
    return connection.execute(_TRUNCATE, values).rowcount == TRUNCATE_STEP_COUNT


def _names(key: RunKey) -> tuple[str, str, str]:
    return key.namespace_id, key.workflow_id, key.run_id


def _history_values(shard: ShardId, blob: HistoryBlob) -> tuple[Any, ...]:
    sealed = seal(blob.data, context_of_history(shard, blob))
    return (shard, *_names(blob.key), blob.branch, blob.first_event_id, blob.last_event_id, sealed)


def _run_values(shard: ShardId, row: Snapshot) -> tuple[Any, ...]:
    sealed = seal(row.data, context_of_snapshot(shard, row))
    return (shard, *_names(row.key), row.is_open, row.wake_at, row.changed_position, sealed)


# --- runs ------------------------------------------------------------------------------------------------------------
def _snapshot(shard: ShardId, values: tuple[Any, ...]) -> Snapshot:
    namespace_id, workflow_id, run_id, is_open, wake_at, changed_position, stored, is_current = values
    key = RunKey(namespace_id, workflow_id, run_id)
    try:
        data = unseal(stored, snapshot_context(shard, key, is_open, wake_at, changed_position))
    except DamagedFrame as damage:
        raise CorruptRecord(f"shard {shard}: row of {key}: {damage}", key=key) from damage
    return Snapshot(key, data, bool(is_current), bool(is_open), wake_at, changed_position)


def _page(shard: ShardId, rows: Iterable[tuple[Any, ...]], limit: int, whole_positions: bool = False) -> SnapshotRows:
    """Good rows up to the limit; with `whole_positions` further until the position changes."""
    page = SnapshotRows()
    if limit <= 0:
        return page
    for values in rows:
        if len(page) >= limit and not (whole_positions and values[5] == page[-1].changed_position):
            break
        try:
            page.append(_snapshot(shard, values))
        except CorruptRecord as damage:
            assert damage.key is not None
            page.corrupt.append(damage.key)
    return page


def load(connection: sqlite3.Connection, shard: ShardId, key: RunKey) -> Snapshot | None:
    try:
        found = connection.execute(_LOAD, (shard, *_names(key))).fetchone()
    except sqlite3.DatabaseError as error:
        raise _of_run(error, key) from error
    return None if found is None else _snapshot(shard, found)


def current_run(connection: sqlite3.Connection, shard: ShardId, namespace_id: str, workflow_id: str) -> Snapshot | None:
    found = connection.execute(
        "SELECT run_id FROM current WHERE shard = ? AND namespace_id = ? AND workflow_id = ?", (shard, namespace_id, workflow_id)
    ).fetchone()
    return None if found is None else load(connection, shard, RunKey(namespace_id, workflow_id, found[0]))


def history(
    connection: sqlite3.Connection, shard: ShardId, key: RunKey, branch: int, first_event_id: int, last_event_id: int
) -> list[HistoryBlob]:
    try:
        rows = connection.execute(_HISTORY, (shard, *_names(key), branch, first_event_id, last_event_id)).fetchall()
    except sqlite3.DatabaseError as error:
        raise _of_run(error, key) from error
    blobs = []
    for first, last, stored in rows:
        try:
            data = unseal(stored, history_context(shard, key, branch, first, last))
        except DamagedFrame as damage:
            raise CorruptRecord(f"shard {shard}: history of {key} from event {first}: {damage}", key=key) from damage
        blobs.append(HistoryBlob(key, branch, first, last, data))
    return blobs


def _of_run(error: sqlite3.DatabaseError, key: RunKey) -> Exception:
    """A page that SQLite cannot read hurts, when one run is asked for, that run."""
    translated = translate(error)
    return CorruptRecord(f"row of {key}: {error}", key=key) if isinstance(translated, StoreDamaged) else translated


def due(
    connection: sqlite3.Connection, shard: ShardId, until: int, limit: int, after: tuple[int, RunKey] | None
) -> SnapshotRows:
    if after is None:
        return _page(shard, connection.execute(_DUE_FIRST, (shard, until)), limit)
    wake_at, key = after
    return _page(shard, connection.execute(_DUE_AFTER, (shard, until, wake_at, *_names(key))), limit)


def next_wake_at(connection: sqlite3.Connection, shard: ShardId, after: int) -> int | None:
    found = connection.execute(
        "SELECT wake_at FROM runs WHERE shard = ? AND wake_at > ? ORDER BY wake_at LIMIT 1", (shard, after)
    ).fetchone()
    return None if found is None else int(found[0])


def changed(connection: sqlite3.Connection, shard: ShardId, after_position: int, limit: int) -> SnapshotRows:
    page = _page(shard, connection.execute(_CHANGED, (shard, after_position)), limit, whole_positions=True)
    page.sort(key=lambda row: (row.changed_position, row.key))
    return page


def runs(connection: sqlite3.Connection, shard: ShardId, after: RunKey | None, limit: int) -> SnapshotRows:
    if after is None:
        return _page(shard, connection.execute(_RUNS_FIRST, (shard,)), limit)
    return _page(shard, connection.execute(_RUNS_AFTER, (shard, *_names(after))), limit)


# --- metadata --------------------------------------------------------------------------------------------------------
def _metadata(kind: str, values: tuple[Any, ...]) -> MetadataRow:
    id, version, stored = values
    try:
        return MetadataRow(kind, id, version, unseal(stored, metadata_context(kind, id, version)))
    except DamagedFrame as damage:
        raise CorruptRecord(f"metadata {kind} {id}: {damage}") from damage


def metadata_get(connection: sqlite3.Connection, kind: str, id: str) -> MetadataRow | None:
    found = connection.execute("SELECT id, version, data FROM metadata WHERE kind = ? AND id = ?", (kind, id)).fetchone()
    return None if found is None else _metadata(kind, found)


def metadata_list(connection: sqlite3.Connection, kind: str) -> list[MetadataRow]:
    rows = connection.execute("SELECT id, version, data FROM metadata WHERE kind = ? ORDER BY id", (kind,)).fetchall()
    return [_metadata(kind, values) for values in rows]


def metadata_put(connection: sqlite3.Connection, kind: str, id: str, data: bytes, expected_version: int) -> int | None:
    version = expected_version + 1
    sealed = seal(data, metadata_context(kind, id, version))
    if expected_version == 0:
        done = connection.execute("INSERT OR IGNORE INTO metadata VALUES (?, ?, 1, ?)", (kind, id, sealed)).rowcount
    else:
        done = connection.execute(
            "UPDATE metadata SET version = ?, data = ? WHERE kind = ? AND id = ? AND version = ?",
            (version, sealed, kind, id, expected_version),
        ).rowcount
    return version if done == 1 else None


def metadata_delete(connection: sqlite3.Connection, kind: str, id: str, expected_version: int) -> bool:
    values = (kind, id, expected_version)
    return connection.execute("DELETE FROM metadata WHERE kind = ? AND id = ? AND version = ?", values).rowcount == 1
