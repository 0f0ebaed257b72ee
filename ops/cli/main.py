"""`outlast`: the commands and their help. What a command does is in its own file, imported when it runs."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="outlast",
    help="A durable workflow server that speaks the public Temporal API: official SDKs, the temporal CLI and UI work unchanged.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"outlast {version('outlast')}")
        raise typer.Exit


@app.callback()
def outlast(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Outlast."""


@app.command()
def dev(
    ip: Annotated[str, typer.Option(help="Address to listen on; loopback only while no security is configured.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0 lets the system choose.")] = 7233,
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of /healthz and /metrics.")] = 7243,
    db: Annotated[
        Path | None,
        typer.Option(help="SQLite file, with --regions a directory; without it all is lost at exit.", show_default=False),
    ] = None,
    sync: Annotated[str, typer.Option(help="full, or normal (may lose the last moments at power loss).")] = "full",
    namespace: Annotated[list[str] | None, typer.Option(help="Namespace to make besides default; repeatable.")] = None,
    search_attribute: Annotated[
        list[str] | None, typer.Option(metavar="NAME=TYPE", help="Search attribute of these namespaces; repeatable.")
    ] = None,
    shards: Annotated[
        int | None, typer.Option(min=1, max=1024, help="History shards of a new database, 4 if not said.", show_default=False)
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "warning",
    regions: Annotated[int, typer.Option(min=1, max=3, help="Linked regions, named one, two, three, each a process.")] = 1,
    stores: Annotated[
        str, typer.Option(help="With --regions: sqlite, postgres, mariadb, cassandra; one, or a list.", show_default=False)
    ] = "",
    restart: Annotated[bool, typer.Option("--restart", help="With --regions: start a region that ended again.")] = False,
    region: Annotated[str, typer.Option(help="Run one region of a directory of --regions again.", show_default=False)] = "",
) -> None:
    """Run one server on this machine, for development, or several linked regions."""
    from ops.cli.dev import run
    from ops.cli.dev_options import DevOptions

    raise typer.Exit(
        run(
            DevOptions(
                ip=ip,
                port=port,
                http_port=http_port,
                db=db,
                sync=sync,
                namespaces=tuple(namespace or ()),
                search_attributes=tuple(search_attribute or ()),
                shards=shards,
                log_level=log_level,
                regions=regions,
                stores=stores,
                restart=restart,
                region=region,
            )
        )
    )


@app.command()
def server(
    config: Annotated[
        Path | None,
        typer.Option(envvar="OUTLAST_CONFIG", help="region.yaml; OUTLAST_... variables are put over it.", show_default=False),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Node processes of this machine behind one port.", show_default=False)
    ] = None,
    print_config: Annotated[bool, typer.Option(help="Print what is in effect, with secrets hidden, and exit.")] = False,
    json_schema: Annotated[bool, typer.Option(help="Print the JSON Schema of the configuration, and exit.")] = False,
) -> None:
    """Run one node of a region's cluster."""
    from ops.cli import server as command

    if json_schema:
        typer.echo(command.json_schema(), nl=False)
        return
    raise typer.Exit(command.run(config, processes, print_config))


def add_groups(asked: str = "") -> None:
    """Commands of commands. Their modules are imported only if they are asked for, or for the help ("")."""
    if asked in ("schema", ""):
        from ops.cli.schema import app as schema

        app.add_typer(schema, name="schema")
    if asked in ("cluster", ""):
        from ops.cli.cluster import app as cluster

        app.add_typer(cluster, name="cluster")
    if asked in ("region", ""):
        from ops.cli.region import app as region

        app.add_typer(region, name="region")
    if asked in ("failover", ""):
        from ops.cli.failover import app as failover

        app.add_typer(failover, name="failover")
    if asked in ("nexus", ""):
        from ops.cli.nexus import app as nexus

        app.add_typer(nexus, name="nexus")
    if asked in ("ledger", ""):
        from ops.cli.ledger import ledger

        app.command()(ledger)


def main() -> None:
    add_groups(next((word for word in sys.argv[1:] if not word.startswith("-")), ""))
    app()


if __name__ == "__main__":
    main()
