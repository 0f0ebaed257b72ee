"""A node in this process, a namespace of callers and one of handlers, and an endpoint between them; workers are the SDK's.

    async with stage() as s, s.handlers(Handler()), s.callers(Caller):
        assert await s.call(Caller.run, "bob") == "hello bob"
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.nexus.v1 import EndpointSpec
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    DescribeWorkflowExecutionResponse,
    GetWorkflowExecutionHistoryRequest,
)
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from cluster.node import Node, NodeConfig

CALLERS, HANDLERS = "callers", "handlers"
ENDPOINT = "their-endpoint"
QUEUE = "q"
WAIT_S = 20.0


class Stage:
    def __init__(self, node: Node, caller: Client, handler: Client) -> None:
        self.node, self.caller, self.handler = node, caller, handler

    def handlers(self, *handlers: Any, workflows: Any = ()) -> Worker:
        return Worker(
            self.handler,
            task_queue=QUEUE,
            workflows=workflows,
            nexus_service_handlers=handlers,
            workflow_runner=UnsandboxedWorkflowRunner(),
        )

    def callers(self, *workflows: Any) -> Worker:
        return Worker(self.caller, task_queue=QUEUE, workflows=workflows, workflow_runner=UnsandboxedWorkflowRunner())

    async def begin(self, run: Any, *arguments: Any, id: str = "", **options: Any) -> WorkflowHandle[Any, Any]:
        return await self.caller.start_workflow(
            run, args=list(arguments), id=id or f"caller-{uuid.uuid4().hex[:8]}", task_queue=QUEUE, **options
        )

    async def call(self, run: Any, *arguments: Any, **options: Any) -> Any:
        return await result(await self.begin(run, *arguments, **options))

    async def seen(self, handle: WorkflowHandle[Any, Any], name: str, client: Client | None = None) -> HistoryEvent:
        """The first event of that type, once it is there."""
        number = EventType.Value(f"EVENT_TYPE_{name}")
        async with asyncio.timeout(WAIT_S):
            while True:
                for event in await events(client or self.caller, handle.id):
                    if event.event_type == number:
                        return event
                await asyncio.sleep(0.03)

    async def described(
        self, id: str, holds: Callable[[DescribeWorkflowExecutionResponse], Any], client: Client | None = None
    ) -> DescribeWorkflowExecutionResponse:
        """Once that holds of it."""
        client = client or self.caller
        request = DescribeWorkflowExecutionRequest(namespace=client.namespace, execution=WorkflowExecution(workflow_id=id))
        async with asyncio.timeout(WAIT_S):
            while True:
                answer = await client.workflow_service.describe_workflow_execution(request)
                if holds(answer):
                    return answer
                await asyncio.sleep(0.03)

    async def endpoint(self, name: str, *, url: str = "", task_queue: str = QUEUE) -> Any:
        spec = EndpointSpec(name=name)
        if url:
            spec.target.external.url = url
        else:
            spec.target.worker.namespace, spec.target.worker.task_queue = HANDLERS, task_queue
        answer = await self.caller.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))
        return answer.endpoint


@asynccontextmanager
async def stage(**config: Any) -> AsyncIterator[Stage]:
    node = Node(NodeConfig(port=0, http_port=0, namespaces=("default", CALLERS, HANDLERS), **config))
    await node.start()
    try:
        address = f"127.0.0.1:{node.port}"
        made = Stage(node, await Client.connect(address, namespace=CALLERS), await Client.connect(address, namespace=HANDLERS))
        await made.endpoint(ENDPOINT)
        yield made
    finally:
        await node.close()
    assert not node.failed.is_set()


async def result(handle: WorkflowHandle[Any, Any]) -> Any:
    return await asyncio.wait_for(handle.result(), WAIT_S)


async def events(client: Client, workflow_id: str, run_id: str = "") -> list[HistoryEvent]:
    request = GetWorkflowExecutionHistoryRequest(
        namespace=client.namespace, execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
    )
    answer = await client.workflow_service.get_workflow_execution_history(request)
    return list(answer.history.events)


def names(listed: list[HistoryEvent]) -> list[str]:
    return [EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in listed]


def of_nexus(listed: list[HistoryEvent]) -> list[str]:
    """What history says of operations."""
    return [name.removeprefix("NEXUS_OPERATION_") for name in names(listed) if name.startswith("NEXUS_OPERATION_")]
