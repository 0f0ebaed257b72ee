"""`make bench`: what Outlast does and what it costs, next to the real server where that is built.

The same load runs on both in the same run, alternating scenario by scenario; the load is a process of its own. Results go to
the screen, build/bench.json and build/bench.md. Exit code 1 if a scenario failed or, with --check, a target was missed.
"""

from __future__ import annotations

import importlib.metadata
import signal
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from ops.bench.drive import JobFailed, measure_idle, run_scenario, subject_of
from ops.bench.profiling import profile as run_profile
from ops.bench.results import Results, as_json, describe_machine, markdown, show, verdicts
from ops.bench.scenarios import SCENARIOS
from ops.servers import ROOT, OutlastServer, PeerServer, Server, ServerFailed, peer_version

BUILD = ROOT / "build"
IDLE_COUNT, IDLE_COUNT_PEER, IDLE_WATCH_S, DURATION_S = 100_000, 3_000, 60.0, 10.0
QUICK_IDLE_COUNT, QUICK_IDLE_COUNT_PEER, QUICK_IDLE_WATCH_S, QUICK_DURATION_S = 2_000, 300, 10.0, 3.0


class Mode(StrEnum):
    sdk = "sdk"
    raw = "raw"
    both = "both"


class Target(StrEnum):
    both = "both"
    outlast = "outlast"
    peer = "peer"


def main(
    quick: Annotated[bool, typer.Option("--quick", help="short runs: a look, not a measurement")] = False,
    only: Annotated[str, typer.Option(help="scenarios whose name contains this")] = "",
    mode: Annotated[Mode, typer.Option(help="load by the official SDK, by scripted calls, or both")] = Mode.both,
    target: Annotated[Target, typer.Option(help="which servers")] = Target.both,
    rounds: Annotated[int, typer.Option(min=1, help="each scenario this often; the table shows medians")] = 1,
    duration: Annotated[float, typer.Option(help="seconds per scenario; 0: 10, or 3 with --quick")] = 0.0,
    idle: Annotated[int, typer.Option(help="idle workflows on Outlast; -1: 100,000 or 2,000 with --quick; 0: none")] = -1,
    idle_peer: Annotated[int, typer.Option(help="the same on the real server; -1: 3,000 or 300 with --quick; 0: none")] = -1,
    shards: Annotated[int, typer.Option(min=1, help="of Outlast")] = 4,
    profile: Annotated[bool, typer.Option("--profile", help="only profile Outlast with one activity per workflow")] = False,
    check: Annotated[bool, typer.Option("--check", help="exit code 1 if a target of the project is missed")] = False,
) -> None:
    """Measures throughput, CPU, latency, writes, memory, and what idle workflows cost."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # as Ctrl-C does: the servers are stopped on the way out
    console = Console()
    console = console if console.is_terminal else Console(width=150)
    duration_s = duration or (QUICK_DURATION_S if quick else DURATION_S)
    modes = ["sdk", "raw"] if mode is Mode.both else [mode.value]
    if profile:
        for each in modes:
            run_profile(BUILD / "bench-data", duration_s, each, console)
        return
    servers = choose_servers(target, shards, console)
    results = Results(describe_machine({"outlast": importlib.metadata.version("outlast"), "real server": peer_version()}))
    if float(results.machine["load before"]) > 0.5:
        busy = f"the machine is busy (load {results.machine['load before']}): rates and latencies will suffer"
        console.print(busy, style="yellow")
    try:
        run_scenarios(results, servers, only, modes, rounds, duration_s, console)
        counts = {
            OutlastServer.name: idle if idle >= 0 else QUICK_IDLE_COUNT if quick else IDLE_COUNT,
            PeerServer.name: idle_peer if idle_peer >= 0 else QUICK_IDLE_COUNT_PEER if quick else IDLE_COUNT_PEER,
        }
        run_idle(results, servers, counts, QUICK_IDLE_WATCH_S if quick else IDLE_WATCH_S, console)
    finally:
        for server in servers:
            server.stop()
        BUILD.mkdir(exist_ok=True)
        (BUILD / "bench.json").write_bytes(as_json(results))
        (BUILD / "bench.md").write_text(markdown(results))
    show(results, console)
    console.print("written: build/bench.json, build/bench.md")
    missed = check and any(not met for met, _ in verdicts(results))
    raise typer.Exit(1 if results.failures or missed else 0)


def choose_servers(target: Target, shards: int, console: Console) -> list[Server]:
    servers: list[Server] = []
    if target is not Target.peer:
        servers.append(OutlastServer(BUILD / "bench-data", shards=shards))
    if target is not Target.outlast:
        if PeerServer.available():
            servers.append(PeerServer())
        elif target is Target.peer:
            raise typer.BadParameter("the real server is not built: ../shared/peer/peer.sh install")
        else:
            console.print("the real server is not built (../shared/peer/peer.sh install): Outlast alone", style="yellow")
    return servers


def run_scenarios(
    results: Results, servers: Sequence[Server], only: str, modes: Sequence[str], rounds: int, duration_s: float, console: Console
) -> None:
    """Both servers are up all the time; which one goes first changes with each scenario."""
    plan = [(mode, each) for _ in range(rounds) for mode in modes for each in SCENARIOS if only in each.name]
    if not plan:
        return
    for server in servers:
        server.start()
    for number, (mode, scenario) in enumerate(plan):
        for server in servers if number % 2 == 0 else list(reversed(servers)):
            try:
                sample = run_scenario(subject_of(server), scenario, mode, duration_s)
            except (JobFailed, ServerFailed, FileNotFoundError) as failure:  # the last: the server is gone
                results.failures.append(f"{scenario.name}, {mode} load, {server.name}: {failure}")
                console.print(f"{scenario.name}, {mode} load, {server.name}: failed", style="red")
                if not server.alive():
                    server.restart()
                continue
            results.add(server.name, sample)
            console.print(
                f"[{number + 1}/{len(plan)}] {scenario.name}, {mode} load, {server.name}: "
                f"{sample.per_s:,.0f}/s, {sample.cpu_ms:.2f} ms CPU", highlight=False,
            )  # fmt: skip
    for server in servers:
        server.stop()


def run_idle(results: Results, servers: Sequence[Server], counts: dict[str, int], watch_s: float, console: Console) -> None:
    for load in ("fill_pending", "fill_timers"):
        for server in servers:
            if not counts[server.name]:
                continue
            try:
                results.idle.append((server.name, measure_idle(server, load, counts[server.name], watch_s, console.print)))
            except (JobFailed, ServerFailed, FileNotFoundError) as failure:
                results.failures.append(f"idle workflows, {load}, {server.name}: {failure}")
                server.stop()


if __name__ == "__main__":
    typer.run(main)
