"""Endpoints whose target is an address outside: proxied with the same policy, tokens and hygiene."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from nexus.egress import LOOPBACK_NETWORKS, Egress, EgressSettings
from nexus.policy import Caller, EndpointPolicy
from nexus.ports import Endpoint
from tests.nexus_http.test_egress import listening
from tests.nexus_http.world import World, gateway_world

PATH = "/nexus/endpoints/vendor/services/a%2Fb/charge"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def in_front_of(handler: Handler, policy: EndpointPolicy | None = None) -> AsyncIterator[World]:
    egress = Egress(EgressSettings(allowed_networks=LOOPBACK_NETWORKS))
    async with listening(handler) as port, gateway_world(egress=egress) as world:
        url = f"http://127.0.0.1:{port}/their/api/"
        world.endpoints.known.append(Endpoint("x1", "vendor", url=url, policy=policy or EndpointPolicy()))
        yield world
        await egress.close()


async def test_a_start_goes_out_and_its_result_comes_back() -> None:
    inside = {"Set-Cookie": "a=b", "X-Inside": "1"}

    async def vendor(request: web.Request) -> web.Response:
        assert request.raw_path == "/their/api/a%2Fb/charge?callback=http%3A%2F%2Fcaller%2Fx"
        assert request.headers["Nexus-Callback-Token"] == "cb" and request.headers["Nexus-Request-Id"] == "rid"
        assert "Authorization" not in request.headers and "Cookie" not in request.headers
        return web.Response(
            body=await request.read(), content_type="application/json",
            headers={"Nexus-Operation-State": "succeeded", "Nexus-Link": '<v:///1>; type="V"', **inside},
        )  # fmt: skip

    async with in_front_of(vendor) as world, world.post(
        PATH + "?callback=http%3A%2F%2Fcaller%2Fx", b'{"a":1}', Content_Type="application/json", Nexus_Callback_Token="cb",
        Nexus_Request_Id="rid", Authorization="Bearer gateway-secret", Cookie="c=d",
    ) as response:  # fmt: skip
        assert (response.status, await response.read()) == (200, b'{"a":1}')
        assert response.headers["Nexus-Link"] == '<v:///1>; type="V"'
        assert "Set-Cookie" not in response.headers and "X-Inside" not in response.headers


async def test_its_token_is_sealed_and_a_cancel_finds_it() -> None:
    async def vendor(request: web.Request) -> web.Response:
        if request.path.endswith("/cancel"):
            assert request.headers["Nexus-Operation-Token"] == "vendor-7"
            return web.Response(status=202)
        return web.json_response({"token": "vendor-7", "state": "running"}, status=201)

    async with in_front_of(vendor) as world:
        async with world.post(PATH) as response:
            assert response.status == 201
            token = (await response.json())["token"]
        assert "vendor-7" not in token
        async with world.post(PATH + "/cancel", Nexus_Operation_Token=token) as response:
            assert response.status == 202
        async with world.post(PATH + "/cancel", Nexus_Operation_Token="vendor-7") as response:
            assert response.status == 404


@pytest.mark.parametrize(
    ("status", "type", "headers", "body"),
    [
        (503, "UNAVAILABLE", {"Retry-After": "7"}, b"<html>at /srv/x.py</html>"),
        (404, "NOT_FOUND", {}, b'{"message":"no such","stackTrace":"at /srv/x.py"}'),
        (418, "INTERNAL", {}, b""),
        (500, "BAD_REQUEST", {}, b'{"message":"m","metadata":{"type":"nexus.HandlerError"},"details":{"type":"BAD_REQUEST"}}'),
        (302, "INTERNAL", {"Location": "http://127.0.0.1/inside"}, b""),
    ],
)
async def test_its_errors_are_told_in_the_protocols_words(status: int, type: str, headers: dict[str, str], body: bytes) -> None:
    async def vendor(request: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers, body=body)

    async with in_front_of(vendor) as world, world.post(PATH) as response:
        failure = await response.json()
        assert failure["details"]["type"] == type and failure["metadata"]["type"] == "nexus.HandlerError"
        assert "x.py" not in json.dumps(failure) and "Location" not in response.headers
        assert response.headers.get("Retry-After") == headers.get("Retry-After")


async def test_an_unsuccessful_operation_of_theirs_is_424() -> None:
    async def vendor(request: web.Request) -> web.Response:
        failure = {"message": "no", "metadata": {"type": "nexus.OperationError"}, "details": {"state": "canceled"}}
        return web.json_response(failure, status=424)

    async with in_front_of(vendor) as world, world.post(PATH) as response:
        assert response.status == 424 and response.headers["Nexus-Operation-State"] == "canceled"


async def test_a_target_that_is_silent_or_gone_is_an_error_worth_another_try() -> None:
    async def vendor(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async with in_front_of(vendor) as world:
        async with world.post(PATH, Request_Timeout="100ms") as response:
            assert response.status == 520
        world.endpoints.known[-1] = Endpoint("x1", "vendor", url="http://127.0.0.1:1/")
        async with world.post(PATH) as response:
            assert response.status == 503


async def test_an_address_inside_is_not_called_and_a_callers_list_holds() -> None:
    async def vendor(request: web.Request) -> web.Response:
        return web.Response()

    async with in_front_of(vendor, EndpointPolicy(callers=("subject:alice",))) as world:
        async with world.post(PATH) as response:
            assert response.status == 403
        world.caller = Caller(subject="alice")
        world.endpoints.known[-1] = Endpoint("x1", "vendor", url="http://169.254.169.254/latest")
        async with world.post(PATH) as response:
            assert response.status == 503
            assert (await response.json())["details"] == {"type": "UNAVAILABLE", "retryableOverride": False}
