"""The bench's outcome: as tables for people, as JSON and Markdown for the record, and judged against issue 3's targets."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from ops.bench.drive import Idle
from ops.bench.job import Sample
from ops.bench.scenarios import SCENARIOS, TARGET_CPU_MS_MAX, TARGET_PEER_RATIO_MIN, TARGET_SCENARIO

OURS, PEER = "Outlast", "Temporal"
Row = list[str]


@dataclass
class Results:
    """Samples by (server, mode, scenario), one per round; idle measurements by server."""

    machine: dict[str, str]
    samples: dict[tuple[str, str, str], list[Sample]] = field(default_factory=dict)
    idle: list[tuple[str, Idle]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, server: str, sample: Sample) -> None:
        self.samples.setdefault((server, sample.mode, sample.scenario), []).append(sample)

    def middle(self, server: str, mode: str, scenario: str, measure: str) -> float | None:
        """The median over the rounds; None where nothing was measured."""
        found = self.samples.get((server, mode, scenario))
        if not found:
            return None
        if measure == "kb":
            return median(sample.written_bytes / sample.count / 1024 for sample in found)
        return median(float(getattr(sample, measure)) for sample in found)


def describe_machine(versions: dict[str, str]) -> dict[str, str]:
    cpu = [line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    load = Path("/proc/loadavg").read_text().split()[0]
    return {
        "cpu": f"{cpu[0] if cpu else platform.machine()}, {len(cpu)} cores", "python": platform.python_version(),
        "kernel": platform.release(), "load before": load, **versions,
    }  # fmt: skip


COLUMNS = ("what", "per second", "server CPU ms", "p50 ms", "p99 ms", "KiB written", "load CPU ms")


def scenario_rows(results: Results, mode: str) -> list[Row]:
    """One row per scenario and server, then how many times less CPU ours takes."""
    rows = []
    for scenario in SCENARIOS:
        cpu: dict[str, float] = {}
        for server in (OURS, PEER):
            found = results.samples.get((server, mode, scenario.name))
            if not found:
                continue

            def show(measure: str, digits: int, server: str = server, name: str = scenario.name) -> str:
                value = results.middle(server, mode, name, measure)
                return "" if value is None else f"{value:,.{digits}f}"

            load_ms = median(1000 * sample.load_cpu_s / sample.count for sample in found)
            cpu[server] = results.middle(server, mode, scenario.name, "cpu_ms") or 0.0
            shown = [show("per_s", 0), show("cpu_ms", 2), show("p50_ms", 1), show("p99_ms", 1), show("kb", 1), f"{load_ms:.2f}"]
            rows.append([f"{scenario.name} · {server}", *shown])
        if cpu.get(OURS) and PEER in cpu:
            rows.append(["", "", f"{cpu[PEER] / cpu[OURS]:.1f} times less", "", "", "", ""])
    return rows


IDLE_COLUMNS = (
    "open workflows",
    "count",
    "fill ms each",
    "idle CPU ms/s",
    "(empty)",
    "bytes RAM each",
    "bytes disk each",
    "restart s",
)


def idle_rows(results: Results) -> list[Row]:
    return [
        [
            f"{idle.kind} · {server}", f"{idle.count:,}", f"{idle.fill_cpu_ms:.2f}", f"{idle.idle_cpu_ms_per_s:.2f}",
            f"{idle.empty_cpu_ms_per_s:.2f}", f"{idle.rss_bytes:,.0f}", f"{idle.disk_bytes:,.0f}", f"{idle.restart_s:.1f}",
        ]
        for server, idle in results.idle
    ]  # fmt: skip


def verdicts(results: Results) -> list[tuple[bool, str]]:
    """Whether each target that could be measured was met, per mode of load."""
    found = []
    for mode in ("sdk", "raw"):
        ours = results.middle(OURS, mode, TARGET_SCENARIO, "cpu_ms")
        peer = results.middle(PEER, mode, TARGET_SCENARIO, "cpu_ms")
        if ours is not None:
            words = f"{ours:.2f} ms of server CPU per workflow with one activity ({mode} load); limit {TARGET_CPU_MS_MAX}"
            found.append((ours <= TARGET_CPU_MS_MAX, words))
        if ours is not None and peer is not None:
            words = f"{peer / ours:.1f} times less than the real server ({mode} load); at least {TARGET_PEER_RATIO_MIN}"
            found.append((peer / ours >= TARGET_PEER_RATIO_MIN, words))
    return found


def tables(results: Results) -> list[tuple[str, tuple[str, ...], list[Row]]]:
    titles = {"sdk": "official SDK worker and client", "raw": "scripted worker and client"}
    found: list[tuple[str, tuple[str, ...], list[Row]]] = []
    for mode, title in titles.items():
        if rows := scenario_rows(results, mode):
            found.append((f"load by the {title}", COLUMNS, rows))
    if results.idle:
        found.append(("idle open workflows", IDLE_COLUMNS, idle_rows(results)))
    return found


Tables = list[tuple[str, tuple[str, ...], list[Row]]]
Verdicts = Sequence[tuple[bool, str]]


def show(results: Results, console: Console) -> None:
    show_tables(tables(results), verdicts(results), results.failures, console)


def markdown(results: Results) -> str:
    return markdown_of("Bench", results.machine, tables(results), verdicts(results), results.failures)


def show_tables(found: Tables, judged: Verdicts, failures: Sequence[str], console: Console) -> None:
    for title, columns, rows in found:
        table = Table(title=title, title_justify="left")
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for met, words in judged:
        console.print(f"[{'green' if met else 'red'}]{'met' if met else 'MISSED'}[/]  {words}", highlight=False)
    for failure in failures:
        console.print(f"failed: {failure}", style="red", markup=False, highlight=False)


def markdown_of(
    heading: str, machine: Mapping[str, Any], found: Tables, judged: Verdicts, failures: Sequence[str]
) -> str:
    lines = [f"# {heading}", "", *(f"- {key}: {value}" for key, value in machine.items()), ""]
    for title, columns, rows in found:
        lines += [f"## {title}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += [*(f"| {' | '.join(row)} |" for row in rows), ""]
    lines += [f"- {'met' if met else 'MISSED'}: {words}" for met, words in judged]
    lines += [f"- failed: {failure}" for failure in failures]
    return "\n".join(lines) + "\n"


def as_json(results: Results) -> bytes:
    body: dict[str, Any] = {
        "machine": results.machine,
        "samples": [{"server": key[0], **msgspec.to_builtins(s)} for key, samples in results.samples.items() for s in samples],
        "idle": [{"server": server, **asdict(idle)} for server, idle in results.idle],
        "targets": [{"met": met, "what": words} for met, words in verdicts(results)],
        "failures": results.failures,
    }
    return msgspec.json.format(msgspec.json.encode(body), indent=2)
