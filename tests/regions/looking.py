"""What the behaviours look at, in one region or the other."""

from __future__ import annotations

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueRequest,
)
from temporalio.service import RPCError, RPCStatusCode

from tests.regions.regions import NAMESPACE, Regions, eventually
from tests.regions.workflows import QUEUE, Letters


async def has_told(c: Regions, name: str, workflow_id: str, words: list[str]) -> bool:
    try:
        told = await c.clients[name].get_workflow_handle(workflow_id).query(Letters.so_far)
    except RPCError:
        return False
    return set(words) <= set(told)


async def has_event(c: Regions, name: str, workflow_id: str, kind: int) -> bool:
    return any(event.event_type == kind for event in await c.history(name, workflow_id))


async def has_runs(c: Regions, name: str, count: int) -> bool:
    return len(await c.executions(name)) == count


async def is_gone(c: Regions, name: str) -> bool:
    try:
        await c.describe(name)
    except RPCError as error:
        return error.status is RPCStatusCode.NOT_FOUND
    return False


async def next_run(c: Regions, name: str, workflow_id: str, runs: list[str]) -> str:
    """The id of the current run, once it is none of those."""
    found = ""

    async def has_come() -> bool:
        nonlocal found
        found = (await c.clients[name].get_workflow_handle(workflow_id).describe()).run_id
        return found not in runs

    await eventually(has_come, "the next run")
    return found


async def poll(c: Regions, name: str):  # type: ignore[no-untyped-def]
    return await c.clients[name].workflow_service.poll_workflow_task_queue(
        PollWorkflowTaskQueueRequest(namespace=NAMESPACE, task_queue=TaskQueue(name=QUEUE), identity="by hand")
    )


async def reset(c: Regions, workflow_id: str, run_id: str) -> str:
    from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest

    events = await c.history("c1", workflow_id, run_id)
    done = next(one for one in events if one.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
    answer = await c.one.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
            workflow_task_finish_event_id=done.event_id,
            request_id="reset",
        )
    )
    return answer.run_id
