"""`make demo`: 200 money transfers through the loss of a region, its return, and the way back; then the balance check.

Exit code 0 only if every cent is where it belongs, both regions have the same histories, and the ledger explains the rest.
`--server outlast` is the smaller story: one server, killed three times; `--server peer` the same on the real one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ops.demo.audit import Report
from ops.demo.bank import TRANSFERS_MAX
from ops.demo.region_audit import RegionReport
from ops.demo.region_stage import RegionStage
from ops.demo.showing import show, show_regions
from ops.demo.stage import Stage
from ops.servers import ROOT, OutlastServer, PeerServer, Server, ServerFailed

DIRECTORY = ROOT / "build" / "demo"
TRANSFERS_MIN = 20  # below that the kills have nothing to interrupt
R = TypeVar("R")
TOLD_COUNT = 10  # lines of progress where there is no terminal


class Output(StrEnum):
    text = "text"
    json = "json"


class Which(StrEnum):
    regions = "regions"
    outlast = "outlast"
    peer = "peer"


def main(
    output: Annotated[Output, typer.Option(help="text for people, json for programs")] = Output.text,
    transfers: Annotated[int, typer.Option(min=TRANSFERS_MIN, max=TRANSFERS_MAX // 2)] = 200,
    seed: Annotated[int, typer.Option(help="draws accounts and amounts")] = 1,
    server: Annotated[Which, typer.Option(help="regions: two; outlast, peer: one server, ours or the real one")] = Which.regions,
    stores: Annotated[str, typer.Option(envvar="STORES", help="sqlite, postgres, mariadb, cassandra: of each region")] = "sqlite",
) -> None:
    """Transfers money while processes are killed, and checks that none was lost, doubled or left between two accounts."""
    console = Console(stderr=output is Output.json, width=None if sys.stdout.isatty() else 120)
    try:
        report: Report | RegionReport
        if server is Which.regions:
            report = perform_regions(stores, transfers, seed, console)
        else:
            which: Server = OutlastServer(DIRECTORY / "server") if server is Which.outlast else PeerServer()
            report = perform(which, transfers, seed, console)
    except ServerFailed as failure:
        console.print(f"The demo could not finish: {failure}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from failure
    if output is Output.json:
        json.dump(dataclasses.asdict(report), sys.stdout, indent=2)
        sys.stdout.write("\n")
    elif isinstance(report, RegionReport):
        show_regions(report, console)
    else:
        show(report, console)
    raise typer.Exit(1 if report.problems else 0)


def perform_regions(stores: str, transfers: int, seed: int, console: Console) -> RegionReport:
    def course(tell: Callable[[str], None], progress: Callable[[int], None]) -> RegionReport:
        report = asyncio.run(RegionStage(DIRECTORY, stores, transfers, seed, tell, progress).perform())
        report.look_next = look_next_of_regions(stores)
        return report

    late = max(10, transfers // 10)
    return with_progress(console, transfers + late, course)


def perform(server: Server, transfers: int, seed: int, console: Console) -> Report:
    def course(tell: Callable[[str], None], progress: Callable[[int], None]) -> Report:
        report = asyncio.run(Stage(DIRECTORY, server, transfers, seed, tell, progress).perform())
        report.look_next = look_next(server)
        return report

    return with_progress(console, transfers, course)


def with_progress(console: Console, total: int, course: Callable[[Callable[[str], None], Callable[[int], None]], R]) -> R:
    if not console.is_terminal:
        step = max(total // TOLD_COUNT, 1)

        def say(done: int) -> None:
            if done % step == 0:
                console.print(f"{done:>4} of {total} transfers done", highlight=False)

        return course(lambda line: console.print(line, highlight=False), say)
    columns = (TextColumn("transfers"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        job = bar.add_task("transfers", total=total)
        return course(bar.console.print, lambda done: bar.update(job, completed=done))


def look_next_of_regions(stores: str) -> list[str]:
    build = DIRECTORY.relative_to(ROOT)
    regions = [
        f"the regions          .venv/bin/outlast dev --regions 2 --db {build}/regions",
        "                     then, in another terminal: .venv/bin/outlast region status, failover status, ledger",
    ]
    return [
        f"the bank's entries   {build}/accounts.db (sqlite3)",
        f"the logs             {build}/regions.log, {build}/region-one.log, {build}/worker-one.log, {build}/worker-two.log",
        *(regions if set(stores.split(",")) == {"sqlite"} else []),  # what was on a server is gone with it
        "the story            ops/demo/region_stage.py; the workflow: ops/demo/workflows.py",
        "why it holds         replication/README.md",
    ]


def look_next(server: Server) -> list[str]:
    build = DIRECTORY.relative_to(ROOT)
    log = server.log.relative_to(ROOT) if server.log.is_relative_to(ROOT) else server.log
    lines = [f"the bank's entries   {build}/accounts.db (sqlite3)", f"the logs             {log}, {build}/worker.log"]
    if isinstance(server, OutlastServer):
        lines.append(f"the histories        .venv/bin/outlast dev --db {server.database.relative_to(ROOT)}")
        lines.append("                     then, with the CLI: temporal workflow show -w transfer-0009 (one with a refund)")
    lines.append("the workflow         ops/demo/workflows.py; what was killed and when: ops/demo/stage.py")
    lines.append("why it survives      ARCHITECTURE.md")
    return lines


if __name__ == "__main__":
    typer.run(main)
