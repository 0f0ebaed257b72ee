"""Completion callbacks: who is told how a run ended, when, and how often."""

from __future__ import annotations

import pytest
from temporalio.api.common.v1 import Callback, Link, RetryPolicy
from temporalio.api.enums.v1 import CallbackState as Shown
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure

from cluster.config import Limits
from cluster.core import due
from cluster.core.effects import DeliverCallback, effects
from cluster.core.errors import CallerError, Code
from cluster.core.events import SECOND_NS, duration
from cluster.core.machines import callback, lifecycle, start
from cluster.core.machines.nexus_pending import callback_infos
from cluster.core.state import decode_state, encode_state
from cluster.history.api.describe_workflow_execution import description
from tests.core.build import BEGIN_NS, Run, payloads
from tests.core.nexus_stories import attach, callback_to, schedule, tell_callback
from tests.e2e import commands

BROKEN = Failure(message="broken", stack_trace="at", application_failure_info=ApplicationFailureInfo(type="T"))


def closed(how: str = "complete") -> Run:
    run = Run(completion_callbacks=[callback_to("a")], run_timeout_s=60)
    if how == "complete":
        run.task(commands.complete(payloads("done")))
    elif how == "fail":
        run.task(commands.fail(BROKEN))
    elif how == "cancel":
        run.task(commands.cancel_workflow(payloads("why")))
    elif how == "terminate":
        run.terminate()
    else:
        run.wait(60)
        run.wake()
    return run


HOWS = ("complete", "fail", "cancel", "terminate", "time out")


@pytest.mark.parametrize("how", HOWS)
def test_whatever_closes_the_run_its_callback_is_owed(how: str) -> None:
    run = closed(how)
    assert effects(run.state) == [DeliverCallback(0, 0)]
    assert tell_callback(run, 0, "is heard") and effects(run.state) == []
    assert not any(tell_callback(run, 0, what) for what in ("is heard", "is refused", "is not reached", "is blocked"))


def test_an_open_run_owes_no_callback() -> None:
    run = Run(completion_callbacks=[callback_to("a")])
    assert not any(isinstance(one, DeliverCallback) for one in effects(run.state))
    assert not tell_callback(run, 0, "is heard") and not run.do(lambda t: callback.record_delivered(t, 9))


TOLD = {
    "complete": ("succeeded", '"done"', None),
    "fail": ("failed", None, BROKEN),
    "cancel": ("canceled", None, "operation canceled"),
    "terminate": ("failed", None, "operation terminated"),
    "time out": ("failed", None, "operation exceeded internal timeout"),
}


@pytest.mark.parametrize("how", HOWS)
def test_what_is_told_is_how_it_ended_and_never_why_it_was_terminated(how: str) -> None:
    run = closed(how)
    told = callback.completion(run.state, "ns", run.state.callbacks[0], run.events()[-1])
    state, result, failure = TOLD[how]
    assert told.state == state and (told.result.data.decode() if told.result else None) == result
    if isinstance(failure, str):
        assert told.failure is not None and told.failure.message == failure and "enough" not in str(told.failure)
    else:
        assert told.failure == failure
    assert (told.started_at, told.closed_at) == (BEGIN_NS, run.now)
    event = told.link.workflow_event
    assert (event.namespace, event.workflow_id, event.run_id) == ("ns", "w", "r") and event.event_ref.event_id == 1
    if how == "cancel":
        assert told.failure is not None and told.failure.canceled_failure_info.details == payloads("why")


def test_a_caller_that_attached_itself_is_shown_its_own_request() -> None:
    run = Run()
    attach(run, "b")
    run.terminate()
    told = callback.completion(run.state, "ns", run.state.callbacks[0], run.events()[-1])
    assert told.link.workflow_event.request_id_ref.request_id == "by b"
    assert told.result is None and told.state == "failed"


def test_an_operation_has_one_result_or_none() -> None:
    run = Run(completion_callbacks=[callback_to("a")])
    run.task(commands.complete())
    assert callback.completion(run.state, "ns", run.state.callbacks[0], run.events()[-1]).result is None


# --- attempts -----------------------------------------------------------------------------------------------------------


def test_a_callback_that_is_not_reached_is_tried_again_later_and_later() -> None:
    run = closed()
    waits = []
    for attempt in range(4):
        assert effects(run.state) == [DeliverCallback(0, attempt)]
        assert tell_callback(run, 0, "is not reached") and effects(run.state) == []
        waits.append((due.wake_at(run.state) - run.now) / SECOND_NS)
        run.wait(0.1)
        run.wake()
        assert effects(run.state) == [], "not before its time"
        run.now = due.wake_at(run.state)
        run.wake()
    assert waits == [0.9, 1.8, 3.6, 7.2] and run.history().count("\n") == run.state.close_event_id - 1


