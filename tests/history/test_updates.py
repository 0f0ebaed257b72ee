"""Updates and the end of their run: a caller is told what to do, and a retry comes to an end."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import Code
from tests.history.commands import continue_as_new
from tests.history.world import World, name_of, play, refused


def update(workflow_id: str, run_id: str = "") -> api.UpdateWorkflowExecutionRequest:
    request = api.UpdateWorkflowExecutionRequest()
    request.workflow_execution.workflow_id, request.workflow_execution.run_id = workflow_id, run_id
    request.request.meta.update_id, request.request.input.name = "u", "change"
    return request


def test_an_update_cut_off_by_continue_as_new_is_refused_for_the_old_run_and_goes_to_the_new_one() -> None:
    async def story(world: World) -> None:
        old = await world.start("w")
        await world.work()

        def send(run_id: str = "") -> Any:
            return world.call("update_workflow_execution", "w", update("w", run_id))

        waiting = asyncio.ensure_future(refused(send(old)))
        task = await world.take_task()
        await world.answer(task, continue_as_new())  # without a word about the update
        assert (await waiting).code is Code.UNAVAILABLE, "retry"
        assert (await refused(send(old))).code is Code.NOT_FOUND, "and the retry is told for good"
        unpinned = asyncio.ensure_future(refused(send()))
        await world.settle()
        task = await world.take_task()
        assert task.workflow_execution.run_id != old and [message.protocol_instance_id for message in task.messages] == ["u"]
        await world.terminate("w")
        assert (await unpinned).code is Code.NOT_FOUND
        assert name_of((await world.history_of("w"))[-1]) == "WorkflowExecutionTerminated"

    play(story)


def test_an_update_that_waits_survives_a_crash() -> None:
    async def story(world: World) -> None:
        await world.start("w")
        await world.work()
        waiting = asyncio.ensure_future(world.call("update_workflow_execution", "w", update("w")))
        await world.settle(0.1)
        await world.restart()
        await asyncio.wait([waiting])
        assert waiting.exception() is not None, "its caller has lost the connection"
        task = await world.take_task()
        assert [message.protocol_instance_id for message in task.messages] == ["u"]

    play(story)
