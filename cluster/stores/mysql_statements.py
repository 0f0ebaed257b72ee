"""MySQL's and MariaDB's own statements: the fence, the group append, the slice of a checkpoint.

The fence. A write locks its shard's row (LOCK IN SHARE MODE, or FOR UPDATE where it moves the mark), `acquire` updates that
row. So `acquire` waits until a write under way is on disk, and a write that waited for `acquire` reads the row as it is then.

A transaction of several statements travels as one text, `BEGIN; ...; COMMIT`, so that no lock waits for us. It cannot branch, so
it counts the shards it may write into @held, and a guard that would insert a NULL ends it when that is not the number it needs.

Such texts hold numbers and hexadecimal literals, nothing else: there is nothing to escape and nothing to inject.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from cluster.stores.base import Lease
from cluster.stores.sql_groups import Run
from cluster.stores.sql_rows import Slice

ACQUIRE: Final = """INSERT INTO outlast_shards (shard, range_id, owner) VALUES (?, LAST_INSERT_ID(1), ?)
    ON DUPLICATE KEY UPDATE range_id = LAST_INSERT_ID(range_id + 1), owner = VALUES(owner)"""

# One record of one shard: lease and position are conditions of the insert.
APPEND: Final = """INSERT INTO outlast_journal (shard, position, data) SELECT s.shard, ?, ? FROM outlast_shards s
    WHERE s.shard = ? AND s.range_id = ? AND (s.truncated_to = ? OR EXISTS
        (SELECT 1 FROM outlast_journal p WHERE p.shard = ? AND p.position = ?)) LOCK IN SHARE MODE"""

METADATA_INSERT: Final = "INSERT INTO outlast_metadata (kind, id, version, data) VALUES (:kind, :id, 1, :data)"


def append_values(run: Run) -> tuple[Any, ...]:
    before = run.first_position - 1
    return (run.first_position, run.records[0], run.shard, run.range_id, before, run.shard, before)


def _guard(count: int) -> str:
    return f"INSERT INTO outlast_journal (shard, position, data) SELECT NULL, 0, '' FROM DUAL WHERE @held <> {count:d}"


def append_group(runs: Sequence[Run]) -> list[str]:
    """All runs or none. A position that is taken fails by the primary key."""
    heads = " UNION ALL SELECT ".join(f"{run.shard:d}, {run.range_id:d}, {run.first_position - 1:d}" for run in runs[1:])
    first = runs[0]
    head = f"SELECT {first.shard:d} AS shard, {first.range_id:d} AS range_id, {first.first_position - 1:d} AS before_it"
    heads = f"{head} UNION ALL SELECT {heads}" if heads else head
    values = ",".join(
        f"({run.shard:d},{position:d},X'{record.hex()}')"
        for run in runs
        for position, record in enumerate(run.records, run.first_position)
    )
    return [
        # In this order and by this index: a scan of the shards would wait for the locks of others.
        f"""SELECT COUNT(*) INTO @held FROM ({heads}) AS w
        STRAIGHT_JOIN outlast_shards s FORCE INDEX (PRIMARY) ON s.shard = w.shard AND s.range_id = w.range_id
        WHERE s.truncated_to = w.before_it OR EXISTS
            (SELECT 1 FROM outlast_journal p WHERE p.shard = s.shard AND p.position = w.before_it) LOCK IN SHARE MODE""",
        _guard(len(runs)),
        f"INSERT INTO outlast_journal (shard, position, data) VALUES {values}",
    ]


def checkpoint_slice(lease: Lease, part: Slice, truncate_to: int, is_last: bool) -> list[str]:
    moves_mark = is_last and truncate_to > 0
    shard = f"{lease.shard:d}"
    statements = [
        f"""SELECT COUNT(*) INTO @held FROM outlast_shards WHERE shard = {shard} AND range_id = {lease.range_id:d}
        AND {truncate_to:d} <= GREATEST(truncated_to,
            coalesce((SELECT MAX(j.position) FROM outlast_journal j WHERE j.shard = {shard}), 0))
        {"FOR UPDATE" if moves_mark else "LOCK IN SHARE MODE"}""",
        _guard(1),
    ]
    if part.histories:
        statements.append(
            f"INSERT INTO outlast_history VALUES {_tuples(lease.shard, part.histories)}"
            " ON DUPLICATE KEY UPDATE last_event_id = VALUES(last_event_id), data = VALUES(data)"
        )
    if part.rows:
        statements.append(
            f"INSERT INTO outlast_runs VALUES {_tuples(lease.shard, part.rows)} ON DUPLICATE KEY UPDATE"
            " is_open = VALUES(is_open), wake_at = VALUES(wake_at), changed_position = VALUES(changed_position),"
            " data = VALUES(data)"
        )
    if part.current:
        statements.append(
            f"INSERT INTO outlast_current VALUES {_tuples(lease.shard, part.current)}"
            " ON DUPLICATE KEY UPDATE run_id = VALUES(run_id)"
        )
    deletions = (
        ("outlast_current", part.unset),
        ("outlast_current", part.unset_if),
        ("outlast_runs", part.deletions),
        ("outlast_history", part.deletions),
    )
    statements += [f"DELETE FROM {table} WHERE {_any_of(shard, keys)}" for table, keys in deletions if keys]
    if moves_mark:
        moved = f"truncated_to = GREATEST(truncated_to, {truncate_to:d})"
        statements.append(f"UPDATE outlast_shards SET {moved} WHERE shard = {shard}")
    return statements


def _literal(value: object) -> str:
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return f"{int(value):d}"
    raise TypeError(f"no literal for {type(value).__name__}")


def _tuples(shard: int, rows: Iterable[tuple[Any, ...]]) -> str:
    return ",".join(f"({shard:d},{','.join(map(_literal, row))})" for row in rows)


def _any_of(shard: str, keys: Iterable[tuple[bytes, ...]]) -> str:
    """Rows by key, spelled out so that each is a range of the primary key."""
    columns = ("namespace_id", "workflow_id", "run_id")
    cases = (
        " AND ".join(f"{column} = {_literal(value)}" for column, value in zip(columns, key, strict=False)) for key in keys
    )
    return " OR ".join(f"(shard = {shard} AND {case})" for case in cases)
