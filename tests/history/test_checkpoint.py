"""Checkpoints: rows never ahead of the journal, the journal never cut ahead of the rows, at whatever moment the node dies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.config import ShardConfig
from cluster.core.errors import Code, unavailable
from cluster.history.between_runs import BetweenRuns, TellParent
from cluster.stores.base import StoreUnavailable, StoreUnknown
from tests.history.commands import activity, child, complete, continue_as_new, timer
from tests.history.held_store import HeldStore
from tests.history.world import NAMESPACE, SHARD, World, eventually, name_of, play, refused

SECOND_NS = 1_000_000_000
RARELY = ShardConfig(checkpoint_interval_ns=10_000 * SECOND_NS)


class CuttingHeld(HeldStore):
    """Lets rows through, and holds the call that truncates the journal."""

    async def checkpoint(self, lease: Any, snapshots: Any, histories: Any, deletions: Any, truncate_to: int) -> None:
        self.calls.append(("checkpoint", (lease, snapshots, histories, deletions, truncate_to)))
        if truncate_to:
            gate = self._gates.get("truncate")
            if gate is not None:
                await gate.acquire()
        await self.inner.checkpoint(lease, snapshots, histories, deletions, truncate_to)


def with_store(store: HeldStore, config: ShardConfig = RARELY) -> World:
    return World(store, config=config)


async def journal_length(world: World) -> int:
    truncated_to, last = await world.store.journal_bounds(SHARD)
    return last - truncated_to


def test_a_row_is_written_only_when_the_journal_has_what_it_shows() -> None:
    store = HeldStore()

    async def story(world: World) -> None:
        run_id = await world.start("w")
        store.hold("append")
        signal = asyncio.ensure_future(world.signal("w", "a"))
        await world.settle()
        checkpoint = asyncio.ensure_future(world.checkpoint())
        await world.settle()
        assert store.count("checkpoint") == 0
        store.release("append")
        await asyncio.gather(signal, checkpoint)
        row = await world.stored("w", run_id)
        assert row is not None and row.next_event_id == 4

    play(story, with_store(store))


def test_what_changes_during_a_checkpoint_stays_for_the_next() -> None:
    store = HeldStore()

    async def story(world: World) -> None:
        await world.start("w")
        await world.settle()
        store.hold("checkpoint")
        checkpoint = asyncio.ensure_future(world.checkpoint())
        await world.settle()
        await world.signal("w", "a")
        store.release("checkpoint")
        await checkpoint
        assert await journal_length(world) == 1
        names = await world.event_names("w")
        await world.check_replay()
        assert await world.event_names("w") == names
        await world.settle()
        await world.checkpoint()
        assert await journal_length(world) == 0
        await world.check_replay()
        assert await world.event_names("w") == names

    play(story, with_store(store))


def test_a_crash_between_the_rows_and_the_cut_replays_nothing_twice() -> None:
    store = CuttingHeld()

    async def story(world: World) -> None:
        await world.start("w")
        await world.work(activity("a"), timer("t", 1_000))
        await world.signal("w", "a")
        await world.settle()
        store.hold("truncate")
        checkpoint = asyncio.ensure_future(refused_or_died(world.checkpoint()))
        await world.settle()
        await world.signal("w", "b")
        names, states = await world.event_names("w"), world.states()
        await world.restart()
        await checkpoint
        assert await world.event_names("w") == names
        assert world.states() == states
        store.release("truncate")
        await world.work(complete())
        await world.settle()
        await world.checkpoint()
        await world.check_replay()
        assert await world.event_names("w") == [
            *names,
            "WorkflowTaskStarted",
            "WorkflowTaskCompleted",
            "WorkflowExecutionCompleted",
        ]

    play(story, with_store(store))


async def refused_or_died(call: Any) -> None:
    from chaos.sim.nodes import NodeDied

    try:
        await call
    except NodeDied:
        return


def test_closing_during_a_checkpoint_loses_nothing() -> None:
    store = HeldStore()

    async def story(world: World) -> None:
        await world.start("w")
        await world.settle()
        store.hold("append")
        signal = asyncio.ensure_future(world.signal("w", "a"))
        await world.settle()
        running = asyncio.ensure_future(world.checkpoint())  # has taken the run, and waits until it is durable
        await world.settle()
        closing = asyncio.ensure_future(world.close())
        await world.settle()
        store.hold("checkpoint")
        store.release("append")
        await signal
        for _ in range(3):
            await world.settle()
            assert await journal_length(world) > 0 or await row_length(world) == 3, "the cut came before the row"
            store.let_one_go("checkpoint")
        store.release("checkpoint")
        await asyncio.gather(running, closing)
        await world.begin()
        assert len(await world.history_of("w")) == 3

    play(story, with_store(store))


async def row_length(world: World) -> int:
    row = await world.store.current_run(SHARD, NAMESPACE.id, "w")
    if row is None:
        return 0
    from cluster.core.state import decode_state

    return decode_state(row.data).next_event_id - 1


def test_a_closed_node_leaves_an_empty_journal_and_a_visible_run() -> None:
    async def story(world: World) -> None:
        run_id = await world.start("w")
        await world.terminate("w")
        await world.close()
        assert await journal_length(world) == 0
        assert (await world.listed())[run_id] == "TERMINATED"
        row = await world.store.current_run(SHARD, NAMESPACE.id, "w")
        assert row is not None and row.wake_at not in (0, None), "it owes nothing, and waits for the end of its retention"

    play(story, World(config=RARELY))


def test_a_checkpoint_that_fails_is_done_again_and_loses_nothing() -> None:
    store = HeldStore()

    async def story(world: World) -> None:
        await world.start("w")
        for error, after in ((StoreUnavailable("no"), False), (StoreUnknown("?"), True), (StoreUnknown("?"), False)):
            await world.signal("w", f"{error}{after}")
            store.fail("checkpoint", error, after=after)
            await world.settle(12)
        assert len(await world.history_of("w")) == 5
        await world.settle(12)
        assert await journal_length(world) == 0
        await world.check_replay()
        assert len(await world.history_of("w")) == 5

    play(story, with_store(store, ShardConfig()))


def test_a_journal_that_fails_under_a_checkpoint_is_no_failure_of_the_node() -> None:
    store = HeldStore()

    async def story(world: World) -> None:
        await world.start("w")
        await world.settle()
        store.hold("append")
        store.fail("append", StoreUnknown("?"))
        signal = asyncio.ensure_future(refused(world.signal("w", "a")))
        await world.settle()
        world.shard.checkpointer._start()
        await world.settle()
        store.release("append")
        assert (await signal).code is Code.UNAVAILABLE
        await world.settle()
        assert not world.failed_jobs
        await world.signal("w", "a")

    play(story, with_store(store))


def test_a_process_that_dies_again_and_again_still_cuts_its_journal() -> None:
    async def story(world: World) -> None:
        await world.start("w")
        for life in range(12):
            await world.signal("w", str(life))
            await world.settle(1)
            await world.restart()
        await eventually(lambda: is_short(world), 4)

    async def is_short(world: World) -> bool:
        return await journal_length(world) < 8

    play(story, World(config=ShardConfig(checkpoint_interval_ns=3_600 * SECOND_NS, checkpoint_entries_max=10)))


def test_a_long_journal_is_cut_without_waiting_for_the_interval() -> None:
    async def story(world: World) -> None:
        for number in range(25):
            await world.start(f"w{number}")
        await eventually(lambda: is_short(world))

    async def is_short(world: World) -> bool:
        return await journal_length(world) < 10

    play(story, World(config=ShardConfig(checkpoint_interval_ns=10_000 * SECOND_NS, checkpoint_entries_max=10)))


# --- deletion -----------------------------------------------------------------------------------------------------------------


def test_a_deleted_run_is_not_shown_again_while_the_store_still_has_it() -> None:
    store = HeldStore()

    async def story(world: World) -> None:
        run_id = await world.start("w")
        await world.settle()
        await world.checkpoint()
        await world.delete("w")
        await world.settle()
        store.hold("checkpoint")
        checkpoint = asyncio.ensure_future(world.checkpoint())
        await world.settle()
        for call in (world.describe("w"), world.describe("w", run_id), world.signal("w", "a")):
            assert (await refused(call)).code is Code.NOT_FOUND
        store.release("checkpoint")
        await checkpoint
        assert (await refused(world.describe("w", run_id))).code is Code.NOT_FOUND
        assert await world.stored("w", run_id) is None and await world.listed() == {}

    play(story, with_store(store))


def test_a_crash_between_a_deletion_and_the_cut_is_replayed() -> None:
    store = CuttingHeld()

    async def story(world: World) -> None:
        old = await world.start("w", request_id="1")
        await world.settle()
        await world.checkpoint()
        await world.signal("w", "a")
        await world.delete("w")
        new = await world.start("w", request_id="2")
        await world.settle()
        store.hold("truncate")
        checkpoint = asyncio.ensure_future(refused_or_died(world.checkpoint()))
        await world.settle()
        assert await world.stored("w", old) is None and await journal_length(world) > 0
        await world.restart()
        await checkpoint
        assert (await refused(world.describe("w", old))).code is Code.NOT_FOUND
        assert (await world.describe("w")).workflow_execution_info.execution.run_id == new
        store.release("truncate")
        assert (await refused(world.start("w", request_id="3"))).code is Code.ALREADY_EXISTS

    play(story, with_store(store))


def test_a_run_deleted_before_its_successor_began_does_not_hide_it_after_a_replay() -> None:
    store = CuttingHeld()

    async def story(world: World) -> None:
        await world.start("w", request_id="1")
        await world.delete("w")
        new = await world.start("w", request_id="2")
        await world.settle()
        store.hold("truncate")
        checkpoint = asyncio.ensure_future(refused_or_died(world.checkpoint()))
        await world.settle()
        await world.restart()
        await checkpoint
        assert (await world.describe("w")).workflow_execution_info.execution.run_id == new
        assert (await refused(world.start("w", request_id="3"))).code is Code.ALREADY_EXISTS

    play(story, with_store(store))


def test_a_deleted_childs_parent_hears_of_its_end() -> None:
    async def story(world: World) -> None:
        await world.start("parent")
        await world.work(child("child"))
        await world.settle()
        await world.work()
        perform, is_away = world.history.perform, True

        async def unless_away(message: BetweenRuns) -> str:
            if is_away and isinstance(message, TellParent):
                raise unavailable("the parent's shard is moving")
            return await perform(message)

        world.history.reach = unless_away
        await world.delete("child")
        await world.settle(1)
        await world.checkpoint()
        is_away = False
        await world.settle(15)
        assert "ChildWorkflowExecutionTerminated" in [name_of(event) for event in await world.history_of("parent")]
        await world.settle(1)
        await world.checkpoint()
        assert await world.store.current_run(SHARD, NAMESPACE.id, "child") is None

    play(story, World(config=RARELY))


@pytest.mark.parametrize("is_written_between", [False, True])
def test_after_the_current_run_is_deleted_there_is_none_whenever_its_row_was_written(is_written_between: bool) -> None:
    """Not the run before it, to which the store's pointer leads as long as no row of the later one has been written."""

    async def story(world: World) -> None:
        first = await world.start("w")
        task = await world.take_task()
        await world.settle()
        await world.checkpoint()
        await world.answer(task, continue_as_new())
        if is_written_between:
            await world.settle()
            await world.checkpoint()
        await world.delete("w")
        for _ in range(2):
            assert (await refused(world.describe("w"))).code is Code.NOT_FOUND
            await world.settle()
            await world.checkpoint()
        assert (await world.describe("w", first)).workflow_execution_info.execution.run_id == first

    play(story, World(config=RARELY))

