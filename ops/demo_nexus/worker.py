"""One team's worker, as a process of its own: `python -m ops.demo_nexus.worker --team payment --address ... --ledger ...`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.worker import Worker

from ops.demo_nexus.ledger import Ledger
from ops.demo_nexus.services import TASK_QUEUE
from ops.demo_nexus.teams import TEAMS, worker_parts


def quiet_runtime() -> Runtime:
    """The SDK warns of every call that it repeats; here an outage is the plan."""
    level = TelemetryFilter(core_level="ERROR", other_level="ERROR")
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter=level)))


async def run(team: str, address: str, ledger: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    client = await Client.connect(address, namespace=team, runtime=quiet_runtime())
    parts = worker_parts(team, Ledger(ledger))
    # A server that was killed has forgotten the sticky queue; what is in it comes back to the shared one after this time.
    sticky = timedelta(seconds=2)
    async with Worker(client, task_queue=TASK_QUEUE, sticky_queue_schedule_to_start_timeout=sticky, **parts):
        print("worker ready", flush=True)
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--team", required=True, choices=TEAMS)
    parser.add_argument("--address", required=True)
    parser.add_argument("--ledger", required=True, type=Path)
    given = parser.parse_args()
    asyncio.run(run(given.team, given.address, given.ledger))
    sys.stdout.flush()
    os._exit(0)  # the worker has ended in order; threads of the SDK's runtime may call into a Python that is being taken down


if __name__ == "__main__":
    main()
