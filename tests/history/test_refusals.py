"""A refusal rests only on what is durable, also when it is not a client that is refused."""

from __future__ import annotations

import asyncio

from cluster.core.errors import Code
from cluster.core.state import ParentLink
from cluster.history.between_runs import TellParent
from tests.history.held_store import HeldStore
from tests.history.world import NAMESPACE, World, play, refused


def test_a_child_is_not_told_that_its_parent_is_gone_before_that_is_durable() -> None:
    store = HeldStore()

    async def story(world: World) -> None:
        parent = ParentLink(NAMESPACE.name, NAMESPACE.id, "parent", await world.start("parent"), 5)
        store.hold("append")
        deleting = asyncio.ensure_future(world.delete("parent"))
        await world.settle()
        history, news = world.history, TellParent(parent=parent, child_workflow_id="child", child_run_id="r", close=b"")
        telling = asyncio.ensure_future(refused(world.inside(lambda: history.perform(news))))
        await world.settle()
        assert not telling.done(), "a crash now would bring the parent back"
        store.release("append")
        assert (await telling).code is Code.NOT_FOUND
        await deleting

    play(story, World(store))
