"""What `outlast server` says when it cannot start: one line that tells what to do, the exit code for it, within seconds, and no
secret in it. On real servers.
"""

from __future__ import annotations

import os
import resource
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from typer.testing import CliRunner

from ops.cli.cluster import app as cluster
from ops.cli.exit_codes import EXIT_ADDRESS, EXIT_CLUSTER, EXIT_DATABASE, EXIT_USAGE
from ops.cli.schema import app as schema
from ops.cluster_servers import ClusterServers
from ops.region.checks import check_files
from ops.region.reading import WrongSettings
from ops.servers import free_port
from ops.services.databases import Database, DatabaseServer, engine_server, fresh_database
from ops.services.etcd import EtcdServer

ROOT = Path(__file__).resolve().parents[2]
RUNNER = CliRunner()
SECONDS_MAX = 20.0  # of a start that fails, on a busy machine; etcd's own time to wait (3 s here) included

Settings = dict[str, Any]
Run = Callable[[Settings], tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """settings -> exit code and the one line."""

    def start(settings: Settings, limit_files: Callable[[], None] | None = None) -> tuple[int, str]:
        path = tmp_path / "region.yaml"
        small: Settings = {"grpc": {"port": 0}, "http": {"port": 0}, "log": {"level": "error"}}
        path.write_text(yaml.safe_dump({**small, **settings}))
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "ops.cli", "server", "--config", str(path)],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, preexec_fn=limit_files, env=dict(os.environ),
        )  # fmt: skip
        assert time.monotonic() - began < SECONDS_MAX
        assert "Traceback" not in ended.stderr and "Outlast ready" not in ended.stdout, ended.stderr
        told = [line for line in ended.stderr.splitlines() if line.startswith("outlast: ")]
        assert len(told) == 1, ended.stderr
        assert "hunter2" not in ended.stderr
        return ended.returncode, told[0]

    return start


@pytest.fixture(scope="module")
def postgres() -> Iterator[DatabaseServer]:
    with engine_server("postgres") as server:
        assert server is not None
        yield server


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd")).start()
    yield server
    server.kill()


@pytest.fixture
def database(postgres: DatabaseServer, tmp_path: Path) -> Database:
    """With its tables."""
    fresh = fresh_database("postgres", postgres, tmp_path)
    assert RUNNER.invoke(schema, ["upgrade", "--store-url", fresh.url()]).exit_code == 0
    return fresh


def member(store: str, endpoint: str, prefix: str = "/outlast/") -> Settings:
    etcd = {"endpoints": [endpoint], "prefix": prefix, "join_timeout_s": 3}
    return {"node": {"id": "late"}, "store": {"url": store}, "wire": {"port": 0}, "etcd": etcd}


# --- the database ---
@pytest.mark.mariadb
def test_wrong_credentials_are_told_without_them(run: Run) -> None:
    with engine_server("mariadb") as mariadb:
        assert mariadb is not None
        url = mariadb.url("test")
        code, told = run({"store": {"url": url, "password": "hunter2"}})
        assert code == EXIT_DATABASE and "Access denied" in told and f"127.0.0.1:{mariadb.port}" in told


@pytest.mark.postgres
def test_a_user_or_a_database_that_is_not_there_is_named(run: Run, postgres: DatabaseServer) -> None:
    code, told = run({"store": {"url": postgres.url("postgres"), "user": "nobody", "password": "hunter2"}})
    assert code == EXIT_DATABASE and 'role "nobody" does not exist' in told
    code, told = run({"store": {"url": postgres.url("not_there")}})
    assert code == EXIT_DATABASE and 'database "not_there" does not exist' in told


def test_a_database_server_that_is_away_is_named(run: Run) -> None:
    code, told = run({"store": {"url": f"postgresql://me:hunter2@127.0.0.1:{free_port()}/db"}})
    assert code == EXIT_DATABASE and "PostgreSQL at 127.0.0.1" in told


@pytest.mark.postgres
def test_a_database_without_tables_names_the_command_that_makes_them(
    run: Run, postgres: DatabaseServer, tmp_path: Path
) -> None:
    code, told = run({"store": {"url": fresh_database("postgres", postgres, tmp_path).url()}})
    assert code == EXIT_DATABASE
    assert f"has no Outlast tables: run `outlast schema upgrade --config {tmp_path / 'region.yaml'}`" in told


