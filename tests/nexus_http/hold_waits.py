"""How much it costs to hold long polls: `python -m tests.nexus_http.hold_waits 10000`.

One process is a node with its gateway and a worker; another one opens that many connections, each waiting for a result of one of
100 operations. Told: memory and processor time of the first one while nothing happens, and how long all take to hear the end.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from sdk.nexus_http import NexusClient
from tests.nexus_http.workers import ENDPOINT, Work, town

OPERATIONS = 100
IDLE_S = 20.0
OPENED_PER_S = 300


def memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


async def hold(port: int, paths: list[str], count: int, talk: Connection) -> None:
    ended = 0

    async def one(path: str) -> None:
        nonlocal ended
        while True:  # as any caller does: still running, or busy, is to be asked again
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path}?wait=120s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            if answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 424 ")):
                ended += 1
                return
            await asyncio.sleep(1.0)

    polls = []
    for n in range(count):
        polls.append(asyncio.create_task(one(paths[n % len(paths)])))
        await asyncio.sleep(1 / OPENED_PER_S)
    await asyncio.gather(*polls)
    talk.send(ended)


def holder(port: int, paths: list[str], count: int, talk: Connection) -> None:
    asyncio.run(hold(port, paths, count, talk))


async def measure(count: int) -> None:
    async with town() as on, on.handling(), NexusClient(f"{on.url}/nexus/endpoints/{ENDPOINT}/services", Work) as client:
        handles = [await client.start(Work.run, "wait") for _ in range(OPERATIONS)]
        paths = [client._looked_at(handle).removeprefix(on.url) for handle in handles]
        before_mb = memory_mb()
        ours, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=holder, args=(int(on.url.rsplit(":", 1)[1]), paths, count, theirs))
        process.start()
        waits = on.gateway._results.waits
        while waits.count < count * 0.99:  # some ask again just now
            await asyncio.sleep(0.1)
        cpu, began = time.process_time(), time.monotonic()
        await asyncio.sleep(IDLE_S)
        idle_share = (time.process_time() - cpu) / (time.monotonic() - began)
        held, held_mb = waits.count, memory_mb()
        ended_at, cpu = time.monotonic(), time.process_time()
        for handle in handles:
            await handle.cancel()
        while not (ours.poll() and ours.recv() == count):
            await asyncio.sleep(0.05)
        told = {
            "waits": held,
            "memory_mb": round(held_mb),
            "memory_kb_per_wait": round((held_mb - before_mb) * 1000 / count, 1),
            "idle_cpu_percent": round(idle_share * 100, 1),
            "all_heard_after_s": round(time.monotonic() - ended_at, 2),
            "cpu_ms_per_result": round((time.process_time() - cpu) * 1000 / count, 3),
        }
        print(json.dumps(told))
        process.join(10)


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000))
