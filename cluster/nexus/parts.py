"""What a node has of Nexus, put together: the way to workers, the drivers of history's effects, the way back to callers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cluster.history.service import HistoryService
from cluster.namespaces.record import NamespaceRecord
from cluster.namespaces.registry import NamespaceRegistry
from cluster.nexus.breakers import Breakers
from cluster.nexus.callback_calls import CallbackCalls
from cluster.nexus.completions import Completions
from cluster.nexus.dispatch import MatchingDispatch, NexusDispatch, Questions
from cluster.nexus.endpoints import EndpointRegistry
from cluster.nexus.http_calls import CallHttp, HttpCalls, nobody
from cluster.nexus.operation_calls import OperationCalls
from cluster.nexus.regions import NexusRegions, Port
from cluster.seams import Spawn
from cluster.tokens import Tokens


class NexusParts:
    """One per node; made before history starts."""

    def __init__(
        self,
        endpoints: EndpointRegistry,
        matching: Questions,
        history: HistoryService,
        tokens: Tokens,
        namespace_by_id: Callable[[str], Awaitable[NamespaceRecord]],
        http_address: str,
    ) -> None:
        """http_address: where handlers outside reach this cluster's gateway."""
        self.endpoints = endpoints
        self.breakers = Breakers()
        local = MatchingDispatch(matching, tokens)
        self.regions = NexusRegions(endpoints, local, history)
        self.dispatch: NexusDispatch = self.regions
        self.completions = Completions(self.regions.reach, tokens, namespace_by_id)
        self._http = HttpCalls(nobody, f"http://{http_address}/namespaces/{{namespace}}/nexus/callback")
        operations = OperationCalls(endpoints, self.dispatch, self._http, tokens, self.breakers)
        callbacks = CallbackCalls(self.completions, self._http, tokens, self.breakers)
        history.extend_deliveries({**operations.table(), **callbacks.table()})

    def link(self, port: Port, namespaces: NamespaceRegistry, is_leader: Callable[[], bool], spawn: Spawn) -> None:
        """There may be other regions: endpoints are the same in all of them, and calls go to where a namespace is active."""
        here = namespaces.clusters.own.name

        def active_region(namespace_id: str) -> str:
            record = namespaces.cached_by_id(namespace_id)
            is_elsewhere = record is not None and record.is_global and record.active_cluster != here
            return record.active_cluster if record is not None and is_elsewhere else ""

        self.regions.link(port, active_region, is_leader, spawn)

    def use_http(self, call: CallHttp, callback_url: str = "") -> None:
        """From now on external endpoints can be called. callback_url: with "{namespace}", if it is not the node's own address."""
        self._http.use(call, callback_url)
