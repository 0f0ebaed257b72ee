"""The checkers of several regions: small evidence that is right, into which each test plants one violation."""

from __future__ import annotations

from dataclasses import replace

from temporalio.api.enums.v1 import EventType as E

from chaos.checkers.histories import RunHistory
from chaos.checkers.ledger import Act, ActKind, Ledger, Outcome
from chaos.checkers.regions import (
    LOST_ITS_ID,
    LedgerEntry,
    RegionsEvidence,
    RegionView,
    i7_one_open_run,
    i8_timers_in_time,
    i11_graceful_loses_nothing,
    i13_deleted_stays_deleted,
    i16_regions_are_equal,
    i16_rows_show_states,
    i17_acknowledged_is_kept,
    i17_lost_is_explained,
    i18_started_runs_are_there,
    i19_chains_are_lists,
)
from chaos.checkers.written import EventName, Written
from cluster.core.entry import Base, Entry, encode_entry
from tests.chaos.planted import History, start

SIGNAL = "tok-signal-a-1"


def run(run_id: str = "r1", token: str = "", is_closed: bool = True, at: float = 0.0) -> RunHistory:
    history = History("w", run_id, at, "tok-start-a-1")
    if token:
        history.signal(token)
    return history.close(E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, 1.0).done() if is_closed else history.done()


def view(*histories: RunHistory) -> RegionView:
    rows = {one.run_id: (one.workflow_id, one.is_open, 0 if one.is_open else len(one.events)) for one in histories}
    digests = {one.run_id: {"state": "s"} for one in histories}
    return RegionView(histories, {"w": histories[-1].run_id}, digests, rows, {"active": "r1"})


def evidence(*histories: RunHistory, acts: tuple[Act, ...] = (), **fields: object) -> RegionsEvidence:
    made = RegionsEvidence("ns", {"r1": view(*histories), "r2": view(*histories)}, Ledger(acts))
    return replace(made, **fields)  # type: ignore[arg-type]


def signal(outcome: Outcome = Outcome.ACKED, attempts: int = 1) -> Act:
    return Act(ActKind.SIGNAL, SIGNAL, "w", "a", 0, 1, outcome, attempts)


def line(outcome: str, number: int = 2) -> LedgerEntry:
    return LedgerEntry("r1", "event", number, 1, E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, outcome, "so it is")


LOST = {EventName("r1", 2, 1): b"..." + SIGNAL.encode()}


def test_two_open_runs_of_one_id_are_found() -> None:
    assert i7_one_open_run(evidence(run("r1"), run("r2", is_closed=False, at=2))) == []
    assert len(i7_one_open_run(evidence(run("r1", is_closed=False), run("r2", is_closed=False)))) == 2  # in each region


def test_a_timer_that_fired_early_is_found() -> None:
    for after, found in ((5.0, 0), (4.0, 1)):
        history = History("w", "r1")
        started = history.add(E.EVENT_TYPE_TIMER_STARTED)
        started.timer_started_event_attributes.start_to_fire_timeout.FromSeconds(5)
        fired = history.add(E.EVENT_TYPE_TIMER_FIRED, after)
        fired.timer_fired_event_attributes.started_event_id = started.event_id
        assert len(i8_timers_in_time(evidence(history.done()))) == found


def test_whatever_is_lost_without_force_is_found() -> None:
    assert i11_graceful_loses_nothing(evidence(run(), lines=(line("inbox"),))) == []
    assert len(i11_graceful_loses_nothing(evidence(run(), lines=(line("inbox"),), is_graceful=True))) == 1
    assert len(i11_graceful_loses_nothing(evidence(run(), forks_count=1, is_graceful=True))) == 1


def test_a_deleted_run_that_is_back_is_found() -> None:
    assert len(i13_deleted_stays_deleted(evidence(run(), deleted=frozenset({"r1"})))) == 2
    assert i13_deleted_stays_deleted(evidence(run(), deleted=frozenset({"r2"}))) == []


def test_regions_that_differ_are_found() -> None:
    assert i16_regions_are_equal(evidence(run())) == []
    one = view(run())
    for other in (
        replace(one, digests={"r1": {"state": "t"}}),
        replace(one, digests={}),
        replace(one, current={"w": "r2"}),
        replace(one, rows={}),
        replace(one, record={"active": "r2"}),
    ):
        assert len(i16_regions_are_equal(evidence(run(), views={"r1": one, "r2": other}))) == 1


def test_a_row_that_does_not_show_its_run_is_found() -> None:
    assert i16_rows_show_states(evidence(run())) == []
    stale = replace(view(run()), rows={"r1": ("w", True, 0)})
    assert len(i16_rows_show_states(evidence(run(), views={"r1": stale}))) == 1
    extra = replace(view(run()), rows=view(run(), run("r2")).rows)
    assert len(i16_rows_show_states(evidence(run(), views={"r1": extra}))) == 1


