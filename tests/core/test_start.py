"""Who may have a workflow id, and what the first events of a run say."""

from __future__ import annotations

import pytest
from temporalio.api.common.v1 import Header, Memo, Payload, Priority, RetryPolicy, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import WorkflowIdConflictPolicy as Conflict
from temporalio.api.enums.v1 import WorkflowIdReusePolicy as Reuse
from temporalio.api.errordetails.v1 import WorkflowExecutionAlreadyStartedFailure
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import SignalWithStartWorkflowExecutionRequest, StartWorkflowExecutionRequest

from cluster.config import Limits
from cluster.core.errors import CallerError, Code
from cluster.core.events import SECOND_NS, duration
from cluster.core.machines import start
from cluster.core.machines.start import Outcome, decide_id
from cluster.core.state import ParentLink
from tests.core.build import BEGIN_NS, Run, lines, payloads
from tests.e2e import commands

S = SECOND_NS


def ended(how: str) -> Run:
    run = Run()
    if how == "completed":
        run.task(commands.complete())
    elif how == "terminated":
        run.terminate()
    return run


FAIL, USE, KILL = (
    Conflict.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
    Conflict.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
    Conflict.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING,
)
ALLOW, FAILED_ONLY, REJECT, IF_RUNNING = (
    Reuse.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
    Reuse.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY,
    Reuse.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
    Reuse.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING,
)
IS_RUNNING = "Workflow execution is already running. WorkflowId: w, RunId: r."
FINISHED = "Workflow execution already finished. WorkflowId: w, RunId: r. Workflow Id reuse policy: reject duplicate workflow Id."
SUCCEEDED = (
    "Workflow execution already finished successfully. WorkflowId: w, RunId: r. "
    "Workflow Id reuse policy: allow duplicate workflow Id if last run failed."
)


@pytest.mark.parametrize(
    ("current", "reuse", "conflict", "outcome"),
    [
        ("open", ALLOW, FAIL, IS_RUNNING),
        ("open", ALLOW, USE, Outcome.ATTACH),
        ("open", ALLOW, KILL, Outcome.TERMINATE_AND_START),
        ("open", IF_RUNNING, FAIL, Outcome.TERMINATE_AND_START),
        ("completed", ALLOW, FAIL, Outcome.START),
        ("completed", FAILED_ONLY, FAIL, SUCCEEDED),
        ("completed", REJECT, FAIL, FINISHED),
        ("completed", IF_RUNNING, FAIL, Outcome.START),
        ("terminated", FAILED_ONLY, FAIL, Outcome.START),
        ("terminated", REJECT, USE, FINISHED),
    ],
)
def test_what_a_start_finds_decides(current: str, reuse: int, conflict: int, outcome: Outcome | str) -> None:
    state = ended(current).state
    if isinstance(outcome, Outcome):
        assert decide_id(state, "other", reuse, conflict, BEGIN_NS) == outcome
        return
    with pytest.raises(CallerError) as refused:
        decide_id(state, "other", reuse, conflict, BEGIN_NS)
    assert (refused.value.code, refused.value.message) == (Code.ALREADY_EXISTS, outcome)
    assert refused.value.details == (
        WorkflowExecutionAlreadyStartedFailure(start_request_id="start", run_id="r", first_execution_run_id="r"),
    )


@pytest.mark.parametrize("how", ["open", "completed", "terminated"])
def test_a_repeated_start_finds_what_it_started_whatever_the_policy(how: str) -> None:
    assert decide_id(ended(how).state, "start", REJECT, FAIL, BEGIN_NS) == Outcome.DEDUPLICATED


def test_an_unknown_id_is_free() -> None:
    assert decide_id(None, "any", REJECT, FAIL, BEGIN_NS) == Outcome.START


def test_a_start_that_asks_for_nothing_gets_the_defaults() -> None:
    assert Run().told() == lines("""
        1 WorkflowExecutionStarted workflow_type={name=W} task_queue={name=tq kind=NORMAL} workflow_task_timeout=10s"""
        """ original_execution_run_id=r first_execution_run_id=r attempt=1 first_workflow_task_backoff=0s workflow_id=w
        2 WorkflowTaskScheduled task_queue={name=tq kind=NORMAL} start_to_close_timeout=10s attempt=1""")


