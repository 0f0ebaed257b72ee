"""Two whole frontends that know each other: each with a registry of its own, every call behind the one interceptor list.

What a region says of a namespace reaches the other one when a test says so (`agree`), so that both may believe different things.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from google.protobuf.message import Message

from cluster.config import Limits
from cluster.core.errors import CallerError, unavailable
from cluster.failures import as_caller_error, passed_on, shown_message, status_bytes
from cluster.frontend.authorisation import LoopbackOnly
from cluster.frontend.call import Call, Handler
from cluster.frontend.forwarding import (
    PLACEMENTS,
    Forwarding,
    Placement,
    regions_of_namespace,
)
from cluster.frontend.handlers import handler_table
from cluster.frontend.interceptors import interceptor_list, wrap_all
from cluster.frontend.methods import METHODS
from cluster.frontend.service import next_cron
from cluster.frontend.start_checks import StartChecks
from cluster.frontend.transport_grpc import GrpcTransport
from cluster.frontend.validation import Validation
from cluster.matching.queries import QueryToken
from cluster.matching.tasks import TaskKind
from cluster.namespaces.record import NamespaceRecord
from cluster.token_links import accept_link_keys, load_links, offer_link_keys
from cluster.tokens import KeySet, Links, Purpose, TaskToken, TokenKey, Tokens
from replication.link import Forwards, UnknownRegion
from tests.frontend.world import World, world
from tests.namespaces import two_regions as registries

PEER = "ipv4:127.0.0.1:1"
CALL_S = 5.0
UP_TO_FORWARDING = 6
FORWARDED = sorted(name for name, placement in PLACEMENTS.items() if placement is not Placement.HERE)


class Region:
    """name: "c1" or "c2". handlers: every call, wrapped; `served` names the ones that came through to this region's handlers."""

    def __init__(self, made: World, name: str) -> None:
        self.world, self.name = made, name
        self.served: list[str] = []
        self.calls: list[Call] = []
        self.overrides: dict[str, Handler] = {}
        self.handlers: dict[str, Handler] = {}
        self.forwarding: Forwarding
        made.tokens = Tokens(KeySet([TokenKey(0, name.encode().ljust(32, b"."))]))

    def build(self, remote: Forwards, hold_s: float, through: int | None) -> None:
        """through: how many interceptors to keep; the handlers then only say where they are."""
        made = self.world
        services = made.services(None)
        now_s = asyncio.get_running_loop().time
        self.forwarding = Forwarding(self.name, made.namespaces, remote, hold_s)
        interceptors = interceptor_list(
            figures=made.frontend.figures,
            drain=made.frontend.drain,
            policy=LoopbackOnly(),
            namespaces=made.namespaces,
            tokens=made.tokens,
            limits=Limits(),
            rules=Validation(Limits(), made.ids, StartChecks(Limits(), made.schema_of, next_cron, made.clock.now_ns), now_s),
            forwarding=self.forwarding,
        )[:through]
        handlers = {name: self._noted(name, None if through else handler) for name, handler in handler_table(services).items()}
        self.handlers = wrap_all(handlers, interceptors)

        async def news() -> None:
            self.forwarding.namespaces_changed()

        made.namespaces.on_change = news

    def _noted(self, name: str, handler: Handler | None) -> Handler:
        async def noted(call: Call, request: Any) -> Message | bytes:
            self.served.append(name)
            self.calls.append(call)
            if (override := self.overrides.get(name)) is not None:
                return await override(call, request)
            return b"" if handler is None else await handler(call, request)

        return noted

    async def raw(self, path: str, data: bytes, metadata: Mapping[str, str], timeout_s: float) -> bytes:
        """As the transport does it. Raises CallerError."""
        name = path.rsplit("/", 1)[-1]
        call = Call(path, dict(metadata), asyncio.get_running_loop().time() + timeout_s, PEER, data)
        try:
            answer = await self.handlers[name](call, METHODS[name].request.FromString(data))
        except Exception as failure:
            raise as_caller_error(failure, path, self.world.ids) from failure
        return answer if isinstance(answer, bytes) else answer.SerializeToString()

    async def ask(self, name: str, request: Message, timeout_s: float = CALL_S, **headers: str) -> bytes:
        metadata = {key.replace("_", "-"): value for key, value in headers.items()}
        return await self.raw(METHODS[name].path, request.SerializeToString(), metadata, timeout_s)

    def record(self) -> NamespaceRecord:
        return self.world.record("shop")

    async def fail_over(self, to: str) -> None:
        await self.world.namespaces.update(registries.wished(active=to))