def test_an_older_attempts_failure_says_nothing_about_the_one_under_way() -> None:
    run = closed()
    tell_callback(run, 0, "is not reached")
    run.now = due.wake_at(run.state)
    run.wake()
    assert not run.do(lambda t: callback.record_attempt_failed(t, 0, 0, "late"))
    assert run.do(lambda t: callback.record_attempt_failed(t, 0, 1, "again", next_at=run.now + 5))
    assert due.wake_at(run.state) == run.now + 5


@pytest.mark.parametrize("place", ["scheduled", "blocked"])
@pytest.mark.parametrize(("what", "state"), [("is heard", 5), ("is refused", 4), ("is not reached", 3)])
def test_a_call_has_its_outcome_also_as_the_breakers_probe(place: str, what: str, state: int) -> None:
    run = closed()
    if place == "blocked":
        assert tell_callback(run, 0, "is blocked") and not tell_callback(run, 0, "is blocked")
        assert effects(run.state) == [DeliverCallback(0, 0)]
        assert callback_infos(run.state)[0].state == Shown.CALLBACK_STATE_BLOCKED
    assert tell_callback(run, 0, what)
    (info,) = callback_infos(run.state)
    assert info.state == state and info.attempt == 1 and info.blocked_reason == ""
    assert info.HasField("last_attempt_failure") is (what != "is heard")
    assert info.HasField("next_attempt_schedule_time") is (what == "is not reached")
    assert info.last_attempt_failure.application_failure_info.non_retryable is (what == "is refused")


def test_a_breaker_that_closes_lets_through() -> None:
    run = closed()
    assert tell_callback(run, 0, "is blocked") and tell_callback(run, 0, "is let through")
    assert not tell_callback(run, 0, "is let through") and effects(run.state) == [DeliverCallback(0, 0)]


def test_a_deleted_run_is_not_woken_for_its_callbacks() -> None:
    run = closed()
    tell_callback(run, 0, "is not reached")
    run.state.is_deleted = True
    assert due.wake_at(run.state) == 0


# --- who has it: the chain, the reset ------------------------------------------------------------------------------------


def test_a_run_that_goes_on_in_another_hands_its_callbacks_on() -> None:
    run = Run(completion_callbacks=[callback_to("a")])
    attach(run, "b")
    run.wait(3)
    after = run.successor(run.task(commands.continue_as_new()))
    assert effects(run.state) == [] and {one.state for one in run.state.callbacks} == {Shown.CALLBACK_STATE_STANDBY}
    assert [one.callback.nexus.url for one in callback_infos(after.state)] == ["http://a/back", "http://b/back"]
    assert {one.registered_at for one in after.state.callbacks} == {after.now}
    after.task(commands.complete())
    assert effects(after.state) == [DeliverCallback(0, 0), DeliverCallback(1, 0)]


def test_a_retried_run_hands_them_on_and_the_last_attempt_owes_them() -> None:
    policy = RetryPolicy(initial_interval=duration(SECOND_NS), maximum_attempts=2)
    run = Run(completion_callbacks=[callback_to("a")], retry_policy=policy)
    after = run.successor(run.task(commands.fail(BROKEN)))
    assert effects(run.state) == []
    after.wait(60)
    after.wake()
    after.task(commands.fail(BROKEN))
    assert effects(after.state) == [DeliverCallback(0, 0)]


def test_a_run_that_times_out_and_is_retried_hands_them_on() -> None:
    policy = RetryPolicy(initial_interval=duration(SECOND_NS), maximum_attempts=2)
    run = Run(completion_callbacks=[callback_to("a")], retry_policy=policy, run_timeout_s=5)
    run.wait(5)
    (made,) = run.do(due.decide_due)
    assert effects(run.state) == [] and len(run.successor(made).state.callbacks) == 1


def test_each_run_of_a_schedule_calls_back_for_itself() -> None:
    run = Run(completion_callbacks=[callback_to("a")], cron_schedule="@every 5s")
    run.wait(5)
    run.wake()
    after = run.successor(run.task(commands.complete()))
    assert effects(run.state) == [DeliverCallback(0, 0)] and after.state.callbacks == []


