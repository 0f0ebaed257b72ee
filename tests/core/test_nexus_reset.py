"""A reset in the middle of operations: what the shared prefix scheduled goes on, and is told what the base run was told."""

from __future__ import annotations

import pytest
from temporalio.api.common.v1 import Priority
from temporalio.api.enums.v1 import EventType, ResetReapplyExcludeType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest

from cluster.core.apply import fold_events
from cluster.core.effects import CancelNexusOperation, DeliverCallback, StartNexusOperation, effects
from cluster.core.machines import lifecycle, reset
from cluster.core.transition import Transition
from tests.core.build import Run
from tests.core.nexus_stories import attach, callback_to, pending, request_cancel, schedule, tell_callback, tell_operation
from tests.e2e import commands

EXCLUDE_NEXUS = ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_NEXUS


def reset_to(base: Run, finish_id: int, *excluded: int) -> Run:
    """The run that goes on from the workflow task which ended with that event, as the call makes it."""
    events = base.events()
    state = reset.base_state(fold_events("ns-id", "w", "again", base.event_bytes()[: finish_id - 1]))
    t = Transition.from_base(reset.encoded(state), base.context())
    request = ResetWorkflowExecutionRequest(reason="again", reset_reapply_exclude_types=excluded)  # type: ignore[arg-type]
    reset.begin_reset_run(
        t, base=base.state, request=request, later=events[finish_id - 1 :], start_request_id="reset", post_reset=lambda _: None
    )
    run = Run(limits=base.limits)
    run.state, run.now, run.ids, run.entries = t.state, base.now, base.ids, []
    run.folded = fold_events("ns-id", "w", "again", base.event_bytes()[: finish_id - 1])
    run.rebuilt = fold_events("ns-id", "w", "again", base.event_bytes()[: finish_id - 1])
    run.take(t)
    return run


def prefix() -> tuple[Run, int]:
    """Four operations, all started, and the id of the event that ends the task after them."""
    run = Run()
    run.task(*[schedule() for _ in range(4)])
    for event_id in range(5, 9):
        tell_operation(run, event_id, "starts")
    run.task()
    return run, run.state.last_completed_id


def with_ends() -> tuple[Run, int]:
    run, finish_id = prefix()
    tell_operation(run, 5, "calls back with a result")
    tell_operation(run, 6, "calls back with a failure")
    tell_operation(run, 7, "calls back cancelled")
    run.task(request_cancel(8), schedule("later"))
    return run, finish_id


def test_what_operations_told_the_base_run_is_told_again() -> None:
    base, finish_id = with_ends()
    run = reset_to(base, finish_id)
    assert run.history(finish_id) == (
        "15 WorkflowTaskFailed\n16 NexusOperationCompleted\n17 NexusOperationFailed\n18 NexusOperationCanceled\n"
        "19 WorkflowTaskScheduled"
    )
    assert list(run.state.operations) == [8] and pending(run, 8).cancellation is None, "the workflow will ask again"


def test_it_is_not_told_if_that_is_excluded() -> None:
    base, finish_id = with_ends()
    run = reset_to(base, finish_id, EXCLUDE_NEXUS)
    assert run.history(finish_id) == "15 WorkflowTaskFailed\n16 WorkflowTaskScheduled"
    assert list(run.state.operations) == [5, 6, 7, 8]
    assert tell_operation(run, 5, "calls back with a result"), "its callback finds the run that goes on"


def test_an_operation_scheduled_behind_the_reset_point_is_the_workflows_to_schedule_again() -> None:
    base, _ = with_ends()
    run = reset_to(base, 4)
    assert run.history(4) == "4 WorkflowTaskFailed\n5 WorkflowTaskScheduled" and not run.state.operations


def test_another_operation_with_the_same_number_is_not_meant() -> None:
    base, _ = prefix()
    tell_operation(base, 8, "calls back with a result")
    run = reset_to(base, 4)
    run.task(schedule("other"))
    assert pending(run, 8).operation == "other"
    before = run.history()
    run.do(lambda t: reset.reapply(t, ResetWorkflowExecutionRequest(), base.events()))
    assert run.history() == before and 8 in run.state.operations


def test_news_that_the_prefix_holds_already_are_not_told_twice() -> None:
    run, _ = prefix()
    before = run.history()
    run.do(lambda t: reset.reapply(t, ResetWorkflowExecutionRequest(), run.events()))
    assert run.history() == before


@pytest.mark.parametrize("how", ["starts", "is away", "completes"])
def test_a_call_under_way_at_the_reset_point_is_made_again_under_the_same_request_id(how: str) -> None:
    base = Run()
    base.task(schedule())
    base.signal()
    base.task()
    finish_id = base.state.last_completed_id
    request_id = pending(base).request_id
    tell_operation(base, 5, how)
    run = reset_to(base, finish_id)
    if how == "completes":
        assert not run.state.operations
    else:
        assert pending(run).request_id == request_id and pending(run).is_started is (how == "starts")
        assert (StartNexusOperation(5, 0) in effects(run.state)) is (how != "starts")


def test_a_cancel_of_the_prefix_is_sent_again_when_the_operation_has_started() -> None:
    base = Run()
    base.task(schedule(), request_cancel())
    base.signal()
    base.task()
    finish_id = base.state.last_completed_id
    tell_operation(base, 5, "starts")
    tell_operation(base, 5, "hears the cancel")
    run = reset_to(base, finish_id)
    assert CancelNexusOperation(5, 0) in effects(run.state)
    assert tell_operation(run, 5, "hears the cancel")


def test_callbacks_go_on_with_the_run_that_goes_on() -> None:
    base = Run(completion_callbacks=[callback_to("a")])
    attach(base, "before")
    base.task(commands.start_timer("t"))
    finish_id = base.state.last_completed_id
    attach(base, "behind")
    base.do(
        lambda t: lifecycle.update_options(t, versioning_override=None, priority=Priority(priority_key=3), identity="op")
    )
    base.task(commands.complete())
    assert len(effects(base.state)) == 3
    run = reset_to(base, finish_id)
    assert run.history(finish_id) == (
        "5 WorkflowTaskFailed\n6 WorkflowExecutionOptionsUpdated\n7 WorkflowExecutionOptionsUpdated\n8 WorkflowTaskScheduled"
    )
    assert run.told(6).splitlines()[0].endswith("worker_may_ignore")
    assert run.last("WorkflowExecutionOptionsUpdated").identity == "op"
    assert len(run.state.callbacks) == 3 and run.state.request_ids["by behind"].event_id == 6
    run.task(commands.complete())
    assert effects(run.state) == [DeliverCallback(index, 0) for index in range(3)]
    assert tell_callback(run, 2, "is heard")


def test_a_request_that_attached_itself_to_the_prefix_is_not_attached_twice() -> None:
    base = Run()
    attach(base, "a")
    base.task(commands.start_timer("t"))
    attached = [one for one in base.events() if one.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED]
    before = base.history()
    base.do(lambda t: reset.reapply(t, ResetWorkflowExecutionRequest(), attached))
    assert base.history() == before and len(base.state.callbacks) == 1
