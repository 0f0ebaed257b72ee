"""Signals and cancel requests to other workflows: an initiated event, an effect, an answer."""

from __future__ import annotations

import pytest
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Header, Payload
from temporalio.api.enums.v1 import CancelExternalWorkflowExecutionFailedCause as CancelCause
from temporalio.api.enums.v1 import SignalExternalWorkflowExecutionFailedCause as SignalCause
from temporalio.api.history.v1 import HistoryEvent

from cluster.config import Limits
from cluster.core.effects import CancelExternal, SignalExternal, effects
from cluster.core.errors import CallerError, Code
from cluster.core.machines import external
from tests.core.build import Run, payloads
from tests.e2e import commands
from tests.e2e.commands import cancel_external, signal_external

GONE = SignalCause.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
LOST = CancelCause.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
RUN_ID = "0ddba11e-0000-4000-8000-000000000000"


def asked(*wishes: Command) -> tuple[Run, HistoryEvent]:
    run = Run()
    run.task(*wishes)
    return run, run.events()[4]


def test_a_signal_is_sent_as_its_command_says_and_answered_once() -> None:
    run, initiated = asked(
        signal_external("o", RUN_ID, input=payloads("in"), control="c", header=Header(fields={"h": Payload(data=b"1")}))
    )
    assert run.told(5) == (
        "5 SignalExternalWorkflowExecutionInitiated workflow_task_completed_event_id=4"
        f" workflow_execution={{workflow_id=o run_id={RUN_ID}}} signal_name=hello input={{payloads=[\"in\"]}} control=c"
        " header={fields={h=1}} namespace_id=ns-id"
    )
    assert effects(run.state) == [SignalExternal(5)] and run.state.signals_out[5].request_id
    assert run.do(lambda t: external.record_signal_answer(t, initiated, None))
    assert not run.do(lambda t: external.record_signal_answer(t, initiated, None))
    assert run.told(6).splitlines()[0] == (
        "6 ExternalWorkflowExecutionSignaled initiated_event_id=5 namespace=ns"
        f" workflow_execution={{workflow_id=o run_id={RUN_ID}}} control=c namespace_id=ns-id"
    )
    assert run.history(7) == "7 WorkflowTaskScheduled"


def test_a_signal_to_nobody_fails_and_echoes_its_control() -> None:
    run, initiated = asked(signal_external("o", control="c", child_workflow_only=True, namespace="elsewhere"))
    assert "namespace=elsewhere" in run.told(5) and "child_workflow_only=True" in run.told(5)
    run.do(lambda t: external.record_signal_answer(t, initiated, GONE))
    assert run.told(6).splitlines()[0] == (
        "6 SignalExternalWorkflowExecutionFailed cause=EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND namespace=elsewhere"
        " workflow_execution={workflow_id=o} initiated_event_id=5 control=c namespace_id=elsewhere-id"
    )
    assert run.state.signals_out == {}


def test_a_cancel_is_sent_as_its_command_says_and_answered_once() -> None:
    run, initiated = asked(cancel_external("o", RUN_ID, control="c", reason="why"))
    assert run.told(5) == (
        "5 RequestCancelExternalWorkflowExecutionInitiated workflow_task_completed_event_id=4"
        f" workflow_execution={{workflow_id=o run_id={RUN_ID}}} control=c reason=why namespace_id=ns-id"
    )
    assert effects(run.state) == [CancelExternal(5)] and run.state.cancels_out[5].request_id
    assert run.do(lambda t: external.record_cancel_answer(t, initiated, None))
    assert not run.do(lambda t: external.record_cancel_answer(t, initiated, None))
    assert run.told(6).splitlines()[0] == (
        "6 ExternalWorkflowExecutionCancelRequested initiated_event_id=5 namespace=ns"
        f" workflow_execution={{workflow_id=o run_id={RUN_ID}}} namespace_id=ns-id"
    )


def test_a_cancel_of_nobody_fails() -> None:
    run, initiated = asked(cancel_external("o", control="c"))
    run.do(lambda t: external.record_cancel_answer(t, initiated, LOST))
    assert run.told(6).splitlines()[0] == (
        "6 RequestCancelExternalWorkflowExecutionFailed cause=EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND namespace=ns"
        " workflow_execution={workflow_id=o} initiated_event_id=5 namespace_id=ns-id"
    )


