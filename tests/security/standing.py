"""A running server with runs in every state in two namespaces, for tests that attack it; and the calls they begin with.

The stage is the fuzzers' (tests/fuzz/stage.py): `fuzz` is the caller's namespace, `other` somebody else's.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.message import Message
from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api

from ops.servers import OutlastServer
from tests.fuzz.pools import FUZZ
from tests.fuzz.stage import Stage
from tests.fuzz.targets import Answer, OverGrpc

RUN_ID = "11111111-2222-3333-4444-555555555555"
_numbers = itertools.count(1)


class Standing:
    def __init__(self, target: OverGrpc, stage: Stage) -> None:
        self.target, self.stage = target, stage

    async def send(self, name: str, request: Message, timeout_s: float = 0.0) -> Answer:
        return await self.target.send(name, request.SerializeToString(), timeout_s)

    def workflow_id(self, name: str = "open") -> str:
        return str(self.stage.pools.names[f"id:{FUZZ}:{name}"])

    def token(self, purpose: str, namespace: str = FUZZ) -> bytes:
        token = self.stage.pools.names[f"token:{namespace}:{purpose}"]
        assert isinstance(token, bytes)
        return token

    async def poll(self, queue: str, namespace: str = FUZZ) -> Any:
        request = api.PollWorkflowTaskQueueRequest(namespace=namespace, task_queue=TaskQueue(name=queue))
        task = await self.stage.ask("PollWorkflowTaskQueue", request, 10.0)
        assert task.task_token, f"no task came on {queue}"
        return task

    async def events(self, workflow_id: str, namespace: str = FUZZ, run_id: str = "") -> list[Any]:
        return await self.stage.history(namespace, workflow_id, run_id)


def unique(name: str) -> str:
    return f"{name}-{next(_numbers)}"


def start(workflow_id: str = "", queue: str = "", **fields: Any) -> api.StartWorkflowExecutionRequest:
    request: dict[str, Any] = {
        "namespace": FUZZ,
        "workflow_id": workflow_id or unique("w"),
        "workflow_type": WorkflowType(name="Raw"),
        "task_queue": TaskQueue(name=queue or "security"),
    }
    return api.StartWorkflowExecutionRequest(**(request | fields))


def execution(workflow_id: str, run_id: str = "") -> WorkflowExecution:
    return WorkflowExecution(workflow_id=workflow_id, run_id=run_id)


@asynccontextmanager
async def standing_on(server: OutlastServer) -> AsyncIterator[Standing]:
    """At the end the server must be whole: it runs a correct workflow, and its log tells of no failure."""
    target = OverGrpc(server)
    stage = Stage(target, unique("s") + "-")
    try:
        await stage.set_up()
        yield Standing(target, stage)
        await stage.check_whole(random.Random(1))
    finally:
        await target.close()
