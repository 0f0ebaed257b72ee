"""Behaviours of replication.md section 9, with official clients and workers on the nodes of two regions."""

from __future__ import annotations

import itertools

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import (
    RespondWorkflowTaskFailedRequest,
)
from temporalio.client import WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from tests.regions.looking import has_event, has_told, next_run, poll, reset
from tests.regions.regions import NAMESPACE, NORMAL, eventually, regions
from tests.regions.workflows import QUEUE, Chain, Letters, Tick, Timer, worker


async def test_namespace_failover() -> None:
    async with regions() as c:
        await c.fail_over("c2")
        await c.two.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
        for name in c.names:
            described = await c.describe(name)
            assert described.replication_config.active_cluster_name == "c2"
            assert described.failover_version == 2 and described.is_global_namespace
        await c.agree()
        assert await c.versions("w") == [2]


async def test_replication_state_is_normal_on_both_clusters() -> None:
    async with regions() as c:
        await c.fail_over("c2", by="c1")
        assert [(await c.describe(name)).replication_config.state for name in c.names] == [NORMAL, NORMAL]


async def test_simple_workflow_failover() -> None:
    async with regions() as c:
        async with worker(c.one):
            handle = await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
            await eventually(lambda: has_told(c, "c1", "w", ["a"]), "the activity is done")
            assert await c.two.get_workflow_handle("w").query(Letters.so_far) == ["a"]
        await c.agree()
        await c.fail_over("c2")
        async with worker(c.two):
            assert await c.two.get_workflow_handle("w").query(Letters.so_far) == ["a"]
            assert await handle.query(Letters.so_far) == ["a"]
            await handle.signal(Letters.tell, "end")
            assert await handle.result() == ["a", "end"]
        await c.agree()
        assert await c.versions("w") == [1, 2]


async def test_sticky_workflow_task_failover() -> None:
    """Over and back: the task goes to the normal queue each time, and the versions say who wrote what."""
    async with regions() as c:
        async with worker(c.one):
            handle = await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
            await eventually(lambda: has_told(c, "c1", "w", ["a"]), "the activity is done")
            await c.agree()
        for number, (to, client) in enumerate((("c2", c.two), ("c1", c.one)), 1):
            await c.fail_over(to)
            async with worker(client):
                await handle.signal(Letters.tell, f"told {number}")
                await eventually(lambda to=to, number=number: has_told(c, to, "w", [f"told {number}"]), "told")  # type: ignore[misc]
            await c.agree()
        async with worker(c.one):
            await handle.signal(Letters.tell, "end")
            assert await handle.result() == ["a", "told 1", "told 2", "end"]
        await c.agree()
        assert await c.versions("w") == [1, 2, 11]


@pytest.mark.parametrize("policy", ["failed only", "reject"])
async def test_workflow_id_reuse_policy(policy: str) -> None:
    reuse = {
        "failed only": WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
        "reject": WorkflowIDReusePolicy.REJECT_DUPLICATE,
    }[policy]
    async with regions() as c:
        async with worker(c.one):
            await c.one.execute_workflow(Tick.run, id="w", task_queue=QUEUE)
        await c.agree()
        await c.fail_over("c2")
        with pytest.raises(WorkflowAlreadyStartedError):
            await c.two.start_workflow(Tick.run, id="w", task_queue=QUEUE, id_reuse_policy=reuse)


async def test_conflict_policy_terminate_existing() -> None:
    async with regions() as c:
        first = await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
        await c.agree()
        await c.fail_over("c2")
        second = await c.two.start_workflow(
            Letters.run, "b", id="w", task_queue=QUEUE, id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING
        )
        assert second.first_execution_run_id != first.first_execution_run_id
        await c.agree()
        old = c.one.get_workflow_handle("w", run_id=first.first_execution_run_id)
        assert (await old.describe()).status is WorkflowExecutionStatus.TERMINATED
        for client in (c.one, c.two):
            assert (await client.get_workflow_handle("w").describe()).run_id == second.first_execution_run_id


