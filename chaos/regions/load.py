"""Clients of one region's address: they start workflows and signal them, in many namespaces, and never learn of another region.

Each call has a fixed request id and is sent until there is a definite answer. `region` may be changed: the calls that are
under way then go on with the new address, as clients behind a name that is switched would.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import WorkflowIdConflictPolicy
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest, StartWorkflowExecutionRequest, WorkflowServiceStub

from chaos.regions.record import Record, Told

ATTEMPT_S = 3.0
PAUSE_S = 0.05
WORKFLOWS_PER_NAMESPACE = 3
RETRYABLE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
    }
)
USE_EXISTING = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
Answer = TypeVar("Answer")


class Load:
    """`channels`: region name -> channel to its port."""

    def __init__(
        self, channels: dict[str, Any], region: str, namespaces: list[str], record: Record, seed: int
    ) -> None:
        self.region = region
        self.record = record
        self._stubs: dict[str, Any] = {name: WorkflowServiceStub(channel) for name, channel in channels.items()}
        self._namespaces = namespaces
        self._random = random.Random(seed)
        self._numbers = 0
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def client(self, pause_s: float) -> None:
        while not self._stopping.is_set():
            await self.step(self._random.choice(self._namespaces))
            await asyncio.sleep(pause_s * 2 * self._random.random())

    async def step(self, namespace: str) -> None:
        """One start or signal, in that namespace."""
        self._numbers += 1
        token = f"token-{self._numbers}"
        workflow_id = f"w{self._random.randrange(WORKFLOWS_PER_NAMESPACE)}"
        began = time.monotonic()
        if self._random.random() < 0.4:
            await self._start(namespace, workflow_id, token)
        else:
            await self._signal(namespace, workflow_id, token)
        self.record.slowest_s = max(self.record.slowest_s, time.monotonic() - began)

    async def _start(self, namespace: str, workflow_id: str, token: str) -> None:
        request = StartWorkflowExecutionRequest(
            namespace=namespace,
            workflow_id=workflow_id,
            workflow_type=WorkflowType(name="waits"),
            task_queue=TaskQueue(name="nobody"),
            workflow_id_conflict_policy=USE_EXISTING,
            request_id=token,
            input=_payloads(token),
        )
        found = await self._until_answered(lambda stub: stub.StartWorkflowExecution(request, timeout=ATTEMPT_S))
        if found is not None and found[1].started:
            self._told(found[0], namespace, workflow_id, token, found[1].run_id)

    async def _signal(self, namespace: str, workflow_id: str, token: str) -> None:
        request = SignalWorkflowExecutionRequest(
            namespace=namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id),
            signal_name="told",
            request_id=token,
            input=_payloads(token),
        )
        found = await self._until_answered(lambda stub: stub.SignalWorkflowExecution(request, timeout=ATTEMPT_S))
        if found is not None:
            self._told(found[0], namespace, workflow_id, token)

    def _told(self, region: str, namespace: str, workflow_id: str, token: str, run_id: str = "") -> None:
        self.record.add(Told(namespace, workflow_id, token, region, time.monotonic(), run_id))

    async def _until_answered(self, call: Callable[[Any], Awaitable[Answer]]) -> tuple[str, Answer] | None:
        """Which region answered, and what; None: there is no such workflow, or it was refused (and noted)."""
        while True:
            region = self.region
            try:
                return region, await call(self._stubs[region])
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return None
                if error.code() not in RETRYABLE:
                    self.record.refused[f"{error.code().name}: {error.details()}"] += 1
                    return None
                self.record.repeated_count += 1
            await asyncio.sleep(PAUSE_S)


def _payloads(text: str) -> Payloads:
    return Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=f'"{text}"'.encode())])
