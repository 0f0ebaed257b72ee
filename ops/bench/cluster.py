"""`python -m ops.bench.cluster`: what a workflow costs on each store, over several processes and nodes, and by the hop.

    stores  each engine under one node, and the real server on PostgreSQL, all up at the same time and asked in turn
    scale   1, 2 and 4 processes behind one port, 2 and 4 nodes with etcd, on PostgreSQL, one after the other
    hop     the same load on a node that has all shards, and on one whose shards are on another node
    wire    a call between nodes by itself

The CPU and the bytes of the database server are told beside ours. Results go to the screen, build/bench-cluster.json and
build/bench-cluster.md. Exit code 1 if something failed or, with --check, a target was missed.
"""

from __future__ import annotations

import importlib.metadata
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from ops.bench import stage
from ops.bench.cluster_profile import profile_engine
from ops.bench.cluster_results import Results, as_json, markdown, show, verdicts
from ops.bench.drive import JobFailed, run_scenario
from ops.bench.job import SETTLE_S
from ops.bench.results import describe_machine
from ops.bench.scenarios import SCENARIOS, TARGET_SCENARIO, Scenario
from ops.bench.stage import Databases, Running
from ops.bench.wire_cost import CALLS, WireCost
from ops.servers import ROOT, PeerServer, ServerFailed, peer_version
from ops.services.databases import ENGINES
from ops.services.etcd import EtcdMissing
from ops.services.processes import ServiceUnavailable

SECTIONS = ("stores", "scale", "hop", "wire")
MODES = {"sdk": ("sdk",), "raw": ("raw",), "both": ("raw", "sdk")}
DURATION_S, QUICK_DURATION_S = 8.0, 2.0
SCALE_CONCURRENCY = 80
WIRE_TIMEOUT_S = 120.0
# Which parts each node plays; the first has the frontend that is loaded.
HOPS: dict[str, list[tuple[str, ...]]] = {
    "all in one node": [()],
    "shards on the other node": [("frontend", "matching", "system", "gateway"), ("history",)],
    "shards and queues on the other node": [("frontend", "system", "gateway"), ("history", "matching")],
}
BROKEN = (JobFailed, ServerFailed, ServiceUnavailable, EtcdMissing, OSError)


class Bench:
    """One run of some sections."""

    def __init__(self, console: Console, folder: Path, duration_s: float, settle_s: float, rounds: int) -> None:
        self.console, self.folder, self.rounds = console, folder, rounds
        self._duration_s, self._settle_s = duration_s, settle_s
        versions = {"outlast": importlib.metadata.version("outlast"), "real server": peer_version()}
        self.results = Results({**describe_machine(versions), "seconds each": f"{duration_s:g}"})

    def measure(self, section: str, running: Running, scenario: Scenario, mode: str) -> None:
        what = f"{section}: {running.label}, {scenario.name}, {mode} load"
        try:
            sample = run_scenario(running.subject, scenario, mode, self._duration_s, self._settle_s)
        except BROKEN as failure:
            self.failed(what, failure)
            return
        self.results.add(section, running.label, sample)
        cost = f"{sample.cpu_ms:.2f} ms CPU, database {sample.database_cpu_ms:.2f} ms"
        self.console.print(f"{what}: {sample.per_s:,.0f}/s, {cost}", highlight=False)

    def failed(self, what: str, failure: BaseException) -> None:
        self.results.failures.append(f"{what}: {failure}")
        self.console.print(f"{what}: failed: {failure}", style="red", markup=False, highlight=False)

    # --- the sections -----------------------------------------------------------------------------------------------------
    def stores(self, engines: Sequence[str], modes: Sequence[str], only: str, with_peer: bool) -> None:
        with ExitStack() as stack:
            databases = Databases(stack, self.folder / "databases")
            up = [self._begun(stack, engine, stage.single_node(databases, engine, self.folder)) for engine in engines]
            if with_peer:
                up.append(self._begun(stack, "real server", stage.peer_on_postgres(self.folder)))
            ready = [each for each in up if each is not None]
            scenarios = [each for each in SCENARIOS if each.load == "workflows" and each.concurrency > 2 and only in each.name]
            plan = [(mode, scenario) for _ in range(self.rounds) for mode in modes for scenario in scenarios]
            for number, (mode, scenario) in enumerate(plan):
                for running in _turned(ready, number):
                    self.measure("stores", running, scenario, mode)

    def scale(self, engine: str, processes: Sequence[int], nodes: Sequence[int]) -> None:
        scenario = replace(_target(), concurrency=SCALE_CONCURRENCY)
        with ExitStack() as stack:
            databases = Databases(stack, self.folder / "databases")
            for _ in range(self.rounds):
                for count in processes:
                    self._one("scale", stage.processes(databases, engine, self.folder, count), scenario)
                for count in nodes:
                    roles: list[Sequence[str]] = [()] * count
                    label = f"{count} nodes (etcd)"
                    connections = stage.CONNECTIONS_PER_PROCESS
                    self._one("scale", stage.cluster(databases, engine, self.folder, label, roles, connections), scenario)

    def hop(self, engine: str) -> None:
        with ExitStack() as stack:
            databases = Databases(stack, self.folder / "databases")
            for _ in range(self.rounds):
                for label, roles in HOPS.items():
                    self._one("hop", stage.cluster(databases, engine, self.folder, label, roles), _target())

    def wire(self, calls: int) -> None:
        command = [sys.executable, "-m", "ops.bench.wire_cost", str(calls)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=WIRE_TIMEOUT_S, check=True)
        except (subprocess.SubprocessError, OSError) as failure:
            self.failed("wire", failure)
            return
        self.results.wire = msgspec.json.decode(done.stdout.encode(), type=list[WireCost])

    def _begun(self, stack: ExitStack, what: str, context: AbstractContextManager[Running]) -> Running | None:
        """Running until the stack ends; None when it could not start, which is a failure of the run and not its end."""
        try:
            running = stack.enter_context(context)
        except BROKEN as failure:
            self.failed(f"start of {what}", failure)
            return None
        self.console.print(f"{running.label} is up", highlight=False)
        return running

    def _one(self, section: str, context: AbstractContextManager[Running], scenario: Scenario) -> None:
        try:
            with context as running:
                self.measure(section, running, scenario, "raw")
        except BROKEN as failure:
            self.failed(section, failure)


