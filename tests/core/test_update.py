"""Updates: admitted, carried by a task, accepted and completed; or refused without a trace."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from temporalio.api.enums.v1 import EventType, UpdateAdmittedEventOrigin, WorkflowTaskFailedCause
from temporalio.api.errordetails.v1 import ResourceExhaustedFailure, WorkflowNotReadyFailure
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import WorkflowExecutionUpdateAdmittedEventAttributes
from temporalio.api.protocol.v1 import Message
from temporalio.api.update.v1 import Acceptance, Meta, Outcome, Rejection, Request, Response

from cluster.config import Limits
from cluster.core.errors import CallerError, Code
from cluster.core.events import SECOND_NS, duration
from cluster.core.machines import update, workflow_task
from cluster.core.machines.update import Rejected
from cluster.core.state import Update, UpdateStage
from cluster.core.transition import Transition
from tests.core.build import Run, lines, payloads, update_request
from tests.e2e import commands

DONE = Outcome(success=payloads("done"))
REAPPLY = UpdateAdmittedEventOrigin.UPDATE_ADMITTED_EVENT_ORIGIN_REAPPLY


def running(update_id: str = "u") -> Run:
    """A run whose speculative task carries the update."""
    run = Run()
    run.task()
    run.update(update_id)
    run.start_task()
    return run


def accepting(run: Run, *, is_done: bool = False, update_id: str = "u") -> dict[str, Any]:
    request = next(one for one in run.deliver() if one.protocol_instance_id == update_id)
    acceptance, response = commands.accept(request), commands.respond(update_id, DONE)
    said = [acceptance, *([response] if is_done else [])]
    return {"wishes": [commands.message_command(one.id) for one in said], "messages": said}


def answer(run: Run, *more: Any, is_done: bool = False) -> Any:
    said = accepting(run, is_done=is_done)
    return run.answer(*said["wishes"], *more, messages=said["messages"])


def test_an_update_is_accepted_and_completed_in_one_task() -> None:
    run = running()
    answer(run, is_done=True)
    assert run.told(8) == lines("""
        8 WorkflowExecutionUpdateAccepted protocol_instance_id=u accepted_request_message_id=u/request"""
        """ accepted_request_sequencing_event_id=5 accepted_request={meta={update_id=u identity=client} input={name=change}}
        9 WorkflowExecutionUpdateCompleted meta={update_id=u} outcome={success={payloads=["done"]}} accepted_event_id=8""")
    done = run.state.updates["u"]
    assert (done.stage, done.accepted_event_id, done.completed_event_id) == (UpdateStage.COMPLETED, 8, 9)


def test_an_accepted_update_completes_in_a_later_task() -> None:
    run = running()
    answer(run, commands.start_timer("t"))
    assert run.history(8) == "8 WorkflowExecutionUpdateAccepted\n9 TimerStarted"
    run.signal()
    response = commands.respond("u", DONE)
    run.task(commands.message_command(response.id), commands.complete(), messages=[response])
    assert run.history(14) == "14 WorkflowExecutionUpdateCompleted\n15 WorkflowExecutionCompleted"
    assert run.last("WorkflowExecutionUpdateCompleted").accepted_event_id == 8


def test_a_message_that_no_command_places_comes_behind_the_commands() -> None:
    run = running()
    said = accepting(run)
    run.answer(commands.marker("m"), messages=said["messages"])
    assert run.history(8) == "8 MarkerRecorded\n9 WorkflowExecutionUpdateAccepted"


def test_a_rejected_update_leaves_no_trace_and_its_task_neither() -> None:
    run = running()
    rejection = commands.reject(run.deliver()[0], Failure(message="no"))
    done = run.answer(messages=[rejection])
    assert run.history(5) == "" and run.state.updates == {} and run.state.task is None
    assert done.completion is None and done.reset_history_event_id == 3
    assert done.t.notices == [Rejected("u", Failure(message="no").SerializeToString())]
    run.signal()
    assert run.history(5) == "5 WorkflowExecutionSignaled\n6 WorkflowTaskScheduled"


@pytest.mark.parametrize(
    ("events", "capable", "is_dropped"),
    [(0, False, True), (1, False, False), (1, True, True), (10, True, True), (11, True, False)],
)
def test_a_worker_forgets_only_as_many_events_as_it_can_see_again(events: int, capable: bool, is_dropped: bool) -> None:
    run = Run()
    run.start_task()
    run.update()
    # Markers stand between the last completed task and the speculative one.
    done = run.answer(*[commands.marker(str(number)) for number in range(events)], return_new_workflow_task=True)
    assert done.next_is_started
    rejection = commands.reject(run.deliver()[0], Failure(message="no"))
    before = run.state.next_event_id
    run.answer(messages=[rejection], capabilities={"discard_speculative_workflow_task_with_events": capable})
    assert (run.state.next_event_id == before) == is_dropped


def test_a_rejection_beside_a_command_leaves_the_task_but_not_the_update() -> None:
    run = running()
    rejection = commands.reject(run.deliver()[0], Failure(message="no"))
    run.answer(commands.marker("m"), messages=[rejection])
    assert run.history(5) == lines("""
        5 WorkflowTaskScheduled
        6 WorkflowTaskStarted
        7 WorkflowTaskCompleted
        8 MarkerRecorded""")
    assert run.state.updates == {}


def test_a_worker_that_ignores_an_update_has_it_rejected_in_its_name() -> None:
    run = running()
    done = run.answer()
    (rejected,) = done.t.notices
    failure = Failure.FromString(rejected.failure)
    assert failure.application_failure_info.type == "UnprocessedUpdate" and failure.source == "Server"
    assert run.history(5) == "" and run.state.updates == {}


def test_a_heartbeat_keeps_the_update_and_does_not_send_it_again() -> None:
    run = running()
    request = run.deliver()[0]
    run.answer(force_create_new_workflow_task=True, return_new_workflow_task=True)
    assert run.history(8) == "8 WorkflowTaskScheduled\n9 WorkflowTaskStarted"
    assert run.deliver() == []
    acceptance = commands.accept(request)
    run.answer(commands.message_command(acceptance.id), messages=[acceptance])
    assert run.state.updates["u"].stage == UpdateStage.ACCEPTED


def test_an_update_that_comes_while_a_task_runs_gets_the_next_one() -> None:
    run = Run()
    run.start_task()
    run.update()
    assert run.deliver() == []
    run.answer()
    assert run.history(5) == "5 WorkflowTaskScheduled", "an offered task is a real one"
    run.start_task()
    assert [one.id for one in run.deliver()] == ["u/request"]


def test_an_update_that_comes_while_a_task_runs_may_go_with_the_reply_without_events() -> None:
    run = Run()
    run.start_task()
    run.update()
    done = run.answer(return_new_workflow_task=True)
    assert done.next_is_started and run.history(5) == ""
    rejection = commands.reject(run.deliver()[0], Failure(message="no"))
    done = run.answer(messages=[rejection], return_new_workflow_task=True)
    assert (run.history(5), done.reset_history_event_id, done.next_is_started) == ("", 3, False)


def test_an_update_does_not_keep_a_run_from_ending() -> None:
    run = Run()
    run.start_task()
    run.update()
    run.answer(commands.complete())
    assert run.history(5) == "5 WorkflowExecutionCompleted"
    assert update.outcome_of_close(run.state.updates["u"]) is None


def test_an_accepted_update_that_the_close_overtook_has_an_outcome() -> None:
    run = running()
    answer(run)
    run.terminate()
    outcome = update.outcome_of_close(run.state.updates["u"])
    assert outcome is not None and outcome.failure.application_failure_info.type == "AcceptedUpdateCompletedWorkflow"


def test_what_a_worker_says_of_updates_while_it_ends_the_run_is_not_written() -> None:
    run = running()
    said = accepting(run)
    run.answer(commands.complete(), messages=said["messages"])
    assert run.history(8) == "8 WorkflowExecutionCompleted"


def test_an_update_before_the_first_task_does_not_wait_for_it() -> None:
    run = Run(workflow_start_delay=duration(5 * SECOND_NS))
    run.update()
    run.start_task()
    assert [one.id for one in run.deliver()] == ["u/request"]


def test_two_updates_ride_on_one_task_in_their_order() -> None:
    run = Run()
    run.update("one")
    run.update("two")
    run.start_task()
    assert [(one.id, one.event_id) for one in run.deliver()] == [("one/request", 2), ("two/request", 2)]


def test_an_update_is_known_by_its_id() -> None:
    run = running()
    assert not run.update()
    answer(run, is_done=True)
    assert not run.update()
    run.terminate()
    assert not run.update(), "its outcome can still be asked for"
    with pytest.raises(CallerError, match="workflow execution already completed"):
        run.update("other")


def test_limits_of_updates() -> None:
    run = Run(limits=Limits(updates_in_flight_max=2, updates_total_max=3))
    run.update("1")
    run.update("2")
    with pytest.raises(CallerError, match=r"concurrent in-flight updates has been reached \(2\)") as error:
        run.update("3")
    assert error.value.code == Code.RESOURCE_EXHAUSTED and isinstance(error.value.details[0], ResourceExhaustedFailure)
    run.start_task()
    said = [accepting(run, is_done=True, update_id=one) for one in ("1", "2")]
    run.answer(messages=[message for one in said for message in one["messages"]])
    run.update("3")
    run.start_task()
    said3 = accepting(run, is_done=True, update_id="3")
    run.answer(messages=said3["messages"])
    with pytest.raises(CallerError, match=r"total number of distinct updates in this workflow has been reached \(3\)") as error:
        run.update("4")
    assert error.value.code == Code.FAILED_PRECONDITION


def test_a_run_whose_task_keeps_failing_takes_no_update() -> None:
    run = Run()
    for attempt in (1, 2):
        assert run.state.task is not None and run.state.task.attempt == attempt
        run.start_task()

        def fail(t: Transition) -> None:
            workflow_task.fail(t, WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNSPECIFIED)
            workflow_task.schedule(t)

        run.do(fail)
    with pytest.raises(CallerError, match="Workflow Task in failed state") as error:
        run.update()
    assert error.value.details == (WorkflowNotReadyFailure(),)


def test_an_update_of_the_history_needs_no_message_and_no_second_request() -> None:
    run = Run()
    run.task()
    request = update_request("u")
    run.do(
        lambda t: t.add(
            EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED,
            WorkflowExecutionUpdateAdmittedEventAttributes(request=request, origin=REAPPLY),
        )
    )
    run.do(workflow_task.schedule)
    run.start_task()
    assert run.deliver() == [] and run.state.updates["u"].stage == UpdateStage.SENT
    acceptance = Acceptance(
        accepted_request_message_id="u/request", accepted_request_sequencing_event_id=6, accepted_request=request
    )
    run.answer(messages=[message("a", acceptance)])
    assert run.told(9) == (
        "9 WorkflowExecutionUpdateAccepted protocol_instance_id=u accepted_request_message_id=u/request"
        " accepted_request_sequencing_event_id=6"
    )
    assert run.state.updates["u"].admitted_event_id == 5


def test_an_admitted_event_that_is_buffered_gets_its_id_at_the_flush() -> None:
    run = Run()
    run.start_task()
    run.do(
        lambda t: t.add(
            EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED,
            WorkflowExecutionUpdateAdmittedEventAttributes(request=update_request("u"), origin=REAPPLY),
        )
    )
    assert run.state.updates["u"].admitted_event_id == 0
    run.answer()
    assert run.state.updates["u"].admitted_event_id == 5
    assert run.history(5) == "5 WorkflowExecutionUpdateAdmitted\n6 WorkflowTaskScheduled"


def message(message_id: str, body: Acceptance | Rejection | Response | Request, update_id: str = "u") -> Message:
    packed = AnyMessage()
    packed.Pack(body)
    return Message(id=message_id, protocol_instance_id=update_id, body=packed)


ACCEPTANCE = Acceptance(
    accepted_request_message_id="u/request", accepted_request_sequencing_event_id=5, accepted_request=update_request("u")
)
RESPONSE = Response(meta=Meta(update_id="u"), outcome=DONE)
BROKEN = AnyMessage(type_url="x/temporal.api.update.v1.Acceptance", value=b"\xff")
UNKNOWN = "update z wasn't found on the server. This is most likely a transient error which will be resolved automatically"


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([message("r", RESPONSE)], "for Update u: received *update.Response message while in state Sent"),
        ([message("a", ACCEPTANCE), message("b", ACCEPTANCE)], "*update.Acceptance message while in state ProvisionallyAccepted"),
        (
            [message("a", ACCEPTANCE), message("r", RESPONSE), message("s", RESPONSE)],
            "*update.Response message while in state ProvisionallyCompleted",
        ),
        ([message("a", ACCEPTANCE), message("x", Rejection())], "*update.Rejection message while in state ProvisionallyAccepted"),
        ([message("r", RESPONSE, "z")], UNKNOWN),
        ([message("a", Acceptance(), "z")], UNKNOWN),
        ([message("x", Rejection(), "z")], UNKNOWN),
        ([message("a", Acceptance())], "invalid *update.Acceptance: accepted_request_sequencing_event_id is not set"),
        (
            [message("a", Acceptance(accepted_request_sequencing_event_id=5))],
            "invalid *update.Acceptance: accepted_request_message_id is not set",
        ),
        ([message("a", ACCEPTANCE), message("r", Response())], "invalid *update.Response: meta is not set"),
        ([message("a", ACCEPTANCE), message("r", Response(meta=Meta()))], "invalid *update.Response: meta.update_id is not set"),
        (
            [message("a", ACCEPTANCE), message("r", Response(meta=Meta(update_id="v")))],
            "invalid *update.Response: meta.update_id != u",
        ),
        (
            [message("a", ACCEPTANCE), message("r", Response(meta=Meta(update_id="u")))],
            "invalid *update.Response: outcome is not set",
        ),
        ([message("q", Request())], "which is no update message"),
        (
            [Message(id="b", protocol_instance_id="u", body=BROKEN)],
            "cannot be read",
        ),
    ],
)
def test_a_message_that_cannot_be_fails_the_task_and_the_update_waits(messages: list[Message], text: str) -> None:
    run = running()
    with pytest.raises(CallerError) as error:
        run.answer(messages=messages)
    assert error.value.message.startswith("BadUpdateWorkflowExecutionMessage: ") and text in error.value.message
    assert run.history(7) == "7 WorkflowTaskFailed"
    run.start_task()
    assert [one.id for one in run.deliver()] == ["u/request"]


@pytest.mark.parametrize("body", [None, AnyMessage()])
def test_a_message_without_a_body_changes_nothing(body: AnyMessage | None) -> None:
    run = running()
    with pytest.raises(CallerError, match=r"nil message body|no message name specified"):
        run.answer(messages=[Message(id="m", protocol_instance_id="u", body=body)])
    assert run.state.has_started_task


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        (commands.message_command(""), "MessageID is not set on ProtocolMessageCommand."),
        (commands.message_command("m"), "ProtocolMessageCommand referenced absent message ID m"),
    ],
)
def test_a_command_must_name_a_message_of_the_answer(wish: Any, text: str) -> None:
    with pytest.raises(CallerError) as error:
        Run().task(wish)
    assert error.value.message == f"BadUpdateWorkflowExecutionMessage: {text}"


def test_an_update_that_only_its_worker_remembers_is_accepted_all_the_same() -> None:
    run = Run()
    run.task(messages=[message("a", ACCEPTANCE)])
    assert run.state.updates["u"] == Update("u", UpdateStage.ACCEPTED, accepted_event_id=5)
    full = Run(limits=Limits(updates_total_max=0))
    with pytest.raises(CallerError, match="total number of distinct updates"):
        full.task(messages=[message("a", ACCEPTANCE)])


def test_an_update_that_only_its_worker_remembers_is_rejected_without_a_word() -> None:
    run = Run()
    done = run.task(messages=[message("x", Rejection(rejected_request=update_request("u")))])
    assert run.state.updates == {} and done.t.notices == []


@pytest.mark.parametrize(("body", "stage"), [(ACCEPTANCE, UpdateStage.ACCEPTED), (Rejection(), None)])
def test_an_answer_to_an_update_that_was_not_sent_yet_counts(body: Any, stage: int | None) -> None:
    """Its worker may know it from the client's own repetition."""
    run = Run()
    run.start_task()
    run.update()
    run.answer(messages=[message("m", body)])
    assert run.state.updates.get("u", Update("u", 0)).stage == (stage or 0)
