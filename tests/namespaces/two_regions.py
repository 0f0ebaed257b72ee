"""Registries of several regions that know each other, and what passes between them: each record by hand, in a chosen order."""

from __future__ import annotations

from temporalio.api.replication.v1 import ClusterReplicationConfig
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest, UpdateNamespaceRequest

from cluster.namespaces.incoming import Taken
from cluster.namespaces.record import NamespaceRecord
from cluster.namespaces.registry import NamespaceRegistry, OnDelete
from cluster.namespaces.remote_clusters import Cluster, RemoteClusters
from cluster.seams import SystemIds
from cluster.stores.base import Store
from cluster.stores.memory import MemoryStore
from replication.failover import Regions
from tests.namespaces.registering import FixedClock, request

VERSIONS = {"c1": 1, "c2": 2, "c3": 3}
REGIONS = Regions(VERSIONS, 10, frozenset(VERSIONS), are_linked=True)


def cluster(name: str, **fields: object) -> Cluster:
    made = {"name": name, "initial_failover_version": VERSIONS.get(name, 9), "id": f"id of {name}", "shard_count": 4}
    return Cluster(**(made | fields))  # type: ignore[arg-type]


async def answered(address: str) -> Cluster:
    """Who is at "address of c2"."""
    return cluster(address.removeprefix("address of "))


async def region(name: str, store: Store | None = None, on_delete: OnDelete | None = None) -> NamespaceRegistry:
    """Loaded, and connected to the two others."""
    store = store or MemoryStore()
    clusters = RemoteClusters(store, cluster(name), answered)
    registry = NamespaceRegistry(store, FixedClock(), SystemIds(), here=name, on_delete=on_delete, clusters=clusters)
    await registry.load()
    for other in VERSIONS.keys() - {name}:
        await registry.add_or_update_cluster(f"address of {other}", "", is_connected=True, is_replicated=True)
    return registry


def global_request(*names: str, active: str = "", name: str = "shop") -> RegisterNamespaceRequest:
    clusters = [ClusterReplicationConfig(cluster_name=one) for one in names]
    return request(name, is_global_namespace=True, clusters=clusters, active_cluster_name=active)


def wished(*names: str, active: str = "", state: int = 0, promote: bool = False, name: str = "shop") -> UpdateNamespaceRequest:
    made = UpdateNamespaceRequest(namespace=name, promote_namespace=promote)
    if names or active or state:
        made.replication_config.active_cluster_name = active
        made.replication_config.state = state  # type: ignore[assignment]
        for one in names:
            made.replication_config.clusters.add(cluster_name=one)
    return made


async def tell(source: NamespaceRegistry, target: NamespaceRegistry) -> list[Taken]:
    """All that the one has to say to the other."""
    return [await target.merge(record, source.clusters.own.name) for record in await source.shared()]


async def agree(*regions: NamespaceRegistry) -> None:
    """Each tells each other, until nobody has news."""
    for _ in regions:
        for source in regions:
            for target in regions:
                if source is not target:
                    await tell(source, target)


async def shop(registry: NamespaceRegistry) -> NamespaceRecord:
    return await registry.describe("shop", "")
