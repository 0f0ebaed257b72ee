"""What a closed run owes its children and its parent, and that it owes it once."""

from __future__ import annotations

from temporalio.api.command.v1 import Command, StartChildWorkflowExecutionCommandAttributes
from temporalio.api.common.v1 import WorkflowType
from temporalio.api.enums.v1 import CommandType

from cluster.core.effects import ApplyClosePolicy, TellParent, effects
from cluster.core.machines import child, lifecycle
from cluster.core.state import ParentLink
from tests.core.build import Run

PARENT = ParentLink("ns", "ns-id", "parent", "parent-run", 5)


def with_child() -> tuple[Run, int]:
    """A run that has a parent and a running child, and the id of the event that wished for the child."""
    run = Run(parent=PARENT)
    attributes = StartChildWorkflowExecutionCommandAttributes(workflow_id="child", workflow_type=WorkflowType(name="C"))
    kind = CommandType.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION
    run.task(Command(command_type=kind, start_child_workflow_execution_command_attributes=attributes))
    (initiated_id,) = run.state.children
    (initiated,) = [event for event in run.events() if event.event_id == initiated_id]
    run.do(lambda t: child.record_started(t, initiated, "child-run"))
    return run, initiated_id


def test_a_close_policy_is_carried_out_once_and_the_child_is_still_told() -> None:
    run, initiated_id = with_child()
    run.do(lambda t: lifecycle.terminate(t, reason="over", details=None, identity="client"))
    assert effects(run.state) == [ApplyClosePolicy(initiated_id), TellParent()]
    run.do(lambda t: child.close_policy_done(t, initiated_id))
    assert effects(run.state) == [TellParent()]
    assert run.state.children[initiated_id].workflow_id == "child"
    run.do(lambda t: child.close_policy_done(t, initiated_id))
    assert effects(run.state) == [TellParent()]


def test_a_run_closed_by_a_reset_leaves_children_and_parent_to_the_new_run() -> None:
    run, _ = with_child()
    run.do(lambda t: lifecycle.terminate(t, reason="try again", details=None, identity=lifecycle.RESETTER))
    assert effects(run.state) == []
