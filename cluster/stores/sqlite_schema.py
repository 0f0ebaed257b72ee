"""The tables of the SQLite store, their version, and how a connection to them is set up.

| table    | key                                        | form                                                             |
|----------|--------------------------------------------|------------------------------------------------------------------|
| shards   | shard                                      | lease and truncation mark, one small row each                    |
| journal  | shard << 40 or position, as the row id     | one B-tree keyed by an integer, appended at its shard's end      |
| runs     | shard, namespace_id, workflow_id, run_id   | row-id table: rows are often larger than the 1 kB that a WITHOUT |
| history  | the run, branch, first_event_id            | ROWID page keeps inline, and secondary indexes stay narrow       |
| current  | shard, namespace_id, workflow_id           | WITHOUT ROWID: a key and a run id                                |
| metadata | kind, id                                   | WITHOUT ROWID: few and small                                     |

`runs_wake` is partial (a run that never wakes costs nothing) and holds the whole key, so that `due` has one total order that
pages can be cut in, also when a million runs share wake_at = 0.
"""

from __future__ import annotations

import sqlite3
from typing import Final, Literal

from cluster.stores.base import SchemaMismatch

SyncMode = Literal["full", "normal"]

SCHEMA_VERSION: Final = 1
COMPONENT: Final = "store"  # another component may keep tables and a version of its own in the same file

POSITION_BITS: Final = 40  # 10^12 appends per shard: 30 years at 1,000 appends a second
SHARD_MAX: Final = (1 << (63 - POSITION_BITS)) - 1

_TABLES: Final = """
CREATE TABLE shards (
    shard INTEGER PRIMARY KEY, range_id INTEGER NOT NULL, owner TEXT NOT NULL, truncated_to INTEGER NOT NULL DEFAULT 0);
CREATE TABLE journal (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE runs (
    shard INTEGER NOT NULL, namespace_id TEXT NOT NULL, workflow_id TEXT NOT NULL, run_id TEXT NOT NULL,
    is_open INTEGER NOT NULL, wake_at INTEGER, changed_position INTEGER NOT NULL, data BLOB NOT NULL,
    UNIQUE (shard, namespace_id, workflow_id, run_id));
CREATE INDEX runs_wake ON runs (shard, wake_at, namespace_id, workflow_id, run_id) WHERE wake_at IS NOT NULL;
CREATE INDEX runs_changed ON runs (shard, changed_position);
CREATE TABLE history (
    shard INTEGER NOT NULL, namespace_id TEXT NOT NULL, workflow_id TEXT NOT NULL, run_id TEXT NOT NULL,
    branch INTEGER NOT NULL, first_event_id INTEGER NOT NULL, last_event_id INTEGER NOT NULL, data BLOB NOT NULL,
    UNIQUE (shard, namespace_id, workflow_id, run_id, branch, first_event_id));
CREATE TABLE current (
    shard INTEGER NOT NULL, namespace_id TEXT NOT NULL, workflow_id TEXT NOT NULL, run_id TEXT NOT NULL,
    PRIMARY KEY (shard, namespace_id, workflow_id)) WITHOUT ROWID;
CREATE TABLE metadata (
    kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID;
"""


def _text(raw: bytes) -> str:
    """A damaged key must not make a whole list unreadable: its row then fails its checksum and is named in `corrupt`."""
    return raw.decode("utf-8", "replace")


def connect(path: str, sync: SyncMode, busy_timeout_ms: int, cache_kib: int, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode (every transaction in this package is opened by name)."""
    connection = sqlite3.connect(
        path, timeout=busy_timeout_ms / 1000, isolation_level=None, check_same_thread=False, cached_statements=64
    )
    try:
        connection.text_factory = _text
        if path != ":memory:":
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {'FULL' if sync == 'full' else 'NORMAL'}")
            # 8 MB of log between two transfers to the main file, and no more than 64 MB kept after a burst.
            connection.execute("PRAGMA wal_autocheckpoint = 2000")
            connection.execute("PRAGMA journal_size_limit = 67108864")
        connection.execute(f"PRAGMA cache_size = -{cache_kib}")
        connection.execute("PRAGMA temp_store = MEMORY")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def create_or_check(connection: sqlite3.Connection, path: str) -> None:
    """Creates the tables in a new file; raises SchemaMismatch for those of another version. Safe against a second process."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS outlast_schema (component TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID"
        )
        found = connection.execute("SELECT version FROM outlast_schema WHERE component = ?", (COMPONENT,)).fetchone()
        if found is None:
            for statement in _TABLES.split(";\n"):
                connection.execute(statement)
            connection.execute("INSERT INTO outlast_schema VALUES (?, ?)", (COMPONENT, SCHEMA_VERSION))
        elif found[0] != SCHEMA_VERSION:
            raise SchemaMismatch(
                f"{path} has store schema version {found[0]}, this program needs {SCHEMA_VERSION}: stop every process that uses"
                " the file, make a copy of it, and run `outlast schema upgrade` (with the newer of the two programs)"
            )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
