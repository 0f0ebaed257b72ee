"""`make drill`: see the package's README. Exit code 1 when a promise was broken."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from chaos.regions.drill import Drill, DrillFailed
from chaos.regions.report import Outcome
from ops.servers import ServerFailed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.regions", description=__doc__)
    parser.add_argument("course", nargs="?", choices=("kill", "graceful"), default="kill")
    parser.add_argument("--namespaces", type=int, default=500)
    parser.add_argument("--failovers", type=int, default=20, help="of the graceful course")
    parser.add_argument("--seconds", type=float, default=10.0, help="of load before the kill; a fifth between failovers")
    parser.add_argument("--stores", default="sqlite,sqlite")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="outlast-drill-") as directory:
        drill = Drill(Path(directory), options.stores, options.namespaces, options.seed, lambda text: print(text, flush=True))
        try:
            report = asyncio.run(_course(drill, options))
        except (DrillFailed, ServerFailed) as error:
            print(f"the drill failed: {error}", file=sys.stderr)
            return 1
    print(report.text())
    for problem in report.problems:
        print(f"BROKEN: {problem}")
    print("every promise was kept" if not report.problems else f"{len(report.problems)} promises were broken")
    return 1 if report.problems else 0


async def _course(drill: Drill, options: argparse.Namespace) -> Outcome:
    if options.course == "kill":
        return await drill.kill(options.seconds, options.seconds / 2)
    return await drill.graceful(options.failovers, options.seconds / 5)


if __name__ == "__main__":
    sys.exit(main())
