"""This cluster and the other ones it is connected to: namespaces/remote_clusters.py does the work."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from temporalio.api.operatorservice import v1 as api

from cluster.core.errors import invalid_argument
from cluster.frontend.call import Call, Handler
from cluster.frontend.handlers.services import Services
from cluster.namespaces.remote_clusters import Cluster

# listClustersPageSize of the public server.
PAGE_CLUSTERS_DEFAULT = 100


def cluster_handlers(services: Services) -> dict[str, Handler]:
    return {
        "ListClusters": _list(services),
        "AddOrUpdateRemoteCluster": _add_or_update(services),
        "RemoveRemoteCluster": _remove(services),
    }


def _list(services: Services) -> Handler:
    clusters = services.namespaces.clusters

    async def handle(call: Call, request: Any) -> Message | bytes:
        if request.page_size < 0:
            raise invalid_argument("PageSize must be positive.")
        after = services.tokens.open_page("", "ListClusters", request.next_page_token).decode()
        page, last = await clusters.list(request.page_size or PAGE_CLUSTERS_DEFAULT, after)
        return api.ListClustersResponse(
            clusters=[_own(services) if cluster.name == clusters.own.name else _told(cluster) for cluster in page],
            next_page_token=services.tokens.seal_page("", "ListClusters", last.encode()),
        )

    return handle


def _own(services: Services) -> api.ClusterMetadata:
    identity = services.identity
    return api.ClusterMetadata(
        cluster_name=identity.cluster_name,
        cluster_id=identity.cluster_id,
        address=services.address,
        http_address=services.http_address,
        initial_failover_version=identity.initial_failover_version,
        history_shard_count=identity.shard_count,
        is_connection_enabled=True,
    )


def _told(cluster: Cluster) -> api.ClusterMetadata:
    return api.ClusterMetadata(
        cluster_name=cluster.name,
        cluster_id=cluster.id,
        address=cluster.address,
        http_address=cluster.http_address,
        initial_failover_version=cluster.initial_failover_version,
        history_shard_count=cluster.shard_count,
        is_connection_enabled=cluster.is_connection_enabled,
        is_replication_enabled=cluster.is_replication_enabled,
    )


def _add_or_update(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        await services.namespaces.add_or_update_cluster(
            request.frontend_address,
            request.frontend_http_address,
            is_connected=request.enable_remote_cluster_connection,
            is_replicated=request.enable_replication,
        )
        return api.AddOrUpdateRemoteClusterResponse()

    return handle


def _remove(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        await services.namespaces.remove_cluster(request.cluster_name)
        return api.RemoveRemoteClusterResponse()

    return handle
