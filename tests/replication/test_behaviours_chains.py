"""Chains, ids, ends, resets and deletions across a failover that lost nothing. Named as in replication.md, section 9."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from temporalio.api.common.v1 import RetryPolicy
from temporalio.api.enums.v1 import WorkflowIdReusePolicy

from cluster.core.errors import Code
from cluster.core.events import duration
from cluster.stores.base import RunKey
from tests.history.commands import complete, continue_as_new, timer
from tests.history.world import NAMESPACE, refused
from tests.replication.calls import (
    answer,
    fail_over,
    reset,
)
from tests.replication.two_regions import Pair, play

SECOND_NS = 1_000_000_000


# --- chains --------------------------------------------------------------------------------------------------------------


def test_continue_as_new_failover_keeps_the_links_of_the_chain() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        runs = [await one.start("w")]
        for number in range(5):
            world = one if number < 2 else two
            if number == 2:
                await fail_over(pair, two, 2)
            await answer(world, await world.take_task(wait_s=10), continue_as_new())
            runs.append((await world.current("w")).key.run_id)
            await world.settle(1.5)
        await pair.agree()
        assert len(set(runs)) == 6
        for before, after in itertools.pairwise(runs):
            started = (await one.history_of("w", after))[0].workflow_execution_started_event_attributes
            assert (started.continued_execution_run_id, started.first_execution_run_id) == (before, runs[0])
        assert (await one.current("w")).key.run_id == runs[-1]

    play(story)


@pytest.mark.parametrize("is_failed_before", [True, False])
def test_workflow_retry_failover_keeps_the_number_of_the_attempt(is_failed_before: bool) -> None:
    """WorkflowRetryStartAndFailover and WorkflowRetryFailAndFailover"""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        policy = RetryPolicy(initial_interval=duration(2 * SECOND_NS), maximum_attempts=3)
        await one.start("w", retry_policy=policy, workflow_run_timeout=duration(5 * SECOND_NS))
        if is_failed_before:
            await asyncio.sleep(5.5)  # the first attempt times out, the second one waits
        await fail_over(pair, two, 2)
        await asyncio.sleep(3 if is_failed_before else 8.5)
        state = (await two.current("w")).state
        assert state.attempt == 2 and state.is_open
        await answer(two, await two.take_task(wait_s=5), complete())
        await pair.agree()
        assert len(await one.all_runs()) == 2

    play(story)


@pytest.mark.parametrize("is_complete", [True, False])
def test_a_cron_workflow_has_its_next_run_once_in_the_other_region(is_complete: bool) -> None:
    """CronWorkflowStartAndFailover and CronWorkflowCompleteAndFailover"""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w", cron_schedule="@every 20s")
        if is_complete:
            await answer(one, await one.take_task(wait_s=25), complete())
        await fail_over(pair, two, 2)
        task = await two.take_task(wait_s=45)
        await answer(two, task, complete())
        await pair.agree()
        runs = await one.all_runs()
        assert len(runs) == (3 if is_complete else 2)
        names = [await one.event_names("w", run_id) for run_id in runs]
        assert sum("WorkflowExecutionCompleted" in one for one in names) == (2 if is_complete else 1)

    play(story)


# --- ids, ends, deletion -------------------------------------------------------------------------------------------------


def test_the_reuse_policy_holds_in_the_other_region_as_if_it_were_there() -> None:
    """WorkflowIDReusePolicy, and: a failover, then a start of the same id is refused as already started"""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("open")
        await one.start("done")
        for _ in range(2):
            task = await one.take_task()
            if task.workflow_execution.workflow_id == "done":
                await answer(one, task, complete())
        await fail_over(pair, two, 2)
        assert (await refused(two.start("open", request_id="2"))).code is Code.ALREADY_EXISTS
        reject = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
        failed = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY
        for policy in (reject, failed):
            refusal = await refused(two.start("done", request_id="2", workflow_id_reuse_policy=policy))
            assert refusal.code is Code.ALREADY_EXISTS
        assert await two.start("open", request_id="start of open"), "the same request finds the run that it made in one"

    play(story)


def test_terminate_if_running_across_regions_ends_the_run_of_the_other_one() -> None:
    """ConflictPolicy_TerminateExisting"""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        old = await one.start("w")
        await fail_over(pair, two, 2)
        policy = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
        new = await two.start("w", request_id="2", workflow_id_reuse_policy=policy)
        await pair.agree()
        for world in (one, two):
            assert (await world.current("w")).key.run_id == new
            assert (await world.event_names("w", old))[-1] == "WorkflowExecutionTerminated"

    play(story)


@pytest.mark.parametrize("is_open", [True, False])
def test_a_deletion_is_one_in_every_region(is_open: bool) -> None:
    """DeleteClosed and DeleteRunning"""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        run_id = await one.start("w")
        if not is_open:
            await one.terminate("w")
        await pair.agree()
        await one.delete("w")
        await asyncio.sleep(20)
        await pair.agree()
        for world in (one, two):
            assert (await refused(world.describe("w", run_id))).code is Code.NOT_FOUND
            assert run_id not in await world.listed()
            shard = world.shard_for("w")
            await world.checkpoint()
            assert not await world.store.history(shard.id, RunKey(NAMESPACE.id, "w", run_id), 0, 1, 100)

    play(story)


def test_reset_workflow_failover_completes_the_reset_run_there() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        base = await one.start("w")
        await one.work(complete())
        again = await reset(one, "w", 4, base)
        await fail_over(pair, two, 2)
        assert (await two.current("w")).key.run_id == again
        await answer(two, await two.take_task(), complete())
        await pair.agree()
        for world in (one, two):
            assert (await world.event_names("w", again))[-1] == "WorkflowExecutionCompleted"
            assert (await world.event_names("w", base))[-1] == "WorkflowExecutionCompleted"

    play(story)


def test_a_reset_run_is_there_with_its_full_history_although_its_base_is_deleted() -> None:
    """ForceReplicateResetWorkflow_BaseWorkflowNotFound, and ResetWorkflow_SyncWorkflowState: a reset of a reset"""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        pair.is_linked = False
        pair.cut()
        base = await one.start("w")
        await one.work()
        first = await reset(one, "w", 4, base)
        await one.work()
        second = await reset(one, "w", 4, first)
        await one.delete("w", base)
        await one.delete("w", first)
        await one.settle(15)
        pair.is_linked = True
        await pair.agree()
        for world in (one, two):
            assert set(await world.all_runs()) == {second}
            assert (await world.event_names("w"))[0] == "WorkflowExecutionStarted"
        await fail_over(pair, two, 2)
        await answer(two, await two.take_task(), complete())
        await pair.agree()

    play(story)


def test_runs_moved_away_and_back_have_the_same_full_history() -> None:
    """MultiRunMigrationBack"""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await answer(one, await one.take_task(), continue_as_new())
        for version, world in ((2, two), (11, one), (12, two), (21, one)):
            await fail_over(pair, world, version)
            await world.signal("w", f"under {version}")
            await answer(world, await world.take_task(wait_s=5), continue_as_new())
            await world.settle(1.5)
        await pair.agree()
        assert len(await one.all_runs()) == 6
        for run_id in await one.all_runs():
            assert await one.history_of("w", run_id) == await two.history_of("w", run_id)

    play(story)


def test_a_history_without_versions_goes_on_under_one() -> None:
    """EmptyVersionAndNonEmptyVersion: a namespace that becomes a global one"""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        for world in (one, two):
            world.view.failover_version = 0
        await one.start("w")
        await one.work(timer("t", 5))
        for world in (one, two):
            world.view.failover_version = 1
        await one.signal("w", "under a version")
        await fail_over(pair, two, 2)
        await asyncio.sleep(6)
        assert sorted({event.version for event in await two.history_of("w")}) == [0, 1, 2]
        await pair.agree()

    play(story)


def test_a_run_begun_by_a_slow_clock_is_still_the_later_one_in_both_regions() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w", request_id="1")
        await one.delete("w")
        await one.settle(1)
        one.clock.skew_ns -= 300 * SECOND_NS  # the shard's next owner has this clock
        later = await one.start("w", request_id="2")
        await one.terminate("w")
        await one.start("v", request_id="3")
        await one.terminate("v")
        one.clock.skew_ns -= 300 * SECOND_NS
        last = await one.start("v", request_id="4")
        await one.terminate("v")
        await pair.agree()
        for world in (one, two):
            await pair.restart(world)
        await pair.agree()
        for world in (one, two):
            assert (await world.current("w")).key.run_id == later
            assert (await world.current("v")).key.run_id == last

    play(story)


def test_a_run_that_was_reset_is_the_last_one_although_its_history_begins_before_others() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        first = await one.start("w", request_id="1")
        await one.work(complete())
        await one.start("w", request_id="2")
        await one.work(complete())
        again = await reset(one, "w", 4, first)
        await one.work(complete())
        await pair.agree()
        for world in (one, two):
            await pair.restart(world)
        await fail_over(pair, two, 2)
        for world in (one, two):
            assert (await world.current("w")).key.run_id == again

    play(story)
