"""The load process: `python -m ops.bench.load '<job as JSON>'` runs one job and prints one sample as JSON.

It is a process of its own, so that its CPU is not counted as the server's and a failure in it ends only this job. What servers
and database use is read here (watch.py), next to the clock, at the beginning and the end of the measured window.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from typing import Protocol

import msgspec

from ops.bench.job import Job, Sample
from ops.bench.raw_load import RawLoad
from ops.bench.sdk_load import SdkLoad
from ops.bench.usage import machine_busy_s
from ops.bench.watch import look

WARM_UP_S = 1.5


class Load(Protocol):
    async def open(self) -> None: ...
    async def once(self, number: int) -> None: ...
    async def close(self) -> None: ...


async def closed_loop(
    load: Load, numbers: itertools.count[int], concurrency: int, duration_s: float, count_max: int
) -> list[float]:
    """Each of `concurrency` callers makes its next call when its last was answered. Returns all latencies in ms."""
    latencies: list[float] = []
    end = time.monotonic() + duration_s
    left = count_max

    async def caller() -> None:
        nonlocal left
        while left > 0 and time.monotonic() < end:
            left -= 1
            began = time.perf_counter()
            await load.once(next(numbers))
            latencies.append(1000 * (time.perf_counter() - began))

    async with asyncio.TaskGroup() as callers:
        for _ in range(concurrency):
            callers.create_task(caller())
    return latencies


async def run(job: Job) -> Sample:
    before_idle = look(job)
    await asyncio.sleep(job.settle_s / 2)
    idle = look(job).since(before_idle)
    load: Load = SdkLoad(job) if job.mode == "sdk" else RawLoad(job)
    await load.open()
    numbers = itertools.count()
    if not job.load.startswith("fill"):
        await closed_loop(load, numbers, job.concurrency, WARM_UP_S, job.count_max // 10)
    before, load_before, busy_before, began = look(job), _own_cpu_s(), machine_busy_s(), time.monotonic()
    latencies = sorted(await closed_loop(load, numbers, job.concurrency, job.duration_s, job.count_max))
    seconds, load_after, busy = time.monotonic() - began, _own_cpu_s(), machine_busy_s() - busy_before
    counts = look(job).since(before).counts
    await asyncio.sleep(job.settle_s)
    after = look(job)
    used = after.since(before)
    await load.close()
    cpu_s = [each - 2 * slack for each, slack in zip(used.servers_cpu_s, idle.servers_cpu_s, strict=True)]  # settle_s, as above
    return Sample(
        scenario=job.scenario,
        mode=job.mode,
        count=len(latencies),
        seconds=seconds,
        p50_ms=latencies[len(latencies) // 2],
        p99_ms=latencies[len(latencies) * 99 // 100],
        server_cpu_s=sum(cpu_s),
        load_cpu_s=load_after - load_before,
        written_bytes=used.written_bytes,
        disk_bytes=used.disk_bytes,
        rss_bytes=after.rss_bytes,
        each_server_cpu_s=tuple(cpu_s),
        database_cpu_s=used.database_cpu_s - 2 * idle.database_cpu_s,
        database_written_bytes=used.database_written_bytes,
        database_disk_bytes=used.database_disk_bytes,
        machine_busy_s=busy,
        counts=counts,
    )


def _own_cpu_s() -> float:
    times = os.times()
    return times.user + times.system


def main() -> None:
    sample = asyncio.run(run(msgspec.json.decode(sys.argv[1].encode(), type=Job)))
    sys.stdout.buffer.write(msgspec.json.encode(sample) + b"\n")
    sys.stdout.flush()
    # The SDK's runtime threads may still hold a poll that was called off; the interpreter's orderly end would wait for them,
    # or crash. Everything is checked and written by now.
    os._exit(0)


if __name__ == "__main__":
    main()
