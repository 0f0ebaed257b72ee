"""The visibility tables in MySQL and MariaDB (what they are: `server_schema.py`), for `outlast schema`: `status`, `upgrade`.

The columns are binary, so texts are compared byte by byte whatever the collation of the database. Each statement can be repeated:
DDL commits by itself here, so a step can end half done.
"""

from __future__ import annotations

from typing import Final

from cluster.stores.mysql_schema import INNODB, MysqlSchema
from cluster.stores.sql_rows import NAMESPACE_BYTES_MAX, RUN_BYTES_MAX, WORKFLOW_BYTES_MAX
from cluster.stores.sql_schema import Steps
from cluster.visibility.server_schema import COMPONENT, SCHEMA_VERSION
from cluster.visibility.stored_values import HEAD_BYTES

_ID: Final = f"VARBINARY({WORKFLOW_BYTES_MAX})"
_RUN: Final = f"VARBINARY({RUN_BYTES_MAX})"

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
            KEY outlast_visibility_by_parent (namespace_key, parent_workflow_id)) {INNODB}""",
        f"""CREATE TABLE IF NOT EXISTS outlast_visibility_values (
            run_key BINARY(16) NOT NULL, attribute BIGINT NOT NULL, value_no INT NOT NULL, stamp BIGINT NOT NULL,
            head VARBINARY({HEAD_BYTES}) NOT NULL, whole LONGBLOB, close_at BIGINT NOT NULL, start_at BIGINT NOT NULL,
            PRIMARY KEY (run_key, attribute, value_no, stamp),
            KEY outlast_visibility_by_value (attribute, head, close_at, start_at)) {INNODB}""",
    ),
}

SCHEMA: Final = MysqlSchema(COMPONENT, SCHEMA_VERSION, STEPS)
status, upgrade = SCHEMA.status, SCHEMA.upgrade
