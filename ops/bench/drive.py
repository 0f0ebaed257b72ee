"""Runs jobs in load processes, alternating between the servers, and the idle-cost measurement."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from ops.bench.job import SETTLE_S, Job, Sample
from ops.bench.scenarios import Scenario
from ops.bench.usage import usage
from ops.servers import ROOT, Server

JOB_OVERHEAD_S = 180.0  # connecting, warming up, settling, and the last answers of an overloaded server


class JobFailed(Exception):
    """A load process ended badly or not in time; the message carries what it wrote to stderr."""


def run_job(job: Job, timeout_s: float) -> Sample:
    command = [sys.executable, "-m", "ops.bench.load", msgspec.json.encode(job).decode()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as late:
        said = late.stderr.decode(errors="replace") if isinstance(late.stderr, bytes) else str(late.stderr)
        raise JobFailed(f"no result within {timeout_s:.0f} s: {said[-2000:]}") from late
    if done.returncode != 0:
        raise JobFailed(f"exit code {done.returncode}: {done.stderr[-2000:]}")
    result = done.stdout.strip().rpartition("\n")[2]  # what stands before it are warnings of the SDK, which writes them to stdout
    try:
        return msgspec.json.decode(result.encode(), type=Sample)
    except msgspec.DecodeError as malformed:
        raise JobFailed(f"no sample ({malformed}): {done.stdout[-2000:]}") from malformed


@dataclass(frozen=True)
class Subject:
    """What a job loads and what it watches meanwhile: a server, or the nodes of a cluster. The fields are those of `Job`."""

    addresses: tuple[str, ...]
    server_pids: tuple[int, ...]
    database_pid: int = 0
    meters: tuple[str, ...] = ()


def subject_of(server: Server) -> Subject:
    """Raises ServerFailed."""
    return Subject((server.address,), (server.pid,))


def run_scenario(subject: Subject, scenario: Scenario, mode: str, duration_s: float, settle_s: float = SETTLE_S) -> Sample:
    """Raises JobFailed."""
    job = Job(
        scenario=scenario.name, load=scenario.load, mode=mode, addresses=subject.addresses, namespace="default",
        server_pids=subject.server_pids, duration_s=duration_s, concurrency=scenario.concurrency, count_max=scenario.count_max,
        activities=scenario.activities, runs=scenario.runs, settle_s=settle_s, database_pid=subject.database_pid,
        meters=subject.meters,
    )  # fmt: skip
    return run_job(job, duration_s + JOB_OVERHEAD_S)


@dataclass
class Idle:
    """What open workflows cost that wait for something far away. Bytes are per workflow, above the empty server."""

    kind: str
    count: int
    fill_s: float
    fill_cpu_ms: float  # per workflow
    empty_cpu_ms_per_s: float  # of the server without any workflow
    idle_cpu_ms_per_s: float  # with all of them open
    rss_bytes: float
    disk_bytes: float
    restart_s: float  # from the start of the process until it answers, with all of them in its store
    restarted_rss_bytes: float


IDLE_KINDS = {"fill_pending": "first workflow task not yet taken", "fill_timers": "timer of 30 days"}
FILL_CONCURRENCY = 64
FILL_PER_S_MIN = 25.0  # slower than this counts as hanging


def measure_idle(server: Server, load: str, count: int, watch_s: float, tell: Callable[[str], None]) -> Idle:
    """On fresh data: watch the empty server, fill it, let it settle, watch again, restart it. Raises JobFailed."""
    server.start()
    time.sleep(2.0)
    empty_cpu, empty = _cpu_ms_per_s(server, watch_s / 2), usage(server.pid)
    empty_disk = server.data_bytes()
    tell(f"{server.name}: opening {count:,} workflows ({IDLE_KINDS[load]})")
    began = time.monotonic()
    job = Job(
        scenario=load, load=load, mode="raw", addresses=(server.address,), namespace="default", server_pids=(server.pid,),
        duration_s=1e9, concurrency=FILL_CONCURRENCY, count_max=count,
    )  # fmt: skip
    run_job(job, count / FILL_PER_S_MIN + JOB_OVERHEAD_S)
    fill_s, filled = time.monotonic() - began, usage(server.pid)
    time.sleep(10.0)  # two checkpoint intervals
    idle_cpu, full, disk = _cpu_ms_per_s(server, watch_s), usage(server.pid), server.data_bytes()
    server.stop()
    began = time.monotonic()
    server.restart()
    restart_s = time.monotonic() - began
    time.sleep(2.0)
    restarted = usage(server.pid)
    server.stop()
    return Idle(
        kind=IDLE_KINDS[load],
        count=count,
        fill_s=fill_s,
        fill_cpu_ms=1000 * (filled.cpu_s - empty.cpu_s) / count,
        empty_cpu_ms_per_s=empty_cpu,
        idle_cpu_ms_per_s=idle_cpu,
        rss_bytes=(full.rss_bytes - empty.rss_bytes) / count,
        disk_bytes=(disk - empty_disk) / count,
        restart_s=restart_s,
        restarted_rss_bytes=(restarted.rss_bytes - empty.rss_bytes) / count,
    )


def _cpu_ms_per_s(server: Server, watch_s: float) -> float:
    before = usage(server.pid)
    time.sleep(watch_s)
    return 1000 * (usage(server.pid).cpu_s - before.cpu_s) / watch_s
