"""Commands about activities: what may be scheduled, and how one is cancelled."""

from __future__ import annotations

import pytest
from temporalio.api.command.v1 import (
    Command,
)
from temporalio.api.common.v1 import ActivityType, Payload, Payloads, Priority, RetryPolicy
from temporalio.api.enums.v1 import CommandType, RetryState
from temporalio.api.taskqueue.v1 import TaskQueue

from cluster.config import Limits
from cluster.core.errors import CallerError, Code
from cluster.core.machines import (
    activity,
    activity_calls,
    lifecycle,
)
from cluster.core.machines.activity_calls import Heartbeat
from tests.core.activity_stories import (
    A,
    backing_off,
    beat,
    complete,
    complete_workflow,
    fail,
    paused,
    pending,
    request_cancel,
    schedule,
    scheduled,
    seconds,
    started,
)
from tests.core.build import QUEUE, Run, lines, payloads

# --- cancel ------------------------------------------------------------------------------------------------------------


def test_a_started_activity_learns_of_its_cancel_by_a_heartbeat_and_obeys() -> None:
    run = started()
    with pytest.raises(CallerError, match="without activity being request canceled first") as refusal:
        run.do(lambda t: activity_calls.cancel(t, A, 1, None))
    assert refusal.value.code == Code.INVALID_ARGUMENT
    run.task(request_cancel())
    assert beat(run) == Heartbeat(True, False, False)
    assert run.do(lambda t: activity_calls.cancel(t, A, 1, payloads("stopped"), identity="w1")) is True
    assert run.history(6) == lines("""
        6 WorkflowTaskScheduled
        7 WorkflowTaskStarted
        8 WorkflowTaskCompleted
        9 ActivityTaskCancelRequested
        10 ActivityTaskStarted
        11 ActivityTaskCanceled""")
    canceled = run.last("ActivityTaskCanceled")
    assert (canceled.latest_cancel_requested_event_id, canceled.started_event_id) == (9, 10)
    assert (canceled.details, canceled.identity) == (payloads("stopped"), "w1")


def test_a_cancelled_activity_is_not_tried_again() -> None:
    run = started()
    run.task(request_cancel())
    assert fail(run) is True
    assert run.last("ActivityTaskFailed").retry_state == RetryState.RETRY_STATE_CANCEL_REQUESTED
    late = started(start_to_close_timeout=seconds(9))
    late.task(request_cancel())
    late.wait(9)
    late.wake()
    assert late.last("ActivityTaskTimedOut").retry_state == RetryState.RETRY_STATE_CANCEL_REQUESTED
    assert late.last("ActivityTaskTimedOut").failure.message == "activity StartToClose timeout"


def test_an_activity_that_nobody_has_is_cancelled_at_once() -> None:
    for run in (scheduled(), backing_off(), paused()):
        run.task(request_cancel())
        assert run.history(9) == lines("""
            9 ActivityTaskCancelRequested
            10 ActivityTaskCanceled
            11 WorkflowTaskScheduled""")
        canceled = run.last("ActivityTaskCanceled")
        assert canceled.details == payloads("ACTIVITY_ID_NOT_STARTED")
        assert (canceled.latest_cancel_requested_event_id, canceled.started_event_id, canceled.identity) == (9, 0, "worker")
        assert run.state.activities == {}


def test_a_run_may_close_in_the_answer_that_cancels() -> None:
    run = scheduled()
    run.task(request_cancel(), complete_workflow())
    assert run.history(9) == "9 ActivityTaskCancelRequested\n10 WorkflowExecutionCompleted"  # nobody waits for its end


def test_a_cancel_that_crosses_the_result_is_recorded_and_does_nothing() -> None:
    run = started()
    run.open_task()
    complete(run)
    run.answer(request_cancel())
    assert run.history(8) == lines("""
        8 WorkflowTaskCompleted
        9 ActivityTaskCancelRequested
        10 ActivityTaskStarted
        11 ActivityTaskCompleted
        12 WorkflowTaskScheduled""")


@pytest.mark.parametrize(
    ("commands", "words"),
    [
        ([request_cancel(99)], "add-activitytask-cancel-requested-event, ScheduledEventID: 99"),
        ([request_cancel(0)], "ScheduledEventId is not set on RequestCancelActivityTaskCommand."),
        ([request_cancel(A), request_cancel(A)], "add-activitytask-cancel-requested-event, ScheduledEventID: 5"),
        (
            [Command(command_type=CommandType.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK)],
            "RequestCancelActivityTaskCommandAttributes is not set on RequestCancelActivityTaskCommand.",
        ),
    ],
)
def test_a_bad_cancel_fails_the_workflow_task(commands: list[Command], words: str) -> None:
    run = started()
    with pytest.raises(CallerError) as refusal:
        run.task(*commands)
    assert refusal.value.message.startswith("BadRequestCancelActivityAttributes: ")
    assert refusal.value.message.endswith(words)
    assert not pending(run).cancel_requested


# --- the schedule command ----------------------------------------------------------------------------------------------


def timeouts(run: Run) -> list[int]:
    """Seconds: schedule to close, schedule to start, start to close, heartbeat."""
    event = run.last("ActivityTaskScheduled")
    spans = (event.schedule_to_close_timeout, event.schedule_to_start_timeout, event.start_to_close_timeout)
    return [one.seconds for one in (*spans, event.heartbeat_timeout)]


