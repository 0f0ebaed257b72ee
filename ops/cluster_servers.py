"""A cluster's nodes as child processes (`outlast server`), one generated configuration file each. For tests, chaos and bench.

    cluster = ClusterServers(directory, store_url=dsn, etcd_endpoints=[etcd.endpoint], count=3)
    cluster.start()                    brings the tables up to date, starts all nodes, returns when each is ready
    cluster.addresses                  gRPC, one per node
    cluster.nodes[0].kill()            SIGKILL; .pause() and .resume(): SIGSTOP and SIGCONT; .stop(): SIGTERM, shards move first
    cluster.nodes[0].restart()         the same node id, ports and files
    cluster.add()                      one node more, started
    cluster.stop()                     all at once, by SIGTERM

Without etcd endpoints there is one node, which may run several processes (`settings={"processes": 2}`).
Ports of a node stay the same over restarts. A node's log is `directory/<node id>.log`, its settings `directory/<node id>.yaml`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from ops.servers import ROOT, START_TIMEOUT_S, LoggedProcess, ServerFailed, free_port

OUTLAST = (str(Path(sys.executable).with_name("outlast")),)
SCHEMA_TIMEOUT_S = 120.0
PAGE_TIMEOUT_S = 10.0
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever the environment says


class NodeServer:
    """One `outlast server` process; a `Server` (ops/servers.py) which can also be paused. `outlast`: the program, if not ours."""

    name = "Outlast"

    def __init__(self, settings_file: Path, settings: Mapping[str, Any], outlast: Sequence[str] = OUTLAST) -> None:
        self.settings, self.settings_file, self.log = settings, settings_file, settings_file.with_suffix(".log")
        self.node_id: str = settings["node"]["id"]
        self.outlast = tuple(outlast)
        self.address = f"127.0.0.1:{settings['grpc']['port']}"
        self.http_address = f"127.0.0.1:{settings['http']['port']}"
        self.is_paused = False
        self._child: LoggedProcess | None = None

    @property
    def pid(self) -> int:
        if self._child is None:
            raise ServerFailed(f"node {self.node_id} does not run")
        return self._child.process.pid

    @property
    def wire_address(self) -> str:
        return f"127.0.0.1:{self.settings['wire']['port']}" if "wire" in self.settings else ""

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and before the first start."""
        return None if self._child is None else self._child.process.poll()

    def command(self) -> list[str]:
        return [*self.outlast, "server", "--config", str(self.settings_file)]

    def begin(self) -> None:
        """Starts the process and does not wait."""
        self.settings_file.parent.mkdir(parents=True, exist_ok=True)
        self.settings_file.write_text(yaml.safe_dump(dict(self.settings), sort_keys=False))
        self._child = LoggedProcess(self.command(), self.log, "Outlast ready", {"PYTHONUNBUFFERED": "1"})
        self.is_paused = False

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Raises ServerFailed, with the last lines of its log."""
        assert self._child is not None, "not begun"
        self._child.wait_ready(timeout_s)

    def start(self) -> None:
        self.begin()
        self.wait_ready()

    def restart(self) -> None:
        """On the same files and ports; what the data are is decided by the store's url."""
        self.start()

    def kill(self) -> None:
        assert self._child is not None, "not started"
        self._child.end(signal.SIGKILL)
        self.is_paused = False

    def stop(self, timeout_s: float = 60.0) -> None:
        """SIGTERM: its shards move to the others first. Raises ServerFailed when that takes longer."""
        if self._child is not None:
            if self.is_paused:
                self.resume()
            self._child.end(signal.SIGTERM, timeout_s)

    def wait_ended(self, timeout_s: float) -> int:
        """The exit code of a process that ends by itself. Raises ServerFailed."""
        assert self._child is not None, "not started"
        try:
            return self._child.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"node {self.node_id} has not ended within {timeout_s:.0f} s") from None

    def pause(self) -> None:
        """SIGSTOP: its connections stay open and nobody answers."""
        assert self._child is not None, "not started"
        self._child.process.send_signal(signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        assert self._child is not None, "not started"
        self._child.process.send_signal(signal.SIGCONT)
        self.is_paused = False

    def alive(self) -> bool:
        """Paused ones are alive."""
        return self._child is not None and self._child.process.poll() is None

    def data_bytes(self) -> int:
        """Of the store's files, where the store is a file of this node."""
        url = str(self.settings["store"].get("url", ""))
        if self.settings["store"].get("kind") != "sqlite":
            return 0
        database = Path(url)
        return sum(part.stat().st_size for part in database.parent.glob(f"{database.name}*"))

    def page(self, path: str) -> str:
        """A page of its HTTP port. Raises OSError."""
        with DIRECT.open(f"http://{self.http_address}{path}", timeout=PAGE_TIMEOUT_S) as answer:
            return str(answer.read().decode())

    def cluster_page(self) -> dict[str, Any]:
        """How this node sees the ring and its shards (GET /cluster). Raises OSError."""
        told: dict[str, Any] = json.loads(self.page("/cluster"))
        return told


class ClusterServers:
    """See the module's text. `settings` are merged into every node's file, `node_settings[i]` into that of node i; `outlast[i]`
    is the program of node i, where it is not this version's."""

    def __init__(
        self,
        directory: Path,
        *,
        store_url: str,
        etcd_endpoints: Sequence[str] = (),
        count: int = 3,
        shards: int = 12,
        etcd_prefix: str = "/outlast/",
        visibility_url: str = "",
        zones: Sequence[str] = (),
        log_level: str = "info",
        settings: Mapping[str, Any] | None = None,
        node_settings: Mapping[int, Mapping[str, Any]] | None = None,
        outlast: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        if count > 1 and not etcd_endpoints:
            raise ValueError("several nodes find each other by etcd")
        self.directory = directory
        self._store, self._visibility = _store(store_url), _store(visibility_url) if visibility_url else None
        self._etcd = {"endpoints": list(etcd_endpoints), "prefix": etcd_prefix} if etcd_endpoints else None
        self._shards, self._zones, self._log_level = shards, list(zones), log_level
        self._settings, self._node_settings, self._outlast = settings or {}, node_settings or {}, outlast or {}
        self.nodes = [self._node(number) for number in range(count)]

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes]

    def node(self, node_id: str) -> NodeServer:
        return next(node for node in self.nodes if node.node_id == node_id)

    def start(self) -> None:
        """Raises ServerFailed; then none is left running."""
        self.upgrade_schema()
        try:
            for node in self.nodes:
                node.begin()
            for node in self.nodes:
                node.wait_ready()
        except BaseException:
            self.kill()
            raise

    def upgrade_schema(self) -> None:
        """`outlast schema upgrade`, as an operator would. Raises ServerFailed."""
        first = self.nodes[0]
        first.settings_file.parent.mkdir(parents=True, exist_ok=True)
        first.settings_file.write_text(yaml.safe_dump(dict(first.settings), sort_keys=False))
        command = [*first.outlast, "schema", "upgrade", "--config", str(first.settings_file)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=SCHEMA_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise ServerFailed(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")

    def add(self) -> NodeServer:
        """One node more, ready."""
        node = self._node(len(self.nodes))
        self.nodes.append(node)
        node.start()
        return node

    def stop(self) -> None:
        """All at the same time, as when a region is shut down. Raises the first ServerFailed."""
        failures: list[ServerFailed] = []

        def stop_one(node: NodeServer) -> None:
            try:
                node.stop()
            except ServerFailed as failure:
                failures.append(failure)

        threads = [threading.Thread(target=stop_one, args=(node,), name=f"stop {node.node_id}") for node in self.nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def kill(self) -> None:
        """SIGKILL to all that run."""
        for node in self.nodes:
            if node.alive():
                with suppress(ServerFailed):
                    node.kill()

    def _node(self, number: int) -> NodeServer:
        node_id = f"node-{number}"
        settings: dict[str, Any] = {
            "node": {"id": node_id, "zone": self._zones[number % len(self._zones)] if self._zones else ""},
            "shards": self._shards,
            "grpc": {"ip": "127.0.0.1", "port": free_port()},
            "http": {"port": free_port()},
            "store": dict(self._store),
            "log": {"level": self._log_level},
        }
        if self._etcd is not None:
            settings |= {"wire": {"ip": "127.0.0.1", "port": free_port()}, "etcd": dict(self._etcd)}
        if self._visibility is not None:
            settings["visibility"] = dict(self._visibility)
        for more in (self._settings, self._node_settings.get(number, {})):
            settings = _merged(settings, more)
        return NodeServer(self.directory / f"{node_id}.yaml", settings, self._outlast.get(number, OUTLAST))


def _store(url: str) -> dict[str, str]:
    """"" and ":memory:" are memory; a path is an SQLite file; otherwise the scheme is the kind."""
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme:
        return {"kind": {"postgresql": "postgres", "mariadb": "mysql"}.get(scheme, scheme), "url": url}
    return {"kind": "memory"} if url in ("", ":memory:") else {"kind": "sqlite", "url": url}


def _merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in more.items():
        there = merged.get(key)
        merged[key] = _merged(there, value) if isinstance(value, Mapping) and isinstance(there, Mapping) else value
    return merged
