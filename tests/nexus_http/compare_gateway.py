"""The same raw requests to the real server's gateway and to ours, both before the same handler: do the statuses agree?

    PEER_PORT=7733 peer.sh start sqlite; python -m tests.nexus_http.compare_gateway 127.0.0.1:7733 http://127.0.0.1:7743

Tells each difference; ends with 1 if there is one that is not meant.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import aiohttp
import nexusrpc
import nexusrpc.handler as h
from google.protobuf.duration_pb2 import Duration
from temporalio.api.nexus.v1 import EndpointSpec
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest, ListNexusEndpointsRequest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from yarl import URL

from sdk.nexus_http import OperationTable
from sdk.nexus_http.wire import STATUS_OF
from tests.nexus_http.payments import Payments, PaymentsHandler
from tests.nexus_http.workers import ENDPOINT, HANDLERS, QUEUE, town

JSON = {"Content-Type": "application/json"}
MEANT = {
    "by name": "an endpoint can be called by its name",
    "bad operation timeout": "what cannot be read is refused, not passed on",
    "bad callback url": "an address that no callback can go to is refused at the start",
    "long service": "names have a limit at the gateway",
    "get": "405, and which methods there are",
    "callback get": "405, and which methods there are",
    "empty segment": "is no route",
}


@nexusrpc.service(name="payments.v1")  # the other gateway does not take names with a slash
class PaymentsV1(Payments):
    pass


@h.service_handler(service=PaymentsV1)
class PaymentsV1Handler(PaymentsHandler):
    pass


class Case(NamedTuple):
    name: str
    path: str
    body: bytes = b"7"
    headers: dict[str, str] = JSON
    method: str = "POST"


def cases(endpoint_id: str) -> Iterator[Case]:
    endpoint, service = f"/nexus/endpoints/{endpoint_id}/services", "payments.v1"
    at = f"{endpoint}/{service}"
    octets = {"Content-Type": "application/octet-stream"}
    done = {"Nexus-Operation-State": "succeeded"}
    yield Case("by queue", f"/namespaces/{HANDLERS}/task-queues/{QUEUE}/nexus-services/{service}/quote")
    yield Case("by id", f"{at}/quote")
    yield Case("by name", f"/nexus/endpoints/{ENDPOINT}/services/{service}/quote")
    yield Case("unknown endpoint", f"/nexus/endpoints/0b8fa7c5-4a1c-4d6e-9d3c-52d6a1a4a111/services/{service}/quote")
    yield Case("unknown namespace", f"/namespaces/nope/task-queues/q/nexus-services/{service}/quote")
    yield Case("charset", f"{at}/quote", headers={"Content-Type": "application/json; charset=utf-8"})
    yield Case("bad json", f"{at}/quote", b"{")
    yield Case("null", f"{at}/nothing", b"", {})
    yield Case("json null", f"{at}/nothing", b"null")
    yield Case("octets", f"{at}/copy", b"\x00\xff", octets)
    yield Case("too large", f"{at}/copy", b"x" * (2 * 1024 * 1024 + 1), octets)
    words = ["failed", "canceled", "override", "bug", *(type.value for type in STATUS_OF)]
    yield from (Case(word, f"{at}/refuse", json.dumps(word).encode()) for word in words)
    yield Case("unknown operation", f"{at}/unknown")
    yield Case("unknown service", f"{endpoint}/nope/unknown")
    yield Case("bad timeout", f"{at}/quote", headers={**JSON, "Request-Timeout": "soon"})
    yield Case("bad operation timeout", f"{at}/quote", headers={**JSON, "Operation-Timeout": "soon"})
    yield Case("bad link", f"{at}/quote", headers={**JSON, "Nexus-Link": "<x"})
    yield Case("cancel without token", f"{at}/charge/cancel", b"", {})
    yield Case("long service", f"{endpoint}/{'s' * 1_001}/quote")
    yield Case("get", f"{at}/quote", b"", {}, "GET")
    yield Case("no such route", "/nexus/nope", b"", {})
    yield Case("nobody polls", f"/namespaces/{HANDLERS}/task-queues/other/nexus-services/{service}/quote",
               headers={**JSON, "Request-Timeout": "2s"})  # fmt: skip
    yield Case("slow", f"{at}/refuse", b'"slow"', {**JSON, "Request-Timeout": "2s"})
    yield Case("goes on", f"{at}/charge", b'{"amount":5}')
    yield Case("callback without token", "/nexus/callback", b"", done)
    yield Case("callback bad token", f"/namespaces/{HANDLERS}/nexus/callback", b"", {**done, "Temporal-Callback-Token": "x"})
    yield Case("callback get", "/nexus/callback", b"", {}, "GET")
    yield Case("bad callback url", f"{at}/quote?callback=gopher%3A%2F%2Fx")
    yield Case("empty segment", f"{endpoint}//quote")


async def prepared(address: str) -> tuple[Client, str]:
    """(client of the handlers' namespace, the endpoint's id)."""
    client = await Client.connect(address, namespace=HANDLERS)
    try:
        await client.workflow_service.register_namespace(
            RegisterNamespaceRequest(namespace=HANDLERS, workflow_execution_retention_period=Duration(seconds=86_400))
        )
    except RPCError as error:
        print(f"{address}: {error}")
    spec = EndpointSpec(name=ENDPOINT)
    spec.target.worker.namespace, spec.target.worker.task_queue = HANDLERS, QUEUE
    listed = await client.operator_service.list_nexus_endpoints(ListNexusEndpointsRequest(name=ENDPOINT))
    while not listed.endpoints:  # the real server may not know the new namespace yet
        try:
            await client.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))
        except RPCError as error:
            print(f"{address}: {error}")
            await asyncio.sleep(0.5)
        listed = await client.operator_service.list_nexus_endpoints(ListNexusEndpointsRequest(name=ENDPOINT))
    return client, listed.endpoints[0].id


async def answers(address: str, http: str) -> dict[str, tuple[int, str]]:
    client, endpoint_id = await prepared(address)
    handler = PaymentsV1Handler(OperationTable())
    found: dict[str, tuple[int, str]] = {}
    worker = Worker(
        client, task_queue=QUEUE, nexus_service_handlers=[handler], workflow_runner=UnsandboxedWorkflowRunner()
    )
    async with worker, aiohttp.ClientSession() as session:
        while (await answer(session, http, next(cases(endpoint_id))))[0] != 200:
            await asyncio.sleep(0.5)  # the endpoint is on its way to all parts of the real server
        for case in cases(endpoint_id):
            found[case.name] = await answer(session, http, case)
    return found


async def answer(session: aiohttp.ClientSession, http: str, case: Case) -> tuple[int, str]:
    sent: Any = session.request(
        case.method, URL(http + case.path, encoded=True), data=case.body, headers=case.headers,
        skip_auto_headers=("Content-Type",),
    )  # fmt: skip
    async with asyncio.timeout(20), sent as response:
        return response.status, (await response.read())[:300].decode("utf-8", "replace")


async def compare(address: str, http: str) -> int:
    theirs = await answers(address, http)
    async with town() as on:
        ours = await answers(f"127.0.0.1:{on.node.port}", on.url)
    differing = {name for name in theirs if theirs[name][0] != ours[name][0]}
    for name in sorted(differing):
        print(f"{name}: {MEANT.get(name, 'NOT MEANT')}\n    there {theirs[name]}\n    here  {ours[name]}")
    print(f"{len(theirs) - len(differing)} of {len(theirs)} statuses agree")
    return 1 if differing != set(MEANT) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(compare(sys.argv[1], sys.argv[2])))
