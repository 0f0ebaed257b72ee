"""A node has some of the shards: it takes and releases them, refuses calls for the others, and does not fight for a lost one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice import v1 as api

from chaos.sim.loop import running_loop
from cluster.core.errors import CallerError, Code
from cluster.history.between_runs import EndChild
from cluster.history.ownership import CALLS_END_S_MAX, NotHere
from cluster.matching.tasks import QueueKey, TaskKind
from cluster.stores.base import LeaseLost, StoreUnavailable, StoreUnknown
from tests.history.held_store import HeldStore
from tests.history.world import NAMESPACE, SHARD, World, play, refused

WORKFLOWS = QueueKey(NAMESPACE.id, "tq", TaskKind.WORKFLOW)


def held() -> tuple[HeldStore, World]:
    store = HeldStore()
    return store, World(store)


async def release(world: World) -> bool:
    return bool(await world.inside(lambda: world.history.release(0)))


async def take(world: World) -> None:
    await world.inside(lambda: world.history.take(0))


def test_a_shard_that_was_released_is_not_here_and_comes_back_whole() -> None:
    async def story(world: World) -> None:
        await world.start("w")
        await world.signal("w", "a")
        before = world.states()
        assert await release(world)
        assert world.history.owned == frozenset()
        end = EndChild(
            namespace_id=NAMESPACE.id,
            workflow_id="w",
            by_workflow_id="p",
            by_run_id="",
            first_run_id="x",
            start_request_id="",
            policy=1,
        )
        for call in (
            lambda: world.signal("w", "b"),
            lambda: world.inside(lambda: world.history.perform(end)),
            lambda: world.inside(lambda: world.history.backlog(WORKFLOWS, 0, 0, 10)),
        ):
            with pytest.raises(NotHere):
                await call()
        assert not world.history.outstanding.backlog_count(WORKFLOWS), "the next owner offers"
        assert not await release(world), "there is nothing to release any more"
        await take(world)
        assert world.states() == before
        assert world.history.owned == {0}
        assert world.history.outstanding.backlog_count(WORKFLOWS) == 1

    play(story)


def test_a_release_leaves_nothing_to_replay() -> None:
    store, world = held()

    async def story(world: World) -> None:
        await world.start("w")
        assert await release(world)
        truncated_to, last = await store.inner.journal_bounds(SHARD)
        assert truncated_to == last > 0

    play(story, world)


def test_a_release_lets_a_call_end_that_is_under_way() -> None:
    store, world = held()

    async def story(world: World) -> None:
        await world.start("w")
        store.hold("append")
        signaling = asyncio.ensure_future(world.signal("w", "a"))
        await world.settle(0.1)
        releasing = asyncio.ensure_future(release(world))
        await world.settle(0.1)
        assert not releasing.done()
        store.release("append")
        await signaling
        await releasing
        await take(world)
        assert "WorkflowExecutionSignaled" in await world.event_names("w")

    play(story, world)


def test_a_release_does_not_wait_for_a_long_poll() -> None:
    async def story(world: World) -> None:
        await world.start("w")
        execution = WorkflowExecution(workflow_id="w")
        request = api.GetWorkflowExecutionHistoryRequest(execution=execution, wait_new_event=True)
        request.next_page_token = (await world.call("get_workflow_execution_history", "w", request)).next_page_token
        waiting = asyncio.ensure_future(refused(world.call("get_workflow_execution_history", "w", request, deadline_s=60)))
        await world.settle(0.1)
        began = running_loop().time()
        await release(world)
        assert running_loop().time() - began < CALLS_END_S_MAX / 2
        assert (await waiting).code is Code.UNAVAILABLE

    play(story)


def test_a_release_ends_although_a_call_never_does() -> None:
    store, world = held()

    async def story(world: World) -> None:
        await world.start("w")
        await world.settle()
        await world.checkpoint()
        await world.evict("w")
        store.hold("current_run")
        stuck = asyncio.ensure_future(world.describe("w"))
        await world.settle(0.1)
        await asyncio.wait_for(release(world), CALLS_END_S_MAX + 0.5)
        store.release("current_run")
        with pytest.raises(CallerError):
            await stuck

    play(story, world)


def test_two_who_ask_for_a_release_wait_for_one_and_its_caller_may_give_up() -> None:
    store, world = held()

    async def story(world: World) -> None:
        await world.start("w")
        store.hold("checkpoint")
        first, second = (asyncio.ensure_future(release(world)) for _ in range(2))
        await world.settle(0.1)
        first.cancel()
        await world.settle(0.1)
        store.release("checkpoint")
        assert await second
        assert world.history.ownership.is_empty

    play(story, world)


def test_what_is_taken_while_it_leaves_is_taken_when_it_has_left() -> None:
    store, world = held()

    async def story(world: World) -> None:
        await world.start("w")
        store.hold("checkpoint")
        leaving = asyncio.ensure_future(release(world))
        await world.settle(0.1)
        taking = asyncio.ensure_future(take(world))
        await world.settle(0.1)
        assert not taking.done()
        store.release("checkpoint")
        await leaving
        await taking
        await world.signal("w", "a")

    play(story, world)


def test_a_shard_that_is_released_while_it_opens_is_closed() -> None:
    store, world = held()

    async def story(world: World) -> None:
        await world.start("w")
        await release(world)
        store.hold("journal_bounds")
        taking = asyncio.ensure_future(take(world))
        await world.settle(0.1)
        leaving = asyncio.ensure_future(release(world))
        await world.settle(0.1)
        assert not leaving.done()
        store.release("journal_bounds")
        with pytest.raises(NotHere):
            await taking
        assert await leaving
        assert world.history.ownership.is_empty and not world.history._shards

    play(story, world)


# --- losing -----------------------------------------------------------------------------------------------------------------


def test_a_lost_lease_is_told_of_and_not_fought_for() -> None:
    store, world = held()

    async def story(world: World) -> None:
        lost: list[int] = []
        world.history.ownership.on_lease_lost = lost.append
        await world.start("w")
        lease = await store.inner.acquire(SHARD, "thief")
        assert (await refused(world.signal("w", "a"))).code is Code.UNAVAILABLE
        with pytest.raises(NotHere):
            await world.signal("w", "a")
        await world.settle(60)
        assert lost == [0] and world.history.owned == frozenset()
        await store.inner.checkpoint(lease, [], [], [], 0)  # it is the thief's still

    play(story, world)


@pytest.mark.parametrize("failure", [StoreUnavailable("down"), StoreUnknown("?")])
def test_a_shard_that_failed_is_opened_again_only_if_it_still_should_be_here(failure: Exception) -> None:
    store, world = held()

    async def story(world: World) -> None:
        world.history.ownership.on_lease_lost = lambda number: None
        await world.start("w")
        store.fail("append", failure)
        assert (await refused(world.signal("w", "a"))).code is Code.UNAVAILABLE
        await world.signal("w", "a")
        world.history.ownership.may_open = lambda number: False
        store.fail("append", failure)
        assert (await refused(world.signal("w", "b"))).code is Code.UNAVAILABLE
        acquired = store.count("acquire")
        await world.settle(10)
        with pytest.raises(NotHere):
            await world.signal("w", "b")
        assert store.count("acquire") == acquired

    play(story, world)


def test_a_lease_lost_while_opening_ends_the_opening() -> None:
    store, world = held()

    async def story(world: World) -> None:
        lost: list[int] = []
        await world.start("w")
        await release(world)
        world.history.ownership.on_lease_lost = lost.append
        store.fail("journal_bounds", LeaseLost("already"))
        with pytest.raises(NotHere):
            await take(world)
        assert lost == [0]

    play(story, world)


def test_a_lease_that_somebody_else_has_is_found_out_by_asking() -> None:
    store, world = held()

    async def story(world: World) -> None:
        lost: list[int] = []
        world.history.ownership.on_lease_lost = lost.append
        await world.start("w")
        await world.settle(10)  # checkpointed: it has nothing to write

        async def confirm() -> None:
            await world.inside(lambda: world.history.ownership.confirm(0))

        store.fail("checkpoint", StoreUnavailable("down"))
        await confirm()
        await confirm()
        assert lost == [], "it is still ours, whether the store can say so or not"
        await store.inner.acquire(SHARD, "thief")
        await confirm()
        assert lost == [0]

    play(story, world)


def test_a_row_of_a_later_owner_ends_the_former_one() -> None:
    """Reads are not fenced: what it shows a stale owner is that it is one."""
    store = HeldStore()

    async def story(world: World) -> None:
        await world.start("w")
        await world.settle()
        await world.checkpoint()
        await world.evict("w")
        other = World(store)
        other.clock, other._slot = world.clock, type(world._slot)("other", other._build)
        await other._slot.start()
        await other.signal("w", "a")
        await other.checkpoint()
        lost: list[int] = []
        world.history.ownership.on_lease_lost = lost.append
        assert (await refused(world.describe("w"))).code is Code.UNAVAILABLE
        assert lost == [0]
        assert "WorkflowExecutionSignaled" in await other.event_names("w")
        other._slot.crash()

    play(story, World(store))


def test_a_node_that_owns_some_shards_serves_only_those() -> None:
    async def story(world: World) -> None:
        names = [f"w{number}" for number in range(20)]
        for name in names:
            await world.start(name)
        history = world.history
        await world.inside(lambda: history.release(1))
        assert history.owned == {0, 2}
        for name in names:
            if history.shard_number(NAMESPACE.id, name) == 1:
                with pytest.raises(NotHere):
                    await world.describe(name)
            else:
                assert await world.describe(name)

    play(story, World(shards_count=3))


def test_a_closing_node_waits_for_shards_that_leave() -> None:
    store, world = held()

    async def story(world: World) -> None:
        await world.start("w")
        store.hold("checkpoint")
        leaving = asyncio.ensure_future(release(world))
        await world.settle(0.1)
        closing: asyncio.Future[Any] = asyncio.ensure_future(world.inside(world.history.close))
        await world.settle(0.1)
        assert not closing.done()
        store.release("checkpoint")
        await closing
        assert await leaving
        with pytest.raises(CallerError):
            await world.inside(lambda: world.history.take(0))

    play(story, world)
