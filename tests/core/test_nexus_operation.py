"""Nexus operations: how they begin, are called, end once, and what time does to them."""

from __future__ import annotations

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import PendingNexusOperationState as Shown
from temporalio.api.enums.v1 import TimeoutType
from temporalio.api.failure.v1 import Failure
from temporalio.api.sdk.v1 import UserMetadata

from cluster.config import Limits
from cluster.core import due
from cluster.core.apply import fold_events
from cluster.core.effects import StartNexusOperation, effects
from cluster.core.errors import CallerError
from cluster.core.events import SECOND_NS
from cluster.core.machines import nexus_results
from cluster.core.machines.nexus_operation import call_deadline
from cluster.core.machines.nexus_pending import pending_operations
from cluster.core.retry import CALL_RETRY_MAX_NS, next_call_at
from cluster.core.state import decode_state, encode_state
from cluster.core.table import IllegalTransition
from tests.core.build import BEGIN_NS, Run
from tests.core.nexus_stories import (
    AWAY,
    PLACES,
    RESULT,
    STOPPED,
    WRONG,
    O,
    backing_off,
    blocked,
    pending,
    request_cancel,
    schedule,
    scheduled,
    seconds,
    started,
    tell_operation,
)
from tests.e2e import commands

WRAPPED = (
    "failure={{message=nexus operation completed unsuccessfully cause={{{cause}}}"
    " nexus_operation_execution_failure_info={{scheduled_event_id=5 endpoint=ep service=svc operation=op{token}}}}}"
)
TOKEN = " operation_id=token operation_token=token"
WHY = "message=wrong application_failure_info={type=Wrong}"
OUTCOMES = {
    "completes": "NexusOperationCompleted",
    "fails": "NexusOperationFailed",
    "is cancelled": "NexusOperationCanceled",
    "calls back with a result": "NexusOperationCompleted",
    "calls back with a failure": "NexusOperationFailed",
    "calls back cancelled": "NexusOperationCanceled",
}


def last_line(run: Run, name: str) -> str:
    return next(line for line in reversed(run.told().splitlines()) if line.split()[1] == name).split(" ", 1)[1]


def test_an_operation_is_scheduled_as_its_command_says() -> None:
    run = scheduled(
        input=Payload(data=b"in"),
        nexus_header={"Trace": "1"},
        schedule_to_close_timeout=seconds(9),
        user_metadata=UserMetadata(summary=Payload(data=b"s")),
    )
    assert run.told(5) == (
        "5 NexusOperationScheduled endpoint=ep service=svc operation=op input=in schedule_to_close_timeout=9s"
        " nexus_header={trace=1} workflow_task_completed_event_id=4 request_id=id-2 endpoint_id=ep-id user_metadata={summary=s}"
    )
    assert effects(run.state) == [StartNexusOperation(O, 0)] and due.wake_at(run.state) == BEGIN_NS + 9 * SECOND_NS


def test_a_result_in_the_answer_to_the_start_completes_it_at_once() -> None:
    run = scheduled()
    assert tell_operation(run, O, "completes")
    assert run.told(6).splitlines()[0] == (
        '6 NexusOperationCompleted scheduled_event_id=5 result="done" request_id=id-2 links=1'
    )
    assert run.history(7) == "7 WorkflowTaskScheduled" and not run.state.operations


def test_a_started_operation_is_left_alone_until_its_handler_calls_back() -> None:
    run = started()
    assert run.told(6).splitlines()[0] == (
        "6 NexusOperationStarted scheduled_event_id=5 operation_id=token request_id=id-2 operation_token=token links=1"
    )
    assert pending(run).token == "token" and not any(isinstance(one, StartNexusOperation) for one in effects(run.state))
    assert tell_operation(run, O, "calls back with a result")
    assert last_line(run, "NexusOperationCompleted") == (
        'NexusOperationCompleted scheduled_event_id=5 result="done" request_id=id-2'
    )


@pytest.mark.parametrize("place", sorted(PLACES))
@pytest.mark.parametrize("what", sorted(OUTCOMES))
def test_an_operation_ends_once_wherever_its_end_finds_it(place: str, what: str) -> None:
    run = PLACES[place]()
    assert tell_operation(run, O, what)
    assert OUTCOMES[what] in run.history() and not run.state.operations
    assert run.state.task is not None, "the workflow is told"
    after = run.told()
    assert not any(tell_operation(run, O, one) for one in (*OUTCOMES, "starts", "is away", "is blocked", "hears the cancel"))
    assert run.told() == after and run.history().count("NexusOperationStarted") <= 1


