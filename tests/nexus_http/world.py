"""A gateway on a real port of 127.0.0.1, with scripted parts behind it: what a worker, a registry, a caller's run would say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure, NexusHandlerFailureInfo
from temporalio.api.nexus.v1 import Link, Request, Response

from cluster.core.errors import CallerError, invalid_argument, not_found
from cluster.frontend.http_pages import HttpPages
from cluster.namespaces.record import NamespaceRecord
from cluster.nexus.dispatch import HandlerError
from cluster.seams import SystemClock, SystemIds
from cluster.tokens import KeySet, TokenKey, Tokens
from nexus.egress import Egress
from nexus.gateway import Gateway, Parts
from nexus.policy import Caller, EndpointPolicy
from nexus.ports import CallerOperation, Endpoint, OperationInfo
from nexus.protocol import Completion
from nexus.settings import GatewaySettings

JSON_NULL = Payload(metadata={"encoding": b"binary/null"})
Work = Callable[[str, str, Request, float], Awaitable[Response | HandlerError]]


def json_payload(data: bytes) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=data)


def succeeded(payload: Payload, links: list[Link] | None = None) -> Response:
    made = Response()
    made.start_operation.sync_success.payload.CopyFrom(payload)
    made.start_operation.sync_success.links.extend(links or [])
    return made


def started(token: str) -> Response:
    made = Response()
    made.start_operation.async_success.operation_token = token
    return made


def cancelled() -> Response:
    made = Response()
    made.cancel_operation.SetInParent()
    return made


def handler_error(type: str, message: str, cause: Failure | None = None, retry_behavior: int = 0) -> HandlerError:
    info = NexusHandlerFailureInfo(type=type, retry_behavior=retry_behavior)  # type: ignore[arg-type]
    failure = Failure(message=message, nexus_handler_failure_info=info)
    if cause is not None:
        failure.cause.CopyFrom(cause)
    return HandlerError(failure)


async def echo(namespace_id: str, task_queue: str, request: Request, timeout_s: float) -> Response | HandlerError:
    """A start gives back its input; a cancel is heard."""
    if request.WhichOneof("variant") == "cancel_operation":
        return cancelled()
    return succeeded(request.start_operation.payload)


class Worker:
    """NexusDispatch. What came: `asked`."""

    def __init__(self) -> None:
        self.work: Work = echo
        self.asked: list[tuple[str, str, Request, float]] = []

    async def dispatch(
        self, namespace_id: str, task_queue: str, request: Request, timeout_s: float
    ) -> Response | HandlerError:
        self.asked.append((namespace_id, task_queue, request, timeout_s))
        return await self.work(namespace_id, task_queue, request, timeout_s)

    @property
    def last(self) -> Request:
        return self.asked[-1][2]


class Namespaces:
    def __init__(self) -> None:
        made = [NamespaceRecord(id=f"id-of-{name}", name=name, retention_ns=0, created_at=0) for name in ("pay", "ship")]
        self.known = {record.name: record for record in made}

    async def by_name(self, name: str) -> NamespaceRecord:
        if name not in self.known:
            raise not_found(f"Namespace {name[:100]} is not found.")
        return self.known[name]


class Endpoints:
    def __init__(self) -> None:
        self.known: list[Endpoint] = [Endpoint("e1", "payments", namespace="pay", task_queue="pay-queue")]

    def allow(self, policy: EndpointPolicy) -> None:
        self.known[0] = Endpoint("e1", "payments", namespace="pay", task_queue="pay-queue", policy=policy)

    async def find(self, id_or_name: str) -> Endpoint | None:
        return next((one for one in self.known if id_or_name in (one.id, one.name)), None)


class Completions:
    """Knows one token, "good-token", of an operation in namespace "pay"; it ends once."""

    def __init__(self) -> None:
        self.told: list[Completion] = []
        self.failure: Exception | None = None

    async def complete(self, completion: Completion) -> None:
        if self.failure is not None:
            raise self.failure
        if completion.token != "good-token" or completion.namespace not in ("", "pay"):
            raise invalid_argument("invalid callback token")
        if self.told:
            raise not_found("workflow execution already completed")
        self.told.append(completion)


class Operations:
    """OperationsPort: one operation, changed by the test."""

    def __init__(self) -> None:
        self.state = OperationInfo(state="running", position=3, progress={"events": 3})
        self.changed = asyncio.Event()
        self.asked_tokens: list[str] = []
        self.of_callers: list[CallerOperation] = []
        self.failure: CallerError | None = None

    def become(self, state: OperationInfo) -> None:
        self.state = state
        self.changed.set()
        self.changed = asyncio.Event()

    async def info(self, namespace: NamespaceRecord, token: str) -> OperationInfo:
        self.asked_tokens.append(token)
        if self.failure is not None:
            raise self.failure
        return self.state

    async def wait(self, namespace: NamespaceRecord, token: str, position: int, wait_s: float) -> OperationInfo:
        until = asyncio.get_running_loop().time() + wait_s
        while self.state.state == "running" and not (position and self.state.position > position):
            try:
                async with asyncio.timeout_at(until):
                    await self.changed.wait()
            except TimeoutError:
                break
        return self.state

    async def of_caller(
        self, namespace: NamespaceRecord, workflow_id: str, run_id: str, count_max: int
    ) -> list[CallerOperation]:
        if workflow_id != "caller-1":
            raise not_found("workflow not found")
        return self.of_callers[:count_max]


class World:
    def __init__(self, settings: GatewaySettings, egress: Egress | None = None) -> None:
        self.worker, self.namespaces, self.endpoints = Worker(), Namespaces(), Endpoints()
        self.completions, self.operations = Completions(), Operations()
        self.tokens = Tokens(KeySet([TokenKey(1, b"k" * 32)]))
        self.caller = Caller()
        self.is_draining = False
        parts = Parts(
            dispatch=self.worker,
            endpoints=self.endpoints,
            namespaces=self.namespaces,
            completions=self.completions,
            operations=self.operations,
            tokens=self.tokens,
            identify=self._identify,
            clock=SystemClock(),
            ids=SystemIds(),
            egress=egress,
            is_draining=lambda: self.is_draining,
        )
        self.gateway = Gateway(parts, settings)
        self.port = 0
        self.session: aiohttp.ClientSession

    def _identify(self, headers: Mapping[str, str], peer: str) -> Caller:
        return self.caller

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def service_url(self) -> str:
        return f"{self.url}/nexus/endpoints/payments/services"

    def post(self, path: str, body: bytes = b"", **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.session.post(self.url + path, data=body, headers=named, skip_auto_headers=("Content-Type",))

    async def raw(self, data: bytes, timeout_s: float = 5.0) -> bytes:
        """All that comes back on a connection of its own, until it is closed (or the time is over, which fails)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            await writer.drain()
            async with asyncio.timeout(timeout_s):
                return await reader.read()
        finally:
            writer.close()


async def _nothing() -> dict[str, Any]:
    return {}


@asynccontextmanager
async def gateway_world(
    settings: GatewaySettings | None = None, egress: Egress | None = None, connections_max: int = 1_000
) -> AsyncIterator[World]:
    world = World(settings or GatewaySettings(), egress)
    pages = HttpPages(lambda: "", lambda: b"", "text/plain", _nothing, [world.gateway.mount], connections_max)
    world.port = await pages.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as world.session:
            yield world
    finally:
        world.gateway.stop()
        await pages.close()