async def test_terminate_failover() -> None:
    async with regions() as c:
        await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
        await c.agree()
        await c.fail_over("c2")
        await c.two.get_workflow_handle("w").terminate("a detail", reason="enough")
        await c.agree()
        for name in c.names:
            last = (await c.history(name, "w"))[-1]
            assert last.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED
            assert last.workflow_execution_terminated_event_attributes.reason == "enough"
            assert last.workflow_execution_terminated_event_attributes.details.payloads[0].data == b'"a detail"'


async def test_reset_workflow_failover() -> None:
    async with regions() as c:
        async with worker(c.one):
            handle = await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
            await handle.signal(Letters.tell, "end")
            await handle.result()
        new_run = await reset(c, "w", handle.first_execution_run_id or "")
        await c.agree()
        await c.fail_over("c2")
        async with worker(c.two):
            result = await c.two.get_workflow_handle("w", run_id=new_run, result_type=list[str]).result()
            assert sorted(result) == ["a", "end"]
        await c.agree()
        assert await c.versions("w", new_run) == [1, 2]


async def test_continue_as_new_failover() -> None:
    async with regions() as c:
        runs: list[str] = []
        async with worker(c.one):
            handle = await c.one.start_workflow(Chain.run, 5, id="w", task_queue=QUEUE)
            for _ in range(2):
                runs.append(await next_run(c, "c1", "w", runs))
                await c.one.get_workflow_handle("w", run_id=runs[-1]).signal(Chain.go)
            runs.append(await next_run(c, "c1", "w", runs))
        await c.agree()
        await c.fail_over("c2")
        async with worker(c.two):
            await c.two.get_workflow_handle("w", run_id=runs[-1]).signal(Chain.go)
            runs.append(await next_run(c, "c2", "w", runs))
            await c.two.get_workflow_handle("w", run_id=runs[-1]).signal(Chain.go)
            runs.append(await next_run(c, "c2", "w", runs))
            await c.two.get_workflow_handle("w", run_id=runs[-1]).signal(Chain.go)
            assert await handle.result() == "done"
        await c.agree()
        assert len(runs) == 5
        for before, after in itertools.pairwise(runs):
            started = (await c.history("c1", "w", after))[0].workflow_execution_started_event_attributes
            assert started.continued_execution_run_id == before and started.first_execution_run_id == runs[0]


async def test_signal_failover() -> None:
    async with regions() as c:
        handle = await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
        await handle.signal(Letters.tell, "before")
        await c.agree()
        await c.fail_over("c2")
        await c.two.get_workflow_handle("w").signal(Letters.tell, "after")
        await handle.signal(Letters.tell, "end")
        async with worker(c.two):
            told = await handle.result()
        assert [text for text in told if text != "a"] == ["before", "after", "end"]
        await c.agree()


async def test_user_timer_failover() -> None:
    """A signal that was buffered behind a started workflow task is kept, the task is void, and the timer fires."""
    async with regions() as c:
        async with worker(c.one):
            handle = await c.one.start_workflow(Timer.run, 2.0, id="w", task_queue=QUEUE)
            await eventually(lambda: has_event(c, "c1", "w", EventType.EVENT_TYPE_TIMER_STARTED), "the timer runs")
        await handle.signal(Timer.tell, "first")
        task = await poll(c, "c1")
        assert task.task_token
        await handle.signal(Timer.tell, "buffered")
        await c.agree()
        await c.fail_over("c2")
        async with worker(c.two):
            assert await handle.result() == ["first", "buffered", "fired"]
        await c.agree()
        kinds = [event.event_type for event in await c.history("c2", "w")]
        assert kinds.count(EventType.EVENT_TYPE_TIMER_FIRED) == 1


async def test_transient_workflow_task_failover() -> None:
    async with regions() as c:
        handle = await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
        for _ in range(3):
            task = await poll(c, "c1")
            await c.one.workflow_service.respond_workflow_task_failed(
                RespondWorkflowTaskFailedRequest(namespace=NAMESPACE, task_token=task.task_token)
            )
        await c.agree()
        await c.fail_over("c2")
        task = await poll(c, "c2")
        assert task.attempt == 1
        await c.two.workflow_service.respond_workflow_task_failed(
            RespondWorkflowTaskFailedRequest(namespace=NAMESPACE, task_token=task.task_token)
        )
        async with worker(c.two):
            await handle.signal(Letters.tell, "end")
            assert sorted(await handle.result()) == ["a", "end"]
        await c.agree()


