"""Callbacks that come in: the right status, and no effect for what is forged, expired or finished (nexus_facts, section 6)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from cluster.core.errors import unavailable
from nexus.settings import GatewaySettings
from tests.nexus_http.world import World, gateway_world

GOOD = {"Nexus-Operation-State": "succeeded", "Temporal-Callback-Token": "good-token"}
FAILED = {"message": "no money", "metadata": {"type": "nexus.OperationError"}, "details": {"state": "failed"}}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with gateway_world() as made:
        yield made


async def post(world: World, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, str]:
    async with world.session.post(world.url + path, data=body, headers=headers, skip_auto_headers=("Content-Type",)) as response:
        text = await response.text()
        if response.status != 200:
            failure = json.loads(text)
            assert failure["metadata"] == {"type": "nexus.HandlerError"}
            return response.status, failure["message"]
        return 200, text


@pytest.mark.parametrize("path", ["/nexus/callback", "/namespaces/pay/nexus/callback"])
@pytest.mark.parametrize("name", ["Temporal-Callback-Token", "Token", "Nexus-Callback-Token"])
async def test_a_result_reaches_the_callers_run(world: World, path: str, name: str) -> None:
    headers = {
        "Nexus-Operation-State": "succeeded",
        name: "good-token",
        "Content-Type": "application/json",
        "Nexus-Operation-Token": "op",
        "Nexus-Operation-Start-Time": "Thu, 01 Jan 1970 00:00:07 GMT",
        "Nexus-Operation-Close-Time": "1970-01-01T00:00:08.000000009Z",
        "Nexus-Link": '<temporal:///h>; type="T"',
    }
    assert await post(world, path, headers, b"42") == (200, "")
    told = world.completions.told[0]
    assert (told.state, told.operation_token, told.started_at, told.closed_at) == ("succeeded", "op", 7 * 10**9, 8 * 10**9 + 9)
    assert told.result is not None and told.result.data == b"42" and told.failure is None
    assert [link.url for link in told.links] == ["temporal:///h"]


async def test_a_failure_reaches_the_callers_run(world: World) -> None:
    headers = {**GOOD, "Nexus-Operation-State": "failed", "Content-Type": "application/json; charset=utf-8"}
    assert (await post(world, "/nexus/callback", headers, json.dumps(FAILED).encode()))[0] == 200
    told = world.completions.told[0]
    assert told.failure is not None and told.failure.message == "no money" and told.result is None


async def test_n08_a_second_callback_of_a_finished_operation_is_refused_and_changes_nothing(world: World) -> None:
    assert (await post(world, "/nexus/callback", GOOD))[0] == 200
    assert await post(world, "/nexus/callback", GOOD) == (404, "workflow execution already completed")
    assert len(world.completions.told) == 1


@pytest.mark.parametrize(
    ("path", "changed", "body", "status", "message"),
    [
        ("/nexus/callback", {"Temporal-Callback-Token": None}, b"", 400, "invalid callback token"),
        ("/nexus/callback", {"Temporal-Callback-Token": "forged"}, b"", 400, "invalid callback token"),
        ("/nexus/callback", {"Temporal-Callback-Token": "x" * 8_000}, b"", 400, "invalid callback token"),
        ("/namespaces/ship/nexus/callback", {}, b"", 400, "invalid callback token"),
        ("/namespaces/nobody/nexus/callback", {}, b"", 404, "Namespace nobody is not found."),
        ("/nexus/callback", {"Nexus-Operation-State": None}, b"", 400, 'invalid request operation state: ""'),
        ("/nexus/callback", {"Nexus-Operation-State": "running"}, b"", 400, 'invalid request operation state: "running"'),
        ("/nexus/callback", {"Nexus-Operation-State": "failed"}, b"x", 400, 'invalid request content type: ""'),
        (
            "/nexus/callback", {"Nexus-Operation-State": "failed", "Content-Type": "text/plain"}, b"x", 400,
            'invalid request content type: "text/plain"',
        ),
        (
            "/nexus/callback", {"Nexus-Operation-State": "canceled", "Content-Type": "application/json"}, b"{", 400,
            "failed to decode Failure from request body",
        ),
        (
            "/nexus/callback", {"Nexus-Operation-Start-Time": "yesterday"}, b"", 400,
            "failed to parse operation start time header",
        ),
        (
            "/nexus/callback", {"Nexus-Operation-Close-Time": "2026-02-30T00:00:00Z"}, b"", 400,
            "failed to parse operation close time header",
        ),
        ("/nexus/callback", {"Nexus-Link": "<x"}, b"", 400, "failed to decode links from request headers"),
    ],
)  # fmt: skip
async def test_a_bad_callback_gets_the_public_servers_words_and_has_no_effect(
    world: World, path: str, changed: dict[str, str | None], body: bytes, status: int, message: str
) -> None:
    headers = {name: value for name, value in {**GOOD, **changed}.items() if value is not None}
    assert await post(world, path, headers, body) == (status, message)
    assert world.completions.told == []


async def test_a_result_that_is_too_large_is_refused() -> None:
    async with gateway_world(GatewaySettings(body_bytes_max=100)) as world:
        assert (await post(world, "/nexus/callback", GOOD, b"x" * 101))[0] == 400
        assert (await post(world, "/nexus/callback", GOOD, b"x" * 100))[0] == 200


async def test_a_deep_failure_is_refused_and_not_a_server_error(world: World) -> None:
    headers = {**GOOD, "Nexus-Operation-State": "failed", "Content-Type": "application/json"}
    deep = b'{"message":"m","cause":' * 30 + b"{}" + b"}" * 30
    assert (await post(world, "/nexus/callback", headers, deep))[0] == 400
    assert (await post(world, "/nexus/callback", headers, b"[" * 100_000))[0] == 400
    assert (await post(world, "/nexus/callback", headers, b'{"details":' + b"[" * 100_000))[0] == 400


async def test_a_run_that_cannot_be_reached_asks_for_another_try(world: World) -> None:
    world.completions.failure = unavailable("the shard moves")
    assert (await post(world, "/nexus/callback", GOOD))[0] == 503
