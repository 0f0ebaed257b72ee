"""A worker in a process of its own, so that it can be killed: `python -m chaos.crash.worker --address A --bank FILE`.

It does what the worker inside the harness does; what only the harness can do (complete an activity from outside) it leaves in
the bank's file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from chaos.crash.bank import Bank
from chaos.crash.workflows import RETRY, TASK_QUEUE, WORKFLOWS, Activities


def build_worker(client: Client, activities: Activities) -> Worker:
    return Worker(
        client,
        task_queue=TASK_QUEUE,
        workflows=WORKFLOWS,
        activities=activities.all(),
        workflow_runner=UnsandboxedWorkflowRunner(),
        sticky_queue_schedule_to_start_timeout=RETRY.maximum_interval or RETRY.initial_interval,
        max_cached_workflows=50,
    )


@dataclass
class WorkerProcess:
    """The child process, seen from the harness."""

    address: str
    bank: Path
    log: Path
    process: asyncio.subprocess.Process | None = None

    async def start(self, seed: int) -> None:
        arguments = ["--address", self.address, "--bank", str(self.bank), "--seed", str(seed)]
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "chaos.crash.worker", *arguments, stdout=log, stderr=log, start_new_session=True
            )

    async def kill(self) -> None:
        """SIGKILL: what it had taken is nobody's until it times out."""
        if self.process is not None:
            process, self.process = self.process, None
            with contextlib.suppress(ProcessLookupError):  # it ended by itself, since it found no server at its start
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def serve(address: str, bank_file: Path, seed: int) -> None:
    bank = Bank.existing(bank_file)
    while True:
        try:
            client = await Client.connect(address)
            break
        except RuntimeError:  # the server is being restarted
            await asyncio.sleep(0.1)
    activities = Activities(bank.move, bank.hand_out, random.Random(seed), bank.note_retried)
    await build_worker(client, activities).run()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos.crash.worker", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    asyncio.run(serve(options.address, options.bank, options.seed))


if __name__ == "__main__":
    main(sys.argv[1:])
