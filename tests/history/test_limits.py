"""A run whose history grows too long is ended with the reason, whatever the call was that made it too long."""

from __future__ import annotations

import pytest
from temporalio.api.enums.v1 import WorkflowExecutionStatus

from chaos.sim.loop import simulate
from cluster.config import Limits
from cluster.core.machines.history_limits import COUNT_REASON
from tests.history.world import World


async def is_running(world: World) -> bool:
    status = (await world.describe("w")).workflow_execution_info.status
    return status == WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING


@pytest.mark.parametrize("events_max", [2, 3, 4, 5])
def test_a_history_that_is_too_long_ends_the_run_at_any_call(events_max: int) -> None:
    async def story() -> None:
        world = World(limits=Limits(history_events_max=events_max))
        await world.begin()
        await world.start("w")
        await world.signal("w")
        if await is_running(world):
            task = await world.take_task(wait_s=1.0)
            if task.task_token:
                await world.answer(task)
                for name in ("b", "c"):
                    if await is_running(world):
                        await world.signal("w", name)
        events = await world.history_of("w")
        assert events[-1].workflow_execution_terminated_event_attributes.reason == COUNT_REASON
        await world.close()

    simulate(story())
