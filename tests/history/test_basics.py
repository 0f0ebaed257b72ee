"""The shortest stories: what is acknowledged survives a crash, whatever was checkpointed."""

from __future__ import annotations

import pytest

from tests.history.commands import activity, complete, timer
from tests.history.world import World, play


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_what_was_acknowledged_is_there_after_a_crash(is_checkpointed: bool) -> None:
    async def story(world: World) -> None:
        run_id = await world.start("w")
        await world.signal("w", "a")
        if is_checkpointed:
            await world.checkpoint()
        await world.signal("w", "b")
        await world.check_replay()
        assert await world.event_names("w") == [
            "WorkflowExecutionStarted",
            "WorkflowTaskScheduled",
            "WorkflowExecutionSignaled",
            "WorkflowExecutionSignaled",
        ]
        assert (await world.describe("w")).workflow_execution_info.execution.run_id == run_id

    play(story)


def test_a_run_with_tasks_timers_and_activities_comes_to_its_end_through_crashes_at_every_step() -> None:
    async def story(world: World) -> None:
        await world.start("w")
        await world.check_replay()
        await world.work(activity("a"), timer("t", 5))
        await world.check_replay()
        await world.complete_activity(await world.take_activity())
        await world.check_replay()
        await world.work()
        await world.check_replay()
        await world.settle(6)
        await world.work(complete())
        await world.check_replay()
        assert (await world.event_names("w"))[-1] == "WorkflowExecutionCompleted"

    play(story)