def test_an_answer_that_comes_while_a_task_runs_is_buffered() -> None:
    run, initiated = asked(signal_external("o"))
    run.open_task()
    run.do(lambda t: external.record_signal_answer(t, initiated, None))
    run.answer()
    assert run.history(8) == "8 WorkflowTaskCompleted\n9 ExternalWorkflowExecutionSignaled\n10 WorkflowTaskScheduled"


def test_a_closed_run_sends_nothing_and_hears_no_answer() -> None:
    run, initiated = asked(signal_external("o"), cancel_external("o"), commands.complete())
    assert effects(run.state) == []
    assert not run.do(lambda t: external.record_signal_answer(t, initiated, None))
    assert not run.do(lambda t: external.record_cancel_answer(t, run.events()[5], None))


LONG = "x" * 1001
SIGNAL, CANCEL = "SignalExternalWorkflowExecutionCommand", "RequestCancelExternalWorkflowExecutionCommand"


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        (signal_external(""), f"WorkflowId is not set on {SIGNAL}. Namespace= RunId= SignalName=hello"),
        (signal_external("w", signal_name=""), f"SignalName is not set on {SIGNAL}. WorkflowId=w Namespace= RunId="),
        (signal_external("w", "r"), f"Invalid RunId set on {SIGNAL}. WorkflowId=w Namespace= RunId=r SignalName=hello"),
        (
            signal_external(LONG),
            f"WorkflowId on {SIGNAL} exceeds length limit. WorkflowId={LONG} Length=1001 Limit=1000"
            " Namespace= RunId= SignalName=hello",
        ),
        (cancel_external(""), f"WorkflowId is not set on {CANCEL}. Namespace= RunId="),
        (cancel_external("w", "r"), f"Invalid RunId set on {CANCEL}. WorkflowId=w RunId=r Namespace="),
        (
            cancel_external(LONG),
            f"WorkflowId on {CANCEL} exceeds length limit. WorkflowId={LONG} Length=1001 Limit=1000 RunId= Namespace=",
        ),
    ],
)
def test_a_wish_that_cannot_be_is_refused_in_the_public_servers_words(wish: Command, text: str) -> None:
    with pytest.raises(CallerError) as error:
        Run().task(wish)
    assert error.value.message.endswith(f"Attributes: {text}")


def test_a_signal_without_an_execution_is_refused() -> None:
    wish = signal_external("w")
    wish.signal_external_workflow_execution_command_attributes.ClearField("execution")
    with pytest.raises(CallerError, match=f"Execution is not set on {SIGNAL}"):
        Run().task(wish)


def test_a_child_is_not_cancelled_in_the_answer_that_wishes_for_it() -> None:
    with pytest.raises(CallerError, match="Start and RequestCancel for child workflow is not allowed in same workflow task"):
        Run().task(commands.start_child("c"), cancel_external("c"))
    Run().task(commands.start_child("c"), cancel_external("other"))


@pytest.mark.parametrize("wish", [signal_external("w", namespace="nowhere"), cancel_external("w", namespace="nowhere")])
def test_a_namespace_that_nobody_knows_changes_nothing(wish: Command) -> None:
    run = Run()
    with pytest.raises(CallerError, match="Namespace nowhere is not found") as error:
        run.task(wish)
    assert error.value.code == Code.NOT_FOUND and run.state.has_started_task


@pytest.mark.parametrize(("count", "is_taken"), [(1, True), (2, True), (3, False)])
@pytest.mark.parametrize("kind", ["signals", "cancels"])
def test_only_so_many_are_under_way(kind: str, count: int, is_taken: bool) -> None:
    run = Run(limits=Limits(pending_signals_max=2, pending_cancels_max=2))
    make = signal_external if kind == "signals" else cancel_external
    wishes = [make(str(number)) for number in range(count)]
    if is_taken:
        run.task(*wishes)
        return
    with pytest.raises(CallerError, match="has reached the per-workflow limit of 2"):
        run.task(*wishes)
