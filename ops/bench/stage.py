"""What `python -m ops.bench.cluster` measures, running: database servers, and Outlast on them as one node, several processes or
several nodes; the real server on a PostgreSQL of its own.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.bench.drive import Subject
from ops.bench.metered_node import meter_of
from ops.bench.usage import children
from ops.cli.cluster import problems
from ops.cluster_servers import ClusterServers
from ops.servers import PEER_SCRIPT, PeerServer, ServerFailed
from ops.services.databases import SERVERS, DatabaseServer, engine_server, fresh_database
from ops.services.etcd import EtcdServer
from ops.services.postgres import postgres_server

METERED = (sys.executable, "-m", "ops.bench.metered_node")
SHARDS_ALONE, SHARDS_OF_CLUSTER = 4, 12
SETTLED_WITHIN_S, LOOK_S = 60.0, 0.2
CONNECTIONS_PER_PROCESS = 6  # the kernel gives each connection to one of the processes, by chance: many even that out


@dataclass(frozen=True)
class Running:
    """Something to be measured. `label` is its name in the tables."""

    label: str
    subject: Subject


class Databases:
    """Database servers, each started when it is first asked for, ended with the stack."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack, self._folder = stack, folder
        shutil.rmtree(folder, ignore_errors=True)  # files that an earlier run left
        self._servers: dict[str, DatabaseServer | None] = {}

    @staticmethod
    def missing(engine: str) -> bool:
        """There is nothing here that starts such a server."""
        return engine not in ("memory", "sqlite") and engine not in SERVERS

    def server(self, engine: str) -> DatabaseServer | None:
        """Raises ServiceUnavailable."""
        if engine not in self._servers:
            self._servers[engine] = self._stack.enter_context(engine_server(engine))
        return self._servers[engine]

    def urls(self, engine: str) -> tuple[str, str]:
        """Of a fresh database, and of a visibility store where that is not the same."""
        self._folder.mkdir(parents=True, exist_ok=True)
        url = fresh_database(engine, self.server(engine), self._folder).url()
        beside = fresh_database("sqlite", None, self._folder).url() if engine == "cassandra" else ""
        return url, beside

    def pid(self, engine: str) -> int:
        server = self.server(engine)
        return 0 if server is None else server.pid


@contextmanager
def single_node(databases: Databases, engine: str, folder: Path, program: Sequence[str] = METERED) -> Iterator[Running]:
    """Raises ServerFailed, ServiceUnavailable."""
    url, beside = databases.urls(engine)
    servers = ClusterServers(
        folder / engine, store_url=url, visibility_url=beside, count=1, shards=SHARDS_ALONE, log_level="warning",
        outlast={0: tuple(program)},
    )  # fmt: skip
    with _started(servers):
        yield Running(engine, _subject(servers, databases.pid(engine), is_metered=True))


@contextmanager
def processes(databases: Databases, engine: str, folder: Path, count: int) -> Iterator[Running]:
    """`outlast server --processes`. Raises ServerFailed, ServiceUnavailable."""
    url, beside = databases.urls(engine)
    servers = ClusterServers(
        folder / f"processes-{count}", store_url=url, visibility_url=beside, count=1, shards=SHARDS_OF_CLUSTER,
        log_level="warning", settings={"processes": count},
    )  # fmt: skip
    with _started(servers):
        node = servers.nodes[0]
        addresses = (node.address,) * (CONNECTIONS_PER_PROCESS * count)
        pids = tuple(children(node.pid)) if count > 1 else (node.pid,)
        label = f"{count} process" + ("es" if count > 1 else "")
        yield Running(label, Subject(addresses, pids, databases.pid(engine)))


@contextmanager
def cluster(
    databases: Databases, engine: str, folder: Path, label: str, roles: Sequence[Sequence[str]], connections: int = 1
) -> Iterator[Running]:
    """Nodes with etcd, one for each list of roles (empty: all of them). Raises ServerFailed, ServiceUnavailable."""
    url, beside = databases.urls(engine)
    shutil.rmtree(folder / "etcd", ignore_errors=True)  # another database is another cluster
    etcd = EtcdServer(folder / "etcd").start()
    try:
        settings: dict[int, dict[str, Any]] = {
            number: {"node": {"roles": list(each)}} for number, each in enumerate(roles) if each
        }
        servers = ClusterServers(
            folder / label.replace(" ", "-"), store_url=url, visibility_url=beside, etcd_endpoints=[etcd.endpoint],
            count=len(roles), shards=SHARDS_OF_CLUSTER, log_level="warning", node_settings=settings,
            outlast=dict.fromkeys(range(len(roles)), METERED),
        )  # fmt: skip
        with _started(servers):
            fronts = [node.address for node, each in zip(servers.nodes, roles, strict=True) if not each or "frontend" in each]
            subject = _subject(servers, databases.pid(engine), is_metered=True)
            yield Running(label, Subject(tuple(fronts * connections), subject.server_pids, subject.database_pid, subject.meters))
    finally:
        etcd.kill()


