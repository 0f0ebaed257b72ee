"""`make demo-nexus`: orders through three teams that only call each other by Nexus. Exit code 0 only if all is right."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ops.demo_nexus.audit import Report
from ops.demo_nexus.servers import OneServer, Servers, TwoRegions
from ops.demo_nexus.stage import NexusStage
from ops.servers import ROOT, ServerFailed

DIRECTORY = ROOT / "build" / "demo_nexus"
ORDERS_MIN, ORDERS_MAX = 8, 500  # below, the trouble has nothing to interrupt; above, a minute is over
PROBLEMS_MAX = 20


class Output(StrEnum):
    text = "text"
    json = "json"


def main(
    output: Annotated[Output, typer.Option(help="text for people, json for programs")] = Output.text,
    orders: Annotated[int, typer.Option(min=ORDERS_MIN, max=ORDERS_MAX)] = 24,
    failover: Annotated[bool, typer.Option("--failover", help="two regions, and the teams are moved, instead of a kill")] = False,
    trouble: Annotated[bool, typer.Option(help="the kill or the failover in the middle")] = True,
) -> None:
    """Places orders while the server is killed or teams are moved, and checks: each paid once, shipped once or refunded once."""
    console = Console(stderr=output is Output.json, width=None if sys.stdout.isatty() else 150)
    try:
        servers: Servers = TwoRegions(DIRECTORY) if failover else OneServer(DIRECTORY)
        stage = NexusStage(DIRECTORY, servers, orders, trouble, lambda line: console.print(line, markup=False, highlight=False))
        report = asyncio.run(stage.perform())
    except ServerFailed as failure:
        console.print(f"The demo could not finish: {failure}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from failure
    except BaseExceptionGroup as failures:
        for one in failures.exceptions:
            console.print(f"The demo could not finish: {one!r}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from failures
    if output is Output.json:
        json.dump(dataclasses.asdict(report), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        show(report, console)
    raise typer.Exit(1 if report.problems else 0)


def show(report: Report, console: Console) -> None:
    verdict = "all is right" if not report.problems else f"{len(report.problems)} problems"
    table = Table(title="three teams, and only Nexus between them", title_justify="left", show_header=False)
    table.add_row("orders", f"{report.shipped} shipped + {report.refunded} refunded = {report.orders}", verdict)
    callers = ", ".join(f"{count} by {name}" for name, count in sorted(report.by_caller.items()))
    table.add_row("placed", callers, "plain HTTP, results by long poll")
    runs = ", ".join(f"{count} in {namespace}" for namespace, count in report.runs.items())
    table.add_row("runs", runs, "each once, none without its caller")
    table.add_row("operations", f"{report.operations} in callers' histories", f"{report.links} with a run of the handler, linked")
    table.add_row("trouble", report.trouble or "none", f"after {report.done_before} orders")
    again = f"{report.turned_away} times 503 by the depot"
    table.add_row("asked again", again, f"{report.unknown_results} times a gateway's region did not know the order yet")
    table.add_row("time", f"{report.seconds:.1f} s", "after set-up")
    console.print(table)
    for problem in report.problems[:PROBLEMS_MAX]:
        console.print(f"  {problem}", style="red", markup=False, highlight=False)
    build = DIRECTORY.relative_to(ROOT)
    console.print(f"the logs and the ledger   {build}/", highlight=False)
    console.print("the teams' code           ops/demo_nexus/teams.py, depot.mjs; the contracts: contracts/", highlight=False)


if __name__ == "__main__":
    typer.run(main)
