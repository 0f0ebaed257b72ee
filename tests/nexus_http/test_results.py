"""Results without a callback: long poll and events, and what a run called (requirements N08, N19, N20)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from temporalio.api.failure.v1 import CanceledFailureInfo, Failure
from temporalio.api.nexus.v1 import Link, Request, Response

from cluster.core.errors import not_found, unavailable, unimplemented
from nexus.operation_tokens import OperationToken, OperationTokens
from nexus.ports import CallerOperation, OperationInfo
from nexus.settings import GatewaySettings
from tests.nexus_http.world import World, gateway_world, json_payload, started

PATH = "/nexus/endpoints/payments/services/billing/charge"
DONE = OperationInfo(state="succeeded", position=9, result=json_payload(b'{"ok":true}'), links=[Link(url="t:///h", type="T")])


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with gateway_world() as made:
        yield made


def token_of(world: World) -> str:
    bound = OperationToken("id-of-pay", "e1", "billing", "charge", "own")
    return OperationTokens(world.tokens, GatewaySettings()).seal(bound)


async def until_waiting(world: World, count: int) -> None:
    while world.gateway._results.waits.count < count:
        await asyncio.sleep(0.005)


async def test_n20_the_state_of_an_operation_is_told_at_once(world: World) -> None:
    world.operations.state = OperationInfo(
        state="running", position=3, attempt=4, last_failure="busy", progress={"events": 3}, started_at=1_500_000_000,
        links=DONE.links,
    )  # fmt: skip
    async with world.session.get(f"{world.url}{PATH}/operations/{token_of(world)}") as response:
        assert response.status == 200
        info = await response.json()
    assert info == {
        "token": token_of(world), "state": "running", "attempt": 4, "lastFailure": "busy", "progress": {"events": 3},
        "startTime": "1970-01-01T00:00:01.500000000Z", "links": [{"url": "t:///h", "type": "T"}],
    }  # fmt: skip
    assert world.operations.asked_tokens == ["own"]


async def test_n19_a_long_poll_says_still_running_and_can_be_repeated_until_the_result_is_there(world: World) -> None:
    url = f"{world.url}{PATH}/operations/{token_of(world)}"
    for _ in range(2):
        async with world.session.get(url + "?wait=20ms") as response:
            assert response.status == 202 and response.headers["Nexus-Operation-State"] == "running"
            assert (await response.json())["state"] == "running"
    poll = asyncio.create_task(_read(world, url + "?wait=30s"))
    await until_waiting(world, 1)
    world.operations.become(DONE)
    status, headers, body = await poll
    assert (status, body) == (200, b'{"ok":true}')
    assert headers["Nexus-Operation-State"] == "succeeded" and headers["Nexus-Link"] == '<t:///h>; type="T"'
    assert await _read(world, url + "?wait=30s") == (200, headers, body)  # as often as one likes


async def _read(world: World, url: str) -> tuple[int, dict[str, str], bytes]:
    async with world.session.get(url) as response:
        headers = {name: value for name, value in response.headers.items() if name != "Date"}
        return response.status, headers, await response.read()


async def test_an_operation_that_ended_badly_is_424(world: World) -> None:
    failure = Failure(message="operation canceled", canceled_failure_info=CanceledFailureInfo())
    world.operations.state = OperationInfo(state="canceled", position=9, failure=failure)
    status, headers, body = await _read(world, f"{world.url}{PATH}/operations/{token_of(world)}?wait=1s")
    assert status == 424 and headers["Nexus-Operation-State"] == "canceled"
    assert json.loads(body)["details"]["state"] == "canceled"


async def test_a_stopping_gateway_ends_its_long_polls_and_the_next_one_takes_them(world: World) -> None:
    url = f"{PATH}/operations/{token_of(world)}?wait=30s"
    poll = asyncio.create_task(_read(world, world.url + url))
    await until_waiting(world, 1)
    world.gateway.stop()
    status, headers, _ = await poll
    assert status == 503 and headers["Retry-After"] == "1"
    async with gateway_world() as other:  # the same keys: another node, or this one after a restart
        other.operations.state = DONE
        assert (await _read(other, other.url + url))[0] == 200


async def test_waits_are_counted_and_a_caller_that_hung_up_waits_no_more() -> None:
    async with gateway_world(GatewaySettings(waits_count_max=2)) as world:
        url = f"{world.url}{PATH}/operations/{token_of(world)}?wait=30s"
        polls = [asyncio.create_task(_read(world, url)) for _ in range(2)]
        await until_waiting(world, 2)
        status, headers, _ = await _read(world, url)
        assert status == 429 and headers["Retry-After"] == "5"
        polls[0].cancel()
        while world.gateway._results.waits.count == 2:
            await asyncio.sleep(0.005)
        world.operations.become(DONE)
        assert (await polls[1])[0] == 200


async def test_events_tell_progress_and_then_the_end(world: World) -> None:
    url = f"{world.url}{PATH}/operations/{token_of(world)}"
    async with world.session.get(url, headers={"Accept": "text/event-stream"}) as response:
        assert response.status == 200 and response.headers["Content-Type"] == "text/event-stream"
        first = await _event(response)
        assert first["event"] == "state" and json.loads(first["data"])["progress"] == {"events": 3}
        world.operations.become(OperationInfo(state="running", position=5, attempt=2, progress={"events": 5}))
        second = await _event(response)
        assert second["id"] == "5" and json.loads(second["data"])["attempt"] == 2
        world.operations.become(DONE)
        assert json.loads((await _event(response))["data"])["state"] == "succeeded"
        end = await _event(response)
        assert end["event"] == "end"
        assert json.loads(end["data"]) == {"state": "succeeded", "contentType": "application/json", "result": {"ok": True}}
        assert await response.content.read() == b""


async def _event(response: object) -> dict[str, str]:
    found: dict[str, str] = {}
    while True:
        line = (await response.content.readline()).decode().rstrip("\n")  # type: ignore[attr-defined]
        if not line and "event" in found:
            return found
        name, _, value = line.partition(": ")
        found[name] = value


async def test_a_silent_stream_beats_and_ends_when_the_gateway_stops() -> None:
    async with gateway_world(GatewaySettings(stream_beat_s=0.02)) as world:
        url = f"{world.url}{PATH}/operations/{token_of(world)}"
        async with world.session.get(url, headers={"Accept": "text/event-stream"}) as response:
            while await response.content.readline() != b": still running\n":
                pass
            world.gateway.stop()
            while await response.content.readline():
                pass


@pytest.mark.parametrize(
    ("failure", "status"),
    [(not_found("workflow not found"), 404), (unimplemented("no workflow"), 501), (unavailable("moving"), 503)],
)
async def test_an_operation_that_cannot_be_looked_at_says_why(world: World, failure: Exception, status: int) -> None:
    world.operations.failure = failure  # type: ignore[assignment]
    found, _, body = await _read(world, f"{world.url}{PATH}/operations/{token_of(world)}")
    assert found == status and json.loads(body)["metadata"]["type"] == "nexus.HandlerError"
    async with world.session.get(
        f"{world.url}{PATH}/operations/{token_of(world)}", headers={"Accept": "text/event-stream"}
    ) as response:
        assert response.status == status


async def test_a_wait_that_is_no_duration_is_refused(world: World) -> None:
    assert (await _read(world, f"{world.url}{PATH}/operations/{token_of(world)}?wait=long"))[0] == 400


async def test_a_started_operation_is_polled_to_its_result_with_the_token_of_the_start(world: World) -> None:
    async def begin(namespace_id: str, task_queue: str, request: Request, timeout_s: float) -> Response:
        return started("workflow-token")

    world.worker.work = begin
    async with world.post(PATH) as response:
        token = (await response.json())["token"]
    world.operations.state = DONE
    assert (await _read(world, f"{world.url}{PATH}/operations/{token}?wait=5s"))[0] == 200
    assert set(world.operations.asked_tokens) <= {"workflow-token"}


async def test_n20_the_operations_of_a_caller_are_listed_with_both_links(world: World) -> None:
    links = [Link(url="temporal:///caller", type="T"), Link(url="temporal:///handler", type="T")]
    one = CallerOperation(5, "payments", "billing", "charge", "backing off", attempt=3, last_failure="busy", links=links)
    world.operations.of_callers = [one]
    url = f"{world.url}/namespaces/ship/nexus/operations"
    status, _, body = await _read(world, url + "?workflow_id=caller-1")
    listed = json.loads(body)["operations"]
    assert status == 200 and listed[0]["state"] == "backing off" and listed[0]["attempt"] == 3
    assert [link["url"] for link in listed[0]["links"]] == ["temporal:///caller", "temporal:///handler"]
    assert (await _read(world, url + "?workflow_id=nobody"))[0] == 404
    assert (await _read(world, url))[0] == 400
