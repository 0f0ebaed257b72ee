"""Behaviours of replication.md section 9: namespaces that move in, activities across a failover, deletions, cuts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, RemoveRemoteClusterRequest
from temporalio.api.replication.v1 import ClusterReplicationConfig, NamespaceReplicationConfig
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DeleteWorkflowExecutionRequest,
    PauseActivityRequest,
    PollActivityTaskQueueRequest,
    PollActivityTaskQueueResponse,
    RecordActivityTaskHeartbeatRequest,
    RegisterNamespaceRequest,
    RespondActivityTaskCompletedRequest,
    UnpauseActivityRequest,
)
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes, WorkflowIDConflictPolicy
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode

from tests.regions.regions import HERE_ONLY, NAMESPACE, THREE, Regions, eventually, regions
from tests.regions.workflows import QUEUE, Chain, Letters, Long, Tick, worker

BOTH = [ClusterReplicationConfig(cluster_name=name) for name in ("c1", "c2")]


# --- activities -------------------------------------------------------------------------------------------------------------
async def test_activity_heartbeat_failover() -> None:
    """The next attempt, in the other region, gets the last details; how the one before ended is shown."""
    async with regions() as c:
        async with worker(c.one):
            await c.one.start_workflow(Long.run, 2.0, id="w", task_queue=QUEUE)
            task = await _poll_activity(c.one)
        await _heartbeat(c.one, task, "half")
        await c.agree()
        await c.fail_over("c2")
        async with worker(c.two):
            again = await _poll_activity(c.two)
            assert again.attempt == 2
            assert await _decoded(again.heartbeat_details) == ["half"]
            await _complete(c.two, again, "done")
            assert await c.two.get_workflow_handle("w").result() == "done"
        await c.agree()
        started = next(
            event for event in await c.history("c1", "w") if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED
        )
        assert started.activity_task_started_event_attributes.last_failure.timeout_failure_info.timeout_type


async def test_activity_multiple_heartbeats_across_failover() -> None:
    """One attempt: its token works before, after, and through the region that is passive now."""
    async with regions() as c:
        async with worker(c.one):
            await c.one.start_workflow(Long.run, 30.0, id="w", task_queue=QUEUE)
            task = await _poll_activity(c.one)
        await _heartbeat(c.one, task, "one")
        await _heartbeat(c.two, task, "two")
        await c.agree()
        await c.fail_over("c2")
        await _heartbeat(c.one, task, "three")
        await _heartbeat(c.two, task, "four")
        await _complete(c.one, task, "done")
        async with worker(c.two):
            assert await c.two.get_workflow_handle("w").result() == "done"
        await c.agree()


async def test_pause_activity_failover() -> None:
    async with regions() as c:
        async with worker(c.one):
            await c.one.start_workflow(Long.run, 1.0, id="w", task_queue=QUEUE)
            task = await _poll_activity(c.one)
        execution = WorkflowExecution(workflow_id="w")
        await c.one.workflow_service.pause_activity(
            PauseActivityRequest(namespace=NAMESPACE, execution=execution, id=task.activity_id)
        )
        await c.agree()
        await c.fail_over("c2")
        for client in (c.one, c.two):
            described = await client.get_workflow_handle("w").describe()
            assert described.raw_description.pending_activities[0].paused
        await c.two.workflow_service.unpause_activity(
            UnpauseActivityRequest(namespace=NAMESPACE, execution=execution, id=task.activity_id)
        )
        again = await _poll_activity(c.two)
        await _complete(c.two, again, "done")
        async with worker(c.two):
            assert await c.two.get_workflow_handle("w").result() == "done"
        await c.agree()


# --- namespaces that move in ------------------------------------------------------------------------------------------------
async def test_local_namespace_migration() -> None:
    """Open, closed, signalled and reset runs of a local namespace: promoted, put into c2, moved there, ended there."""
    async with regions(namespaces=()) as c:
        await _register_local(c)
        async with worker(c.one):
            await c.one.execute_workflow(Tick.run, id="closed", task_queue=QUEUE)
            await c.one.start_workflow(Letters.run, "a", id="open", task_queue=QUEUE)
            await eventually(lambda: _told(c.one, "open", "a"), "the activity is done")
            reset = await c.one.start_workflow(Letters.run, "a", id="reset", task_queue=QUEUE)
            await eventually(lambda: _told(c.one, "reset", "a"), "the activity is done")
        await c.one.get_workflow_handle("open").signal(Letters.tell, "waits")
        new_run = await _reset(c.one, "reset", reset.first_execution_run_id or "")
        await _move_in(c)
        await c.agree()
        assert len(await c.executions("c2")) == 4
        await c.fail_over("c2")
        async with worker(c.two):
            for workflow_id in ("open", "reset"):
                await c.two.get_workflow_handle(workflow_id).signal(Letters.tell, "end")
            assert sorted(await c.two.get_workflow_handle("open", result_type=list[str]).result()) == ["a", "end", "waits"]
            assert "end" in await c.two.get_workflow_handle("reset", run_id=new_run, result_type=list[str]).result()
        await c.agree()


async def test_force_migration_closed_workflow() -> None:
    async with regions(namespaces=()) as c:
        await _register_local(c)
        async with worker(c.one):
            handle = await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
            await handle.signal(Letters.tell, "end")
            await handle.result()
        await _move_in(c)
        await c.agree()
        await c.fail_over("c2")
        new_run = await _reset(c.two, "w", handle.first_execution_run_id or "")
        async with worker(c.two):
            assert "end" in await c.two.get_workflow_handle("w", run_id=new_run, result_type=list[str]).result()
        await c.agree()


async def test_force_migration_reset_workflow() -> None:
    async with regions(namespaces=()) as c:
        await _register_local(c)
        async with worker(c.one):
            handle = await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
            await eventually(lambda: _told(c.one, "w", "a"), "the activity is done")
            await _reset(c.one, "w", handle.first_execution_run_id or "")
        await _move_in(c)
        await c.agree()
        assert len(await c.executions("c2")) == 2


async def test_replication_enable_flow() -> None:
    """Connected, and not replicated to: nothing flows. Then everything does."""
    async with regions() as c:
        for here, there in (("c1", "c2"), ("c2", "c1")):
            await c.link(here, there, is_replicated=False)
        await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
        await asyncio.sleep(1.0)  # as long as it takes otherwise, several times over
        assert not await c.executions("c2")
        for here, there in (("c1", "c2"), ("c2", "c1")):
            await c.link(here, there)
        await c.agree()
        assert len(await c.executions("c2")) == 1


async def test_remove_remote_cluster() -> None:
    async with regions() as c:
        with pytest.raises(RPCError) as refused:
            await c.one.operator_service.remove_remote_cluster(RemoveRemoteClusterRequest(cluster_name="c2"))
        assert refused.value.status is RPCStatusCode.FAILED_PRECONDITION and NAMESPACE in refused.value.message
        await c.update("c1", replication_config=NamespaceReplicationConfig(clusters=BOTH[:1]))
        await c.one.operator_service.remove_remote_cluster(RemoveRemoteClusterRequest(cluster_name="c2"))


# --- lists, deletions -------------------------------------------------------------------------------------------------------
async def test_visibility_search_attributes() -> None:
    key = SearchAttributeKey.for_keyword("Team")
    async with regions() as c:
        await c.one.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=NAMESPACE, search_attributes={"Team": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD}
            )
        )
        attributes = TypedSearchAttributes([SearchAttributePair(key, "red")])
        await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE, search_attributes=attributes)
        for client in (c.one, c.two):
            await eventually(lambda client=client: _lists(client, "Team = 'red'", 1), "listed")  # type: ignore[misc]
        await c.agree()


@pytest.mark.parametrize("is_closed", [True, False])
async def test_delete_workflow_replicated(is_closed: bool) -> None:
    async with regions() as c:
        handle = await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
        await c.one.start_workflow(Letters.run, "a", id="other", task_queue=QUEUE)
        if is_closed:
            await handle.terminate()
        await c.agree()
        request = DeleteWorkflowExecutionRequest(namespace=NAMESPACE, workflow_execution=WorkflowExecution(workflow_id="w"))
        await c.one.workflow_service.delete_workflow_execution(request)
        for name in c.names:
            await eventually(lambda name=name: _is_deleted(c, name, "w"), f"deleted in {name}")  # type: ignore[misc]
        await c.agree()
        assert [workflow_id for workflow_id, _ in await c.executions("c2")] == ["other"]


# --- cut off ----------------------------------------------------------------------------------------------------------------
async def test_conflict_resolution_reapplies_signals() -> None:
    """Both are active while they are cut off; each takes a signal. The higher version wins, and has the loser's signal, too."""
    async with regions() as c:
        await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
        await c.agree()
        await c.cut()
        await c.fail_over("c2", is_known_to_all=False)
        await c.one.get_workflow_handle("w").signal(Letters.tell, "to c1")
        await c.two.get_workflow_handle("w").signal(Letters.tell, "to c2")
        c.heal()
        await c.agree()
        async with worker(c.two):
            await c.two.get_workflow_handle("w").signal(Letters.tell, "end")
            told = await c.two.get_workflow_handle("w", result_type=list[str]).result()
        assert sorted(told) == ["a", "end", "to c1", "to c2"]
        await c.agree()


