"""Real nodes of two (or three) regions in one process, linked over loopback, with official clients of each.

    async with regions() as c:
        await c.one.start_workflow(...)       # a client of region c1; c.two is of c2
        await c.fail_over("c2")
        await c.agree()

The namespace "shared" is in all regions, active in c1. `cut()` ends the way between the regions, `heal()` opens it again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import ReplicationState
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.operatorservice.v1 import AddOrUpdateRemoteClusterRequest
from temporalio.api.replication.v1 import ClusterReplicationConfig, NamespaceReplicationConfig
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeNamespaceResponse,
    GetWorkflowExecutionHistoryRequest,
    ListWorkflowExecutionsRequest,
    RegisterNamespaceRequest,
    UpdateNamespaceRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, TLSConfig

from cluster.core.errors import unavailable
from cluster.frontend.front_tls import FrontTls
from cluster.node import Node
from cluster.node_config import NodeConfig, StoreConfig, VisibilityConfig
from replication.link import Link, LinkDown, RemoteRegions

NAMESPACE = "shared"
HERE_ONLY = {"xdc-redirection": "false"}
NORMAL, HANDOVER = ReplicationState.REPLICATION_STATE_NORMAL, ReplicationState.REPLICATION_STATE_HANDOVER
WAIT_S = 20.0


class CutRegions:
    """RemoteRegions that can be cut off."""

    def __init__(self, real: RemoteRegions) -> None:
        self.real, self.is_cut = real, False

    async def forward(self, region: str, path: str, data: bytes, metadata: Mapping[str, str], timeout_s: float) -> bytes:
        if self.is_cut:
            raise unavailable(f"region {region} cannot be reached")
        return await self.real.forward(region, path, data, metadata, timeout_s)

    async def dial(self, region: str) -> Link:
        if self.is_cut:
            raise LinkDown("cut")
        return await self.real.dial(region)

    async def close(self) -> None:
        await self.real.close()


@dataclass(frozen=True)
class RegionSpec:
    """store None: SQLite in memory."""

    name: str
    shards: int
    store: StoreConfig | None = None
    visibility: VisibilityConfig | None = None


TWO = (RegionSpec("c1", 3), RegionSpec("c2", 7))
THREE = (*TWO, RegionSpec("c3", 4))


@dataclass
class Regions:
    specs: Sequence[RegionSpec]
    nodes: dict[str, Node] = field(default_factory=dict)
    clients: dict[str, Client] = field(default_factory=dict)
    tls: FrontTls | None = None
    client_tls: TLSConfig | None = None

    @property
    def names(self) -> list[str]:
        return [spec.name for spec in self.specs]

    @property
    def one(self) -> Client:
        return self.clients["c1"]

    @property
    def two(self) -> Client:
        return self.clients["c2"]

    # --- life -------------------------------------------------------------------------------------------------------------
    async def start(self, spec: RegionSpec, number: int) -> None:
        config = NodeConfig(
            port=0,
            http_port=0,
            shards=spec.shards,
            cluster_name=spec.name,
            initial_failover_version=number,
            namespaces=(),
            store=spec.store,
            visibility=spec.visibility,
            tls=self.tls,
        )
        node = Node(config)
        await node.start()
        self.nodes[spec.name] = node
        parts = node.assembly.regions
        assert parts is not None
        parts.remote = parts.port.remote = parts.forwarding._regions = CutRegions(parts.remote)
        self.clients[spec.name] = await Client.connect(
            f"127.0.0.1:{node.port}", namespace=NAMESPACE, tls=self.client_tls or False
        )

    async def close(self) -> None:
        for node in self.nodes.values():
            await node.drain(hands_over=False)
            await node.close()

    async def link(self, here: str, there: str, is_replicated: bool = True) -> None:
        await self.clients[here].operator_service.add_or_update_remote_cluster(
            AddOrUpdateRemoteClusterRequest(
                frontend_address=f"127.0.0.1:{self.nodes[there].port}",
                enable_remote_cluster_connection=True,
                enable_replication=is_replicated,
            )
        )

    async def link_all(self) -> None:
        for here in self.names:
            for there in self.names:
                if here != there:
                    await self.link(here, there)

    async def register(self, namespace: str = NAMESPACE, active: str = "c1") -> None:
        request = RegisterNamespaceRequest(
            namespace=namespace,
            is_global_namespace=True,
            active_cluster_name=active,
            clusters=[ClusterReplicationConfig(cluster_name=name) for name in self.names],
        )
        request.workflow_execution_retention_period.FromSeconds(86_400)
        await self.clients[active].workflow_service.register_namespace(request)
        for name in self.names:
            await eventually(lambda name=name: self._has(name, namespace), f"{namespace} in {name}")  # type: ignore[misc]

    async def _has(self, name: str, namespace: str) -> bool:
        with contextlib.suppress(RPCError):
            return bool((await self.describe(name, namespace)).namespace_info.name)
        return False

    # --- the way between ----------------------------------------------------------------------------------------------------
    async def cut(self) -> None:
        for node in self.nodes.values():
            remote = _remote(node)
            remote.is_cut = True
            await remote.real.close()

    def heal(self) -> None:
        for node in self.nodes.values():
            _remote(node).is_cut = False

    # --- namespaces -------------------------------------------------------------------------------------------------------
    async def describe(self, name: str, namespace: str = NAMESPACE) -> DescribeNamespaceResponse:
        return await self.clients[name].workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=namespace))

    async def update(self, name: str, namespace: str = NAMESPACE, **fields: Any) -> None:
        await self.clients[name].workflow_service.update_namespace(UpdateNamespaceRequest(namespace=namespace, **fields))

    async def fail_over(self, to: str, by: str = "", namespace: str = NAMESPACE, is_known_to_all: bool = True) -> None:
        """Forced, asked for in the region `by` (or where it goes); everything that was shipped is there before."""
        await self.update(
            by or to, namespace, replication_config=NamespaceReplicationConfig(active_cluster_name=to)
        )
        if is_known_to_all:
            for name in self.names:
                await eventually(lambda name=name: self._is_active(name, to, namespace), f"{name} knows that {to} is active")  # type: ignore[misc]

    async def _is_active(self, name: str, active: str, namespace: str) -> bool:
        return (await self.describe(name, namespace)).replication_config.active_cluster_name == active

    # --- do they agree ------------------------------------------------------------------------------------------------------
    async def executions(self, name: str) -> dict[tuple[str, str], int]:
        """(workflow id, run id) -> status, as this region's own visibility lists them."""
        request = ListWorkflowExecutionsRequest(namespace=NAMESPACE, page_size=1000)
        answer = await self.clients[name].workflow_service.list_workflow_executions(request, metadata=HERE_ONLY)
        return {(one.execution.workflow_id, one.execution.run_id): one.status for one in answer.executions}

    async def history(self, name: str, workflow_id: str, run_id: str = "") -> list[HistoryEvent]:
        """As this region has it itself."""
        request = GetWorkflowExecutionHistoryRequest(
            namespace=NAMESPACE, execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
        )
        answer = await self.clients[name].workflow_service.get_workflow_execution_history(request, metadata=HERE_ONLY)
        return list(answer.history.events)

    def in_memory(self, name: str) -> set[tuple[str, str]]:
        """(workflow id, run id) of all runs that the region's shards have. Visibility comes a moment later."""
        record = self.nodes[name].namespaces.cached(NAMESPACE)
        return {
            (key.workflow_id, key.run_id)
            for shard in self.nodes[name].history.ownership.open.values()
            for key, run in shard.runs.items()
            if record is not None and key.namespace_id == record.id and not run.state.is_deleted
        }

    async def same(self) -> bool:
        first, *others = self.names
        runs = await self.executions(first)
        if any(self.in_memory(name) != runs.keys() for name in self.names):
            return False
        for other in others:
            if await self.executions(other) != runs:
                return False
            for workflow_id, run_id in [*runs, *((one, "") for one in {id for id, _ in runs})]:
                ours, theirs = await self.history(first, workflow_id, run_id), await self.history(other, workflow_id, run_id)
                if ours != theirs:
                    return False
        return True

    async def agree(self) -> None:
        """Lists, current runs and histories are the same in all regions."""
        await eventually(self._agree, "the regions agree")

    async def _agree(self) -> bool:
        with contextlib.suppress(RPCError):
            return await self.same()
        return False

    async def versions(self, workflow_id: str, run_id: str = "") -> list[int]:
        """The failover versions of the run's events, without repetition."""
        events = await self.history(self.names[0], workflow_id, run_id)
        return list(dict.fromkeys(event.version for event in events))


def _remote(node: Node) -> CutRegions:
    parts = node.assembly.regions
    assert parts is not None and isinstance(parts.remote, CutRegions)
    return parts.remote


async def eventually(is_so: Callable[[], Awaitable[bool]], what: str, within_s: float = WAIT_S) -> None:
    async def wait() -> None:
        while not await is_so():
            await asyncio.sleep(0.03)

    try:
        await asyncio.wait_for(wait(), within_s)
    except TimeoutError:
        raise AssertionError(f"not within {within_s} s: {what}") from None


@asynccontextmanager
async def regions(
    specs: Sequence[RegionSpec] = TWO,
    namespaces: Sequence[str] = (NAMESPACE,),
    tls: FrontTls | None = None,
    client_tls: TLSConfig | None = None,
) -> AsyncIterator[Regions]:
    made = Regions(specs, tls=tls, client_tls=client_tls)
    try:
        for number, spec in enumerate(specs, 1):
            await made.start(spec, number)
        await made.link_all()
        for namespace in namespaces:
            await made.register(namespace)
        yield made
    finally:
        await made.close()
