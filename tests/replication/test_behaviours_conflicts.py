"""Both regions wrote: who wins, and what becomes of all that the other side was told. Named as in replication.md, section 9."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.api.enums.v1 import HistoryEventFilterType
from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import CallerError, Code
from cluster.stores.base import RunKey
from tests.history.commands import activity, child, complete, continue_as_new, timer
from tests.history.world import NAMESPACE, name_of
from tests.replication.calls import (
    COMPLETED,
    accepting,
    answer,
    cancel,
    completing,
    events_named,
    execution,
    heal,
    ledger,
    outcomes,
    send_update,
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


# --- a run with two branches -----------------------------------------------------------------------------------------------


def test_conflict_resolution_reapplies_signals_behind_those_of_the_winner() -> None:
    async def story(pair: Pair) -> None:
        await pair.one.start("w")
        await pair.agree()
        await split(pair)
        await pair.one.signal("w", "in one")
        await pair.two.signal("w", "in two")
        await heal(pair)
        for world in (pair.one, pair.two):
            assert await signals(world, "w") == ["in two", "in one"]
        (entry,) = await ledger(pair.two)
        assert entry.line.winner_event_id == (await pair.two.history_of("w"))[-1].event_id
        task = await pair.two.take_task()
        assert name_of(task.history.events[-2]) == SIGNALED, "the worker sees it"

    play(story)


def test_conflict_resolution_reapplies_updates_with_what_they_say() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await one.work()
        await pair.agree()
        await split(pair)
        accepted = send_update(one, "w", "u")
        task = await one.take_task()
        await answer(one, task, messages=accepting(task))
        await accepted
        await two.signal("w", "in two")
        await heal(pair)
        (admitted,) = await events_named(two, "w", ADMITTED)
        request = admitted.workflow_execution_update_admitted_event_attributes.request
        assert request.meta.update_id == "u" and request.input.args.payloads[0].data == b'"of one"'
        assert dict(await outcomes(two))["WorkflowExecutionUpdateAccepted"] == "reapply"
        task = await two.take_task()
        await answer(two, task, messages=accepting(task, completes=True))
        found = await send_update(two, "w", "u", COMPLETED)
        assert found.outcome.success.payloads[0].data == b'"done u"', "who asks again is told what the winner's workflow answered"
        await pair.agree()

    play(story)


@pytest.mark.parametrize("stage", ["admitted", "accepted", "completed"])
def test_an_update_with_a_conflicting_id_is_not_reapplied(stage: str) -> None:
    """DoesNotReapply{Admitted, Accepted, Complete}UpdateWithConflictingId"""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await one.work()
        await pair.agree()
        await split(pair)
        kept = send_update(two, "w", "u")
        task = await two.take_task()
        await answer(two, task, messages=accepting(task, completes=True))
        await kept
        send_update(one, "w", "u")
        await one.settle()
        if stage != "admitted":
            task = await one.take_task()
            await answer(one, task, messages=accepting(task, completes=stage == "completed"))
        await one.signal("w", "so that there is a branch")
        await heal(pair)
        assert not await events_named(two, "w", ADMITTED)
        (accepted,) = await events_named(two, "w", "WorkflowExecutionUpdateAccepted")
        assert accepted.workflow_execution_update_accepted_event_attributes.accepted_request.input.args.payloads[0].data == (
            b'"of two"'
        )
        told = [one for one in await ledger(two) if "Update" in one.line.name]
        assert {str(one.line.outcome) for one in told} <= {"duplicate"}, told

    play(story)


def test_conflict_resolution_get_result_of_a_branch_that_is_replaced() -> None:
    """Who waits for the result at the region whose branch loses is told the winner's."""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        run_id = await one.start("w")
        await pair.agree()
        request = api.GetWorkflowExecutionHistoryRequest(
            execution=execution("w", run_id),
            wait_new_event=True,
            history_event_filter_type=HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT,
        )
        waiting = asyncio.ensure_future(one.call("get_workflow_execution_history", "w", request, deadline_s=100))
        await split(pair)
        await one.signal("w", "in one")
        await two.work(complete())
        await heal(pair)
        current = (await two.current("w")).key.run_id
        assert current != run_id, "the signal was accepted after the close: the run was reset for it"
        (closed,) = (await waiting).history.events
        assert name_of(closed) == "WorkflowExecutionCompleted"

    play(story)


def test_handcrafted_multiple_branches_lead_to_the_winners_state() -> None:
    """Timers, activities and signals on both sides of the fork."""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await one.work(timer("before", 100), activity("before"))
        await pair.agree()
        await split(pair)
        for world in (one, two):
            await world.signal("w", f"in {world.name}")
            await world.work(timer(f"of {world.name}", 50), activity(f"of {world.name}"))
        await heal(pair)
        for world in (one, two):
            state = (await world.current("w")).state
            assert set(state.timers) == {"before", "of two"}
            assert set(state.activity_ids) == {"before", "of two"}
            assert await signals(world, "w") == ["in two", "in one"]
        assert ("TimerStarted", "rolled back") in await outcomes(two)

    play(story)


def test_three_branches_meet_and_the_highest_version_wins() -> None:
    """MultipleBranches: both regions, one after the other, take over without having heard of each other."""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await pair.agree()
        await split(pair)
        await one.signal("w", "of version 1")
        await two.signal("w", "of version 2")
        one.view.active, one.view.failover_version = "one", 11
        await one.signal("w", "of version 11")
        two.view.active, two.view.failover_version = "one", 11
        pair.is_linked = True
        await pair.activate()
        await pair.agree()
        for world in (one, two):
            assert await signals(world, "w") == ["of version 1", "of version 11", "of version 2"]

    play(story)


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


# --- activities ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_adopting", [False, True])
def test_an_activity_result_that_only_the_loser_has_is_adopted_if_the_namespace_wants_it(is_adopting: bool) -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        two.view.is_adopting = is_adopting
        await one.start("w")
        await one.work(activity("a"))
        attempt = await one.take_activity()
        await pair.agree()
        await split(pair)
        await one.complete_activity(attempt, "in one")
        await two.signal("w", "in two")
        await heal(pair)
        (outcome,) = await outcomes(two, "ActivityTaskCompleted")
        assert outcome[1] == ("reapply" if is_adopting else "run again")
        assert bool((await two.current("w")).state.activities) is not is_adopting
        assert len(await events_named(two, "w", "ActivityTaskCompleted")) == is_adopting

    play(story)


def test_an_accepted_update_can_be_completed_after_failover_and_failback() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await one.work()
        accepted = send_update(one, "w", "u")
        task = await one.take_task()
        await answer(one, task, messages=accepting(task))
        await accepted
        for version, world in ((2, two), (11, one)):
            await pair.agree()
            pair.fail_over(world, version)
            await pair.activate()
            await world.signal("w", f"under {version}")
        task = await one.take_task()
        await answer(one, task, messages=[completing("u")])
        found = await send_update(one, "w", "u", COMPLETED)
        assert found.outcome.success.payloads[0].data == b'"done u"'
        await pair.agree()

    play(story)
