"""Starts and terminates of one id in one order: exact on small cases, each planted violation is found."""

from __future__ import annotations

from temporalio.api.enums.v1 import EventType as E

from chaos.checkers.histories import RunHistory
from chaos.checkers.ledger import Act, ActKind, Conflict, Ledger, Outcome
from chaos.checkers.linear import starts_are_linearizable
from chaos.checkers.recorded_once import acked_recorded_once
from tests.chaos.planted import SECOND_NS, History, payloads, start


def run(number: int, at: float, lasts: float | None = 1.0, by: str = "") -> RunHistory:
    """by: the token of the terminate that closed it, "" = it completed by itself."""
    history = History("w", f"r{number}", at, f"tok-start-a-{number}")
    if lasts is None:
        return history.done()
    if not by:
        return history.close(E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, lasts).done()
    closed = history.add(E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED, lasts)
    closed.workflow_execution_terminated_event_attributes.details.CopyFrom(payloads(by))
    return history.done()


def terminate(
    token: str, begun: float, ended: float, outcome: Outcome = Outcome.ACKED, run_id: str = "", attempts: int = 1
) -> Act:
    times = (round(begun * SECOND_NS), round(ended * SECOND_NS))
    return Act(ActKind.TERMINATE, token, "w", "a", *times, outcome=outcome, run_id=run_id, attempts=attempts)


def explained(acts: list[Act], *runs: RunHistory) -> bool:
    return starts_are_linearizable(Ledger(acts), runs) == []


T1, T2 = "tok-terminate-a-1", "tok-terminate-a-2"


def test_a_terminate_between_two_starts_is_explained() -> None:
    acts = [start("tok-start-a-1", "r1", 0.0, 0.1), terminate(T1, 0.2, 0.3), start("tok-start-a-2", "r2", 0.4, 0.5)]
    assert explained(acts, run(1, 0.05, 0.2, T1), run(2, 0.45, None))


def test_a_start_that_won_before_the_terminate_began_is_found() -> None:
    """r1 was closed by the terminate alone, so nobody may start r2 before it."""
    acts = [start("tok-start-a-1", "r1", 0.0, 0.1), start("tok-start-a-2", "r2", 0.2, 0.3), terminate(T1, 0.4, 0.5)]
    assert not explained(acts, run(1, 0.05, 0.4, T1), run(2, 0.25, None))


def test_an_attach_to_a_run_after_its_terminate_was_acknowledged_is_found() -> None:
    late = start("tok-start-a-3", "r1", 0.4, 0.5, Outcome.ACKED, False, conflict=Conflict.USE_EXISTING)
    acts = [start("tok-start-a-1", "r1", 0.0, 0.1), terminate(T1, 0.2, 0.3), late]
    assert not explained(acts, run(1, 0.05, 0.2, T1))
    late.begun_ns = acts[1].begun_ns
    assert explained(acts, run(1, 0.05, 0.2, T1))


def test_a_terminate_that_found_nothing_while_a_run_was_open_is_found() -> None:
    """As a stale owner would answer from its memory."""
    acts = [start("tok-start-a-1", "r1", 0.0, 0.1), terminate(T1, 0.2, 0.3, Outcome.REFUSED)]
    assert not explained(acts, run(1, 0.05, None))
    assert explained(acts, run(1, 0.05, 0.1))


def test_a_terminate_of_one_run_finds_nothing_when_another_is_open() -> None:
    acts = [
        start("tok-start-a-1", "r1", 0.0, 0.1),
        start("tok-start-a-2", "r2", 0.3, 0.4),
        terminate(T1, 0.5, 0.6, Outcome.REFUSED, run_id="r1"),
        terminate(T2, 0.7, 0.8, run_id="r2"),
    ]
    assert explained(acts, run(1, 0.05, 0.1), run(2, 0.35, 0.4, T2))


def test_a_repeated_terminate_may_close_the_next_run_as_well() -> None:
    acts = [start("tok-start-a-1", "r1", 0.0, 0.1), start("tok-start-a-2", "r2", 0.3, 0.4), terminate(T1, 0.15, 0.6, attempts=2)]
    runs = (run(1, 0.05, 0.15, T1), run(2, 0.35, 0.2, T1))
    assert explained(acts, *runs)
    assert acked_recorded_once(Ledger(acts), runs) == []
    acts[2].attempts = 1
    assert acked_recorded_once(Ledger(acts), runs) != []


def test_an_unanswered_terminate_took_effect_if_a_history_says_so() -> None:
    unknown = terminate(T1, 0.15, 0.2, Outcome.UNKNOWN)
    acts = [start("tok-start-a-1", "r1", 0.0, 0.1), unknown, start("tok-start-a-2", "r2", 0.5, 0.6)]
    assert explained(acts, run(1, 0.05, 0.3, T1), run(2, 0.55, None))
    assert not explained(acts[:1] + acts[2:], run(1, 0.05, None), run(2, 0.55, None))


def test_an_acknowledged_terminate_without_an_event_is_found() -> None:
    acts = [start("tok-start-a-1", "r1", 0.0, 0.1), terminate(T1, 0.2, 0.3)]
    found = acked_recorded_once(Ledger(acts), [run(1, 0.05, 0.1)])
    assert [violation.text for violation in found] == [f"terminate {T1}: acked but in no history"]
