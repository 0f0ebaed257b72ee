"""Visibility follows the durable state: a moment behind, never ahead, and nothing is forgotten in an outage or a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from cluster.config import ShardConfig
from cluster.core.errors import Code
from cluster.stores.base import RunKey
from cluster.visibility.base import VisibilityRow, VisibilityUnavailable
from cluster.visibility.memory import MemoryVisibility
from tests.history.commands import complete
from tests.history.held_store import HeldStore
from tests.history.world import World, play, refused

RARELY = ShardConfig(checkpoint_interval_ns=10_000_000_000_000)


class Outage:
    """A visibility store that a test can switch off. `batches`: how many rows each accepted call had."""

    def __init__(self) -> None:
        self.inner: MemoryVisibility
        self.is_down = False
        self.batches: list[int] = []

    async def upsert(self, rows: Sequence[VisibilityRow]) -> None:
        if self.is_down:
            raise VisibilityUnavailable("down")
        self.batches.append(len(rows))
        await self.inner.upsert(rows)

    async def delete(self, keys: Sequence[RunKey]) -> None:
        if self.is_down:
            raise VisibilityUnavailable("down")
        await self.inner.delete(keys)


def with_outage(config: ShardConfig = RARELY) -> tuple[Outage, World]:
    outage = Outage()
    world = World(config=config, visibility=outage)
    outage.inner = world.index
    return outage, world


def test_rows_of_a_moment_are_written_together_and_each_run_once() -> None:
    outage, world = with_outage()

    async def story(world: World) -> None:
        for number in range(20):
            await world.start(f"w{number}")
        await world.terminate("w0")
        await world.settle()
        assert outage.batches == [20]
        assert sorted((await world.listed()).values()) == ["RUNNING"] * 19 + ["TERMINATED"]

    play(story, world)


def test_visibility_is_not_ahead_of_what_is_durable() -> None:
    store = HeldStore()

    async def story(world: World) -> None:
        run_id = await world.start("w")
        store.hold("append")  # the end is decided, and will never be durable
        ending = asyncio.ensure_future(refused(world.terminate("w")))
        await world.settle()
        assert await world.listed() == {run_id: "RUNNING"}
        world.crash()
        assert (await ending_or_death(ending)) is not None
        store.release("append")
        await world.begin()
        await world.settle()
        shown = (await world.describe("w")).workflow_execution_info.status
        assert (await world.listed())[run_id] == ("RUNNING" if shown == 1 else "TERMINATED")

    play(story, World(store, config=RARELY))


def test_a_row_shows_what_became_durable_and_not_what_came_after() -> None:
    store = HeldStore()

    async def story(world: World) -> None:
        store.hold("append")
        starting = asyncio.ensure_future(world.start("w"))
        await world.settle()
        ending = asyncio.ensure_future(world.terminate("w"))
        await world.settle()
        store.let_one_go("append")
        run_id = await starting
        await world.settle()
        assert await world.listed() == {run_id: "RUNNING"}
        store.release("append")
        await ending
        await world.settle()
        assert await world.listed() == {run_id: "TERMINATED"}

    play(story, World(store, config=RARELY))


async def ending_or_death(job: asyncio.Future[Any]) -> BaseException | None:
    try:
        await job
    except Exception as error:
        return error
    return None


def test_an_outage_stops_no_workflow_and_is_made_up_for() -> None:
    outage, world = with_outage()

    async def story(world: World) -> None:
        outage.is_down = True
        run_id = await world.start("w")
        await world.work(complete())
        await world.settle(60)
        assert await world.listed() == {}
        outage.is_down = False
        await world.settle(6)
        assert await world.listed() == {run_id: "COMPLETED"}

    play(story, world)


def test_what_visibility_has_not_taken_survives_a_checkpoint_and_a_crash() -> None:
    outage, world = with_outage()

    async def story(world: World) -> None:
        outage.is_down = True
        open_run = await world.start("open")
        closed_run = await world.start("closed")
        await world.terminate("closed")
        await world.checkpoint()
        world.crash()
        outage.is_down = False
        await world.begin()
        await world.settle()
        assert await world.listed() == {open_run: "RUNNING", closed_run: "TERMINATED"}

    play(story, world)


def test_a_row_that_was_owed_at_the_checkpoint_is_owed_after_a_replay_on_top_of_it() -> None:
    outage, world = with_outage()

    async def story(world: World) -> None:
        outage.is_down = True
        run_id = await world.start("w")
        await world.checkpoint()
        await world.signal("w", "a")  # changes nothing that lists show
        world.crash()
        outage.is_down = False
        await world.begin()
        await world.settle()
        assert await world.listed() == {run_id: "RUNNING"}

    play(story, world)


def test_a_change_that_became_durable_during_a_checkpoint_is_still_owed() -> None:
    store = HeldStore()
    world = World(store, config=RARELY)

    async def story(world: World) -> None:
        run_id = await world.start("w")
        await world.settle()
        store.hold("append")
        ending = asyncio.ensure_future(world.terminate("w"))
        await world.settle()
        checkpoint = asyncio.ensure_future(world.checkpoint())
        await world.settle()
        store.release("append")
        await asyncio.gather(ending, checkpoint)
        world.crash()  # before the feed's next write
        await world.begin()
        await world.settle()
        assert await world.listed() == {run_id: "TERMINATED"}

    play(story, world)


def test_a_deletion_is_remembered_until_visibility_has_taken_it() -> None:
    outage, world = with_outage()

    async def story(world: World) -> None:
        run_id = await world.start("w")
        await world.settle()
        outage.is_down = True
        await world.delete("w")
        await world.checkpoint()
        assert list(await world.listed()) == [run_id]
        world.crash()
        await world.begin()
        assert (await refused(world.describe("w", run_id))).code is Code.NOT_FOUND
        outage.is_down = False
        await world.settle(12)
        assert await world.listed() == {}
        await world.checkpoint()
        assert await world.stored("w", run_id) is None

    play(story, world)


def test_a_row_that_shows_the_run_as_it_is_gets_its_real_time() -> None:
    async def story(world: World) -> None:
        run_id = await world.start("w")
        await world.terminate("w")
        await world.checkpoint()
        key = RunKey("ns-id", "w", run_id)
        row = await world.store.load(world.shard.id, key)
        assert row is not None and row.wake_at == 0, "its visibility row is owed"
        await world.settle()
        await world.checkpoint()
        row = await world.store.load(world.shard.id, key)
        assert row is not None and row.wake_at, "the end of its retention"

    play(story, World(config=RARELY))


def test_a_long_outage_does_not_rewrite_the_same_rows_again_and_again() -> None:
    outage = Outage()
    store = HeldStore()
    world = World(store, visibility=outage)
    outage.inner = world.index

    async def story(world: World) -> None:
        outage.is_down = True
        for number in range(10):
            await world.start(f"w{number}")
        await world.settle(20)
        rows_before = sum(len(arguments[1]) for name, arguments in store.calls if name == "checkpoint")
        await world.settle(100)
        rows = sum(len(arguments[1]) for name, arguments in store.calls if name == "checkpoint")
        assert rows == rows_before == 10

    play(story, world)
