"""The visibility tables in PostgreSQL (what they are: `server_schema.py`), for `outlast schema`: `status`, `upgrade`."""

from __future__ import annotations

from typing import Final

from cluster.stores.postgres_schema import PostgresSchema
from cluster.stores.sql_schema import Steps
from cluster.visibility.server_schema import COMPONENT, SCHEMA_VERSION

# Counts read indexes alone only where vacuum has been, and plans need figures that are not too old.
_KEPT_CLEAN: Final = """autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_analyze_scale_factor = 0.05"""

STEPS: Final[Steps] = {
    1: (
        f"""CREATE TABLE outlast_visibility_runs (
            run_key bytea PRIMARY KEY, namespace_key bytea NOT NULL, namespace_id bytea NOT NULL, workflow_id bytea NOT NULL,
            run_id bytea NOT NULL, position bigint NOT NULL, stamp bigint NOT NULL, workflow_type bytea, status integer NOT NULL,
            start_at bigint NOT NULL, execution_at bigint NOT NULL, close_at bigint NOT NULL, duration_ns bigint,
            history_length bigint NOT NULL, history_bytes bigint NOT NULL, transition_count bigint NOT NULL, task_queue bytea,
            parent_workflow_id bytea, parent_run_id bytea, root_workflow_id bytea, root_run_id bytea,
            is_divided integer NOT NULL, memo bytea NOT NULL, attributes bytea NOT NULL) WITH ({_KEPT_CLEAN})""",
        "CREATE INDEX outlast_visibility_by_order ON outlast_visibility_runs (namespace_key, close_at, start_at, is_divided)",
        """CREATE INDEX outlast_visibility_by_status
            ON outlast_visibility_runs (namespace_key, status, close_at, start_at, is_divided)""",
        """CREATE INDEX outlast_visibility_by_type
            ON outlast_visibility_runs (namespace_key, workflow_type, close_at, start_at, is_divided)""",
        "CREATE INDEX outlast_visibility_by_start ON outlast_visibility_runs (namespace_key, start_at)",
        "CREATE INDEX outlast_visibility_by_workflow ON outlast_visibility_runs (namespace_key, workflow_id)",
        "CREATE INDEX outlast_visibility_by_run ON outlast_visibility_runs (namespace_key, run_id)",
        """CREATE INDEX outlast_visibility_by_parent ON outlast_visibility_runs (namespace_key, parent_workflow_id)
            WHERE parent_workflow_id IS NOT NULL""",
        f"""CREATE TABLE outlast_visibility_values (
            run_key bytea NOT NULL, attribute bigint NOT NULL, value_no integer NOT NULL, stamp bigint NOT NULL,
            head bytea NOT NULL, whole bytea, close_at bigint NOT NULL, start_at bigint NOT NULL,
            PRIMARY KEY (run_key, attribute, value_no, stamp)) WITH ({_KEPT_CLEAN})""",
        "CREATE INDEX outlast_visibility_by_value ON outlast_visibility_values (attribute, head, close_at, start_at)",
    ),
}

SCHEMA: Final = PostgresSchema(COMPONENT, SCHEMA_VERSION, STEPS)
status, upgrade = SCHEMA.status, SCHEMA.upgrade
