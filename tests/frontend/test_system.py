"""What the server says of itself, and that official clients can connect."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
import temporalio.client
import temporalio.service
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.operatorservice.v1 import ListClustersRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice import v1 as w

from cluster.frontend.not_built import NOT_BUILT
from cluster.stores.base import StoreUnavailable
from tests.frontend.world import World, world


@pytest_asyncio.fixture
async def served() -> AsyncIterator[World]:
    async with world() as made:
        yield made


async def test_the_official_client_connects_and_sees_typed_errors(served: World) -> None:
    client = await temporalio.client.Client.connect(served.address)
    with pytest.raises(temporalio.service.RPCError) as refusal:
        await client.get_workflow_handle("no-such-workflow").describe()
    assert refusal.value.status is temporalio.service.RPCStatusCode.NOT_FOUND
    assert refusal.value.grpc_status.details[0].type_url.endswith("errordetails.v1.NotFoundFailure")
    assert await client.service_client.check_health()


async def test_capabilities_claim_nothing_that_is_not_built(served: World) -> None:
    capabilities = (await served.stub.GetSystemInfo(w.GetSystemInfoRequest(), timeout=5)).capabilities
    assert capabilities.supports_schedules is ("CreateSchedule" not in NOT_BUILT)
    assert capabilities.nexus is ("PollNexusTaskQueue" not in NOT_BUILT)
    assert capabilities.build_id_based_versioning is ("GetWorkerVersioningRules" not in NOT_BUILT)
    assert capabilities.signal_and_query_header and capabilities.upsert_memo


async def test_the_cluster_names_itself_its_stores_and_its_shards(served: World) -> None:
    info = await served.stub.GetClusterInfo(w.GetClusterInfoRequest(), timeout=5)
    assert (info.history_shard_count, info.persistence_store, info.visibility_store) == (4, "memory", "memory")
    assert info.server_version == "1.32.1" and len(info.cluster_id) == 36
    (cluster,) = (await served.operator.ListClusters(ListClustersRequest(), timeout=5)).clusters
    assert (cluster.cluster_id, cluster.history_shard_count) == (info.cluster_id, 4)


async def test_search_attributes_of_the_system_are_listed(served: World) -> None:
    answer = await served.operator.ListSearchAttributes(ListSearchAttributesRequest(namespace="default"), timeout=5)
    assert answer.system_attributes["WorkflowId"] and not answer.custom_attributes
    keys = (await served.stub.GetSearchAttributes(w.GetSearchAttributesRequest(), timeout=5)).keys
    assert "ExecutionStatus" in keys


async def test_a_rate_limit_of_a_task_queue_survives_a_restart(served: World) -> None:
    from cluster.frontend.handlers.task_queues import load_task_queue_configs
    from cluster.matching.limits import MatchingLimits
    from cluster.matching.service import Matching

    kind = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
    request = w.UpdateTaskQueueConfigRequest(namespace="default", task_queue="q", task_queue_type=kind)
    request.update_queue_rate_limit.rate_limit.requests_per_second = 7
    await served.stub.UpdateTaskQueueConfig(request, timeout=5)
    fresh = Matching(MatchingLimits(), served.clock, served.ids, served.spawn)
    await load_task_queue_configs(served.store, fresh)
    describe = w.DescribeTaskQueueRequest(task_queue_type=kind, report_config=True)
    describe.task_queue.name = "q"
    answer = await fresh.describe_task_queue(served.record(), describe)
    assert answer.config.queue_rate_limit.rate_limit.requests_per_second == 7


async def _rate_of(served: World, kind: TaskQueueType.ValueType) -> float:
    describe = w.DescribeTaskQueueRequest(namespace="default", task_queue_type=kind, report_config=True)
    describe.task_queue.name = "q"
    answer = await served.stub.DescribeTaskQueue(describe, timeout=5)
    return float(answer.config.queue_rate_limit.rate_limit.requests_per_second)


@pytest.mark.parametrize("former", [0.0, 7.0])
@pytest.mark.parametrize("outcome", [None, StoreUnavailable("planted")])
async def test_a_rate_limit_that_was_not_stored_does_not_apply(
    served: World, monkeypatch: pytest.MonkeyPatch, former: float, outcome: StoreUnavailable | None
) -> None:
    kind = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
    request = w.UpdateTaskQueueConfigRequest(namespace="default", task_queue="q", task_queue_type=kind)
    if former:
        request.update_queue_rate_limit.rate_limit.requests_per_second = former
        await served.stub.UpdateTaskQueueConfig(request, timeout=5)

    async def not_taken(*arguments: object) -> None:
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(served.store, "metadata_put", not_taken)
    request.update_queue_rate_limit.rate_limit.requests_per_second = 9
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await served.stub.UpdateTaskQueueConfig(request, timeout=5)
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await _rate_of(served, kind) == former


async def test_workers_are_counted(served: World) -> None:
    request = w.CountWorkersRequest(namespace="default")
    assert (await served.stub.CountWorkers(request, timeout=5)).count == 0
    beat = w.RecordWorkerHeartbeatRequest(namespace="default")
    beat.worker_heartbeat.add(worker_instance_key="one", task_queue="q")
    beat.worker_heartbeat.add(worker_instance_key="two", task_queue="q")
    await served.stub.RecordWorkerHeartbeat(beat, timeout=5)
    assert (await served.stub.CountWorkers(request, timeout=5)).count == 2


async def test_an_unknown_method_is_unimplemented(served: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await served.channel.unary_unary("/temporal.api.workflowservice.v1.WorkflowService/Nonsense")(b"", timeout=5)
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
