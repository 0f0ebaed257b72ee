"""What is owed is offered once, withdrawn when it is done, listed in order, and offered anew by the next owner."""

from __future__ import annotations

import asyncio

from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import Code, unavailable
from cluster.history.between_runs import BetweenRuns
from cluster.matching.tasks import QueueKey, TaskKind
from cluster.stores.base import StoreUnknown
from cluster.tokens import Purpose, TaskToken
from tests.history.commands import QUEUE, activity, child, complete
from tests.history.held_store import HeldStore
from tests.history.world import NAMESPACE, World, eventually, play, refused

WORKFLOWS = QueueKey(NAMESPACE.id, QUEUE, TaskKind.WORKFLOW)
ACTIVITIES = QueueKey(NAMESPACE.id, QUEUE, TaskKind.ACTIVITY)


def backlog(world: World, queue: QueueKey = WORKFLOWS) -> list[str]:
    return [hint.workflow_id for hint in world.history.outstanding.backlog(queue, 0, 0, 100)]


def test_outstanding_tasks_are_listed_in_the_order_they_became_so() -> None:
    async def story(world: World) -> None:
        for number in range(5):
            await world.start(f"w{number}")
        assert backlog(world) == ["w0", "w1", "w2", "w3", "w4"]
        outstanding = world.history.outstanding
        assert [hint.workflow_id for hint in outstanding.backlog(WORKFLOWS, 0, 1, 2)] == ["w1", "w2"]
        assert outstanding.backlog_count(WORKFLOWS) == 5 and outstanding.backlog_count(ACTIVITIES) == 0
        assert outstanding.backlog(WORKFLOWS, 1, 0, 100) == []

    play(story)


def test_a_task_that_was_taken_or_is_gone_is_no_longer_listed() -> None:
    async def story(world: World) -> None:
        await world.start("taken")
        await world.start("ended")
        task = await world.take_task()
        await world.terminate("ended")
        assert backlog(world) == []
        await world.answer(task, activity("a"))
        assert backlog(world, ACTIVITIES) == ["taken"]
        await world.complete_activity(await world.take_activity())
        assert backlog(world, ACTIVITIES) == [] and backlog(world) == ["taken"]
        assert not world.history.outstanding.backlog_count(ACTIVITIES)

    play(story)


def test_a_task_is_started_once_whoever_asks() -> None:
    async def story(world: World) -> None:
        await world.start("w")
        tasks = await asyncio.gather(*(world.take_task() for _ in range(4)))
        assert sum(bool(task.task_token) for task in tasks) == 1

    play(story)


def test_what_was_offered_by_a_former_life_is_offered_by_the_next() -> None:
    async def story(world: World) -> None:
        for number in range(3):
            await world.start(f"w{number}")
        await world.settle()
        await world.checkpoint()
        await world.start("w3")
        await world.restart()
        assert sorted(backlog(world)) == ["w0", "w1", "w2", "w3"]
        taken = [(await world.take_task()).workflow_execution.workflow_id for _ in range(4)]
        assert sorted(taken) == ["w0", "w1", "w2", "w3"]

    play(story)


def test_a_shard_that_was_dropped_offers_its_tasks_anew() -> None:
    store = HeldStore()

    async def story(world: World) -> None:
        await world.start("w")
        store.fail("append", StoreUnknown("?"))
        assert (await refused(world.start("other"))).code is Code.UNAVAILABLE
        await world.work(complete())
        assert (await world.event_names("w"))[-1] == "WorkflowExecutionCompleted"

    play(story, World(store))


def test_a_start_of_a_task_that_was_not_durable_is_given_out_again() -> None:
    store = HeldStore()

    async def story(world: World) -> None:
        await world.start("w")
        store.fail("append", StoreUnknown("?"))
        task = await world.take_task(wait_s=5)
        assert task.task_token, "the same poll gets it after the replay"
        await world.answer(task, complete())
        assert (await world.event_names("w"))[-1] == "WorkflowExecutionCompleted"

    play(story, World(store))


def test_a_child_is_started_once_whatever_happens_to_the_answer() -> None:
    store = HeldStore()

    async def story(world: World) -> None:
        await world.start("parent")
        task = await world.take_task()
        store.hold("append")
        answering = asyncio.ensure_future(world.answer(task, child("child")))
        await world.settle()
        store.let_one_go("append")  # the wish is durable, the child's start is on its way
        await answering
        await world.settle()
        store.fail("append", StoreUnknown("?"), after=True)
        store.release("append")
        await world.settle(5)
        names = await world.event_names("parent")
        assert names.count("ChildWorkflowExecutionStarted") == 1
        assert len(await world.history_of("child")) == 2
        await world.check_replay()

    play(story, World(store))


def test_a_delivery_that_is_refused_for_a_moment_is_repeated() -> None:
    async def story(world: World) -> None:
        await world.start("parent")
        task = await world.take_task()
        perform = world.history.perform
        failures = [unavailable("the other shard is moving"), unavailable("still")]

        async def refusing(message: BetweenRuns) -> str:
            if failures:
                raise failures.pop()
            return await perform(message)

        world.history.reach = refusing
        await world.answer(task, child("child"))
        await eventually(lambda: has_started(world))
        assert not failures

    async def has_started(world: World) -> bool:
        return "ChildWorkflowExecutionStarted" in await world.event_names("parent")

    play(story)


def test_a_task_for_a_sticky_queue_that_nobody_polls_goes_to_the_normal_one() -> None:
    async def story(world: World) -> None:
        await world.start("w")
        task = await world.take_task()
        request = api.RespondWorkflowTaskCompletedRequest(task_token=task.task_token, identity="worker")
        request.sticky_attributes.worker_task_queue.name = "sticky"
        request.sticky_attributes.schedule_to_start_timeout.FromSeconds(5)
        token = world.life.tokens.open(Purpose.TASK, task.task_token, TaskToken)
        await world.call("respond_workflow_task_completed", "w", request, token)
        await world.signal("w", "a")
        task = await world.take_task(wait_s=15)
        assert task.workflow_execution.workflow_id == "w"

    play(story)


def test_a_run_of_a_namespace_that_is_gone_leaves_its_shard_in_peace() -> None:
    async def story(world: World) -> None:
        await world.start("w")
        await world.work()
        await world.terminate("w")
        world.namespaces.is_there = False
        await world.settle(100)
        await world.checkpoint()
        world.namespaces.is_there = True
        await world.start("other")
        assert not world.failed_jobs

    play(story)