@pytest.mark.postgres
async def test_tables_of_another_version_are_refused(run: Run, database: Database) -> None:
    import asyncpg

    connection = await asyncpg.connect(database.url())
    for component in ("store", "visibility"):
        await connection.execute("UPDATE outlast_schema SET version = version + 1 WHERE component = $1", component)
        code, told = run({"store": {"url": database.url()}})
        assert code == EXIT_DATABASE and f"has {component} schema version 2" in told and "newer than this program's" in told
        await connection.execute("UPDATE outlast_schema SET version = version - 1 WHERE component = $1", component)
    await connection.close()


def test_an_sqlite_file_of_another_version_is_refused(run: Run, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "o.db") as connection:
        connection.execute("CREATE TABLE outlast_schema (component TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID")
        connection.execute("INSERT INTO outlast_schema VALUES ('store', 999)")
    code, told = run({"store": {"url": str(tmp_path / "o.db")}})
    assert code == EXIT_DATABASE and "999" in told and "outlast schema upgrade" in told


@pytest.mark.parametrize("processes", [1, 2])
def test_the_shard_count_of_a_database_is_fixed(run: Run, tmp_path: Path, processes: int) -> None:
    store = str(tmp_path / "o.db")
    first = ClusterServers(tmp_path / "first", store_url=store, count=1, shards=2)
    first.start()
    first.stop()
    code, told = run({"store": {"url": store}, "shards": 3, "processes": processes})
    assert code == EXIT_DATABASE and "was made with 2 shards and cannot run with 3" in told


@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_server_on_an_sqlite_file_is_refused(run: Run, tmp_path: Path, processes: int) -> None:
    store = str(tmp_path / "o.db")
    first = ClusterServers(tmp_path / "first", store_url=store, count=1, settings={"processes": processes})
    first.start()
    try:
        code, told = run({"store": {"url": store}, "processes": 3 - processes})
        assert code == EXIT_DATABASE and f"in use by another Outlast (pid {first.nodes[0].pid})" in told
    finally:
        first.stop()


def test_a_folder_that_cannot_be_written_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for store in (str(tmp_path / "file" / "o.db"), "/proc/o.db"):
        code, told = run({"store": {"url": store}})
        assert code == EXIT_DATABASE and f"{store} cannot be used" in told


