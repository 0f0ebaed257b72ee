"""Runs on different nodes act on each other as they would on one: children, signals, cancels, what a parent's close does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.api.enums.v1 import ParentClosePolicy

from cluster.membership.members import NodeState
from cluster.membership.ring import Ring
from cluster.routing import history_messages as messages
from tests.e2e import commands
from tests.history.world import name_of
from tests.routing.stage import SHARDS, Stage, info, perform

PARENT = "parent"


def apart(stage: Stage, count: int = 1, parent: str = PARENT) -> list[str]:
    """Workflow ids whose shards are not on the parent's node."""
    home = stage.owner(stage.shard_of(parent))
    names = (f"other{number}" for number in range(1_000))
    return [name for name in names if stage.owner(stage.shard_of(name)) != home][:count]


async def has(stage: Stage, workflow_id: str, event: str, count: int = 1) -> None:
    """Until the history of the workflow has so many such events."""
    for _ in range(400):
        names = await stage.names(stage.nodes[0].node_id, workflow_id)
        if names.count(event) >= count:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{workflow_id} never got {event}, only {names}")


def child(workflow_id: str, **fields: Any) -> Any:
    return commands.start_child(workflow_id, task_queue={"name": f"q-{workflow_id}"}, **fields)


def test_a_child_on_another_node_starts_and_its_end_is_told() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b", "c")
        await stage.start("a", PARENT)
        (other,) = apart(stage)
        await stage.work(PARENT, child(other))
        await has(stage, PARENT, "ChildWorkflowExecutionStarted")
        await stage.work(other, commands.complete())
        await has(stage, PARENT, "ChildWorkflowExecutionCompleted")
        assert [method for _, _, method in stage.calls].count(messages.REACH) >= 2, "it did go over the wire"

    perform(story)


def test_a_child_whose_id_is_taken_fails_with_its_cause() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        await stage.start("a", PARENT)
        (other,) = apart(stage)
        await stage.start("a", other)
        await stage.work(PARENT, child(other))
        await has(stage, PARENT, "StartChildWorkflowExecutionFailed")

    perform(story)


def test_a_signal_reaches_a_run_on_another_node_once_and_an_unknown_one_is_told_of() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b", "c")
        await stage.start("a", PARENT)
        other, nobody = apart(stage, 2)
        await stage.start("a", other)
        await stage.work(PARENT, commands.signal_external(other), commands.signal_external(nobody))
        await has(stage, PARENT, "ExternalWorkflowExecutionSignaled")
        await has(stage, PARENT, "SignalExternalWorkflowExecutionFailed")
        assert len(await stage.signals("a", other)) == 1
        for event in await stage.history("b", other):
            if name_of(event) == "WorkflowExecutionSignaled":
                by = event.workflow_execution_signaled_event_attributes.external_workflow_execution
                assert by.workflow_id == PARENT

    perform(story)


def test_a_cancel_reaches_a_run_on_another_node() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b", "c")
        await stage.start("a", PARENT)
        (other,) = apart(stage)
        await stage.start("a", other)
        await stage.work(PARENT, commands.cancel_external(other))
        await has(stage, PARENT, "ExternalWorkflowExecutionCancelRequested")
        assert "WorkflowExecutionCancelRequested" in await stage.names("a", other)

    perform(story)


def test_only_a_child_may_be_signaled_where_that_was_asked_for() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        await stage.start("a", PARENT)
        other, own = apart(stage, 2)
        await stage.start("a", other)
        await stage.work(PARENT, child(own))
        await has(stage, PARENT, "ChildWorkflowExecutionStarted")
        await stage.work(
            PARENT,
            commands.signal_external(other, child_workflow_only=True),
            commands.signal_external(own, child_workflow_only=True),
        )
        await has(stage, PARENT, "SignalExternalWorkflowExecutionFailed")
        await has(stage, PARENT, "ExternalWorkflowExecutionSignaled")
        assert not await stage.signals("a", other) and len(await stage.signals("a", own)) == 1

    perform(story)


@pytest.mark.parametrize(
    ("policy", "event"),
    [
        (ParentClosePolicy.PARENT_CLOSE_POLICY_TERMINATE, "WorkflowExecutionTerminated"),
        (ParentClosePolicy.PARENT_CLOSE_POLICY_REQUEST_CANCEL, "WorkflowExecutionCancelRequested"),
        (ParentClosePolicy.PARENT_CLOSE_POLICY_ABANDON, ""),
    ],
)
def test_a_parents_close_treats_its_children_on_other_nodes(policy: int, event: str) -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b", "c")
        await stage.start("a", PARENT)
        (other,) = apart(stage)
        await stage.work(PARENT, child(other, parent_close_policy=policy))
        await has(stage, PARENT, "ChildWorkflowExecutionStarted")
        await stage.terminate("a", PARENT)
        if event:
            await has(stage, other, event)
        else:
            await asyncio.sleep(5)
            assert (await stage.names("a", other))[-1] == "WorkflowTaskScheduled"

    perform(story)


def test_what_runs_owe_each_other_is_done_once_while_their_shards_move() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        after = Ring([info(each) for each in "abc"], SHARDS)
        names = (f"parent{number}" for number in range(100))
        parent = next(each for each in names if after.owner_of_shard(stage.shard_of(each)).node_id == stage.home(each).node_id)  # type: ignore[union-attr]
        others = apart(stage, 12, parent)
        await stage.start("a", parent)
        await stage.begin("c")
        for node in stage.nodes:
            node.store.hold("checkpoint")  # what moves is on its way for a while
        stage.change("c", NodeState.READY)
        await asyncio.sleep(0.1)
        await stage.work(parent, *(child(each) for each in others))
        await asyncio.sleep(0.5)
        started = (await stage.names("a", parent)).count("ChildWorkflowExecutionStarted")
        assert 0 < started < len(others), "some wait for their shards"
        for node in stage.nodes:
            node.store.release("checkpoint")
        await stage.settled()
        await has(stage, parent, "ChildWorkflowExecutionStarted", len(others))
        for each in others:
            await stage.terminate("c", each)
        await has(stage, parent, "ChildWorkflowExecutionTerminated", len(others))
        await asyncio.sleep(15)  # longer than any backoff of what would come a second time
        assert (await stage.names("a", parent)).count("ChildWorkflowExecutionStarted") == len(others)
        assert (await stage.names("a", parent)).count("ChildWorkflowExecutionTerminated") == len(others)

    perform(story)
