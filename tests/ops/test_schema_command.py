"""`outlast schema` tells the version of a file, and refuses what this program cannot use."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

from typer.testing import CliRunner

from cluster.stores.sqlite import SqliteStore
from cluster.stores.sqlite_schema import SCHEMA_VERSION
from ops.cli.schema import EXIT_MISMATCH, app

RUNNER = CliRunner()


def made(path: Path) -> Path:
    async def make() -> None:
        store = SqliteStore(str(path))
        await store.open()
        await store.close()

    asyncio.run(make())
    return path


def test_a_file_of_this_version_fits(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["check", "--db", str(made(tmp_path / "a.db")), "--output", "json"])
    assert result.exit_code == 0 and json.loads(result.output)["found"] == SCHEMA_VERSION


def test_a_file_of_a_newer_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE outlast_schema SET version = version + 1")
    for command in ("check", "upgrade"):
        result = RUNNER.invoke(app, [command, "--db", str(path)])
        assert result.exit_code == EXIT_MISMATCH and "newer" in result.output


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("no database, but long enough to be looked at")
    result = RUNNER.invoke(app, ["status", "--db", str(path)])
    assert result.exit_code == 2 and "SQLite database" in " ".join(result.output.replace("│", " ").split())
