"""The shapes that the suite runs on: which engine, how many nodes, how many processes. Each starts what it needs by itself.

Chosen by `pytest --shape NAME` or OUTLAST_TEST_SHAPE; without either it is `dev`, the one that users meet first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from chaos.cluster.region import start_one_after_another
from cluster.node_config import StoreConfig, StoreKind
from ops.cluster_servers import ClusterServers
from ops.servers import OutlastServer
from ops.services.databases import Database, engine_server, fresh_database
from ops.services.etcd import EtcdServer
from tests.e2e.stored_states import disagreements

SHARDS_ALONE, SHARDS_OF_CLUSTER = 4, 12
KINDS: dict[str, StoreKind] = {"sqlite": "sqlite", "postgres": "postgres", "mariadb": "mysql", "cassandra": "cassandra"}


@dataclass(frozen=True)
class Shape:
    """nodes > 1: processes of their own, with etcd. processes > 1: one machine, one port, no etcd."""

    name: str
    engine: str
    nodes: int = 1
    processes: int = 1

    @property
    def shards(self) -> int:
        return SHARDS_OF_CLUSTER if self.nodes > 1 or self.processes > 1 else SHARDS_ALONE


DEV = Shape("dev", "sqlite")
_ALL = (
    Shape("memory", "memory"),
    Shape("sqlite", "sqlite"),
    Shape("postgres", "postgres"),
    Shape("mariadb", "mariadb"),
    Shape("cassandra", "cassandra"),
    Shape("postgres-3", "postgres", nodes=3),
    Shape("cassandra-3", "cassandra", nodes=3),
    Shape("sqlite-p2", "sqlite", processes=2),
    Shape("postgres-p2", "postgres", processes=2),
)
SHAPES = {shape.name: shape for shape in (DEV, *_ALL)}


@dataclass
class Running:
    """A shape that runs. `addresses`: one per client that a run of the suite shall have."""

    shape: Shape
    addresses: list[str]
    database: Database | None
    servers: OutlastServer | ClusterServers
    logs: list[Path] = field(default_factory=list)

    def stop(self) -> None:
        self.servers.stop()

    def stored_disagreements(self) -> tuple[int, list[str]] | None:
        """Of stored states and their histories, after `stop`; None if nothing is left to be read."""
        if isinstance(self.servers, OutlastServer):
            config = StoreConfig(kind="sqlite", url=str(self.servers.database))
        elif self.database is None or self.database.engine == "memory":
            return None
        else:
            config = StoreConfig(kind=KINDS[self.database.engine], url=self.database.url())
        return asyncio.run(disagreements(config, self.shape.shards))


def chosen(name: str | None) -> Shape:
    wanted = name or os.environ.get("OUTLAST_TEST_SHAPE") or DEV.name
    if wanted not in SHAPES:
        raise ValueError(f"there is no shape {wanted!r}; known are {', '.join(SHAPES)}")
    return SHAPES[wanted]


@contextlib.contextmanager
def running(shape: Shape, folder: Path) -> Iterator[Running]:
    """Starts everything, and stops it by its pids."""
    if shape is DEV:
        server = OutlastServer(folder / "outlast")
        server.start()
        try:
            yield Running(shape, [server.address], None, server, [server.log])
        finally:
            server.stop()
        return
    with contextlib.ExitStack() as stack:
        database = fresh_database(shape.engine, stack.enter_context(engine_server(shape.engine)), folder)
        visibility_url = ""
        if shape.engine == "cassandra":
            beside = "postgres" if shape.nodes > 1 else "sqlite"
            visibility_url = fresh_database(beside, stack.enter_context(engine_server(beside)), folder).url()
        endpoints = []
        if shape.nodes > 1:
            etcd = EtcdServer(folder / "etcd").start()
            stack.callback(etcd.kill)
            endpoints = [etcd.endpoint]
        servers = ClusterServers(
            folder / "nodes",
            store_url=database.url(),
            visibility_url=visibility_url,
            etcd_endpoints=endpoints,
            count=shape.nodes,
            shards=shape.shards,
            settings={"processes": shape.processes} if shape.processes > 1 else None,
        )
        stack.callback(servers.kill)  # what `stop` below left behind
        start_one_after_another(servers)
        stack.callback(servers.stop)
        # A connection stays with one process: several of them reach all.
        addresses = servers.addresses * (2 * shape.processes if shape.processes > 1 else 1)
        yield Running(shape, addresses, database, servers, [node.log for node in servers.nodes])
