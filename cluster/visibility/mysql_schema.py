"""The visibility tables in MySQL and MariaDB (what they are: `server_schema.py`), for `outlast schema`: `status`, `upgrade`.

The columns are binary, so texts are compared byte by byte whatever the collation of the database. DDL commits by itself here, so
a step can end half done: each statement can be repeated, and the version is written last.
"""

from __future__ import annotations

from typing import Final

from cluster.stores.base import StoreUnavailable
from cluster.stores.mysql_connection import MysqlConnection, MysqlTarget, translate
from cluster.stores.sql_rows import NAMESPACE_BYTES_MAX, RUN_BYTES_MAX, WORKFLOW_BYTES_MAX
from cluster.stores.sql_schema import SchemaStatus, Steps, missing_steps
from cluster.visibility.server_schema import COMPONENT, SCHEMA_VERSION, refuse_newer_version
from cluster.visibility.stored_values import HEAD_BYTES

# Both upgrades make outlast_schema, so this is the store's lock too.
LOCK_NAME: Final = "outlast_schema"
_LOCK_WAIT_S: Final = 60
_INNODB: Final = "ENGINE = InnoDB ROW_FORMAT = DYNAMIC"
_ID: Final = f"VARBINARY({WORKFLOW_BYTES_MAX})"
_RUN: Final = f"VARBINARY({RUN_BYTES_MAX})"

_VERSIONS: Final = f"""CREATE TABLE IF NOT EXISTS outlast_schema (
    component VARCHAR(64) PRIMARY KEY, version INT NOT NULL) {_INNODB}"""
STEPS: Final[Steps] = {
    1: (
        f"""CREATE TABLE IF NOT EXISTS outlast_visibility_runs (
            run_key BINARY(16) NOT NULL PRIMARY KEY, namespace_key BINARY(16) NOT NULL,
            namespace_id VARBINARY({NAMESPACE_BYTES_MAX}) NOT NULL, workflow_id {_ID} NOT NULL, run_id {_RUN} NOT NULL,
            position BIGINT NOT NULL, stamp BIGINT NOT NULL, workflow_type {_ID}, status INT NOT NULL,
            start_at BIGINT NOT NULL, execution_at BIGINT NOT NULL, close_at BIGINT NOT NULL, duration_ns BIGINT,
            history_length BIGINT NOT NULL, history_bytes BIGINT NOT NULL, transition_count BIGINT NOT NULL, task_queue {_ID},
            parent_workflow_id {_ID}, parent_run_id {_RUN}, root_workflow_id {_ID}, root_run_id {_RUN},
            is_divided INT NOT NULL, memo LONGBLOB NOT NULL, attributes LONGBLOB NOT NULL,
            KEY outlast_visibility_by_order (namespace_key, close_at, start_at, is_divided),
            KEY outlast_visibility_by_status (namespace_key, status, close_at, start_at, is_divided),
            KEY outlast_visibility_by_type (namespace_key, workflow_type, close_at, start_at, is_divided),
            KEY outlast_visibility_by_start (namespace_key, start_at),
            KEY outlast_visibility_by_workflow (namespace_key, workflow_id),
            KEY outlast_visibility_by_run (namespace_key, run_id),
            KEY outlast_visibility_by_parent (namespace_key, parent_workflow_id)) {_INNODB}""",
        f"""CREATE TABLE IF NOT EXISTS outlast_visibility_values (
            run_key BINARY(16) NOT NULL, attribute BIGINT NOT NULL, value_no INT NOT NULL, stamp BIGINT NOT NULL,
            head VARBINARY({HEAD_BYTES}) NOT NULL, whole LONGBLOB, close_at BIGINT NOT NULL, start_at BIGINT NOT NULL,
            PRIMARY KEY (run_key, attribute, value_no, stamp),
            KEY outlast_visibility_by_value (attribute, head, close_at, start_at)) {_INNODB}""",
    ),
}


async def found_version(connection: MysqlConnection) -> int:
    tables = await connection.query("SHOW TABLES LIKE 'outlast\\_schema'")
    if not tables:
        return 0
    rows = await connection.query(f"SELECT version FROM outlast_schema WHERE component = '{COMPONENT}'")
    return int(rows[0][0]) if rows else 0


async def status(target: MysqlTarget) -> SchemaStatus:
    connection = await target.connect()
    try:
        return SchemaStatus(await found_version(connection), SCHEMA_VERSION)
    except Exception as error:
        raise translate(error, target.name, is_write=False) from error
    finally:
        connection.terminate()


async def upgrade(target: MysqlTarget) -> SchemaStatus:
    """Brings the tables to this program's version and returns what was found before."""
    connection = await target.connect()
    lock = f"SELECT GET_LOCK('{LOCK_NAME}', {int(min(_LOCK_WAIT_S, target.statement_timeout_s))})"
    try:
        if (await connection.query(lock))[0][0] != 1:
            raise StoreUnavailable(f"{target.name}: another upgrade is under way")
        before = SchemaStatus(await found_version(connection), SCHEMA_VERSION)
        refuse_newer_version(before, target.name)
        for version, statements in missing_steps(STEPS, before, target.name):
            for statement in (_VERSIONS, *statements):
                await connection.query(statement)
            await connection.query(
                f"INSERT INTO outlast_schema VALUES ('{COMPONENT}', {version}) ON DUPLICATE KEY UPDATE version = {version}"
            )
        return before
    except Exception as error:
        raise translate(error, target.name, is_write=True) from error
    finally:
        connection.terminate()  # gives the lock back
