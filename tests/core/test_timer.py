"""The timer machine: started and cancelled by commands, fired by time."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import (
    CancelTimerCommandAttributes,
    Command,
    CompleteWorkflowExecutionCommandAttributes,
    StartTimerCommandAttributes,
)
from temporalio.api.enums.v1 import CommandType, EventType
from temporalio.api.history.v1 import TimerCanceledEventAttributes, TimerFiredEventAttributes
from temporalio.api.sdk.v1 import UserMetadata

from cluster.core.apply import EVENT_NAMES
from cluster.core.entry import UnbufferNote
from cluster.core.errors import CallerError
from cluster.core.events import SECOND_NS
from cluster.core.machines import timer
from cluster.core.state import checksum
from cluster.core.table import IllegalTransition
from tests.core.build import Run, lines, payloads


def start_timer(timer_id: str, seconds: int = 10, **fields: object) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_START_TIMER,
        start_timer_command_attributes=StartTimerCommandAttributes(
            timer_id=timer_id, start_to_fire_timeout=Duration(seconds=seconds)
        ),
        **fields,  # type: ignore[arg-type]
    )


def cancel_timer(timer_id: str) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_CANCEL_TIMER,
        cancel_timer_command_attributes=CancelTimerCommandAttributes(timer_id=timer_id),
    )


def complete_workflow() -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
        complete_workflow_execution_command_attributes=CompleteWorkflowExecutionCommandAttributes(),
    )


def test_a_timer_fires_at_its_time_and_tells_the_workflow() -> None:
    run = Run()
    run.task(start_timer("a", 10))
    assert timer.due_at(run.state) == run.now + 10 * SECOND_NS
    run.wait(10)
    run.wake()
    assert run.history(4) == lines("""
        4 WorkflowTaskCompleted
        5 TimerStarted
        6 TimerFired
        7 WorkflowTaskScheduled""")
    assert run.last("TimerStarted").workflow_task_completed_event_id == 4
    fired = run.last("TimerFired")
    assert (fired.timer_id, fired.started_event_id) == ("a", 5)
    assert run.state.timers == {} and timer.due_at(run.state) == 0


def test_a_timer_never_fires_early() -> None:
    run = Run()
    run.task(start_timer("a", 10))
    run.now += 10 * SECOND_NS - 1
    assert run.do(timer.decide_due) is False
    run.wake()
    assert "TimerFired" not in run.history()
    with pytest.raises(AssertionError, match="never fires early"):
        run.do(lambda t: timer.fire(t, "a"))
    run.now += 1
    assert run.do(timer.decide_due) is True


def test_timers_fire_in_the_order_of_their_time_then_of_their_start() -> None:
    run = Run()
    run.task(start_timer("late", 9), start_timer("first", 3), start_timer("second", 3), start_timer("never", 100))
    run.wait(20)
    assert run.do(timer.decide_due) is True
    fired = [one.timer_fired_event_attributes.timer_id for one in run.events() if EVENT_NAMES[one.event_type] == "TimerFired"]
    assert fired == ["first", "second", "late"]
    assert list(run.state.timers) == ["never"]


def test_a_timer_of_no_length_fires_at_once() -> None:
    run = Run()
    run.task(start_timer("a", 0))
    run.wake()
    assert run.history(5).startswith("5 TimerStarted\n6 TimerFired")


def test_a_cancelled_timer_does_not_fire() -> None:
    run = Run()
    run.task(start_timer("a", 10))
    run.task(cancel_timer("a"))
    run.wait(20)
    run.wake()
    assert run.history(5) == lines("""
        5 TimerStarted
        6 WorkflowTaskScheduled
        7 WorkflowTaskStarted
        8 WorkflowTaskCompleted
        9 TimerCanceled""")
    canceled = run.last("TimerCanceled")
    assert (canceled.timer_id, canceled.started_event_id, canceled.identity) == ("a", 5, "worker")
    assert canceled.workflow_task_completed_event_id == 8


def test_a_timer_that_fired_unseen_can_still_be_cancelled() -> None:
    run = Run()
    run.task(start_timer("a", 5), start_timer("b", 5))
    run.open_task()
    run.wait(5)
    run.wake()
    assert len(run.state.buffered) == 2
    run.answer(cancel_timer("a"))
    assert run.history(7) == lines("""
        7 WorkflowTaskScheduled
        8 WorkflowTaskStarted
        9 WorkflowTaskCompleted
        10 TimerCanceled
        11 TimerFired
        12 WorkflowTaskScheduled""")
    assert run.last("TimerCanceled").started_event_id == 5
    assert run.last("TimerFired").timer_id == "b"
    assert any(isinstance(item, UnbufferNote) for entry in run.entries for item in entry.items)


def test_a_run_may_close_once_its_fired_timer_is_cancelled() -> None:
    run = Run()
    run.task(start_timer("a", 5))
    run.open_task()
    run.wait(5)
    run.wake()
    run.answer(cancel_timer("a"), complete_workflow())
    assert run.history(9) == lines("""
        9 TimerCanceled
        10 WorkflowExecutionCompleted""")
    assert run.state.buffered == []


def test_the_id_of_a_running_or_unseen_timer_is_taken() -> None:
    run = Run()
    run.task(start_timer("a", 5))
    with pytest.raises(CallerError, match=r"^StartTimerDuplicateId: .*add-timer-started-event, TimerID: a$"):
        run.task(start_timer("a", 5))
    run.start_task()
    run.wait(5)
    run.wake()
    with pytest.raises(CallerError, match="StartTimerDuplicateId"):
        run.answer(start_timer("a", 5))
    run.answer()  # the repetition of a failed task is refused and stays
    run.task(start_timer("a", 5))  # seen by now
    assert list(run.state.timers) == ["a"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Command(command_type=CommandType.COMMAND_TYPE_START_TIMER), "StartTimerCommandAttributes is not set on"),
        (start_timer(""), "BadStartTimerAttributes: TimerId is not set on StartTimerCommand."),
        (start_timer("i" * 1001), "BadStartTimerAttributes: TimerId on StartTimerCommand exceeds length limit."),
        (start_timer("a", -1), "BadStartTimerAttributes: An invalid StartToFireTimeout is set on StartTimerCommand: negative"),
        (Command(command_type=CommandType.COMMAND_TYPE_CANCEL_TIMER), "CancelTimerCommandAttributes is not set on"),
        (cancel_timer(""), "BadCancelTimerAttributes: TimerId is not set on CancelTimerCommand."),
        (cancel_timer("i" * 1001), "BadCancelTimerAttributes: TimerId on CancelTimerCommand exceeds length limit."),
        (cancel_timer("unknown"), "add-timer-canceled-event, TimerID: unknown"),
    ],
)
def test_a_bad_timer_command_fails_the_workflow_task(bad: Command, words: str) -> None:
    run = Run()
    with pytest.raises(CallerError) as refusal:
        run.task(start_timer("good"), bad)
    assert words in refusal.value.message
    assert run.state.timers == {} and "TimerStarted" not in run.history()
    assert run.last("WorkflowTaskFailed").failure.message == refusal.value.message


def test_an_id_of_the_greatest_length_is_taken() -> None:
    run = Run()
    run.task(start_timer("i" * 1000))
    assert list(run.state.timers) == ["i" * 1000]


def test_a_duration_beyond_a_hundred_years_is_cut() -> None:
    run = Run()
    run.task(start_timer("a", 10**11))
    assert run.last("TimerStarted").start_to_fire_timeout.seconds == 100 * 365 * 86_400


def test_user_metadata_of_the_command_is_on_the_event() -> None:
    run = Run()
    metadata = UserMetadata(summary=payloads("why").payloads[0])
    run.task(start_timer("a", user_metadata=metadata))
    [event] = [one for one in run.events() if EVENT_NAMES[one.event_type] == "TimerStarted"]
    assert event.user_metadata == metadata


def test_an_illegal_step_raises_and_changes_nothing() -> None:
    run = Run()
    run.task(start_timer("a"))
    before = checksum(run.state)
    with pytest.raises(IllegalTransition, match="timer: no transition from 'none' by 'TimerFired'"):
        run.do(lambda t: t.add(EventType.EVENT_TYPE_TIMER_FIRED, TimerFiredEventAttributes(timer_id="b")))
    with pytest.raises(IllegalTransition, match="timer: no transition from 'none' by 'TimerCanceled'"):
        run.do(lambda t: t.add(EventType.EVENT_TYPE_TIMER_CANCELED, TimerCanceledEventAttributes(timer_id="b")))
    with pytest.raises(IllegalTransition, match="no such buffered event"):
        run.do(lambda t: t.note(UnbufferNote(0)))
    assert checksum(run.state) == before


def test_every_row_of_the_table_is_taken() -> None:
    timer.TABLE.taken.clear()
    test_a_timer_fires_at_its_time_and_tells_the_workflow()
    test_a_cancelled_timer_does_not_fire()
    test_a_timer_that_fired_unseen_can_still_be_cancelled()
    assert timer.TABLE.taken == {(row.source, row.trigger) for row in timer.TABLE.rows}
