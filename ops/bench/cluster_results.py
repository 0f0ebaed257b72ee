"""The outcome of `python -m ops.bench.cluster`: tables for people, JSON and Markdown for the record, judged by issue 4's target.

"CPU ms" is server CPU per workflow, all processes together; "database ms" is the database server's own, which nobody pays less
for by not naming it. KiB are what was handed to write(), connections included; "to disk" is what the kernel made of it for the
database, new log segments and whole pages included (Cassandra's log is mapped into memory: only this one shows it). "cores busy"
counts everything on the machine: near the number of cores, rates say no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import msgspec
from rich.console import Console

from ops.bench.job import Sample
from ops.bench.results import markdown_of, show_tables
from ops.bench.scenarios import SCENARIOS
from ops.bench.wire_cost import WireCost

PEER_LABEL, RIVAL_LABEL = "Temporal on postgres", "postgres"
PEER_RATIO_MIN = 4.0  # issue 4: server CPU per workflow on PostgreSQL, in the same run
MODES = {"raw": "scripted worker and client", "sdk": "official SDK worker and client"}
KIB = 1024
Row = list[str]
TableRows = tuple[str, tuple[str, ...], list[Row]]
Measure = Callable[[Sample], float | None]


@dataclass
class Results:
    """Samples by (section, label, mode, scenario), one per round."""

    machine: dict[str, str]
    samples: dict[tuple[str, str, str, str], list[Sample]] = field(default_factory=dict)
    wire: list[WireCost] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, section: str, label: str, sample: Sample) -> None:
        self.samples.setdefault((section, label, sample.mode, sample.scenario), []).append(sample)

    def labels(self, section: str) -> list[str]:
        return list(dict.fromkeys(key[1] for key in self.samples if key[0] == section))

    def of(self, section: str, label: str) -> list[Sample]:
        return [sample for key, found in self.samples.items() if key[:2] == (section, label) for sample in found]


def middle(samples: list[Sample], measure: Measure) -> float | None:
    """The median over the rounds; None where nothing was measured."""
    found = [value for sample in samples if (value := measure(sample)) is not None]
    return median(found) if found else None


def _shown(samples: list[Sample], measure: Measure, digits: int) -> str:
    value = middle(samples, measure)
    return "" if value is None else f"{value:,.{digits}f}"


def _appends_each(sample: Sample) -> float | None:
    return sample.count_each("journal_appends") if sample.entries_per_append is not None else None


def _remote_each(sample: Sample) -> float | None:
    return sample.count_each("calls_from_nodes") if "calls_from_nodes" in sample.counts else None


def _remote_share(sample: Sample) -> float | None:
    """Calls between nodes for each public call."""
    public = sample.counts.get("public_calls", 0)
    return 100 * sample.counts["calls_from_nodes"] / public if public else None


# What each column shows, and with how many digits.
STORE_COLUMNS: dict[str, tuple[Measure, int]] = {
    "per second": (lambda sample: sample.per_s, 0),
    "CPU ms": (lambda sample: sample.cpu_ms, 2),
    "database ms": (lambda sample: sample.database_cpu_ms, 2),
    "p50 ms": (lambda sample: sample.p50_ms, 1),
    "p99 ms": (lambda sample: sample.p99_ms, 1),
    "entries/append": (lambda sample: sample.entries_per_append, 2),
    "appends": (_appends_each, 2),
    "KiB": (lambda sample: sample.written_bytes / sample.count / KIB, 1),
    "database KiB": (lambda sample: sample.database_written_bytes / sample.count / KIB, 1),
    "to disk": (lambda sample: sample.database_disk_bytes / sample.count / KIB, 1),
    "load ms": (lambda sample: 1000 * sample.load_cpu_s / sample.count, 2),
    "cores busy": (lambda sample: sample.cores_busy, 1),
}
SCALE_COLUMNS: dict[str, tuple[Measure, int]] = {
    "per second": (lambda sample: sample.per_s, 0),
    "per process": (lambda sample: sample.per_s / len(sample.each_server_cpu_s), 0),
    "CPU ms": (lambda sample: sample.cpu_ms, 2),
    "least": (lambda sample: 1000 * min(sample.each_server_cpu_s) / sample.count, 2),
    "most": (lambda sample: 1000 * max(sample.each_server_cpu_s) / sample.count, 2),
    "database ms": (lambda sample: sample.database_cpu_ms, 2),
    "load ms": (lambda sample: 1000 * sample.load_cpu_s / sample.count, 2),
    "between nodes": (_remote_each, 2),
    "% of public calls": (_remote_share, 0),
    "entries/append": (lambda sample: sample.entries_per_append, 2),
    "p50 ms": (lambda sample: sample.p50_ms, 1),
    "p99 ms": (lambda sample: sample.p99_ms, 1),
    "cores busy": (lambda sample: sample.cores_busy, 1),
}
HOP_COLUMNS = ("", "CPU ms", "front node", "other node", "between nodes", "us more per call between nodes", "database ms")
WIRE_COLUMNS = ("calls in flight", "us of CPU per call, both ends", "calls per second")


def store_rows(results: Results, mode: str) -> list[Row]:
    """For each scenario a row per engine, then how many times less CPU ours takes than the real server."""
    rows = []
    for scenario in SCENARIOS:
        for label in results.labels("stores"):
            if found := results.samples.get(("stores", label, mode, scenario.name)):
                rows.append([f"{scenario.name} · {label}", *(_shown(found, *column) for column in STORE_COLUMNS.values())])
        if (ratio := peer_ratio(results, mode, scenario.name)) is not None:
            rows.append(["", "", f"{ratio:.1f}x less", *[""] * (len(STORE_COLUMNS) - 2)])
    return rows


def peer_ratio(results: Results, mode: str, scenario: str) -> float | None:
    ours, peer = (
        middle(results.samples.get(("stores", label, mode, scenario), []), lambda sample: sample.cpu_ms)
        for label in (RIVAL_LABEL, PEER_LABEL)
    )
    return peer / ours if ours and peer else None


def scale_rows(results: Results) -> list[Row]:
    return [
        [label, *(_shown(results.of("scale", label), *column) for column in SCALE_COLUMNS.values())]
        for label in results.labels("scale")
    ]


def hop_rows(results: Results) -> list[Row]:
    """The first is the one without a hop; what the others take more, over their calls between nodes."""
    rows: list[Row] = []
    base: float | None = None
    for label in results.labels("hop"):
        found = results.of("hop", label)
        cpu_ms, remote = middle(found, lambda sample: sample.cpu_ms), middle(found, _remote_each)
        if cpu_ms is None:
            continue
        base = cpu_ms if base is None else base
        nodes = [_shown(found, _cpu_ms_of(number), 2) for number in range(2)]
        more = f"{1000 * (cpu_ms - base) / remote:,.0f}" if remote else ""
        database = _shown(found, lambda sample: sample.database_cpu_ms, 2)
        rows.append([label, f"{cpu_ms:.2f}", *nodes, f"{remote or 0.0:.2f}", more, database])
    return rows


def _cpu_ms_of(number: int) -> Measure:
    def measure(sample: Sample) -> float | None:
        each = sample.each_server_cpu_s
        return 1000 * each[number] / sample.count if number < len(each) else None

    return measure


def verdicts(results: Results) -> list[tuple[bool, str]]:
    """Whether the target was met, for each workflow that was measured on both."""
    found = []
    for mode, load in MODES.items():
        for scenario in SCENARIOS:
            if (ratio := peer_ratio(results, mode, scenario.name)) is not None:
                words = f"{ratio:.1f} times less server CPU than the real server on PostgreSQL ({scenario.name}, {load})"
                found.append((ratio >= PEER_RATIO_MIN, f"{words}; at least {PEER_RATIO_MIN}"))
    return found


def tables(results: Results) -> list[TableRows]:
    found: list[TableRows] = []
    for mode, load in MODES.items():
        if rows := store_rows(results, mode):
            found.append((f"stores, one node, load by the {load}", ("", *STORE_COLUMNS), rows))
    if rows := scale_rows(results):
        found.append(("several processes and nodes, workflow with one activity", ("", *SCALE_COLUMNS), rows))
    if rows := hop_rows(results):
        found.append(("the hop, workflow with one activity", HOP_COLUMNS, rows))
    if results.wire:
        rows = [[str(cost.in_flight), f"{cost.cpu_us:.1f}", f"{cost.calls_per_s:,.0f}"] for cost in results.wire]
        found.append(("a call between nodes by itself", WIRE_COLUMNS, rows))
    return found


def show(results: Results, console: Console) -> None:
    show_tables(tables(results), verdicts(results), results.failures, console)


def markdown(results: Results) -> str:
    return markdown_of("Bench of a cluster", results.machine, tables(results), verdicts(results), results.failures)


def as_json(results: Results) -> bytes:
    body: dict[str, Any] = {
        "machine": results.machine,
        "samples": [
            {"section": key[0], "label": key[1], **msgspec.to_builtins(sample)}
            for key, samples in results.samples.items()
            for sample in samples
        ],
        "wire": [msgspec.to_builtins(cost) for cost in results.wire],
        "targets": [{"met": met, "what": words} for met, words in verdicts(results)],
        "failures": results.failures,
    }
    return msgspec.json.format(msgspec.json.encode(body), indent=2)
