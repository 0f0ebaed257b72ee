"""Whole runs that lose their workflow id, and winners that have closed: what was told to the other side is not lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.core.errors import CallerError, Code
from cluster.stores.base import RunKey
from tests.history.commands import child, complete, continue_as_new, timer
from tests.history.world import NAMESPACE
from tests.replication.calls import (
    cancel,
    events_named,
    heal,
    ledger,
    outcomes,
    signal_with_start,
    signals,
    split,
)
from tests.replication.two_regions import Pair, RegionWorld, play

ADMITTED = "WorkflowExecutionUpdateAdmitted"
SIGNALED = "WorkflowExecutionSignaled"


def run_key(run_id: str) -> RunKey:
    return RunKey(NAMESPACE.id, "w", run_id)


def notice(world: RegionWorld, offered: list[str]) -> None:
    """The runs of which something is offered or delivered from now on."""
    outstanding: Any = world.history.outstanding
    honest = outstanding._begin

    def begin(shard: Any, run: Any, state: Any, effect: Any) -> None:
        offered.append(run.key.run_id)
        honest(shard, run, state, effect)

    outstanding._begin = begin


# --- two runs of one workflow id ------------------------------------------------------------------------------------------


def test_of_one_id_started_in_both_regions_one_run_goes_on_and_has_what_the_other_was_told() -> None:
    """EventsReapply_ZombieWorkflow"""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await split(pair)
        lost, kept = await one.start("w", request_id="1"), await two.start("w", request_id="2")
        await one.signal("w", "in one")
        await cancel(one, "w")
        await two.signal("w", "in two")
        await heal(pair)
        for world in (one, two):
            assert (await world.current("w")).key.run_id == kept
            last = (await world.history_of("w", lost))[-1]
            assert kept in last.workflow_execution_terminated_event_attributes.reason
            assert await signals(world, "w") == ["in two", "in one"]
            assert len(await events_named(world, "w", "WorkflowExecutionCancelRequested")) == 1
        told = {one.line.name: one.line for one in await ledger(two)}
        assert told[SIGNALED].winner_run_id == kept and told["WorkflowExecutionStarted"].outcome == "rolled back"
        for world in (one, two):
            await pair.restart(world)
        await pair.agree()
        assert await signals(two, "w") == ["in two", "in one"]

    play(story)


def test_signal_with_start_on_both_sides_ends_in_one_run_with_both_signals() -> None:
    for delay_s in (0.0, 3.0):

        async def story(pair: Pair, delay_s: float = delay_s) -> None:
            await split(pair)
            await signal_with_start(pair.one, "w", "in one")
            await asyncio.sleep(delay_s)
            kept = await signal_with_start(pair.two, "w", "in two")
            await heal(pair)
            for world in (pair.one, pair.two):
                assert (await world.current("w")).key.run_id == kept
                assert await signals(world, "w") == ["in two", "in one"]

        play(story)


def test_a_run_that_lost_its_workflow_id_does_nothing_and_is_ended_by_whoever_becomes_active() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await split(pair)
        lost, kept = await one.start("w", request_id="1"), await two.start("w", request_id="2")
        await one.work(timer("t", 30))
        await one.signal("w", "in one")
        one.view.active, one.view.failover_version = "two", 2
        two.view.active = "one"  # nobody acts while the link comes back
        pair.is_linked = True
        await pair.activate()
        await pair.agree()
        await asyncio.sleep(60)
        for world in (one, two):
            assert (await world.event_names("w", lost))[-1] != "TimerFired"
            await pair.restart(world)
        pair.fail_over(one, 11)  # the very region in which it once ran
        offered: list[str] = []
        for world in (one, two):
            notice(world, offered)
        await pair.activate()
        await pair.agree()
        assert lost not in offered and kept in offered
        for world in (one, two):
            names = await world.event_names("w", lost)
            assert names[-1] == "WorkflowExecutionTerminated" and "TimerFired" not in names
            assert await signals(world, "w") == ["in one"]

    play(story)


def test_the_end_of_a_run_that_lost_its_workflow_id_survives_a_crash_at_any_moment() -> None:
    for moment_s in (0.0, 0.05, 0.1, 0.2, 0.4):
        for which in ("one", "two"):

            async def story(pair: Pair, moment_s: float = moment_s, which: str = which) -> None:
                one, two = pair.one, pair.two
                await split(pair)
                lost = await one.start("w", request_id="1")
                await two.start("w", request_id="2")
                await one.signal("w", "in one")
                one.view.active, one.view.failover_version = "two", 2
                pair.is_linked = True
                await asyncio.sleep(moment_s)
                await pair.restart(one if which == "one" else two)
                await pair.agree()
                for world in (one, two):
                    assert await signals(world, "w") == ["in one"]
                    assert (await world.event_names("w", lost))[-1] == "WorkflowExecutionTerminated"

            play(story)


def test_the_run_that_continues_a_losing_branch_is_a_zombie_and_its_signals_reach_the_winner() -> None:
    """HandcraftedMultipleBranchesWithZombieContinueAsNew"""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        first = await one.start("w")
        await pair.agree()
        await split(pair)
        await one.work(continue_as_new())
        zombie = (await one.current("w")).key.run_id
        await one.signal("w", "to the zombie")
        await two.signal("w", "in two")
        await heal(pair)
        for world in (one, two):
            assert (await world.current("w")).key.run_id == first
            assert (await world.event_names("w", zombie))[-1] == "WorkflowExecutionTerminated"
            assert await signals(world, "w") == ["in two", "to the zombie"]

    play(story)


def test_an_open_run_whose_id_a_deleted_run_took_is_ended_and_its_lines_say_so() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await split(pair)
        lost = await one.start("w", request_id="1")
        await one.signal("w", "in one")
        await two.start("w", request_id="2")
        await two.delete("w")
        await two.settle(10)
        await heal(pair)
        await two.settle(3)
        await pair.agree()
        for world in (one, two):
            assert (await world.event_names("w", lost))[-1] == "WorkflowExecutionTerminated"
            with pytest.raises(CallerError) as refusal:
                await world.describe("w")
            assert refusal.value.code is Code.NOT_FOUND
        assert (SIGNALED, "inbox") in await outcomes(two)
        new = await two.start("w", request_id="3")
        await two.settle(1)
        await pair.agree()
        assert (await one.current("w")).key.run_id == new
        assert await signals(one, "w") == ["in one"]

    play(story)


def test_a_parent_hears_that_its_child_lost_its_workflow_id() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("parent")
        task = await one.take_task()
        pair.is_linked = False
        pair.cut()
        await one.answer(task, child("c"))
        (wish,) = (await one.current("parent")).state.children
        await asyncio.sleep(1)
        lost = (await one.current("c")).key.run_id
        await split(pair)
        await two.start("parent of two")
        await two.start("c", request_id="of two")
        await heal(pair)
        await asyncio.sleep(2)
        await pair.agree()
        assert (await two.event_names("c", lost))[-1] == "WorkflowExecutionTerminated"
        parent = (await two.current("parent")).state
        assert wish not in parent.children, "its child was ended, and it was told"
        told = {"ChildWorkflowExecutionTerminated", "StartChildWorkflowExecutionFailed"}  # by what had arrived when two looked
        assert len([name for name in await two.event_names("parent") if name in told]) == 1

    play(story)


def test_a_child_that_both_regions_began_for_the_same_wish_ends_once_for_its_parent() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        honest = two.region.take_in

        async def without_the_child(delta: Any) -> Any:
            is_start_told = delta.workflow_id == "parent" and delta.head.last_event_id > 5
            if delta.workflow_id == "c" or is_start_told:
                raise CallerError(Code.UNAVAILABLE, "not yet")
            return await honest(delta)

        two.region.take_in = without_the_child
        await one.start("parent")
        await one.work(child("c"))
        await asyncio.sleep(1)
        lost = (await one.current("c")).key.run_id
        (before,) = (await two.current("parent")).state.children.values()
        await split(pair)
        await asyncio.sleep(2)
        kept = (await two.current("c")).key.run_id
        assert kept != lost
        two.region.take_in = honest
        await heal(pair)
        await asyncio.sleep(2)
        (wish,) = (await two.current("parent")).state.children.values()
        assert wish.is_started and wish.initiated_event_id == before.initiated_event_id, "it still waits for the other one"
        await two.terminate("c")
        await asyncio.sleep(2)
        await pair.agree()
        told = await events_named(one, "parent", "ChildWorkflowExecutionTerminated")
        assert [event.child_workflow_execution_terminated_event_attributes.workflow_execution.run_id for event in told] == [kept]

    play(story)


# --- the winner has closed -----------------------------------------------------------------------------------------------


def test_a_signal_that_came_after_the_winners_close_resets_it_and_the_new_run_has_it() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        closed = await one.start("w")
        await pair.agree()
        await split(pair)
        await one.signal("w", "in one")
        await two.work(complete())
        await heal(pair)
        for world in (one, two):
            run = await world.current("w")
            assert run.state.is_open and run.key.run_id != closed
            assert await signals(world, "w") == ["in one"]
            assert (await world.event_names("w", closed))[-1] == "WorkflowExecutionCompleted"
        (line,) = [one.line for one in await ledger(two) if one.line.name == SIGNALED]
        assert (line.outcome, line.winner_run_id) == ("reset", (await two.current("w")).key.run_id)
        for world in (one, two):
            await pair.restart(world)
        pair.fail_over(one, 11)
        await pair.activate()
        await pair.agree()
        assert await signals(one, "w") == ["in one"], "it is salvaged once, whichever region looks at it again"
        await one.work(complete())
        await pair.agree()

    play(story)


@pytest.mark.parametrize("what", ["WorkflowExecutionTerminated", "WorkflowExecutionCancelRequested"])
def test_what_ends_the_run_after_a_closed_winner_ends_no_later_one(what: str) -> None:
    """Its branch is looked at again at each failover."""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await pair.agree()
        await split(pair)
        await (one.terminate("w") if what == "WorkflowExecutionTerminated" else cancel(one, "w"))
        await two.work(continue_as_new())
        successor = (await two.current("w")).key.run_id
        await heal(pair)
        assert what in await two.event_names("w", successor)
        if (await two.current("w")).state.is_open:
            await two.work(complete())
        later = await two.start("w", request_id="2")
        await pair.agree()
        for world, version in ((one, 11), (two, 12), (one, 21)):
            pair.fail_over(world, version)
            await pair.activate()
            await pair.agree()
            assert (await world.current("w")).key.run_id == later
            assert what not in await world.event_names("w", later)

    play(story)


def test_a_lost_signal_of_a_closed_winner_with_a_pending_child_is_not_lost() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await one.work(child("c"))
        await asyncio.sleep(1)
        await pair.agree()
        kept_child = (await one.current("c")).key.run_id
        await split(pair)
        await one.signal("w", "in one")
        await two.signal("w", "so that there is a task")
        await two.work(complete())
        await heal(pair)
        await pair.agree()
        assert "in one" in await signals(two, "w")
        assert (await two.current("w")).state.is_open
        assert (await two.current("c")).key.run_id == kept_child, "the child is not started twice"

    play(story)


def test_what_cannot_be_reset_waits_in_the_inbox_for_the_next_run_and_is_given_to_it_once() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        closed = await one.start("w")
        await pair.agree()
        await split(pair)
        await one.signal("w", "in one")
        await two.terminate("w")  # before any workflow task: there is nothing to be reset to
        await heal(pair)
        (line,) = [one.line for one in await ledger(two) if one.line.name == SIGNALED]
        assert (line.outcome, line.winner_run_id) == ("inbox", "")
        for world in (one, two):
            await pair.restart(world)
        pair.fail_over(one, 11)  # the other region gives it away as well
        await pair.activate()
        new = await one.start("w", request_id="2")
        await one.settle(1)
        await pair.agree()
        for world in (one, two):
            assert await signals(world, "w") == ["in one"] and (await world.current("w")).key.run_id == new
            state = (await world.inside(lambda world=world: world.shard_for("w").run(run_key(closed)))).state  # type: ignore[misc]
            assert [item.given_to for item in state.inbox.values()] == [new]
        await one.work(complete())
        await one.start("w", request_id="3")
        await one.settle(3)
        assert await signals(one, "w") == [], "it is given once"

    play(story)


def test_an_inbox_is_given_away_after_a_crash_at_any_moment() -> None:
    for moment_s in (0.0, 0.001, 0.01, 0.1):

        async def story(pair: Pair, moment_s: float = moment_s) -> None:
            one, two = pair.one, pair.two
            await one.start("w")
            await pair.agree()
            await split(pair)
            await one.signal("w", "in one")
            await two.terminate("w")
            await heal(pair)
            await two.start("w", request_id="2")
            await asyncio.sleep(moment_s)
            await pair.restart(two)
            await two.settle(5)
            await pair.agree()
            assert await signals(two, "w") == ["in one"]
            (line,) = [one.line for one in await ledger(two) if one.line.name == SIGNALED]
            assert line.outcome == "inbox"

        play(story)
