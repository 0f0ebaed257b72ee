"""Links regions and puts namespaces into all of them, by the public calls an operator would use. Asked again, nothing changes.

    AddOrUpdateRemoteCluster          each region is told of each other one
    UpdateNamespace promote_namespace a namespace becomes one that may be in several regions
    UpdateNamespace clusters          and is put into all of them
    DescribeNamespace                 until every region says so
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from temporalio.api.operatorservice.v1 import AddOrUpdateRemoteClusterRequest, OperatorServiceStub
from temporalio.api.replication.v1 import ClusterReplicationConfig, NamespaceReplicationConfig
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeNamespaceResponse,
    UpdateNamespaceRequest,
    WorkflowServiceStub,
)

from ops.cli.region_calls import CannotAsk, look

CALL_S = 10.0
EVERYWHERE_S = 30.0
ARMED_S = 30.0
LOOK_S = 0.05
AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.DEADLINE_EXCEEDED)


class NotLinked(Exception):
    """What could not be done, and why."""


async def link_regions(addresses: Mapping[str, str], namespaces: Sequence[str]) -> None:
    """addresses: region name -> its gRPC port. Namespaces exist in the first one at least. Raises NotLinked."""
    async with _channels(addresses.values()) as channels:
        try:
            # Both ways at once: a region that was told first dials another one that has not heard of it yet, and is refused.
            await asyncio.gather(
                *(_add(channels[own], other) for own in addresses.values() for other in addresses.values() if other != own)
            )
            homes = await asyncio.gather(*(_share(name, addresses, channels) for name in namespaces))
            async with asyncio.timeout(EVERYWHERE_S):
                await asyncio.gather(
                    *(
                        _until_there(channel, home.namespace_info.name, addresses)
                        for home in homes
                        for channel in channels.values()
                    )
                )
        except grpc.aio.AioRpcError as error:
            raise NotLinked(f"the regions cannot be linked: {error.details() or error.code().name}") from error
        except TimeoutError:
            raise NotLinked(f"the namespaces were not in all regions within {EVERYWHERE_S:.0f} s") from None


async def until_armed(http_addresses: Mapping[str, str]) -> None:
    """Until the witness knows of each region how far the others are: then they take over by themselves. Raises NotLinked."""

    async def armed(region: str) -> None:
        others = set(http_addresses) - {region}
        while True:
            found = await asyncio.to_thread(look, http_addresses[region], "failover/status")
            if others <= set(found["may_be_taken_over_by"]):
                return
            await asyncio.sleep(LOOK_S)

    try:
        async with asyncio.timeout(ARMED_S):
            await asyncio.gather(*map(armed, http_addresses))
    except CannotAsk as error:
        raise NotLinked(f"a region does not answer: {error}") from error
    except TimeoutError:
        raise NotLinked(f"the regions had no lease at their witness within {ARMED_S:.0f} s") from None


@asynccontextmanager
async def _channels(addresses: Any) -> AsyncIterator[dict[str, Any]]:
    channels = {address: grpc.aio.insecure_channel(address) for address in addresses}
    try:
        yield channels
    finally:
        await asyncio.gather(*(channel.close() for channel in channels.values()))


async def _add(channel: Any, other: str) -> None:
    request = AddOrUpdateRemoteClusterRequest(
        frontend_address=other, enable_remote_cluster_connection=True, enable_replication=True
    )
    stub: Any = OperatorServiceStub(channel)
    await stub.AddOrUpdateRemoteCluster(request, timeout=CALL_S)


async def _share(name: str, addresses: Mapping[str, str], channels: Mapping[str, Any]) -> DescribeNamespaceResponse:
    """A namespace that has moved is changed where it is active now."""
    first = next(iter(addresses.values()))
    there = await _describe(channels[first], name)
    active = addresses.get(there.replication_config.active_cluster_name, first)
    stub: Any = WorkflowServiceStub(channels[active])
    if not there.is_global_namespace:
        await stub.UpdateNamespace(UpdateNamespaceRequest(namespace=name, promote_namespace=True), timeout=CALL_S)
    if {cluster.cluster_name for cluster in there.replication_config.clusters} != set(addresses):
        wanted = NamespaceReplicationConfig(clusters=[ClusterReplicationConfig(cluster_name=region) for region in addresses])
        await stub.UpdateNamespace(UpdateNamespaceRequest(namespace=name, replication_config=wanted), timeout=CALL_S)
    return there


async def _until_there(channel: Any, name: str, addresses: Mapping[str, str]) -> None:
    while True:
        try:
            found = await _describe(channel, name)
            if {cluster.cluster_name for cluster in found.replication_config.clusters} == set(addresses):
                return
        except grpc.aio.AioRpcError as error:
            if error.code() not in AGAIN:
                raise
        await asyncio.sleep(LOOK_S)


async def _describe(channel: Any, name: str) -> DescribeNamespaceResponse:
    stub: Any = WorkflowServiceStub(channel)
    found: DescribeNamespaceResponse = await stub.DescribeNamespace(DescribeNamespaceRequest(namespace=name), timeout=CALL_S)
    return found
