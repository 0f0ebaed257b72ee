"""News for a winner that waits for them: of children, Nexus operations, activities; and what another run of the id was told."""

from __future__ import annotations

import pytest
from temporalio.api.common.v1 import Payload, WorkflowExecution

from cluster.core.ledger import Outcome
from cluster.core.machines import activity_calls, child, nexus_results, start, workflow_task
from cluster.core.reapply import reapply
from cluster.core.salvage import salvage
from cluster.core.transition import Transition
from tests.core import nexus_stories
from tests.core.build import QUEUE, Run, lines, payloads
from tests.core.regions import append, begun, ledger, line_of, meet, outcome_of, parted
from tests.e2e import commands


def child_ends(run: Run, initiated_event_id: int, run_id: str) -> None:
    ended = Run()
    ended.task(commands.complete(payloads("done")))
    initiated = run.events()[initiated_event_id - 1]
    run.do(
        lambda t: child.record_ended(t, initiated, WorkflowExecution(workflow_id="c", run_id=run_id), ended.events()[-1])
    )


def test_the_end_of_a_child_that_the_winner_waits_for_is_told_to_it() -> None:
    one, two = parted(begun(commands.start_child("c")))
    child_ends(one, 5, "child-run")
    two.signal("longer")
    met = meet(one, two)
    assert append(two, met.lines) == [True, True] and two.state.children == {}
    ended = two.last("ChildWorkflowExecutionCompleted")
    assert two.events()[ended.started_event_id - 1].HasField("child_workflow_execution_started_event_attributes")
    assert append(two, met.lines) == [False, False]
    assert outcome_of(meet(one, two), "ChildWorkflowExecutionCompleted") is Outcome.DUPLICATE


def test_the_end_is_told_even_where_the_start_was_not() -> None:
    one, two = parted(begun(commands.start_child("c")))
    child_ends(one, 5, "child-run")
    two.signal("longer")
    end = line_of(meet(one, two), "ChildWorkflowExecutionCompleted")
    assert two.do(lambda t: reapply(t, end)) and two.state.children == {}
    assert "ChildWorkflowExecutionStarted" in two.history()


def test_another_run_of_the_child_is_not_the_one_the_winner_waits_for() -> None:
    one, two = parted(begun(commands.start_child("c")))
    child_ends(one, 5, "child-run")
    two.do(lambda t: child.record_started(t, two.events()[4], "another-run"))
    two.task()
    met = meet(one, two)
    assert outcome_of(met, "ChildWorkflowExecutionCompleted") is Outcome.ROLLED_BACK
    assert "another-run" in line_of(met, "ChildWorkflowExecutionCompleted").reason


def test_a_child_that_only_the_loser_wished_for_is_rolled_back_even_if_the_winner_has_one_of_that_number() -> None:
    one, two = parted(begun())
    for run in (one, two):
        run.signal("same")
        run.task(commands.start_child("c"))
    child_ends(one, 9, "child-run")
    two.signal("longer")
    two.task()
    met = meet(one, two)
    assert 9 in two.state.children
    assert outcome_of(met, "ChildWorkflowExecutionCompleted") is Outcome.ROLLED_BACK and append(two, met.lines) == []


def test_a_child_that_was_found_started_meanwhile_does_not_hear_of_another_run() -> None:
    one, two = parted(begun(commands.start_child("c")))
    child_ends(one, 5, "child-run")
    two.signal("longer")
    met = meet(one, two)
    two.do(lambda t: child.record_started(t, two.events()[4], "another-run"))
    assert append(two, met.lines) == [False, False] and two.state.children[5].run_id == "another-run"


def test_the_answer_to_an_operation_that_the_winner_waits_for_is_told_to_it() -> None:
    one, two = parted(begun(nexus_stories.schedule()))
    operation = one.state.operations[5]
    result = Payload(data=b"done")
    one.do(lambda t: nexus_results.record_callback(t, 5, operation.request_id, token="tok", result=result))
    two.signal("longer")
    met = meet(one, two)
    assert append(two, met.lines) == [True, True] and two.state.operations == {}
    assert two.last("NexusOperationCompleted").result == result
    assert append(two, met.lines) == [False, False]
    assert outcome_of(meet(one, two), "NexusOperationCompleted") is Outcome.DUPLICATE