async def test_the_same_workflow_id_started_in_both_regions() -> None:
    """After the heal one run is current in both; the loser is terminated, and what it was told reaches the winner."""
    async with regions() as c:
        await c.cut()
        await c.fail_over("c2", is_known_to_all=False)
        for client, word in ((c.one, "to c1"), (c.two, "to c2")):
            handle = await client.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
            await handle.signal(Letters.tell, word)
        c.heal()
        await eventually(lambda: _statuses(c, [WorkflowExecutionStatus.TERMINATED, WorkflowExecutionStatus.RUNNING]), "one ends")
        async with worker(c.two):
            await c.two.get_workflow_handle("w").signal(Letters.tell, "end")
            told = await c.two.get_workflow_handle("w", result_type=list[str]).result()
        assert {"to c2", "end", "a"} <= set(told)
        await c.agree()


async def test_terminate_existing_in_the_other_region() -> None:
    async with regions() as c:
        first = await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
        await c.agree()
        await c.two.start_workflow(  # it is passive: the call goes to c1
            Letters.run, "b", id="w", task_queue=QUEUE, id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING
        )
        await c.agree()
        old = c.two.get_workflow_handle("w", run_id=first.first_execution_run_id)
        assert (await old.describe()).status is WorkflowExecutionStatus.TERMINATED


