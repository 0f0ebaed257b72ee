"""What an operator sees of a queue over several nodes is what one node would show; what he sets holds everywhere."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.api.enums.v1 import DescribeTaskQueueMode, RateLimitSource, TaskQueueType
from temporalio.api.worker.v1 import WorkerHeartbeat
from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import CallerError, Code
from cluster.matching.tasks import QueueKey, TaskHint, TaskKind
from tests.matching import world
from tests.matching.world import NAMESPACE
from tests.routing.matching_stage import ACTIVITIES, NODES, QUEUE, SHARDS, MatchingStage, perform, until

ACTIVITY = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY


def hint(number: int, queue: QueueKey = QUEUE, shard: int = 1, **fields: Any) -> TaskHint:
    return world.hint(number, queue, shard, **fields)


async def ask(stage: MatchingStage, at: str, method: str, request: Any) -> Any:
    return await stage.inside(at, lambda node: getattr(node.routed, method)(NAMESPACE, request))


async def describe(stage: MatchingStage, at: str, queue: QueueKey = QUEUE, **fields: Any) -> api.DescribeTaskQueueResponse:
    request = api.DescribeTaskQueueRequest(namespace="ns", **fields)
    request.task_queue.name = queue.name
    answer: api.DescribeTaskQueueResponse = await ask(stage, at, "describe_task_queue", request)
    return answer


def test_every_node_describes_the_whole_queue() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        for node in NODES:
            await stage.poll(node, timeout_s=1.2, identity=f"worker {node}")
        for number in range(1_000):
            stage.schedule(hint(number, shard=number % SHARDS, priority=2 if number < 100 else 0))
        await asyncio.sleep(0.5)
        forwarded = sum(len(part.link.away) for part in parts(stage) if part.link is not None)
        assert forwarded, "copies that must not be counted twice"
        for node in NODES:
            answer = await describe(stage, node, report_stats=True, include_task_queue_status=True)
            assert sorted(poller.identity for poller in answer.pollers) == [f"worker {each}" for each in NODES]
            assert answer.stats.approximate_backlog_count == 1_000 == answer.task_queue_status.backlog_count_hint
            by_priority = {key: stats.approximate_backlog_count for key, stats in answer.stats_by_priority_key.items()}
            assert by_priority == {2: 100, 3: 900}
            assert answer.stats.tasks_add_rate == pytest.approx(1_000 / 1.1, rel=0.3)
            enhanced = DescribeTaskQueueMode.DESCRIBE_TASK_QUEUE_MODE_ENHANCED
            answer = await describe(stage, node, api_mode=enhanced, report_stats=True, report_pollers=True)
            (info,) = answer.versions_info.values()
            assert info.types_info[1].stats.approximate_backlog_count == 1_000 and len(info.types_info[1].pollers) == 3

    perform(story)


def parts(stage: MatchingStage, queue: QueueKey = QUEUE) -> list[Any]:
    found = [node.matching._matcher.partitions.get(queue) for node in stage.nodes]
    return [part for part in found if part is not None]


def test_the_partitions_are_listed_with_their_owners() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        request = api.ListTaskQueuePartitionsRequest()
        request.task_queue.name = QUEUE.name
        answer = await ask(stage, "a", "list_task_queue_partitions", request)
        listed = [(each.key, each.owner_host_name) for each in answer.workflow_task_queue_partitions]
        names = [QUEUE.name, *(f"/_sys/{QUEUE.name}/{number}" for number in (1, 2, 3))]
        assert listed == [(name, f"{node}:7000") for name, node in zip(names, stage.nodes_of(), strict=True)]
        assert len(answer.activity_task_queue_partitions) == 4

    perform(story)


def test_a_configured_rate_holds_for_all_shares_together() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        request = api.UpdateTaskQueueConfigRequest(namespace="ns", task_queue=ACTIVITIES.name, task_queue_type=ACTIVITY)
        request.update_queue_rate_limit.rate_limit.requests_per_second = 10.0
        config = (await ask(stage, "b", "update_task_queue_config", request)).config
        for node in stage.nodes:
            node.routed.set_task_queue_config(ACTIVITIES, config)  # as the news of it makes every node do
        for number in range(80):
            stage.schedule(hint(number, ACTIVITIES, shard=number % SHARDS))
        stop = asyncio.Event()

        async def work(at: str) -> None:
            while not stop.is_set():
                await stage.poll(at, ACTIVITIES, timeout_s=2.0)

        workers = [asyncio.create_task(work(node)) for node in NODES]
        await asyncio.sleep(3.0)
        done = 80 - len(stage.history.outstanding)
        assert 30 <= done <= 42, f"{done} tasks in 3 s at 10 per second, with a burst of 10"
        for at in NODES:
            answer = await describe(stage, at, ACTIVITIES, task_queue_type=ACTIVITY, report_config=True)
            assert answer.effective_rate_limit.requests_per_second == 10.0 and answer.config == config
            assert answer.effective_rate_limit.rate_limit_source == RateLimitSource.RATE_LIMIT_SOURCE_API
        stop.set()
        await asyncio.gather(*workers)

    perform(story)


def test_a_change_of_configuration_is_announced() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        told = []

        async def tell() -> None:
            told.append(1)

        routed = stage.node("a").routed
        await routed.task_queue_config_changed()
        routed.on_config_change = tell
        await routed.task_queue_config_changed()
        assert told == [1]

    perform(story)


def test_workers_are_kept_by_one_node_and_known_to_all() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        for node in NODES:
            beat = WorkerHeartbeat(worker_instance_key=f"w-{node}", task_queue=QUEUE.name)
            await ask(stage, node, "record_worker_heartbeat", api.RecordWorkerHeartbeatRequest(worker_heartbeat=[beat]))
        assert sorted(len(node.matching.workers) for node in stage.nodes) == [0, 0, 3]
        for node in NODES:
            listed = await ask(stage, node, "list_workers", api.ListWorkersRequest())
            assert [worker.worker_instance_key for worker in listed.workers] == ["w-a", "w-b", "w-c"]
            request = api.DescribeWorkerRequest(worker_instance_key="w-b")
            info = await ask(stage, node, "describe_worker", request)
            assert info.worker_info.worker_heartbeat.worker_instance_key == "w-b"
            with pytest.raises(CallerError) as refusal:
                await ask(stage, node, "describe_worker", api.DescribeWorkerRequest(worker_instance_key="w-z"))
            assert refusal.value.code is Code.NOT_FOUND

    perform(story)


def test_a_worker_that_shuts_down_ends_its_polls_wherever_they_are_and_gives_its_sticky_tasks_back() -> None:
    sticky = QueueKey(NAMESPACE.id, "sticky-w1", TaskKind.WORKFLOW)

    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        mine = [stage.polling(node, worker_instance_key="w1", timeout_s=50.0) for node in NODES]
        mine.append(stage.polling("a", sticky, is_sticky=True, worker_instance_key="w1", timeout_s=50.0))
        others = [stage.polling(node, worker_instance_key="w2", timeout_s=50.0) for node in NODES]
        await asyncio.sleep(0.05)
        request = api.ShutdownWorkerRequest(sticky_task_queue=sticky.name, task_queue=QUEUE.name, worker_instance_key="w1")
        await ask(stage, "c", "shutdown_worker", request)
        await until(lambda: all(poll.done() for poll in mine), 0.5)
        assert not any(poll.done() for poll in others)
        late = stage.polling("b", worker_instance_key="w1", timeout_s=50.0)
        await until(late.done, 0.5)
        from msgspec.structs import replace

        owner = stage.nodes_of(sticky)[0]
        home = next(shard for shard in range(SHARDS) if (node := stage.home(shard)) is not None and node.node_id != owner)
        stage.schedule(replace(hint(1, sticky, home), is_sticky=True))
        await until(lambda: bool(stage.fallen_back), 0.5)
        await until(lambda: any(poll.done() for poll in others), 0.5)
        for poll in others:
            poll.cancel()

    perform(story)


def test_half_a_queue_is_not_described_as_a_whole_one() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        root, *others = dict.fromkeys(stage.nodes_of())
        stage.kill(others[0])
        with pytest.raises(CallerError) as refusal:
            await describe(stage, root)
        assert refusal.value.code is Code.UNAVAILABLE

    perform(story)
