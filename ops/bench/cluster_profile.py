"""Where does a node's time go on a given engine? One workflow scenario; the profile of the event loop's thread by cProfile.

cProfile about doubles the cost of calls, so read its shares, not its milliseconds. With py-spy on the PATH all threads are
sampled instead, from outside and without that cost, and the busiest functions are told by thread.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ops.bench import stage
from ops.bench.drive import run_scenario
from ops.bench.profiling import print_stats
from ops.bench.scenarios import SCENARIOS, TARGET_SCENARIO
from ops.bench.stage import Databases

SPY_RATE, SPY_STOP_S = 250, 30.0
TOP = 40


def profile_engine(engine: str, folder: Path, duration_s: float, modes: Sequence[str], console: Console) -> None:
    """Raises JobFailed, ServerFailed, ServiceUnavailable."""
    folder.mkdir(parents=True, exist_ok=True)
    scenario = next(each for each in SCENARIOS if each.name == TARGET_SCENARIO)
    spy, stats = shutil.which("py-spy"), folder / f"profile-{engine}.pstats"
    program = stage.METERED if spy else (sys.executable, "-m", "cProfile", "-o", str(stats), *stage.METERED[1:])
    for mode in modes:
        with ExitStack() as stack:
            databases = Databases(stack, folder / "databases")
            running = stack.enter_context(stage.single_node(databases, engine, folder, program))
            run_scenario(running.subject, scenario, mode, 1.0, 0.5)  # what is loaded and compiled once
            raw = folder / f"profile-{engine}-{mode}.txt"
            watching = _spy(spy, running.subject.server_pids[0], raw) if spy else None
            sample = run_scenario(running.subject, scenario, mode, duration_s)
            if watching is not None:
                watching.send_signal(signal.SIGINT)  # it writes what it has
                watching.wait(SPY_STOP_S)
        console.print(f"{engine}, {mode} load: {sample.per_s:.0f}/s, {sample.cpu_ms:.2f} ms of server CPU each", highlight=False)
        if watching is not None:
            print_samples(raw, console)
        else:
            print_stats(stats, sample.count, console)


def _spy(program: str, pid: int, raw: Path) -> subprocess.Popen[bytes]:
    command = [program, "record", "--pid", str(pid), "--format", "raw", "--threads", "--rate", str(SPY_RATE)]
    return subprocess.Popen([*command, "--output", str(raw)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def print_samples(path: Path, console: Console) -> None:
    """py-spy's raw form: `thread;outer;...;inner count` on each line."""
    own, with_callees, total = Counter[str](), Counter[str](), 0
    for line in path.read_text().splitlines():
        stack, _, number = line.rpartition(" ")
        frames = stack.split(";")
        count = int(number)
        total += count
        own[frames[-1]] += count
        with_callees.update(dict.fromkeys(frames, count))
    for title, found in (("own time", own), ("time with callees", with_callees)):
        table = Table("share", "function", title=f"by {title}", title_justify="left")
        for name, count in found.most_common(TOP):
            table.add_row(f"{100 * count / total:.1f} %", name)
        console.print(table)
