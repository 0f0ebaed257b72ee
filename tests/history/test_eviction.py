"""Runs leave memory and come back, and their time comes wherever they are."""

from __future__ import annotations

import asyncio

from cluster.config import ShardConfig
from cluster.core.errors import Code
from cluster.core.events import duration
from cluster.stores.base import RunKey, StoreUnavailable
from tests.history.commands import complete, timer
from tests.history.held_store import HeldStore
from tests.history.world import NAMESPACE, SHARD, World, eventually, name_of, play, refused


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


def test_an_evicted_run_is_its_row() -> None:
    async def story(world: World) -> None:
        await world.start("w")
        await world.work(timer("t", 100))
        await world.signal("w", "a")
        names = await world.event_names("w")
        await world.settle()
        await world.checkpoint()
        await world.evict("w")
        assert not world.shard.runs
        assert await world.event_names("w") == names
        await world.signal("w", "b")
        assert await world.event_names("w") == [*names, "WorkflowExecutionSignaled"]
        await world.check_replay()

    play(story)


def test_a_task_that_is_outstanding_finds_its_run_after_eviction() -> None:
    async def story(world: World) -> None:
        await world.start("w")
        await world.settle()
        await world.checkpoint()
        await world.evict("w")
        await world.work(complete())
        assert (await world.event_names("w"))[-1] == "WorkflowExecutionCompleted"

    play(story)


def test_a_reader_that_waited_for_a_row_does_not_bring_back_an_old_one() -> None:
    store, world = held()

    async def story(world: World) -> None:
        run_id = await world.start("w")
        await world.settle()
        await world.checkpoint()
        await world.evict("w")
        old_row = await store.inner.load(SHARD, RunKey(NAMESPACE.id, "w", run_id))
        store.hold("load")
        reader = asyncio.ensure_future(world.describe("w", run_id))
        await world.settle()
        await world.signal("w", "a")  # loads it as the current run
        await world.settle()
        await world.checkpoint()
        await world.evict("w")
        store.answers["load"] = [old_row]  # what the reader asked for was read before all that
        store.release("load")
        assert (await reader).workflow_execution_info.history_length == 3
        await world.signal("w", "b")
        assert await signals(world) == ["a", "b"]

    play(story, world)


def test_a_run_that_is_removed_while_its_history_is_read_is_not_called_damaged() -> None:
    store, world = held()

    async def story(world: World) -> None:
        run_id = await world.start("w")
        await world.settle()
        await world.checkpoint()
        store.hold("history")
        reader = asyncio.ensure_future(refused(world.history_of("w", run_id)))
        await world.settle()
        await world.delete("w")
        await world.settle()
        await world.checkpoint()
        assert not world.shard.runs and await world.stored("w", run_id) is None
        store.release("history")
        assert (await reader).code is Code.UNAVAILABLE
        assert (await refused(world.history_of("w", run_id))).code is Code.NOT_FOUND

    play(story, world)


def test_idle_runs_above_the_bound_leave_memory_and_owing_ones_keep_their_time() -> None:
    world = World(config=ShardConfig(idle_runs_in_memory_max=3))

    async def story(world: World) -> None:
        for number in range(10):
            await world.start(f"w{number}", workflow_run_timeout=duration(3_600_000_000_000))
        await eventually(lambda: len(world.shard.runs) <= 3)
        await asyncio.sleep(3_700)
        for number in range(10):
            assert (await world.event_names(f"w{number}"))[-1] == "WorkflowExecutionTimedOut"

    play(story, world)


def test_a_timer_far_beyond_the_horizon_fires_in_time_from_memory_and_from_the_index() -> None:
    async def story(world: World) -> None:
        for workflow_id in ("remembered", "evicted"):
            await world.start(workflow_id)
            await world.work(timer("t", 3_600))
        await world.settle()
        await world.checkpoint()
        await world.evict("evicted")
        await asyncio.sleep(3_550)
        assert (await world.event_names("evicted"))[-1] == "TimerStarted"
        await asyncio.sleep(50)
        for workflow_id in ("remembered", "evicted"):
            events = await world.history_of(workflow_id)
            fired = next(event for event in events if name_of(event) == "TimerFired")
            started = next(event for event in events if name_of(event) == "TimerStarted")
            late_ns = fired.event_time.ToNanoseconds() - started.event_time.ToNanoseconds() - 3_600_000_000_000
            assert 0 <= late_ns < 10_000_000

    play(story)


def test_a_timer_that_came_due_while_nobody_lived_fires_at_the_start() -> None:
    async def story(world: World) -> None:
        await world.start("w")
        await world.work(timer("t", 30))
        await world.settle()
        await world.checkpoint()
        world.crash()
        await asyncio.sleep(1_000)
        await world.begin()
        await world.settle()
        assert "TimerFired" in await world.event_names("w")

    play(story)


def test_a_wake_up_whose_row_cannot_be_read_comes_again() -> None:
    store, world = held()

    async def story(world: World) -> None:
        await world.start("w")
        await world.work(timer("t", 30))
        await world.settle()
        await world.checkpoint()
        await world.evict("w")
        for _ in range(3):
            store.fail("load", StoreUnavailable("not now"))
        await asyncio.sleep(40)
        assert "TimerFired" in await world.event_names("w")

    play(story, world)


def test_a_closed_run_is_gone_at_the_end_of_its_retention_without_a_restart() -> None:
    async def story(world: World) -> None:
        run_id = await world.start("w")
        await world.terminate("w")
        await world.checkpoint()  # at once: visibility has not written its row yet
        await asyncio.sleep(20)
        assert world.index and (await world.listed())[run_id] == "TERMINATED"
        await world.evict("w")
        await asyncio.sleep(NAMESPACE.retention_ns / 1e9 + 60)
        assert (await refused(world.describe("w"))).code is Code.NOT_FOUND
        assert await world.stored("w", run_id) is None and await world.listed() == {}

    play(story)
