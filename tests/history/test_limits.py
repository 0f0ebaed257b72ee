"""A run whose history grows too long is ended with the reason, whatever the call was that made it too long."""

from __future__ import annotations

import pytest
from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest

from chaos.sim.loop import simulate
from cluster.config import Limits
from cluster.core.machines.history_limits import COUNT_REASON
from cluster.history.events import page_end
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


@pytest.mark.parametrize(("sizes", "count"), [([], 0), ([9], 1), ([10], 1), ([11], 1), ([5, 5], 2), ([5, 6], 1), ([11, 1], 1)])
def test_a_page_of_history_ends_before_the_event_that_goes_beyond_its_bytes(sizes: list[int], count: int) -> None:
    assert page_end([bytes(size) for size in sizes], 10) == count


def test_a_history_larger_than_a_page_is_read_whole_page_by_page() -> None:
    async def story() -> None:
        world = World(limits=Limits(history_page_bytes_max=300))
        await world.begin()
        await world.start("w")
        for number in range(8):
            await world.signal("w", f"signal-{number}")
        request = GetWorkflowExecutionHistoryRequest()
        request.execution.workflow_id = "w"
        ids: list[int] = []
        pages_count = 0
        while True:
            answer = await world.call("get_workflow_execution_history", "w", request)
            ids += [event.event_id for event in answer.history.events]
            pages_count += 1
            request.next_page_token = answer.next_page_token
            if not request.next_page_token:
                break
        assert ids == list(range(1, 11))
        assert pages_count > 2
        await world.close()

    simulate(story())
