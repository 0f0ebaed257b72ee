"""Facts about the server and the cluster."""

from __future__ import annotations

import sys
from typing import Any

from google.protobuf.message import Message
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.version.v1 import ReleaseInfo, VersionInfo
from temporalio.api.workflowservice import v1 as api

from cluster.frontend.call import Call, Handler
from cluster.frontend.handlers.services import Services
from cluster.namespaces.remote_clusters import PRODUCT
from cluster.visibility.search_attributes import Schema

# The release of the public server whose behaviour this one follows: SDKs, the CLI and the web UI branch on it.
SERVER_VERSION = "1.32.1"
# Highest versions of the official clients that were tried; the bounds are the public server's.
SUPPORTED_CLIENTS = {
    "temporal-go": "<2.0.0",
    "temporal-java": "<2.0.0",
    "temporal-php": "<2.0.0",
    "temporal-typescript": "<2.0.0",
    "temporal-cli": "<2.0.0",
    "temporal-server": "<2.0.0",
    "temporal-ui": "<3.0.0",
}

# What is true of this server. False: schedules, worker versioning and scaled deployments are not built.
CAPABILITIES = api.GetSystemInfoResponse.Capabilities(
    signal_and_query_header=True,
    internal_error_differentiation=True,
    activity_failure_include_heartbeat=True,
    supports_schedules=False,
    encoded_failure_attributes=True,
    upsert_memo=True,
    eager_workflow_start=True,
    sdk_metadata=True,
    build_id_based_versioning=False,
    count_group_by_execution_status=True,
    nexus=True,
    server_scaled_deployments=False,
)


def system_handlers(services: Services) -> dict[str, Handler]:
    return {
        "GetSystemInfo": _system_info,
        "GetClusterInfo": _cluster_info(services),
        "GetSearchAttributes": _search_attributes,
    }


async def _system_info(call: Call, request: Any) -> Message | bytes:
    return api.GetSystemInfoResponse(server_version=SERVER_VERSION, capabilities=CAPABILITIES)


def _cluster_info(services: Services) -> Handler:
    identity = services.identity
    response = api.GetClusterInfoResponse(
        supported_clients=SUPPORTED_CLIENTS,
        server_version=SERVER_VERSION,
        cluster_id=identity.cluster_id,
        cluster_name=identity.cluster_name,
        history_shard_count=identity.shard_count,
        persistence_store=services.store.kind,
        visibility_store=services.visibility.kind,
        version_info=VersionInfo(
            current=ReleaseInfo(version=SERVER_VERSION, notes=PRODUCT), instructions=f"python {sys.version.split()[0]}"
        ),
        initial_failover_version=identity.initial_failover_version,
        failover_version_increment=identity.failover_version_increment,
    )

    async def handle(call: Call, request: Any) -> Message | bytes:
        return response

    return handle


async def _search_attributes(call: Call, request: Any) -> Message | bytes:
    """Custom ones belong to namespaces (ListSearchAttributes); this old call knows no namespace."""
    kinds = {name: IndexedValueType.ValueType(int(kind)) for name, kind in Schema().system_attributes().items()}
    return api.GetSearchAttributesResponse(keys=kinds)
