"""Where does the server's time go? One scenario under a profiler: py-spy where it is installed, else cProfile.

cProfile sees the event loop's thread only and about doubles the cost of calls, so read its shares, not its milliseconds.
"""

from __future__ import annotations

import pstats
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ops.bench.drive import run_scenario, subject_of
from ops.bench.scenarios import SCENARIOS, TARGET_SCENARIO
from ops.servers import ROOT, OutlastServer

TOP = 30


def profile(directory: Path, duration_s: float, mode: str, console: Console) -> None:
    """Prints the top functions by own time and by time with callees; leaves the full profile in build/. Raises JobFailed."""
    directory.mkdir(parents=True, exist_ok=True)
    spy, out = shutil.which("py-spy"), directory.parent / "bench-profile"
    if spy:
        speedscope = out.with_suffix(".speedscope.json")
        prefix = [spy, "record", "--format", "speedscope", "--rate", "200", "--output", str(speedscope), "--", sys.executable]
    else:
        prefix = [sys.executable, "-m", "cProfile", "-o", str(out.with_suffix(".pstats"))]
    scenario = next(each for each in SCENARIOS if each.name == TARGET_SCENARIO)
    server = OutlastServer(directory, prefix=prefix)
    server.start()
    try:
        sample = run_scenario(subject_of(server), scenario, mode, duration_s)
    finally:
        server.stop()
    console.print(f"{scenario.name}, {mode} load, profiled: {sample.per_s:.0f}/s, {sample.cpu_ms:.2f} ms of server CPU each")
    if spy:
        console.print(f"open {speedscope} at https://www.speedscope.app")
        return
    print_stats(out.with_suffix(".pstats"), sample.count, console)


def print_stats(path: Path, count: int, console: Console) -> None:
    if not path.exists():
        console.print(f"the server left no profile at {path}: did it end by itself at SIGTERM?", style="red")
        return
    # Keyed by (file, line, name); its public face, get_stats_profile, merges functions of one name and rounds to milliseconds.
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = vars(pstats.Stats(str(path)))["stats"]
    total = sum(row[2] for row in stats.values())
    for title in ("own time", "time with callees"):
        table = Table(title=f"by {title} (us per measured workflow, of {1e6 * total / count:,.0f})", title_justify="left")
        for column in ("us", "share", "calls", "function"):
            table.add_column(column, justify="left" if column == "function" else "right", no_wrap=True)
        spent_by = {place: row[2] if title == "own time" else row[3] for place, row in stats.items()}
        for key in sorted(spent_by, key=spent_by.__getitem__, reverse=True)[:TOP]:
            (file_name, line, name), spent = key, spent_by[key]
            where = f"{Path(file_name).relative_to(ROOT)}:{line}" if _ours(file_name) else Path(file_name).name
            table.add_row(f"{1e6 * spent / count:,.1f}", f"{100 * spent / total:.1f} %", str(stats[key][1]), f"{name}  {where}")
        console.print(table)


def _ours(file_name: str) -> bool:
    path = Path(file_name)
    return path.is_relative_to(ROOT) and ".venv" not in path.parts
