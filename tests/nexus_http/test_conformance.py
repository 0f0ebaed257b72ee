"""One list of promises of the protocol, kept by two handlers of the same service: one in an aiohttp application without any
workflow server, and one in a worker of the official SDK behind the gateway (N04). Spoken in raw HTTP, as curl would."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from yarl import URL

from sdk.nexus_http import OperationTable
from sdk.nexus_http.wire import STATUS_OF
from tests.nexus_http.payments import PaymentsHandler, payments
from tests.nexus_http.workers import ENDPOINT, QUEUE, town

SERVICE = "pay%2Fments%20v1"


class Spoken:
    def __init__(self, url: str, handler: PaymentsHandler, session: aiohttp.ClientSession) -> None:
        self.url, self.handler, self.session = url, handler, session

    async def post(self, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = self.session.post(
            URL(f"{self.url}/{SERVICE}/{path}", encoded=True), data=body, headers=named, skip_auto_headers=("Content-Type",)
        )
        async with sent as response:
            return response.status, response.headers, await response.read()


@pytest.fixture(params=["plain", "worker"])
async def spoken(request: pytest.FixtureRequest) -> AsyncIterator[Spoken]:
    async with aiohttp.ClientSession() as session:
        if request.param == "plain":
            async with payments() as (url, handler):
                yield Spoken(url, handler, session)
            return
        table = OperationTable()
        handler = PaymentsHandler(table)
        async with town() as on:
            runner = UnsandboxedWorkflowRunner()
            async with Worker(on.handlers, task_queue=QUEUE, nexus_service_handlers=[handler], workflow_runner=runner):
                yield Spoken(f"{on.url}/nexus/endpoints/{ENDPOINT}/services", handler, session)
                await table.close()


async def test_n04_two_handlers_of_one_service_keep_the_same_promises(spoken: Spoken) -> None:
    await _results(spoken)
    await _unsuccessful(spoken)
    await _refusals(spoken)
    await _operations_that_go_on(spoken)


async def _results(spoken: Spoken) -> None:
    link = '<order:///1>; type="an.Order"'
    status, headers, body = await spoken.post("quote", b"7", Nexus_Link=link, X_Mine="yes", Nexus_Request_Id="rid", **_json())
    assert status == 200 and json.loads(body) == {"number": "quote", "amount": 7}
    assert headers["Nexus-Operation-State"] == "succeeded" and headers["Content-Type"] == "application/json"
    assert headers["Nexus-Link"] == '<quote:///1>; type="a.Quote"'
    seen = spoken.handler.seen[-1]
    assert seen.request_id == "rid" and seen.headers["x-mine"] == "yes"
    assert [(one.url, one.type) for one in seen.inbound_links] == [("order:///1", "an.Order")]
    status, headers, body = await spoken.post("copy", b"\x00\xff", Content_Type="application/octet-stream")
    assert (status, body, headers["Content-Type"]) == (200, b"\x00\xff", "application/octet-stream")
    status, headers, body = await spoken.post("nothing")
    assert (status, body) == (200, b"") and "Content-Type" not in headers


def _json() -> dict[str, str]:
    return {"Content_Type": "application/json"}


async def _unsuccessful(spoken: Spoken) -> None:
    for word in ("failed", "canceled"):
        status, headers, body = await spoken.post("refuse", json.dumps(word).encode(), **_json())
        assert status == 424 and headers["Nexus-Operation-State"] == word
        failure = json.loads(body)
        assert failure["message"] == "no" and failure["metadata"]["type"] == "nexus.OperationError"
        assert failure["details"]["state"] == word and ".py" not in body.decode()


async def _refusals(spoken: Spoken) -> None:
    for type, code in STATUS_OF.items():
        status, _, body = await spoken.post("refuse", json.dumps(type.value).encode(), **_json())
        failure = json.loads(body)
        assert (status, failure["details"]["type"]) == (code, type.value)
        assert failure["metadata"]["type"] == "nexus.HandlerError" and ".py" not in body.decode()
    status, headers, body = await spoken.post("refuse", b'"override"', **_json())
    assert status == 500 and json.loads(body)["details"]["retryableOverride"] is False
    assert headers["Nexus-Request-Retryable"] == "false"
    assert (await spoken.post("unknown"))[0] == 404
    assert (await spoken.post("quote", b'"seven"', **_json()))[0] == 400
    assert (await spoken.post("quote", b"7", Request_Timeout="soon", **_json()))[0] == 400
    assert (await spoken.post("quote", b"7", Nexus_Link="<x", **_json()))[0] == 400
    assert (await spoken.post("charge/cancel"))[0] == 400
    assert (await spoken.post("charge/cancel", Nexus_Operation_Token="nobody's"))[0] == 404


async def _operations_that_go_on(spoken: Spoken) -> None:
    status, headers, body = await spoken.post("charge", b'{"amount":5}', Nexus_Request_Id="once", **_json())
    info = json.loads(body)
    assert status == 201 and headers["Content-Type"].startswith("application/json") and info["state"] == "running"
    again = json.loads((await spoken.post("charge", b'{"amount":5}', Nexus_Request_Id="once", **_json()))[2])
    assert len(spoken.handler.table._kept) == 1 and again["state"] == "running"
    for name in ("Nexus_Operation_Token", None):
        path = "charge/cancel" if name else f"charge/cancel?token={info['token']}"
        status, _, body = await spoken.post(path, **({name: info["token"]} if name else {}))
        assert (status, body) == (202, b"")
    assert next(iter(spoken.handler.table._kept.values())).state == "canceled"
