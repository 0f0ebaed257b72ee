"""`outlast cluster`: what status calls wrong, what is shown, and what is said when nobody answers. On real clusters:
test_cluster_servers.py, test_processes.py.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from ops.cli.cluster import _ranges, app, own_problems, problems
from ops.cli.exit_codes import EXIT_CLUSTER, EXIT_FAILED
from ops.servers import free_port

RUNNER = CliRunner()


def node(node_id: str, state: str = "ready", shards: int = 2) -> dict[str, Any]:
    return {
        "node_id": node_id, "address": "127.0.0.1:1", "roles": ["history"], "zone": "", "version": "1", "state": state,
        "started_at": 1_700_000_000_000_000_000, "shards": shards, "is_lingering": False,
    }  # fmt: skip


def well(**changed: Any) -> dict[str, Any]:
    """Two nodes, four shards."""
    ring = ["a", "b", "a", "b"]
    shards = [{"shard": shard, "node": owner, "state": "open"} for shard, owner in enumerate(ring)]
    page = {"node": "a", "is_stale": False, "shard_count": 4, "nodes": [node("a"), node("b")], "ring": ring, "shards": shards}
    return {**page, "unreachable": [], **changed}


@contextmanager
def answering(page: bytes, status: int = 200) -> Iterator[str]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Not to the test's output."""

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- what is wrong ---
def test_a_cluster_whose_shards_are_open_where_they_belong_is_well() -> None:
    assert problems(well()) == [] and own_problems(well()) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"unreachable": ["b"]}, "node b does not answer"),
        ({"is_stale": True}, "the registry (etcd) does not answer"),
        ({"nodes": [node("a"), node("b", "leaving")]}, "node b is leaving"),
        ({"ring": ["a", None, "a", None]}, "shards without an owner, since no node with the role history is ready: 1, 3"),
        ({"shards": [{"shard": 0, "node": "a"}]}, "shard 1 belongs to b and is open at no node"),
        ({"shards": [{"shard": 0, "node": "b"}]}, "shard 0 belongs to a and is open at b"),
        ({"shards": [{"shard": 0, "node": "a"}, {"shard": 0, "node": "b"}]}, "shard 0 belongs to a and is open at a, b"),
        ({"shards": [{"shard": 0, "node": "a", "state": "opening"}]}, "shard 0 belongs to a and is open at no node"),
    ],
)
def test_what_is_not_as_it_should_be_is_told(changed: dict[str, Any], told: str) -> None:
    assert any(line.startswith(told) for line in problems(well(**changed)))


def test_shards_of_a_node_that_does_not_answer_are_not_called_closed() -> None:
    page = well(unreachable=["b"], shards=[{"shard": shard, "node": "a"} for shard in (0, 2)])
    assert problems(page) == ["node b does not answer"]


def test_another_node_that_is_down_does_not_make_this_one_unhealthy() -> None:
    assert own_problems(well(unreachable=["b"], nodes=[node("a"), node("b", "leaving")])) == []
    assert own_problems(well(nodes=[node("a", "joining"), node("b")])) == ["node a is joining"]
    assert own_problems(well(nodes=[node("b")])) == ["node a is no member"]


# --- what is shown ---
def test_tables_and_json_tell_the_same() -> None:
    with answering(json.dumps(well()).encode()) as address:
        told = RUNNER.invoke(app, ["status", "--address", address])
        assert told.exit_code == 0 and "4 shards, seen by a: all is well" in told.output
        assert ["b", "ready", "-", "127.0.0.1:1", "2", "2"] in [line.split()[:6] for line in told.output.splitlines()]
        assert json.loads(RUNNER.invoke(app, ["status", "--address", address, "--output", "json"]).output)["problems"] == []
        told = RUNNER.invoke(app, ["ring", "--address", address])
        assert ["a", "2", "0,", "2"] in [line.split() for line in told.output.splitlines()]
        assert json.loads(RUNNER.invoke(app, ["ring", "--address", address, "--output", "json"]).output)["ring"] == well()["ring"]
        told = RUNNER.invoke(app, ["shards", "--address", address])
        assert ["3", "b", "b", "open"] in [line.split() for line in told.output.splitlines()]
        found = json.loads(RUNNER.invoke(app, ["shards", "--address", address, "--output", "json"]).output)
        assert found["shards"] == well()["shards"]


def test_a_problem_is_an_exit_code_after_the_time_to_wait() -> None:
    with answering(json.dumps(well(is_stale=True)).encode()) as address:
        told = RUNNER.invoke(app, ["status", "--address", address, "--wait-s", "0.3"])
        assert told.exit_code == EXIT_FAILED and "registry" in told.output
        assert RUNNER.invoke(app, ["status", "--address", address, "--only-node"]).exit_code == 0


@pytest.mark.parametrize("command", ["status", "ring", "shards"])
def test_whoever_does_not_answer_is_named_with_what_to_say_instead(command: str) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    told = RUNNER.invoke(app, [command, "--address", nobody])
    assert told.exit_code == EXIT_CLUSTER and f"{nobody} does not answer" in told.stderr and "--address" in told.stderr
    with answering(b"nothing here", 404) as address:
        assert "answers 404" in RUNNER.invoke(app, [command, "--address", address]).stderr
    with answering(b"hello") as address:
        assert "is not an Outlast node's HTTP port" in RUNNER.invoke(app, [command, "--address", address]).stderr


def test_shards_in_a_row_are_shown_as_ranges() -> None:
    assert _ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8" and _ranges([]) == ""
