"""Polls and offers through the service, on the simulated loop."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from cluster.core.errors import CallerError, Code, failed_precondition, unavailable
from cluster.matching.tasks import QueueKey, TaskKind
from tests.matching.world import ACTIVITIES, QUEUE, STICKY, World, hint, now, run, settle


def token(answer: object) -> str:
    return bytes(answer.task_token).decode()  # type: ignore[attr-defined]


def test_a_waiting_poll_gets_the_task_in_the_step_of_its_offer() -> None:
    async def main() -> None:
        world = World()
        (poll,) = await world.polls(1)
        before = now()
        assert world.schedule(hint(1))
        assert token(await poll) == "wf-1" and now() == before
        assert world.matching.counts["sync_match"] == 1 and world.matching.counts["backlog_match"] == 0

    run(main())


def test_a_task_offered_to_parked_polls_needs_no_new_job() -> None:
    async def main() -> None:
        world = World()
        polls = await world.polls(3)
        before = asyncio.all_tasks()
        for number in range(3):
            world.schedule(hint(number))
        await settle()
        assert all(poll.done() for poll in polls) and not world.jobs.jobs
        assert asyncio.all_tasks() <= before

    run(main())


def test_a_poll_finds_the_task_that_waited() -> None:
    async def main() -> None:
        world = World()
        world.schedule(hint(1, ACTIVITIES))
        world.schedule(hint(2))
        assert token(await world.poll(ACTIVITIES)) == "wf-1"
        assert token(await world.poll()) == "wf-2"
        assert world.matching.counts["backlog_match"] == 2

    run(main())


@pytest.mark.parametrize(("timeout_s", "ends_at"), [(5, 4), (60.5, 59.5), (61, 60), (300, 60), (0.5, 0), (0, 0)])
def test_an_empty_poll_ends_empty_a_second_before_its_deadline_or_after_a_minute(timeout_s: float, ends_at: float) -> None:
    async def main() -> None:
        world = World()
        answer = await world.poll(timeout_s=timeout_s)
        assert not answer.task_token and now() == pytest.approx(ends_at)
        answer = await world.poll(ACTIVITIES, timeout_s=timeout_s)
        assert not answer.task_token and now() == pytest.approx(2 * ends_at)

    run(main())


def test_a_poll_whose_time_is_over_starts_no_task() -> None:
    async def main() -> None:
        world = World()
        world.schedule(hint(1))
        assert not (await world.poll(timeout_s=0.0)).task_token
        assert not world.history.started

    run(main())


def test_polls_are_served_in_the_order_of_their_waiting() -> None:
    async def main() -> None:
        world = World()
        polls = [*await world.polls(1, identity="a"), *await world.polls(1, identity="b")]
        world.schedule(hint(1))
        world.schedule(hint(2))
        await asyncio.gather(*polls)
        assert [world.history.started[(f"run-{number}", 5, 1)] for number in (1, 2)] == ["a", "b"]

    run(main())


def test_a_poll_passes_over_tasks_that_are_gone() -> None:
    async def main() -> None:
        world = World()
        for number in range(50):
            world.matching.offer(hint(number))
        world.schedule(hint(99))
        assert token(await world.poll()) == "wf-99"
        assert world.matching.counts["task_gone"] == 50

    run(main())


def test_a_poll_cancelled_between_match_and_start_gives_its_task_to_the_next() -> None:
    async def main() -> None:
        world = World()
        first, second = await world.polls(2)
        world.schedule(hint(1))
        first.cancel()
        assert token(await second) == "wf-1"
        assert first.cancelled()
        (third,) = await world.polls(1)
        third.cancel()
        world.schedule(hint(2))
        await settle()
        assert token(await world.poll()) == "wf-2"

    run(main())


def test_a_poll_cancelled_while_history_starts_the_task_puts_it_back() -> None:
    async def main() -> None:
        world = World()
        world.history.latency_s = 1.0
        for cancel_after_s, is_started in ((0.5, False), (1.5, True)):
            world.schedule(hint(1 + is_started))
            (poll,) = await world.polls(1, timeout_s=20.0)
            await asyncio.sleep(cancel_after_s)
            poll.cancel()
            await settle()
            answer = await world.poll(timeout_s=5.0)
            assert token(answer) == ("" if is_started else "wf-1")
        assert world.history.gone_count == 1, "put back although it was started: the run said no"

    run(main())


def test_an_unavailable_shard_costs_a_short_wait_and_nothing_is_lost() -> None:
    async def main() -> None:
        world = World()
        world.history.down.add(1)
        world.schedule(hint(1, shard=1))
        world.schedule(hint(2, shard=2))
        assert token(await world.poll()) == "wf-2", "the poll goes on with other shards' tasks"
        (poll,) = await world.polls(1, timeout_s=30.0)
        await asyncio.sleep(3.0)
        world.history.down.clear()
        assert token(await poll) == "wf-1" and now() <= 4.1
        assert 4 <= world.matching.counts["start_failed"] <= 12, "it backs off"

    run(main())


def test_a_task_that_history_cannot_start_backs_off_and_is_reported_to_its_poll() -> None:
    async def main() -> None:
        world = World()
        world.history.failures += [failed_precondition("poison"), RuntimeError("bug"), unavailable("moving")]
        world.schedule(hint(1))
        with pytest.raises(CallerError) as refusal:
            await world.poll()
        assert refusal.value.code is Code.FAILED_PRECONDITION
        world.schedule(hint(2))
        with pytest.raises(RuntimeError):
            await world.poll()
        for _ in range(2):
            assert (await world.poll(timeout_s=10.0)).task_token
        assert world.matching.counts["start_failed"] == 3

    run(main())


def test_a_backlog_of_activities_does_not_delay_a_workflow_task() -> None:
    async def main() -> None:
        world = World()
        for number in range(20_000):
            world.schedule(hint(number, ACTIVITIES))
        world.schedule(hint(1))
        before = now()
        assert token(await world.poll()) == "wf-1" and now() == before

    run(main())


def test_a_sticky_task_without_a_recent_poller_is_not_taken() -> None:
    async def main() -> None:
        world = World()
        assert world.schedule(hint(1, STICKY, is_sticky=True))  # nothing is known of a queue that was just made
        await asyncio.sleep(1.9)
        assert not world.fallen_back
        await asyncio.sleep(0.2)
        assert [task.workflow_id for task in world.fallen_back] == ["wf-1"], "its worker did not come back"
        assert not world.schedule(hint(4, STICKY, is_sticky=True))
        await world.poll(STICKY, timeout_s=3.0)
        await asyncio.sleep(9.9)
        assert world.schedule(hint(2, STICKY, is_sticky=True))
        await asyncio.sleep(0.1)
        assert not world.schedule(hint(3, STICKY, is_sticky=True))
        assert world.matching.counts["sticky_unavailable"] == 2

    run(main())


def test_a_worker_that_shuts_down_gives_its_sticky_tasks_back_at_once() -> None:
    async def main() -> None:
        from temporalio.api.workflowservice.v1 import ShutdownWorkerRequest

        from tests.matching.world import NAMESPACE

        world = World()
        sticky, normal, others = [
            (await world.polls(1, queue, worker_instance_key=instance, timeout_s=50.0))[0]
            for queue, instance in ((STICKY, "w1"), (QUEUE, "w1"), (QUEUE, "w2"))
        ]
        world.schedule(hint(1, STICKY, is_sticky=True))
        assert token(await sticky) == "wf-1"
        world.schedule(hint(2, STICKY, is_sticky=True))
        request = ShutdownWorkerRequest(sticky_task_queue=STICKY.name, task_queue=QUEUE.name, worker_instance_key="w1")
        await world.matching.shutdown_worker(NAMESPACE, request)
        assert [task.workflow_id for task in world.fallen_back] == ["wf-2"]
        assert not world.schedule(hint(3, STICKY, is_sticky=True))
        await settle()
        assert normal.done() and not others.done()
        before = now()
        assert not (await world.poll(STICKY, worker_instance_key="w1")).task_token and now() == before
        assert not world.schedule(hint(4, STICKY, is_sticky=True)), "a late poll of the dead worker does not count"
        others.cancel()

    run(main())


def test_draining_ends_every_poll_empty() -> None:
    async def main() -> None:
        world = World()
        polls = await world.polls(5, timeout_s=50.0)
        world.matching.drain()
        assert not any(answer.task_token for answer in await asyncio.gather(*polls)) and now() == 0.0
        assert not (await world.poll()).task_token and now() == 0.0

    run(main())


def test_a_rate_asked_by_the_worker_delays_dispatch_and_refuses_no_poll() -> None:
    async def main() -> None:
        from temporalio.api.taskqueue.v1 import TaskQueueMetadata

        metadata = TaskQueueMetadata()
        metadata.max_tasks_per_second.value = 2.0
        world = World()
        for number in range(10):
            world.schedule(hint(number, ACTIVITIES))
        polls = await world.polls(10, ACTIVITIES, timeout_s=30.0, task_queue_metadata=metadata)
        assert sum(poll.done() for poll in polls) == 2
        await asyncio.sleep(2.01)
        assert sum(poll.done() for poll in polls) == 6
        await asyncio.gather(*polls)
        assert now() == pytest.approx(4.0, abs=0.02)

    run(main())


def test_idle_queues_leave_memory_and_used_ones_stay() -> None:
    async def main() -> None:
        world = World()
        for number in range(100):
            await world.poll(QueueKey("ns-id", f"tq-{number}", TaskKind.WORKFLOW), timeout_s=0.5)
        world.schedule(hint(1, QueueKey("ns-id", "tq-7", TaskKind.WORKFLOW)))
        await asyncio.sleep(299.0)
        assert world.matching.queue_count == 100
        (poll,) = await world.polls(1, QueueKey("ns-id", "tq-8", TaskKind.WORKFLOW), timeout_s=500.0)
        await asyncio.sleep(30.0)
        poll.cancel()
        await asyncio.sleep(150.0)
        assert world.matching.queue_count == 2
        assert token(await world.poll(QueueKey("ns-id", "tq-7", TaskKind.WORKFLOW))) == "wf-1"
        await asyncio.sleep(500.0)
        assert world.matching.queue_count == 0

    run(main())


def test_a_full_table_of_queues_gives_way_to_polls_and_loses_no_task() -> None:
    async def main() -> None:
        world = World(queues_max=3)
        keys = [QueueKey("ns-id", f"tq-{number}", TaskKind.WORKFLOW) for number in range(5)]
        for number, key in enumerate(keys):
            world.schedule(hint(number, key, shard=number))
        assert world.matching.queue_count == 3
        for number in (4, 0, 1, 2, 3):
            assert token(await world.poll(keys[number])) == f"wf-{number}"
            assert world.matching.queue_count <= 3

    run(main())


def test_a_poll_is_refused_only_when_every_queue_in_the_table_is_polled() -> None:
    async def main() -> None:
        world = World(queues_max=2)
        keys = [QueueKey("ns-id", f"tq-{number}", TaskKind.WORKFLOW) for number in range(3)]
        first, second = [(await world.polls(1, key, timeout_s=50.0))[0] for key in keys[:2]]
        with pytest.raises(CallerError) as refusal:
            await world.poll(keys[2])
        assert refusal.value.code is Code.RESOURCE_EXHAUSTED
        world.schedule(hint(7, keys[2]))
        world.schedule(hint(1, keys[0]))
        await first
        await asyncio.sleep(0.2)
        assert token(await world.poll(keys[2])) == "wf-7"
        second.cancel()

    run(main())


def test_a_backlog_far_beyond_the_window_is_delivered_whole_and_once() -> None:
    async def main() -> None:
        world = World(window_hints_max=100, window_hints_low=20)
        for number in range(2_000):
            world.schedule(hint(number, shard=number % 7))
        seen = Counter([token(await world.poll()) for _ in range(2_000)])
        assert len(seen) == 2_000 and set(seen.values()) == {1}
        assert not (await world.poll(timeout_s=1.5)).task_token
        assert len(world.history.asks) < 400, "about one question per shard and refill"

    run(main())


def test_a_shard_that_does_not_answer_is_asked_again() -> None:
    async def main() -> None:
        world = World(window_hints_max=10, window_hints_low=2)
        for number in range(30):
            world.schedule(hint(number, shard=number // 15))
        world.history.down.add(1)
        polls = await world.polls(30, timeout_s=60.0)
        await asyncio.sleep(5.0)
        assert world.matching.counts["backlog_failed"] >= 4
        world.history.down.clear()
        assert len({token(await poll) for poll in polls}) == 30 and now() < 8.0

    run(main())


def test_the_backlog_is_told_to_the_worker() -> None:
    async def main() -> None:
        world = World()
        for number in range(301):
            world.schedule(hint(number))
        assert (await world.poll()).backlog_count_hint == 300

    run(main())
