"""Chains of runs: continue as new, retry, cron. What the next run has and what it has not."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message
from temporalio.api.command.v1 import Command, ContinueAsNewWorkflowExecutionCommandAttributes
from temporalio.api.common.v1 import Callback, Header, Link, Memo, Payload, Priority, RetryPolicy, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import CommandType, RetryState
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflow.v1 import VersioningOverride

from cluster.core import due
from cluster.core.events import SECOND_NS, duration, duration_ns
from cluster.core.machines import lifecycle
from cluster.core.machines.completion import Completed
from cluster.core.state import ParentLink, Status
from cluster.core.transition import Transition
from tests.core.build import BEGIN_NS, Run, payloads
from tests.e2e import commands

S = SECOND_NS
OOPS = Failure(message="oops", application_failure_info=ApplicationFailureInfo(type="Oops"))
FINAL = Failure(message="final", application_failure_info=ApplicationFailureInfo(non_retryable=True))
RICH: dict[str, Any] = {
    "input": payloads("in"),
    "memo": Memo(fields={"m": Payload(data=b"1")}),
    "header": Header(fields={"h": Payload(data=b"2")}),
    "priority": Priority(priority_key=2),
    "user_metadata": UserMetadata(summary=Payload(data=b"sum")),
    "identity": "client",
    "completion_callbacks": [Callback(nexus=Callback.Nexus(url="http://back"))],
    "links": [Link(workflow_event=Link.WorkflowEvent(namespace="ns", workflow_id="o", run_id="r"))],
}
RETRY = RetryPolicy(initial_interval=duration(2 * S), backoff_coefficient=3, maximum_attempts=3)


def continue_as_new(**fields: Any) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
        continue_as_new_workflow_execution_command_attributes=ContinueAsNewWorkflowExecutionCommandAttributes(**fields),
    )


def answer(run: Run, *wishes: Command) -> Completed:
    """The run's first task is answered when it is due."""
    if run.state.task is None:
        run.now = run.state.first_task_at
        run.wake()
    return run.task(*wishes)


def expire(run: Run) -> list[Transition]:
    run.now = lifecycle.run_expires_at(run.state)
    return run.do(due.decide_due)


def started(run: Run) -> Message:
    attributes: Message = run.last("WorkflowExecutionStarted")
    return attributes


def test_a_retry_has_what_the_start_had_but_who_asked_for_it() -> None:
    run = Run(retry_policy=RETRY, **RICH)
    after = run.successor(run.task(commands.fail(OOPS)))
    assert run.told(5) == (
        "5 WorkflowExecutionFailed failure={message=oops application_failure_info={type=Oops}} retry_state=IN_PROGRESS"
        " workflow_task_completed_event_id=4 new_execution_run_id=id-2"
    )
    assert after.told() == (
        '1 WorkflowExecutionStarted workflow_type={name=W} task_queue={name=tq kind=NORMAL} input={payloads=["in"]}'
        " workflow_task_timeout=10s continued_execution_run_id=r initiator=RETRY"
        " continued_failure={message=oops application_failure_info={type=Oops}} original_execution_run_id=id-2"
        " first_execution_run_id=r"
        " retry_policy={initial_interval=2s backoff_coefficient=3.0 maximum_interval=200s maximum_attempts=3} attempt=2"
        " first_workflow_task_backoff=2s memo={fields={m=1}}"
        " prev_auto_reset_points={points=[{run_id=r first_workflow_task_completed_id=4 create_time=+0s expire_time=+86400s"
        " resettable=True}]} header={fields={h=2}} workflow_id=w completion_callbacks=[{nexus={url=http://back}}]"
        " priority={priority_key=2} links=1"
    )
    assert after.state.start_request_id == "start" and after.state.user_metadata == b""


