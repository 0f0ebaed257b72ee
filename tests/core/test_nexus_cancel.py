"""Cancelling a Nexus operation: a request to its handler, with attempts of its own, which ends nothing by itself."""

from __future__ import annotations

import pytest

from cluster.core import due
from cluster.core.effects import CancelNexusOperation, StartNexusOperation, effects
from cluster.core.errors import CallerError
from cluster.core.events import SECOND_NS
from cluster.core.machines import nexus_results
from cluster.core.machines.nexus_pending import pending_operations
from tests.core.build import Run
from tests.core.nexus_stories import AWAY, PLACES, O, request_cancel, schedule, scheduled, started, tell_operation

WHY = "message=wrong application_failure_info={type=Wrong}"


def cancelling() -> Run:
    run = started()
    run.task(request_cancel())
    return run


def test_a_cancel_is_sent_once_the_operation_has_a_token() -> None:
    run = Run()
    run.task(schedule(), request_cancel())
    assert run.told(6) == "6 NexusOperationCancelRequested scheduled_event_id=5 workflow_task_completed_event_id=4"
    assert effects(run.state) == [StartNexusOperation(O, 0)] and not tell_operation(run, O, "hears the cancel")
    tell_operation(run, O, "starts")
    assert CancelNexusOperation(O, 0) in effects(run.state)


@pytest.mark.parametrize("place", sorted(PLACES))
def test_a_cancel_may_be_asked_wherever_the_operation_is(place: str) -> None:
    run = PLACES[place]()
    run.task(request_cancel())
    assert "NexusOperationCancelRequested" in run.history() and O in run.state.operations
    assert (CancelNexusOperation(O, 0) in effects(run.state)) is (place == "started")


def away(run: Run) -> None:
    assert tell_operation(run, O, "is away for the cancel")


def held(run: Run) -> None:
    assert tell_operation(run, O, "is blocked for the cancel")


@pytest.mark.parametrize("before", [None, away, held])
def test_the_answer_to_a_cancel_is_told_once(before: object) -> None:
    for what, line in (
        ("hears the cancel", "Completed requested_event_id=10 scheduled_event_id=5"),
        ("refuses the cancel", f"Failed requested_event_id=10 failure={{{WHY}}} scheduled_event_id=5"),
    ):
        run = cancelling()
        if callable(before):
            before(run)
        assert tell_operation(run, O, what) and not tell_operation(run, O, "hears the cancel")
        assert run.told(11).splitlines()[0] == f"11 NexusOperationCancelRequest{line} worker_may_ignore"
        assert run.state.task is not None and effects(run.state)[1:] == [] and due.wake_at(run.state) == 0
        assert tell_operation(run, O, "calls back with a result"), "the handler decides"


def test_a_cancel_that_is_not_heard_is_sent_again() -> None:
    run = cancelling()
    away(run)
    assert effects(run.state) == [] and not tell_operation(run, O, "is away for the cancel")
    run.now = due.wake_at(run.state)
    run.wake()
    assert effects(run.state) == [CancelNexusOperation(O, 1)] and run.history(11) == ""
    assert not run.do(lambda t: nexus_results.record_cancel_answer(t, O, 0, AWAY, is_retryable=True)), "an older attempt"
    held(run)
    assert effects(run.state) == [CancelNexusOperation(O, 1)] and not tell_operation(run, O, "is blocked for the cancel")
    assert tell_operation(run, O, "is let through for the cancel") and not tell_operation(run, O, "is let through for the cancel")
    held(run)
    away(run)
    assert due.wake_at(run.state) == run.now + int(1.8 * SECOND_NS)


def test_an_operation_whose_end_is_not_seen_yet_may_be_cancelled() -> None:
    run = started()
    run.start_task()
    tell_operation(run, O, "calls back with a result")
    run.answer(request_cancel())
    assert run.history(9) == (
        "9 WorkflowTaskCompleted\n10 NexusOperationCancelRequested\n11 NexusOperationCompleted\n12 WorkflowTaskScheduled"
    )
    with pytest.raises(CallerError, match="non-existing or already completed operation with scheduled event ID of 5"):
        run.task(request_cancel())


def test_a_start_that_is_not_seen_yet_may_be_cancelled_and_history_alone_says_the_same() -> None:
    run = scheduled()
    run.open_task()
    tell_operation(run, O, "starts")
    run.answer(request_cancel())
    assert run.history(9) == "9 NexusOperationCancelRequested\n10 NexusOperationStarted\n11 WorkflowTaskScheduled"
    assert CancelNexusOperation(O, 0) in effects(run.state)


def test_a_closed_run_sends_no_cancel() -> None:
    run = cancelling()
    run.terminate()
    assert effects(run.state) == [] and not tell_operation(run, O, "hears the cancel")


def test_what_operators_see_of_a_cancel_that_is_held_back() -> None:
    run = cancelling()
    held(run)
    (info,) = pending_operations(run.state)
    assert info.cancellation_info.state == 6 and info.cancellation_info.blocked_reason == "open"