@contextmanager
def _started(servers: ClusterServers) -> Iterator[None]:
    """Raises ServerFailed."""
    shutil.rmtree(servers.directory, ignore_errors=True)
    try:
        servers.upgrade_schema()
        servers.nodes[0].start()  # the first makes what a new database lacks
        for node in servers.nodes[1:]:
            node.begin()
        for node in servers.nodes[1:]:
            node.wait_ready()
        _wait_settled(servers)
        yield
        servers.stop()
    finally:
        servers.kill()


def _wait_settled(servers: ClusterServers) -> None:
    """Every shard is open where the ring wants it. Raises ServerFailed."""
    give_up_at = time.monotonic() + SETTLED_WITHIN_S
    while wrong := problems(servers.nodes[0].cluster_page()):
        if time.monotonic() > give_up_at:
            raise ServerFailed(f"the shards are not where they belong after {SETTLED_WITHIN_S:.0f} s: {'; '.join(wrong)}")
        time.sleep(LOOK_S)


def _subject(servers: ClusterServers, database_pid: int, is_metered: bool) -> Subject:
    meters = tuple(str(meter_of(node.settings_file)) for node in servers.nodes) if is_metered else ()
    return Subject(tuple(servers.addresses), tuple(node.pid for node in servers.nodes), database_pid, meters)


# --- the real server ---
PEER_PORTS = (0, 1, 2, 3, 4, 5, 6, 7, 10)  # which ports peer.sh takes, from PEER_PORT on
PEER_START_TIMEOUT_S = 240.0


class PeerOnPostgres(PeerServer):
    """The real server by peer.sh on a PostgreSQL, in a folder of its own that shares the built programs."""

    def __init__(self, folder: Path, url: str, shards: int) -> None:
        super().__init__()
        built, self.directory = self.directory, folder.absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        if not (self.directory / "bin").exists():
            (self.directory / "bin").symlink_to(built / "bin")
        self.port = free_peer_port()
        self.address, self.log = f"127.0.0.1:{self.port}", self.directory / "run" / "peer.log"
        self._url, self._shards = url, shards

    def start(self) -> None:
        more = {"PEER_PG": self._url, "PEER_SHARDS": str(self._shards)}
        where = {"PEER_DIR": str(self.directory), "PEER_PORT": str(self.port)}
        done = subprocess.run(
            ["bash", str(PEER_SCRIPT), "start", "postgres"], capture_output=True, text=True, stdin=subprocess.DEVNULL,
            env={**os.environ, **where, **more}, timeout=PEER_START_TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            schema_log = self.directory / "run" / "schema.log"
            told = schema_log.read_text(errors="replace")[-1_000:] if schema_log.exists() else ""
            raise ServerFailed(f"peer.sh start postgres: {done.stderr[-1_000:]}\n{told}")
        self._pid = int(done.stdout.split()[-1])


def free_peer_port() -> int:
    """Below the ports that the kernel gives away by itself. Raises ServerFailed."""
    for base in range(20_000 + os.getpid() % 500 * 20, 32_000, 20):
        try:
            for offset in PEER_PORTS:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        return base
    raise ServerFailed("no free ports for the real server")


@contextmanager
def peer_on_postgres(folder: Path) -> Iterator[Running]:
    """On a PostgreSQL that nobody else uses, with the same settings as ours. Raises ServerFailed, ServiceUnavailable."""
    with postgres_server() as database:
        peer = PeerOnPostgres(folder / "peer", f"postgresql://test:none@127.0.0.1:{database.port}", SHARDS_ALONE)
        try:
            peer.start()
            yield Running("Temporal on postgres", Subject((peer.address,), (peer.pid,), database.pid))
        finally:
            peer.stop()
