"""A registry over a memory store, and the requests that its tests send."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest, UpdateNamespaceRequest

from cluster.config import DAY_NS, SECOND_NS, Limits
from cluster.core.errors import CallerError
from cluster.namespaces.registry import NamespaceRegistry
from cluster.seams import SystemIds
from cluster.stores.base import Store
from cluster.stores.memory import MemoryStore

LIMITS = Limits()


class FixedClock:
    def now_ns(self) -> int:
        return 1_700_000_000 * SECOND_NS


def request(name: str = "shop", retention_ns: int = DAY_NS, **fields: Any) -> RegisterNamespaceRequest:
    made = RegisterNamespaceRequest(namespace=name, **fields)
    made.workflow_execution_retention_period.seconds = retention_ns // SECOND_NS
    made.workflow_execution_retention_period.nanos = retention_ns % SECOND_NS
    return made


async def loaded(store: Store | None = None, **settings: Any) -> NamespaceRegistry:
    registry = NamespaceRegistry(store or MemoryStore(), FixedClock(), SystemIds(), **settings)
    await registry.load()
    return registry


async def refusal(call: Coroutine[Any, Any, Any]) -> CallerError:
    with pytest.raises(CallerError) as refused:
        await call
    return refused.value


def update(change: Callable[[UpdateNamespaceRequest], object]) -> UpdateNamespaceRequest:
    made = UpdateNamespaceRequest(namespace="shop")
    change(made)
    return made