def _target() -> Scenario:
    return next(each for each in SCENARIOS if each.name == TARGET_SCENARIO)


def _turned(ready: Sequence[Running], number: int) -> list[Running]:
    """Another one goes first each time."""
    first = number % len(ready) if ready else 0
    return [*ready[first:], *ready[:first]]


def _listed(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def main(
    sections: Annotated[str, typer.Option(help=f"of {', '.join(SECTIONS)}")] = ",".join(SECTIONS),
    engines: Annotated[str, typer.Option(help=f"of {', '.join(ENGINES)}")] = ",".join(ENGINES),
    mode: Annotated[str, typer.Option(help="load by scripted calls (raw), by the official SDK (sdk), or both")] = "both",
    only: Annotated[str, typer.Option(help="of the stores section, scenarios whose name contains this")] = "",
    shared_engine: Annotated[str, typer.Option(help="under several processes or nodes")] = "postgres",
    processes: Annotated[str, typer.Option(help="how many processes behind one port")] = "1,2,4",
    nodes: Annotated[str, typer.Option(help="how many nodes with etcd")] = "2,4",
    peer: Annotated[bool, typer.Option("--peer/--no-peer", help="the real server on PostgreSQL beside ours")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="short runs: a look, not a measurement")] = False,
    duration: Annotated[float, typer.Option(help="seconds per scenario; 0: 8, or 2 with --quick")] = 0.0,
    settle: Annotated[float, typer.Option(help="seconds after the load in which the server's work still counts")] = SETTLE_S,
    rounds: Annotated[int, typer.Option(min=1, help="everything this often; the tables show medians")] = 1,
    wire_calls: Annotated[int, typer.Option(min=100, help="calls of the wire section")] = CALLS,
    profile: Annotated[str, typer.Option(help="only profile one node on this engine")] = "",
    check: Annotated[bool, typer.Option("--check", help="exit code 1 if a target of the project is missed")] = False,
    out: Annotated[Path, typer.Option(help="where the results and the servers' files go")] = ROOT / "build",
) -> None:
    """Measures stores, processes, nodes and the hop between them."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # as Ctrl-C does: the servers are stopped on the way out
    wanted, chosen = _listed(sections), _listed(engines)
    for words, known, what in ((wanted, SECTIONS, "section"), (chosen, ENGINES, "engine"), ([mode], MODES, "mode")):
        if unknown := [word for word in words if word not in known]:
            raise typer.BadParameter(f"unknown {what} {', '.join(unknown)}; known are {', '.join(known)}")
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    duration_s = duration or (QUICK_DURATION_S if quick else DURATION_S)
    bench = Bench(console, out.absolute() / "bench-cluster", duration_s, settle, rounds)
    if profile:
        profile_engine(profile, bench.folder, duration_s, MODES[mode], console)
        return
    if missing := [engine for engine in chosen if Databases.missing(engine)]:
        bench.failed("stores", ServiceUnavailable(f"ops/services starts no {', '.join(missing)}: left out"))
    with_peer = peer and PeerServer.available()
    if peer and not with_peer:
        console.print("the real server is not built (../shared/peer/peer.sh install): Outlast alone", style="yellow")
    try:
        if "wire" in wanted:
            bench.wire(wire_calls)
        if "hop" in wanted:
            bench.hop(shared_engine)
        if "scale" in wanted:
            bench.scale(shared_engine, [int(each) for each in _listed(processes)], [int(each) for each in _listed(nodes)])
        if "stores" in wanted:
            bench.stores([each for each in chosen if each not in missing], MODES[mode], only, with_peer)
    except BROKEN as failure:  # of a server that did not stop as it should
        bench.failed("the run", failure)
    finally:
        out.mkdir(parents=True, exist_ok=True)
        (out / "bench-cluster.json").write_bytes(as_json(bench.results))
        (out / "bench-cluster.md").write_text(markdown(bench.results))
    show(bench.results, console)
    console.print(f"written: {out / 'bench-cluster.json'}, {out / 'bench-cluster.md'}", highlight=False)
    missed = check and any(not met for met, _ in verdicts(bench.results))
    raise typer.Exit(1 if bench.results.failures or missed else 0)


if __name__ == "__main__":
    typer.run(main)
