"""acked_recorded_once and results: right runs pass, each planted violation is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.checkers.histories import RunHistory, Violation
from chaos.checkers.ledger import Act, ActKind, Ledger, Outcome
from chaos.checkers.recorded_once import acked_recorded_once
from chaos.checkers.results import results_equal_history
from tests.chaos.planted import History, act, start

SIGNAL, UPDATE, COMPLETION = ActKind.SIGNAL, ActKind.UPDATE, ActKind.COMPLETION


def whole_run(run_id: str = "r1") -> History:
    history = History("w", run_id, token="tok-start-a-1").task().signal("tok-signal-a-2").update("tok-update-a-3", "total 3")
    return history.activity("tok-completion-a-4").task().close()


def whole_ledger() -> list[Act]:
    return [
        start("tok-start-a-1", "r1"),
        act(SIGNAL, "tok-signal-a-2"),
        act(UPDATE, "tok-update-a-3", result='"total 3"'),
        act(COMPLETION, "tok-completion-a-4", run_id="r1"),
    ]


def check(acts: list[Act], *histories: RunHistory) -> list[Violation]:
    return acked_recorded_once(Ledger(acts), histories)


def test_a_run_that_kept_its_promises_passes() -> None:
    assert check(whole_ledger(), whole_run().done()) == []


@pytest.mark.parametrize("lost", ["signaled", "update_accepted", "activity_task_completed"])
def test_an_ack_that_is_in_no_history_is_found(lost: str) -> None:
    whole = whole_run().done()
    events = tuple(event for event in whole.events if lost not in (event.WhichOneof("attributes") or ""))
    assert len(events) == len(whole.events) - 1
    assert any("in no history" in found.text for found in check(whole_ledger(), RunHistory("w", "r1", events)))


def test_an_acked_start_without_a_run_is_found() -> None:
    found = check([start("tok-start-a-9", "r9"), *whole_ledger()], whole_run().done())
    assert [violation.run_id for violation in found] == ["r9"]


def test_attaching_to_a_run_that_is_not_there_is_found() -> None:
    assert check([*whole_ledger(), start("tok-start-a-9", "r1", started=False)], whole_run().done()) == []
    assert check([*whole_ledger(), start("tok-start-a-9", "r7", started=False)], whole_run().done()) != []


def test_a_start_recorded_under_another_run_id_is_found() -> None:
    found = check(whole_ledger()[:1], History("w", "r2", token="tok-start-a-1").done())
    assert "acked for its run but recorded in r2" in found[0].text


@pytest.mark.parametrize(
    "history",
    [
        whole_run().signal("tok-signal-a-2"),
        whole_run().update("tok-update-a-3", "total 3"),
        whole_run().complete_activity(9, 10, "tok-completion-a-4"),
    ],
)
def test_twice_in_one_history_is_found_however_often_it_was_sent(history: History) -> None:
    acts = whole_ledger()
    for one in acts:
        one.attempts = 5
    found = check(acts, history.done())
    assert len(found) == 1 and ("twice in one history" in found[0].text or "recorded 2 times" in found[0].text)


def two_runs(second_token: str = "tok-start-a-5") -> list[RunHistory]:
    first = whole_run().done()
    return [first, History("w", "r2", at=5, token=second_token).signal("tok-signal-a-2").task().close().done()]


def test_a_repeated_signal_to_the_current_run_may_reach_two_runs_but_a_pinned_one_may_not() -> None:
    acts = [*whole_ledger(), start("tok-start-a-5", "r2")]
    acts[1].attempts = 2
    assert check(acts, *two_runs()) == []
    acts[1].run_id = "r1"
    assert "recorded 2 times after 2 attempts" in check(acts, *two_runs())[0].text
    acts[1].run_id, acts[1].attempts = "", 1
    assert "recorded 2 times after 1 attempts" in check(acts, *two_runs())[0].text


def test_two_runs_in_a_row_from_one_request_id_are_found_and_with_another_between_they_are_not() -> None:
    acts = [start("tok-start-a-1", "r3", attempts=3), start("tok-start-a-5", "r2")]
    runs = [
        History("w", "r1", 0, "tok-start-a-1").close().done(),
        History("w", "r2", 5, "tok-start-a-5").close().done(),
        History("w", "r3", 9, "tok-start-a-1").close().done(),
    ]
    assert check(acts, *runs) == []
    assert "two runs in a row" in check(acts, runs[0], runs[2])[0].text


def test_a_refusal_at_the_only_attempt_must_leave_no_trace() -> None:
    acts = whole_ledger()
    acts[1].outcome = Outcome.REFUSED
    assert "refused" in check(acts, whole_run().done())[0].text
    acts[1].attempts = 2  # the first attempt's answer was lost: it may have been executed
    assert check(acts, whole_run().done()) == []


def test_an_update_told_otherwise_than_recorded_is_found() -> None:
    acts = whole_ledger()
    acts[2].result = '"total 4"'
    assert "client was told" in check(acts, whole_run().done())[0].text


def test_what_nobody_asked_for_is_found() -> None:
    found = check(whole_ledger()[1:], whole_run().done())
    assert [violation.text for violation in found] == ["start tok-start-a-1 at event 1 was never asked for here"]


def test_an_unknown_outcome_may_be_recorded_or_not() -> None:
    acts = whole_ledger()
    acts[1].outcome = Outcome.UNKNOWN
    assert check(acts, whole_run().done()) == []
    acts.append(act(SIGNAL, "tok-signal-a-8", Outcome.UNKNOWN))
    assert check(acts, whole_run().done()) == []


def test_a_run_that_continues_another_does_not_count_as_a_second_start() -> None:
    runs = [whole_run().done(), History("w", "r2", 5, "tok-start-a-1", continued_from="r1").close().done()]
    assert check(whole_ledger(), *runs) == []


def test_a_result_that_is_not_the_recorded_one_is_found() -> None:
    runs = [whole_run().done()]
    assert results_equal_history({"r1": '"done"'}, runs) == []
    assert "told" in results_equal_history({"r1": '"other"'}, runs)[0].text
    assert "without a history" in results_equal_history({"r2": '"done"'}, runs)[0].text


def test_a_ledger_survives_its_file(tmp_path: Path) -> None:
    Ledger(whole_ledger()).save(tmp_path / "ledger.jsonl")
    loaded = Ledger.load(tmp_path / "ledger.jsonl")
    assert list(loaded) == whole_ledger()
    assert loaded.counts() == {"completion.acked": 1, "signal.acked": 1, "start.acked": 1, "update.acked": 1}


def test_a_token_used_twice_is_refused() -> None:
    with pytest.raises(AssertionError, match="used twice"):
        Ledger([act(SIGNAL, "tok-signal-a-1"), act(SIGNAL, "tok-signal-a-1")])
