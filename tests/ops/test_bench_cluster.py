"""The bench of a cluster: a whole run on the stores that need no server, and how it judges and shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from rich.console import Console

from ops.bench.cluster import HOPS, Bench
from ops.bench.cluster_profile import print_samples
from ops.bench.cluster_results import PEER_LABEL, RIVAL_LABEL, Results, as_json, hop_rows, markdown, scale_rows, verdicts
from ops.bench.drive import Subject
from ops.bench.job import Sample
from ops.bench.scenarios import TARGET_SCENARIO
from ops.bench.stage import Databases, Running
from ops.bench.usage import TICK_S, machine_busy_s, usage
from ops.bench.watch import Look
from ops.servers import ROOT, ServerFailed

SMOKE = [
    "--sections=stores,wire", "--engines=memory,sqlite", "--mode=raw", "--no-peer", "--duration=1", "--settle=0.5",
    "--wire-calls=400",
]  # fmt: skip
ACTIVITIES = ("0 activities", "1 activity", "5 activities")


def sample(cpu_ms: tuple[float, ...], mode: str = "raw", counts: dict[str, int] | None = None) -> Sample:
    each = tuple(part * 100 / 1000 for part in cpu_ms)
    return Sample(
        scenario=TARGET_SCENARIO, mode=mode, count=100, seconds=2.0, p50_ms=1.0, p99_ms=2.0, server_cpu_s=sum(each),
        load_cpu_s=1.0, written_bytes=0, disk_bytes=102_400, rss_bytes=1, each_server_cpu_s=each, database_cpu_s=0.05,
        machine_busy_s=3.0, counts=counts or {},
    )  # fmt: skip


# --- a whole run ---
def test_a_run_measures_each_store_and_writes_what_it_found(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ops.bench.cluster", *SMOKE, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "bench-cluster.json").read_text())
    assert found["failures"] == []
    assert {(each["label"], each["scenario"]) for each in found["samples"]} == {
        (label, f"workflow, {count}") for label in ("memory", "sqlite") for count in ACTIVITIES
    }
    for each in found["samples"]:
        assert each["count"] > 0 and each["server_cpu_s"] > 0 and each["machine_busy_s"] > 0
        assert each["counts"]["journal_entries"] >= each["counts"]["journal_appends"] > 0
        assert each["counts"]["calls_from_nodes"] == 0 < each["counts"]["public_calls"]
    assert [cost["in_flight"] for cost in found["wire"]] == [1, 50]
    assert all(cost["cpu_us"] > 0 for cost in found["wire"])
    assert "workflow, 1 activity · sqlite" in (tmp_path / "bench-cluster.md").read_text()


def test_a_server_that_does_not_start_is_a_failure_of_the_run_and_not_a_gap(tmp_path: Path) -> None:
    @contextmanager
    def broken(code: int) -> Iterator[Running]:
        if code != 0:
            raise ServerFailed(f"it ended with {code}")
        yield Running("mariadb", Subject((), ()))

    bench = Bench(Console(quiet=True), tmp_path, 1.0, 1.0, 1)
    with ExitStack() as stack:
        assert bench._begun(stack, "mariadb", broken(5)) is None
    assert bench.results.failures == ["start of mariadb: it ended with 5"]
    assert "failed: start of mariadb: it ended with 5" in markdown(bench.results)
    assert Databases.missing("an engine nobody starts") and not Databases.missing("memory") and not Databases.missing("postgres")


def test_a_section_that_there_is_not_is_refused(tmp_path: Path) -> None:
    unknown = [sys.executable, "-m", "ops.bench.cluster", "--sections", "store", "--out", str(tmp_path)]
    done = subprocess.run(unknown, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 2 and "unknown section store" in done.stderr


# --- judging and showing ---
def test_the_target_is_judged_in_each_mode_by_what_both_were_measured_for() -> None:
    results = Results({})
    results.add("stores", RIVAL_LABEL, sample((4.0,)))
    assert verdicts(results) == []
    results.add("stores", PEER_LABEL, sample((20.0,)))
    results.add("stores", RIVAL_LABEL, sample((4.0,), "sdk"))
    results.add("stores", PEER_LABEL, sample((15.0,), "sdk"))
    assert [met for met, _ in verdicts(results)] == [True, False]
    assert "5.0x less" in markdown(results) and "3.8x less" in markdown(results)


def test_what_the_hop_costs_is_the_difference_over_the_calls_between_nodes() -> None:
    results = Results({})
    local, remote, *_ = HOPS
    results.add("hop", local, sample((4.0,), counts={"calls_from_nodes": 0}))
    results.add("hop", remote, sample((2.5, 2.0), counts={"calls_from_nodes": 500}))
    first, second = hop_rows(results)
    assert first[:3] == [local, "4.00", "4.00"]
    assert second[1:6] == ["4.50", "2.50", "2.00", "5.00", "100"]  # 0.5 ms over 5 calls


def test_several_processes_are_told_together_and_apart() -> None:
    results = Results({}, failures=["scale: gone"])
    counts = {"calls_from_nodes": 300, "public_calls": 1_000, "journal_appends": 200, "journal_entries": 500}
    results.add("scale", "2 nodes (etcd)", sample((1.0, 3.0), counts=counts))
    (row,) = scale_rows(results)
    assert row[:9] == ["2 nodes (etcd)", "50", "25", "4.00", "1.00", "3.00", "0.50", "10.00", "3.00"]
    assert row[9:11] == ["30", "2.50"]
    record = json.loads(as_json(results))
    assert record["failures"] == ["scale: gone"] and record["samples"][0]["label"] == "2 nodes (etcd)"
    assert "failed: scale: gone" in markdown(results)
    assert msgspec.json.decode(as_json(results))["samples"][0]["each_server_cpu_s"] == [0.1, 0.3]


def test_a_profile_is_told_by_its_busiest_functions(tmp_path: Path) -> None:
    raw = tmp_path / "raw.txt"
    raw.write_text("thread 1;outer (a.py:1);inner (a.py:2) 3\nthread 1;outer (a.py:1) 1\n")
    console = Console(record=True, width=100)
    print_samples(raw, console)
    told = console.export_text()
    assert "75.0 %" in told and "inner (a.py:2)" in told and "100.0 %" in told


# --- looking at processes ---
def test_what_an_ended_process_used_is_still_counted_with_its_parent() -> None:
    before, busy_before = usage(os.getpid()), machine_busy_s()
    subprocess.run([sys.executable, "-c", "sum(i * i for i in range(2_000_000))"], check=True)
    assert usage(os.getpid()).cpu_s - before.cpu_s > 5 * TICK_S
    assert machine_busy_s() > busy_before


def test_a_look_since_another_is_the_difference_but_for_memory() -> None:
    before = Look((1.0, 2.0), 10, 20, 30, 0.5, 1, 2, {"appends": 5})
    after = Look((1.5, 4.0), 15, 26, 37, 0.75, 3, 5, {"appends": 9, "new": 1})
    assert after.since(before) == Look((0.5, 2.0), 5, 6, 37, 0.25, 2, 3, {"appends": 4, "new": 1})
