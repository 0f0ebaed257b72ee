"""The tables of SQLite visibility, and which index serves which system attribute.

Namespaces and attribute names are numbers here, since they stand in every index entry. A stored attribute has a row per value
in `visibility_value`: (attribute, value) finds the runs, and the copied times put them into the order of lists, so that
`Attribute = 'x'` is one index range that is read in order and stops at a full page, however many runs have the value.
"""

from __future__ import annotations

import sqlite3

SCHEMA_VERSION = 1

_TABLES = """
CREATE TABLE IF NOT EXISTS visibility_schema (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS visibility_namespace (namespace_no INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS visibility_attribute (
    attribute_no INTEGER PRIMARY KEY,
    namespace_no INTEGER NOT NULL,
    name TEXT NOT NULL,
    kind INTEGER NOT NULL,
    UNIQUE (namespace_no, name, kind)
);
CREATE TABLE IF NOT EXISTS visibility_run (
    run INTEGER PRIMARY KEY,
    namespace_no INTEGER NOT NULL,
    workflow_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    workflow_type TEXT,
    status INTEGER NOT NULL,
    start_at INTEGER NOT NULL,
    execution_at INTEGER NOT NULL,
    close_at INTEGER NOT NULL,               -- open runs: 2^63 - 1
    duration_ns INTEGER,
    history_length INTEGER NOT NULL,
    history_bytes INTEGER NOT NULL,
    transition_count INTEGER NOT NULL,
    task_queue TEXT,
    parent_workflow_id TEXT,
    parent_run_id TEXT,
    root_workflow_id TEXT,
    root_run_id TEXT,
    is_divided INTEGER NOT NULL,             -- TemporalNamespaceDivision is set
    memo BLOB NOT NULL,
    attributes BLOB NOT NULL,                -- msgpack of name -> payload
    UNIQUE (namespace_no, workflow_id, run_id)
);
CREATE INDEX IF NOT EXISTS visibility_by_order
    ON visibility_run (namespace_no, close_at DESC, start_at DESC, is_divided);
CREATE INDEX IF NOT EXISTS visibility_by_status
    ON visibility_run (namespace_no, status, close_at DESC, start_at DESC, is_divided);
CREATE INDEX IF NOT EXISTS visibility_by_type
    ON visibility_run (namespace_no, workflow_type, close_at DESC, start_at DESC, is_divided);
CREATE INDEX IF NOT EXISTS visibility_by_start ON visibility_run (namespace_no, start_at);
CREATE INDEX IF NOT EXISTS visibility_by_run_id ON visibility_run (namespace_no, run_id);
CREATE INDEX IF NOT EXISTS visibility_by_parent ON visibility_run (namespace_no, parent_workflow_id)
    WHERE parent_workflow_id IS NOT NULL;
CREATE TABLE IF NOT EXISTS visibility_value (
    run INTEGER NOT NULL,
    attribute_no INTEGER NOT NULL,
    value NOT NULL,                          -- no affinity: text, integers and reals stay what they are
    close_at INTEGER NOT NULL,
    start_at INTEGER NOT NULL,
    PRIMARY KEY (run, attribute_no, value)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS visibility_by_value
    ON visibility_value (attribute_no, value, close_at DESC, start_at DESC);
"""

# System attribute -> index that finds its values. The unique one has no name of ours.
INDEX: dict[str, str] = {
    "WorkflowId": "sqlite_autoindex_visibility_run_1",
    "RunId": "visibility_by_run_id",
    "WorkflowType": "visibility_by_type",
    "ExecutionStatus": "visibility_by_status",
    "StartTime": "visibility_by_start",
    "ParentWorkflowId": "visibility_by_parent",
    "CloseTime": "visibility_by_order",
}


class SchemaMismatch(Exception):
    """The file was written by another version of the server."""


def create_schema(connection: sqlite3.Connection) -> None:
    """Creates the tables, or checks that they are of this version."""
    with connection:
        connection.executescript(_TABLES)
        found = connection.execute("SELECT version FROM visibility_schema").fetchone()
        if found is None:
            connection.execute("INSERT INTO visibility_schema VALUES (?)", (SCHEMA_VERSION,))
        elif found[0] != SCHEMA_VERSION:
            raise SchemaMismatch(
                f"visibility schema is version {found[0]}, this server needs {SCHEMA_VERSION}: visibility can be rebuilt from "
                "the runs, so remove its file (or its visibility_ tables) and start again"
            )
