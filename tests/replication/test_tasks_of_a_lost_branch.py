"""Workers and a run that another region wrote too: nobody is given, or may answer, a task that is made of two branches."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import CallerError, Code
from cluster.tokens import Purpose, TaskToken
from tests.history.commands import activity, complete, timer
from tests.history.held_store import HeldStore
from tests.history.world import name_of
from tests.replication.calls import answer, heal, split
from tests.replication.two_regions import Pair, RegionWorld, play


def carried_to(
    world: RegionWorld, task: api.PollWorkflowTaskQueueResponse, by: RegionWorld
) -> api.PollWorkflowTaskQueueResponse:
    """The task with its token sealed anew: the regions of these tests have no keys in common."""
    token = by.life.tokens.open(Purpose.TASK, task.task_token, TaskToken)
    carried = api.PollWorkflowTaskQueueResponse()
    carried.CopyFrom(task)
    carried.task_token = world.life.tokens.seal(Purpose.TASK, token)
    return carried


def test_a_task_that_both_regions_started_is_answered_by_the_worker_that_has_the_branch() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await pair.agree()
        await split(pair)
        of_one = await one.take_task()
        await asyncio.sleep(0.01)
        of_two = await two.take_task()
        assert of_one.started_event_id == of_two.started_event_id and of_one.attempt == of_two.attempt
        with pytest.raises(CallerError) as refused:
            await answer(two, carried_to(two, of_one, by=one), timer("t", 1))
        assert refused.value.code is Code.NOT_FOUND
        await answer(two, of_two, complete())
        await heal(pair)
        assert (await one.event_names("w"))[-1] == "WorkflowExecutionCompleted"

    play(story)


def test_a_sticky_queue_is_forgotten_when_the_namespace_went_away_and_came_back() -> None:
    """The worker may have worked on another branch in between, and has that one in its cache."""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await pair.agree()
        await split(pair)
        await answer(one, await one.take_task(), timer("t", 1), sticky="sticky")
        await asyncio.sleep(0.01)
        await answer(two, await two.take_task(), timer("u", 1), timer("v", 5), sticky="sticky")
        await asyncio.sleep(1.5)
        task = (await one.current("w")).state.task
        assert task is not None and task.is_sticky
        one.view.failover_version = 11  # it heard that two had it, and has it again
        await pair.activate()
        state = (await one.current("w")).state
        assert not state.sticky_queue and state.task is not None and not state.task.is_sticky
        again = await one.take_task()
        assert [event.event_id for event in again.history.events] == list(range(1, again.started_event_id + 1))

    play(story)


@pytest.mark.parametrize("kind", ["workflow task", "activity"])
def test_nobody_is_given_a_task_of_a_branch_that_lost_while_it_was_being_started(kind: str) -> None:
    """The scheduled event of the one branch is another event in the other."""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        store = HeldStore(one.store)
        await one.start("w")
        await pair.agree()
        await split(pair)
        if kind == "activity":
            await one.work(activity("a"))
        for name in ("first", "second", "third", "fourth", "fifth"):
            await two.signal("w", name)
        shard = one.shard_for("w")
        run = await one.current("w")
        shard.journal._store = store
        store.hold("append")
        taken: Coroutine[Any, Any, Any] = one.take_activity(wait_s=20) if kind == "activity" else one.take_task(wait_s=20)
        taking = asyncio.get_running_loop().create_task(taken)
        await asyncio.sleep(0.5)
        assert store.count("append") == 1, "the start of the task is on its way"
        one.view.active, one.view.failover_version = "two", 2
        pair.is_linked = True
        await pair.activate()
        while run.branch == 0:
            await asyncio.sleep(0.1)
        store.release("append")
        given = await taking
        assert not given.task_token
        await pair.agree()
        assert "WorkflowExecutionSignaled" in [name_of(event) for event in await one.history_of("w")]

    play(story)
