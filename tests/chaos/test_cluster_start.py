"""A new cluster on an empty database: all nodes may start at the same moment, whoever makes what is missing first."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.cluster_servers import ClusterServers
from ops.services.databases import engine_server, fresh_database
from ops.services.etcd import EtcdServer

TIMES = 3


@pytest.mark.timeout(180)
def test_three_nodes_that_start_at_once_on_an_empty_database_all_become_ready(tmp_path: Path) -> None:
    etcd = EtcdServer(tmp_path / "etcd").start()
    try:
        with engine_server("postgres") as server:
            for number in range(TIMES):
                url = fresh_database("postgres", server, tmp_path).url()
                nodes = ClusterServers(
                    tmp_path / str(number), store_url=url, etcd_endpoints=[etcd.endpoint], etcd_prefix=f"/outlast-{number}/"
                )
                nodes.start()
                try:
                    seen = [sorted(row["node_id"] for row in node.cluster_page()["nodes"]) for node in nodes.nodes]
                    assert seen == 3 * [["node-0", "node-1", "node-2"]]
                finally:
                    nodes.stop()
    finally:
        etcd.kill()
