"""Behaviours of replication.md section 9, with official clients and workers on the nodes of two regions."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta

import pytest
from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import EventType
from temporalio.api.replication.v1 import NamespaceReplicationConfig
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueRequest,
    RespondWorkflowTaskFailedRequest,
    StartWorkflowExecutionRequest,
)
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowUpdateStage
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from tests.regions.regions import HERE_ONLY, NAMESPACE, NORMAL, Regions, eventually, regions
from tests.regions.workflows import QUEUE, Chain, Fails, Letters, Parent, Tick, Timer, worker


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
            await eventually(lambda: _has_told(c, "c1", "w", ["a"]), "the activity is done")
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
            await eventually(lambda: _has_told(c, "c1", "w", ["a"]), "the activity is done")
            await c.agree()
        for number, (to, client) in enumerate((("c2", c.two), ("c1", c.one)), 1):
            await c.fail_over(to)
            async with worker(client):
                await handle.signal(Letters.tell, f"told {number}")
                await eventually(lambda to=to, number=number: _has_told(c, to, "w", [f"told {number}"]), "told")  # type: ignore[misc]
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
        reset = await _reset(c, "w", handle.first_execution_run_id or "")
        await c.agree()
        await c.fail_over("c2")
        async with worker(c.two):
            result = await c.two.get_workflow_handle("w", run_id=reset, result_type=list[str]).result()
            assert sorted(result) == ["a", "end"]
        await c.agree()
        assert await c.versions("w", reset) == [1, 2]


async def test_continue_as_new_failover() -> None:
    async with regions() as c:
        runs: list[str] = []
        async with worker(c.one):
            handle = await c.one.start_workflow(Chain.run, 5, id="w", task_queue=QUEUE)
            for _ in range(2):
                runs.append(await _next_run(c, "c1", "w", runs))
                await c.one.get_workflow_handle("w", run_id=runs[-1]).signal(Chain.go)
            runs.append(await _next_run(c, "c1", "w", runs))
        await c.agree()
        await c.fail_over("c2")
        async with worker(c.two):
            await c.two.get_workflow_handle("w", run_id=runs[-1]).signal(Chain.go)
            runs.append(await _next_run(c, "c2", "w", runs))
            await c.two.get_workflow_handle("w", run_id=runs[-1]).signal(Chain.go)
            runs.append(await _next_run(c, "c2", "w", runs))
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
            await eventually(lambda: _has_event(c, "c1", "w", EventType.EVENT_TYPE_TIMER_STARTED), "the timer runs")
        await handle.signal(Timer.tell, "first")
        task = await _poll(c, "c1")
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
            task = await _poll(c, "c1")
            await c.one.workflow_service.respond_workflow_task_failed(
                RespondWorkflowTaskFailedRequest(namespace=NAMESPACE, task_token=task.task_token)
            )
        await c.agree()
        await c.fail_over("c2")
        task = await _poll(c, "c2")
        assert task.attempt == 1
        await c.two.workflow_service.respond_workflow_task_failed(
            RespondWorkflowTaskFailedRequest(namespace=NAMESPACE, task_token=task.task_token)
        )
        async with worker(c.two):
            await handle.signal(Letters.tell, "end")
            assert sorted(await handle.result()) == ["a", "end"]
        await c.agree()


async def test_cron_workflow_start_and_failover() -> None:
    async with regions() as c:
        handle = await c.one.start_workflow(Tick.run, id="w", task_queue=QUEUE, cron_schedule="@every 2s")
        await c.agree()
        await c.fail_over("c2")
        async with worker(c.two):
            first = handle.first_execution_run_id or ""
            assert await c.two.get_workflow_handle("w", run_id=first).result(follow_runs=False) == "tick"
            await _next_run(c, "c2", "w", [first])
        await handle.terminate()
        await c.agree()


async def test_cron_workflow_complete_and_failover() -> None:
    """The run that waits for its time when the namespace moves starts once, in the other region."""
    async with regions() as c:
        handle = await c.one.start_workflow(Tick.run, id="w", task_queue=QUEUE, cron_schedule="@every 2s")
        first = handle.first_execution_run_id or ""
        async with worker(c.one):
            await c.one.get_workflow_handle("w", run_id=first).result(follow_runs=False)
            second = await _next_run(c, "c1", "w", [first])
        await c.agree()
        await c.fail_over("c2")
        async with worker(c.two):
            assert await c.two.get_workflow_handle("w", run_id=second).result(follow_runs=False) == "tick"
        await c.two.get_workflow_handle("w").terminate()
        for name in c.names:
            await eventually(lambda name=name: _has_runs(c, name, 3), f"three runs in {name}")  # type: ignore[misc]
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
            await eventually(lambda: _has_told(c, "c1", "child", ["child"]), "the child runs")
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
        await eventually(lambda: _is_gone(c, "c2"), "the namespace is deleted in c2, too")


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


# --- what is looked at ------------------------------------------------------------------------------------------------------
async def _has_told(c: Regions, name: str, workflow_id: str, words: list[str]) -> bool:
    try:
        told = await c.clients[name].get_workflow_handle(workflow_id).query(Letters.so_far)
    except RPCError:
        return False
    return set(words) <= set(told)


async def _has_event(c: Regions, name: str, workflow_id: str, kind: int) -> bool:
    return any(event.event_type == kind for event in await c.history(name, workflow_id))


async def _has_runs(c: Regions, name: str, count: int) -> bool:
    return len(await c.executions(name)) == count


async def _is_gone(c: Regions, name: str) -> bool:
    try:
        await c.describe(name)
    except RPCError as error:
        return error.status is RPCStatusCode.NOT_FOUND
    return False


async def _next_run(c: Regions, name: str, workflow_id: str, runs: list[str]) -> str:
    """The id of the current run, once it is none of those."""
    found = ""

    async def has_come() -> bool:
        nonlocal found
        found = (await c.clients[name].get_workflow_handle(workflow_id).describe()).run_id
        return found not in runs

    await eventually(has_come, "the next run")
    return found


async def _poll(c: Regions, name: str):  # type: ignore[no-untyped-def]
    return await c.clients[name].workflow_service.poll_workflow_task_queue(
        PollWorkflowTaskQueueRequest(namespace=NAMESPACE, task_queue=TaskQueue(name=QUEUE), identity="by hand")
    )


async def _reset(c: Regions, workflow_id: str, run_id: str) -> str:
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
