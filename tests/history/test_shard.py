"""The shard actor: one writer, fenced; memory never ahead of what a reader is told; runs leave memory and come back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import UpdateWorkflowExecutionLifecycleStage, WorkflowIdConflictPolicy
from temporalio.api.workflowservice import v1 as api

from cluster.config import ShardConfig
from cluster.core.errors import Code
from cluster.core.events import duration
from cluster.matching.tasks import QueueKey, TaskKind
from cluster.stores.base import RunKey, StoreUnavailable, StoreUnknown
from tests.history.commands import text, timer
from tests.history.held_store import HeldStore
from tests.history.world import NAMESPACE, SHARD, World, name_of, play, refused

WORKFLOW_QUEUE = QueueKey(NAMESPACE.id, "tq", TaskKind.WORKFLOW)


def held() -> tuple[HeldStore, World]:
    store = HeldStore()
    return store, World(store)


async def signals(world: World, workflow_id: str = "w") -> list[str]:
    """Names of the signals in the history, in order."""
    events = await world.history_of(workflow_id)
    return [
        event.workflow_execution_signaled_event_attributes.signal_name
        for event in events
        if name_of(event) == "WorkflowExecutionSignaled"
    ]


# --- one writer ---------------------------------------------------------------------------------------------------------------


def test_a_fenced_owner_answers_unavailable_and_takes_the_shard_again() -> None:
    store, world = held()

    async def story(world: World) -> None:
        await world.start("w")
        await store.inner.acquire(SHARD, "thief")
        assert (await refused(world.signal("w", "a"))).code is Code.UNAVAILABLE
        await world.signal("w", "a")
        assert await signals(world) == ["a"]

    play(story, world)


@pytest.mark.parametrize("is_executed", [False, True])
def test_an_append_of_unknown_outcome_is_recorded_once_by_the_retry(is_executed: bool) -> None:
    store, world = held()

    async def story(world: World) -> None:
        await world.start("w")
        store.fail("append", StoreUnknown("the connection broke"), after=is_executed)
        assert (await refused(world.signal("w", "a"))).code is Code.UNAVAILABLE
        await world.signal("w", "a")
        await world.signal("w", "b")
        await world.check_replay()
        assert await signals(world) == ["a", "b"]

    play(story, world)


def test_a_start_of_unknown_outcome_is_recognised_at_its_retry() -> None:
    store, world = held()

    async def story(world: World) -> None:
        store.fail("append", StoreUnknown("the connection broke"), after=True)
        assert (await refused(world.start("w"))).code is Code.UNAVAILABLE
        run_id = await world.start("w")
        assert (await world.current("w")).key.run_id == run_id
        assert len(await world.history_of("w")) == 2

    play(story, world)


def test_all_that_was_built_on_a_failed_append_fails_with_it() -> None:
    store, world = held()

    async def story(world: World) -> None:
        await world.start("w")
        store.hold("append")
        store.fail("append", StoreUnavailable("no"))
        calls = [asyncio.ensure_future(refused(world.signal("w", name))) for name in ("a", "b", "c")]
        await world.settle()
        store.release("append")
        assert {(await call).code for call in calls} == {Code.UNAVAILABLE}
        assert await signals(world) == []

    play(story, world)


def test_a_close_and_its_successor_are_one_append() -> None:
    world = World(config=ShardConfig(group_entries_max=1))

    async def story(world: World) -> None:
        await world.start("w")
        policy = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
        before = world.shard.journal.last_position
        await world.start("w", request_id="second", workflow_id_conflict_policy=policy)
        assert world.shard.journal.last_position == before + 1

    play(story, world)


def test_a_run_that_is_replaced_ends_when_its_successor_begins() -> None:
    async def story(world: World) -> None:
        first = await world.start("w")
        policy = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
        world.clock.ticks = True
        second = await world.start("w", request_id="second", workflow_id_conflict_policy=policy)
        ended, began = (await world.history_of("w", first))[-1], (await world.history_of("w", second))[0]
        assert name_of(ended) == "WorkflowExecutionTerminated"
        assert ended.event_time.ToNanoseconds() == began.event_time.ToNanoseconds()

    play(story)


def test_a_closed_run_that_is_looked_at_does_not_become_current_again() -> None:
    async def story(world: World) -> None:
        old = await world.start("w", request_id="1")
        await world.terminate("w")
        await world.settle()
        await world.checkpoint()
        await world.evict("w")
        new = await world.start("w", request_id="2")
        world.shard.forget(world.shard.runs[RunKey(NAMESPACE.id, "w", old)])  # the store's pointer still names it
        await world.describe("w", old)
        flags = {key.run_id: run.is_current for key, run in world.shard.runs.items()}
        assert flags == {old: False, new: True}

    play(story)


def test_a_shard_whose_journal_fails_while_it_is_opened_is_opened_again() -> None:
    store, world = held()

    async def story(world: World) -> None:
        await world.start("w")
        await world.work(timer("t", 5))
        await world.settle()
        world.crash()
        await asyncio.sleep(100)
        store.hold("due")
        store.fail("append", StoreUnknown("?"))  # the overdue timer's, while the index is still being read
        beginning = asyncio.ensure_future(world.begin())
        await world.settle()
        assert not store.failures["append"] and not beginning.done()
        store.release("due")
        await beginning
        await world.settle(2)
        assert "TimerFired" in await world.event_names("w")
        await world.signal("w", "a")

    play(story, world)


def test_two_starts_that_race_for_the_read_make_one_run() -> None:
    store, world = held()

    async def story(world: World) -> None:
        await world.start("w", request_id="old")
        await world.terminate("w")
        await world.settle()
        await world.checkpoint()
        await world.evict("w")
        store.hold("current_run")
        first = asyncio.ensure_future(world.start("w", request_id="one"))
        second = asyncio.ensure_future(refused(world.start("w", request_id="two")))
        await world.settle()
        store.release("current_run")
        await first
        assert (await second).code is Code.ALREADY_EXISTS

    play(story, world)


def test_a_signal_with_start_whose_start_lost_the_race_still_signals() -> None:
    store, world = held()

    async def story(world: World) -> None:
        request = api.SignalWithStartWorkflowExecutionRequest(
            namespace=NAMESPACE.name, workflow_id="w", request_id="both", signal_name="s", signal_input=text("s")
        )
        request.workflow_type.name, request.task_queue.name = "W", "tq"
        request.workflow_id_conflict_policy = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
        request.workflow_task_timeout.CopyFrom(duration(10_000_000_000))
        store.hold("current_run")
        both = asyncio.ensure_future(world.call("signal_with_start_workflow_execution", "w", request))
        await world.settle()
        start = asyncio.ensure_future(world.start("w"))
        await world.settle()
        store.let_one_go("current_run")  # both hear that there is no such workflow; the start is quicker
        run_id = await start
        store.release("current_run")
        answer = await both
        assert answer.run_id == run_id and not answer.started
        assert await signals(world) == ["s"]

    play(story, world)


# --- readers ------------------------------------------------------------------------------------------------------------------


def test_a_reader_waits_until_what_it_saw_is_durable() -> None:
    store, world = held()

    async def story(world: World) -> None:
        await world.start("w")
        store.hold("append")
        ending = asyncio.ensure_future(world.terminate("w"))
        await world.settle()
        reads = [asyncio.ensure_future(call) for call in (world.describe("w"), world.history_of("w"), refused(world.signal("w")))]
        await world.settle()
        assert not any(read.done() for read in reads), "even a refusal rests on what may be forgotten"
        store.release("append")
        await asyncio.gather(ending, *reads)

    play(story, world)


def test_a_long_poll_shows_what_is_durable_and_not_what_came_after() -> None:
    store, world = held()

    async def story(world: World) -> None:
        run_id = await world.start("w")
        request = api.GetWorkflowExecutionHistoryRequest(
            execution=WorkflowExecution(workflow_id="w", run_id=run_id), wait_new_event=True
        )
        page = await world.call("get_workflow_execution_history", "w", request)
        request.next_page_token = page.next_page_token
        polls = [asyncio.ensure_future(world.call("get_workflow_execution_history", "w", request)) for _ in range(3)]
        await world.settle()
        store.hold("append")
        first = asyncio.ensure_future(world.signal("w", "a"))
        await world.settle()
        second = asyncio.ensure_future(world.signal("w", "b"))
        await world.settle()
        store.let_one_go("append")
        await first
        await world.settle()
        assert not second.done()
        assert not [poll for poll in polls if poll.done() and len((await poll).history.events) > 1]
        store.release("append")
        await second
        for poll in polls:
            assert [event.event_id for event in (await poll).history.events] in ([3], [3, 4])

    play(story, world)


def test_a_run_that_never_rests_still_gets_its_tasks_and_its_row() -> None:
    """While one append is under way another entry of the run always comes: it is never durable as it is now."""
    store, world = held()

    async def story(world: World) -> None:
        store.hold("append")
        running: list[asyncio.Future[Any]] = [asyncio.ensure_future(world.start("w"))]
        for number in range(20):
            await world.settle(0.1)
            running.append(asyncio.ensure_future(world.signal("w", str(number))))
            await world.settle(0.1)
            store.let_one_go("append")
        assert await world.listed(), "visibility waits for rest"
        assert world.history.outstanding.backlog_count(WORKFLOW_QUEUE) == 1, "the workflow task waits for rest"
        store.release("append")
        await asyncio.gather(*running)

    play(story, world)


def test_an_update_is_not_told_as_done_before_its_outcome_is_durable() -> None:
    store, world = held()

    async def story(world: World) -> None:
        await world.start("w")
        await world.work()
        request = api.UpdateWorkflowExecutionRequest(workflow_execution=WorkflowExecution(workflow_id="w"))
        request.request.meta.update_id, request.request.input.name = "u", "change"
        stages = UpdateWorkflowExecutionLifecycleStage
        request.wait_policy.lifecycle_stage = stages.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED
        update = asyncio.ensure_future(refused(world.call("update_workflow_execution", "w", request)))
        await world.settle(0.1)
        store.hold("append")
        ending = asyncio.ensure_future(world.terminate("w"))  # the update will never be accepted now
        await world.settle(0.1)
        assert not update.done()
        store.release("append")
        await ending
        assert (await update).code is Code.NOT_FOUND

    play(story, world)