def test_a_start_is_told_with_all_that_was_asked_for() -> None:
    run = Run(
        input=payloads("in"),
        workflow_execution_timeout=duration(60 * S),
        workflow_run_timeout=duration(90 * S),
        workflow_task_timeout=duration(200 * S),
        identity="client",
        retry_policy=RetryPolicy(maximum_attempts=3),
        memo=Memo(fields={"m": Payload(data=b"1")}),
        header=Header(fields={"h": Payload(data=b"2")}),
        priority=Priority(priority_key=2),
        user_metadata=UserMetadata(summary=Payload(data=b"sum")),
        workflow_start_delay=duration(2 * S),
    )
    assert run.told() == (
        "1 WorkflowExecutionStarted workflow_type={name=W} task_queue={name=tq kind=NORMAL} input={payloads=[\"in\"]}"
        " workflow_execution_timeout=60s workflow_run_timeout=60s workflow_task_timeout=60s original_execution_run_id=r"
        " identity=client first_execution_run_id=r"
        " retry_policy={initial_interval=1s backoff_coefficient=2.0 maximum_interval=100s maximum_attempts=3} attempt=1"
        " workflow_execution_expiration_time=+60s first_workflow_task_backoff=2s memo={fields={m=1}} header={fields={h=2}}"
        " workflow_id=w priority={priority_key=2} user_metadata={summary=sum}"
    )
    assert run.state.first_task_at == BEGIN_NS + 2 * S


def test_a_child_is_told_who_its_parent_and_its_root_are() -> None:
    parent = ParentLink("ns", "ns-id", "p", "pr", 5, 0)
    run = Run(parent=parent, root=WorkflowExecution(workflow_id="top", run_id="tr"), workflow_run_timeout=duration(0))
    assert run.told().splitlines()[0] == (
        "1 WorkflowExecutionStarted workflow_type={name=W} parent_workflow_namespace=ns"
        " parent_workflow_execution={workflow_id=p run_id=pr} parent_initiated_event_id=5 task_queue={name=tq kind=NORMAL}"
        " workflow_run_timeout=0s workflow_task_timeout=10s original_execution_run_id=r first_execution_run_id=r attempt=1"
        " first_workflow_task_backoff=0s parent_workflow_namespace_id=ns-id workflow_id=w"
        " root_workflow_execution={workflow_id=top run_id=tr}"
    )
    assert run.state.parent == parent
    assert (run.state.root_workflow_id, run.state.root_run_id) == ("top", "tr")


def test_a_run_without_a_parent_is_its_own_root() -> None:
    assert (Run().state.root_workflow_id, Run().state.root_run_id) == ("w", "r")


def test_a_cron_run_waits_for_its_time() -> None:
    run = Run(cron_schedule="@every 7s")
    started = run.last("WorkflowExecutionStarted")
    assert (started.first_workflow_task_backoff.seconds, started.initiator) == (7, 3)  # CRON_SCHEDULE
    assert run.state.task is None and run.state.first_task_at == BEGIN_NS + 7 * S


def test_an_eager_start_gives_the_first_task_with_the_reply() -> None:
    run = Run(eager_identity="eager")
    assert run.told(2) == lines("""
        2 WorkflowTaskScheduled task_queue={name=tq kind=NORMAL} start_to_close_timeout=10s attempt=1
        3 WorkflowTaskStarted scheduled_event_id=2 identity=eager request_id=start""")
    assert run.last("WorkflowExecutionStarted").eager_execution_accepted
    waiting = Run(eager_identity="eager", workflow_start_delay=duration(S))
    assert not waiting.last("WorkflowExecutionStarted").eager_execution_accepted
    assert waiting.state.task is None


def test_an_old_run_makes_place_and_says_for_whom() -> None:
    run = Run()
    run.do(lambda t: start.terminate_for_start(t, "new", IF_RUNNING))
    assert run.told(3) == (
        '3 WorkflowExecutionTerminated reason=TerminateIfRunning WorkflowIdReusePolicy'
        ' details={payloads=["terminated by new runID: new"]} identity=history-service'
    )


@pytest.mark.parametrize(
    ("asked_s", "run_s", "timeout_s"), [(0, 0, 10), (5, 0, 5), (200, 0, 120), (0, 3, 3), (60, 100, 60), (120, 119, 119)]
)
def test_a_task_timeout_is_capped_by_the_server_and_by_the_run(asked_s: int, run_s: int, timeout_s: int) -> None:
    assert start.task_timeout_ns(asked_s * S, run_s * S, Limits()) == timeout_s * S


def test_signal_with_start_starts_what_its_fields_say() -> None:
    request = SignalWithStartWorkflowExecutionRequest(
        namespace="ns",
        workflow_id="w",
        workflow_type=WorkflowType(name="W"),
        task_queue=TaskQueue(name="tq"),
        signal_name="go",
        header=Header(fields={"h": Payload(data=b"1")}),
        workflow_start_delay=duration(S),
        request_id="r",
    )
    made = start.signal_with_start_as_start(request)
    assert made == StartWorkflowExecutionRequest(
        namespace="ns",
        workflow_id="w",
        workflow_type=WorkflowType(name="W"),
        task_queue=TaskQueue(name="tq"),
        header=Header(fields={"h": Payload(data=b"1")}),
        workflow_start_delay=duration(S),
        request_id="r",
    )
