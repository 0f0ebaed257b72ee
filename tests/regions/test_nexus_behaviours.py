"""Behaviours of replication.md section 9 about Nexus: errors and cancellations between regions, and across failovers."""

from __future__ import annotations

import asyncio
from functools import partial

import nexusrpc
import pytest
from temporalio import workflow
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import PollWorkflowTaskQueueRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError, NexusOperationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.nexus.services import Call, Cancels, Handler
from tests.nexus.stage import ENDPOINT, QUEUE, of_nexus
from tests.nexus.test_regions import at_handlers, callers, handlers, history, started, two_regions
from tests.regions.regions import NAMESPACE, Regions, eventually

WAITS_FOR_THE_END = int(workflow.NexusOperationCancellationType.WAIT_COMPLETED)
RESULT_S = 30


def cancelling(client: Client) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[Cancels],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_cached_workflows=0,
    )


async def has_in_history(c: Regions, name: str, workflow_id: str, event: str) -> bool:
    return event in of_nexus(await history(c, name, workflow_id))


# --- forwarded --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("word", "kind", "told"),
    [
        ("failed", ApplicationError, "bad luck"),
        ("canceled", CancelledError, "stopped"),
        ("never", nexusrpc.HandlerError, "wrong"),
    ],
)
async def test_nexus_start_operation_forwarded_tells_the_errors_of_the_other_region(
    word: str, kind: type[Exception], told: str
) -> None:
    """The handler is in c2, its caller in c1: what it refuses with arrives as from here, and is not tried again."""
    handler = Handler()
    async with two_regions() as c, callers(c.one), handlers(await at_handlers(c, "c2"), handler):
        handle = await c.one.start_workflow(Call.run, args=["refuse", word], id="w", task_queue=QUEUE)
        with pytest.raises(WorkflowFailureError) as caught:
            await asyncio.wait_for(handle.result(), RESULT_S)
    error = caught.value.cause
    assert isinstance(error, NexusOperationError) and isinstance(error.cause, kind) and told in str(error.cause)
    assert handler.calls["refuse"] == 1


async def test_nexus_cancel_forwarded() -> None:
    """The caller in c1 cancels; the handler, and the workflow behind the operation, are in c2."""
    async with two_regions() as c, cancelling(c.one), handlers(await at_handlers(c, "c2"), Handler()):
        handle = await c.one.start_workflow(
            Cancels.run, args=["run", "wait", WAITS_FOR_THE_END], id="w", task_queue=QUEUE
        )
        assert await asyncio.wait_for(handle.result(), RESULT_S) == "CancelledError"
        seen = of_nexus(await history(c, "c1", "w"))
        assert set(seen) == {"SCHEDULED", "STARTED", "CANCEL_REQUESTED", "CANCEL_REQUEST_COMPLETED", "CANCELED"}
        await c.agree()


# --- across a failover --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("is_asked_before", [True, False])
async def test_nexus_cancelation_replicated(is_asked_before: bool) -> None:
    """Started in c1, canceled in c2: the request was made before the failover and nobody had heard it, or after it."""
    args = ["run", "wait", WAITS_FOR_THE_END, ENDPOINT, True]
    async with two_regions() as c:
        there = await at_handlers(c, "c2")
        async with cancelling(c.one):
            async with handlers(there, Handler()):
                await c.one.start_workflow(Cancels.run, args=args, id="w", task_queue=QUEUE)
                await eventually(lambda: started(c, "w"), "the operation has begun")
            if is_asked_before:
                await c.one.get_workflow_handle("w").signal("go")
                await eventually(partial(has_in_history, c, "c1", "w", "CANCEL_REQUESTED"), "the request")
        await c.agree()
        await c.fail_over("c2")
        if not is_asked_before:
            await c.two.get_workflow_handle("w").signal("go")
        async with cancelling(c.two), handlers(there, Handler()):
            result = await asyncio.wait_for(c.two.get_workflow_handle("w").result(), RESULT_S)
        assert result == "CancelledError"
        await c.agree()
        seen = of_nexus(await history(c, "c1", "w"))
        assert sorted(seen) == sorted(["SCHEDULED", "STARTED", "CANCEL_REQUESTED", "CANCEL_REQUEST_COMPLETED", "CANCELED"])


async def test_nexus_buffered_completion() -> None:
    """The result comes while a workflow task is started in c1, and the region is left before its worker answers."""
    async with two_regions() as c:
        there = await at_handlers(c, "c2")
        async with handlers(there, Handler()):
            async with callers(c.one):
                handle = await c.one.start_workflow(Call.run, args=["run", "wait"], id="w", task_queue=QUEUE)
                await eventually(lambda: started(c, "w"), "the operation has begun")
            begun = next(
                one for one in await history(c, "c1", "w") if one.HasField("nexus_operation_started_event_attributes")
            )
            await c.one.get_workflow_handle("w").signal("whatever")  # a workflow task for it, which nobody answers
            task = await c.one.workflow_service.poll_workflow_task_queue(
                PollWorkflowTaskQueueRequest(namespace=NAMESPACE, task_queue=TaskQueue(name=QUEUE), identity="by hand")
            )
            assert task.task_token
            backing = there.get_workflow_handle(begun.links[0].workflow_event.workflow_id)
            await backing.signal("tell", "moved")
            await backing.result()
            await eventually(partial(_is_over, c), "the result is buffered in both regions")
            assert not await has_in_history(c, "c1", "w", "COMPLETED"), "it has no event while the task is started"
        await c.fail_over("c2")
        async with callers(c.two):
            assert await asyncio.wait_for(c.two.get_workflow_handle("w").result(), RESULT_S) == "told moved"
        await c.agree()
        assert handle.id == "w"
        assert of_nexus(await history(c, "c1", "w")) == ["SCHEDULED", "STARTED", "COMPLETED"]


async def _is_over(c: Regions) -> bool:
    """Every region has the run, and in its buffer what has no event yet."""
    found = []
    for name in c.names:
        for shard in c.nodes[name].history.ownership.open.values():
            found += [run.state for key, run in shard.runs.items() if key.workflow_id == "w"]
    return len(found) == len(c.names) and all(state.buffered for state in found)
