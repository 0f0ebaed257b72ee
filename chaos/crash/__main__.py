"""`python -m chaos.crash --kills 200 [--seed N] [--short] [--address HOST:PORT]`: exit code 0 if every promise was kept."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console

from chaos.crash.campaign import Campaign, Plan, Report

SHOWN_PER_CHECK_MAX = 5


def parse(arguments: list[str]) -> Plan:
    parser = argparse.ArgumentParser(prog="python -m chaos.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how often the server gets SIGKILL (default 200, about 8 minutes)")
    parser.add_argument("--seed", type=int, default=None, help="repeats the choices of a campaign (not its timing)")
    parser.add_argument("--short", action="store_true", help="15 kills, under a minute: for `make test`")
    parser.add_argument("--address", default="", help="a server that runs already; nothing is killed")
    parser.add_argument("--peer", default="", metavar="TEMPORAL_CLI", help="kills `temporal server start-dev` instead of Outlast")
    parser.add_argument("--load-s", type=float, default=20.0, help="length of the load with --address")
    parser.add_argument("--quiet-s", type=float, default=60.0, help="within this time after the last kill every run must end")
    parser.add_argument("--out", type=Path, default=Path("build/crash"), help="where timeline, ledger and histories go")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    kills = 0 if options.address else 15 if options.short else options.kills
    return Plan(
        seed=seed,
        kills=kills,
        folder=options.out / str(seed),
        address=options.address,
        peer_cli=options.peer,
        load_s=options.load_s,
        quiet_s_max=min(options.quiet_s, 30.0) if options.short else options.quiet_s,
        tag=f"-{secrets.token_hex(3)}-" if options.address else "",
        clock_tolerance_ns=100_000_000 if options.address or options.peer else 0,
        acks_min=100 if options.address else 10 * kills,
    )


def show(report: Report, console: Console) -> None:
    plan = report.plan
    console.print(
        f"{report.kills_done} kills ({report.kills_while_starting} before ready) in {report.seconds:.1f} s, seed {plan.seed}"
    )
    console.print(f"{report.runs} runs with {report.events} events; quiet after {report.quiet_s:.1f} s")
    console.print("ledger: " + ", ".join(f"{count} {name}" for name, count in report.counts.items()))
    for name, figure in report.figures.items():
        console.print(f"{name}: {figure}")
    checks = Counter(violation.check for violation in report.violations)
    for check, count in sorted(checks.items()):
        console.print(f"VIOLATED {check}: {count} times")
        for violation in [found for found in report.violations if found.check == check][:SHOWN_PER_CHECK_MAX]:
            console.print(f"  {violation}", markup=False)
    if report.violations:
        console.print(f"{len(report.violations)} violations; timeline, ledger and histories in {plan.folder}")
    else:
        console.print("every acknowledged start, signal, update and completion is recorded once; every run ended; balances hold")


def main(arguments: list[str]) -> int:
    console = Console(soft_wrap=True, highlight=False)
    plan = parse(arguments)
    target = plan.address or ("temporal server start-dev" if plan.peer_cli else "outlast dev")
    console.print(f"crash campaign against {target}: {plan.kills} kills, seed {plan.seed}")
    report = asyncio.run(Campaign(plan, console).run())
    show(report, console)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
