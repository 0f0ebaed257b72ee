"""The client's side of the demo: start every transfer, wait for its result, read its history; through outages.

A call that ends UNAVAILABLE (or in another way that says "try again") is repeated. Repeating a start is safe since the transfer's
id is the workflow's id and a used id is refused: the second start of one transfer finds the first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from ops.demo.bank import Transfer
from ops.demo.workflows import TASK_QUEUE, TransferWorkflow

OUTAGE_MAX_S = 40.0
RETRYABLE = {
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.UNKNOWN,  # the SDK's word for a connection that broke under a call ("transport error")
    RPCStatusCode.CANCELLED,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.RESOURCE_EXHAUSTED,
}
T = TypeVar("T")


class Transfers:
    """`repeated_count` counts the calls that had to be made again."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.repeated_count = 0

    async def through_outages(self, call: Callable[[], Awaitable[T]]) -> T:
        deadline = time.monotonic() + OUTAGE_MAX_S
        while True:
            try:
                return await call()
            except RPCError as failure:
                if failure.status not in RETRYABLE or time.monotonic() > deadline:
                    raise
            self.repeated_count += 1
            await asyncio.sleep(0.1)

    async def run(self, transfer: Transfer) -> str:
        """Starts it and waits: "transferred" or "refunded"."""
        await self.through_outages(lambda: self._start(transfer))
        handle = self._client.get_workflow_handle_for(TransferWorkflow.run, transfer.transfer_id)
        return await self.through_outages(handle.result)

    async def _start(self, transfer: Transfer) -> None:
        try:
            await self._client.start_workflow(
                TransferWorkflow.run, transfer, id=transfer.transfer_id, task_queue=TASK_QUEUE,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE, task_timeout=timedelta(seconds=3),
            )  # fmt: skip
        except WorkflowAlreadyStartedError:
            self.repeated_count += 1  # an earlier try was executed, and only its answer was lost

    async def retried_activities(self, transfer: Transfer) -> int:
        """How many activities of this transfer needed more than one attempt, by its history."""
        history = await self.through_outages(lambda: self._client.get_workflow_handle(transfer.transfer_id).fetch_history())
        started = [e for e in history.events if e.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED]
        return sum(event.activity_task_started_event_attributes.attempt > 1 for event in started)
