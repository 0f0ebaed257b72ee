"""A refusal rests only on what is durable, also when it is not a client that is refused."""

from __future__ import annotations

import asyncio

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.history.v1 import HistoryEvent

from cluster.core.errors import Code
from cluster.core.state import ParentLink
from tests.history.held_store import HeldStore
from tests.history.world import NAMESPACE, World, play, refused


def test_a_child_is_not_told_that_its_parent_is_gone_before_that_is_durable() -> None:
    store = HeldStore()

    async def story(world: World) -> None:
        parent = ParentLink(NAMESPACE.name, NAMESPACE.id, "parent", await world.start("parent"), 5)
        store.hold("append")
        deleting = asyncio.ensure_future(world.delete("parent"))
        await world.settle()
        history, child = world.history, WorkflowExecution(workflow_id="child", run_id="r")
        telling = asyncio.ensure_future(refused(world.inside(lambda: history.tell_parent(parent, child, HistoryEvent()))))
        await world.settle()
        assert not telling.done(), "a crash now would bring the parent back"
        store.release("append")
        assert (await telling).code is Code.NOT_FOUND
        await deleting

    play(story, World(store))  # type: ignore[arg-type]
