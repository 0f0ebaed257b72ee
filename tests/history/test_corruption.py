"""One damaged run hurts itself alone: it answers DATA_LOSS, the others and their shard go on."""

from __future__ import annotations

import sqlite3

import pytest

from cluster.config import ShardConfig
from cluster.core.entry import Entry, encode_entry, encode_group
from cluster.core.errors import Code
from cluster.core.transition import Transition
from cluster.stores.base import CorruptRecord, RunKey
from cluster.stores.sqlite import SqliteStore
from tests.history.commands import complete, timer
from tests.history.held_store import HeldStore
from tests.history.world import NAMESPACE, SHARD, World, play, refused

RARELY = ShardConfig(checkpoint_interval_ns=10_000_000_000_000)


def held() -> tuple[HeldStore, World]:
    store = HeldStore()
    return store, World(store, config=RARELY)


async def two_runs(world: World) -> RunKey:
    """"bad" and "good", both stored and out of memory. Returns the key of the bad one."""
    bad = RunKey(NAMESPACE.id, "bad", await world.start("bad"))
    await world.start("good")
    await world.settle()
    await world.checkpoint()
    await world.evict("bad")
    await world.evict("good")
    return bad


async def good_goes_on(world: World) -> None:
    await world.signal("good", "a")
    while (task := await world.take_task()).workflow_execution.workflow_id != "good":
        assert task.task_token, "the good run's task does not come"
    await world.answer(task, complete())
    assert (await world.event_names("good"))[-1] == "WorkflowExecutionCompleted"


def test_a_damaged_row_is_told_and_hurts_no_other_run() -> None:
    store, world = held()

    async def story(world: World) -> None:
        bad = await two_runs(world)
        store.corrupt.add(bad)
        error = await refused(world.describe("bad", bad.run_id))
        assert error.code is Code.DATA_LOSS and "corrupt" in error.message
        await world.signal("good", "a")
        assert len(await world.history_of("good")) == 3

    play(story, world)


def test_damaged_events_are_told_and_the_runs_state_is_still_readable() -> None:
    store, world = held()

    async def story(world: World) -> None:
        bad = await two_runs(world)
        await world.describe("bad")
        store.corrupt.add(bad)
        assert (await refused(world.history_of("bad"))).code is Code.DATA_LOSS
        await world.describe("bad")

    play(story, world)


def test_a_damaged_row_that_the_journal_builds_on_is_set_aside_at_the_replay() -> None:
    store, world = held()

    async def story(world: World) -> None:
        bad = await two_runs(world)
        await world.signal("bad", "acknowledged")
        await world.signal("good", "b")
        world.crash()
        store.corrupt.add(bad)
        await world.begin()
        for call in (world.describe("bad", bad.run_id), world.signal("bad", "c", run_id=bad.run_id)):
            assert (await refused(call)).code is Code.DATA_LOSS
        await good_goes_on(world)
        await world.settle()
        await world.checkpoint()
        world.crash()
        store.corrupt.clear()  # repaired: what was acknowledged is still in the journal
        await world.begin()
        assert len(await world.history_of("bad", bad.run_id)) == 3
        await good_is_complete(world)

    play(story, world)


async def good_is_complete(world: World) -> None:
    assert (await world.event_names("good"))[-1] == "WorkflowExecutionCompleted"


def test_an_entry_that_does_not_fit_sets_its_run_aside_and_nothing_else() -> None:
    store, world = held()

    async def story(world: World) -> None:
        bad = await two_runs(world)
        world.crash()
        _, last = await store.inner.journal_bounds(SHARD)
        lease = await store.inner.acquire(SHARD, "somebody with a bug")
        misfit = Entry(bad.namespace_id, bad.workflow_id, bad.run_id, 77, 0, [b"\x08\x4d"])
        await store.inner.append(lease, last + 1, encode_group([encode_entry(misfit)]))
        await world.begin()
        assert (await refused(world.describe("bad", bad.run_id))).code is Code.DATA_LOSS
        await good_goes_on(world)
        await world.checkpoint()
        assert (await store.inner.journal_bounds(SHARD))[0] <= last, "the evidence stays"

    play(story, world)


def test_a_row_of_a_newer_version_is_told_and_hurts_no_other_run() -> None:
    store, world = held()

    async def story(world: World) -> None:
        bad = await two_runs(world)
        row = await store.inner.load(SHARD, bad)
        lease = await store.inner.acquire(SHARD, "newer version")
        newer = type(row)(bad, b"\xff" + row.data[1:], row.is_current, row.is_open, row.wake_at, row.changed_position)
        await store.inner.checkpoint(lease, [newer], [], [], 0)
        await world.restart()
        assert (await refused(world.describe("bad", bad.run_id))).code is Code.DATA_LOSS
        await world.signal("good", "a")

    play(story, world)


def test_a_run_whose_timers_cannot_be_decided_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.core.due import decide_due as decide

    def poisoned(t: Transition) -> list[Transition]:
        if t.state.workflow_id == "bad":
            raise ValueError("poison")
        return decide(t)

    monkeypatch.setattr("cluster.history.service.decide_due", poisoned)

    async def story(world: World) -> None:
        await world.start("bad")
        await world.work(timer("t", 5))
        await world.start("good")
        await world.work(timer("t", 6))
        await world.settle(20)
        assert "TimerFired" not in await world.event_names("bad")
        assert "TimerFired" in await world.event_names("good")

    play(story)


def test_a_damaged_row_in_a_real_file_format_is_found_by_its_checksum() -> None:
    store = SqliteStore(":memory:")
    world = World(store, config=RARELY)

    async def story(world: World) -> None:
        bad = await two_runs(world)
        connection: sqlite3.Connection = store._lanes._connection  # type: ignore[attr-defined]
        connection.execute("UPDATE runs SET data = zeroblob(length(data)) WHERE workflow_id = 'bad'")
        with pytest.raises(CorruptRecord):
            await store.load(SHARD, bad)
        assert (await refused(world.describe("bad", bad.run_id))).code is Code.DATA_LOSS
        await world.signal("good", "a")
        await world.restart()
        assert (await refused(world.describe("bad", bad.run_id))).code is Code.DATA_LOSS
        assert len(await world.history_of("good")) == 3

    play(story, world)

