"""The store's tables in PostgreSQL (`status`, `upgrade`, for `outlast schema`), and how any component's tables come into
being there.

| table            | key                             | form                                                             |
|------------------|---------------------------------|------------------------------------------------------------------|
| outlast_shards   | shard                           | lease and truncation mark; pages half empty: updated in place    |
| outlast_journal  | shard, position                 | added at the end, removed as a prefix: vacuumed early; uncompressed |
| outlast_runs     | shard, namespace, workflow, run | rewritten at checkpoints; uncompressed                           |
| outlast_history  | the run, branch, first_event_id | written once; long ones compressed by PostgreSQL                 |
| outlast_current  | shard, namespace, workflow      | the current run of a workflow id                                 |
| outlast_metadata | kind, id                        | few and small                                                    |
| outlast_schema   | component                       | the version                                                      |

Keys are bytea: see `sql_rows.py`. To read them by hand: `convert_from(workflow_id, 'UTF8')`.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from cluster.stores.postgres_connection import translate
from cluster.stores.sql_schema import COMPONENT, SCHEMA_VERSION, SchemaStatus, SchemaTarget, SqlSchema, Steps, missing_steps

# Two upgrades at once, of whatever components: the second one waits for the first and finds nothing to do.
_LOCK_KEY: Final = 0x6F75746C617374  # "outlast"

STEPS: Final[Steps] = {
    1: (
        """CREATE TABLE outlast_shards (
            shard integer PRIMARY KEY, range_id bigint NOT NULL, owner bytea NOT NULL, truncated_to bigint NOT NULL DEFAULT 0)
            WITH (fillfactor = 50)""",
        """CREATE TABLE outlast_journal (
            shard integer NOT NULL, position bigint NOT NULL, data bytea NOT NULL, PRIMARY KEY (shard, position))
            WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
                  autovacuum_vacuum_insert_scale_factor = 0.5, autovacuum_analyze_scale_factor = 0.5)""",
        "ALTER TABLE outlast_journal ALTER COLUMN data SET STORAGE EXTERNAL",
        """CREATE TABLE outlast_runs (
            shard integer NOT NULL, namespace_id bytea NOT NULL, workflow_id bytea NOT NULL, run_id bytea NOT NULL,
            is_open boolean NOT NULL, wake_at bigint, changed_position bigint NOT NULL, data bytea NOT NULL,
            PRIMARY KEY (shard, namespace_id, workflow_id, run_id)) WITH (autovacuum_vacuum_scale_factor = 0.05)""",
        "ALTER TABLE outlast_runs ALTER COLUMN data SET STORAGE EXTERNAL",
        """CREATE INDEX outlast_runs_wake ON outlast_runs (shard, wake_at, namespace_id, workflow_id, run_id)
            WHERE wake_at IS NOT NULL""",
        "CREATE INDEX outlast_runs_changed ON outlast_runs (shard, changed_position)",
        """CREATE TABLE outlast_history (
            shard integer NOT NULL, namespace_id bytea NOT NULL, workflow_id bytea NOT NULL, run_id bytea NOT NULL,
            branch integer NOT NULL, first_event_id bigint NOT NULL, last_event_id bigint NOT NULL, data bytea NOT NULL,
            PRIMARY KEY (shard, namespace_id, workflow_id, run_id, branch, first_event_id))""",
        """CREATE TABLE outlast_current (
            shard integer NOT NULL, namespace_id bytea NOT NULL, workflow_id bytea NOT NULL, run_id bytea NOT NULL,
            PRIMARY KEY (shard, namespace_id, workflow_id)) WITH (fillfactor = 80)""",
        """CREATE TABLE outlast_metadata (
            kind bytea NOT NULL, id bytea NOT NULL, version bigint NOT NULL, data bytea NOT NULL, PRIMARY KEY (kind, id))""",
    ),
}


class PostgresSchema(SqlSchema[asyncpg.Connection]):
    """See `SqlSchema`. An upgrade is one transaction."""

    async def _found(self, connection: asyncpg.Connection) -> int:
        if await connection.fetchval("SELECT to_regclass('outlast_schema')") is None:
            return 0
        version = await connection.fetchval("SELECT version FROM outlast_schema WHERE component = $1", self.component)
        return int(version or 0)

    async def _upgrade(self, connection: asyncpg.Connection, target: SchemaTarget[asyncpg.Connection]) -> SchemaStatus:
        async with connection.transaction():
            await connection.execute("SET LOCAL statement_timeout = 0")  # a step may rewrite a table
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK_KEY)
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS outlast_schema (component text PRIMARY KEY, version integer NOT NULL)"
            )
            before = SchemaStatus(await self._found(connection), self.version)
            for version, statements in missing_steps(self.steps, before, target.name, self.component):
                for statement in statements:
                    await connection.execute(statement)
                await connection.execute(
                    """INSERT INTO outlast_schema VALUES ($1, $2)
                    ON CONFLICT (component) DO UPDATE SET version = excluded.version""",
                    self.component,
                    version,
                )
        return before

    def _translated(self, error: Exception, database: str, is_write: bool) -> Exception:
        return translate(error, database, is_write)


SCHEMA: Final = PostgresSchema(COMPONENT, SCHEMA_VERSION, STEPS)
status, upgrade = SCHEMA.status, SCHEMA.upgrade
