"""Form of histories, outstanding work, and the fold hook: each planted violation is found."""

from __future__ import annotations

import hashlib

import pytest
from temporalio.api.enums.v1 import EventType as E

from chaos.checkers.folds import fold_equals_state
from chaos.checkers.histories import RunHistory
from chaos.checkers.moves import every_run_ended, everything_outstanding_moves, outstanding
from chaos.checkers.well_formed import event_ids_dense, histories_well_formed
from tests.chaos.planted import SECOND_NS, History


def good() -> History:
    return History("w", "r1").task().activity("x").task().update("tok-update-a-1", 1).timer(5).close()


def test_a_good_history_passes() -> None:
    assert event_ids_dense([good().done()]) == []
    assert histories_well_formed([good().done()]) == []


@pytest.mark.parametrize("cut", [0, 4, 7])
def test_a_missing_event_is_found(cut: int) -> None:
    history = good()
    del history.events[cut]
    assert event_ids_dense([history.done()]) != []


def test_a_repeated_event_id_and_an_empty_history_are_found() -> None:
    history = good()
    history.events[5].event_id = 5
    assert event_ids_dense([history.done()]) != []
    assert event_ids_dense([RunHistory("w", "r1", ())]) != []


def test_a_history_that_begins_otherwise_is_found() -> None:
    history = good()
    history.events[0].event_type = E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED
    assert "does not begin" in event_ids_dense([history.done()])[0].text


def test_an_event_after_the_close_is_found() -> None:
    assert "events follow" in histories_well_formed([good().signal("late").done()])[0].text


def test_a_reference_to_the_wrong_event_is_found() -> None:
    history = good()
    completed = next(event for event in history.events if event.event_type == E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
    completed.activity_task_completed_event_attributes.scheduled_event_id = 2
    assert "no earlier" in histories_well_formed([history.done()])[0].text


def test_an_activity_or_workflow_task_that_ends_twice_is_found() -> None:
    activity = History("w", "r1").task().activity("x")
    assert "again" in histories_well_formed([activity.complete_activity(5, 6, "y").done()])[0].text
    task = History("w", "r1").task()
    task.events.append(type(task.events[-1]).FromString(task.events[-1].SerializeToString()))
    task.events[-1].event_id = 5
    assert "again" in histories_well_formed([task.done()])[0].text


def test_an_update_accepted_twice_is_found() -> None:
    history = good()
    history.events.pop()
    assert "accepted at events" in histories_well_formed([history.update("tok-update-a-1", 1).done()])[0].text


def waits(history: History) -> list[str]:
    return [item.what for item in outstanding(history.done())]


def test_outstanding_is_read_off_the_history() -> None:
    assert waits(History("w", "r1")) == ["event not told"]
    assert waits(History("w", "r1").task()) == []
    assert waits(History("w", "r1").task().activity(None)) == ["activity"]
    assert waits(History("w", "r1").task().activity(None, start=False).timer(5)) == ["activity", "timer"]
    assert waits(History("w", "r1").task().activity("x")) == ["event not told"]
    assert waits(History("w", "r1").task().activity("x").task()) == []
    assert waits(History("w", "r1").task().signal("s")) == ["event not told"]
    assert waits(History("w", "r1").task().activity(None).close()) == []


def test_a_scheduled_workflow_task_that_timed_out_is_still_outstanding() -> None:
    history = History("w", "r1").task().signal("s")
    scheduled = history.add(E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED)
    scheduled.workflow_task_scheduled_event_attributes.attempt = 1
    assert waits(history) == ["workflow task"]
    history.add(
        E.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT
    ).workflow_task_timed_out_event_attributes.scheduled_event_id = scheduled.event_id
    assert waits(history) == ["event not told"]
    assert waits(history.task()) == []


def test_what_does_not_move_between_two_looks_is_found() -> None:
    stuck = [History("w", "r1").task().activity(None).done()]
    found = everything_outstanding_moves(stuck, stuck, before_ns=SECOND_NS)
    assert found[0].text == "activity of event 5 has not moved"
    moved = [History("w", "r1").task().activity("x").task().done()]
    assert everything_outstanding_moves(stuck, moved, before_ns=SECOND_NS) == []
    assert everything_outstanding_moves(stuck, stuck, SECOND_NS, frozenset({"activity"})) == []


def test_a_timer_is_not_late_before_it_is_due() -> None:
    sleeping = [History("w", "r1").task().timer(5).done()]
    assert everything_outstanding_moves(sleeping, sleeping, before_ns=4 * SECOND_NS) == []
    assert everything_outstanding_moves(sleeping, sleeping, before_ns=5 * SECOND_NS) != []


def test_a_run_that_vanishes_is_found() -> None:
    assert "no history at the second" in everything_outstanding_moves([History("w", "r1").done()], [], 0)[0].text


def test_a_run_that_never_ends_is_found() -> None:
    assert "activity" in every_run_ended([good().done(), History("w", "r2").task().activity(None).done()])[0].text


def test_state_that_is_not_the_fold_of_its_history_is_found() -> None:
    histories = [good().done(), History("w", "r2").task().done()]
    states = {history.run_id: len(history.events) for history in histories}

    def check() -> list[str]:
        found = fold_equals_state(
            histories,
            lambda history: states.get(history.run_id),
            lambda history: len(history.events),
            lambda state: hashlib.sha256(str(state).encode()).hexdigest()[:8],
        )
        return [violation.run_id for violation in found]

    assert check() == []
    states["r1"] += 1
    assert check() == ["r1"]
    del states["r2"]
    assert check() == ["r1", "r2"]
