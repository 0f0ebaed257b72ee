"""Nothing was lost, and the other region goes on exactly there. Named as in replication.md, section 9."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import CallerError, Code
from tests.history.commands import activity, child, complete, timer
from tests.history.world import NAMESPACE, name_of
from tests.replication.calls import (
    COMPLETED,
    accepting,
    answer,
    completing,
    events_named,
    execution,
    fail_activity,
    fail_over,
    heal,
    heartbeat,
    send_update,
    signals,
    split,
)
from tests.replication.two_regions import Pair, play

SECOND_NS = 1_000_000_000


# --- workflow tasks ------------------------------------------------------------------------------------------------------


def test_sticky_workflow_task_failover_goes_to_the_normal_queue() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await answer(one, await one.take_task(), timer("t", 1), sticky="sticky of one")
        await asyncio.sleep(1.5)  # its next task is scheduled on the sticky queue of a worker in one
        await fail_over(pair, two, 2)
        task = await two.take_task(wait_s=15)
        assert task.task_token and [event.version for event in task.history.events][-1] == 2
        await answer(two, task, timer("u", 1), sticky="sticky of two")
        await asyncio.sleep(1.5)
        await fail_over(pair, one, 11)
        await answer(one, await one.take_task(wait_s=15), complete())
        await pair.agree()
        versions = [event.version for event in await two.history_of("w")]
        assert versions == sorted(versions) and set(versions) == {1, 2, 11}

    play(story)


def test_transient_workflow_task_failover_begins_with_the_first_attempt_there() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        for _ in range(3):
            task = await one.take_task(wait_s=30)
            assert task.task_token
            await asyncio.sleep(11)  # it times out
        await fail_over(pair, two, 2)
        task = await two.take_task(wait_s=30)
        assert task.attempt == 1, "what failed in the other region does not count here"
        await answer(two, task, complete())
        await pair.agree()
        assert (await one.event_names("w"))[-1] == "WorkflowExecutionCompleted"

    play(story)


def test_user_timer_failover_keeps_a_buffered_signal_and_fires_the_timer_there() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await one.work(timer("t", 20))
        await one.signal("w", "wakes it")
        task = await one.take_task()
        assert task.task_token
        await one.signal("w", "buffered")
        assert (await one.current("w")).state.buffered
        await fail_over(pair, two, 2)
        await asyncio.sleep(30)
        names = await two.event_names("w")
        assert "TimerFired" in names and ("WorkflowTaskTimedOut" in names or "WorkflowTaskFailed" in names)
        assert await signals(two, "w") == ["wakes it", "buffered"]
        await answer(two, await two.take_task(), complete())
        await pair.agree()
        assert await signals(one, "w") == ["wakes it", "buffered"]

    play(story)


# --- activities ----------------------------------------------------------------------------------------------------------


def test_activity_heartbeat_failover_gives_the_next_attempt_the_last_details() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await one.work(activity("a", timeout_s=5))
        attempt = await one.take_activity()
        await heartbeat(one, attempt, "so far")
        await fail_over(pair, two, 2)
        await asyncio.sleep(8)  # start-to-close, and the first backoff
        again = await two.take_activity(wait_s=10)
        assert again.attempt == 2 and again.heartbeat_details.payloads[0].data == b'"so far"'
        await two.complete_activity(again)
        assert (await pair.two.event_names("w"))[-2:] == ["ActivityTaskCompleted", "WorkflowTaskScheduled"]
        await pair.agree()

    play(story)


def test_passive_activity_retry_timer_is_replicated_and_the_attempt_comes_there() -> None:
    """Also Cadence's activityretry_failover: an activity in backoff across a failover is tried again."""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await one.work(activity("a"))
        await fail_activity(one, await one.take_activity())
        (waiting,) = (await one.current("w")).state.activities.values()
        await fail_over(pair, two, 2)
        (there,) = (await two.current("w")).state.activities.values()
        assert there == waiting, "attempt, backoff and last failure are the same"
        again = await two.take_activity(wait_s=10)
        assert again.attempt == 2
        await two.complete_activity(again)
        await pair.agree()

    play(story)


def test_pause_activity_failover_keeps_the_pause() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await one.work(activity("a", timeout_s=100))
        request = api.PauseActivityRequest(namespace=NAMESPACE.name, execution=execution("w"), identity="me", id="a")
        await one.call("pause_activity", "w", request)
        await fail_over(pair, two, 2)
        assert not (await two.take_activity(wait_s=3)).task_token
        unpause = api.UnpauseActivityRequest(namespace=NAMESPACE.name, execution=execution("w"), identity="me", id="a")
        await two.call("unpause_activity", "w", unpause)
        await two.complete_activity(await two.take_activity(wait_s=5))
        await pair.agree()

    play(story)


# --- updates -------------------------------------------------------------------------------------------------------------


def test_an_update_completed_after_failover_cannot_be_completed_again() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await one.work()
        accepted = send_update(one, "w", "u")
        task = await one.take_task()
        await answer(one, task, messages=accepting(task))
        await accepted
        await fail_over(pair, two, 2)
        await two.signal("w", "so that there is a task")
        await answer(two, await two.take_task(), messages=[completing("u")])
        await fail_over(pair, one, 11)
        await one.signal("w", "so that there is a task, again")
        with pytest.raises(CallerError) as refusal:
            await answer(one, await one.take_task(), messages=[completing("u")])
        assert refusal.value.code is Code.INVALID_ARGUMENT
        assert len(await events_named(one, "w", "WorkflowExecutionUpdateCompleted")) == 1
        found = await send_update(one, "w", "u", COMPLETED)
        assert found.outcome.success.payloads[0].data == b'"done u"'

    play(story)


# --- parents and children ------------------------------------------------------------------------------------------------


def test_a_childs_start_is_replicated_and_its_parents_wish_is_not_and_nobody_is_stuck() -> None:
    """Temporal #10286: the child's start arrives, the parent's initiated event does not, and the other region takes over."""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("parent")
        await pair.agree()
        honest = two.region.take_in

        async def without_the_parent(delta: object) -> object:
            if getattr(delta, "workflow_id", "") == "parent":
                raise CallerError(Code.UNAVAILABLE, "not yet")
            return await honest(delta)  # type: ignore[arg-type]

        two.region.take_in = without_the_parent  # type: ignore[assignment]
        await one.work(child("child"))
        await asyncio.sleep(2)
        orphan = (await two.current("child")).key.run_id
        await split(pair)
        await two.work(child("child"))  # the parent's workflow decides the same again
        await asyncio.sleep(2)
        state = (await two.current("parent")).state
        told = [*await events_named(two, "parent", "StartChildWorkflowExecutionFailed")]
        assert told or all(one.is_started for one in state.children.values()), "the parent knows what became of its wish"
        two.region.take_in = honest
        await heal(pair)
        assert (await two.current("child")).key.run_id == orphan
        open_children = [run for run in await two.all_runs() if (await two.current("child")).key.run_id == run]
        assert open_children == [orphan]
        names = [name_of(event) for event in await one.history_of("parent")]
        assert names == await two.event_names("parent")

    play(story)