def test_a_full_disk_is_named_with_its_file(run: Any, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: both refuse to let a file grow."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, 8_192))

    store = str(tmp_path / "o.db")
    code, told = run({"store": {"url": store}}, limit)
    assert code == EXIT_DATABASE and store in told


# --- two clusters ---
@pytest.mark.postgres
def test_nodes_with_another_registry_on_one_database_are_refused_until_it_is_rebound(
    run: Run, database: Database, etcd: EtcdServer, tmp_path: Path
) -> None:
    first = ClusterServers(
        tmp_path / "first", store_url=database.url(), etcd_endpoints=[etcd.endpoint], etcd_prefix="/a/", count=1
    )
    first.start()
    first.stop()
    code, told = run(member(database.url(), etcd.endpoint, "/b/"))
    assert code == EXIT_DATABASE and "under /a/" in told and "under /b/" in told and "outlast cluster rebind" in told
    code, told = run({"store": {"url": database.url()}})
    assert code == EXIT_DATABASE and "configured without etcd" in told
    assert RUNNER.invoke(cluster, ["rebind", "--config", str(first.nodes[0].settings_file)]).exit_code == 0
    second = ClusterServers(
        tmp_path / "second", store_url=database.url(), etcd_endpoints=[etcd.endpoint], etcd_prefix="/b/", count=1
    )
    second.start()
    second.stop()


@pytest.mark.postgres
def test_nodes_of_another_database_under_one_prefix_are_refused(
    run: Run, database: Database, postgres: DatabaseServer, etcd: EtcdServer, tmp_path: Path
) -> None:
    first = ClusterServers(
        tmp_path / "first", store_url=database.url(), etcd_endpoints=[etcd.endpoint], etcd_prefix="/one/", count=1
    )
    first.start()
    try:
        other = fresh_database("postgres", postgres, tmp_path)
        assert RUNNER.invoke(schema, ["upgrade", "--store-url", other.url()]).exit_code == 0
        code, told = run(member(other.url(), etcd.endpoint, "/one/"))
        assert code == EXIT_CLUSTER and "/one/cluster belongs to cluster" in told
    finally:
        first.stop()


@pytest.mark.postgres
def test_an_etcd_that_does_not_answer_is_named(run: Run, database: Database) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    code, told = run(member(database.url(), nobody))
    assert code == EXIT_CLUSTER and f"etcd at {nobody} does not answer" in told


# --- addresses ---
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("port", ["grpc", "http"])
def test_a_port_in_use_is_named(run: Run, tmp_path: Path, port: str, processes: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        code, told = run({"store": {"url": str(tmp_path / "o.db")}, port: {"port": number}, "processes": processes})
    assert code == EXIT_ADDRESS and f"127.0.0.1:{number}" in told


@pytest.mark.postgres
def test_a_wire_port_in_use_is_named(run: Run, database: Database, etcd: EtcdServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        code, told = run({**member(database.url(), etcd.endpoint, "/wire/"), "wire": {"port": number}})
    assert code == EXIT_ADDRESS and str(number) in told and "wire" in told


@pytest.mark.postgres
def test_addresses_that_others_can_reach_need_to_be_allowed(run: Run, database: Database, etcd: EtcdServer) -> None:
    code, told = run({"store": {"kind": "memory"}, "grpc": {"ip": "0.0.0.0", "port": 0}})
    assert code == EXIT_ADDRESS and "loopback" in told and "allow_insecure" in told
    code, told = run({**member(database.url(), etcd.endpoint, "/open/"), "wire": {"ip": "0.0.0.0", "port": 0}})
    assert code == EXIT_ADDRESS and "wire.tls" in told and "0.0.0.0" in told


# --- files of keys ---
def key_files(folder: Path) -> dict[str, str]:
    """As wire.tls wants them."""
    authority = trustme.CA()
    certificate = authority.issue_cert("node.outlast")
    files = {name: folder / f"{name}.pem" for name in ("authority", "certificate", "key")}
    authority.cert_pem.write_to_path(str(files["authority"]))
    certificate.cert_chain_pems[0].write_to_path(str(files["certificate"]))
    certificate.private_key_pem.write_to_path(str(files["key"]))
    return {name: str(path) for name, path in files.items()}


def test_files_of_keys_that_cannot_be_used_are_named(run: Run, tmp_path: Path) -> None:
    good = key_files(tmp_path)
    trustme.CA().issue_cert("node.outlast").private_key_pem.write_to_path(str(tmp_path / "other.pem"))
    (tmp_path / "garbage.pem").write_text("hello")

    def refusal(**changed: str) -> str:
        files = {name: Path(path) for name, path in {**good, **changed}.items()}
        with pytest.raises(WrongSettings) as refused:
            check_files({"wire.tls": (files["authority"], files["certificate"], files["key"])})
        return str(refused.value)

    check_files({"wire.tls": (Path(good["authority"]), Path(good["certificate"]), Path(good["key"])), "store.tls": (None,) * 3})
    assert f"wire.tls.authority: {tmp_path} cannot be read: Is a directory" in refusal(authority=str(tmp_path))
    assert "holds no certificates in PEM form" in refusal(authority=str(tmp_path / "garbage.pem"))
    assert "are not a certificate and its key" in refusal(certificate=str(tmp_path / "garbage.pem"))
    assert "are not a certificate and its key" in refusal(key=str(tmp_path / "other.pem"))
    settings = member("postgresql://db/outlast", "127.0.0.1:1")
    code, told = run({**settings, "wire": {"port": 0, "tls": {**good, "key": "/none.pem"}}})
    assert code == EXIT_USAGE and "wire.tls.key: /none.pem cannot be read: No such file or directory" in told


@pytest.mark.postgres
def test_nodes_with_good_keys_talk_by_tls_and_so_does_a_drain(database: Database, etcd: EtcdServer, tmp_path: Path) -> None:
    tls = {**key_files(tmp_path), "peer_name": "node.outlast"}
    servers = ClusterServers(
        tmp_path / "tls", store_url=database.url(), etcd_endpoints=[etcd.endpoint], etcd_prefix="/tls/", count=2,
        settings={"wire": {"tls": tls}},
    )  # fmt: skip
    servers.start()
    try:
        well = ["status", "--address", servers.nodes[0].http_address, "--wait-s", "20"]
        assert RUNNER.invoke(cluster, well).exit_code == 0  # which asks the other node, by TLS
        told = RUNNER.invoke(cluster, ["drain", "node-1", "--config", str(servers.nodes[0].settings_file)])
        assert told.exit_code == 0 and servers.nodes[1].wait_ended(20) == 0, told.output
    finally:
        servers.kill()