def test_an_acknowledged_signal_that_is_nowhere_is_found() -> None:
    assert i17_acknowledged_is_kept(evidence(run(token=SIGNAL), acts=(signal(),))) == []
    assert len(i17_acknowledged_is_kept(evidence(run(), acts=(signal(),)))) == 1
    assert i17_acknowledged_is_kept(evidence(run(), acts=(signal(Outcome.UNKNOWN),))) == []


def test_a_lost_signal_must_wait_in_the_inbox_or_be_appended_again() -> None:
    assert i17_acknowledged_is_kept(evidence(run(), acts=(signal(),), lost=LOST, lines=(line("inbox"),))) == []
    assert len(i17_acknowledged_is_kept(evidence(run(), acts=(signal(),), lost=LOST, lines=(line("rolled back"),)))) == 1
    assert len(i17_acknowledged_is_kept(evidence(run(), acts=(signal(),), lost=LOST, lines=(line("reapply"),)))) == 1


def test_a_signal_in_more_runs_than_it_was_sent_is_found() -> None:
    twice = (run("r1", SIGNAL), run("r2", SIGNAL, at=5))
    assert len(i17_acknowledged_is_kept(evidence(*twice, acts=(signal(),)))) == 1
    assert i17_acknowledged_is_kept(evidence(*twice, acts=(signal(attempts=2),))) == []
    beaten = History("w", "r1", 0.0, "tok-start-a-1").signal(SIGNAL)
    beaten.add(E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED).workflow_execution_terminated_event_attributes.reason = LOST_ITS_ID
    assert i17_acknowledged_is_kept(evidence(beaten.done(), twice[1], acts=(signal(),))) == []


def test_a_lost_event_without_a_line_is_found() -> None:
    assert i17_lost_is_explained(evidence(run(), lost=LOST, lines=(line("inbox"),))) == []
    assert len(i17_lost_is_explained(evidence(run(), lost=LOST, lines=(line("inbox", number=3),)))) == 1


def test_an_acknowledged_start_without_its_run_is_found() -> None:
    acts = (start("tok-start-a-1", "r1", 0.0, 0.1),)
    assert i18_started_runs_are_there(evidence(run("r1"), acts=acts)) == []
    assert len(i18_started_runs_are_there(evidence(run("r2"), acts=acts))) == 1


def test_a_successor_that_is_not_there_is_found() -> None:
    history = History("w", "r1")
    closed = history.add(E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW)
    closed.workflow_execution_continued_as_new_event_attributes.new_execution_run_id = "r2"
    second = History("w", "r2", 5.0, continued_from="r1").close(E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, 1.0).done()
    assert i19_chains_are_lists(evidence(history.done(), second)) == []
    assert len(i19_chains_are_lists(evidence(history.done()))) == 1


# --- what was written ---------------------------------------------------------------------------------------------------------
def entry(version: int, *items: bytes, first: int = 1, run_id: str = "r1") -> tuple[Entry, bytes]:
    made = Entry("ns", "w", run_id, first, 0, list(items), version)
    return made, encode_entry(made)


def found(written: Written) -> list[str]:
    return [violation.check for violation in written.violations]


def test_a_version_is_written_by_its_owner_alone() -> None:
    written = Written({"r1": 1, "r2": 2})
    written.appended("r1", [entry(11, b"a")])
    written.appended("r2", [entry(11, b"a")])  # as it was told
    assert found(written) == []
    written.appended("r2", [entry(11, b"b", first=2)])
    assert found(written) == ["I1"]


def test_an_event_is_written_in_one_way() -> None:
    written = Written({"r1": 1, "r2": 2})
    written.appended("r1", [entry(1, b"a"), entry(1, b"b")])
    assert found(written) == ["I3"]


def test_an_event_that_nobody_wrote_is_found_in_what_is_shown() -> None:
    written = Written({"r1": 1, "r2": 2})
    history = run("r1")
    for event in history.events:
        event.version = 1
    assert len(written.histories_are_written("r1", [history])) == len(history.events)
    base = Base(b"", 1)
    written.appended("r1", [(made := Entry("ns", "w", "r1", 2, 0, [base, b"x"], 1), encode_entry(made))])
    assert [one.check for one in written.histories_are_written("r1", [history])] == []  # the first one was copied by a reset


def test_ownership_and_cursors_only_rise() -> None:
    written = Written({"r1": 1, "r2": 2})
    written.owned("r1", "ns", 12, "r2")
    written.owned("r2", "ns", 12, "r1")
    written.owned("r1", "ns", 11, "r1")
    written.cursor("r1", "r2/0", 5, durable=5)
    written.cursor("r1", "r2/0", 4, durable=5)
    written.cursor("r1", "r2/0", 9, durable=5)
    assert found(written) == ["I1", "I1", "I12", "I12"]