@pytest.mark.parametrize("place", ["scheduled", "backing off", "blocked"])
def test_a_callback_before_the_start_is_answered_tells_the_start_first(place: str) -> None:
    run = PLACES[place]()
    run.now += 5 * SECOND_NS
    assert tell_operation(run, O, "calls back with a failure", at=BEGIN_NS + 2 * SECOND_NS)
    assert run.history(6) == "6 NexusOperationStarted\n7 NexusOperationFailed\n8 WorkflowTaskScheduled"
    assert run.events()[5].event_time.seconds * SECOND_NS == BEGIN_NS + 2 * SECOND_NS
    assert WRAPPED.format(cause=WHY, token=TOKEN) in run.told(7)


@pytest.mark.parametrize(("claimed_s", "told_s"), [(-60, 1), (3, 3), (99, 5)])
def test_a_start_is_dated_when_it_can_have_been(claimed_s: int, told_s: int) -> None:
    run = Run()
    run.wait(1)
    run.task(schedule())
    run.wait(4)
    tell_operation(run, O, "calls back with a result", at=BEGIN_NS + claimed_s * SECOND_NS)
    assert run.events()[5].event_time.seconds * SECOND_NS == BEGIN_NS + told_s * SECOND_NS


@pytest.mark.parametrize("place", sorted(PLACES))
def test_an_answer_to_another_request_changes_nothing(place: str) -> None:
    run = PLACES[place]()
    before = run.told()
    for record in (nexus_results.record_failed, nexus_results.record_canceled):
        assert not run.do(lambda t, record=record: record(t, O, "another", WRONG))  # type: ignore[misc]
    assert not run.do(lambda t: nexus_results.record_started(t, O, "another", "x"))
    assert not run.do(lambda t: nexus_results.record_completed(t, O, "another", RESULT))
    assert not run.do(lambda t: nexus_results.record_callback(t, O, "another", result=RESULT))
    assert run.told() == before and O in run.state.operations


def test_a_failure_says_which_operation_failed_and_why() -> None:
    run = scheduled()
    tell_operation(run, O, "is refused")
    assert last_line(run, "NexusOperationFailed") == (
        "NexusOperationFailed scheduled_event_id=5 " + WRAPPED.format(cause=WHY, token="") + " request_id=id-2"
    )


def test_a_cancel_that_is_told_as_a_plain_failure_is_a_cancel() -> None:
    run = started()
    run.do(lambda t: nexus_results.record_canceled(t, O, "", Failure(message="m", stack_trace="s", cause=Failure(message="c"))))
    cause = "message=m stack_trace=s cause={message=c} canceled_failure_info={}"
    assert WRAPPED.format(cause=cause, token=TOKEN) in last_line(run, "NexusOperationCanceled")


@pytest.mark.parametrize(("size", "ends"), [(4095, False), (4096, False), (4097, True)])
def test_a_token_that_is_too_long_fails_the_operation(size: int, ends: bool) -> None:
    run = scheduled()
    assert run.do(lambda t: nexus_results.record_started(t, O, "", "x" * size))
    assert (O in run.state.operations) is not ends
    if ends:
        text = "invalid operation token: length exceeds allowed limit (4097/4096)"
        cause = f"message={text} application_failure_info={{type=CallError non_retryable=True}}"
        assert WRAPPED.format(cause=cause, token="") in run.told(6)


@pytest.mark.parametrize(("size", "ends"), [(999, "Completed"), (1000, "Completed"), (1001, "Failed")])
def test_a_result_that_is_too_large_fails_the_operation(size: int, ends: str) -> None:
    run = Run(limits=Limits(payload_bytes_max=1000))
    run.task(schedule())
    payload = Payload()
    while payload.ByteSize() < size:
        payload.data = b"x" * (len(payload.data) + max(1, size - payload.ByteSize() - 3))
    assert payload.ByteSize() == size
    run.do(lambda t: nexus_results.record_completed(t, O, "", payload))
    assert f"NexusOperation{ends}" in run.history(6)


# --- attempts -----------------------------------------------------------------------------------------------------------


def test_a_call_that_failed_is_made_again_later_and_later() -> None:
    run = scheduled()
    waits = []
    for attempt in range(14):
        assert effects(run.state)[-1:] == [StartNexusOperation(O, attempt)]
        assert tell_operation(run, O, "is away") and effects(run.state) == []
        waits.append((due.wake_at(run.state) - run.now) / SECOND_NS)
        run.now = due.wake_at(run.state)
        run.wake()
    assert waits[:4] == [0.9, 1.8, 3.6, 7.2] and waits[-1] == 3600 * 0.9
    assert run.history(6) == "", "attempts are no history"


