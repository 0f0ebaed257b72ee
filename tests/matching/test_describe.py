"""What an operator sees and sets: pollers, statistics, configuration, workers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.api.enums.v1 import DescribeTaskQueueMode, RateLimitSource, TaskQueueKind, TaskQueueType, WorkerStatus
from temporalio.api.worker.v1 import WorkerHeartbeat
from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import CallerError, Code
from tests.matching.world import ACTIVITIES, EPOCH_NS, NAMESPACE, QUEUE, World, hint, now, run

ACTIVITY = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
WORKFLOW = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW


async def describe(world: World, **fields: Any) -> api.DescribeTaskQueueResponse:
    request = api.DescribeTaskQueueRequest(namespace="ns", **fields)
    request.task_queue.name = "tq"
    return await world.matching.describe_task_queue(NAMESPACE, request)


async def configure(world: World, task_queue_type: int = ACTIVITY, **fields: Any) -> api.UpdateTaskQueueConfigResponse:
    request = api.UpdateTaskQueueConfigRequest(
        namespace="ns",
        identity="op",
        task_queue="tq",
        task_queue_type=task_queue_type,  # type: ignore[arg-type]
        **fields,
    )
    return await world.matching.update_task_queue_config(NAMESPACE, request)


def rate_of(rate: float, reason: str = "") -> api.UpdateTaskQueueConfigRequest.RateLimitUpdate:
    update = api.UpdateTaskQueueConfigRequest.RateLimitUpdate(reason=reason)
    update.rate_limit.requests_per_second = rate
    return update


def test_pollers_of_the_last_five_minutes_are_listed_with_their_capabilities() -> None:
    async def main() -> None:
        from temporalio.api.deployment.v1 import WorkerDeploymentOptions

        world = World()
        await world.poll(identity="old", timeout_s=2.0)
        await asyncio.sleep(200.0)
        options = WorkerDeploymentOptions(deployment_name="d", build_id="b")
        (poll,) = await world.polls(1, identity="new", deployment_options=options, timeout_s=50.0)
        pollers = (await describe(world)).pollers
        assert [poller.identity for poller in pollers] == ["new", "old"]
        assert pollers[0].deployment_options.build_id == "b" and pollers[0].rate_per_second == 100_000.0
        assert pollers[0].last_access_time.ToNanoseconds() == EPOCH_NS + 201_000_000_000
        poll.cancel()
        await asyncio.sleep(99.1)
        assert [poller.identity for poller in (await describe(world)).pollers] == ["new"]
        assert not (await describe(world, task_queue_type=ACTIVITY)).pollers

    run(main())


def test_statistics_count_the_backlog_beyond_the_window_and_measure_rates() -> None:
    async def main() -> None:
        world = World(window_hints_max=50, window_hints_low=10)
        for number in range(60):
            world.schedule(hint(number, priority=2 if number < 5 else 0, created_at=EPOCH_NS))
        await asyncio.sleep(10.0)
        answer = await describe(world, report_stats=True, include_task_queue_status=True)
        assert answer.stats.approximate_backlog_count == 60 == answer.task_queue_status.backlog_count_hint
        assert answer.stats.approximate_backlog_age.ToSeconds() == 10
        assert answer.stats.tasks_add_rate == pytest.approx(5.0, rel=0.1) and answer.stats.tasks_dispatch_rate == 0.0
        assert {key: stats.approximate_backlog_count for key, stats in answer.stats_by_priority_key.items()} == {2: 5, 3: 55}
        for _ in range(30):
            await world.poll()
        answer = await describe(world, report_stats=True)
        assert 30 <= answer.stats.approximate_backlog_count <= 31
        assert answer.stats.tasks_dispatch_rate == pytest.approx(3.0, rel=0.1)
        await asyncio.sleep(40.0)
        assert (await describe(world, report_stats=True)).stats.tasks_dispatch_rate == 0.0

    run(main())


def test_an_unknown_queue_is_described_as_empty_and_is_not_created() -> None:
    async def main() -> None:
        world = World()
        answer = await describe(world, report_stats=True, include_task_queue_status=True, report_config=True)
        assert not answer.pollers and answer.stats.approximate_backlog_count == 0 and answer.HasField("task_queue_status")
        assert (await describe(world, task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_NEXUS, report_stats=True)).HasField("stats")
        assert world.matching.queue_count == 0

    run(main())


def test_the_enhanced_mode_reports_all_kinds_for_the_unversioned_build() -> None:
    async def main() -> None:
        world = World()
        world.schedule(hint(1, ACTIVITIES))
        await world.poll(identity="w", timeout_s=2.0)
        enhanced = DescribeTaskQueueMode.DESCRIBE_TASK_QUEUE_MODE_ENHANCED
        answer = await describe(world, api_mode=enhanced, report_stats=True, report_pollers=True, report_task_reachability=True)
        (info,) = [answer.versions_info[""]]
        assert list(answer.versions_info) == [""] and sorted(info.types_info) == [WORKFLOW, ACTIVITY]
        assert [poller.identity for poller in info.types_info[WORKFLOW].pollers] == ["w"]
        assert info.types_info[ACTIVITY].stats.approximate_backlog_count == 1 and info.task_reachability == 1
        request = api.DescribeTaskQueueRequest(api_mode=enhanced)
        request.task_queue.kind = TaskQueueKind.TASK_QUEUE_KIND_STICKY
        with pytest.raises(CallerError):
            await world.matching.describe_task_queue(NAMESPACE, request)

    run(main())


def test_a_configured_rate_goes_before_the_workers_and_survives_the_idle_queue() -> None:
    async def main() -> None:
        world = World()
        config = (await configure(world, update_queue_rate_limit=rate_of(2.0, "calm"))).config
        assert config.queue_rate_limit.metadata.reason == "calm" and config.queue_rate_limit.metadata.update_identity == "op"
        for number in range(6):
            world.schedule(hint(number, ACTIVITIES))
        polls = await world.polls(6, ACTIVITIES, timeout_s=30.0)
        await asyncio.gather(*polls)
        assert now() == pytest.approx(2.0, abs=0.01)
        answer = await describe(world, task_queue_type=ACTIVITY, report_config=True)
        assert answer.config == config and answer.effective_rate_limit.requests_per_second == 2.0
        assert answer.effective_rate_limit.rate_limit_source == RateLimitSource.RATE_LIMIT_SOURCE_API
        await asyncio.sleep(1_000.0)
        assert world.matching.queue_count == 0
        await world.poll(ACTIVITIES, timeout_s=1.0)
        assert (await describe(world, task_queue_type=ACTIVITY)).effective_rate_limit.requests_per_second == 2.0
        update = api.UpdateTaskQueueConfigRequest.RateLimitUpdate(reason="go")
        removed = (await configure(world, update_queue_rate_limit=update)).config
        assert not removed.queue_rate_limit.HasField("rate_limit") and removed.queue_rate_limit.metadata.reason == "go"
        source = (await describe(world, task_queue_type=ACTIVITY)).effective_rate_limit.rate_limit_source
        assert source == RateLimitSource.RATE_LIMIT_SOURCE_SYSTEM

    run(main())


def test_a_new_rate_wakes_the_polls_that_wait_for_the_old_one() -> None:
    async def main() -> None:
        world = World()
        await configure(world, update_queue_rate_limit=rate_of(0.0))
        world.schedule(hint(1, ACTIVITIES))
        (poll,) = await world.polls(1, ACTIVITIES, timeout_s=50.0)
        await asyncio.sleep(10.0)
        assert not poll.done()
        await configure(world, update_queue_rate_limit=rate_of(1.0))
        assert (await poll).task_token == b"wf-1" and now() == 10.0

    run(main())


@pytest.mark.parametrize(
    "fields",
    [
        {"task_queue_type": WORKFLOW, "update_queue_rate_limit": rate_of(1.0)},
        {"task_queue_type": WORKFLOW, "update_fairness_key_rate_limit_default": rate_of(1.0)},
        {"update_queue_rate_limit": rate_of(-1.0)},
        {"update_queue_rate_limit": rate_of(float("nan"))},
        {"update_queue_rate_limit": rate_of(1.0, "x" * 1001)},
        {"set_fairness_weight_overrides": {"": 1.0}},
        {"set_fairness_weight_overrides": {"a": 1000.5}},
        {"set_fairness_weight_overrides": {"a" * 65: 1.0}},
        {"set_fairness_weight_overrides": {"a": 1.0}, "unset_fairness_weight_overrides": ["a"]},
        {"set_fairness_weight_overrides": {str(number): 1.0 for number in range(1001)}},
    ],
)
def test_a_bad_configuration_is_refused_and_changes_nothing(fields: dict[str, Any]) -> None:
    async def main() -> None:
        world = World()
        before = (await configure(world, set_fairness_weight_overrides={"kept": 2.0})).config
        with pytest.raises(CallerError) as refusal:
            await configure(world, **fields)
        assert refusal.value.code is Code.INVALID_ARGUMENT
        assert (await describe(world, task_queue_type=ACTIVITY, report_config=True)).config == before

    run(main())


def test_one_partition_per_kind_is_listed() -> None:
    async def main() -> None:
        request = api.ListTaskQueuePartitionsRequest()
        request.task_queue.name = QUEUE.name
        answer = await World().matching.list_task_queue_partitions(NAMESPACE, request)
        for partitions in (answer.activity_task_queue_partitions, answer.workflow_task_queue_partitions):
            assert [(partition.key, partition.owner_host_name) for partition in partitions] == [("tq", "node-1")]

    run(main())


async def beat(world: World, *keys: str, **fields: Any) -> None:
    request = api.RecordWorkerHeartbeatRequest()
    request.worker_heartbeat.extend(WorkerHeartbeat(worker_instance_key=key, task_queue="tq", **fields) for key in keys)
    await world.matching.record_worker_heartbeat(NAMESPACE, request)


async def listed(world: World, **fields: Any) -> list[str]:
    answer = await world.matching.list_workers(NAMESPACE, api.ListWorkersRequest(**fields))
    return [worker.worker_instance_key for worker in answer.workers]


def test_workers_are_listed_while_they_heartbeat() -> None:
    async def main() -> None:
        world = World(workers_max=4)
        await beat(world, "b", "a")
        await asyncio.sleep(200.0)
        await beat(world, "c", sdk_name="temporal-python")
        assert await listed(world) == ["a", "b", "c"]
        await asyncio.sleep(100.0)
        assert await listed(world) == ["c"]
        info = await world.matching.describe_worker(NAMESPACE, api.DescribeWorkerRequest(worker_instance_key="c"))
        assert info.worker_info.worker_heartbeat.sdk_name == "temporal-python"
        with pytest.raises(CallerError) as refusal:
            await world.matching.describe_worker(NAMESPACE, api.DescribeWorkerRequest(worker_instance_key="a"))
        assert refusal.value.code is Code.NOT_FOUND
        await beat(world, "c", status=WorkerStatus.WORKER_STATUS_SHUTDOWN)
        assert await listed(world) == []
        await beat(world, *"abcdef")
        assert await listed(world) == list("cdef")

    run(main())


def test_pages_of_workers_join_without_gap_or_repetition() -> None:
    async def main() -> None:
        world = World()
        await beat(world, *(f"{number:03}" for number in range(25)))
        seen, token = [], b""
        for _ in range(3):
            answer = await world.matching.list_workers(NAMESPACE, api.ListWorkersRequest(page_size=10, next_page_token=token))
            seen += [worker.worker_instance_key for worker in answer.workers]
            token = answer.next_page_token
        assert seen == [f"{number:03}" for number in range(25)] and not token
        with pytest.raises(CallerError):
            await listed(world, next_page_token=b"[1]")

    run(main())


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["a1", "a2", "b1"]),
        ("WorkerInstanceKey = 'a1'", ["a1"]),
        ("WorkerInstanceKey starts_with 'a' AND SdkName != 'go'", ["a2"]),
        ("WorkerInstanceKey NOT STARTS_WITH 'a' or SdkName = 'go'", ["a1", "b1"]),
        ("(SdkName = 'go' OR SdkName = 'py') AND WorkerInstanceKey = 'a2'", ["a2"]),
        ("HostName IS NULL AND SdkName IS NOT NULL", ["a1", "a2"]),
        ("StartTime >= '1970-01-01T00:00:10Z'", ["a2", "b1"]),
        ("StartTime BETWEEN '1970-01-01T00:00:05Z' AND '1970-01-01T00:00:15Z'", ["a2"]),
        ("StartTime NOT BETWEEN '1970-01-01T00:00:05Z' AND '1970-01-01T00:00:15Z'", ["a1", "b1"]),
        ("`Status` = 'ShuttingDown'", ["b1"]),
    ],
)
def test_a_worker_query_selects(query: str, expected: list[str]) -> None:
    async def main() -> None:
        from google.protobuf.timestamp_pb2 import Timestamp

        world = World()
        await beat(world, "a1", sdk_name="go", start_time=Timestamp(seconds=1))
        await beat(world, "a2", sdk_name="py", start_time=Timestamp(seconds=10))
        await beat(world, "b1", start_time=Timestamp(seconds=20), status=WorkerStatus.WORKER_STATUS_SHUTTING_DOWN)
        assert await listed(world, query=query) == expected

    run(main())


@pytest.mark.parametrize(
    "query",
    [
        "nonsense",
        "Nope = 'x'",
        "SdkName",
        "SdkName =",
        "SdkName = x",
        "SdkName = ''",
        "SdkName > 'x'",
        "SdkName = 'x' AND",
        "(SdkName = 'x'",
        "SdkName = 'x')",
        "NOT SdkName = 'x'",
        "StartTime = 'yesterday'",
        "StartTime > '2023-10-26T14:30:00'",
        "StartTime BETWEEN '2023-10-26T14:30:00Z'",
        "SdkName IS TRUE",
        "SdkName = 'x' ; drop",
        "(" * 40 + "SdkName = 'x'" + ")" * 40,
        "SdkName = '" + "x" * 5000 + "'",
    ],
)
def test_a_bad_worker_query_is_refused(query: str) -> None:
    async def main() -> None:
        with pytest.raises(CallerError) as refusal:
            await listed(World(), query=query)
        assert refusal.value.code is Code.INVALID_ARGUMENT

    run(main())
