"""Starts of workflows at a steady rate, in turn at several servers, each by itself: how long each start takes. One JSON line.

    python -m ops.bench.regions_load '{"addresses": {"alone": "127.0.0.1:7233"}, "per_s": 50, "duration_s": 10}'

In turn, so that what disturbs the machine meets all servers alike; at a rate that none of them minds, so that the time is
that of one start and not of a queue.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from math import ceil

import msgspec
from temporalio.api.common.v1 import WorkflowType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client

from ops.bench.raw_worker import ANSWER

WARM_UP_STARTS = 20


class Paced(msgspec.Struct, frozen=True, kw_only=True):
    """per_s: of each server."""

    addresses: dict[str, str]
    per_s: float
    duration_s: float
    namespace: str = "default"


class Latency(msgspec.Struct, frozen=True):
    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


async def run(job: Paced) -> dict[str, Latency]:
    services = {
        label: (await Client.connect(address, namespace=job.namespace)).workflow_service
        for label, address in job.addresses.items()
    }
    queue = f"paced-{uuid.uuid4().hex[:8]}"

    async def start(label: str) -> float:
        request = api.StartWorkflowExecutionRequest(
            namespace=job.namespace, workflow_id=f"{queue}-{uuid.uuid4().hex}", workflow_type=WorkflowType(name="pending"),
            task_queue=TaskQueue(name=queue), input=ANSWER, identity="bench", request_id=str(uuid.uuid4()),
        )  # fmt: skip
        began = time.perf_counter()
        await services[label].start_workflow_execution(request)
        return 1000 * (time.perf_counter() - began)

    for _ in range(WARM_UP_STARTS):
        for label in services:
            await start(label)
    took: dict[str, list[asyncio.Future[float]]] = {label: [] for label in services}
    began, number = time.perf_counter(), 0
    labels = list(services)
    while (due := number / (job.per_s * len(labels))) < job.duration_s:
        await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
        label = labels[number % len(labels)]
        took[label].append(asyncio.ensure_future(start(label)))
        number += 1
    return {label: latency_of(await asyncio.gather(*futures)) for label, futures in took.items()}


def latency_of(times_ms: list[float]) -> Latency:
    ordered = sorted(times_ms)
    return Latency(len(ordered), ordered[len(ordered) // 2], ordered[ceil(0.99 * len(ordered)) - 1], ordered[-1])


if __name__ == "__main__":
    found = asyncio.run(run(msgspec.json.decode(sys.argv[1].encode(), type=Paced)))
    print(msgspec.json.encode(found).decode(), flush=True)
    os._exit(0)  # threads of the SDK's runtime may call into a Python that is being taken down
