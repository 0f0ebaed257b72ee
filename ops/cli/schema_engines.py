"""Which module keeps the tables of which engine: one row per kind of store and of visibility store.

| kind      | tables of the store                 | tables of visibility                    | made by                  |
|-----------|-------------------------------------|-----------------------------------------|--------------------------|
| sqlite    | cluster/stores/sqlite_schema.py     | cluster/visibility/sqlite_schema.py     | the first start          |
| postgres  | cluster/stores/postgres_schema.py   | cluster/visibility/postgres_schema.py   | `outlast schema upgrade` |
| mysql     | cluster/stores/mysql_schema.py      | cluster/visibility/mysql_schema.py      | `outlast schema upgrade` |
| cassandra | cluster/stores/cassandra_schema.py  | another engine's                        | `outlast schema upgrade` |

The modules of servers have `status(target)` and `upgrade(target)`, which may run at several places at once. Files need no upgrade
yet: there has been one version of them.
"""

from __future__ import annotations

import importlib
import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from cluster.engines import ssl_context
from cluster.node_config import MEMORY, StoreConfig, VisibilityConfig
from cluster.stores.base import StoreUnavailable
from cluster.stores.sql_schema import SchemaStatus

Config = StoreConfig | VisibilityConfig


class Component(msgspec.Struct, frozen=True):
    """Tables that have a version. database: for people, without secrets. found 0: no tables."""

    component: str
    kind: str
    database: str
    found: int
    needed: int

    @property
    def fits(self) -> bool:
        """Or will by itself: the first start makes the tables of a file."""
        return self.found == self.needed or (self.kind == "sqlite" and self.found == 0)

    @property
    def advice(self) -> str:
        if self.found == self.needed:
            return "fits this program"
        if self.found > self.needed:
            return "made by a newer Outlast: run that version, or a newer one; this program cannot go back"
        if self.kind != "sqlite":
            return "stop every node of the database, back it up, and run `outlast schema upgrade`" if self.found else UPGRADE
        return "older than any version this program can upgrade" if self.found else "no tables yet: the first start makes them"


UPGRADE = "no tables yet: run `outlast schema upgrade`"


async def status(component: str, config: Config) -> Component:
    """component: store or visibility. Raises StoreError, ValueError for a url that cannot be read."""
    if config.kind in ("memory", "sqlite"):
        return _of_file(component, config.url)
    module, target = _module(component, config.kind), _target(config)
    return _component(component, config.kind, target.name, await module.status(target))


async def upgrade(component: str, config: Config) -> Component:
    """Brings the tables to the version needed: what was found before. Raises StoreError, ValueError."""
    if config.kind in ("memory", "sqlite"):
        return _of_file(component, config.url)
    module, target = _module(component, config.kind), _target(config)
    return _component(component, config.kind, target.name, await module.upgrade(target))


def _module(component: str, kind: str) -> Any:
    package = "cluster.stores" if component == "store" else "cluster.visibility"
    return importlib.import_module(f"{package}.{kind}_schema")


def _target(config: Config) -> Any:
    """What the engine's module is called with. Only the engine that is used is imported."""
    context, timeout_s = ssl_context(config.tls), config.statement_timeout_s
    match config.kind:
        case "postgres":
            from cluster.stores.postgres_connection import PostgresTarget

            return PostgresTarget(config.url, timeout_s, ssl=context, is_flush_required=False)
        case "mysql":
            from cluster.stores.mysql_connection import MysqlTarget

            return MysqlTarget(config.url, timeout_s, ssl=context, is_flush_required=False)
        case "cassandra":
            from cluster.stores.cassandra_connection import CassandraTarget

            return CassandraTarget.from_url(config.url, context)
    raise ValueError(f"there are no tables of kind {config.kind!r}")


def _component(component: str, kind: str, database: str, status: SchemaStatus) -> Component:
    return Component(component, kind, database, status.found, status.needed)


# --- files ---
def _of_file(component: str, path: str) -> Component:
    """Raises StoreUnavailable for a file that is no database."""
    from cluster.stores import sqlite_schema as store
    from cluster.visibility import sqlite_schema as visibility

    if component == "store":
        query = f"SELECT version FROM outlast_schema WHERE component = '{store.COMPONENT}'"
        return Component(component, "sqlite", path, _version_of_file(path, query), store.SCHEMA_VERSION)
    found = _version_of_file(path, "SELECT version FROM visibility_schema")
    return Component(component, "sqlite", path, found, visibility.SCHEMA_VERSION)


def _version_of_file(path: str, query: str) -> int:
    if path == MEMORY or not Path(path).exists():
        return 0
    try:
        connection = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)
        try:
            row = connection.execute(query).fetchone()
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return 0
        raise StoreUnavailable(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreUnavailable(f"{path} is not an SQLite database: {error}") from error
    return int(row[0]) if row is not None else 0
