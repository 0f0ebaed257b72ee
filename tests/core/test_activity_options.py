"""What operators do to pending activities, and how they are described."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import ActivityType, Priority, RetryPolicy
from temporalio.api.deployment.v1 import WorkerDeploymentVersion
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.taskqueue.v1 import TaskQueue

from cluster.core.errors import CallerError, Code
from cluster.core.events import SECOND_NS
from cluster.core.machines import (
    activity,
    activity_calls,
    activity_options,
    activity_pending,
)
from cluster.core.machines.activity_calls import Heartbeat
from tests.core.activity_stories import (
    OOPS,
    A,
    backing_off,
    beat,
    fail,
    pause,
    paused,
    pending,
    request_cancel,
    schedule,
    scheduled,
    seconds,
    start,
    started,
)
from tests.core.build import QUEUE, Run, payloads

# --- operators ---------------------------------------------------------------------------------------------------------


def test_a_paused_activity_is_not_offered_and_is_never_late() -> None:
    run = scheduled(schedule_to_close_timeout=seconds(60))
    pause(run)
    assert activity.position(pending(run)) == "paused" and not activity.is_dispatchable(pending(run))
    assert activity.due_at(pending(run)) == 0
    run.wait(1000)
    run.wake()
    assert A in run.state.activities
    with pytest.raises(CallerError, match="stamp has changed"):
        start(run, stamp=0)


def test_a_repeated_pause_is_recognised_and_another_one_refused() -> None:
    run = paused()
    entries = len(run.entries)
    pause(run, "p1")
    assert len(run.entries) == entries
    with pytest.raises(CallerError, match="activity is already paused") as refusal:
        pause(run, "p2")
    assert refusal.value.code == Code.FAILED_PRECONDITION


def test_a_paused_running_attempt_goes_on_and_is_not_followed() -> None:
    run = started()
    pause(run)
    assert beat(run) == Heartbeat(False, True, False)
    assert fail(run) is False
    assert (activity.position(pending(run)), pending(run).attempt) == ("paused", 2)
    run.wait(1000)
    run.wake()
    assert activity.position(pending(run)) == "paused"
    run.do(lambda t: activity_options.unpause(t, [A]))
    assert activity.is_dispatchable(pending(run)) and pending(run).attempt == 2
    assert start(run) is True


def test_a_paused_activity_can_be_completed_by_id() -> None:
    run = paused()
    run.do(lambda t: activity_calls.complete(t, 0, 0, None, activity_id="a"))
    assert run.state.activities == {}
    run = backing_off()
    run.do(lambda t: activity_calls.complete(t, 0, 0, None, activity_id="a"))
    assert run.last("ActivityTaskStarted").attempt == 2


def test_unpausing_offers_at_once_or_within_the_jitter() -> None:
    run = backing_off(heartbeat_timeout=seconds(50))
    start_later = pending(run).next_attempt_at
    pause(run)
    assert activity.position(pending(run)) == "paused" and pending(run).next_attempt_at == start_later
    run.do(lambda t: activity_options.unpause(t, [A], reset_attempts=True, reset_heartbeat=True, jitter_ns=10 * SECOND_NS))
    assert (pending(run).attempt, pending(run).next_attempt_at) == (1, run.now + 5 * SECOND_NS)
    before = run.entries[:]
    run.do(lambda t: activity_options.unpause(t, [A]))
    assert run.entries == before, "what is not paused stays as it is"
    running = started()
    pause(running)
    running.do(lambda t: activity_options.unpause(t, [A]))
    assert activity.due_at(pending(running)) == running.now + 60 * SECOND_NS


def test_a_reset_begins_again_at_once() -> None:
    run = started()
    fail(run, last_heartbeat_details=payloads("50%"))
    stamp = pending(run).stamp
    run.do(lambda t: activity_options.reset(t, [A], reset_heartbeat=True))
    one = pending(run)
    assert (one.attempt, one.stamp, one.heartbeat_details, one.last_failure) == (1, stamp + 1, b"", b"")
    assert activity.is_dispatchable(one)
    run.do(lambda t: activity_options.reset(t, [A]))
    assert pending(run).stamp == stamp + 2, "what was on offer is void"


def test_a_running_attempt_hears_of_its_reset_and_the_next_one_forgets_the_progress() -> None:
    run = started(heartbeat_timeout=seconds(50))
    beat(run)
    run.do(lambda t: activity_options.reset(t, [A], reset_heartbeat=True))
    assert beat(run) == Heartbeat(False, False, True)
    assert fail(run) is False
    assert (pending(run).attempt, pending(run).heartbeat_details, pending(run).was_reset) == (2, b"", False)


def test_a_reset_can_keep_the_pause_or_end_it() -> None:
    run = paused()
    run.do(lambda t: activity_options.reset(t, [A], keep_paused=True))
    assert activity.position(pending(run)) == "paused"
    run.do(lambda t: activity_options.reset(t, [A]))
    assert activity.position(pending(run)) == "scheduled" and pending(run).pause_reason == ""


def test_a_reset_with_jitter_puts_off() -> None:
    for run in (scheduled(), backing_off(), paused()):
        run.do(lambda t: activity_options.reset(t, [A], jitter_ns=8 * SECOND_NS))
        assert pending(run).next_attempt_at == run.now + 4 * SECOND_NS


def test_options_change_by_the_mask_and_void_the_offer() -> None:
    run = scheduled(retry_policy=RetryPolicy(non_retryable_error_types=["X"]))
    asked = ActivityOptions(
        task_queue=TaskQueue(name="other"),
        start_to_close_timeout=seconds(7),
        heartbeat_timeout=seconds(3),
        retry_policy=RetryPolicy(maximum_attempts=9),
        priority=Priority(priority_key=1),
    )
    mask = ["task_queue.name", "startToCloseTimeout", "retry_policy.maximum_attempts", "Priority.PriorityKey"]
    result = run.do(lambda t: activity_options.update_options(t, [A], asked, mask))
    one = pending(run)
    assert (one.task_queue, one.start_to_close_ns, one.heartbeat_ns, one.stamp) == ("other", 7 * SECOND_NS, 0, 1)
    assert (result.task_queue.name, result.retry_policy.maximum_attempts, result.priority.priority_key) == ("other", 9, 1)
    policy = activity.policy_of(one)
    assert policy is not None and policy.non_retryable_error_types == ["X"] and policy.initial_interval == seconds(1)
    assert one.scheduled_at == one.first_scheduled_at and activity.is_dispatchable(one)


def test_a_wait_follows_the_new_retry_policy() -> None:
    run = backing_off()
    slow = ActivityOptions(retry_policy=RetryPolicy(initial_interval=seconds(30)))
    run.do(lambda t: activity_options.update_options(t, [A], slow, ["retry_policy.initial_interval"]))
    assert pending(run).next_attempt_at == run.now + 60 * SECOND_NS  # the second attempt's interval
    fast = ActivityOptions(retry_policy=RetryPolicy(initial_interval=Duration(nanos=1), maximum_interval=Duration(nanos=1)))
    run.wait(1)
    run.do(lambda t: activity_options.update_options(t, [A], fast, ["retry_policy"]))
    assert activity.is_dispatchable(pending(run)) and pending(run).scheduled_at == run.now


def test_original_options_can_be_restored() -> None:
    for run in (scheduled(), started(), paused()):
        origin = {A: run.last("ActivityTaskScheduled")}
        asked = ActivityOptions(start_to_close_timeout=seconds(7))
        run.do(lambda t, o=asked: activity_options.update_options(t, [A], o, ["start_to_close_timeout"]))  # type: ignore[misc]
        assert pending(run).start_to_close_ns == 7 * SECOND_NS
        restored = run.do(lambda t, o=origin: activity_options.restore_options(t, [A], o))  # type: ignore[misc]
        assert restored.start_to_close_timeout == seconds(60) and pending(run).start_to_close_ns == 60 * SECOND_NS
        run.do(lambda t, o=origin: activity_options.reset(t, [A], originals=o))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "mask", "words"),
    [
        (None, ["x"], "ActivityOptions are not provided"),
        (ActivityOptions(), None, "UpdateMask is not provided"),
        (ActivityOptions(), ["task_queue.name"], "TaskQueue is not provided"),
        (ActivityOptions(), ["retry_policy"], "RetryPolicy is not provided"),
        (ActivityOptions(), ["priority.fairness_key"], "Priority is not provided"),
        (ActivityOptions(), ["start_to_close_timeout"], "a valid StartToCloseTimeout or ScheduleToCloseTimeout must be set"),
        (ActivityOptions(priority=Priority(priority_key=-1)), ["priority"], "priority key can't be negative"),
        (
            ActivityOptions(retry_policy=RetryPolicy(backoff_coefficient=0.5)),
            ["retry_policy.backoff_coefficient"],
            "BackoffCoefficient cannot be less than 1 on retry policy.",
        ),
    ],
)
def test_bad_options_are_refused_and_change_nothing(options: ActivityOptions | None, mask: list[str] | None, words: str) -> None:
    run = scheduled()
    with pytest.raises(CallerError) as refusal:
        run.do(lambda t: activity_options.update_options(t, [A], options, mask))
    assert refusal.value.code == Code.INVALID_ARGUMENT and refusal.value.message.startswith(words)


def test_activities_are_chosen_by_id_by_type_or_all() -> None:
    run = Run()
    run.task(schedule("a"), schedule("b", activity_type=ActivityType(name="U")), schedule("c"))
    assert activity_options.select(run.state, "b") == [6]
    assert activity_options.select(run.state, activity_type="T") == [5, 7]
    assert activity_options.select(run.state, match_all=True) == [5, 6, 7]
    for activity_id, activity_type in (("z", None), ("", None), (None, "Z")):
        with pytest.raises(CallerError, match="Can't find pending activity with such ID") as refusal:
            activity_options.select(run.state, activity_id, activity_type)
        assert refusal.value.code == Code.NOT_FOUND


# --- describe ----------------------------------------------------------------------------------------------------------


def test_a_pending_activity_is_described_as_it_is() -> None:
    run = scheduled(schedule_to_close_timeout=seconds(60), retry_policy=RetryPolicy(maximum_attempts=5))
    version = WorkerDeploymentVersion(deployment_name="d", build_id="1")
    info = activity_pending.pending_info(pending(run), run.now)
    assert (info.activity_id, info.activity_type.name, info.attempt, info.maximum_attempts) == ("a", "T", 1, 5)
    assert info.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
    assert info.expiration_time.seconds == run.now // SECOND_NS + 60 and not info.HasField("next_attempt_schedule_time")
    assert (info.activity_options.task_queue.name, info.activity_options.task_queue.normal_name) == (QUEUE, QUEUE)
    start(run, deployment_version=version)
    beat(run)
    info = activity_pending.pending_info(pending(run), run.now)
    assert info.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED and info.heartbeat_details == payloads("50%")
    assert (info.last_worker_identity, info.last_deployment_version) == ("w1", version)
    assert info.last_worker_deployment_version == "d.1" and info.last_started_time.seconds == run.now // SECOND_NS
    run.wait(2)
    fail(run)
    info = activity_pending.pending_info(pending(run), run.now)
    assert (info.state, info.attempt, info.last_failure) == (PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED, 2, OOPS)
    assert info.current_retry_interval == seconds(1) and info.next_attempt_schedule_time == info.scheduled_time
    assert info.next_attempt_schedule_time.seconds == run.now // SECOND_NS + 1
    assert info.last_attempt_complete_time.seconds == run.now // SECOND_NS and info.last_worker_identity == "w1"
    pause(run)
    info = activity_pending.pending_info(pending(run), run.now)
    assert (info.state, info.paused) == (PendingActivityState.PENDING_ACTIVITY_STATE_PAUSED, True)
    assert (info.pause_info.manual.identity, info.pause_info.manual.reason) == ("op", "why")
    assert not info.HasField("next_attempt_schedule_time")
    assert activity_pending.paused_types(run.state) == ["property:activityType=T"]


def test_a_wish_that_a_running_attempt_has_not_heard_shows_in_its_state() -> None:
    run = started()
    pause(run)
    assert activity_pending.pending_state(pending(run)) == PendingActivityState.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED
    run.task(request_cancel())
    assert activity_pending.pending_state(pending(run)) == PendingActivityState.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