# --- more regions, other stores ---------------------------------------------------------------------------------------------
async def test_three_regions_agree_pairwise() -> None:
    async with regions(THREE) as c:
        first = await c.one.start_workflow(Chain.run, 2, id="w", task_queue=QUEUE)
        await c.agree()
        await c.fail_over("c3")
        async with worker(c.two):  # it knows its own region's address only
            await c.one.get_workflow_handle("w").signal(Chain.go)
            await eventually(lambda: _has_followed(c.one, "w", first.first_execution_run_id or ""), "the second run")
            await c.two.get_workflow_handle("w").signal(Chain.go)
            assert await c.two.get_workflow_handle("w", result_type=str).result() == "done"
        await c.agree()
        assert await c.versions("w") == [3] and await c.versions("w", first.first_execution_run_id or "") == [1, 3]


# --- played by hand ---------------------------------------------------------------------------------------------------------
async def _poll_activity(client: Client) -> PollActivityTaskQueueResponse:
    answer = await client.workflow_service.poll_activity_task_queue(
        PollActivityTaskQueueRequest(namespace=NAMESPACE, task_queue=TaskQueue(name="hands"), identity="by hand")
    )
    assert answer.task_token, "no activity came"
    return answer


async def _heartbeat(client: Client, task: PollActivityTaskQueueResponse, text: str) -> None:
    request = RecordActivityTaskHeartbeatRequest(namespace=NAMESPACE, task_token=task.task_token)
    request.details.payloads.extend(await DataConverter.default.encode([text]))
    await client.workflow_service.record_activity_task_heartbeat(request)


async def _complete(client: Client, task: PollActivityTaskQueueResponse, text: str) -> None:
    request = RespondActivityTaskCompletedRequest(namespace=NAMESPACE, task_token=task.task_token)
    request.result.payloads.extend(await DataConverter.default.encode([text]))
    await client.workflow_service.respond_activity_task_completed(request)


async def _decoded(payloads: Any) -> list[Any]:
    return await DataConverter.default.decode(payloads.payloads)


# --- what is looked at ------------------------------------------------------------------------------------------------------
async def _register_local(c: Regions) -> None:
    request = RegisterNamespaceRequest(namespace=NAMESPACE)
    request.workflow_execution_retention_period.FromSeconds(86_400)
    await c.one.workflow_service.register_namespace(request)


async def _move_in(c: Regions) -> None:
    await c.update("c1", promote_namespace=True)
    await c.update("c1", replication_config=NamespaceReplicationConfig(clusters=BOTH))
    await eventually(lambda: c._has("c2", NAMESPACE), "the namespace is in c2")


async def _told(client: Client, workflow_id: str, word: str) -> bool:
    try:
        return word in await client.get_workflow_handle(workflow_id).query(Letters.so_far)
    except RPCError:
        return False


async def _lists(client: Client, query: str, count: int) -> bool:
    try:
        found = [one async for one in client.list_workflows(query, rpc_metadata=HERE_ONLY)]
    except RPCError:
        return False  # the attribute is not known there yet
    return len(found) == count


async def _is_deleted(c: Regions, name: str, workflow_id: str) -> bool:
    try:
        await c.history(name, workflow_id)
    except RPCError as error:
        return error.status is RPCStatusCode.NOT_FOUND
    return False


async def _has_followed(client: Client, workflow_id: str, run_id: str) -> bool:
    return (await client.get_workflow_handle(workflow_id).describe()).run_id != run_id


async def _statuses(c: Regions, wanted: list[WorkflowExecutionStatus]) -> bool:
    found = [sorted(status for status in (await c.executions(name)).values()) for name in c.names]
    return all(statuses == sorted(int(one) for one in wanted) for statuses in found)


async def _reset(client: Client, workflow_id: str, run_id: str) -> str:
    from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest

    history = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
    done = next(one for one in history.events if one.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
    answer = await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
            workflow_task_finish_event_id=done.event_id,
            request_id=f"reset {run_id}",
        )
    )
    return answer.run_id


