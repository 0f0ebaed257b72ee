"""The workflow task: normal, transient, speculative; what is buffered while one runs, and what time does to it."""

from __future__ import annotations

import pytest
from temporalio.api.enums.v1 import SuggestContinueAsNewReason, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure

from cluster.config import Limits
from cluster.core.events import SECOND_NS
from cluster.core.machines import activity_calls, lifecycle, workflow_task
from cluster.core.state import TaskType
from cluster.core.table import IllegalTransition
from cluster.core.transition import Transition
from tests.core.build import BEGIN_NS, QUEUE, Run, lines
from tests.e2e import commands

UNHANDLED = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE


def fail(run: Run, message: str = "bug") -> None:
    def decide(t: Transition) -> None:
        workflow_task.fail(t, UNHANDLED, Failure(message=message), identity="worker")
        workflow_task.schedule(t)

    run.do(decide)


def test_a_normal_task_writes_its_events_as_they_happen() -> None:
    run = Run()
    run.start_task()
    assert run.history() == lines("""
        1 WorkflowExecutionStarted
        2 WorkflowTaskScheduled
        3 WorkflowTaskStarted""")
    run.answer()
    assert run.history(4) == "4 WorkflowTaskCompleted"
    assert run.state.task is None


def test_attributes_are_those_of_the_public_server() -> None:
    run = Run()
    run.task()
    assert (
        run.told(2)
        == lines("""
        2 WorkflowTaskScheduled task_queue={name=tq kind=NORMAL} start_to_close_timeout=10s attempt=1
        3 WorkflowTaskStarted scheduled_event_id=2 identity=worker request_id=id-1 history_size_bytes=""").replace(
            "history_size_bytes=",
            f"history_size_bytes={run.events()[2].workflow_task_started_event_attributes.history_size_bytes}\n",
        )
        + "4 WorkflowTaskCompleted scheduled_event_id=2 started_event_id=3 identity=worker"
    )


def test_the_repetition_of_a_failed_task_has_no_events_until_it_completes() -> None:
    run = Run()
    run.start_task()
    fail(run)
    fail_again = run.state.task
    assert fail_again is not None and (fail_again.attempt, fail_again.events_written) == (2, False)
    run.start_task()
    assert run.history(4) == "4 WorkflowTaskFailed"
    shown = workflow_task.pending_events(run.state, 0)
    assert [one.event_id for one in shown] == [5, 6]
    fail(run)
    run.task(commands.complete())
    assert run.history(4) == lines("""
        4 WorkflowTaskFailed
        5 WorkflowTaskScheduled
        6 WorkflowTaskStarted
        7 WorkflowTaskCompleted
        8 WorkflowExecutionCompleted""")
    assert run.last("WorkflowTaskScheduled").attempt == 3


def test_news_between_two_attempts_makes_the_next_one_the_first_again() -> None:
    run = Run()
    run.start_task()
    fail(run)
    run.signal()
    run.task()
    assert run.history(4) == lines("""
        4 WorkflowTaskFailed
        5 WorkflowExecutionSignaled
        6 WorkflowTaskScheduled
        7 WorkflowTaskStarted
        8 WorkflowTaskCompleted""")
    assert run.last("WorkflowTaskScheduled").attempt == 1


def test_news_during_a_transient_task_follows_its_events_when_it_completes() -> None:
    run = Run()
    run.start_task()
    fail(run)
    run.start_task()
    run.signal()
    run.answer()
    assert run.history(5) == lines("""
        5 WorkflowTaskScheduled
        6 WorkflowTaskStarted
        7 WorkflowTaskCompleted
        8 WorkflowExecutionSignaled
        9 WorkflowTaskScheduled""")


def test_news_during_a_transient_task_that_fails_stands_alone() -> None:
    run = Run()
    run.start_task()
    fail(run)
    run.start_task()
    run.signal()
    fail(run)
    assert run.history(4) == lines("""
        4 WorkflowTaskFailed
        5 WorkflowExecutionSignaled
        6 WorkflowTaskScheduled""")


