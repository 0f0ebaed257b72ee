"""A frontend on a real port with everything behind it real, but history: what the tests of this folder talk to.

`HistoryStandIn` knows no run and says so as history does; a test may teach it other answers. It exists because the transport,
the interceptors and the other handlers must be testable without a worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import msgspec
from google.protobuf.message import Message
from temporalio.api.errordetails.v1 import NotFoundFailure
from temporalio.api.operatorservice.v1 import OperatorServiceStub
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest, WorkflowServiceStub

from cluster.config import Limits
from cluster.core.errors import not_found
from cluster.frontend.authorisation import LoopbackOnly
from cluster.frontend.call import Call
from cluster.frontend.cluster_identity import ClusterIdentity, WantedIdentity, load_identity
from cluster.frontend.handlers import handler_table
from cluster.frontend.handlers.services import Services
from cluster.frontend.not_built import NOT_BUILT
from cluster.frontend.service import Frontend
from cluster.frontend.transport_grpc import GrpcTransport
from cluster.matching.limits import MatchingLimits
from cluster.matching.service import Matching
from cluster.namespaces.record import NamespaceRecord
from cluster.namespaces.registry import NamespaceRegistry
from cluster.namespaces.remote_cluster_grpc import GrpcAskCluster
from cluster.namespaces.remote_clusters import Cluster, RemoteClusters
from cluster.nexus.endpoints import EndpointRegistry
from cluster.seams import JobSet, SystemClock, SystemIds
from cluster.stores.memory import MemoryStore
from cluster.tokens import KeySet, TaskToken, TokenKey, Tokens
from cluster.visibility.memory import MemoryVisibility
from cluster.visibility.search_attributes import Schema

Answer = Callable[[Any], Awaitable[Message | bytes]]


class HistoryStandIn:
    """answers: verb -> what to do; otherwise the workflow is not there."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, TaskToken | None]] = []
        self.answers: dict[str, Answer] = {}

    async def invoke(
        self,
        verb: str,
        namespace: Any,
        workflow_id: str,
        request: Message,
        *,
        call: Call | None = None,
        token: TaskToken | None = None,
    ) -> Message | bytes:
        self.calls.append((verb, workflow_id, token))
        if verb in self.answers:
            return await self.answers[verb](request)
        raise not_found(f"workflow not found for ID: {workflow_id}", NotFoundFailure())


class World:
    def __init__(self, limits: Limits, cluster_name: str = "active", initial_failover_version: int = 1) -> None:
        self.limits = limits
        self.history = HistoryStandIn()
        self.tokens = Tokens(KeySet([TokenKey(0, b"k" * 32)]))
        self.visibility = MemoryVisibility()
        self.store = MemoryStore()
        self.frontend: Frontend
        self.transport: GrpcTransport
        self.address = ""
        self.channel: Any
        self.stub: Any
        self.operator: Any
        self.spawn = JobSet(_raise)
        self.ids, self.clock = SystemIds(), SystemClock()
        own = Cluster(name=cluster_name, initial_failover_version=initial_failover_version)
        self.clusters = RemoteClusters(self.store, own, GrpcAskCluster())
        self.namespaces = NamespaceRegistry(
            self.store, self.clock, self.ids, limits, here=cluster_name, clusters=self.clusters
        )
        self.matching = Matching(MatchingLimits(), self.clock, self.ids, self.spawn)
        self.endpoints = EndpointRegistry(self.store, self.clock, self.ids, self.namespaces, limits)

    def services(self, identity: Any) -> Services:
        return Services(
            history=self.history,
            matching=self.matching,
            visibility=self.visibility,
            namespaces=self.namespaces,
            endpoints=self.endpoints,
            store=self.store,
            tokens=self.tokens,
            limits=self.limits,
            identity=identity or ClusterIdentity("id", "name", 4),
            schema_of=self.schema_of,
            address="127.0.0.1:7233",
        )

    async def start(self) -> None:
        await self.store.open()
        await self.visibility.open()
        await self.namespaces.load()
        for name in ("default", "other"):
            request = RegisterNamespaceRequest(namespace=name)
            request.workflow_execution_retention_period.seconds = 86_400
            await self.namespaces.register(request)
        own = self.clusters.own
        identity = await load_identity(self.store, self.ids, WantedIdentity(cluster_name=own.name, shard_count=4))
        identity = msgspec.structs.replace(identity, initial_failover_version=own.initial_failover_version)
        now_s = asyncio.get_running_loop().time
        self.frontend = Frontend(self.services(identity), LoopbackOnly(), self.clock, self.ids, now_s)
        self.transport = GrpcTransport(self.frontend.handlers, self.limits, self.ids)
        port = await self.transport.start("127.0.0.1", 0)
        self.address = f"127.0.0.1:{port}"
        self.channel = grpc.aio.insecure_channel(self.address)
        self.stub = WorkflowServiceStub(self.channel)
        self.operator = OperatorServiceStub(self.channel)

    def record(self, name: str = "default") -> NamespaceRecord:
        record = self.namespaces.cached(name)
        assert record is not None
        return record

    def schema_of(self, record: NamespaceRecord) -> Schema:
        return self.namespaces.cached_schema(record.id) or Schema()

    async def stop(self) -> None:
        await self.channel.close()
        self.matching.drain()
        await self.transport.close()
        await self.spawn.close()
        await self.visibility.close()
        await self.store.close()


def _raise(name: str, failure: BaseException) -> None:
    raise AssertionError(f"job {name} failed") from failure


@asynccontextmanager
async def world(
    limits: Limits | None = None, cluster_name: str = "active", initial_failover_version: int = 1
) -> AsyncIterator[World]:
    """Listening, with a connected client."""
    made = World(limits or Limits(), cluster_name, initial_failover_version)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def handlers_by_part() -> set[str]:
    """The methods that have a real handler."""
    made = World(Limits())
    return handler_table(made.services(None)).keys() - NOT_BUILT.keys()
