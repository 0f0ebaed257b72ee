"""`outlast schema` tells the versions of a database's tables, makes them where that is its job, and refuses what this program
cannot use. On real servers; the tables of Cassandra are tested with its store.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.node_config import StoreConfig, VisibilityConfig
from cluster.stores.sqlite import SqliteStore
from cluster.stores.sqlite_schema import SCHEMA_VERSION
from ops.cli.exit_codes import EXIT_DATABASE, EXIT_USAGE
from ops.cli.schema import EXIT_MISMATCH, app
from ops.cli.schema_engines import _module
from ops.services.databases import Database, engine_server, fresh_database

RUNNER = CliRunner()
ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> Result:
    return RUNNER.invoke(app, list(arguments), terminal_width=200)


def found(result: Result) -> dict[str, tuple[int, bool]]:
    """component -> version found, whether it fits"""
    return {each["component"]: (each["found"], each["fits"]) for each in json.loads(result.stdout)["components"]}


# --- files ---
def made(path: Path) -> Path:
    async def make() -> None:
        store = SqliteStore(str(path))
        await store.open()
        await store.close()

    asyncio.run(make())
    return path


def test_a_file_of_this_version_fits(tmp_path: Path) -> None:
    result = run("check", "--db", str(made(tmp_path / "a.db")), "--output", "json")
    assert result.exit_code == 0 and found(result) == {"store": (SCHEMA_VERSION, True), "visibility": (0, True)}


def test_a_file_of_a_newer_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE outlast_schema SET version = version + 1")
    for command in ("check", "upgrade"):
        result = run(command, "--db", str(path))
        assert result.exit_code == EXIT_MISMATCH and "newer" in result.output


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("no database, but long enough to be looked at")
    result = run("status", "--db", str(path))
    assert result.exit_code == EXIT_DATABASE and f"{path} is not an SQLite database" in result.stderr


# --- which database ---
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "say which database"),
        (("--db", "/none/a.db"), "does not exist"),
        (("--store-url", "mysql://h/d", "--db", str(ROOT)), "say which database"),
        (("--visibility-url", "mysql://h/d"), "--visibility-url goes with --store-url"),
        (("--store-url", "oracle://h/d"), "url begins with oracle://"),
        (("--store-url", "cassandra://h/k-k"), "keyspace 'k-k' must be"),
        (("--config", "/none/region.yaml"), "cannot be read"),
    ],
)
def test_a_wrong_way_to_say_which_database_is_refused(
    arguments: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OUTLAST_CONFIG", raising=False)
    result = run("status", *arguments)
    assert result.exit_code == EXIT_USAGE and told in " ".join(result.stderr.replace("│", " ").split())


def test_every_kind_of_store_has_its_module_of_tables() -> None:
    kinds = StoreConfig.__annotations__["kind"], VisibilityConfig.__annotations__["kind"]
    assert kinds == ("StoreKind", "VisibilityKind")
    for component, engines in (("store", ("postgres", "mysql", "cassandra")), ("visibility", ("postgres", "mysql"))):
        for kind in engines:
            module = _module(component, kind)
            assert callable(module.status) and callable(module.upgrade), (component, kind)


# --- servers ---
@pytest.fixture(scope="module", params=[pytest.param(each, marks=getattr(pytest.mark, each)) for each in ("postgres", "mariadb")])
def engine(request: pytest.FixtureRequest) -> Iterator[tuple[str, object]]:
    with engine_server(request.param) as server:
        yield request.param, server


@pytest.fixture
def database(engine: tuple[str, object], tmp_path: Path) -> Database:
    return fresh_database(engine[0], engine[1], tmp_path)  # type: ignore[arg-type]  # a DatabaseServer, as engine_server says


def test_an_upgrade_makes_the_tables_of_store_and_visibility_and_the_next_one_nothing(database: Database) -> None:
    where = ("--store-url", database.url(), "--output", "json")
    before = run("check", *where)
    assert before.exit_code == EXIT_MISMATCH and found(before) == {"store": (0, False), "visibility": (0, False)}
    told = run("upgrade", "--store-url", database.url())
    assert told.exit_code == 0 and "store schema upgraded from none to" in told.output
    again = run("upgrade", "--store-url", database.url())
    assert again.exit_code == 0 and "upgraded" not in again.output
    after = run("check", *where)
    assert after.exit_code == 0 and all(version > 0 and fits for version, fits in found(after).values())


def test_four_upgrades_at_once_make_one_database(database: Database) -> None:
    command = [sys.executable, "-m", "ops.cli", "schema", "upgrade", "--store-url", database.url()]
    upgrades = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(4)
    ]
    outcomes = [(upgrade.communicate(timeout=60), upgrade.returncode) for upgrade in upgrades]
    assert [code for _, code in outcomes] == [0, 0, 0, 0], outcomes
    assert sum("store schema upgraded" in out for (out, _), _ in outcomes) == 1
    assert run("check", "--store-url", database.url()).exit_code == 0


def test_the_database_of_a_configuration_and_of_the_environment_is_upgraded(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "region.yaml").write_text(f"store: {{url: '{database.url()}'}}")
    assert run("upgrade", "--config", str(tmp_path / "region.yaml")).exit_code == 0
    monkeypatch.setenv("OUTLAST_STORE__URL", database.url())
    assert run("check").exit_code == 0


def test_a_server_that_does_not_answer_or_a_database_that_is_not_there_is_told(database: Database) -> None:
    assert database.server is not None
    missing = database.server.url("not_there")
    result = run("status", "--store-url", missing)
    assert result.exit_code == EXIT_DATABASE and "not_there" in result.stderr and "Traceback" not in result.stderr
    nobody = database.server.url(database.name, 1)
    result = run("upgrade", "--store-url", nobody)
    assert result.exit_code == EXIT_DATABASE and "127.0.0.1:1" in result.stderr
