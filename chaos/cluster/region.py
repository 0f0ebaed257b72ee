"""The region that a campaign breaks: a real database, a real etcd, nodes as processes, and a link of ours before each of them.

    node i --link--> database      node i --link--> etcd      other nodes --link--> node i

A link is a TCP proxy (ops/services/proxy.py) in the harness: it delays, loses and cuts on command. Cassandra has no link, since
its driver learns the server's own address and goes there.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.engines import make_store
from cluster.node_config import StoreConfig, StoreKind
from cluster.stores.base import Store
from ops.cli.exit_codes import EXIT_DATABASE
from ops.cluster_servers import ClusterServers, NodeServer
from ops.servers import ServerFailed, free_port
from ops.services.databases import Database, engine_server, fresh_database
from ops.services.etcd import EtcdServer
from ops.services.proxy import TcpProxy, tcp_proxy

KINDS: dict[str, StoreKind] = {"postgres": "postgres", "mariadb": "mysql", "cassandra": "cassandra"}
ETCD_PREFIX = "/outlast/"
LEASE_S = 5.0  # cluster/membership: a node that is silent for so long is taken for dead
LOG_LEVEL = "info"
START_TRIES_MAX, START_AGAIN_S = 10, 1.0


@dataclass
class Links:
    """Of one node. database: None where the engine has no link."""

    etcd: TcpProxy
    wire: TcpProxy
    database: TcpProxy | None

    def all(self) -> list[TcpProxy]:
        return [link for link in (self.database, self.etcd, self.wire) if link is not None]


@dataclass
class Region:
    database: Database
    etcd: EtcdServer
    nodes: ClusterServers
    links: dict[str, Links] = field(default_factory=dict)
    shards: int = 12

    # --- nodes ----------------------------------------------------------------------------------------------------------
    async def start_node(self, node: NodeServer) -> None:
        """As a supervisor does: a node that finds its database starting up ends with 4, and is started again."""
        await asyncio.to_thread(self._forget_joins)
        for _ in range(START_TRIES_MAX - 1):
            try:
                return await asyncio.to_thread(node.restart)
            except ServerFailed:
                if node.exit_code != EXIT_DATABASE:
                    raise
            await asyncio.sleep(START_AGAIN_S)
        await asyncio.to_thread(node.restart)

    def _forget_joins(self) -> None:
        """A campaign puts weeks of crashes into minutes. A node that really crashed so often would be made to wait before it
        takes shards again (membership/flapping.py), and the campaign would test waiting."""
        first = f"{ETCD_PREFIX}joins/".encode()
        after = f"{ETCD_PREFIX}joins0".encode()  # "0" follows "/"
        body = json.dumps({"key": base64.b64encode(first).decode(), "range_end": base64.b64encode(after).decode()}).encode()
        request = urllib.request.Request(f"http://{self.etcd.endpoint}/v3/kv/deleterange", body)
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=1):  # without etcd nobody counts
            pass

    async def page(self, but: Sequence[NodeServer] = ()) -> dict[str, Any] | None:
        """GET /cluster of the first node that answers; None if none does."""
        for node in self.nodes.nodes:
            if node in but or not node.alive() or node.is_paused:
                continue
            try:
                return await asyncio.to_thread(node.cluster_page)
            except OSError:
                continue
        return None

    async def shards_of(self, node: NodeServer) -> list[int]:
        """By the ring as some node sees it; [] if nobody can be asked."""
        page = await self.page()
        return [shard for shard, owner in enumerate(page["ring"]) if owner == node.node_id] if page else []

    # --- database and etcd ----------------------------------------------------------------------------------------------
    async def kill_database(self) -> None:
        assert self.database.server is not None
        await asyncio.to_thread(self.database.server.kill)

    async def start_database(self) -> None:
        assert self.database.server is not None
        await asyncio.to_thread(self.database.server.start)

    async def kill_etcd(self) -> None:
        await asyncio.to_thread(self.etcd.kill)

    async def start_etcd(self) -> None:
        await asyncio.to_thread(self.etcd.start)

    def mend_links(self) -> None:
        for links in self.links.values():
            for link in links.all():
                link.mode = "pass"

    def store(self) -> Store:
        """A store of our own on the same data, not open yet."""
        return make_store(StoreConfig(kind=KINDS[self.database.engine], url=self.database.url()))


def start_one_after_another(nodes: ClusterServers) -> None:
    """The first node makes what a new database lacks. That all may start at once is a test of its own (test_cluster_start.py)."""
    nodes.upgrade_schema()
    nodes.nodes[0].start()
    for node in nodes.nodes[1:]:
        node.begin()
    for node in nodes.nodes[1:]:
        node.wait_ready()


@contextlib.asynccontextmanager
async def region(
    engine: str,
    folder: Path,
    *,
    count: int = 3,
    spare: int = 1,
    shards: int = 12,
    outlast: Mapping[int, Sequence[str]] | None = None,
) -> AsyncIterator[Region]:
    """Everything runs and every node is ready. `spare`: nodes that may be added later; `outlast[i]`: node i's program."""
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(engine_server(engine))
        if server is None:
            raise ValueError(f"several nodes need a database server, not {engine}")
        database = fresh_database(engine, server, folder)
        visibility_url = ""
        if engine == "cassandra":
            database.visibility = fresh_database("postgres", stack.enter_context(engine_server("postgres")), folder)
            visibility_url = database.visibility.url()
        etcd = EtcdServer(folder / "etcd").start()
        stack.callback(etcd.kill)
        links: dict[str, Links] = {}
        node_settings: dict[int, dict[str, Any]] = {}
        for number in range(count + spare):
            wire_port = free_port()
            to_database = None if engine == "cassandra" else await stack.enter_async_context(tcp_proxy(server.port))
            to_etcd = await stack.enter_async_context(tcp_proxy(int(etcd.endpoint.rpartition(":")[2])))
            to_node = await stack.enter_async_context(tcp_proxy(wire_port))
            links[f"node-{number}"] = Links(to_etcd, to_node, to_database)
            node_settings[number] = {
                "etcd": {"endpoints": [f"127.0.0.1:{to_etcd.port}"]},
                "wire": {"port": wire_port, "advertise": f"127.0.0.1:{to_node.port}"},
                "store": {"url": database.url(to_database.port if to_database else None)},
            }
        nodes = ClusterServers(
            folder / "nodes",
            store_url=database.url(),
            visibility_url=visibility_url,
            etcd_endpoints=[etcd.endpoint],
            etcd_prefix=ETCD_PREFIX,
            count=count,
            shards=shards,
            log_level=LOG_LEVEL,
            node_settings=node_settings,
            outlast=outlast,
        )
        stack.callback(nodes.kill)
        await asyncio.to_thread(start_one_after_another, nodes)
        yield Region(database, etcd, nodes, links, shards)
