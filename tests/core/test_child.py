"""Child workflows: wished for, started by an effect, heard of when they end, and let go when their parent ends."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Header, Memo, Payload, Priority, RetryPolicy, WorkflowExecution
from temporalio.api.enums.v1 import ParentClosePolicy, StartChildWorkflowExecutionFailedCause, WorkflowIdReusePolicy
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.taskqueue.v1 import TaskQueue

from cluster.config import Limits
from cluster.core.effects import ApplyClosePolicy, StartChild, effects
from cluster.core.errors import CallerError, Code
from cluster.core.machines import child
from tests.core.build import Run, lines, payloads
from tests.e2e import commands
from tests.e2e.commands import duration, start_child

ABANDON = ParentClosePolicy.PARENT_CLOSE_POLICY_ABANDON
EXISTS = StartChildWorkflowExecutionFailedCause.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS


def parent(**fields: Any) -> Run:
    run = Run()
    run.task(start_child("c", **fields))
    return run


def event(run: Run, event_id: int = 5) -> HistoryEvent:
    return run.events()[event_id - 1]


def started(run: Run, run_id: str = "cr") -> bool:
    return run.do(lambda t: child.record_started(t, event(run), run_id))


def ended(run: Run, how: Command | str, run_id: str = "cr") -> bool:
    """The child closes as it would by itself, and its parent hears of it."""
    other = Run(run_timeout_s=5)
    if how == "terminate":
        other.terminate()
    elif how == "time out":
        other.wait(5)
        other.wake()
    else:
        assert isinstance(how, Command)
        other.task(how)
    execution = WorkflowExecution(workflow_id="c", run_id=run_id)
    return run.do(lambda t: child.record_ended(t, event(run), execution, other.events()[-1]))


def test_a_child_is_wished_for_with_the_servers_defaults() -> None:
    run = parent()
    assert run.told(5) == (
        "5 StartChildWorkflowExecutionInitiated namespace=ns workflow_id=c workflow_type={name=RawChild}"
        " task_queue={name=tq kind=NORMAL} workflow_run_timeout=0s workflow_task_timeout=10s parent_close_policy=TERMINATE"
        " workflow_task_completed_event_id=4 workflow_id_reuse_policy=ALLOW_DUPLICATE namespace_id=ns-id"
    )
    assert effects(run.state) == [StartChild(5)]
    assert run.state.children[5].request_id, "the start is made idempotent by a request id"


def test_a_child_is_wished_for_as_its_command_says() -> None:
    run = Run(workflow_task_timeout=duration(7))
    wish = start_child(
        "c",
        namespace="elsewhere",
        task_queue=TaskQueue(name="there"),
        input=payloads("in"),
        workflow_execution_timeout=duration(50),
        workflow_run_timeout=duration(60),
        workflow_task_timeout=duration(200),
        parent_close_policy=ABANDON,
        workflow_id_reuse_policy=WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
        retry_policy=RetryPolicy(maximum_attempts=2),
        cron_schedule="@daily",
        header=Header(fields={"h": Payload(data=b"1")}),
        memo=Memo(fields={"m": Payload(data=b"2")}),
        control="control",
        priority=Priority(priority_key=1),
        inherit_build_id=True,
    )
    wish.user_metadata.CopyFrom(UserMetadata(summary=Payload(data=b"sum")))
    run.task(wish)
    assert run.told(5) == (
        "5 StartChildWorkflowExecutionInitiated namespace=elsewhere workflow_id=c workflow_type={name=RawChild}"
        ' task_queue={name=there kind=NORMAL} input={payloads=["in"]} workflow_execution_timeout=50s workflow_run_timeout=50s'
        " workflow_task_timeout=50s parent_close_policy=ABANDON control=control workflow_task_completed_event_id=4"
        " workflow_id_reuse_policy=REJECT_DUPLICATE"
        " retry_policy={initial_interval=1s backoff_coefficient=2.0 maximum_interval=100s maximum_attempts=2}"
        " cron_schedule=@daily header={fields={h=1}} memo={fields={m=2}} namespace_id=elsewhere-id inherit_build_id=True"
        " priority={priority_key=1} user_metadata={summary=sum}"
    )


def test_a_childs_task_timeout_is_the_servers_default_and_not_its_parents() -> None:
    run = Run(workflow_task_timeout=duration(7))
    run.task(start_child("c"))
    assert run.last("StartChildWorkflowExecutionInitiated").workflow_task_timeout.seconds == 10


def test_a_started_child_is_told_once_and_makes_a_task() -> None:
    run = parent(header=Header(fields={"h": Payload(data=b"1")}))
    assert started(run)
    assert not started(run)
    assert run.told(6) == lines("""
        6 ChildWorkflowExecutionStarted namespace=ns initiated_event_id=5 workflow_execution={workflow_id=c run_id=cr}"""
        """ workflow_type={name=RawChild} header={fields={h=1}} namespace_id=ns-id
        7 WorkflowTaskScheduled task_queue={name=tq kind=NORMAL} start_to_close_timeout=10s attempt=1""")
    assert effects(run.state)[1:] == []


def test_a_child_that_cannot_be_started_is_told_and_forgotten() -> None:
    run = parent(control="control")
    assert run.do(lambda t: child.record_start_failed(t, event(run), EXISTS))
    assert not run.do(lambda t: child.record_start_failed(t, event(run), EXISTS))
    assert run.told(6).splitlines()[0] == (
        "6 StartChildWorkflowExecutionFailed namespace=ns workflow_id=c workflow_type={name=RawChild}"
        " cause=WORKFLOW_ALREADY_EXISTS control=control initiated_event_id=5 namespace_id=ns-id"
    )
    assert run.state.children == {}


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (commands.complete(payloads("r")), 'Completed result={payloads=["r"]} namespace=ns'),
        (commands.complete(), "Completed namespace=ns"),
        (commands.fail(Failure(message="oops")), "Failed failure={message=oops} namespace=ns"),
        (commands.cancel_workflow(payloads("why")), 'Canceled details={payloads=["why"]} namespace=ns'),
        ("terminate", "Terminated namespace=ns"),
        ("time out", "TimedOut namespace=ns"),
    ],
)
def test_a_childs_end_is_told_as_its_close_event_says(how: Command | str, told: str) -> None:
    run = parent()
    started(run)
    assert ended(run, how, "last-run")
    ids = "workflow_execution={workflow_id=c run_id=last-run} workflow_type={name=RawChild}"
    ids += " initiated_event_id=5 started_event_id=6"
    line = run.told(8)
    assert line.startswith(f"8 ChildWorkflowExecution{told} {ids}") and line.endswith("namespace_id=ns-id")
    assert run.state.children == {}
    assert not ended(run, how)


def test_a_child_that_ends_before_its_start_is_answered_is_told_as_started_first() -> None:
    run = parent()
    assert ended(run, commands.complete())
    assert run.history(6) == lines("""
        6 ChildWorkflowExecutionStarted
        7 WorkflowTaskScheduled
        8 ChildWorkflowExecutionCompleted""")
    assert run.last("ChildWorkflowExecutionCompleted").started_event_id == 6


def test_a_child_that_starts_and_ends_while_a_task_runs_is_told_with_the_right_ids() -> None:
    run = parent()
    run.open_task()
    started(run)
    ended(run, commands.complete())
    run.signal()
    run.answer()
    assert run.history(8) == lines("""
        8 WorkflowTaskCompleted
        9 ChildWorkflowExecutionStarted
        10 WorkflowExecutionSignaled
        11 ChildWorkflowExecutionCompleted
        12 WorkflowTaskScheduled""")
    assert run.last("ChildWorkflowExecutionCompleted").started_event_id == 9


def test_a_start_that_is_buffered_gets_its_id_at_the_flush() -> None:
    run = parent()
    run.open_task()
    started(run)
    assert run.state.children[5].started_event_id == 0
    run.answer()
    assert run.state.children[5].started_event_id == 9


def test_a_closed_parent_owes_its_policy_to_each_child_once() -> None:
    run = Run()
    run.task(start_child("c"), start_child("d"))
    started(run)
    run.terminate()
    assert effects(run.state) == [ApplyClosePolicy(5), ApplyClosePolicy(6)]
    assert not started(run) and not ended(run, commands.complete())
    for initiated in (5, 6):
        for _ in range(2):
            run.do(functools.partial(child.close_policy_done, initiated_event_id=initiated))
    assert effects(run.state) == []


@pytest.mark.parametrize(
    ("policy", "end", "is_wanted"),
    [
        (ABANDON, "in the same answer", False),
        (ABANDON, "by a later answer", True),
        (ABANDON, "by terminate", True),
        (ParentClosePolicy.PARENT_CLOSE_POLICY_TERMINATE, "by terminate", False),
    ],
)
def test_an_abandoned_child_is_started_although_its_parent_closed(policy: int, end: str, is_wanted: bool) -> None:
    run = Run()
    wish = start_child("c", parent_close_policy=policy)
    if end == "in the same answer":
        run.task(wish, commands.complete())
    else:
        run.task(wish)
        if end == "by terminate":
            run.terminate()
        else:
            run.task(commands.complete())
    assert child.is_wanted_after_close(run.state, run.state.children[5]) == is_wanted


def test_a_namespace_that_nobody_knows_changes_nothing() -> None:
    run = Run()
    with pytest.raises(CallerError) as error:
        run.task(start_child("c", namespace="nowhere"))
    assert (error.value.code, error.value.message) == (Code.NOT_FOUND, "Namespace nowhere is not found.")
    assert error.value.details == (NamespaceNotFoundFailure(namespace="nowhere"),)
    assert run.state.has_started_task


LONG = "x" * 1001
WHERE = "WorkflowId=c WorkflowType=RawChild Namespace=ns"
WHAT = "StartChildWorkflowExecutionCommand"


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        (start_child(""), f"Required field WorkflowId is not set on {WHAT}. WorkflowType=RawChild Namespace=ns"),
        (start_child("c", workflow_type={}), f"Required field WorkflowType is not set on {WHAT}. WorkflowId=c Namespace=ns"),
        (
            start_child(LONG),
            f"WorkflowId on {WHAT} exceeds length limit. WorkflowId={LONG} Length=1001 Limit=1000"
            " WorkflowType=RawChild Namespace=ns",
        ),
        (
            start_child("c", workflow_type={"name": LONG}),
            f"WorkflowType on {WHAT} exceeds length limit. WorkflowId=c WorkflowType={LONG} Length=1001 Limit=1000 Namespace=ns",
        ),
        (
            start_child("c", workflow_execution_timeout=duration(-1)),
            f"Invalid WorkflowExecutionTimeout on {WHAT}: negative duration. {WHERE}",
        ),
        (
            start_child("c", workflow_run_timeout=duration(-1)),
            f"Invalid WorkflowRunTimeout on {WHAT}: negative duration. {WHERE}",
        ),
        (
            start_child("c", workflow_task_timeout=duration(-1)),
            f"Invalid WorkflowTaskTimeout on {WHAT}: negative duration. {WHERE}",
        ),
        (
            start_child("c", retry_policy={"backoff_coefficient": 0.5}),
            f"invalid WorkflowRetryPolicy on {WHAT}: BackoffCoefficient cannot be less than 1 on retry policy.. {WHERE}",
        ),
        (start_child("c", cron_schedule="no"), f"invalid CronSchedule on {WHAT}: invalid CronSchedule.. {WHERE}"),
        (
            start_child("c", task_queue={"name": "/_sys/x"}),
            f"invalid TaskQueue on {WHAT}: task queue name cannot start with reserved prefix /_sys/. {WHERE}"
            ' TaskQueue=name:"/_sys/x" kind:TASK_QUEUE_KIND_NORMAL',
        ),
        (
            start_child("c", task_queue={"name": LONG}),
            f"invalid TaskQueue on {WHAT}: taskQueue length exceeds limit. {WHERE}"
            f' TaskQueue=name:"{LONG}" kind:TASK_QUEUE_KIND_NORMAL',
        ),
    ],
)
def test_a_child_that_cannot_be_is_refused_in_the_public_servers_words(wish: Command, text: str) -> None:
    with pytest.raises(CallerError) as error:
        Run().task(wish)
    assert error.value.message == f"BadStartChildExecutionAttributes: {text}"


def test_a_search_attribute_that_nobody_knows_has_a_cause_of_its_own() -> None:
    with pytest.raises(CallerError) as error:
        Run().task(start_child("c", search_attributes={"indexed_fields": {"Nobody": Payload()}}))
    assert error.value.message.startswith("BadSearchAttributes: Namespace ns has no mapping defined")


@pytest.mark.parametrize(("children", "is_taken"), [(1, True), (2, True), (3, False)])
def test_a_run_has_only_so_many_children(children: int, is_taken: bool) -> None:
    run = Run(limits=Limits(pending_children_max=2))
    wishes = [start_child(str(number)) for number in range(children)]
    if is_taken:
        run.task(*wishes)
        return
    with pytest.raises(CallerError, match="the number of pending child workflow executions, 2, has reached the per-workflow"):
        run.task(*wishes)
