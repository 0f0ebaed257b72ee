"""The store's tables in MySQL and MariaDB (`status`, `upgrade`, for `outlast schema`), and how any component's tables come into
being there.

The same tables as in PostgreSQL (`postgres_schema.py`); keys are VARBINARY, compared byte by byte. InnoDB keeps a table in
the order of its primary key, so a run's blobs lie together and a shard's journal is appended at one place.

DDL commits by itself here, so a step can end half done: each statement can be repeated, and the version is written last.
"""

from __future__ import annotations

from typing import Final

from cluster.stores.base import StoreUnavailable
from cluster.stores.mysql_connection import MysqlConnection, translate
from cluster.stores.sql_rows import METADATA_BYTES_MAX, NAMESPACE_BYTES_MAX, RUN_BYTES_MAX, WORKFLOW_BYTES_MAX
from cluster.stores.sql_schema import COMPONENT, SCHEMA_VERSION, SchemaStatus, SchemaTarget, SqlSchema, Steps, missing_steps

LOCK_NAME: Final = "outlast_schema"  # one for all components, since every upgrade makes this table
_LOCK_WAIT_S: Final = 60
INNODB: Final = "ENGINE = InnoDB ROW_FORMAT = DYNAMIC"
_KEY: Final = f"""shard INT NOT NULL, namespace_id VARBINARY({NAMESPACE_BYTES_MAX}) NOT NULL,
    workflow_id VARBINARY({WORKFLOW_BYTES_MAX}) NOT NULL, run_id VARBINARY({RUN_BYTES_MAX}) NOT NULL"""

_VERSIONS: Final = f"""CREATE TABLE IF NOT EXISTS outlast_schema (
    component VARCHAR(64) PRIMARY KEY, version INT NOT NULL) {INNODB}"""
STEPS: Final[Steps] = {
    1: (
        f"""CREATE TABLE IF NOT EXISTS outlast_shards (shard INT NOT NULL PRIMARY KEY, range_id BIGINT NOT NULL,
            owner VARBINARY(255) NOT NULL, truncated_to BIGINT NOT NULL DEFAULT 0) {INNODB}""",
        f"""CREATE TABLE IF NOT EXISTS outlast_journal (shard INT NOT NULL, position BIGINT NOT NULL, data LONGBLOB NOT NULL,
            PRIMARY KEY (shard, position)) {INNODB}""",
        f"""CREATE TABLE IF NOT EXISTS outlast_runs ({_KEY}, is_open TINYINT NOT NULL, wake_at BIGINT,
            changed_position BIGINT NOT NULL, data LONGBLOB NOT NULL,
            PRIMARY KEY (shard, namespace_id, workflow_id, run_id),
            KEY outlast_runs_wake (shard, wake_at, namespace_id, workflow_id, run_id),
            KEY outlast_runs_changed (shard, changed_position)) {INNODB}""",
        f"""CREATE TABLE IF NOT EXISTS outlast_history ({_KEY}, branch INT NOT NULL, first_event_id BIGINT NOT NULL,
            last_event_id BIGINT NOT NULL, data LONGBLOB NOT NULL,
            PRIMARY KEY (shard, namespace_id, workflow_id, run_id, branch, first_event_id)) {INNODB}""",
        f"""CREATE TABLE IF NOT EXISTS outlast_current ({_KEY}, PRIMARY KEY (shard, namespace_id, workflow_id)) {INNODB}""",
        f"""CREATE TABLE IF NOT EXISTS outlast_metadata (kind VARBINARY(255) NOT NULL,
            id VARBINARY({METADATA_BYTES_MAX}) NOT NULL, version BIGINT NOT NULL, data LONGBLOB NOT NULL,
            PRIMARY KEY (kind, id)) {INNODB}""",
    ),
}


class MysqlSchema(SqlSchema[MysqlConnection]):
    """See `SqlSchema`. The lock of an upgrade ends with its connection."""

    async def _found(self, connection: MysqlConnection) -> int:
        if not await connection.query("SHOW TABLES LIKE 'outlast\\_schema'"):
            return 0
        rows = await connection.query(f"SELECT version FROM outlast_schema WHERE component = '{self.component}'")
        return int(rows[0][0]) if rows else 0

    async def _upgrade(self, connection: MysqlConnection, target: SchemaTarget[MysqlConnection]) -> SchemaStatus:
        lock = f"SELECT GET_LOCK('{LOCK_NAME}', {int(min(_LOCK_WAIT_S, target.statement_timeout_s))})"
        if (await connection.query(lock))[0][0] != 1:
            raise StoreUnavailable(f"{target.name}: another upgrade is under way")
        before = SchemaStatus(await self._found(connection), self.version)
        for version, statements in missing_steps(self.steps, before, target.name, self.component):
            for statement in (_VERSIONS, *statements):
                await connection.query(statement)
            row = f"('{self.component}', {version})"
            await connection.query(f"INSERT INTO outlast_schema VALUES {row} ON DUPLICATE KEY UPDATE version = {version}")
        return before

    def _translated(self, error: Exception, database: str, is_write: bool) -> Exception:
        return translate(error, database, is_write)


SCHEMA: Final = MysqlSchema(COMPONENT, SCHEMA_VERSION, STEPS)
status, upgrade = SCHEMA.status, SCHEMA.upgrade
