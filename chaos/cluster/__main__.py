"""`python -m chaos.cluster --faults 50 --store postgres --seed 1`: exit code 0 if every promise was kept.

Courses: faults (default), rolling, resize, versions; see courses.py. Timeline, ledger, logs and report.json are left in --out.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console

from chaos.cluster.campaign import run_campaign
from chaos.cluster.courses import COURSES
from chaos.cluster.plan import Plan, Report
from chaos.cluster.region import KINDS
from chaos.cluster.releases import newest_release

SHOWN_PER_CHECK_MAX = 5


def parse(arguments: list[str]) -> Plan:
    parser = argparse.ArgumentParser(prog="python -m chaos.cluster", description=__doc__)
    parser.add_argument("--course", choices=sorted(COURSES), default="faults")
    parser.add_argument("--store", choices=sorted(KINDS), default="postgres")
    parser.add_argument("--faults", type=int, default=50, help="how many nodes are killed, frozen or paused (default 50)")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--seed", type=int, default=None, help="repeats the choices of a campaign (not its timing)")
    parser.add_argument("--release", default="", help="the old version, for `versions` (default: the newest tag release-*)")
    parser.add_argument("--out", type=Path, default=Path("build/cluster"), help="where everything is left")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    release = (options.release or newest_release()) if options.course == "versions" else ""
    if options.course == "versions" and not release:
        parser.error("there is no tag release-* yet: name the old version with --release COMMIT")
    return Plan(
        seed=seed,
        folder=options.out.absolute() / f"{options.course}-{options.store}-{seed}",
        course=options.course,
        store=options.store,
        faults=options.faults,
        nodes=options.nodes,
        shards=options.shards,
        release=release,
    )


def show(report: Report, console: Console) -> None:
    plan = report.plan
    console.print(f"{plan.course} on {plan.store}: {report.seconds:.0f} s, seed {plan.seed}; quiet after {report.quiet_s:.1f} s")
    console.print(f"{report.acks} acks, {report.runs} runs with {report.events} events")
    console.print("ledger: " + ", ".join(f"{count} {name}" for name, count in report.counts.items()))
    for name, figure in report.figures.items():
        console.print(f"{name}: {figure}", markup=False)
    checks = Counter(violation.check for violation in report.violations)
    for check, count in sorted(checks.items()):
        console.print(f"VIOLATED {check}: {count} times")
        for violation in [found for found in report.violations if found.check == check][:SHOWN_PER_CHECK_MAX]:
            console.print(f"  {violation}", markup=False)
    console.print(f"timeline, ledger, logs and report.json in {plan.folder}")
    if report.passed:
        console.print("every promise was kept")


def main(arguments: list[str]) -> int:
    console = Console(soft_wrap=True, highlight=False)
    plan = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else its databases and nodes would outlive it
    console.print(f"cluster campaign: {plan.course} of {plan.nodes} nodes on {plan.store}, seed {plan.seed}")
    report = asyncio.run(run_campaign(plan, console))
    show(report, console)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
