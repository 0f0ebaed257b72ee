"""The served OpenAPI document: true to the table of routes, valid, and 5,000 generated cases without a server error."""

from __future__ import annotations

import asyncio
import copy
import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from nexus.openapi import document
from nexus.routes import ROUTES
from nexus.settings import GatewaySettings
from tests.nexus_http.world import World, gateway_world

CASES = 5_000
DOCUMENT = document(GatewaySettings())


async def test_the_document_is_served_and_describes_exactly_the_routes() -> None:
    async with gateway_world() as world, world.session.get(world.url + "/nexus/openapi.json") as response:
        assert response.status == 200 and response.headers["Content-Type"] == "application/json"
        served = await response.json()
    assert served["openapi"] == "3.1.0"
    described = {(method.upper(), path) for path, methods in served["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}
    assert len({route.id for route in ROUTES}) == len(ROUTES)


def test_the_schemas_are_json_schemas() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    schemathesis.openapi.from_dict(DOCUMENT).validate()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """In a loop of its own: the cases are sent by a client that waits for each answer."""
    loop, made, stop = asyncio.new_event_loop(), [], asyncio.Event()
    ready = threading.Event()

    async def serve() -> None:
        generous = GatewaySettings(requests_per_s_max=1e6, requests_burst=10**6, wait_max_ns=1_000_000)
        async with gateway_world(generous) as one:
            made.append(one)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield made[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


class Sender:
    """One connection, opened again when the other side closed it."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def send(self, case: Any) -> tuple[int, bytes, str]:
        kwargs = case.as_transport_kwargs(base_url="http://127.0.0.1")
        named = {key: kwargs[key] for key in ("method", "url", "headers", "params", "data", "json", "cookies") if key in kwargs}
        prepared: Any = requests.Request(**named).prepare()
        self._connection.request(prepared.method, prepared.path_url, body=prepared.body, headers=dict(prepared.headers))
        response = self._connection.getresponse()
        return response.status, response.read(), response.headers.get("Content-Type", "")


def for_this_world() -> dict[str, Any]:
    """The document with names that exist among the generated ones, and with strings that are quickly drawn."""
    made = copy.deepcopy(DOCUMENT)
    del made["paths"]["/nexus/openapi.json"]  # has nothing to draw
    names = {
        "namespace": ["pay", "ship", "nobody", "a/b", "%", "\u00fc"],
        "endpoint": ["payments", "e1", "nobody", "..", "?"],
        "task_queue": ["pay-queue", "q/1", "#"],
        "workflow_id": ["caller-1", "nobody", ""],
        "Token": ["good-token", "bad", ""],
    }
    for methods in made["paths"].values():
        for operation in methods.values():
            for parameter in operation["parameters"]:
                schema = parameter["schema"]
                if parameter["name"] in names:
                    parameter["schema"] = {"type": "string", "enum": names[parameter["name"]]}
                elif parameter["in"] == "header" and "enum" not in schema:
                    parameter["schema"] = {"type": "string", "format": "_header_value"}
                elif "maxLength" in schema:
                    schema["maxLength"] = 40
    return made


SCHEMA: Any = schemathesis.openapi.from_dict(for_this_world())
OPERATIONS = [one.ok() for one in SCHEMA.get_all_operations()]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.label)
def test_generated_cases_get_no_server_error(world: World, operation: Any) -> None:
    sender, statuses = Sender(world.port), Counter[int]()
    world.completions.told.clear()

    @settings(
        max_examples=-(-CASES // len(OPERATIONS)), deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    @given(operation.as_strategy())
    def check(case: Any) -> None:
        status, body, type = sender.send(case)
        statuses[status] += 1
        assert status < 500 or status == 501, body
        if status >= 400 and type == "application/json":
            failure = json.loads(body)
            assert isinstance(failure["message"], str) and failure["metadata"]["type"].startswith("nexus.")

    check()
    assert statuses.total() >= CASES // len(OPERATIONS)
    assert len(statuses) > 1, f"only one status was seen: {statuses}"
