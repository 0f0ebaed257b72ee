"""The gateway in front of a real node, with handlers of the official SDK: plain HTTP callers start, poll, cancel and list."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp
import pytest
from aiohttp import web
from nexusrpc import HandlerError, HandlerErrorType, OperationError, OperationErrorState

from cluster.nexus.http_client import GuardedClient
from nexus.egress import LOOPBACK_NETWORKS, Egress, EgressSettings
from sdk.nexus_http import CallbackReceiver, NexusClient, RetryRules
from tests.nexus_http.payments import served
from tests.nexus_http.workers import CALLERS, ENDPOINT, HANDLERS, QUEUE, Calling, Town, Work, town

FAST = RetryRules(attempts_max=3, first_s=0.05)


@pytest.fixture
async def on() -> AsyncIterator[Town]:
    async with town() as made:
        yield made


def client(url: str, way: str = "") -> NexusClient:
    return NexusClient(url + (way or f"/nexus/endpoints/{ENDPOINT}/services"), Work, retry=FAST)


async def test_n14_plain_http_calls_a_handler_of_the_official_sdk(on: Town) -> None:
    by_queue = f"/namespaces/{HANDLERS}/task-queues/{QUEUE}/nexus-services"
    async with on.handling():
        for way in ("", by_queue):
            async with client(on.url, way) as calls:
                assert await calls.execute(Work.echo, "bob") == "hello bob"
        async with client(on.url) as calls:
            for word, state in (("failed", OperationErrorState.FAILED), ("canceled", OperationErrorState.CANCELED)):
                with pytest.raises(OperationError) as caught:
                    await calls.execute(Work.refuse, word)
                assert caught.value.state is state
            with pytest.raises(HandlerError) as refused:
                await calls.execute(Work.refuse, "never")
            assert refused.value.type is HandlerErrorType.BAD_REQUEST
            assert ".py" not in json.dumps(str(refused.value.original_failure))


async def test_n05_n19_an_operation_that_a_workflow_stands_for_is_polled_to_its_result(on: Town) -> None:
    async with on.handling(), client(on.url) as calls:
        assert await calls.execute(Work.run, "it") == "worked on it"
        with pytest.raises(OperationError, match="it broke"):
            await calls.execute(Work.run, "fail")
        assert await calls.execute(Work.run, "again") == "worked on once more"  # continued as new
        handle = await calls.start(Work.run, "wait")
        assert (await handle.info())["state"] == "running"
        await handle.cancel()
        with pytest.raises(OperationError) as caught:
            await handle.result(timedelta(seconds=20))
        assert caught.value.state is OperationErrorState.CANCELED


async def test_n20_events_of_a_running_operation(on: Town) -> None:
    async with on.handling(), client(on.url) as calls, aiohttp.ClientSession() as session:
        handle = await calls.start(Work.run, "wait")
        seen = []
        stream = session.get(calls._looked_at(handle), headers={"Accept": "text/event-stream"})
        async with asyncio.timeout(20), stream as response:
            async for line in response.content:
                if line.startswith(b"event: "):
                    seen.append(line.decode().split()[1])
                    if len(seen) == 1:
                        await handle.cancel()
                if line.startswith(b"data: "):
                    last = json.loads(line[6:])
        assert seen[0] == "state" and seen[-1] == "end" and last["state"] == "canceled"


async def test_n08_a_workflow_backed_operation_is_told_by_callback_over_http(on: Town) -> None:
    """Delivered by the node's own driver, where it may call this address."""
    egress = Egress(EgressSettings(allowed_networks=LOOPBACK_NETWORKS))
    on.node.assembly.nexus.use_http(GuardedClient(egress))
    receiver = CallbackReceiver("")
    outer = web.Application()
    outer.add_subapp("/mine", receiver.app)
    async with served(outer) as callback_url, on.handling(), client(on.url) as calls:
        receiver._url = f"{callback_url}/mine"
        expected = receiver.expect(Work.run)
        await calls.start(Work.run, "it", callback=expected.callback)
        assert await asyncio.wait_for(expected.result(), 20) == "worked on it"
    await egress.close()


async def test_n09_the_same_request_id_is_one_workflow(on: Town) -> None:
    async with on.handling(), client(on.url) as calls:
        first = await calls.start(Work.shared, "wait", request_id="rid-1")
        again = await calls.start(Work.shared, "wait", request_id="rid-1")
        assert first.token == again.token
        await first.cancel()


async def test_unknown_services_operations_and_workers_have_their_statuses(on: Town) -> None:
    async with client(on.url) as calls:
        with pytest.raises(HandlerError) as caught:  # nobody polls
            calls._retry = RetryRules(attempts_max=1)
            calls._request_timeout = timedelta(seconds=1)
            await calls.start(Work.echo, "x")
        assert caught.value.type is HandlerErrorType.UPSTREAM_TIMEOUT
    async with on.handling(), client(on.url) as calls:
        with pytest.raises(HandlerError) as caught:
            await calls.start("unheard-of", "x")
        assert caught.value.type is HandlerErrorType.NOT_FOUND


async def test_n20_the_operations_of_a_calling_workflow_are_listed_with_links_to_both_sides(on: Town) -> None:
    async with on.handling(), on.calling():
        handle = await on.callers.start_workflow(Calling.run, "it", id="caller-1", task_queue=QUEUE)
        assert await asyncio.wait_for(handle.result(), 20) == "worked on it"
    url = f"{on.url}/namespaces/{CALLERS}/nexus/operations?workflow_id={handle.id}"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        listed = (await response.json())["operations"]
    assert [one["state"] for one in listed] == ["succeeded"]
    assert [link["url"].split("/")[4] for link in listed[0]["links"]][:2] == [CALLERS, HANDLERS]
