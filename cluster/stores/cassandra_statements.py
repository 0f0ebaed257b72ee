"""Every CQL statement of the store, by name. Those with USING TIMESTAMP carry a stamp (`cassandra_fence.py`), the others with IF
are lightweight transactions. Each names its whole partition key, so none ever scans a table.
"""

from __future__ import annotations

from typing import Final

# The pointer to a workflow id's current run is a row beside its runs: no run id in UTF-8 has this byte, and it sorts behind them.
POINTER: Final = b"\xff"
# The journal's first row is the shard's head; records begin at 1.
HEAD: Final = 0

_OF_HEAD: Final = f"WHERE shard = ? AND position = {HEAD}"
_RUN: Final = "namespace_id, workflow_id, run_id"

STATEMENTS: Final[dict[str, str]] = {
    # --- the fence and the journal: one partition per shard
    "head": f"SELECT range_id, last_position, truncated_to, stamp FROM outlast_journal {_OF_HEAD}",
    "create_head": f"""INSERT INTO outlast_journal (shard, position, range_id, owner, last_position, truncated_to, stamp)
        VALUES (?, {HEAD}, 1, ?, 0, 0, 0) IF NOT EXISTS""",
    "raise_range": f"UPDATE outlast_journal SET range_id = ?, owner = ? {_OF_HEAD} IF range_id = ?",
    "advance": f"UPDATE outlast_journal SET last_position = ? {_OF_HEAD} IF range_id = ? AND last_position = ?",
    "record": "INSERT INTO outlast_journal (shard, position, data) VALUES (?, ?, ?)",
    "reserve": f"UPDATE outlast_journal SET stamp = ? {_OF_HEAD} IF range_id = ? AND last_position >= ? AND stamp < ?",
    "truncate": f"""UPDATE outlast_journal SET truncated_to = ? {_OF_HEAD}
        IF range_id = ? AND last_position >= ? AND truncated_to < ?""",
    # From the very beginning each time: a later range covers the earlier ones, so one tombstone is left of all of them.
    "cut": f"DELETE FROM outlast_journal WHERE shard = ? AND position > {HEAD} AND position <= ?",
    "records": "SELECT position, data FROM outlast_journal WHERE shard = ? AND position > ? AND position <= ? LIMIT ?",
    # --- runs: a partition per shard and slot
    "rows": f"""SELECT {_RUN}, is_open, wake_at, changed_position, data, stamp, current_run_id FROM outlast_runs
        WHERE shard = ? AND slot = ? AND ({_RUN}) IN ?""",
    "places": f"""SELECT {_RUN}, wake_at, wake_bucket, current_run_id FROM outlast_runs
        WHERE shard = ? AND slot = ? AND ({_RUN}) IN ?""",
    "pointer": """SELECT current_run_id FROM outlast_runs
        WHERE shard = ? AND slot = ? AND namespace_id = ? AND workflow_id = ? AND run_id = ?""",
    "keys": f"SELECT {_RUN} FROM outlast_runs WHERE shard = ? AND slot = ? LIMIT ?",
    "keys_after": f"SELECT {_RUN} FROM outlast_runs WHERE shard = ? AND slot = ? AND ({_RUN}) > (?, ?, ?) LIMIT ?",
    "changed": f"""SELECT changed_position, {_RUN} FROM outlast_runs
        WHERE shard = ? AND slot = ? AND changed_position > ? ALLOW FILTERING""",
    "write_row": f"""INSERT INTO outlast_runs
        (shard, slot, {_RUN}, is_open, wake_at, changed_position, data, wake_bucket, stamp)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?""",
    "write_pointer": f"""INSERT INTO outlast_runs (shard, slot, {_RUN}, current_run_id)
        VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?""",
    "delete_row": """DELETE FROM outlast_runs USING TIMESTAMP ?
        WHERE shard = ? AND slot = ? AND namespace_id = ? AND workflow_id = ? AND run_id = ?""",
    # --- history: a partition per run
    "write_history": f"""INSERT INTO outlast_history
        (shard, {_RUN}, branch, first_event_id, part, last_event_id, parts_count, data)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?""",
    "history_begin": """SELECT first_event_id FROM outlast_history
        WHERE shard = ? AND namespace_id = ? AND workflow_id = ? AND run_id = ? AND branch = ? AND first_event_id <= ?
        ORDER BY branch DESC, first_event_id DESC, part DESC LIMIT 1""",
    "history": """SELECT first_event_id, part, last_event_id, parts_count, data FROM outlast_history
        WHERE shard = ? AND namespace_id = ? AND workflow_id = ? AND run_id = ? AND branch = ?
        AND first_event_id >= ? AND first_event_id <= ?""",
    "delete_history": """DELETE FROM outlast_history USING TIMESTAMP ?
        WHERE shard = ? AND namespace_id = ? AND workflow_id = ? AND run_id = ?""",
    # --- wake-ups: a partition per shard and bucket, and the list of a shard's buckets
    "write_wakeup": f"""INSERT INTO outlast_wakeups (shard, bucket, wake_at, {_RUN}, changed_position, stamp)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?""",
    "delete_wakeup": """DELETE FROM outlast_wakeups USING TIMESTAMP ? WHERE shard = ? AND bucket = ? AND wake_at = ?
        AND namespace_id = ? AND workflow_id = ? AND run_id = ?""",
    "wakeups": f"""SELECT wake_at, {_RUN}, changed_position, stamp FROM outlast_wakeups
        WHERE shard = ? AND bucket = ? AND (wake_at, {_RUN}) > (?, ?, ?, ?) LIMIT ?""",
    "write_bucket": "INSERT INTO outlast_wake_buckets (shard, bucket, stamp) VALUES (?, ?, ?) USING TIMESTAMP ?",
    "delete_bucket": "DELETE FROM outlast_wake_buckets USING TIMESTAMP ? WHERE shard = ? AND bucket = ?",
    "buckets": "SELECT bucket, stamp FROM outlast_wake_buckets WHERE shard = ? AND bucket >= ? AND bucket <= ?",
    "some_buckets": "SELECT bucket, stamp FROM outlast_wake_buckets WHERE shard = ? AND bucket > ? AND bucket <= ? LIMIT ?",
    # --- metadata: a partition per kind
    "metadata_get": "SELECT id, version, data FROM outlast_metadata WHERE kind = ? AND id = ?",
    "metadata_list": "SELECT id, version, data FROM outlast_metadata WHERE kind = ?",
    "metadata_insert": "INSERT INTO outlast_metadata (kind, id, version, data) VALUES (?, ?, 1, ?) IF NOT EXISTS",
    "metadata_update": "UPDATE outlast_metadata SET version = ?, data = ? WHERE kind = ? AND id = ? IF version = ?",
    "metadata_delete": "DELETE FROM outlast_metadata WHERE kind = ? AND id = ? IF version = ?",
}
