"""A frontend on a real port with everything behind it real, but history: what the tests of this folder talk to.

`HistoryStandIn` knows no run and says so as history does; a test may teach it other answers. It exists because the transport,
the interceptors and the other handlers must be testable without a worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import grpc
from google.protobuf.message import Message
from temporalio.api.enums.v1 import NamespaceState
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure, NotFoundFailure
from temporalio.api.workflowservice.v1 import WorkflowServiceStub

from cluster.config import Limits
from cluster.core.errors import CallerError, not_found
from cluster.frontend.authorisation import LoopbackOnly
from cluster.frontend.call import Call
from cluster.frontend.cluster_identity import load_identity
from cluster.frontend.handlers import handler_table
from cluster.frontend.handlers.services import Services
from cluster.frontend.not_built import NOT_BUILT
from cluster.frontend.service import Frontend
from cluster.frontend.tokens import KeySet, TaskToken, TokenKey, Tokens
from cluster.frontend.transport_grpc import GrpcTransport
from cluster.matching.limits import MatchingLimits
from cluster.matching.service import Matching
from cluster.seams import JobSet, SystemClock, SystemIds
from cluster.stores.memory import MemoryStore
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
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.history = HistoryStandIn()
        self.tokens = Tokens(KeySet([TokenKey(0, b"k" * 32)]))
        self.visibility = MemoryVisibility()
        self.store = MemoryStore()
        self.frontend: Frontend
        self.matching: Matching
        self.transport: GrpcTransport
        self.address = ""
        self.channel: grpc.aio.Channel
        self.stub: Any


class NamespacesStandIn:
    """Two namespaces, in memory."""

    def __init__(self) -> None:
        registered = NamespaceState.NAMESPACE_STATE_REGISTERED
        self.records = [
            SimpleNamespace(id=f"{number:032x}", name=name, state=registered)
            for number, name in enumerate(("default", "other"), 1)
        ]

    def by_name(self, name: str) -> Any:
        return self._find(name, lambda record: record.name == name)

    def by_id(self, id: str) -> Any:
        return self._find(id, lambda record: record.id == id)

    def _find(self, named: str, fits: Callable[[Any], bool]) -> Any:
        for record in self.records:
            if fits(record):
                return record
        raise not_found(f"Namespace {named} is not found.", NamespaceNotFoundFailure(namespace=named))
