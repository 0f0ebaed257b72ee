"""One open workflow per shard that nobody works on: whether its shard takes writes, and how long it did not after a crash.

A canary is asked by a signal, since a signal is a fenced append of its shard's owner: an answer means that the shard has an owner
again which may write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import cast

from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import WorkflowIdConflictPolicy
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError

from cluster.history.service import HistoryService

PREFIX = "canary-"
USE_EXISTING = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
ASK_TIMEOUT = timedelta(seconds=1)
PAUSE_S = 0.03
START_S_MAX = 60.0

# The clients to ask through, looked up before each attempt: those of nodes that nothing is done to at the moment.
Through = Callable[[], Sequence[Client]]


class ShardCount:
    """All that the server's own way from a workflow id to a shard needs to know."""

    def __init__(self, shards_count: int) -> None:
        self.shards_count = shards_count


def shard_number(namespace_id: str, workflow_id: str, shards_count: int) -> int:
    return HistoryService.shard_number(cast(HistoryService, ShardCount(shards_count)), namespace_id, workflow_id)


class Canaries:
    def __init__(self, through: Through, shards_count: int, tag: str = "") -> None:
        self._through, self._shards_count, self._tag = through, shards_count, tag
        self._namespace = through()[0].namespace
        self._asked = 0
        self.ids: dict[int, str] = {}

    async def start(self) -> None:
        """Finds an id for each shard and starts it there. Raises RPCError when the region does not take starts."""
        client = self._through()[0]
        request = DescribeNamespaceRequest(namespace=self._namespace)
        described = await client.workflow_service.describe_namespace(request, retry=True)
        number = 0
        while len(self.ids) < self._shards_count:
            workflow_id = f"{PREFIX}{number}{self._tag}"
            self.ids.setdefault(shard_number(described.namespace_info.id, workflow_id, self._shards_count), workflow_id)
            number += 1
        give_up_at = time.monotonic() + START_S_MAX
        for workflow_id in self.ids.values():
            await self._start_one(workflow_id, give_up_at)

    async def _start_one(self, workflow_id: str, give_up_at: float) -> None:
        request = StartWorkflowExecutionRequest(
            namespace=self._namespace,
            workflow_id=workflow_id,
            workflow_type=WorkflowType(name="Canary"),
            task_queue=TaskQueue(name="nobody-polls-this"),
            request_id=workflow_id,
            workflow_id_conflict_policy=USE_EXISTING,
        )
        while True:
            client = self._through()[0]
            try:
                await client.workflow_service.start_workflow_execution(request, timeout=timedelta(seconds=5))
                return
            except RPCError:
                if time.monotonic() > give_up_at:
                    raise
                await asyncio.sleep(PAUSE_S)

    async def ask(self, shard: int, client: Client) -> bool:
        """Whether the shard took the signal within a second."""
        self._asked += 1
        request = SignalWorkflowExecutionRequest(
            namespace=self._namespace,
            workflow_execution=WorkflowExecution(workflow_id=self.ids[shard]),
            signal_name="asked",
            request_id=f"asked-{self._asked}",
        )
        try:
            await client.workflow_service.signal_workflow_execution(request, timeout=ASK_TIMEOUT)
            return True
        except RPCError:
            return False

    async def answer_again(self, shards: Iterable[int], since: float, give_up_s: float) -> dict[int, float | None]:
        """Seconds from `since` (time.monotonic) until each shard took a write; None for those that did not in time."""
        wanted = list(shards)
        found = await asyncio.gather(*(self._answers_again(shard, since, give_up_s) for shard in wanted))
        return dict(zip(wanted, found, strict=True))

    async def _answers_again(self, shard: int, since: float, give_up_s: float) -> float | None:
        turn = shard
        while time.monotonic() - since < give_up_s:
            clients = self._through()
            turn += 1
            if clients and await self.ask(shard, clients[turn % len(clients)]):
                return time.monotonic() - since
            await asyncio.sleep(PAUSE_S)
        return None

    async def silent(self, clients: Sequence[Client], give_up_s: float) -> list[str]:
        """Shards that do not take writes through every one of the clients in time, as "shard 3 through 127.0.0.1:1234"."""
        give_up_at = time.monotonic() + give_up_s

        async def answers(shard: int, client: Client) -> bool:
            while not await self.ask(shard, client):
                if time.monotonic() > give_up_at:
                    return False
                await asyncio.sleep(PAUSE_S)
            return True

        pairs = [(shard, client) for shard in self.ids for client in clients]
        told = await asyncio.gather(*(answers(shard, client) for shard, client in pairs))
        return [
            f"shard {shard} through {client.service_client.config.target_host}"
            for (shard, client), is_told in zip(pairs, told, strict=True)
            if not is_told
        ]

    async def end(self) -> None:
        """Terminates them: at the end of a campaign nothing is open."""
        for workflow_id in self.ids.values():
            client = self._through()[0]
            request = TerminateWorkflowExecutionRequest(
                namespace=self._namespace, workflow_execution=WorkflowExecution(workflow_id=workflow_id)
            )
            await client.workflow_service.terminate_workflow_execution(request, retry=True)