@pytest.mark.parametrize(("jitter", "share"), [(0.0, 0.8), (0.5, 0.9), (1.0, 1.0)])
def test_the_wait_is_shortened_by_lot(jitter: float, share: float) -> None:
    assert next_call_at(7, 1, jitter) == 7 + int(share * SECOND_NS)
    assert next_call_at(0, 99, jitter) == int(share * CALL_RETRY_MAX_NS)


def test_a_handler_may_say_when_to_come_again() -> None:
    run = scheduled()
    at = run.now + 77 * SECOND_NS
    assert run.do(lambda t: nexus_results.record_attempt_failed(t, O, 0, AWAY, next_at=at))
    assert due.wake_at(run.state) == at and pending(run).last_failure == AWAY.SerializeToString()


def test_an_older_attempts_failure_says_nothing_about_the_one_under_way() -> None:
    run = backing_off()
    run.now = due.wake_at(run.state)
    run.wake()
    assert not run.do(lambda t: nexus_results.record_attempt_failed(t, O, 0, AWAY))
    assert run.do(lambda t: nexus_results.record_attempt_failed(t, O, 1, AWAY))
    assert not run.do(lambda t: nexus_results.record_attempt_failed(t, O, 1, AWAY)), "it was told already"
    assert pending(run).attempt == 2


def test_a_blocked_operation_is_still_owed_and_its_probe_may_fail_or_start_it() -> None:
    run = blocked()
    assert effects(run.state) == [StartNexusOperation(O, 0)] and not tell_operation(run, O, "is blocked")
    assert tell_operation(run, O, "is let through") and not tell_operation(run, O, "is let through")
    assert tell_operation(run, O, "is blocked") and tell_operation(run, O, "is away")
    assert pending(run).blocked_reason == "" and not tell_operation(run, O, "is blocked")


# --- time ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", sorted(PLACES))
def test_schedule_to_close_ends_it_wherever_it_is(place: str) -> None:
    run = PLACES[place](schedule_to_close_timeout=seconds(1))
    run.wait(1)
    run.wake()
    cause = "message=operation timed out timeout_failure_info={timeout_type=SCHEDULE_TO_CLOSE}"
    token = TOKEN if place == "started" else ""
    assert last_line(run, "NexusOperationTimedOut") == (
        "NexusOperationTimedOut scheduled_event_id=5 " + WRAPPED.format(cause=cause, token=token) + " request_id=id-2"
    )
    assert run.state.task is not None and due.wake_at(run.state) == 0


def test_schedule_to_start_counts_until_it_has_started() -> None:
    run = scheduled(schedule_to_start_timeout=seconds(2))
    run.wait(2)
    run.wake()
    assert "timeout_type=SCHEDULE_TO_START" in run.told(6)
    run = started(schedule_to_start_timeout=seconds(2))
    assert due.wake_at(run.state) == 0


def test_start_to_close_counts_from_its_start() -> None:
    run = scheduled(start_to_close_timeout=seconds(2))
    assert due.wake_at(run.state) == 0
    run.wait(5)
    tell_operation(run, O, "starts")
    assert due.wake_at(run.state) == BEGIN_NS + 7 * SECOND_NS
    run.wait(2)
    run.wake()
    assert "timeout_type=START_TO_CLOSE" in run.told(6) and TOKEN in last_line(run, "NexusOperationTimedOut")


def test_start_to_close_counts_for_one_whose_cancel_was_asked_before_it_started() -> None:
    run = Run()
    run.task(schedule(start_to_close_timeout=seconds(2)), request_cancel())
    tell_operation(run, O, "starts")
    assert due.wake_at(run.state) == BEGIN_NS + 2 * SECOND_NS


def test_whoever_delivers_learns_when_a_call_comes_too_late_and_may_say_so() -> None:
    kinds = TimeoutType
    run = scheduled(schedule_to_start_timeout=seconds(2), schedule_to_close_timeout=seconds(9), start_to_close_timeout=seconds(1))
    assert call_deadline(pending(run)) == (BEGIN_NS + 2 * SECOND_NS, kinds.TIMEOUT_TYPE_SCHEDULE_TO_START)
    tell_operation(run, O, "starts")
    assert call_deadline(pending(run)) == (BEGIN_NS + SECOND_NS, kinds.TIMEOUT_TYPE_START_TO_CLOSE)
    assert call_deadline(pending(scheduled()))[0] == 0
    assert run.do(lambda t: nexus_results.record_timed_out(t, O, kinds.TIMEOUT_TYPE_START_TO_CLOSE))
    assert not run.do(lambda t: nexus_results.record_timed_out(t, O, kinds.TIMEOUT_TYPE_START_TO_CLOSE))
    assert run.history().count("NexusOperationTimedOut") == 1