def test_a_late_task_times_out_with_an_event_and_its_repetition_without() -> None:
    run = Run()
    run.start_task()
    run.wait(10)
    run.wake()
    assert run.told(4) == "4 WorkflowTaskTimedOut scheduled_event_id=2 started_event_id=3 timeout_type=START_TO_CLOSE"
    run.start_task()
    run.wait(10)
    run.wake()
    assert run.history(4) == "4 WorkflowTaskTimedOut"
    assert run.state.task is not None and run.state.task.attempt == 3


@pytest.mark.parametrize(("attempt", "timeout_s"), [(1, 10), (3, 10), (4, 15), (5, 20), (6, 30), (30, 610)])
def test_a_task_that_keeps_failing_gets_ever_longer(attempt: int, timeout_s: int) -> None:
    assert workflow_task.timeout_of_attempt(Run().state, attempt) == timeout_s * SECOND_NS


def test_a_sticky_queue_without_a_worker_is_given_up_with_an_event() -> None:
    run = Run()
    run.task(sticky="sticky")
    run.signal()
    assert run.last("WorkflowTaskScheduled").task_queue.name == "sticky"
    run.wait(5)
    run.wake()
    assert run.history(5) == lines("""
        5 WorkflowExecutionSignaled
        6 WorkflowTaskScheduled
        7 WorkflowTaskTimedOut
        8 WorkflowTaskScheduled""")
    scheduled = run.last("WorkflowTaskScheduled")
    assert (scheduled.task_queue.name, scheduled.attempt) == (QUEUE, 1)


def test_a_failure_on_a_sticky_queue_does_not_count() -> None:
    run = Run()
    run.task(sticky="sticky")
    run.signal()
    run.start_task()
    fail(run)
    assert run.history(8) == "8 WorkflowTaskFailed\n9 WorkflowTaskScheduled"
    assert run.last("WorkflowTaskScheduled").task_queue.name == QUEUE


def test_a_sticky_worker_known_to_be_gone_costs_no_event() -> None:
    run = Run()
    run.task(sticky="sticky")
    run.signal()
    before = run.history()
    stamp = run.state.task.stamp if run.state.task is not None else 0
    run.do(workflow_task.fall_back_to_normal_queue)
    assert run.history() == before
    assert run.state.task is not None
    assert (run.state.task.is_sticky, run.state.task.stamp, run.state.sticky_queue) == (False, stamp + 1, "")
    run.do(lambda t: workflow_task.schedule(t))  # one is pending: nothing happens
    assert run.history() == before


def test_a_speculative_task_has_no_events_until_its_worker_needs_them() -> None:
    run = Run()
    run.task()
    run.update()
    run.start_task()
    assert run.history(4) == "4 WorkflowTaskCompleted"
    assert run.state.task is not None and run.state.task.type == TaskType.SPECULATIVE
    assert [one.event_id for one in run.deliver()] == [5]
    run.answer(commands.marker("m"))
    assert run.history(5) == lines("""
        5 WorkflowTaskScheduled
        6 WorkflowTaskStarted
        7 WorkflowTaskCompleted
        8 MarkerRecorded""")


def test_news_before_a_speculative_task_starts_stands_behind_its_scheduled_event() -> None:
    run = Run()
    run.task()
    run.update()
    run.signal()
    run.start_task()
    assert run.history(5) == lines("""
        5 WorkflowTaskScheduled
        6 WorkflowExecutionSignaled
        7 WorkflowTaskStarted""")
    assert run.deliver()[0].event_id == 6


def test_news_while_a_speculative_task_runs_writes_its_events_at_once() -> None:
    run = Run()
    run.task()
    run.update()
    run.start_task()
    carried = run.deliver()
    run.signal()
    assert run.history(5) == "5 WorkflowTaskScheduled\n6 WorkflowTaskStarted"
    assert run.last("WorkflowTaskStarted").identity == "", "the public server has forgotten who took it"
    assert run.deliver() == carried
    run.answer()
    assert run.history(7) == "7 WorkflowTaskCompleted\n8 WorkflowExecutionSignaled\n9 WorkflowTaskScheduled"


