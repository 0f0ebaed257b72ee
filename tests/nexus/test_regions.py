"""Operations between regions, on real nodes of two: endpoints are everywhere, calls go where a namespace is active, and an
operation that began before a failover of its caller, its handler or both ends once (N17)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.nexus.v1 import Endpoint, EndpointSpec
from temporalio.api.operatorservice.v1 import (
    CreateNexusEndpointRequest,
    DeleteNexusEndpointRequest,
    ListNexusEndpointsRequest,
    UpdateNexusEndpointRequest,
)
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.nexus.services import Backing, Call, Handler
from tests.nexus.stage import ENDPOINT, QUEUE, of_nexus
from tests.regions.regions import HERE_ONLY, NAMESPACE, Regions, eventually, regions

HANDLERS = "handlers"


@asynccontextmanager
async def two_regions() -> AsyncIterator[Regions]:
    """Callers are at home in c1, handlers in c2; both namespaces are in both regions."""
    async with regions() as c:
        await c.register(HANDLERS, "c2")
        spec = EndpointSpec(name=ENDPOINT)
        spec.target.worker.namespace, spec.target.worker.task_queue = HANDLERS, QUEUE
        await c.one.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))
        await eventually(lambda: _are_alike(c, 1), "both regions have the endpoint")
        yield c


async def endpoints(client: Client) -> list[Endpoint]:
    return list((await client.operator_service.list_nexus_endpoints(ListNexusEndpointsRequest())).endpoints)


async def _are_alike(c: Regions, count: int) -> bool:
    one, two = await endpoints(c.one), await endpoints(c.two)
    return one == two and len(one) == count


async def history(c: Regions, name: str, workflow_id: str, namespace: str = NAMESPACE) -> list[Any]:
    request = GetWorkflowExecutionHistoryRequest(
        namespace=namespace, execution=WorkflowExecution(workflow_id=workflow_id)
    )
    answer = await c.clients[name].workflow_service.get_workflow_execution_history(request, metadata=HERE_ONLY)
    return list(answer.history.events)


async def at_handlers(c: Regions, name: str) -> Client:
    return await Client.connect(f"127.0.0.1:{c.nodes[name].port}", namespace=HANDLERS)


def callers(client: Client) -> Worker:
    return Worker(client, task_queue=QUEUE, workflows=[Call], workflow_runner=UnsandboxedWorkflowRunner())


def handlers(client: Client, handler: Handler) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[Backing],
        nexus_service_handlers=[handler],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


async def started(c: Regions, workflow_id: str) -> bool:
    return "STARTED" in of_nexus(await history(c, "c1", workflow_id))


async def test_an_endpoint_is_the_same_in_every_region() -> None:
    async with two_regions() as c:
        (made,) = await endpoints(c.two)
        changed = EndpointSpec()
        changed.CopyFrom(made.spec)
        changed.target.worker.task_queue = "another"
        await c.two.operator_service.update_nexus_endpoint(UpdateNexusEndpointRequest(id=made.id, version=1, spec=changed))
        await eventually(lambda: _are_alike(c, 1), "the change is known")
        (there,) = await endpoints(c.one)
        assert (there.id, there.version, there.spec.target.worker.task_queue) == (made.id, 2, "another")
        await c.one.operator_service.delete_nexus_endpoint(DeleteNexusEndpointRequest(id=made.id, version=2))
        await eventually(lambda: _are_alike(c, 0), "the deletion is known")


async def test_one_name_given_in_two_regions_at_once_stays_with_one_endpoint() -> None:
    async with two_regions() as c:
        await c.cut()
        spec = EndpointSpec(name="both")
        spec.target.external.url = "http://example.com/x"
        ids = []
        for client in (c.one, c.two):
            answer = await client.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))
            ids.append(answer.endpoint.id)
        c.heal()
        await eventually(lambda: _are_alike(c, 2), "the regions agree")
        assert [one.id for one in await endpoints(c.two) if one.spec.name == "both"] == ids[:1], "the older one"


@pytest.mark.parametrize("operation", ["echo", "run"])
async def test_an_operation_goes_to_the_region_of_its_handler_and_its_result_comes_back(operation: str) -> None:
    handler = Handler()
    async with two_regions() as c, callers(c.one), handlers(await at_handlers(c, "c2"), handler):
        result = await c.one.execute_workflow(Call.run, args=[operation, "bob"], id="w", task_queue=QUEUE)
        assert result == {"echo": "hello bob", "run": "worked on bob"}[operation]
    assert handler.calls[operation] == 1


@pytest.mark.parametrize("moves", ["caller", "handler", "both"])
async def test_an_operation_that_began_before_a_failover_ends_once_after_it(moves: str) -> None:
    """N17."""
    handler = Handler()
    async with two_regions() as c:
        h1, h2 = await at_handlers(c, "c1"), await at_handlers(c, "c2")
        async with callers(c.one), handlers(h2, handler):
            handle = await c.one.start_workflow(Call.run, args=["run", "wait"], id="w", task_queue=QUEUE)
            await eventually(lambda: started(c, "w"), "the handler has it")
        begun = next(one for one in await history(c, "c1", "w") if one.HasField("nexus_operation_started_event_attributes"))
        backing_id = begun.links[0].workflow_event.workflow_id
        await c.agree()
        await asyncio.sleep(0.3)
        if moves in ("caller", "both"):
            await c.fail_over("c2")
        if moves in ("handler", "both"):
            await c.fail_over("c1", namespace=HANDLERS)
        async with callers(c.two if moves in ("caller", "both") else c.one), handlers(h1 if moves != "caller" else h2, handler):
            await h1.get_workflow_handle(backing_id).signal("tell", "moved")
            assert await asyncio.wait_for(handle.result(), 30) == "told moved"
        await c.agree()
        for name in c.names:
            assert of_nexus(await history(c, name, "w")) == ["SCHEDULED", "STARTED", "COMPLETED"]
    assert handler.calls["run"] == 1


async def test_a_region_that_cannot_be_reached_is_called_again() -> None:
    handler = Handler()
    async with two_regions() as c, callers(c.one), handlers(await at_handlers(c, "c2"), handler):
        await c.cut()
        handle = await c.one.start_workflow(Call.run, args=["echo", "bob"], id="w", task_queue=QUEUE)
        await asyncio.sleep(1.5)
        c.heal()
        assert await asyncio.wait_for(handle.result(), 30) == "hello bob"
