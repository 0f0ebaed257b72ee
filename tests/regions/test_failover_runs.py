"""Behaviours of replication.md section 9: crons, retries, updates and children in the other region, and what is refused."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio.api.common.v1 import WorkflowType
from temporalio.api.replication.v1 import NamespaceReplicationConfig
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    StartWorkflowExecutionRequest,
)
from temporalio.client import WorkflowFailureError, WorkflowUpdateStage
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from tests.regions.looking import has_runs, has_told, is_gone, next_run
from tests.regions.regions import HERE_ONLY, NAMESPACE, NORMAL, eventually, regions
from tests.regions.workflows import QUEUE, Fails, Letters, Parent, Tick, worker


async def test_cron_workflow_start_and_failover() -> None:
    async with regions() as c:
        handle = await c.one.start_workflow(Tick.run, id="w", task_queue=QUEUE, cron_schedule="@every 2s")
        await c.agree()
        await c.fail_over("c2")
        async with worker(c.two):
            first = handle.first_execution_run_id or ""
            assert await c.two.get_workflow_handle("w", run_id=first).result(follow_runs=False) == "tick"
            await next_run(c, "c2", "w", [first])
        await handle.terminate()
        await c.agree()


async def test_cron_workflow_complete_and_failover() -> None:
    """The run that waits for its time when the namespace moves starts once, in the other region."""
    async with regions() as c:
        handle = await c.one.start_workflow(Tick.run, id="w", task_queue=QUEUE, cron_schedule="@every 2s")
        first = handle.first_execution_run_id or ""
        async with worker(c.one):
            await c.one.get_workflow_handle("w", run_id=first).result(follow_runs=False)
            second = await next_run(c, "c1", "w", [first])
        await c.agree()
        await c.fail_over("c2")
        async with worker(c.two):
            assert await c.two.get_workflow_handle("w", run_id=second).result(follow_runs=False) == "tick"
        await c.two.get_workflow_handle("w").terminate()
        for name in c.names:
            await eventually(lambda name=name: has_runs(c, name, 3), f"three runs in {name}")  # type: ignore[misc]
        await c.agree()


async def test_workflow_retry_start_and_fail_and_failover() -> None:
    """Between two attempts: the next one is begun in the other region, with its number."""
    from temporalio.common import RetryPolicy

    async with regions() as c:
        policy = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=5)
        handle = await c.one.start_workflow(Fails.run, 3, id="w", task_queue=QUEUE, retry_policy=policy)
        first = handle.first_execution_run_id or ""
        async with worker(c.one):
            with pytest.raises(WorkflowFailureError):
                await c.one.get_workflow_handle("w", run_id=first).result(follow_runs=False)
        await c.agree()
        await c.fail_over("c2")
        async with worker(c.two):
            assert await handle.result() == 3
        await c.agree()


async def test_accepted_update_can_be_completed_after_failover_and_failback() -> None:
    async with regions() as c:
        async with worker(c.one):
            handle = await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
            update = await handle.start_update(Letters.ask_until, "word", wait_for_stage=WorkflowUpdateStage.ACCEPTED, id="u")
        await c.agree()
        await c.fail_over("c2")
        await c.agree()
        await c.fail_over("c1")
        async with worker(c.one):
            await handle.signal(Letters.tell, "word")
            assert await update.result() == "seen word"
            assert await c.two.get_workflow_handle("w").get_update_handle("u", result_type=str).result() == "seen word"
        await c.agree()


async def test_conflict_resolution_get_result() -> None:
    """A client that waits for the result while the namespace moves gets it, whichever region it asked."""
    async with regions() as c:
        handle = await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
        waiting = [asyncio.create_task(client.get_workflow_handle("w").result()) for client in (c.one, c.two)]
        await c.agree()
        await c.fail_over("c2")
        async with worker(c.two):
            await handle.signal(Letters.tell, "end")
            assert [sorted(result) for result in await asyncio.gather(*waiting)] == [["a", "end"], ["a", "end"]]


async def test_regional_failover_then_start_same_id() -> None:
    async with regions() as c:
        first = await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
        await c.agree()
        await c.fail_over("c2")
        with pytest.raises(WorkflowAlreadyStartedError) as refused:
            await c.two.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
        assert refused.value.run_id == first.first_execution_run_id


async def test_request_ids_are_known_after_a_failover() -> None:
    """I10: a start or a signal that is repeated in the other region happened once."""
    async with regions() as c:
        request = StartWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_id="w",
            workflow_type=WorkflowType(name="letters"),
            task_queue=TaskQueue(name=QUEUE),
            request_id="the same",
        )
        first = await c.one.workflow_service.start_workflow_execution(request)
        await c.agree()
        await c.fail_over("c2")
        again = await c.two.workflow_service.start_workflow_execution(request)
        assert again.run_id == first.run_id


async def test_parent_and_child_go_on_in_the_other_region() -> None:
    async with regions() as c:
        async with worker(c.one):
            handle = await c.one.start_workflow(Parent.run, "child", id="parent", task_queue=QUEUE)
            await eventually(lambda: has_told(c, "c1", "child", ["child"]), "the child runs")
        await c.agree()
        await c.fail_over("c2")
        async with worker(c.two):
            await c.two.get_workflow_handle("child").signal("tell", "end")
            assert await handle.result() == ["child", "end"]
        await c.agree()


async def test_what_a_passive_region_is_asked_and_may_not_answer_says_where_to_go() -> None:
    async with regions() as c:
        with pytest.raises(RPCError) as refused:
            await c.two.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE, rpc_metadata=HERE_ONLY)
        assert refused.value.status is RPCStatusCode.FAILED_PRECONDITION
        assert "active in cluster: c1" in refused.value.message


async def test_block_namespace_delete_in_passive_cluster() -> None:
    from temporalio.api.operatorservice.v1 import DeleteNamespaceRequest

    async with regions() as c:
        with pytest.raises(RPCError) as refused:
            await c.two.operator_service.delete_namespace(DeleteNamespaceRequest(namespace=NAMESPACE))
        assert refused.value.status is RPCStatusCode.FAILED_PRECONDITION
        await c.one.operator_service.delete_namespace(DeleteNamespaceRequest(namespace=NAMESPACE))
        await eventually(lambda: is_gone(c, "c2"), "the namespace is deleted in c2, too")


async def test_a_handover_ends_where_it_was_given_up() -> None:
    async with regions() as c:
        from tests.regions.regions import HANDOVER

        await c.update("c1", replication_config=NamespaceReplicationConfig(state=HANDOVER))
        waiting = asyncio.create_task(c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await c.update("c1", replication_config=NamespaceReplicationConfig(state=NORMAL))
        await waiting
        await c.agree()


