"""The worker process of the demo: the official SDK, unchanged. The demo kills it with SIGKILL and starts another."""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client
from temporalio.worker import Worker

from ops.demo.workflows import TASK_QUEUE, Bookings, TransferWorkflow

CONNECT_TIMEOUT_S = 30.0


async def connect(address: str, namespace: str) -> Client:
    """The server may be down at this moment: that is what the demo is about. Raises what the last try raised."""
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while True:
        try:
            return await Client.connect(address, namespace=namespace)
        except RuntimeError:  # what the SDK raises when nobody listens
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


async def run(address: str, namespace: str, accounts: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    worker = Worker(
        await connect(address, namespace),
        task_queue=TASK_QUEUE,
        workflows=[TransferWorkflow],
        activities=Bookings(accounts).all(),
        max_concurrent_activities=12,
        # A worker that dies leaves its sticky queue behind; the server falls back to the shared queue after this time.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
    )
    async with worker:
        print("worker ready", flush=True)
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--accounts", required=True, type=Path)
    given = parser.parse_args()
    asyncio.run(run(given.address, given.namespace, given.accounts))


if __name__ == "__main__":
    main()
