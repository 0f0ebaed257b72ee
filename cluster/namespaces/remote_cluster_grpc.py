"""Asks the frontend at an address which cluster it belongs to, over gRPC: the real `AskCluster` of remote_clusters.py.

The public call GetClusterInfo says all that is needed. The public server answers it too, but its regions speak another protocol.
"""

from __future__ import annotations

from typing import Any

import grpc
from temporalio.api.workflowservice.v1 import GetClusterInfoRequest, GetClusterInfoResponse, WorkflowServiceStub

from cluster.core.errors import CallerError, Code, unavailable
from cluster.namespaces.remote_clusters import PRODUCT, Cluster

ANSWER_S_MAX = 10.0


class GrpcAskCluster:
    """credentials None: without TLS. options: of the connection."""

    def __init__(
        self,
        credentials: grpc.ChannelCredentials | None = None,
        answer_s_max: float = ANSWER_S_MAX,
        options: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._credentials, self._answer_s_max, self._options = credentials, answer_s_max, options

    async def __call__(self, address: str) -> Cluster:
        """Raises UNAVAILABLE, INVALID_ARGUMENT."""
        async with self._channel(address) as channel:
            stub: Any = WorkflowServiceStub(channel)
            try:
                info = await stub.GetClusterInfo(GetClusterInfoRequest(), timeout=self._answer_s_max)
            except grpc.aio.AioRpcError as error:
                reason = error.details() or error.code().name
                raise unavailable(f"Unable connect to remote cluster {address} with error: {reason}.") from error
        return _cluster(address, info)

    def _channel(self, address: str) -> Any:
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=self._options)
        return grpc.aio.secure_channel(address, self._credentials, options=self._options)


def _cluster(address: str, info: GetClusterInfoResponse) -> Cluster:
    if info.version_info.current.notes != PRODUCT:
        raise CallerError(
            Code.INVALID_ARGUMENT,
            f"Unable connect to remote cluster with invalid config: the server at {address} is not {PRODUCT}.",
        )
    return Cluster(
        name=info.cluster_name,
        id=info.cluster_id,
        address=address,
        initial_failover_version=info.initial_failover_version,
        failover_version_increment=info.failover_version_increment,
        shard_count=info.history_shard_count,
    )
