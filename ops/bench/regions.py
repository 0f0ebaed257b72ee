"""`python -m ops.bench.regions`: what a second region costs, and how fast one is filled and compared.

    bootstrap   runs that were there before the regions were linked: how many are told in a second
    verify      both regions compared, histories included
    latency     starts at a region by itself and at one that has another, in turn: close, 200 ms away, cut off
    throughput  workflows with one activity at both, in turn: CPU of each region, bytes between them

Results go to the screen, build/bench-regions.json and build/bench-regions.md. Exit code 1 if something failed or, with --check,
a target was missed.
"""

from __future__ import annotations

import importlib.metadata
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from ops.bench.drive import JobFailed, Subject, run_job, run_scenario
from ops.bench.job import Job, Sample
from ops.bench.regions_load import Latency, Paced
from ops.bench.regions_stage import NAMESPACE, Late, Stage, wait_for
from ops.bench.results import describe_machine
from ops.bench.scenarios import SCENARIOS, TARGET_SCENARIO
from ops.bench.usage import usage
from ops.cli.dev_linking import NotLinked
from ops.servers import ROOT, ServerFailed

SECTIONS = ("bootstrap", "verify", "latency", "throughput")
AWAY_S = 0.2
WAYS = {"close": (0.0, False), "200 ms away": (AWAY_S, False), "cut off": (0.0, True)}
PER_S = 50.0  # starts, at each server
FILL_CONCURRENCY = 32
SETTLE_S = 3.0
BROKEN = (JobFailed, ServerFailed, NotLinked, Late, OSError)

BOOTSTRAP_PER_S_MIN = 200.0
VERIFY_10_000_S_MAX = 60.0
LATENCY_RATIO_MAX = 1.1


class Results(msgspec.Struct):
    machine: dict[str, str]
    bootstrap: dict[str, float] = {}
    verify: dict[str, Any] = {}
    latency: dict[str, list[dict[str, Latency]]] = {}  # by way, one per round: by server
    throughput: dict[str, list[Sample]] = {}
    shipped_bytes: list[float] = []  # per workflow, one per round
    passive_cpu_ms: list[float] = []  # of the other region, per workflow
    failures: list[str] = []

    def latency_of(self, way: str, server: str, measure: str) -> float:
        return median(float(getattr(each[server], measure)) for each in self.latency[way])

    def rows(self) -> list[tuple[str, str, str]]:
        """What, the value, and the target ("" = none), with a ! before one that is missed."""
        found: list[tuple[str, str, str]] = []
        if self.bootstrap:
            per_s = self.bootstrap["per_s"]
            target = _target(per_s >= BOOTSTRAP_PER_S_MIN, f">= {BOOTSTRAP_PER_S_MIN:.0f}")
            found.append(("bootstrap, runs per second", f"{per_s:,.0f}", target))
            for name in ("runs", "seconds", "cpu_ms_one", "cpu_ms_two", "bytes_each"):
                found.append((f"bootstrap, {name.replace('_', ' ')}", f"{self.bootstrap[name]:,.2f}", ""))
        if self.verify:
            seconds, runs = self.verify["seconds"], self.verify["runs_here"]
            bound_s = VERIFY_10_000_S_MAX * max(runs, 10_000) / 10_000
            is_met = seconds <= bound_s and self.verify["verdict"] == "equal"
            what = f"verification of {runs:,} runs: {self.verify['verdict']}"
            found.append((what, f"{seconds:.2f} s", _target(is_met, f"<= {bound_s:.0f} s")))
        for way in self.latency:
            for measure in ("p50_ms", "p99_ms"):
                ours, alone = self.latency_of(way, "one", measure), self.latency_of(way, "alone", measure)
                is_target = measure == "p99_ms" and way != "close"
                ratio = f"{ours / alone:.2f}"
                target = _target(ours <= LATENCY_RATIO_MAX * alone, f"ratio <= {LATENCY_RATIO_MAX}") if is_target else ""
                what = f"start {measure[:3]} with the other region {way}"
                found.append((what, f"{ours:.2f} ms, alone {alone:.2f} ms: {ratio}", target))
        for server, samples in self.throughput.items():
            found.append((f"workflows per second, {server}", f"{median(one.per_s for one in samples):,.0f}", ""))
            found.append((f"CPU per workflow, {server}", f"{median(one.cpu_ms for one in samples):.2f} ms", ""))
        if self.shipped_bytes:
            found.append(("CPU per workflow in the other region", f"{median(self.passive_cpu_ms):.2f} ms", ""))
            found.append(("bytes between the regions per workflow", f"{median(self.shipped_bytes):,.0f}", ""))
        return found


def _target(is_met: bool, text: str) -> str:
    return text if is_met else f"! {text}"