def test_an_end_that_is_due_makes_what_else_is_due_needless() -> None:
    run = scheduled(schedule_to_close_timeout=seconds(0.9))
    tell_operation(run, O, "is away")
    run.wait(0.9)
    run.wake()
    assert run.history(6) == "6 NexusOperationTimedOut\n7 WorkflowTaskScheduled"


# --- the run ------------------------------------------------------------------------------------------------------------


def test_news_that_come_while_a_task_runs_wait_for_its_end_results_last() -> None:
    run = Run()
    run.task(schedule(), schedule())
    run.open_task()
    tell_operation(run, O, "completes")
    tell_operation(run, 6, "starts")
    run.signal()
    assert run.state.operations.keys() == {6}
    run.answer()
    assert run.history(10).splitlines()[:3] == [
        "10 NexusOperationStarted",
        "11 WorkflowExecutionSignaled",
        "12 NexusOperationCompleted",
    ]


def test_a_closed_run_calls_nobody_hears_nobody_and_still_shows_what_it_left() -> None:
    run = Run()
    run.task(schedule(), schedule(), commands.complete())
    assert effects(run.state) == [] and due.wake_at(run.state) == 0
    assert not any(tell_operation(run, O, what) for what in (*OUTCOMES, "starts", "is away", "is blocked"))
    assert [one.scheduled_event_id for one in pending_operations(run.state)] == [5, 6]


def test_a_run_does_not_end_while_an_operations_end_is_news() -> None:
    run = started()
    run.start_task()
    tell_operation(run, O, "completes")
    with pytest.raises(CallerError, match="UnhandledCommand"):
        run.answer(commands.complete())


def test_the_next_run_begins_without_operations() -> None:
    run = started()
    after = run.successor(run.task(commands.continue_as_new()))
    assert after.state.operations == {} and O in run.state.operations


def test_an_operation_outlives_a_failed_task_and_a_pause() -> None:
    run = scheduled()
    run.open_task()
    with pytest.raises(CallerError):
        run.answer(schedule(), commands.cancel_timer("none"))
    assert list(run.state.operations) == [O] and StartNexusOperation(O, 0) in effects(run.state)


def test_what_operators_see_of_an_operation() -> None:
    run = started(schedule_to_close_timeout=seconds(90))
    run.task(request_cancel())
    tell_operation(run, O, "is away for the cancel")
    (info,) = pending_operations(run.state)
    assert (info.endpoint, info.service, info.operation, info.operation_token) == ("ep", "svc", "op", "token")
    assert info.state == Shown.PENDING_NEXUS_OPERATION_STATE_STARTED and info.attempt == 1
    assert info.schedule_to_close_timeout.seconds == 90 and not info.HasField("start_to_close_timeout")
    assert info.cancellation_info.state == 2 and info.cancellation_info.last_attempt_failure == AWAY
    held_run = blocked()
    held_run.task(request_cancel())
    (info,) = pending_operations(held_run.state)
    assert info.state == Shown.PENDING_NEXUS_OPERATION_STATE_BLOCKED and info.blocked_reason == "The circuit breaker is open."
    assert info.HasField("cancellation_info") and info.cancellation_info.ByteSize() == 0, "it waits for the start"
    (info,) = pending_operations(backing_off().state)
    assert info.state == Shown.PENDING_NEXUS_OPERATION_STATE_BACKING_OFF and info.last_attempt_failure == AWAY


def test_a_snapshot_of_a_version_without_operations_can_be_read() -> None:
    run = Run()
    old = encode_state(run.state)
    assert b"operations" not in old and decode_state(old).operations == {}
    assert decode_state(encode_state(scheduled().state)).operations[O].endpoint == "ep"


def test_history_with_the_older_name_of_the_token_is_read() -> None:
    run = started()
    events = run.events()
    events[5].nexus_operation_started_event_attributes.operation_token = ""
    state = fold_events("ns-id", "w", "r", [one.SerializeToString() for one in events])
    assert state.operations[O].token == "token"


def test_a_history_that_ends_an_operation_twice_is_illegal() -> None:
    run = started()
    tell_operation(run, O, "is cancelled")
    again = run.events()[-1]
    again.event_id = run.state.next_event_id
    with pytest.raises(IllegalTransition, match="nexus operation: no transition from 'none' by 'NexusOperationCanceled'"):
        fold_events("ns-id", "w", "r", [*run.event_bytes(), again.SerializeToString()])
    assert STOPPED.message in last_line(run, "NexusOperationCanceled")
