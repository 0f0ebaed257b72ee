"""The gateway put in front of a node's parts: the registry of endpoints as the gateway asks it, and the gateway itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from cluster.core.errors import CallerError, Code
from cluster.namespaces.record import NamespaceRecord
from cluster.nexus.endpoints import EndpointRegistry
from cluster.nexus.parts import NexusParts
from cluster.seams import Clock, Ids
from cluster.tokens import Tokens
from nexus.egress import Egress
from nexus.gateway import Gateway, Parts
from nexus.operations import WorkflowOperations
from nexus.policy import Caller
from nexus.ports import Endpoint, HistoryPort, IdentifyCaller, NamespacesPort
from nexus.settings import GatewaySettings


def nobody_known(headers: Mapping[str, str], peer: str) -> Caller:
    """IdentifyCaller of a node without configured security: who reaches the port is let in, as nobody in particular."""
    return Caller()


class Namespaces(NamespacesPort, Protocol):
    """cluster.namespaces.registry.NamespaceRegistry, as far as it is asked."""

    async def by_id(self, namespace_id: str) -> NamespaceRecord:
        """Raises CallerError NOT_FOUND."""
        ...


class RegisteredEndpoints:
    """EndpointsPort."""

    def __init__(self, registry: EndpointRegistry, namespaces: Namespaces) -> None:
        self._registry, self._namespaces = registry, namespaces

    async def find(self, id_or_name: str) -> Endpoint | None:
        record = self._registry.find(id_or_name, id_or_name)
        if record is None:
            return None
        namespace = ""
        if not record.is_external:
            try:
                namespace = (await self._namespaces.by_id(record.namespace_id)).name
            except CallerError as error:
                if error.code is Code.NOT_FOUND:
                    return None  # its namespace was deleted: it leads nowhere
                raise
        return Endpoint(record.id, record.name, namespace, record.task_queue, record.url, record.policy)


def make_gateway(
    nexus: NexusParts,
    namespaces: Namespaces,
    history: HistoryPort,
    tokens: Tokens,
    clock: Clock,
    ids: Ids,
    *,
    egress: Egress | None = None,
    identify: IdentifyCaller = nobody_known,
    is_draining: Callable[[], bool] = lambda: False,
    settings: GatewaySettings | None = None,
) -> Gateway:
    """After `nexus.connect`, in a running event loop."""
    parts = Parts(
        dispatch=nexus.dispatch,
        endpoints=RegisteredEndpoints(nexus.endpoints, namespaces),
        namespaces=namespaces,
        completions=nexus.completions,
        operations=WorkflowOperations(history),
        tokens=tokens,
        identify=identify,
        clock=clock,
        ids=ids,
        egress=egress,
        is_draining=is_draining,
    )
    return Gateway(parts, settings or GatewaySettings())