def test_a_speculative_task_that_nobody_takes_becomes_a_real_one() -> None:
    run = Run()
    run.task()
    run.update()
    run.wait(5)
    run.wake()
    assert run.history(5) == lines("""
        5 WorkflowTaskScheduled
        6 WorkflowTaskTimedOut
        7 WorkflowTaskScheduled""")


def test_a_speculative_task_that_fails_is_repeated_with_its_update() -> None:
    run = Run()
    run.task()
    run.update()
    run.start_task()
    fail(run)
    assert run.history(5) == lines("""
        5 WorkflowTaskScheduled
        6 WorkflowTaskStarted
        7 WorkflowTaskFailed""")
    run.start_task()
    assert run.state.task is not None and run.state.task.attempt == 2
    assert [(one.id, one.event_id) for one in run.deliver()] == [("u/request", 8)]


def test_events_that_came_while_a_task_ran_are_flushed_with_results_last() -> None:
    run = Run()
    run.task(commands.schedule_activity("a", QUEUE), commands.start_timer("t", 1))
    run.open_task()
    run.do(lambda t: activity_calls.start(t, 5, request_id="x", identity="w", stamp=run.state.activities[5].stamp))
    run.do(lambda t: activity_calls.complete(t, 5, 1, None, identity="w"))
    run.signal()
    run.wait(1)
    run.wake()
    run.answer()
    assert run.history(9) == lines("""
        9 WorkflowTaskCompleted
        10 ActivityTaskStarted
        11 WorkflowExecutionSignaled
        12 TimerFired
        13 ActivityTaskCompleted
        14 WorkflowTaskScheduled""")
    assert run.last("ActivityTaskCompleted").started_event_id == 10


def test_a_paused_run_gets_no_task_but_what_was_buffered_joins_its_history() -> None:
    run = Run()
    run.start_task()
    run.do(lambda t: lifecycle.pause(t, identity="op", reason="", request_id="p"))
    run.wait(10)
    run.wake()
    assert run.history(4) == "4 WorkflowTaskTimedOut\n5 WorkflowExecutionPaused"
    assert workflow_task.position(run.state) == "none"
    run.do(lambda t: lifecycle.unpause(t, identity="op", reason="", request_id="p"))
    assert run.history(6) == "6 WorkflowExecutionUnpaused"
    assert run.state.task is not None and run.state.task.attempt == 2  # the repetition of the one that timed out


def test_a_long_history_asks_to_continue_as_new() -> None:
    plain = Run(limits=Limits(history_events_suggest=4))
    plain.start_task()
    assert not plain.last("WorkflowTaskStarted").suggest_continue_as_new
    full = Run(limits=Limits(history_events_suggest=3, history_bytes_suggest=1, updates_total_max=1))
    full.update()
    full.start_task()
    started = full.last("WorkflowTaskStarted")
    assert started.suggest_continue_as_new
    assert list(started.suggest_continue_as_new_reasons) == [
        SuggestContinueAsNewReason.SUGGEST_CONTINUE_AS_NEW_REASON_HISTORY_SIZE_TOO_LARGE,
        SuggestContinueAsNewReason.SUGGEST_CONTINUE_AS_NEW_REASON_TOO_MANY_HISTORY_EVENTS,
        SuggestContinueAsNewReason.SUGGEST_CONTINUE_AS_NEW_REASON_TOO_MANY_UPDATES,
    ]


def test_each_offer_of_a_task_has_a_stamp_of_its_own() -> None:
    run = Run()
    stamps = []
    for _ in range(4):
        assert run.state.task is not None
        stamps.append(run.state.task.stamp)
        run.start_task()
        fail(run)
    assert stamps == sorted(set(stamps))


def test_illegal_steps_raise_and_change_nothing() -> None:
    run = Run()
    with pytest.raises(IllegalTransition):
        run.do(lambda t: workflow_task.fail(t, UNHANDLED))
    run.start_task()
    with pytest.raises(IllegalTransition):
        run.start_task()
    run.answer()
    with pytest.raises(IllegalTransition):
        run.start_task()
    assert run.now == BEGIN_NS and run.history(4) == "4 WorkflowTaskCompleted"