def test_an_operation_that_only_the_loser_wished_for_is_rolled_back_even_if_the_winner_has_one_of_that_number() -> None:
    one, two = parted(begun())
    for run in (one, two):
        run.signal("same")
        run.task(nexus_stories.schedule())
    request_id = one.state.operations[9].request_id
    one.do(lambda t: nexus_results.record_completed(t, 9, request_id, Payload(data=b"done")))
    two.signal("longer")
    assert outcome_of(meet(one, two), "NexusOperationCompleted") is Outcome.ROLLED_BACK


def with_result(run: Run, scheduled_id: int = 5) -> None:
    stamp = run.state.activities[scheduled_id].stamp
    run.do(lambda t: activity_calls.start(t, scheduled_id, request_id="poll", identity="worker", stamp=stamp))

    def complete(t: Transition) -> None:
        activity_calls.complete(t, scheduled_id, 1, payloads("theirs"), identity="worker")
        workflow_task.schedule(t)

    run.do(complete)


def test_an_activity_of_the_loser_runs_again() -> None:
    one, two = parted(begun(commands.schedule_activity("a", QUEUE)))
    with_result(one)
    two.signal("longer")
    met = meet(one, two)
    assert outcome_of(met, "ActivityTaskCompleted") is Outcome.RUN_AGAIN and append(two, met.lines) == []
    assert 5 in two.state.activities


@pytest.mark.parametrize("is_started", [False, True])
@pytest.mark.parametrize("is_busy", [False, True])
def test_a_namespace_may_adopt_the_result_where_the_winner_has_the_activity_pending(is_started: bool, is_busy: bool) -> None:
    one, two = parted(begun(commands.schedule_activity("a", QUEUE)))
    with_result(one)
    two.signal("longer")
    if is_started:
        two.do(lambda t: activity_calls.start(t, 5, request_id="poll two", identity="worker two", stamp=0))
    if is_busy:
        two.start_task()
    met = meet(one, two, adopts_activities=True)
    assert append(two, met.lines) == [True] and append(two, met.lines) == [False]
    if is_busy:
        two.answer()
    completed = two.last("ActivityTaskCompleted")
    assert completed.result == payloads("theirs")
    assert two.events()[completed.started_event_id - 1].activity_task_started_event_attributes.request_id == "poll"
    assert 5 not in two.state.activities


def test_a_result_that_the_loser_had_buffered_is_adopted_with_its_start() -> None:
    run = begun(commands.schedule_activity("a", QUEUE))
    run.signal("makes a task")
    one, two = parted(run)
    one.start_task()
    with_result(one)
    two.signal("longer")
    met = meet(one, two, adopts_activities=True)
    assert append(two, met.lines) == [True] and two.last("ActivityTaskStarted").request_id == "poll"


def test_a_result_is_not_adopted_for_another_activity_of_that_number() -> None:
    one, two = parted(begun())
    for run, activity_id in ((one, "a"), (two, "b")):
        run.signal("same")
        run.task(commands.schedule_activity(activity_id, QUEUE))
    with_result(one, 9)
    two.signal("longer")
    met = meet(one, two, adopts_activities=True)
    assert met.winner is two and outcome_of(met, "ActivityTaskCompleted") is Outcome.RUN_AGAIN and append(two, met.lines) == []


def test_who_attached_to_the_loser_is_attached_to_the_winner() -> None:
    one, two = parted(begun())
    kept = nexus_stories.callback_to("caller")
    one.do(lambda t: start.attach(t, "attached", callbacks=[kept], attach_request_id=True))
    two.signal("longer")
    met = meet(one, two)
    assert append(two, met.lines) == [True] and append(two, met.lines) == [False]
    assert len(two.state.callbacks) == 1 and "attached" in two.state.request_ids


# --- another run of the workflow id -------------------------------------------------------------------------------------


def test_the_signals_of_a_run_that_lost_to_another_run_reach_that_one() -> None:
    one, two = Run(request_id="one"), Run(request_id="two")
    one.version, two.version = 1, 2
    for state in (two.state, two.folded, two.rebuilt):
        state.run_id = "r2"
    one.signal("s1", "same")
    one.signal("s2")
    two.signal("s1", "same")
    found = salvage(
        two.state,
        one.state,
        common_event_id=0,
        common_transition=0,
        loser_events=one.event_bytes(),
        winner_events=two.event_bytes(),
    )
    assert ledger(found) == lines(
        """
        event 1 WorkflowExecutionStarted: rolled back
        event 2 WorkflowTaskScheduled: rolled back
        event 3 WorkflowExecutionSignaled: duplicate
        event 4 WorkflowExecutionSignaled: reapply
        """
    )