def test_a_chain_of_retries_backs_off_and_ends() -> None:
    run, waits, states = Run(retry_policy=RETRY), [], []
    for _ in range(3):
        done = answer(run, commands.fail(OOPS))
        states.append(run.last("WorkflowExecutionFailed").retry_state)
        if done.completion is None or done.completion.successor is None:
            break
        run = run.successor(done)
        waits.append(duration_ns(started(run).first_workflow_task_backoff) // S)  # type: ignore[attr-defined]
    assert waits == [2, 6] and run.state.attempt == 3
    assert states == [
        RetryState.RETRY_STATE_IN_PROGRESS,
        RetryState.RETRY_STATE_IN_PROGRESS,
        RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED,
    ]


@pytest.mark.parametrize(
    ("fields", "failure", "state"),
    [
        ({}, OOPS, RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET),
        ({"retry_policy": RETRY}, FINAL, RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE),
        ({"retry_policy": RETRY, "workflow_execution_timeout": duration(S)}, OOPS, RetryState.RETRY_STATE_TIMEOUT),
    ],
)
def test_a_run_that_is_not_retried_says_why(fields: dict[str, Any], failure: Failure, state: int) -> None:
    run = Run(**fields)
    done = run.task(commands.fail(failure))
    assert done.completion is not None and done.completion.successor is None
    assert run.last("WorkflowExecutionFailed").retry_state == state


def test_a_timed_out_run_is_retried_with_the_time_out_as_its_failure() -> None:
    run = Run(retry_policy=RETRY, run_timeout_s=5)
    after = run.successor(expire(run)[0])
    assert run.told(3) == "3 WorkflowExecutionTimedOut retry_state=IN_PROGRESS new_execution_run_id=id-1"
    assert started(after).continued_failure == Failure(  # type: ignore[attr-defined]
        message="workflow timeout", source="Server", timeout_failure_info={"timeout_type": 1}  # type: ignore[arg-type]
    )
    assert started(after).HasField("prev_auto_reset_points")  # empty, and told all the same


def test_cron_runs_follow_one_another_with_the_last_result() -> None:
    run = Run(cron_schedule="@every 10s", **RICH)
    told = []
    one, two = commands.complete(payloads("one")), commands.complete(payloads("two"))
    for wish in (one, commands.fail(OOPS), commands.complete(), two):
        run = run.successor(answer(run, wish))
        first: Any = started(run)
        result = first.last_completion_result.payloads[0].data.decode() if first.HasField("last_completion_result") else "-"
        told.append((result, first.continued_failure.message, first.initiator, first.attempt, run.state.status))
    assert told == [
        ('"one"', "", 3, 1, Status.RUNNING),
        ('"one"', "oops", 3, 1, Status.RUNNING),
        ("-", "", 3, 1, Status.RUNNING),
        ('"two"', "", 3, 1, Status.RUNNING),
    ]
    assert run.state.callbacks == [], "each cron run calls back for itself"
    assert run.state.links and run.state.memo and run.state.priority


def test_a_failed_cron_run_says_why_it_is_not_retried_and_names_the_next_run() -> None:
    run = Run(cron_schedule="@every 10s")
    answer(run, commands.fail(OOPS))
    failed = run.last("WorkflowExecutionFailed")
    assert failed.retry_state == RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET and failed.new_execution_run_id


def test_a_cron_run_is_retried_before_its_schedule_comes() -> None:
    run = Run(cron_schedule="@every 60s", retry_policy=RETRY)
    after = run.successor(answer(run, commands.fail(OOPS)))
    assert (after.state.attempt, after.state.first_task_at - after.state.started_at) == (2, 2 * S)


@pytest.mark.parametrize("end", ["cancel", "terminate", "execution timeout"])
def test_a_cron_chain_ends_with_a_cancel_a_terminate_and_its_execution_timeout(end: str) -> None:
    run = Run(cron_schedule="@every 5s", workflow_execution_timeout=duration(30 * S))
    if end == "cancel":
        assert answer(run, commands.cancel_workflow()).completion.successor is None  # type: ignore[union-attr]
    elif end == "terminate":
        run.terminate()
    else:
        assert expire(run) == []
    assert not run.state.is_open and not run.state.new_run_id


def test_continue_as_new_inherits_what_is_the_chains_and_not_what_is_the_runs() -> None:
    run = Run(
        workflow_execution_timeout=duration(60 * S),
        workflow_run_timeout=duration(40 * S),
        workflow_task_timeout=duration(5 * S),
        retry_policy=RETRY,
        **RICH,
    )
    run.wait(5)
    after = run.successor(run.task(continue_as_new()))
    assert run.told(5) == (
        "5 WorkflowExecutionContinuedAsNew new_execution_run_id=id-2 workflow_type={name=W} task_queue={name=tq kind=NORMAL}"
        " workflow_run_timeout=40s workflow_task_timeout=5s workflow_task_completed_event_id=4"
    )
    assert after.told().splitlines()[0] == (
        "1 WorkflowExecutionStarted workflow_type={name=W} task_queue={name=tq kind=NORMAL} workflow_execution_timeout=60s"
        " workflow_run_timeout=40s workflow_task_timeout=5s continued_execution_run_id=r initiator=WORKFLOW"
        " original_execution_run_id=id-2 first_execution_run_id=r attempt=1 workflow_execution_expiration_time=+60s"
        " prev_auto_reset_points={points=[{run_id=r first_workflow_task_completed_id=4 create_time=+5s expire_time=+86405s"
        " resettable=True}]} workflow_id=w completion_callbacks=[{nexus={url=http://back}}] priority={priority_key=2} links=1"
    )
    assert after.state.task is not None, "an old run has no successor to wait for"
    assert after.state.retry_policy == b"" and after.state.memo == {}


def test_continue_as_new_does_what_its_command_says() -> None:
    run = Run(workflow_execution_timeout=duration(60 * S))
    wish = continue_as_new(
        workflow_type=WorkflowType(name="Other"),
        task_queue=TaskQueue(name="there"),
        input=payloads("x"),
        workflow_run_timeout=duration(100 * S),
        workflow_task_timeout=duration(20 * S),
        backoff_start_interval=duration(7 * S),
        retry_policy=RetryPolicy(maximum_attempts=2),
        initiator=1,
        failure=OOPS,
        last_completion_result=payloads("last"),
        cron_schedule="@every 9s",
        header=Header(fields={"k": Payload(data=b"v")}),
        memo=Memo(fields={"n": Payload(data=b"1")}),
    )
    after = run.successor(run.task(wish))
    assert after.told().splitlines()[0] == (
        '1 WorkflowExecutionStarted workflow_type={name=Other} task_queue={name=there kind=NORMAL} input={payloads=["x"]}'
        " workflow_execution_timeout=60s workflow_run_timeout=60s workflow_task_timeout=20s continued_execution_run_id=r"
        " initiator=WORKFLOW continued_failure={message=oops application_failure_info={type=Oops}}"
        ' last_completion_result={payloads=["last"]} original_execution_run_id=id-2 first_execution_run_id=r'
        " retry_policy={initial_interval=1s backoff_coefficient=2.0 maximum_interval=100s maximum_attempts=2} attempt=1"
        " workflow_execution_expiration_time=+60s cron_schedule=@every 9s first_workflow_task_backoff=7s memo={fields={n=1}}"
        " prev_auto_reset_points={points=[{run_id=r first_workflow_task_completed_id=4 create_time=+0s expire_time=+86400s"
        " resettable=True}]} header={fields={k=v}} workflow_id=w"
    )
    assert after.state.task is None


@pytest.mark.parametrize(("age_s", "asked_s", "wait_s"), [(0, 0, 1), (0.25, 0, 0.75), (0.25, 0.5, 0.75), (0.5, 2, 2), (1, 0, 0)])
def test_no_chain_starts_runs_faster_than_one_in_a_second(age_s: float, asked_s: float, wait_s: float) -> None:
    run = Run()
    run.wait(age_s)
    after = run.successor(run.task(continue_as_new(backoff_start_interval=duration(int(asked_s * S)))))
    assert after.state.first_task_at == (run.now + int(wait_s * S) if wait_s else 0)


def test_a_child_that_continues_keeps_its_parent_and_its_root() -> None:
    parent = ParentLink("ns", "ns-id", "p", "pr", 5, 0)
    run = Run(parent=parent, root=WorkflowExecution(workflow_id="top", run_id="tr"))
    after = run.successor(run.task(continue_as_new()))
    assert after.state.parent == parent
    assert (after.state.root_workflow_id, after.state.root_run_id) == ("top", "tr")


def test_a_continued_run_is_its_own_root_and_remembers_the_first_of_the_chain() -> None:
    run = Run()
    after = run.successor(run.task(continue_as_new()))
    assert (after.state.root_run_id, after.state.first_run_id, after.state.run_id) == ("id-2", "r", "id-2")


def test_reset_points_of_former_runs_go_on_until_their_retention_ends() -> None:
    run = Run()
    run = run.successor(run.task(continue_as_new()))
    run = run.successor(answer(run, continue_as_new()))
    assert [(one.run_id, one.expires_at - BEGIN_NS) for one in run.state.reset_points] == [("r", 86_400 * S)]
    run.now = run.state.reset_points[0].expires_at + 1
    run.wake()
    after = run.successor(run.task(continue_as_new()))
    assert [one.run_id for one in after.state.reset_points] == []


def test_only_a_pin_outlives_the_run() -> None:
    behavior = VersioningOverride.PinnedOverrideBehavior.PINNED_OVERRIDE_BEHAVIOR_PINNED
    pinned = VersioningOverride(pinned=VersioningOverride.PinnedOverride(behavior=behavior))
    for override, is_kept in ((pinned, True), (VersioningOverride(auto_upgrade=True), False)):
        run = Run(versioning_override=override, retry_policy=RETRY)
        for wish in (commands.fail(OOPS), continue_as_new()):
            run = run.successor(answer(run, wish))
            assert bool(run.state.versioning_override) == is_kept


def test_a_schedule_that_nobody_can_read_makes_the_run_the_last() -> None:
    run = Run()
    after = run.successor(run.task(continue_as_new(cron_schedule="whenever")))
    after.now = after.state.first_task_at
    after.wake()
    done = after.task(commands.complete())
    assert done.completion is not None and done.completion.successor is None
