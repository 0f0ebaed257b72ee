"""What a run owes the world and when it wants to be looked at: both follow from its state alone."""

from __future__ import annotations

import pytest
from temporalio.api.common.v1 import RetryPolicy

from cluster.core import due
from cluster.core.apply import new_state
from cluster.core.effects import (
    ApplyClosePolicy,
    CancelExternal,
    OfferActivityTask,
    OfferWorkflowTask,
    SignalExternal,
    StartChild,
    TellParent,
    effects,
)
from cluster.core.entry import CloseNote
from cluster.core.events import SECOND_NS as S
from cluster.core.events import duration
from cluster.core.machines import activity_calls, child, lifecycle
from cluster.core.state import ParentLink, Status
from tests.core.build import BEGIN_NS, QUEUE, Run, lines
from tests.e2e import commands

PARENT = ParentLink("ns", "ns-id", "p", "pr", 5, 0)


def names(run: Run) -> list[str]:
    return [type(one).__name__ for one in effects(run.state)]


def wake_s(run: Run) -> float | None:
    at = due.wake_at(run.state)
    return (at - BEGIN_NS) / S if at else None


def test_a_scheduled_task_is_offered_until_it_is_taken() -> None:
    run = Run()
    assert run.state.task is not None
    assert effects(run.state) == [OfferWorkflowTask(2, run.state.task.stamp)]
    run.start_task()
    assert effects(run.state) == []


def test_all_that_is_outstanding_is_owed_in_order() -> None:
    run = Run()
    run.task(
        commands.schedule_activity("a", QUEUE),
        commands.schedule_activity("b", QUEUE),
        commands.start_child("c"),
        commands.signal_external("o"),
        commands.cancel_external("o"),
    )
    stamp = run.state.activities[5].stamp
    assert effects(run.state) == [
        OfferActivityTask(5, stamp),
        OfferActivityTask(6, stamp),
        StartChild(7),
        SignalExternal(8),
        CancelExternal(9),
    ]
    run.do(lambda t: activity_calls.start(t, 5, request_id="x", identity="w", stamp=stamp))
    assert OfferActivityTask(5, stamp) not in effects(run.state)


def test_a_paused_run_offers_no_task_but_its_messages_go_on() -> None:
    run = Run()
    run.task(commands.schedule_activity("a", QUEUE), commands.signal_external("o"), force_create_new_workflow_task=True)
    run.do(lambda t: lifecycle.pause(t, identity="", reason="", request_id=""))
    assert names(run) == ["SignalExternal"]


def test_a_closed_run_owes_its_children_and_its_parent_until_they_know() -> None:
    run = Run(parent=PARENT)
    run.task(commands.schedule_activity("a", QUEUE), commands.start_child("c"), commands.signal_external("o"))
    run.terminate()
    assert effects(run.state) == [ApplyClosePolicy(6), TellParent()]
    run.do(lambda t: child.close_policy_done(t, 6))
    run.do(lambda t: t.note(CloseNote(True, t.state.reset_run_id)))
    assert effects(run.state) == []


def test_a_run_with_a_successor_tells_its_parent_nothing() -> None:
    run = Run(parent=PARENT)
    done = run.task(commands.continue_as_new())
    assert names(run) == []
    after = run.successor(done)
    after.now = after.state.first_task_at
    after.wake()
    after.task(commands.complete())
    assert names(after) == ["TellParent"]


def test_a_run_that_has_not_begun_owes_nothing() -> None:

    assert effects(new_state("n", "w", "r")) == [] and due.wake_at(new_state("n", "w", "r")) == 0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"run_timeout_s": 30}, 30.0),
        ({"workflow_execution_timeout": duration(20 * S)}, 20.0),
        ({"workflow_start_delay": duration(5 * S)}, 5.0),
        ({"workflow_start_delay": duration(5 * S), "run_timeout_s": 3}, 5.0),
        ({"workflow_start_delay": duration(9 * S), "workflow_execution_timeout": duration(4 * S)}, 4.0),
    ],
)
def test_a_new_run_wakes_for_its_first_task_or_its_end(fields: dict[str, object], expected: float | None) -> None:
    assert wake_s(Run(**fields)) == expected  # type: ignore[arg-type]


def test_a_run_wakes_for_whatever_comes_first() -> None:
    run = Run(run_timeout_s=100)
    run.start_task()
    assert wake_s(run) == 10.0
    run.answer(
        commands.start_timer("t", 7),
        commands.schedule_activity("a", QUEUE, schedule_to_close_timeout=commands.duration(4)),
        sticky="sticky",
        force_create_new_workflow_task=True,
    )
    assert wake_s(run) == 4.0
    run.wait(4)
    run.wake()
    assert wake_s(run) == 5.0, "the sticky queue"
    run.wait(1)
    run.wake()
    assert wake_s(run) == 7.0
    run.wait(2)
    run.wake()
    assert wake_s(run) == 100.0
    run.terminate()
    assert wake_s(run) is None


def test_a_paused_run_wakes_for_no_task() -> None:
    run = Run(workflow_start_delay=duration(5 * S))
    run.do(lambda t: lifecycle.pause(t, identity="", reason="", request_id=""))
    assert wake_s(run) is None
    run.wait(6)
    run.do(lambda t: lifecycle.unpause(t, identity="", reason="", request_id=""))
    run.wake()
    assert run.history(3) == "3 WorkflowExecutionUnpaused\n4 WorkflowTaskScheduled"


def test_what_is_due_is_done_in_the_order_of_time_and_makes_one_task() -> None:
    run = Run()
    run.task(
        commands.start_timer("late", 3),
        commands.start_timer("early", 1),
        commands.schedule_activity(
            "a", QUEUE, schedule_to_close_timeout=commands.duration(2), retry_policy=RetryPolicy(maximum_attempts=1)
        ),
    )
    run.wait(60)
    run.wake()
    assert run.history(8) == lines("""
        8 TimerFired
        9 ActivityTaskTimedOut
        10 TimerFired
        11 WorkflowTaskScheduled""")
    assert [one.timer_fired_event_attributes.timer_id for one in run.events()[7:10:2]] == ["early", "late"]


def test_nothing_that_was_due_behind_the_end_of_the_run_happens() -> None:
    run = Run(run_timeout_s=5)
    run.task(commands.start_timer("before", 4), commands.start_timer("at", 5), commands.start_timer("behind", 6))
    run.wait(60)
    run.wake()
    assert run.history(8) == "8 TimerFired\n9 WorkflowExecutionTimedOut"


def test_a_closed_run_does_nothing_however_late_it_is_asked() -> None:
    run = Run(run_timeout_s=5)
    run.terminate()
    run.wait(60)
    run.wake()
    assert run.history(4) == "" and not run.state.is_open and run.state.status == Status.TERMINATED


def test_waking_early_does_nothing() -> None:
    run = Run()
    run.task(commands.start_timer("t", 5))
    run.wait(4.999)
    run.wake()
    assert run.history(6) == ""
