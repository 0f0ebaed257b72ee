"""Both regions wrote: who wins, and what becomes of all that the other side was told. Named as in replication.md, section 9."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.api.enums.v1 import HistoryEventFilterType
from temporalio.api.workflowservice import v1 as api

from cluster.stores.base import RunKey
from tests.history.commands import activity, complete, timer
from tests.history.world import NAMESPACE, name_of
from tests.replication.calls import (
    COMPLETED,
    accepting,
    answer,
    completing,
    events_named,
    execution,
    heal,
    ledger,
    outcomes,
    send_update,
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
