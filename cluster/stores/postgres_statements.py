"""PostgreSQL's own statements: the fence, the group append, the slice of a checkpoint. Each is one message and one transaction.

The fence. An append locks its shard's row FOR SHARE while it writes, `acquire` updates that row. So `acquire` waits until an
append under way is on disk, and an append that waited for `acquire` looks at the row again (READ COMMITTED), finds another
range id, and writes nothing. Whoever reads after `acquire` returned sees all that former owners will ever have written.

Statements within a WITH see the tables as they were before it and run in no particular order; `sql_rows.Slice` is made so that
this does not matter.
"""

from __future__ import annotations

from typing import Final

ACQUIRE: Final = """INSERT INTO outlast_shards (shard, range_id, owner) VALUES ($1, 1, $2)
    ON CONFLICT (shard) DO UPDATE SET range_id = outlast_shards.range_id + 1, owner = excluded.owner RETURNING range_id"""

# One record of one shard: lease and position are conditions of the insert.
APPEND: Final = """WITH held AS MATERIALIZED (
        SELECT shard FROM outlast_shards s WHERE shard = $1 AND range_id = $2 AND (truncated_to = $3::bigint - 1
            OR EXISTS (SELECT 1 FROM outlast_journal p WHERE p.shard = $1 AND p.position = $3::bigint - 1)) FOR SHARE)
    INSERT INTO outlast_journal (shard, position, data) SELECT shard, $3::bigint, $4 FROM held
    ON CONFLICT DO NOTHING RETURNING shard"""

# Many shards. $1..$3: shard, range id and first position of each run; $4..$6: the records. Locks in the order of shards.
APPEND_GROUP: Final = """WITH held AS MATERIALIZED (
        SELECT s.shard FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS run (shard, range_id, first)
        JOIN outlast_shards s ON s.shard = run.shard AND s.range_id = run.range_id
        WHERE (s.truncated_to = run.first - 1
            OR EXISTS (SELECT 1 FROM outlast_journal p WHERE p.shard = run.shard AND p.position = run.first - 1))
        AND NOT EXISTS (SELECT 1 FROM outlast_journal p WHERE p.shard = run.shard AND p.position = run.first)
        ORDER BY s.shard FOR SHARE OF s)
    INSERT INTO outlast_journal (shard, position, data)
        SELECT w.shard, w.position, w.data FROM unnest($4::int[], $5::bigint[], $6::bytea[]) AS w (shard, position, data)
        WHERE w.shard IN (SELECT shard FROM held)
    ON CONFLICT DO NOTHING RETURNING shard"""

_LAST: Final = """greatest(truncated_to,
        coalesce((SELECT max(j.position) FROM outlast_journal j WHERE j.shard = $1), 0))"""
_HELD: Final = f"""SELECT shard FROM outlast_shards WHERE shard = $1 AND range_id = $2 AND $3::bigint <= {_LAST} FOR SHARE"""
_HELD_AND_MOVED: Final = f"""UPDATE outlast_shards SET truncated_to = greatest(truncated_to, $3::bigint)
        WHERE shard = $1 AND range_id = $2 AND $3::bigint <= {_LAST} RETURNING shard"""

# $1 shard, $2 range id, $3 truncate_to; then columns as arrays. Answers whether the lease held and the truncation was legal.
_SLICE: Final = """WITH held AS MATERIALIZED ({held}),
    histories AS (INSERT INTO outlast_history
        SELECT held.shard, w.* FROM held, unnest($4::bytea[], $5::bytea[], $6::bytea[], $7::int[], $8::bigint[], $9::bigint[],
            $10::bytea[]) AS w
        ON CONFLICT (shard, namespace_id, workflow_id, run_id, branch, first_event_id)
        DO UPDATE SET last_event_id = excluded.last_event_id, data = excluded.data),
    rows AS (INSERT INTO outlast_runs
        SELECT held.shard, w.* FROM held, unnest($11::bytea[], $12::bytea[], $13::bytea[], $14::bool[], $15::bigint[],
            $16::bigint[], $17::bytea[]) AS w
        ON CONFLICT (shard, namespace_id, workflow_id, run_id) DO UPDATE SET is_open = excluded.is_open,
            wake_at = excluded.wake_at, changed_position = excluded.changed_position, data = excluded.data),
    pointers AS (INSERT INTO outlast_current
        SELECT held.shard, w.* FROM held, unnest($18::bytea[], $19::bytea[], $20::bytea[]) AS w
        ON CONFLICT (shard, namespace_id, workflow_id) DO UPDATE SET run_id = excluded.run_id
        WHERE outlast_current.run_id <> excluded.run_id){deletions}
    SELECT count(*) FROM held"""
_DELETIONS: Final = """,
    unset AS (DELETE FROM outlast_current t USING held, unnest($21::bytea[], $22::bytea[]) AS w (namespace_id, workflow_id)
        WHERE t.shard = held.shard AND t.namespace_id = w.namespace_id AND t.workflow_id = w.workflow_id),
    unset_if AS (DELETE FROM outlast_current t USING held, unnest($23::bytea[], $24::bytea[], $25::bytea[])
            AS w (namespace_id, workflow_id, run_id)
        WHERE t.shard = held.shard AND t.namespace_id = w.namespace_id AND t.workflow_id = w.workflow_id
        AND t.run_id = w.run_id),
    no_rows AS (DELETE FROM outlast_runs t USING held, unnest($26::bytea[], $27::bytea[], $28::bytea[])
            AS w (namespace_id, workflow_id, run_id)
        WHERE t.shard = held.shard AND t.namespace_id = w.namespace_id AND t.workflow_id = w.workflow_id
        AND t.run_id = w.run_id),
    no_histories AS (DELETE FROM outlast_history t USING held, unnest($26::bytea[], $27::bytea[], $28::bytea[])
            AS w (namespace_id, workflow_id, run_id)
        WHERE t.shard = held.shard AND t.namespace_id = w.namespace_id AND t.workflow_id = w.workflow_id
        AND t.run_id = w.run_id)"""


def slice_statement(moves_mark: bool, has_deletions: bool) -> str:
    held = _HELD_AND_MOVED if moves_mark else _HELD
    return _SLICE.format(held=held, deletions=_DELETIONS if has_deletions else "")


METADATA_INSERT: Final = """INSERT INTO outlast_metadata (kind, id, version, data) VALUES (:kind, :id, 1, :data)
    ON CONFLICT DO NOTHING"""
