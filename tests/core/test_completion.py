"""The answer to a workflow task: what is taken, what fails the task, what changes nothing, and which task comes next."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.command.v1 import Command, FailWorkflowExecutionCommandAttributes
from temporalio.api.common.v1 import Payload, Payloads, WorkerVersionStamp
from temporalio.api.enums.v1 import CommandType, VersioningBehavior, WorkerVersioningMode, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure
from temporalio.api.sdk.v1 import WorkflowTaskCompletedMetadata
from temporalio.api.workflowservice.v1 import RespondWorkflowTaskFailedRequest

from cluster.config import Limits
from cluster.core.errors import CallerError, Code
from cluster.core.machines import completion, workflow_task
from cluster.core.state import Status
from cluster.core.transition import Transition
from tests.core.build import QUEUE, Run, lines
from tests.e2e import commands

BIG = Payloads(payloads=[Payload(data=b"x" * 100)])
SMALL = Limits(payload_bytes_max=90)


def refused(run: Run, *wishes: Command, **fields: Any) -> CallerError:
    with pytest.raises(CallerError) as error:
        run.task(*wishes, **fields)
    return error.value


def empty(kind: int) -> Command:
    return Command(command_type=kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wishes", "text"),
    [
        ([empty(0)], "unknown command type: Unspecified"),
        ([empty(999)], "unknown command type: 999"),
        (
            [commands.complete(), commands.start_timer("t")],
            "invalid command sequence: [CompleteWorkflowExecution, StartTimer], "
            "command CompleteWorkflowExecution must be the last command.",
        ),
        (
            [commands.complete(), commands.fail(Failure())],
            "invalid command sequence: [CompleteWorkflowExecution, FailWorkflowExecution], "
            "command CompleteWorkflowExecution must be the last command.",
        ),
    ],
)
def test_what_is_wrong_with_the_whole_call_leaves_the_task_as_it_was(wishes: list[Command], text: str) -> None:
    run = Run()
    error = refused(run, *wishes)
    assert (error.code, error.message) == (Code.INVALID_ARGUMENT, text)
    assert run.history(3) == "3 WorkflowTaskStarted"
    run.answer(commands.complete())
    assert run.state.status == Status.COMPLETED


def test_a_bad_command_fails_the_task_and_undoes_the_good_ones_before_it() -> None:
    run = Run()
    error = refused(run, commands.start_timer("t"), commands.cancel_timer("nobody"))
    text = "BadCancelTimerAttributes: invalid history builder state for action: add-timer-canceled-event, TimerID: nobody"
    assert (error.code, error.message) == (Code.INVALID_ARGUMENT, text)
    assert run.told(4) == (
        "4 WorkflowTaskFailed scheduled_event_id=2 started_event_id=3 cause=BAD_CANCEL_TIMER_ATTRIBUTES"
        f" failure={{message={text} server_failure_info={{}}}} identity=worker"
    )
    assert run.state.timers == {} and run.state.task is not None and run.state.task.attempt == 2


def test_a_repetition_that_is_as_bad_is_not_taken_at_all() -> None:
    run = Run()
    refused(run, commands.cancel_timer("nobody"))
    refused(run, commands.cancel_timer("nobody"))
    assert run.state.has_started_task and run.history(5) == ""
    run.answer(commands.complete())


def test_news_keeps_a_run_from_ending_also_in_a_repetition() -> None:
    run = Run()
    refused(run, commands.cancel_timer("nobody"))
    run.start_task()
    run.signal()
    with pytest.raises(CallerError, match=r"^UnhandledCommand$"):
        run.answer(commands.complete())
    assert run.history(4) == "4 WorkflowTaskFailed\n5 WorkflowExecutionSignaled\n6 WorkflowTaskScheduled"


def test_a_run_may_not_end_with_news_its_worker_has_not_seen() -> None:
    run = Run()
    run.start_task()
    run.signal()
    with pytest.raises(CallerError, match=r"^UnhandledCommand$"):
        run.answer(commands.complete())
    assert run.told(4) == lines(
        """
        4 WorkflowTaskFailed scheduled_event_id=2 started_event_id=3 cause=UNHANDLED_COMMAND"""
        """ failure={message=UnhandledCommand server_failure_info={}} identity=worker
        5 WorkflowExecutionSignaled signal_name=go identity=client
        6 WorkflowTaskScheduled task_queue={name=tq kind=NORMAL} start_to_close_timeout=10s attempt=1"""
    )


def test_a_timer_that_fired_unseen_and_is_cancelled_is_no_news() -> None:
    run = Run()
    run.task(commands.start_timer("t", 1))
    run.open_task()
    run.wait(1)
    run.wake()
    run.answer(commands.cancel_timer("t"), commands.complete())
    assert run.history(8) == "8 WorkflowTaskCompleted\n9 TimerCanceled\n10 WorkflowExecutionCompleted"


@pytest.mark.parametrize(
    ("wish", "cause", "text"),
    [
        (
            commands.complete(BIG),
            "BAD_COMPLETE_WORKFLOW_EXECUTION_ATTRIBUTES",
            "CompleteWorkflowExecutionCommandAttributes.Result",
        ),
        (
            commands.fail(Failure(message="x" * 100)),
            "BAD_FAIL_WORKFLOW_EXECUTION_ATTRIBUTES",
            "FailWorkflowExecutionCommandAttributes.Failure",
        ),
        (commands.marker("m", details={"k": BIG}), "BAD_RECORD_MARKER_ATTRIBUTES", "RecordMarkerCommandAttributes.Details"),
        (
            commands.continue_as_new(input=BIG),
            "BAD_CONTINUE_AS_NEW_ATTRIBUTES",
            "ContinueAsNewWorkflowExecutionCommandAttributes. Input",
        ),
        (
            commands.start_child("c", input=BIG),
            "BAD_START_CHILD_EXECUTION_ATTRIBUTES",
            "StartChildWorkflowExecutionCommandAttributes. Input",
        ),
        (
            commands.signal_external("w", input=BIG),
            "BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES",
            "SignalExternalWorkflowExecutionCommandAttributes.Input",
        ),
    ],
)
def test_a_payload_over_the_limit_ends_the_run(wish: Command, cause: str, text: str) -> None:
    run = Run(limits=SMALL)
    error = refused(run, wish)
    assert error.message.endswith(f"{text} exceeds size limit.")
    assert run.history(4) == "4 WorkflowTaskFailed\n5 WorkflowExecutionTerminated"
    failed, ended = run.last("WorkflowTaskFailed"), run.last("WorkflowExecutionTerminated")
    assert WorkflowTaskFailedCause.Name(failed.cause).endswith(cause)
    assert (ended.reason, ended.identity) == (error.message, "history-service")


@pytest.mark.parametrize(("size", "is_taken"), [(85, True), (86, True), (87, False)])
def test_the_limit_of_a_payload_is_exact(size: int, is_taken: bool) -> None:
    result = Payloads(payloads=[Payload(data=b"x" * (size - 2 - 2 - 2))])
    assert result.ByteSize() == size - 2
    run = Run(limits=Limits(payload_bytes_max=84))
    if is_taken:
        run.task(commands.complete(result))
    else:
        assert "exceeds size limit" in refused(run, commands.complete(result)).message


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("COMPLETE_WORKFLOW_EXECUTION", "CompleteWorkflowExecutionCommandAttributes is not set on CompleteWorkflowExecution"),
        ("FAIL_WORKFLOW_EXECUTION", "FailWorkflowExecutionCommandAttributes is not set on FailWorkflowExecutionCommand."),
        ("CANCEL_WORKFLOW_EXECUTION", "CancelWorkflowExecutionCommandAttributes is not set on CancelWorkflowExecution"),
        ("CONTINUE_AS_NEW_WORKFLOW_EXECUTION", "ContinueAsNewWorkflowExecutionCommandAttributes is not set on ContinueAsNew"),
        ("START_CHILD_WORKFLOW_EXECUTION", "StartChildWorkflowExecutionCommandAttributes is not set on StartChildWorkflow"),
        ("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION", "SignalExternalWorkflowExecutionCommandAttributes is not set on SignalExternal"),
        ("REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION", "RequestCancelExternalWorkflowExecutionCommandAttributes is not set on"),
        ("RECORD_MARKER", "RecordMarkerCommandAttributes is not set on RecordMarkerCommand."),
        ("UPSERT_WORKFLOW_SEARCH_ATTRIBUTES", "UpsertWorkflowSearchAttributesCommandAttributes is not set on Upsert"),
        ("MODIFY_WORKFLOW_PROPERTIES", "ModifyWorkflowPropertiesCommandAttributes is not set on ModifyWorkflowProperties"),
        ("PROTOCOL_MESSAGE", "ProtocolMessageCommandAttributes is not set on ProtocolMessageCommand."),
    ],
)
def test_every_command_needs_its_attributes(kind: str, text: str) -> None:
    assert text in refused(Run(), empty(CommandType.Value(f"COMMAND_TYPE_{kind}"))).message


def continued(**fields: Any) -> Command:
    return commands.continue_as_new("tq", **fields)


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        (commands.continue_as_new("x" * 1001), "BadContinueAsNewAttributes: error validating ContinueAsNewWorkflowExecution"),
        (commands.continue_as_new("/_sys/x"), "task queue name cannot start with reserved prefix /_sys/"),
        (continued(workflow_type={"name": "x" * 1001}), "WorkflowType on ContinueAsNewWorkflowExecutionCommand exceeds length"),
        (continued(workflow_run_timeout=commands.duration(-1)), "Invalid WorkflowRunTimeout on ContinueAsNewWorkflowExecution"),
        (continued(workflow_task_timeout=commands.duration(-1)), "Invalid WorkflowTaskTimeout on ContinueAsNew"),
        (continued(backoff_start_interval=commands.duration(-1)), "Invalid BackoffStartInterval on ContinueAsNew"),
        (continued(retry_policy={"backoff_coefficient": 0.5}), "invalid WorkflowRetryPolicy on ContinueAsNew"),
        (
            continued(search_attributes={"indexed_fields": {"Nobody": Payload()}}),
            "BadSearchAttributes: Namespace ns has no mapping defined for search attribute Nobody",
        ),
        (
            Command(
                command_type=CommandType.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION,
                fail_workflow_execution_command_attributes=FailWorkflowExecutionCommandAttributes(),
            ),
            "BadFailWorkflowExecutionAttributes: Failure is not set on FailWorkflowExecutionCommand.",
        ),
    ],
)
def test_a_wish_for_an_end_that_cannot_be_is_refused(wish: Command, text: str) -> None:
    assert text in refused(Run(), wish).message


def test_a_run_may_fail_without_a_word() -> None:
    run = Run()
    run.task(commands.fail(Failure()))
    words = "failure={} retry_state=RETRY_POLICY_NOT_SET workflow_task_completed_event_id=4"
    assert run.told(5) == f"5 WorkflowExecutionFailed {words}"


def test_a_forced_task_follows_with_the_reply_or_is_offered() -> None:
    run = Run()
    done = run.task(force_create_new_workflow_task=True, return_new_workflow_task=True)
    assert done.next_is_started
    assert run.history(5) == "5 WorkflowTaskScheduled\n6 WorkflowTaskStarted"
    done = run.answer(force_create_new_workflow_task=True)
    assert not done.next_is_started and run.history(8) == "8 WorkflowTaskScheduled"


def test_buffered_events_come_behind_the_commands_and_make_the_next_task() -> None:
    run = Run()
    run.start_task()
    run.signal()
    done = run.answer(commands.marker("m"), return_new_workflow_task=True)
    assert done.next_is_started
    assert run.history(4) == lines("""
        4 WorkflowTaskCompleted
        5 MarkerRecorded
        6 WorkflowExecutionSignaled
        7 WorkflowTaskScheduled
        8 WorkflowTaskStarted""")


def test_a_chain_of_heartbeats_ends_after_half_an_hour_on_the_normal_queue() -> None:
    run = Run()
    run.start_task()
    for _ in range(180):
        run.wait(10)
        run.answer(sticky="sticky", force_create_new_workflow_task=True, return_new_workflow_task=True)
    assert run.state.task is not None and run.state.task.original_scheduled_at == run.entries[0].at
    run.wait(1)
    with pytest.raises(CallerError, match="workflow task heartbeat timeout") as error:
        run.answer(sticky="sticky", force_create_new_workflow_task=True, return_new_workflow_task=True)
    assert error.value.code == Code.NOT_FOUND
    since = run.state.next_event_id - 2
    assert run.history(since) == f"{since} WorkflowTaskTimedOut\n{since + 1} WorkflowTaskScheduled"
    assert run.last("WorkflowTaskScheduled").task_queue.name == QUEUE


def test_a_heartbeat_that_makes_progress_begins_a_new_chain() -> None:
    run = Run()
    run.start_task()
    run.wait(5)
    run.answer(commands.marker("m"), force_create_new_workflow_task=True, return_new_workflow_task=True)
    assert run.state.task is not None and run.state.task.original_scheduled_at == run.now


def test_the_completed_event_says_who_and_with_what() -> None:
    run = Run()
    run.task(
        worker_version_stamp=WorkerVersionStamp(build_id="b"),
        binary_checksum="b",
        sdk_metadata=WorkflowTaskCompletedMetadata(sdk_name="sdk", sdk_version="1"),
        metering_metadata={},
    )
    assert run.told(4) == (
        "4 WorkflowTaskCompleted scheduled_event_id=2 started_event_id=3 identity=worker worker_version={build_id=b}"
        " sdk_metadata={sdk_name=sdk sdk_version=1} metering_metadata={}"
    )
    assert (run.state.sdk_name, run.state.sdk_version, run.state.build_id) == ("sdk", "1", "b")
    assert Payload.FromString(run.state.search_attributes["BuildIds"]).data == b'["unversioned","unversioned:b"]'
    assert [(one.build_id, one.first_workflow_task_completed_id, one.run_id) for one in run.state.reset_points] == [("b", 4, "r")]


def test_a_versioned_worker_is_told_by_its_deployment() -> None:
    run = Run()
    versioned = WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED
    options = {"deployment_name": "d", "build_id": "b", "worker_versioning_mode": versioned}
    run.task(deployment_options=options, versioning_behavior=VersioningBehavior.VERSIONING_BEHAVIOR_PINNED)
    assert run.told(4) == (
        "4 WorkflowTaskCompleted scheduled_event_id=2 started_event_id=3 identity=worker versioning_behavior=PINNED"
        " worker_deployment_name=d deployment_version={build_id=b deployment_name=d}"
    )
    assert "BuildIds" not in run.state.search_attributes and run.state.reset_points[0].build_id == "b"
    plain = Run()
    plain.task(deployment_options={"deployment_name": "d"}, versioning_behavior=VersioningBehavior.VERSIONING_BEHAVIOR_PINNED)
    assert plain.last("WorkflowTaskCompleted").versioning_behavior == 0


def test_a_point_that_cannot_be_reset_to_says_so() -> None:
    run = Run()
    run.task(commands.start_child("c"))
    run.do(lambda t: workflow_task.schedule(t))
    run.task(worker_version_stamp=WorkerVersionStamp(build_id="second"))
    assert [one.resettable for one in run.state.reset_points] == [True, False]


def report(cause: int) -> RespondWorkflowTaskFailedRequest:
    return RespondWorkflowTaskFailedRequest(cause=cause, identity="worker", failure=Failure(message="bug"))  # type: ignore[arg-type]


def decide_failed(run: Run, cause: int) -> None:
    def decide(t: Transition) -> None:
        completion.decide_failed(t, report(cause))

    run.do(decide)


def test_a_worker_that_fails_a_task_is_asked_again() -> None:
    run = Run()
    run.start_task()
    decide_failed(run, WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR)
    assert run.told(4) == (
        "4 WorkflowTaskFailed scheduled_event_id=2 started_event_id=3 cause=NON_DETERMINISTIC_ERROR"
        " failure={message=bug} identity=worker"
    )
    assert run.state.task is not None and run.state.task.attempt == 2


def test_an_answer_too_large_for_the_wire_ends_the_run() -> None:
    run = Run()
    run.start_task()
    decide_failed(run, WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_GRPC_MESSAGE_TOO_LARGE)
    assert run.told(4) == lines("""
        4 WorkflowTaskFailed scheduled_event_id=2 started_event_id=3 cause=FORCE_CLOSE_COMMAND identity=history-service
        5 WorkflowExecutionTerminated reason=GrpcMessageTooLarge identity=history-service""")
