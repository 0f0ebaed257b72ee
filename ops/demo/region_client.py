"""A client application that knows the addresses of two regions, with the official SDK as it is.

It talks to one region and asks every now and then whether that one answers; if not, it gives up what it waits for there and asks
the other. Starting a transfer again is safe: its id is the workflow's id, and a used id is refused. What was acknowledged by a
region that is gone may be unknown in the other one: then it is started there, and counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import TypeVar

from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from ops.demo.bank import Transfer
from ops.demo.client import RETRYABLE
from ops.demo.workflows import TASK_QUEUE, TransferWorkflow

OUTAGE_MAX_S = 60.0
PROBE_S = 0.25
PROBE_TIMEOUT_S = 1.0
PROBES_FAILED_MAX = 2
RETRY_S = 0.1
T = TypeVar("T")


class ClientOfRegions:
    """clients: by region, the preferred one first. `watch` runs beside the calls."""

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self._clients = dict(clients)
        self.here = next(iter(clients))
        self.repeated_count = 0
        self.started_again: list[str] = []  # acknowledged by one region, unknown in the other
        self.started_at: dict[str, float] = {}  # region -> when it first acknowledged a start; monotonic
        self._moved = asyncio.Event()

    async def watch(self) -> None:
        """For ever."""
        failed_count = 0
        while True:
            failed_count = 0 if await self._answers() else failed_count + 1
            if failed_count >= PROBES_FAILED_MAX:
                self.go_to(next(name for name in self._clients if name != self.here))
                failed_count = 0
            await asyncio.sleep(PROBE_S)

    def go_to(self, region: str) -> None:
        """What is under way at the other one is given up and asked here."""
        self.here = region
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _answers(self) -> bool:
        service = self._clients[self.here].workflow_service
        try:
            await service.get_system_info(GetSystemInfoRequest(), timeout=timedelta(seconds=PROBE_TIMEOUT_S))
        except RPCError:
            return False
        return True

    async def run(self, transfer: Transfer) -> str:
        """Starts it and waits: "transferred" or "refunded"."""
        await self._start(transfer)
        while True:
            try:
                return await self._through_outages(
                    lambda client: client.get_workflow_handle_for(TransferWorkflow.run, transfer.transfer_id).result()
                )
            except RPCError as failure:
                if failure.status is not RPCStatusCode.NOT_FOUND:
                    raise
            self.started_again.append(transfer.transfer_id)
            await self._start(transfer)

    async def _start(self, transfer: Transfer) -> None:
        async def start(client: Client) -> None:
            try:
                await client.start_workflow(
                    TransferWorkflow.run, transfer, id=transfer.transfer_id, task_queue=TASK_QUEUE,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE, task_timeout=timedelta(seconds=3),
                )  # fmt: skip
            except WorkflowAlreadyStartedError:
                self.repeated_count += 1  # an earlier try was executed, and only its answer was lost
            region = next(name for name, one in self._clients.items() if one is client)
            self.started_at.setdefault(region, time.monotonic())

        await self._through_outages(start)

    async def _through_outages(self, call: Callable[[Client], Awaitable[T]]) -> T:
        deadline = time.monotonic() + OUTAGE_MAX_S
        while True:
            work = asyncio.ensure_future(call(self._clients[self.here]))
            moved = asyncio.ensure_future(self._moved.wait())
            try:
                await asyncio.wait({work, moved}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    return work.result()
            except RPCError as failure:
                if failure.status not in RETRYABLE or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_S)
            finally:
                for job in (work, moved):
                    job.cancel()
                await asyncio.gather(work, moved, return_exceptions=True)
            self.repeated_count += 1
