"""A real node with the gateway before it, and handlers and callers of the official SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import nexusrpc
import nexusrpc.handler as h
from temporalio import nexus, workflow
from temporalio.api.nexus.v1 import EndpointSpec
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from cluster.frontend.http_pages import HttpPages
from cluster.node import Node, NodeConfig
from nexus.behind import make_gateway
from nexus.gateway import Gateway

CALLERS, HANDLERS, ENDPOINT, QUEUE = "callers", "handlers", "their-endpoint", "q"


@nexusrpc.service
class Work:
    echo: nexusrpc.Operation[str, str]
    refuse: nexusrpc.Operation[str, str]
    run: nexusrpc.Operation[str, str]
    shared: nexusrpc.Operation[str, str]


@workflow.defn
class Backing:
    @workflow.run
    async def run(self, word: str) -> str:
        if word == "fail":
            raise ApplicationError("it broke", type="Broken", non_retryable=True)
        if word == "again":
            workflow.continue_as_new("once more")
        if word == "wait":
            await asyncio.Event().wait()
        return f"worked on {word}"


@workflow.defn
class Calling:
    @workflow.run
    async def run(self, word: str) -> str:
        return await workflow.create_nexus_client(service=Work, endpoint=ENDPOINT).execute_operation(Work.run, word)


@h.service_handler(service=Work)
class WorkHandler:
    @h.sync_operation
    async def echo(self, ctx: h.StartOperationContext, input: str) -> str:
        return f"hello {input}"

    @h.sync_operation
    async def refuse(self, ctx: h.StartOperationContext, input: str) -> str:
        if input == "never":
            raise nexusrpc.HandlerError("wrong", type=nexusrpc.HandlerErrorType.BAD_REQUEST)
        raise nexusrpc.OperationError("bad luck", state=nexusrpc.OperationErrorState(input))

    @nexus.workflow_run_operation
    async def run(self, ctx: nexus.WorkflowRunOperationContext, input: str) -> nexus.WorkflowHandle[str]:
        return await ctx.start_workflow(Backing.run, input, id=f"backing-{ctx.request_id}")

    @nexus.workflow_run_operation
    async def shared(self, ctx: nexus.WorkflowRunOperationContext, input: str) -> nexus.WorkflowHandle[str]:
        policy = WorkflowIDConflictPolicy.USE_EXISTING
        return await ctx.start_workflow(Backing.run, input, id="shared", id_conflict_policy=policy)


class Town:
    def __init__(self, node: Node, url: str, callers: Client, handlers: Client, gateway: Gateway) -> None:
        self.node, self.url, self.callers, self.handlers, self.gateway = node, url, callers, handlers, gateway

    def handling(self) -> Worker:
        return _worker(self.handlers, [Backing], [WorkHandler()])

    def calling(self) -> Worker:
        return _worker(self.callers, [Calling], [])


def _worker(client: Client, workflows: Sequence[Any], handlers: Sequence[Any]) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=workflows,
        nexus_service_handlers=handlers,
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


async def _nothing() -> dict[str, Any]:
    return {}


@asynccontextmanager
async def town() -> AsyncIterator[Town]:
    node = Node(NodeConfig(port=0, http_port=0, namespaces=("default", CALLERS, HANDLERS)))
    await node.start()
    parts = node.assembly
    gateway = make_gateway(parts.nexus, parts.namespaces, parts.routed_history, parts.tokens, node.clock, node.ids)
    pages = HttpPages(lambda: "", lambda: b"", "text/plain", _nothing, [gateway.mount])
    try:
        port = await pages.start("127.0.0.1", 0)
        address = f"127.0.0.1:{node.port}"
        callers, handlers = [await Client.connect(address, namespace=name) for name in (CALLERS, HANDLERS)]
        spec = EndpointSpec(name=ENDPOINT)
        spec.target.worker.namespace, spec.target.worker.task_queue = HANDLERS, QUEUE
        await callers.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))
        yield Town(node, f"http://127.0.0.1:{port}", callers, handlers, gateway)
    finally:
        gateway.stop()
        await pages.close()
        await node.close()
    assert not node.failed.is_set()
