"""The smaller promises, and resets: right histories pass, each planted violation is found."""

from __future__ import annotations

from temporalio.api.enums.v1 import EventType as E
from temporalio.api.enums.v1 import WorkflowTaskFailedCause

from chaos.checkers.histories import RunHistory, Violation
from chaos.checkers.ledger import ActKind, Ledger
from chaos.checkers.linear import starts_are_linearizable
from chaos.checkers.open_runs import one_open_run_per_id
from chaos.checkers.promises import (
    children_agree_with_parents,
    ended_as_told,
    external_signals_once,
    queries_see_acked_signals,
    request_ids_once,
    resets_keep_signals,
    results_come_from_their_attempt,
)
from chaos.checkers.recorded_once import acked_recorded_once
from tests.chaos.planted import SECOND_NS, History, act, payloads, start


def signalled(history: History, token: str, request_id: str, sender: str = "") -> History:
    attributes = history.signal(token).events[-1].workflow_execution_signaled_event_attributes
    attributes.request_id = request_id
    attributes.external_workflow_execution.run_id = sender
    return history


def reset_run(kept: tuple[str, ...], reapplied: tuple[str, ...]) -> tuple[RunHistory, RunHistory]:
    """(base, the run a reset made of it at second 5): the base has signals at seconds 1 and 3, the reset point lies between."""
    base = History("w", "base", token="tok-start-1").task()
    base.at = 1.0
    signalled(base, "tok-signal-1", "q1").task()
    base.at = 3.0
    signalled(base, "tok-signal-2", "q2")
    base.at = 5.0
    base.close(E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED, after=0.0)
    made = History("w", "made", token="tok-start-1").task()
    made.at = 1.0
    for token in kept:
        signalled(made, token, "q" + token[-1])
    made.at = 5.0
    failed = made.add(E.EVENT_TYPE_WORKFLOW_TASK_FAILED).workflow_task_failed_event_attributes
    failed.cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
    failed.base_run_id, failed.new_run_id = "base", "made"
    for token in reapplied:
        signalled(made, token, "q" + token[-1])
    made.task().close()
    return base.done(), made.done()


def test_what_a_reset_copies_or_reapplies_is_not_done_twice() -> None:
    histories = reset_run(("tok-signal-1",), ("tok-signal-2",))
    acts = [start("tok-start-1", "base"), act(ActKind.SIGNAL, "tok-signal-1"), act(ActKind.SIGNAL, "tok-signal-2")]
    assert acked_recorded_once(Ledger(acts), histories) == []
    assert one_open_run_per_id(histories) == []
    assert resets_keep_signals(histories) == []
    assert starts_are_linearizable(Ledger(acts), histories) == []


def test_a_signal_that_a_reset_forgot_is_found() -> None:
    assert [found.run_id for found in resets_keep_signals(reset_run(("tok-signal-1",), ()))] == ["made"]


def test_a_signal_that_comes_again_after_the_reset_is_found() -> None:
    base, made = reset_run(("tok-signal-1",), ("tok-signal-2",))
    again = History("w", "made", at=6.0).signal("tok-signal-2").events[-1]
    again.event_id = len(made.events)
    doubled = RunHistory("w", "made", (*made.events[:-1], again, made.events[-1]))
    acts = [start("tok-start-1", "base"), act(ActKind.SIGNAL, "tok-signal-1"), act(ActKind.SIGNAL, "tok-signal-2")]
    assert [found.check for found in acked_recorded_once(Ledger(acts), [base, doubled])] == ["acked_recorded_once"]


def test_a_request_id_that_is_recorded_twice_is_found() -> None:
    assert request_ids_once([signalled(signalled(History("w", "r"), "a", "q1"), "b", "q2").done()]) == []
    assert len(request_ids_once([signalled(signalled(History("w", "r"), "a", "q1"), "b", "q1").done()])) == 1


def test_an_external_signal_that_comes_twice_is_found() -> None:
    assert external_signals_once([signalled(signalled(History("w", "r"), "x#0", "q1", "s"), "x#1", "q2", "s").done()]) == []
    assert len(external_signals_once([signalled(signalled(History("w", "r"), "x#0", "q1", "s"), "x#0", "q2", "s").done()])) == 1


def attempted(started: int, answered: int) -> list[Violation]:
    history = History("w", "r").task().activity("result")
    history.events[-2].activity_task_started_event_attributes.attempt = started
    history.events[-1].activity_task_completed_event_attributes.result.CopyFrom(payloads({"attempt": answered}))
    return results_come_from_their_attempt([history.done()])


def test_a_result_of_another_attempt_is_found() -> None:
    assert attempted(2, 2) == []
    assert len(attempted(2, 1)) == 1


def test_a_terminate_that_left_the_run_open_is_found() -> None:
    still_open, closed = History("w", "r").task(), History("w", "r").task().close()
    assert ended_as_told([("terminate", "w", "r")], [closed.done()]) == []
    assert len(ended_as_told([("terminate", "w", "r")], [still_open.done()])) == 1
    assert len(ended_as_told([("cancel", "w", "r")], [still_open.done()])) == 1
    still_open.add(E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
    assert ended_as_told([("cancel", "w", "r")], [still_open.done()]) == []


def test_a_query_that_missed_an_acked_signal_is_found() -> None:
    ledger = Ledger([act(ActKind.SIGNAL, "tok-signal-1")])  # acked at 1 ns
    histories = [History("w", "r").signal("tok-signal-1").done()]
    assert queries_see_acked_signals([("r", SECOND_NS, 1), ("r", 0, 0)], ledger, histories) == []
    assert len(queries_see_acked_signals([("r", SECOND_NS, 0)], ledger, histories)) == 1


def test_a_child_whose_parent_believes_that_it_never_was_is_found() -> None:
    parent = History("p", "parent").task()
    child = History("c", "child")
    started = child.events[0].workflow_execution_started_event_attributes
    started.parent_workflow_execution.run_id, started.parent_initiated_event_id = "parent", 5
    assert children_agree_with_parents([parent.done(), child.done()]) == []
    failed = parent.add(E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED)
    failed.start_child_workflow_execution_failed_event_attributes.initiated_event_id = 5
    assert [found.run_id for found in children_agree_with_parents([parent.done(), child.done()])] == ["child"]
