"""Which engine a configuration names: stores and visibility stores by kind. Each is imported only when it is used.

| kind      | store                | visibility           | needs beforehand         |
|-----------|----------------------|----------------------|--------------------------|
| memory    | SqliteStore in memory | SqliteVisibility    |                          |
| sqlite    | SqliteStore          | SqliteVisibility     |                          |
| postgres  | PostgresStore        | PostgresVisibility   | `outlast schema upgrade` |
| mysql     | MysqlStore           | MysqlVisibility      | `outlast schema upgrade` |
| cassandra | CassandraStore       | one of the others    | `outlast schema upgrade` |
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Literal

from cluster.node_config import MEMORY, RegionsConfig, StoreConfig, StoreTls, VisibilityConfig

if TYPE_CHECKING:
    from cluster.stores.base import Store
    from cluster.visibility.base import VisibilityStore
    from replication.witness import Witness


def make_store(config: StoreConfig) -> Store:
    """Not yet open. Raises ValueError for a kind there is not."""
    match config.kind:
        case "memory" | "sqlite":
            from cluster.stores.sqlite import SqliteStore

            return SqliteStore(MEMORY if config.kind == "memory" else config.url, config.sync)
        case "postgres":
            from cluster.stores.postgres import PostgresStore

            return PostgresStore(config.url, _sync(config), **_sql_options(config))
        case "mysql":
            from cluster.stores.mysql import MysqlStore

            return MysqlStore(config.url, _sync(config), **_sql_options(config))
        case "cassandra":
            from cluster.stores.cassandra import CassandraStore
            from cluster.stores.cassandra_connection import CassandraTarget

            target = CassandraTarget.from_url(config.url, ssl_context(config.tls))
            return CassandraStore(target, _sync(config), request_timeout_s=config.statement_timeout_s)
    raise ValueError(f"there is no store of kind {config.kind!r}")


def make_visibility(config: VisibilityConfig) -> VisibilityStore:
    """Not yet open. Raises ValueError for a kind there is not."""
    match config.kind:
        case "memory" | "sqlite":
            from cluster.visibility.sqlite import SqliteVisibility

            return SqliteVisibility(MEMORY if config.kind == "memory" else config.url)
        case "postgres":
            from cluster.visibility.postgres import PostgresVisibility

            return PostgresVisibility(config.url, **_sql_options(config))
        case "mysql":
            from cluster.visibility.mysql import MysqlVisibility

            return MysqlVisibility(config.url, **_sql_options(config))
    raise ValueError(f"there is no visibility store of kind {config.kind!r}")


async def open_witness(config: RegionsConfig) -> Witness | None:
    """Where regions say that they live and who owns what; None: nowhere. Raises StoreError."""
    if config.witness_etcd is not None:
        from replication.witness_etcd import EtcdWitness

        return EtcdWitness(config.witness_etcd)
    if config.witness_store is not None:
        from replication.witness_store import open_witness as open_store_witness

        return await open_store_witness(make_store(config.witness_store))
    return None


def _sync(config: StoreConfig) -> Literal["full", "server"]:
    """normal: what the database server itself is set to."""
    return "full" if config.sync == "full" else "server"


def _sql_options(config: StoreConfig | VisibilityConfig) -> dict[str, Any]:
    return {
        "connections_count_max": config.connections_count_max,
        "statement_timeout_s": config.statement_timeout_s,
        "ssl_context": ssl_context(config.tls),
    }


def ssl_context(tls: StoreTls | None) -> ssl.SSLContext | None:
    if tls is None:
        return None
    context = ssl.create_default_context(cafile=tls.authority or None)
    if tls.certificate:
        context.load_cert_chain(tls.certificate, tls.key or None)
    return context