class Bench:
    """One run of some sections on one stage."""

    def __init__(self, stage: Stage, console: Console, results: Results, duration_s: float, rounds: int) -> None:
        self.stage, self.console, self.results = stage, console, results
        self._duration_s, self._rounds = duration_s, rounds

    def fill(self, runs: int) -> None:
        """The region that stays alone as well, so that the two are alike."""
        for region in (self.stage.alone, self.stage.one):
            job = Job(
                scenario="fill", load="fill_pending", mode="raw", addresses=(region.address,), namespace=NAMESPACE,
                server_pids=(region.pid,), duration_s=1e9, concurrency=FILL_CONCURRENCY, count_max=runs, settle_s=0.0,
            )  # fmt: skip
            run_job(job, 60 + runs / 25)
        wait_for("all runs are listed", lambda: self.stage.one.runs_count() >= runs)
        time.sleep(6.0)  # a checkpoint: what is told are rows

    def bootstrap(self, runs: int) -> None:
        """Links the regions. The time begins when that is said."""
        stage = self.stage
        before = [usage(region.pid) for region in (stage.one, stage.two)]
        began, bytes_before = time.monotonic(), stage.bytes_count()
        stage.link()
        wait_for("all runs are in the other region", lambda: stage.two.runs_count() >= runs)
        seconds = time.monotonic() - began
        stage.wait_told()
        after = [usage(region.pid) for region in (stage.one, stage.two)]
        cpu = [1000 * (late.cpu_s - early.cpu_s) / max(1, runs) for early, late in zip(before, after, strict=True)]
        self.results.bootstrap = {
            "runs": runs, "seconds": seconds, "per_s": runs / seconds, "cpu_ms_one": cpu[0], "cpu_ms_two": cpu[1],
            "bytes_each": (stage.bytes_count() - bytes_before) / max(1, runs),
        }  # fmt: skip

    def verify(self) -> None:
        self.results.verify = self.stage.one.verify()

    def latency(self) -> None:
        stage = self.stage
        for number in range(self._rounds):
            ways = list(WAYS)
            for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                delay_s, is_cut = WAYS[way]
                stage.apart(delay_s)
                stage.cut(is_cut)
                time.sleep(1.0)
                addresses = {"alone": stage.alone.address, "one": stage.one.address}
                job = Paced(addresses=addresses, per_s=PER_S, duration_s=self._duration_s)
                found = run_paced(job)
                self.results.latency.setdefault(way, []).append(found)
                self.console.print(f"{way}: {found}", highlight=False, markup=False)
                stage.apart(0.0)
                stage.cut(False)
                waited_s = stage.wait_told()
                self.console.print(f"{way}: the other region had everything {waited_s:.1f} s later", highlight=False)

    def throughput(self) -> None:
        stage = self.stage
        scenario = next(each for each in SCENARIOS if each.name == TARGET_SCENARIO)
        for _ in range(self._rounds):
            alone = run_scenario(Subject((stage.alone.address,), (stage.alone.pid,)), scenario, "raw", self._duration_s, SETTLE_S)
            self.results.throughput.setdefault("alone", []).append(alone)
            bytes_before, cpu_before = stage.bytes_count(), usage(stage.two.pid).cpu_s
            linked = run_scenario(Subject((stage.one.address,), (stage.one.pid,)), scenario, "raw", self._duration_s, SETTLE_S)
            stage.wait_told()
            self.results.throughput.setdefault("with another region", []).append(linked)
            self.results.shipped_bytes.append((stage.bytes_count() - bytes_before) / linked.count)
            self.results.passive_cpu_ms.append(1000 * (usage(stage.two.pid).cpu_s - cpu_before) / linked.count)
            self.console.print(f"workflows per second: alone {alone.per_s:.0f}, linked {linked.per_s:.0f}", highlight=False)


def run_paced(job: Paced) -> dict[str, Latency]:
    """Raises JobFailed."""
    command = [sys.executable, "-m", "ops.bench.regions_load", msgspec.json.encode(job).decode()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=job.duration_s + 60, check=True)
    except subprocess.SubprocessError as failure:
        raise JobFailed(f"{failure}: {getattr(failure, 'stderr', '')}") from failure
    return msgspec.json.decode(done.stdout.strip().rpartition("\n")[2].encode(), type=dict[str, Latency])


def main(
    quick: Annotated[bool, typer.Option("--quick", help="short runs: a look, not a measurement")] = False,
    only: Annotated[str, typer.Option(help=f"some of {', '.join(SECTIONS)}")] = ",".join(SECTIONS),
    runs: Annotated[int, typer.Option(help="before the regions are linked; 0: 10,000, or 1,000 with --quick")] = 0,
    rounds: Annotated[int, typer.Option(help="of latency and throughput; 0: 3, or 1 with --quick")] = 0,
    duration: Annotated[float, typer.Option(help="seconds each; 0: 15, or 5 with --quick")] = 0.0,
    check: Annotated[bool, typer.Option("--check", help="exit code 1 if a target is missed")] = False,
) -> None:
    """Measures what regions cost."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # the servers are stopped on the way out
    console = Console()
    console = console if console.is_terminal else Console(width=150)
    sections = [one.strip() for one in only.split(",")]
    if unknown := set(sections) - set(SECTIONS):
        raise typer.BadParameter(f"unknown: {', '.join(sorted(unknown))}")
    runs = runs or (1_000 if quick else 10_000)
    results = Results(describe_machine({"outlast": importlib.metadata.version("outlast")}))
    with ExitStack() as stack:
        stage = Stage(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outlast-bench-regions-"))))
        for region in (stage.alone, stage.one, stage.two):
            stack.enter_context(region)
        for link in stage.links.values():
            stack.enter_context(link)
        bench = Bench(stage, console, results, duration or (5.0 if quick else 15.0), rounds or (1 if quick else 3))
        try:
            if "bootstrap" in sections:
                bench.fill(runs)
            bench.bootstrap(runs if "bootstrap" in sections else 0)
            for section in ("verify", "latency", "throughput"):
                if section in sections:
                    getattr(bench, section)()
        except BROKEN as failure:
            results.failures.append(f"{type(failure).__name__}: {failure}")
    _tell(results, console)
    if results.failures or (check and any(target.startswith("!") for _, _, target in results.rows())):
        raise typer.Exit(1)


def _tell(results: Results, console: Console) -> None:
    rows = results.rows()
    table = Table("what", "value", "target (! = missed)", title="Regions")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for failure in results.failures:
        console.print(f"failed: {failure}", style="red", markup=False)
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    (build / "bench-regions.json").write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2))
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    lines = ["# Regions", "", machine, "", "| what | value | target |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    (build / "bench-regions.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
