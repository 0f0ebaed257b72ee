"""`outlast schema`: which version the tables of a database have, what this program needs, and how they get there.

The database is that of a configuration (--config), of a url (--store-url, and --visibility-url where it is another one), or a
file (--db). A store's database holds the tables of visibility too, unless something else is said. Exit codes: exit_codes.py.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ops.cli.exit_codes import EXIT_DATABASE, EXIT_USAGE, complain, refusal_of

if TYPE_CHECKING:
    from ops.cli.schema_engines import Component, Config

EXIT_MISMATCH = EXIT_DATABASE

app = typer.Typer(help="Versions of a database's tables.", no_args_is_help=True)


class Output(StrEnum):
    text = "text"
    json = "json"


Db = Annotated[Path | None, typer.Option(help="SQLite file.", show_default=False)]
ConfigFile = Annotated[Path | None, typer.Option(envvar="OUTLAST_CONFIG", help="region.yaml.", show_default=False)]
StoreUrl = Annotated[str, typer.Option(help="As store.url of the configuration.", show_default=False)]
VisibilityUrl = Annotated[str, typer.Option(help="As visibility.url, if it is another database.", show_default=False)]
Form = Annotated[Output, typer.Option(help="For people, or for programs.")]

Work = Callable[[str, "Config"], Awaitable["Component"]]


@app.command("status")
def show_status(
    db: Db = None,
    config: ConfigFile = None,
    store_url: StoreUrl = "",
    visibility_url: VisibilityUrl = "",
    output: Form = Output.text,
) -> None:
    """Tell the versions found and the versions needed."""
    from ops.cli.schema_engines import status

    _report(_each(status, _databases(db, config, store_url, visibility_url)), output)


@app.command()
def check(
    db: Db = None,
    config: ConfigFile = None,
    store_url: StoreUrl = "",
    visibility_url: VisibilityUrl = "",
    output: Form = Output.text,
) -> None:
    """The same, with exit code 4 if something does not fit."""
    from ops.cli.schema_engines import status

    found = _each(status, _databases(db, config, store_url, visibility_url))
    _report(found, output)
    if not all(component.fits for component in found):
        raise typer.Exit(EXIT_MISMATCH)


@app.command("upgrade")
def run_upgrade(
    db: Db = None,
    config: ConfigFile = None,
    store_url: StoreUrl = "",
    visibility_url: VisibilityUrl = "",
    output: Form = Output.text,
) -> None:
    """Make the tables, or bring them to the version needed; exit code 4 if that cannot be done. Stop the nodes first."""
    from ops.cli.schema_engines import status, upgrade

    databases = _databases(db, config, store_url, visibility_url)
    before = _each(upgrade, databases)
    after = _each(status, databases)
    if output is Output.text:
        for old, new in zip(before, after, strict=True):
            if old.found != new.found:
                typer.echo(f"{new.database}: {new.component} schema upgraded from {old.found or 'none'} to {new.found}")
    _report(after, output)
    if not all(component.fits for component in after):
        raise typer.Exit(EXIT_MISMATCH)


def _databases(db: Path | None, config: Path | None, store_url: str, visibility_url: str) -> list[tuple[str, Config]]:
    """(component, database) of one of the ways to say which. Ends the command otherwise."""
    from cluster.node_config import NodeConfig
    from ops.region.reading import PREFIX, WrongSettings, read_settings
    from ops.region.settings import StoreSection, VisibilitySection
    from ops.region.values import node_config_of, store_config_of, visibility_config_of

    if db is not None and not db.exists():
        raise typer.BadParameter(f"{db} does not exist")
    if bool(visibility_url) and not store_url:
        raise typer.BadParameter("--visibility-url goes with --store-url")
    is_in_environment = any(name.startswith(f"{PREFIX}STORE__") for name in os.environ)
    if (db is not None) + bool(store_url) > 1 or not (db or store_url or config or is_in_environment):
        raise typer.BadParameter(f"say which database: --config, --store-url, --db, or {PREFIX}STORE__URL")
    try:
        if db is not None or store_url:  # above OUTLAST_CONFIG
            store = store_config_of(StoreSection(url=store_url or str(db)))
            listing = visibility_config_of(VisibilitySection(url=visibility_url)) if visibility_url else None
            node = NodeConfig(store=store, visibility=listing)
        else:
            node = node_config_of(read_settings(config))
    except WrongSettings as error:
        raise typer.Exit(complain(str(error), EXIT_USAGE)) from None
    except ValueError as error:  # pydantic's, which may quote a url with its password
        raise typer.Exit(complain(f"--store-url or --visibility-url: {_words(error)}", EXIT_USAGE)) from None
    found: list[tuple[str, Config]] = [("store", node.store_config)]
    if node.visibility is not None or node.store_config.kind != "cassandra":
        found.append(("visibility", node.visibility_config))
    return found


def _words(error: ValueError) -> str:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(found["msg"].removeprefix("Value error, ") for found in error.errors(include_input=False))


def _each(work: Work, databases: list[tuple[str, Config]]) -> list[Component]:
    async def run() -> list[Component]:
        return [await work(component, config) for component, config in databases]

    try:
        return asyncio.run(run())
    except ValueError as error:
        raise typer.Exit(complain(str(error), EXIT_USAGE)) from None
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        raise typer.Exit(complain(refusal.text, refusal.code)) from None


def _report(components: list[Component], output: Output) -> None:
    if output is Output.json:
        rows = [{**msgspec.to_builtins(each), "fits": each.fits, "advice": each.advice} for each in components]
        typer.echo(msgspec.json.encode({"fits": all(each.fits for each in components), "components": rows}).decode())
        return
    for each in components:
        typer.echo(f"{each.database}: {each.component} schema {each.found or 'none'}, needed {each.needed}: {each.advice}")
