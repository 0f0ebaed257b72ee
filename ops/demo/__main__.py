"""`make demo`: 200 money transfers through three kills of the server and one of the worker, then the balance check.

Exit code 0 only if every cent is where it belongs.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ops.demo.audit import Report
from ops.demo.bank import TRANSFERS_MAX
from ops.demo.stage import Stage
from ops.servers import ROOT, OutlastServer, PeerServer, Server, ServerFailed

DIRECTORY = ROOT / "build" / "demo"
TRANSFERS_MIN = 20  # below that the kills have nothing to interrupt


class Output(StrEnum):
    text = "text"
    json = "json"


class Which(StrEnum):
    outlast = "outlast"
    peer = "peer"


def main(
    output: Annotated[Output, typer.Option(help="text for people, json for programs")] = Output.text,
    transfers: Annotated[int, typer.Option(min=TRANSFERS_MIN, max=TRANSFERS_MAX)] = 200,
    seed: Annotated[int, typer.Option(help="draws accounts and amounts")] = 1,
    server: Annotated[Which, typer.Option(help="peer: the real server, where it is built, for comparison")] = Which.outlast,
) -> None:
    """Transfers money while processes are killed, and checks that none was lost, doubled or left between two accounts."""
    console = Console(stderr=output is Output.json, width=None if sys.stdout.isatty() else 120)
    which: Server = OutlastServer(DIRECTORY / "server") if server is Which.outlast else PeerServer()
    try:
        report = perform(which, transfers, seed, console)
    except ServerFailed as failure:
        console.print(f"The demo could not finish: {failure}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from failure
    report.look_next = look_next(which)
    if output is Output.json:
        json.dump(dataclasses.asdict(report), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        show(report, console)
    raise typer.Exit(1 if report.problems else 0)


def perform(server: Server, transfers: int, seed: int, console: Console) -> Report:
    if not console.is_terminal:
        step = max(transfers // 10, 1)

        def say(done: int) -> None:
            if done % step == 0:
                console.print(f"{done:>4} of {transfers} transfers done", highlight=False)

        stage = Stage(DIRECTORY, server, transfers, seed, lambda line: console.print(line, highlight=False), say)
        return asyncio.run(stage.perform())
    columns = (TextColumn("transfers"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        job = bar.add_task("transfers", total=transfers)
        stage = Stage(DIRECTORY, server, transfers, seed, bar.console.print, lambda done: bar.update(job, completed=done))
        return asyncio.run(stage.perform())


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


def show(report: Report, console: Console) -> None:
    table = Table(title="balance check", title_justify="left", show_header=False)
    verdict = "[green]ok[/]" if not report.problems else "[red]WRONG[/]"
    table.add_row("sum of all accounts", f"{money(report.cents_before)} before, {money(report.cents_after)} after", verdict)
    table.add_row("transfers", f"{report.transferred} transferred + {report.refunded} refunded = {report.transfers}", "")
    table.add_row("killed with SIGKILL", f"server {report.server_kills} times, worker {report.worker_kills} time(s)", "")
    table.add_row("activities retried", f"{report.retried_activities}", "by the histories: attempt > 1")
    table.add_row("bookings asked for again", f"{report.repeated_bookings}", "and booked once: the bank's key is the transfer id")
    table.add_row("client calls repeated", f"{report.repeated_calls}", "beyond the SDK's own retries")
    table.add_row("time", f"{report.seconds:.1f} s", "")
    console.print(table)
    for problem in report.problems[:20]:
        console.print(f"wrong: {problem}", style="red", markup=False)
    if len(report.problems) > 20:
        console.print(f"... and {len(report.problems) - 20} more", style="red")
    console.print("where to look next", style="bold")
    for line in report.look_next:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def money(cents: int) -> str:
    return f"{cents // 100:,}.{cents % 100:02}"


if __name__ == "__main__":
    typer.run(main)