class MemoryRegions:
    """`Forwards` by plain calls: bytes and statuses as on the wire. is_cut: nobody answers."""

    def __init__(self, regions: dict[str, Region]) -> None:
        self.regions = regions
        self.forwarded: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.is_cut = False

    async def forward(self, region: str, path: str, data: bytes, metadata: Mapping[str, str], timeout_s: float) -> bytes:
        if region not in self.regions:
            raise UnknownRegion(region)
        self.forwarded.append((region, path, data, dict(metadata)))
        if self.is_cut:
            raise unavailable(f"region {region} cannot be reached")
        try:
            return await self.regions[region].raw(path, data, metadata, timeout_s)
        except CallerError as error:
            raise passed_on(error.code, shown_message(error), status_bytes(error)) from None


class Pair:
    def __init__(self, one: Region, two: Region, remote: MemoryRegions) -> None:
        self.one, self.two, self.remote = one, two, remote

    async def agree(self) -> None:
        await registries.agree(self.one.world.namespaces, self.two.world.namespaces)

    async def fail_over(self, to: str) -> None:
        await self.one.fail_over(to)
        await self.agree()

    async def link_tokens(self) -> None:
        """As the two do it when they are linked."""
        pairs = ((self.one, self.two, 1, 2), (self.two, self.one, 2, 1))
        for here, there, number_here, number_there in pairs:
            keys = await offer_link_keys(here.world.store, here.world.ids, there.name, number_there)
            await accept_link_keys(there.world.store, here.name, number_here, keys)
        for here, _, number, _ in pairs:
            links = await load_links(here.world.store)
            here.world.tokens.use_links(Links(number, links, regions_of_namespace(here.world.namespaces)))


@asynccontextmanager
async def two_regions(
    hold_s: float = 0.2, through: int | None = None, remote_of: Callable[[Region], Forwards] | None = None
) -> AsyncIterator[Pair]:
    """Namespace "shop" is in both, active in c1; "default" and "other" are local in each."""
    async with AsyncExitStack() as stack:
        one = Region(await stack.enter_async_context(world(cluster_name="c1", initial_failover_version=1)), "c1")
        two = Region(await stack.enter_async_context(world(cluster_name="c2", initial_failover_version=2)), "c2")
        remote = MemoryRegions({"c1": one, "c2": two})
        for here, there in ((one, two), (two, one)):
            here.world.clusters.ask = registries.answered
            await here.world.namespaces.add_or_update_cluster(
                f"address of {there.name}", "", is_connected=True, is_replicated=True
            )
            here.build(remote_of(here) if remote_of is not None else remote, hold_s, through)
        pair = Pair(one, two, remote)
        await one.world.namespaces.register(registries.global_request("c1", "c2"))
        await pair.agree()
        yield pair


@asynccontextmanager
async def listening(region: Region) -> AsyncIterator[str]:
    """The region's handlers on a port."""
    transport = GrpcTransport(region.handlers, Limits(), region.world.ids)
    port = await transport.start("127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await transport.close()


async def until(is_so: Callable[[], bool]) -> None:
    """Lets other jobs run until it is so."""
    async with asyncio.timeout(CALL_S):
        while not is_so():
            await asyncio.sleep(0.005)


def parked(event: asyncio.Event, ended: list[str]) -> Callable[[Call, Any], Awaitable[Message | bytes]]:
    """A handler that waits, and notes when it is cancelled."""

    async def handler(call: Call, request: Any) -> Message | bytes:
        event.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(call.name)
            raise
        raise AssertionError("nobody sets it")

    return handler


def request_for(region: Region, name: str) -> Any:
    """The least that finds the namespace "shop"."""
    request: Any = METHODS[name].request(namespace="shop")
    if "task_token" in request.DESCRIPTOR.fields_by_name:
        is_workflow = "WorkflowTask" in name
        if "Query" in name or "Nexus" in name:
            purpose = Purpose.NEXUS_TASK if "Nexus" in name else Purpose.QUERY
            request.task_token = region.world.tokens.seal(purpose, QueryToken(region.record().id, "queue", "query"))
        else:
            kind = TaskKind.WORKFLOW if is_workflow else TaskKind.ACTIVITY
            request.task_token = region.world.tokens.seal(
                Purpose.TASK, TaskToken(region.record().id, "workflow", "run", int(kind), 0, 5)
            )
    return request


async def refusal(call: Any) -> CallerError:
    with pytest.raises(CallerError) as caught:
        await call
    return caught.value