@pytest.mark.parametrize(
    ("run_s", "asked", "settled"),
    [
        (0, (60, 0, 0, 0), [60, 60, 60, 0]),
        (0, (60, 90, 90, 90), [60, 60, 60, 60]),
        (0, (0, 0, 20, 30), [0, 0, 20, 20]),
        (0, (0, 5, 20, 0), [0, 5, 20, 0]),
        (40, (0, 0, 20, 0), [40, 40, 20, 0]),
        (40, (60, 50, 50, 45), [40, 40, 40, 40]),
    ],
)
def test_timeouts_follow_from_each_other_and_never_outlast_the_run(
    run_s: int, asked: tuple[int, int, int, int], settled: list[int]
) -> None:
    run = Run(run_timeout_s=run_s)
    to_close, to_start, attempt, silence = map(seconds, asked)
    run.task(
        schedule(
            schedule_to_close_timeout=to_close,
            schedule_to_start_timeout=to_start,
            start_to_close_timeout=attempt,
            heartbeat_timeout=silence,
        )
    )
    assert timeouts(run) == settled


def without(field: str) -> Command:
    command = schedule()
    command.schedule_activity_task_command_attributes.ClearField(field)  # type: ignore[arg-type]
    return command


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Command(command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK), "TaskCommandAttributes is not set on"),
        (without("activity_id"), "activityId is not set"),
        (without("activity_type"), "activityType is not set"),
        (without("task_queue"), "taskQueue is not set"),
        (schedule(task_queue=TaskQueue(name="/_sys/x")), "task queue name cannot start with reserved prefix /_sys/"),
        (schedule(task_queue=TaskQueue(name="temporal-sys-per-ns-tq")), "cannot use internal per-namespace task queue:"),
        (schedule(task_queue=TaskQueue(name="q" * 1001)), "taskQueue length exceeds limit"),
        (schedule("i" * 1001), "activityId exceeds length limit. Length=1001 Limit=1000"),
        (schedule(activity_type=ActivityType(name="t" * 1001)), "activityType exceeds length limit. Length=1001 Limit=1000"),
        (without("start_to_close_timeout"), "a valid StartToCloseTimeout or ScheduleToCloseTimeout must be set on the activity."),
        (schedule(heartbeat_timeout=seconds(-1)), "invalid HeartbeatTimeout: negative duration"),
        (schedule(retry_policy=RetryPolicy(maximum_attempts=-1)), "MaximumAttempts cannot be negative on retry policy."),
        (schedule(priority=Priority(priority_key=-1)), "invalid priorities: priority key can't be negative"),
        (schedule(priority=Priority(fairness_key="k" * 65)), "invalid priorities: fairness key length exceeds limit"),
        (schedule(priority=Priority(fairness_weight=-1)), "invalid priorities: must be greater than zero"),
        (schedule(input=Payloads(payloads=[Payload(data=b"x" * 2**21)])), "Input exceeds size limit."),
        (
            schedule(use_workflow_build_id=True, task_queue=TaskQueue(name="other")),
            "Activity with UseCompatibleVersion cannot run on different task queue.",
        ),
    ],
)
def test_a_bad_schedule_fails_the_workflow_task(bad: Command, words: str) -> None:
    run = Run()
    with pytest.raises(CallerError) as refusal:
        run.task(bad)
    assert refusal.value.message.startswith("BadScheduleActivityAttributes: ") and words in refusal.value.message
    assert run.state.activities == {}


def test_an_activity_id_of_the_greatest_length_is_taken() -> None:
    assert scheduled(activity_id="i" * 1000).state.activity_ids == {"i" * 1000: A}


def test_two_pending_activities_cannot_have_one_id() -> None:
    run = scheduled()
    with pytest.raises(CallerError, match=r"^ScheduleActivityDuplicateId: .*scheduled-event, ActivityID: a$"):
        run.task(schedule())


def test_the_number_of_pending_activities_is_limited() -> None:
    run = Run(limits=Limits(pending_activities_max=2))
    run.task(schedule("a"), schedule("b"))
    words = "the number of pending activities, 2, has reached the per-workflow limit of 2"
    with pytest.raises(CallerError, match=f"^PendingActivitiesLimitExceeded: {words}$"):
        run.task(schedule("c"))


def test_an_eager_activity_goes_back_with_the_answer() -> None:
    run = Run()
    done = run.task(schedule(request_eager_execution=True), schedule("b"), may_be_eager=True)
    assert done.completion is not None and done.completion.eager_activity_ids == [A]
    assert (pending(run).identity, pending(run).is_started) == ("worker", True)
    assert complete(run) is True
    for eager, queue in ((False, QUEUE), (True, "other")):
        run = Run()
        run.task(schedule(request_eager_execution=True, task_queue=TaskQueue(name=queue)), may_be_eager=eager)
        assert not pending(run).is_started


def test_an_eager_activity_cancelled_in_the_same_answer_never_leaves() -> None:
    run = Run()
    done = run.task(schedule(request_eager_execution=True), request_cancel(), may_be_eager=True)
    assert done.completion is not None and done.completion.eager_activity_ids == []
    assert run.history(A) == lines("""
        5 ActivityTaskScheduled
        6 ActivityTaskCancelRequested
        7 ActivityTaskCanceled
        8 WorkflowTaskScheduled""")


def test_a_paused_run_starts_nothing_eagerly() -> None:
    run = Run()
    run.start_task()
    run.do(lambda t: lifecycle.pause(t, identity="", reason="", request_id="p"))
    run.answer(schedule(request_eager_execution=True), may_be_eager=True)
    assert [one.is_started for one in run.state.activities.values()] == [False]


def test_the_run_s_priority_fills_what_the_activity_leaves_open() -> None:
    run = scheduled(priority=Priority(fairness_key="f"))
    run.state.priority = Priority(priority_key=4, fairness_key="g").SerializeToString()
    assert activity.priority_of(run.state, pending(run)) == Priority(priority_key=4, fairness_key="f")
