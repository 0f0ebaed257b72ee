"""The activity machine: taken, tried again, ended by workers or by time; and its table."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import Payload, Payloads, Priority, RetryPolicy, WorkerVersionStamp
from temporalio.api.enums.v1 import EventType, RetryState, TimeoutType
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.history.v1 import ActivityTaskCompletedEventAttributes
from temporalio.api.sdk.v1 import UserMetadata

from cluster.core.apply import EVENT_NAMES
from cluster.core.errors import CallerError, Code
from cluster.core.events import SECOND_NS
from cluster.core.machines import (
    activity,
    activity_calls,
    activity_options,
    lifecycle,
)
from cluster.core.machines.activity_calls import Heartbeat
from cluster.core.state import checksum
from cluster.core.table import IllegalTransition
from tests.core import test_activity_commands, test_activity_options
from tests.core.activity_stories import (
    FINAL,
    OOPS,
    A,
    backing_off,
    beat,
    complete,
    fail,
    pending,
    schedule,
    scheduled,
    seconds,
    start,
    started,
)
from tests.core.build import QUEUE, Run, lines, payloads

# --- one attempt -------------------------------------------------------------------------------------------------------


def test_the_started_event_is_written_when_the_activity_ends() -> None:
    run = started()
    run.wait(3)
    assert run.history(A) == "5 ActivityTaskScheduled"
    assert complete(run) is True
    assert run.history(A) == lines("""
        5 ActivityTaskScheduled
        6 ActivityTaskStarted
        7 ActivityTaskCompleted""")
    begun, ended = run.last("ActivityTaskStarted"), run.last("ActivityTaskCompleted")
    assert (begun.scheduled_event_id, begun.attempt, begun.identity, begun.request_id) == (A, 1, "w1", "poll")
    assert (ended.scheduled_event_id, ended.started_event_id, ended.identity) == (A, 6, "w1")
    assert ended.result == payloads("done")
    events = {event.event_id: event for event in run.events()}
    assert events[7].event_time.seconds - events[6].event_time.seconds == 3, "the event bears the time of the start"
    assert run.state.activities == {} and run.state.activity_ids == {}


def test_the_scheduled_event_bears_what_the_command_said_and_the_defaults() -> None:
    metadata = UserMetadata(summary=Payload(data=b"why"))
    run = scheduled(
        input=payloads("x"), heartbeat_timeout=seconds(90), priority=Priority(priority_key=2), user_metadata=metadata
    )
    event = run.last("ActivityTaskScheduled")
    assert (event.activity_id, event.activity_type.name, event.task_queue.name, event.task_queue.kind) == ("a", "T", QUEUE, 1)
    assert (event.workflow_task_completed_event_id, event.input, event.priority.priority_key) == (4, payloads("x"), 2)
    assert (event.start_to_close_timeout, event.heartbeat_timeout) == (seconds(60), seconds(60)), "no beat outlasts its attempt"
    assert (event.schedule_to_close_timeout, event.schedule_to_start_timeout) == (seconds(0), seconds(0))
    assert event.retry_policy == RetryPolicy(
        initial_interval=seconds(1), backoff_coefficient=2, maximum_interval=seconds(100), maximum_attempts=0
    )
    [raw] = [one for one in run.events() if EVENT_NAMES[one.event_type] == "ActivityTaskScheduled"]
    assert raw.user_metadata == metadata


def test_a_start_is_idempotent_by_its_request_id_and_happens_once() -> None:
    run = scheduled()
    assert start(run, "poll-1") is True
    assert start(run, "poll-1") is False
    with pytest.raises(CallerError) as refusal:
        start(run, "poll-2")
    assert (refusal.value.code, refusal.value.message) == (Code.ALREADY_EXISTS, "Activity task already started.")


def test_an_offer_of_another_stamp_or_of_an_ended_activity_is_void() -> None:
    run = scheduled()
    with pytest.raises(CallerError, match="stamp has changed") as refusal:
        start(run, stamp=7)
    assert refusal.value.code == Code.FAILED_PRECONDITION
    start(run)
    complete(run)
    with pytest.raises(CallerError) as gone:
        start(run, stamp=0)
    assert (gone.value.code, gone.value.message) == (Code.NOT_FOUND, activity.ACTIVITY_TASK_NOT_FOUND)


def test_a_heartbeat_is_one_note_and_keeps_the_details_for_the_next_attempt() -> None:
    run = started(heartbeat_timeout=seconds(10))
    run.wait(8)
    assert beat(run) == Heartbeat(False, False, False)
    assert len(run.entries[-1].items) == 1
    assert activity.due_at(pending(run)) == run.now + 10 * SECOND_NS
    fail(run)
    assert Payloads.FromString(pending(run).heartbeat_details) == payloads("50%")


def test_a_result_by_id_needs_no_worker() -> None:
    run = scheduled()
    run.do(lambda t: activity_calls.complete(t, 0, 0, payloads("x"), identity="cli", activity_id="a"))
    assert run.history(6) == "6 ActivityTaskStarted\n7 ActivityTaskCompleted"
    assert (run.last("ActivityTaskStarted").identity, run.last("ActivityTaskStarted").request_id) == ("cli", "")
    assert run.last("ActivityTaskCompleted").started_event_id == 6


def test_callers_of_what_is_not_pending_are_told_so() -> None:
    run = scheduled()
    for call in (activity_calls.heartbeat, activity_calls.fail, activity_calls.cancel, activity_calls.complete):
        cases: list[tuple[int, int, str, str, Code]] = [
            (A, 1, "", activity.ACTIVITY_TASK_NOT_FOUND, Code.NOT_FOUND),  # not started
            (99, 1, "", activity.ACTIVITY_TASK_NOT_FOUND, Code.NOT_FOUND),
            (0, 0, "", "activityID cannot be empty", Code.INVALID_ARGUMENT),
            (0, 0, "b", "cannot find pending activity with ActivityID b, check workflow execution history for more details",
             Code.NOT_FOUND),
        ]  # fmt: skip
        for event_id, attempt, activity_id, words, code in cases:
            with pytest.raises(CallerError) as refusal:
                run.do(lambda t, c=call, e=event_id, n=attempt, i=activity_id: c(t, e, n, None, activity_id=i))  # type: ignore[misc]
            assert (refusal.value.message, refusal.value.code) == (words, code)
    start(run)
    with pytest.raises(CallerError, match="invalid activityID"):  # a token of another attempt
        run.do(lambda t: activity_calls.complete(t, A, 2, None))
    run.do(lambda t: lifecycle.terminate(t, reason="", details=None, identity=""))
    with pytest.raises(CallerError, match="workflow execution already completed"):
        run.do(lambda t: activity_calls.complete(t, A, 1, None))
    with pytest.raises(CallerError, match="workflow execution already completed"):
        run.do(lambda t: activity_calls.start(t, A, request_id="x", identity="", stamp=0))


# --- attempts ----------------------------------------------------------------------------------------------------------


def test_a_failed_attempt_waits_and_is_offered_anew_as_something_else() -> None:
    run = backing_off()
    one = pending(run)
    assert activity.position(one) == "backing off" and not activity.is_dispatchable(one)
    assert (one.attempt, one.next_attempt_at, one.stamp) == (2, run.now + SECOND_NS, 1)
    assert activity.due_at(one) == run.now + SECOND_NS
    with pytest.raises(CallerError, match="stamp has changed"):
        start(run)  # not yet, even with the right stamp
    run.now += SECOND_NS - 1
    run.wake()
    assert activity.position(pending(run)) == "backing off"
    run.now += 1
    run.wake()
    assert activity.is_dispatchable(pending(run)) and pending(run).scheduled_at == run.now
    with pytest.raises(CallerError, match="stamp has changed"):
        start(run, stamp=0)
    assert start(run) is True
    complete(run)
    begun = run.last("ActivityTaskStarted")
    assert (begun.attempt, begun.last_failure) == (2, OOPS)


@pytest.mark.parametrize(
    ("fields", "failure", "expected"),
    [
        ({"retry_policy": RetryPolicy(maximum_attempts=1)}, OOPS, RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED),
        ({}, FINAL, RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE),
        ({"retry_policy": RetryPolicy(non_retryable_error_types=["Oops"])}, OOPS, RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE),
        ({"schedule_to_close_timeout": Duration(nanos=999_999_999)}, OOPS, RetryState.RETRY_STATE_TIMEOUT),
    ],
)
def test_a_failure_that_is_the_last_is_an_event(fields: dict[str, Any], failure: Failure, expected: int) -> None:
    run = started(**fields)
    assert fail(run, failure) is True
    assert run.history(6) == "6 ActivityTaskStarted\n7 ActivityTaskFailed"
    failed = run.last("ActivityTaskFailed")
    assert (failed.retry_state, failed.failure, failed.started_event_id, failed.identity) == (expected, failure, 6, "w1")


def test_a_failing_worker_may_leave_progress_and_ask_for_a_delay() -> None:
    run = started()
    late = Failure(application_failure_info=ApplicationFailureInfo(next_retry_delay=seconds(1000)))
    assert fail(run, late, last_heartbeat_details=payloads("90%")) is False
    assert pending(run).next_attempt_at == run.now + 1000 * SECOND_NS
    assert Payloads.FromString(pending(run).heartbeat_details) == payloads("90%")


def test_a_huge_failure_is_cut_before_the_state_carries_it() -> None:
    run = started()
    fail(run, Failure(message="m" * 100_000))
    assert len(pending(run).last_failure) < 4200


def test_the_version_stamp_of_the_worker_is_on_the_started_event() -> None:
    run = scheduled()
    start(run, worker_version=WorkerVersionStamp(build_id="b1"))
    complete(run)
    assert run.last("ActivityTaskStarted").worker_version.build_id == "b1"


# --- time --------------------------------------------------------------------------------------------------------------


def test_nobody_took_it_in_time() -> None:
    run = scheduled(schedule_to_close_timeout=seconds(60), schedule_to_start_timeout=seconds(5))
    run.wait(5)
    run.wake()
    assert run.history(6) == "6 ActivityTaskTimedOut\n7 WorkflowTaskScheduled"
    out = run.last("ActivityTaskTimedOut")
    assert (out.retry_state, out.started_event_id) == (RetryState.RETRY_STATE_TIMEOUT, 0)
    assert (out.failure.message, out.failure.source) == ("activity ScheduleToStart timeout", "Server")
    assert out.failure.timeout_failure_info.timeout_type == TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START


def test_an_attempt_that_takes_too_long_is_followed_by_another() -> None:
    run = started(start_to_close_timeout=seconds(10))
    run.wait(10)
    run.wake()
    one = pending(run)
    assert (one.attempt, activity.position(one), one.next_attempt_at) == (2, "backing off", run.now + SECOND_NS)
    assert Failure.FromString(one.last_failure).message == "activity StartToClose timeout"
    assert run.history(6) == ""


def test_a_worker_that_falls_silent_loses_the_activity() -> None:
    run = started(heartbeat_timeout=seconds(10), retry_policy=RetryPolicy(maximum_attempts=1))
    run.wait(8)
    beat(run)
    run.wait(9.5)
    run.wake()
    assert activity.position(pending(run)) == "started"
    run.wait(0.5)
    run.wake()
    out = run.last("ActivityTaskTimedOut")
    assert out.failure.message == "activity Heartbeat timeout"
    assert out.failure.timeout_failure_info.timeout_type == TimeoutType.TIMEOUT_TYPE_HEARTBEAT
    assert out.failure.timeout_failure_info.last_heartbeat_details == payloads("50%")
    assert (out.retry_state, out.started_event_id) == (RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED, 6)


def test_when_no_attempt_fits_any_more_the_last_failure_is_the_cause() -> None:
    run = backing_off(schedule_to_close_timeout=seconds(30), start_to_close_timeout=seconds(29))
    run.wait(1)
    run.wake()
    start(run)
    run.wait(29)  # start-to-close and schedule-to-close end together; no attempt fits behind
    run.wake()
    out = run.last("ActivityTaskTimedOut")
    assert out.retry_state == RetryState.RETRY_STATE_TIMEOUT
    assert out.failure.message == activity.NOT_ENOUGH_TIME
    assert out.failure.timeout_failure_info.timeout_type == TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
    assert out.failure.cause == OOPS
    assert run.last("ActivityTaskStarted").attempt == 2


def test_an_activity_may_be_late_while_it_backs_off() -> None:
    run = backing_off(schedule_to_close_timeout=seconds(30))
    run.wait(30)  # nobody looked: the next attempt was due, and the whole is late
    run.wake()
    out = run.last("ActivityTaskTimedOut")
    assert (out.failure.message, out.started_event_id) == (activity.NOT_ENOUGH_TIME, 0)


def test_a_deadline_before_the_next_attempt_ends_the_wait() -> None:
    run = backing_off(schedule_to_close_timeout=seconds(30))
    run.do(lambda t: activity_options.reset(t, [A], jitter_ns=200 * SECOND_NS))
    assert pending(run).next_attempt_at == run.now + 100 * SECOND_NS
    assert activity.due_at(pending(run)) == run.now + 30 * SECOND_NS
    run.wait(30)
    run.wake()
    assert run.history(6) == "6 ActivityTaskTimedOut\n7 WorkflowTaskScheduled"


# --- while a workflow task is started ----------------------------------------------------------------------------------


def test_an_end_is_buffered_while_a_workflow_task_is_started() -> None:
    run = started()
    run.open_task()
    complete(run)
    assert run.history(6) == "6 WorkflowTaskScheduled\n7 WorkflowTaskStarted"
    run.answer()
    assert run.history(8) == lines("""
        8 WorkflowTaskCompleted
        9 ActivityTaskStarted
        10 ActivityTaskCompleted
        11 WorkflowTaskScheduled""")
    assert run.last("ActivityTaskCompleted").started_event_id == 9


def test_results_come_after_all_starts_at_the_flush() -> None:
    run = Run()
    run.task(schedule("a"), schedule("b"))
    for event_id in (5, 6):
        run.do(lambda t, e=event_id: activity_calls.start(t, e, request_id="p", identity="w", stamp=0))  # type: ignore[misc]
    run.open_task()
    for event_id in (5, 6):
        run.do(lambda t, e=event_id: activity_calls.complete(t, e, 1, None))  # type: ignore[misc]
    run.answer()
    assert run.history(10) == lines("""
        10 ActivityTaskStarted
        11 ActivityTaskStarted
        12 ActivityTaskCompleted
        13 ActivityTaskCompleted
        14 WorkflowTaskScheduled""")
    assert run.last("ActivityTaskCompleted").started_event_id == 11


def test_an_id_is_free_again_once_its_activity_has_ended_even_unseen() -> None:
    run = started()
    run.open_task()
    complete(run)
    run.answer(schedule("a"))
    assert run.history(8) == lines("""
        8 WorkflowTaskCompleted
        9 ActivityTaskScheduled
        10 ActivityTaskStarted
        11 ActivityTaskCompleted
        12 WorkflowTaskScheduled""")
    assert run.state.activity_ids == {"a": 9}


# --- the table ---------------------------------------------------------------------------------------------------------


def test_an_illegal_step_raises_and_changes_nothing() -> None:
    run = scheduled()
    before = checksum(run.state)
    for event_id, source in ((A, "scheduled"), (99, "none")):
        with pytest.raises(IllegalTransition, match=f"activity: no transition from '{source}' by 'ActivityTaskCompleted'"):
            run.do(
                lambda t, e=event_id: t.add(  # type: ignore[misc]
                    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED, ActivityTaskCompletedEventAttributes(scheduled_event_id=e)
                )
            )
    with pytest.raises(IllegalTransition, match="activity: no transition from 'scheduled' by 'heartbeat'"):
        run.do(lambda t: activity.change(t, pending(run), "heartbeat", heartbeat_at=1))
    assert checksum(run.state) == before


def test_every_row_of_the_table_is_taken() -> None:
    activity.TABLE.taken.clear()
    for stories in (globals(), vars(test_activity_commands), vars(test_activity_options)):
        for name, test in list(stories.items()):
            is_story = name.startswith("test_") and callable(test) and name != "test_every_row_of_the_table_is_taken"
            if is_story and not hasattr(test, "pytestmark"):
                test()
    assert activity.TABLE.taken == {(row.source, row.trigger) for row in activity.TABLE.rows}
