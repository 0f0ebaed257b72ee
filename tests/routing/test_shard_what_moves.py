"""What goes with a shard to its next owner: parked calls, timers, rows of visibility; and what people are shown of it."""

from __future__ import annotations

import asyncio

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice import v1 as api

from cluster.membership.members import NodeState
from cluster.stores.base import RunKey
from tests.history.world import NAMESPACE
from tests.routing.stage import SHARDS, Stage, perform, until
from tests.routing.test_shard_moves import WORKFLOWS, of


def test_a_long_poll_goes_on_at_the_next_owner() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        for each in WORKFLOWS:
            await stage.start("a", each)
        parked = of(stage, "b")[0]
        execution = WorkflowExecution(workflow_id=parked)
        request = api.GetWorkflowExecutionHistoryRequest(execution=execution, wait_new_event=True)
        first = await stage.call("a", "get_workflow_execution_history", parked, request)
        request.next_page_token = first.next_page_token
        far = asyncio.ensure_future(stage.call("a", "get_workflow_execution_history", parked, request, deadline_s=60))
        near = asyncio.ensure_future(stage.call("b", "get_workflow_execution_history", parked, request, deadline_s=60))
        await asyncio.sleep(12)
        stage.change("b", NodeState.LEAVING)
        await until(lambda: stage.node("b").service.ownership.is_empty)
        assert not far.done() and not near.done()
        await stage.signal("a", parked, "news")
        for waiting in (far, near):
            events = (await waiting).history.events
            assert [event.workflow_execution_signaled_event_attributes.signal_name for event in events] == ["news"]

    perform(story)


def test_timers_and_visibility_rows_go_on_at_the_next_owner() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        run_timeout = {"workflow_run_timeout": {"seconds": 30}}
        runs = {each: await stage.start("a", each, **run_timeout) for each in WORKFLOWS}
        moved = of(stage, "b")
        stage.change("b", NodeState.LEAVING)
        await until(lambda: stage.node("b").service.ownership.is_empty)
        stage.kill("b")
        stage.forget("b")
        await asyncio.sleep(35)
        for each in moved:
            assert (await stage.names("a", each))[-1] == "WorkflowExecutionTimedOut"
            assert stage.visibility._facts[RunKey(NAMESPACE.id, each, runs[each])].row.close_time

    perform(story)


def test_the_rows_for_people_say_who_has_what() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        ring = stage.node("a").peers.ring
        for node in stage.nodes:
            rows = node.moves.describe()
            assert [row.shard for row in rows] == list(range(SHARDS))
            for row in rows:
                owner = ring.owner_of_shard(row.shard)
                is_here = owner is not None and owner.node_id == node.node_id
                assert row.owner == ("" if owner is None else owner.node_id)
                assert (row.state, row.range_id > 0, row.since > 0) == ("open" if is_here else "", is_here, is_here)
            assert [row["shard"] for row in node.moves.own_rows()] == ring.shards_of(node.node_id)

    perform(story)
