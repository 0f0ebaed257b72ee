"""Which other regions may be connected to this one, in the public server's words, and two nodes that change the list at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import msgspec
import pytest
import pytest_asyncio
from temporalio.api.operatorservice.v1 import (
    AddOrUpdateRemoteClusterRequest,
    ListClustersRequest,
    RemoveRemoteClusterRequest,
)
from temporalio.api.workflowservice.v1 import GetClusterInfoResponse

from cluster.core.errors import Code
from cluster.namespaces.remote_cluster_grpc import GrpcAskCluster, _cluster
from cluster.namespaces.remote_clusters import KIND, Cluster, RemoteClusters
from cluster.stores.base import MetadataRow, StoreUnavailable
from cluster.stores.memory import MemoryStore
from tests.frontend.world import World, world
from tests.namespaces.registering import refusal
from tests.namespaces.two_regions import answered, cluster, global_request, region, wished


async def add(clusters: RemoteClusters, found: Cluster, address: str = "there:7233") -> Cluster:
    async def ask(asked: str) -> Cluster:
        assert asked == address
        return found

    clusters.ask = ask
    return await clusters.add_or_update(address, "there:7243", is_connected=True, is_replicated=True, namespaces=())


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (cluster("c1", initial_failover_version=1), "Cannot update current cluster metadata from rpc calls"),
        (cluster("c2", failover_version_increment=100), "Cannot add remote cluster due to failover version increment mismatch"),
        (cluster("c2", shard_count=0), "Remote cluster HistoryShardCount must be positive"),
        (cluster("c4", initial_failover_version=1), "Cannot add remote cluster due to initial failover version conflict"),
        (cluster("c4", initial_failover_version=3), "Cannot add remote cluster due to initial failover version conflict"),
        (cluster("c4", initial_failover_version=0), 'cluster "c4": InitialFailoverVersion must be > 0, got 0'),
        (
            cluster("c4", initial_failover_version=10),
            'cluster "c4": InitialFailoverVersion (10) must be < FailoverVersionIncrement (10)',
        ),
        (cluster(""), "cluster name must not be empty"),
    ],
)
async def test_a_cluster_that_cannot_be_linked_is_refused_in_the_public_words(found: Cluster, words: str) -> None:
    clusters = RemoteClusters(MemoryStore(), cluster("c1"))
    await add(clusters, cluster("c3"))
    refused = await refusal(add(clusters, found))
    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.message == f"Unable connect to remote cluster with invalid config: {words}."
    assert [one.name for one in clusters.remotes()] == ["c3"]


@pytest.mark.parametrize("initial", [2, 9])
async def test_versions_within_the_increment_and_any_shard_count_are_taken(initial: int) -> None:
    clusters = RemoteClusters(MemoryStore(), cluster("c1"))
    await add(clusters, cluster("c4", initial_failover_version=initial, shard_count=7))
    regions = clusters.regions()
    assert regions.owner_of(initial + 10) == "c4" and regions.usable == {"c1", "c4"}


async def test_without_a_way_to_ask_or_an_address_nothing_is_added() -> None:
    clusters = RemoteClusters(MemoryStore(), cluster("c1"))
    for address, code in (("there:1", Code.UNAVAILABLE), ("", Code.INVALID_ARGUMENT)):
        refused = await refusal(clusters.add_or_update(address, "", is_connected=True, is_replicated=True, namespaces=()))
        assert refused.code is code
    assert clusters.remotes() == []


async def test_two_nodes_cannot_give_one_initial_version_to_two_clusters() -> None:
    store = MemoryStore()
    nodes = [RemoteClusters(store, cluster("c1")) for _ in range(2)]
    wishes = [add(node, cluster(f"d{n}", initial_failover_version=5)) for n, node in enumerate(nodes)]
    results = await asyncio.gather(*wishes, return_exceptions=True)
    assert sum(isinstance(result, Cluster) for result in results) == 1
    await nodes[0].load()
    assert len(nodes[0].remotes()) == 1


async def test_clusters_added_at_the_same_time_are_all_there_and_survive_a_restart() -> None:
    store = MemoryStore()
    nodes = [RemoteClusters(store, cluster("c1")) for _ in range(4)]
    await asyncio.gather(*(add(node, cluster(f"d{n}", initial_failover_version=n + 2)) for n, node in enumerate(nodes)))
    again = RemoteClusters(store, cluster("c1"))
    await again.load()
    assert sorted(one.name for one in again.remotes()) == ["d0", "d1", "d2", "d3"]
    pages, last = [], ""
    while True:
        page, last = await again.list(2, last)
        pages.append([one.name for one in page])
        if not last:
            break
    assert pages == [["c1", "d0"], ["d1", "d2"], ["d3"]]


async def test_a_store_that_does_not_answer_is_a_reason_to_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    clusters = RemoteClusters(store, cluster("c1"))

    async def away(*arguments: object) -> MetadataRow | None:
        raise StoreUnavailable("planted")

    for method in ("metadata_put", "metadata_get"):
        monkeypatch.setattr(store, method, away)
        assert (await refusal(add(clusters, cluster("c2")))).code is Code.UNAVAILABLE
    assert clusters.remotes() == []


async def test_a_cluster_is_not_removed_while_a_namespace_is_in_both() -> None:
    registry = await region("c1")
    await registry.register(global_request("c2", "c3", active="c2", name="orphan"))
    await registry.register(global_request("c1", "c2"))
    refused = await refusal(registry.remove_cluster("c2"))
    assert refused.code is Code.FAILED_PRECONDITION
    assert refused.message == 'cannot remove cluster "c2": still referenced by namespace "shop"'
    await registry.update(wished("c1"))
    await registry.remove_cluster("c2")
    refused = await refusal(registry.remove_cluster("c2"))
    assert (refused.code, refused.message) == (
        Code.NOT_FOUND,
        "The cluster to be deleted cannot be found in clusters cache.",
    )
    assert (await refusal(registry.remove_cluster("c1"))).code is Code.INVALID_ARGUMENT


async def test_the_initial_version_of_a_cluster_stays_while_a_namespace_is_in_it() -> None:
    registry = await region("c1")
    await registry.register(global_request("c1", "c2"))

    async def changed(address: str) -> Cluster:
        return msgspec.structs.replace(await answered(address), initial_failover_version=7)

    registry.clusters.ask = changed
    refused = await refusal(registry.add_or_update_cluster("address of c2", "", is_connected=True, is_replicated=True))
    assert refused.code is Code.FAILED_PRECONDITION and '"shop" is in it' in refused.message
    registry.clusters.ask = answered
    moved = await registry.add_or_update_cluster("address of c2", "new http", is_connected=True, is_replicated=False)
    assert registry.clusters.named("c2") == moved and not moved.is_replication_enabled


async def test_all_nodes_hear_of_a_changed_cluster() -> None:
    store = MemoryStore()
    one, other = await region("c1", store), await region("c1", store)
    told = []

    async def tell() -> None:
        told.append("namespaces")

    one.on_change = tell
    await one.remove_cluster("c3")
    assert told == ["namespaces"]
    await other.refresh()
    assert [each.name for each in other.clusters.remotes()] == [each.name for each in one.clusters.remotes()] == ["c2"]
    assert (await store.metadata_list(KIND))[0].version > 1


# --- over gRPC ------------------------------------------------------------------------------------------------------------------
@pytest_asyncio.fixture
async def served() -> AsyncIterator[tuple[World, World]]:
    async with world(cluster_name="c1") as one, world(cluster_name="c2", initial_failover_version=2) as other:
        yield one, other


async def link(source: World, target: World, is_connected: bool = True) -> None:
    request = AddOrUpdateRemoteClusterRequest(
        frontend_address=target.address, enable_remote_cluster_connection=is_connected, enable_replication=True
    )
    await source.operator.AddOrUpdateRemoteCluster(request, timeout=10)


async def test_regions_are_linked_by_the_address_of_a_frontend(served: tuple[World, World]) -> None:
    one, other = served
    await link(one, other)
    clusters = (await one.operator.ListClusters(ListClustersRequest(), timeout=10)).clusters
    assert [(each.cluster_name, each.initial_failover_version) for each in clusters] == [("c1", 1), ("c2", 2)]
    assert clusters[1].address == other.address and clusters[1].cluster_id != clusters[0].cluster_id
    assert clusters[1].is_connection_enabled and clusters[1].is_replication_enabled
    first = await one.operator.ListClusters(ListClustersRequest(page_size=1), timeout=10)
    second = await one.operator.ListClusters(
        ListClustersRequest(page_size=1, next_page_token=first.next_page_token), timeout=10
    )
    assert [first.clusters[0], second.clusters[0]] == list(clusters) and not second.next_page_token
    await one.operator.RemoveRemoteCluster(RemoveRemoteClusterRequest(cluster_name="c2"), timeout=10)
    assert len((await one.operator.ListClusters(ListClustersRequest(), timeout=10)).clusters) == 1


async def test_an_address_where_nobody_or_oneself_is_cannot_be_linked(served: tuple[World, World]) -> None:
    one, other = served
    address = other.address
    await other.transport.close()
    for target, code, words in (
        (address, grpc.StatusCode.UNAVAILABLE, f"Unable connect to remote cluster {address} with error: "),
        (one.address, grpc.StatusCode.INVALID_ARGUMENT, "Cannot update current cluster metadata from rpc calls"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await one.operator.AddOrUpdateRemoteCluster(AddOrUpdateRemoteClusterRequest(frontend_address=target), timeout=20)
        assert refused.value.code() is code and words in (refused.value.details() or "")


async def test_a_server_of_another_make_cannot_be_linked() -> None:
    info = GetClusterInfoResponse(cluster_name="c2", initial_failover_version=2, failover_version_increment=10)

    async def translated() -> Cluster:
        return _cluster("there:7233", info)

    refused = await refusal(translated())
    assert refused.code is Code.INVALID_ARGUMENT and "the server at there:7233 is not Outlast" in refused.message


async def test_a_frontend_that_is_silent_is_unavailable_in_time() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        refused = await refusal(GrpcAskCluster(answer_s_max=0.3)(f"127.0.0.1:{port}"))
        assert refused.code is Code.UNAVAILABLE
    finally:
        server.close()
