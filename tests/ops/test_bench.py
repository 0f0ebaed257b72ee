"""The bench's arithmetic: what it reads from /proc, and how it judges."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ops.bench.job import Job, Sample
from ops.bench.load import closed_loop
from ops.bench.results import OURS, PEER, Results, as_json, markdown, verdicts
from ops.bench.scenarios import TARGET_SCENARIO
from ops.bench.sdk_load import SdkLoad
from ops.bench.usage import TICK_S, usage


def sample(cpu_ms: float, mode: str = "raw", scenario: str = TARGET_SCENARIO) -> Sample:
    return Sample(
        scenario=scenario, mode=mode, count=100, seconds=2.0, p50_ms=1.0, p99_ms=2.0, server_cpu_s=cpu_ms * 100 / 1000,
        load_cpu_s=1.0, written_bytes=102_400, disk_bytes=0, rss_bytes=1,
    )  # fmt: skip


def test_usage_counts_the_cpu_and_the_writes_of_a_process_and_its_children(tmp_path: Path) -> None:
    before = usage(os.getpid())
    write = f"open({str(tmp_path / 'out')!r}, 'wb').write(bytes(300_000))"
    busy = f"sum(i * i for i in range(3_000_000)); {write}; print(1, flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        alone, together = usage(child.pid), usage(os.getpid())
        assert alone.cpu_s > 0.05
        assert alone.written_bytes >= 300_000
        assert together.cpu_s - before.cpu_s > alone.cpu_s - TICK_S / 2  # whole ticks, as floats
        assert together.rss_bytes > alone.rss_bytes > 1_000_000
    finally:
        child.communicate(b"\n")


def test_rates_and_costs_are_per_piece_of_work() -> None:
    assert sample(6.0).per_s == 50.0
    assert sample(6.0).cpu_ms == pytest.approx(6.0)


def test_a_target_is_judged_by_the_median_of_the_rounds_and_only_where_it_was_measured() -> None:
    results = Results({})
    assert verdicts(results) == []
    for cpu_ms in (5.0, 5.5, 90.0):
        results.add(OURS, sample(cpu_ms))
    assert [met for met, _ in verdicts(results)] == [True]
    results.add(PEER, sample(20.0))
    assert [met for met, _ in verdicts(results)] == [True, False]


def test_the_record_names_every_measured_scenario_and_every_failure() -> None:
    results = Results({"cpu": "a machine"}, failures=["signals: lost one"])
    results.add(OURS, sample(5.0))
    results.add(PEER, sample(50.0))
    text = markdown(results)
    assert "10.0 times less" in text and "a machine" in text and "signals: lost one" in text
    assert b'"server_cpu_s"' in as_json(results)


class Counting:
    """A load that only counts; the third call of each caller fails when told so."""

    def __init__(self, fails: bool = False) -> None:
        self.numbers: list[int] = []
        self.fails = fails

    async def open(self) -> None: ...

    async def once(self, number: int) -> None:
        self.numbers.append(number)
        if self.fails and number == 7:
            raise AssertionError("lost")

    async def close(self) -> None: ...


async def test_the_loop_stops_at_its_count_and_never_repeats_a_number() -> None:
    load = Counting()
    latencies = await closed_loop(load, itertools.count(), 4, 60.0, 50)
    assert len(latencies) == 50
    assert sorted(load.numbers) == list(range(50))


async def test_a_failed_call_fails_the_job() -> None:
    with pytest.raises(ExceptionGroup):
        await closed_loop(Counting(fails=True), itertools.count(), 4, 60.0, 50)


async def test_a_load_that_lost_a_signal_is_refused() -> None:
    job = Job(
        scenario="signals", load="signals", mode="sdk", addresses=("127.0.0.1:1",), namespace="default", server_pids=(1,),
        duration_s=1.0, concurrency=1,
    )  # fmt: skip
    load = SdkLoad(job)
    load._sent = 1  # acknowledged, but no workflow saw it
    with pytest.raises(AssertionError, match="1 acknowledged"):
        await load.close()
