"""`outlast schema`: which version of the tables a database has, and what this program needs.

There has been one version of the SQLite tables so far, so an upgrade has nothing to change yet: it says whether the file
fits, and what to do if it does not.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Annotated

import typer

from cluster.stores.sqlite_schema import COMPONENT, SCHEMA_VERSION

EXIT_MISMATCH = 4  # as `outlast dev`: the database cannot be used

app = typer.Typer(help="Version of a database's tables.", no_args_is_help=True)

Db = Annotated[Path, typer.Option(help="SQLite file.")]
Output = Annotated[str, typer.Option(help="text or json.")]


def found_version(db: Path) -> int | None:
    """The version of the store's tables, None if there are none. Raises typer.BadParameter for a file that is no database."""
    if not db.exists():
        raise typer.BadParameter(f"{db} does not exist")
    try:
        connection = sqlite3.connect(f"{db.absolute().as_uri()}?mode=ro", uri=True)
        try:
            row = connection.execute("SELECT version FROM outlast_schema WHERE component = ?", (COMPONENT,)).fetchone()
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise typer.BadParameter(f"{db}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise typer.BadParameter(f"{db} is not an SQLite database: {error}") from error
    return int(row[0]) if row is not None else None


def _advice(version: int | None) -> str:
    if version is None:
        return "no tables yet: the first `outlast dev --db` makes them"
    if version == SCHEMA_VERSION:
        return "fits this program"
    if version > SCHEMA_VERSION:
        return "made by a newer Outlast: run that version, or a newer one; this program cannot go back"
    return "older than any version this program can upgrade"


def _report(db: Path, output: str) -> int | None:
    version = found_version(db)
    if output == "json":
        typer.echo(json.dumps({"db": str(db), "found": version, "needed": SCHEMA_VERSION, "advice": _advice(version)}))
    else:
        found = "none" if version is None else version
        typer.echo(f"{db}: store schema {found}, needed {SCHEMA_VERSION}: {_advice(version)}")
    return version


@app.command()
def status(db: Db, output: Output = "text") -> None:
    """Tell the version found and the version needed."""
    _report(db, output)


@app.command()
def check(db: Db, output: Output = "text") -> None:
    """The same, with exit code 4 if the database does not fit."""
    if _report(db, output) not in (None, SCHEMA_VERSION):
        raise typer.Exit(EXIT_MISMATCH)


@app.command()
def upgrade(db: Db, output: Output = "text") -> None:
    """Bring the tables to the version needed; exit code 4 if that cannot be done. Stop the server first."""
    if _report(db, output) not in (None, SCHEMA_VERSION):
        raise typer.Exit(EXIT_MISMATCH)