def test_a_run_that_was_reset_leaves_its_callbacks_to_the_one_in_its_place() -> None:
    run = Run(completion_callbacks=[callback_to("a")])
    run.do(lambda t: lifecycle.terminate(t, reason="reset", details=None, identity=lifecycle.RESETTER))
    assert effects(run.state) == [] and run.state.callbacks[0].state == Shown.CALLBACK_STATE_STANDBY


def test_a_callback_attached_while_a_task_runs_is_owed_by_a_run_that_is_ended() -> None:
    run = Run()
    run.start_task()
    attach(run, "late")
    run.terminate()
    assert effects(run.state) == [DeliverCallback(0, 0)] and "WorkflowExecutionOptionsUpdated" in run.history()


# --- what may be attached -----------------------------------------------------------------------------------------------


def to(url: str, **header: str) -> Callback:
    return Callback(nexus=Callback.Nexus(url=url, header=header))


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (to("http://h/" + "x" * 992), "invalid url: url length longer than max length allowed of 1000"),
        (to("http://h/", a="b" * 8192), "invalid header: header size longer than max allowed size of 8192"),
        (to("gopher://x"), "invalid url: unknown scheme: gopher://x"),
        (to(""), "invalid url: unknown scheme: "),
        (to("temporal://system/x"), "invalid url: unknown scheme: temporal://system/x"),
        (to("http://"), "invalid url: missing host"),
        (to("https:///path"), "invalid url: missing host"),
        (Callback(), "unknown callback variant: None"),
        (Callback(internal=Callback.Internal(data=b"x")), "unknown callback variant: internal"),
    ],
)
def test_a_callback_that_cannot_be_called_is_refused_at_the_start_and_later(one: Callback, text: str) -> None:
    with pytest.raises(CallerError) as error:
        Run(completion_callbacks=[one])
    assert error.value.message == text
    run = Run()
    with pytest.raises(CallerError) as error:
        run.do(lambda t: start.attach(t, "r", callbacks=[one]))
    assert error.value.message == text and run.state.callbacks == []


@pytest.mark.parametrize(
    "one", [to("http://h/" + "x" * 991), to("HTTPS://h", a="b" * 8191), to("temporal://system", token="t"), to("http://[::1]:80/")]
)
def test_a_callback_up_to_the_limits_is_taken(one: Callback) -> None:
    assert callback_infos(Run(completion_callbacks=[one]).state)[0].callback == one


def test_header_keys_are_kept_in_lower_case_and_links_as_they_are() -> None:
    link = Link(workflow_event=Link.WorkflowEvent(workflow_id="caller"))
    one = Callback(nexus=Callback.Nexus(url="http://a", header={"Token": "T"}), links=[link])
    run = Run(completion_callbacks=[one])
    run.do(lambda t: start.attach(t, "r", callbacks=[one], attach_request_id=True))
    for info in callback_infos(run.state):
        assert info.callback.nexus.header == {"token": "T"} and list(info.callback.links) == [link]
        assert info.trigger.HasField("workflow_closed") and info.registration_time.seconds * SECOND_NS == BEGIN_NS
    assert one.nexus.header == {"Token": "T"}, "the request is the caller's"


def test_a_run_has_room_for_thirty_two() -> None:
    assert len(Run(completion_callbacks=[callback_to("a")] * 32).state.callbacks) == 32
    with pytest.raises(CallerError, match="cannot attach more than 32 callbacks to a workflow"):
        Run(completion_callbacks=[callback_to("a")] * 33)
    run = Run(limits=Limits(callbacks_per_run_max=2), completion_callbacks=[callback_to("a")])
    attach(run, "b")
    with pytest.raises(CallerError, match=r"more than 2 callbacks to a workflow \(2 callbacks already attached\)") as error:
        attach(run, "c")
    assert error.value.code == Code.FAILED_PRECONDITION


def test_whoever_describes_the_run_sees_its_operations_and_callbacks() -> None:
    run = Run(completion_callbacks=[callback_to("a")])
    run.task(schedule())
    for _ in range(2):
        described = description(run.state, run.now)
        assert [one.operation for one in described.pending_nexus_operations] == ["op"]
        assert [one.callback.nexus.url for one in described.callbacks] == ["http://a/back"]
        if run.state.is_open:
            run.terminate()
    assert described.callbacks[0].state == Shown.CALLBACK_STATE_SCHEDULED


def test_a_snapshot_of_a_version_without_attempts_can_be_read() -> None:
    run = Run(completion_callbacks=[callback_to("a")])
    assert b"blocked_reason" not in encode_state(run.state)
    assert decode_state(encode_state(run.state)).callbacks[0].blocked_reason == ""
