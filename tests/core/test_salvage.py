"""The branch that lost: nothing of it vanishes. What clients told it reaches the winner once, the rest is in the ledger."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

import cluster.core.machines  # noqa: F401  (registers the appliers)
from cluster.config import Limits
from cluster.core.errors import CallerError
from cluster.core.ledger import REAPPLIED, LedgerLine, Outcome
from cluster.core.machines import activity_calls, lifecycle
from cluster.core.reapply import _APPENDERS, reapply
from cluster.core.salvage import JUDGES, ROLLED_BACK, salvage
from cluster.core.table import APPLIERS, IllegalTransition
from tests.core.build import QUEUE, Run, lines, payloads
from tests.core.regions import append, begun, ledger, line_of, meet, outcome_of, part, parted
from tests.e2e import commands


def signals(run: Run) -> list[str]:
    return [
        event.workflow_execution_signaled_event_attributes.signal_name
        for event in run.events()
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    ]


def finish(run: Run) -> None:
    """A worker sees all that is new, and ends the run."""
    run.task()
    run.task(commands.complete())
    assert not run.state.is_open


def test_every_event_type_has_its_fate_and_what_is_appended_can_be() -> None:
    assert JUDGES.keys() | ROLLED_BACK.keys() == APPLIERS.keys() and not JUDGES.keys() & ROLLED_BACK.keys()
    assert _APPENDERS.keys() <= JUDGES.keys()


# --- a story -----------------------------------------------------------------------------------------------------------


def test_the_story_of_a_forced_failover() -> None:
    """Region one is cut off and goes on; region two takes over. When they meet, region two's branch wins."""
    one, two = parted(begun(commands.start_timer("t", 60), commands.schedule_activity("a", QUEUE)))
    one.signal("acknowledged here", "request")
    one.task(commands.marker("m"), commands.cancel_timer("t"))
    one.do(lambda t: activity_calls.start(t, 6, request_id="poll", identity="worker", stamp=0))
    one.do(lambda t: void(activity_calls.complete(t, 6, 1, payloads("done"), identity="worker")))
    one.request_cancel()
    one.update("u")
    one.start_task()
    one.signal("buffered")

    two.wait(61)
    two.wake()
    two.task()

    met = meet(one, two)
    assert met.winner is two
    assert ledger(met.lines) == lines(
        """
        event 7 WorkflowExecutionSignaled: reapply
        event 8 WorkflowTaskScheduled: rolled back
        event 9 WorkflowTaskStarted: rolled back
        event 10 WorkflowTaskCompleted: rolled back
        event 11 MarkerRecorded: rolled back
        event 12 TimerCanceled: rolled back
        event 13 ActivityTaskStarted: rolled back
        event 14 ActivityTaskCompleted: run again
        event 15 WorkflowExecutionCancelRequested: reapply
        event 16 WorkflowTaskScheduled: rolled back
        event 17 WorkflowTaskStarted: rolled back
        buffered 0 WorkflowExecutionSignaled: reapply
        update 0 WorkflowExecutionUpdateAdmitted: reapply
        """
    )
    since = two.state.next_event_id
    assert append(two, met.lines) == [True, True, True, True]
    assert two.history(since) == lines(
        """
        11 WorkflowExecutionSignaled
        12 WorkflowTaskScheduled
        13 WorkflowExecutionCancelRequested
        14 WorkflowExecutionSignaled
        15 WorkflowExecutionUpdateAdmitted
        """
    )
    assert {event.version for event in two.events() if event.event_id >= since} == {2}
    assert append(two, met.lines) == [False, False, False, False], "once"
    assert not [line for line in meet(one, two).lines if line.outcome is Outcome.REAPPLY]
    finish(two)


def void(_: object) -> None:
    """The step's answer is of no interest."""


# --- signals -----------------------------------------------------------------------------------------------------------


def test_a_signal_without_a_request_id_is_appended_once() -> None:
    one, two = parted(begun())
    one.signal("x")
    one.signal("x")  # the very same, at the same moment: two signals all the same
    two.signal("y")
    met = meet(one, two)
    assert append(two, met.lines) == [True, True] and append(two, met.lines) == [False, False]
    assert signals(two) == ["y", "x", "x"]
    assert [line.outcome for line in meet(one, two).lines if line.name == "WorkflowExecutionSignaled"] == ["duplicate"] * 2


def test_a_signal_that_is_flushed_after_it_was_salvaged_is_the_same_signal() -> None:
    """The losing region went on before it heard: what was in its buffer is an event now."""
    run = begun()
    run.signal("makes a task")
    run.start_task()
    one, two = parted(run)
    one.signal("buffered")
    two.answer()
    assert append(two, meet(one, two).lines) == [True]
    one.answer()
    again = meet(one, two)
    assert append(two, again.lines) == [] and outcome_of(again, "WorkflowExecutionSignaled") is Outcome.DUPLICATE
    assert signals(two) == ["makes a task", "buffered"]


def test_a_signal_that_was_buffered_before_the_fork_is_both_sides_own() -> None:
    run = begun()
    run.signal("makes a task")
    run.start_task()
    run.signal("buffered before")
    one, two = parted(run)
    one.answer()
    two.answer()
    two.signal("makes it longer")
    met = meet(one, two)
    assert met.winner is two and outcome_of(met, "WorkflowExecutionSignaled") is Outcome.DUPLICATE
    still = part(run, 1)
    still.signal("only here")
    assert [line.outcome for line in meet(still, two).lines] == ["duplicate", "reapply"]


def test_a_request_that_was_repeated_in_the_other_region_is_one_signal() -> None:
    one, two = parted(begun())
    one.signal("s", "request")
    two.signal("s", "request")
    two.signal("more")
    assert outcome_of(meet(one, two), "WorkflowExecutionSignaled") is Outcome.DUPLICATE


def test_both_regions_may_salvage_and_the_signal_is_there_once() -> None:
    """Region two appended it, region three took over before it heard of that and appended it as well."""
    one, two = parted(begun())
    one.signal("s")
    two.signal("makes two longer")
    three = part(two, 3)
    append(two, meet(one, two).lines)
    append(three, meet(one, three).lines)
    met = meet(two, three)
    assert met.winner is three and append(three, met.lines) == []
    assert signals(three) == ["makes two longer", "s"]


def test_what_was_accepted_is_not_refused_by_a_limit() -> None:
    one, two = parted(begun(limits=Limits(signals_per_run_max=2)))
    for name in "ab":
        one.signal(name)
    for name in "cd":
        two.signal(name)
    two.task()
    met = meet(one, two)
    assert append(two, met.lines) == [True, True] and signals(two) == ["c", "d", "a", "b"]


def test_a_signal_for_a_run_that_waits_for_its_first_task_waits_with_it() -> None:
    run = Run(workflow_start_delay=Duration(seconds=60))
    run.version = 1
    one, two = parted(run)
    one.signal("early")
    two.signal("early, too")
    met = meet(one, two)
    assert met.winner is two and append(two, met.lines) == [True]
    assert two.state.task is None and signals(two) == ["early, too", "early"]
    two.wait(60)
    two.wake()
    finish(two)


# --- a winner that has closed ------------------------------------------------------------------------------------------


def closed_winner(*ends: Any) -> tuple[Run, Run]:
    one, two = parted(begun())
    one.signal("late")
    one.update("u")
    one.request_cancel()
    two.signal("makes a task")
    two.task(*ends)
    return one, two


def test_what_came_too_late_for_the_winner_is_a_reason_to_reset_it() -> None:
    one, two = closed_winner(commands.complete())
    met = meet(one, two)
    assert met.winner is two and outcome_of(met, "WorkflowExecutionSignaled") is Outcome.RESET
    assert outcome_of(met, "WorkflowExecutionCancelRequested") is Outcome.MERGED
    with pytest.raises(CallerError, match="already completed"):
        two.do(lambda t: reapply(t, line_of(met, "WorkflowExecutionSignaled")))


def test_where_nothing_is_reset_it_waits_for_the_next_run_of_the_id() -> None:
    one, two = closed_winner(commands.complete())
    met = meet(one, two, may_reset=False)
    waiting = [line for line in met.lines if line.outcome is Outcome.INBOX]
    assert [line.name for line in waiting] == ["WorkflowExecutionSignaled", "WorkflowExecutionUpdateAdmitted"]
    after = Run(request_id="another")
    after.version = 2
    assert all(after.do(lambda t, line=line: reapply(t, line)) for line in waiting)  # type: ignore[misc]
    assert not any(after.do(lambda t, line=line: reapply(t, line)) for line in waiting)  # type: ignore[misc]
    assert signals(after) == ["late"] and "u" in after.state.updates
    finish(after)


def test_a_successor_is_the_next_run_and_nothing_is_reset() -> None:
    one, two = closed_winner(commands.continue_as_new())
    line = line_of(meet(one, two), "WorkflowExecutionSignaled")
    assert line.outcome is Outcome.INBOX and two.state.new_run_id in line.reason


def test_a_run_without_a_completed_task_has_nothing_to_be_reset_to() -> None:
    run = Run()
    run.version = 1
    one, two = parted(run)
    one.signal("late")
    two.terminate()
    assert outcome_of(meet(one, two), "WorkflowExecutionSignaled") is Outcome.INBOX


# --- cancel, terminate -------------------------------------------------------------------------------------------------


def test_a_cancel_request_reaches_the_winner_unless_it_has_one() -> None:
    one, two = parted(begun())
    one.request_cancel("mine")
    two.signal("longer")
    two.task()
    met = meet(one, two)
    assert append(two, met.lines) == [True] and two.state.cancel_requested and append(two, met.lines) == [False]
    assert outcome_of(meet(one, two), "WorkflowExecutionCancelRequested") is Outcome.DUPLICATE


def test_a_users_termination_ends_the_winner() -> None:
    one, two = parted(begun())
    one.terminate()
    two.signal("longer")
    met = meet(one, two)
    assert append(two, met.lines) == [True]
    assert two.last("WorkflowExecutionTerminated").reason == "enough"
    assert outcome_of(meet(one, two), "WorkflowExecutionTerminated") is Outcome.MERGED


@pytest.mark.parametrize("what", ["WorkflowExecutionTerminated", "WorkflowExecutionCancelRequested"])
def test_a_run_that_was_ended_by_a_salvage_says_so_under_the_key(what: str) -> None:
    """Or else what the closed winner gave to it is taken for astray, and given to the run after it, too."""
    one, two = parted(begun())
    if what == "WorkflowExecutionTerminated":
        one.terminate()
    else:
        one.request_cancel("mine")
    two.signal("longer")
    two.task(commands.continue_as_new())
    taker = begun()
    met = meet(one, two, has_taker=True)
    line = line_of(met, what)
    assert line.outcome is Outcome.INBOX and not taker.state.has_been_told(line.key)
    assert taker.do(lambda t: reapply(t, line))
    assert taker.state.has_been_told(line.key)


def test_a_cancel_request_that_a_run_had_before_is_known_under_the_key_as_well() -> None:
    one, two = parted(begun())
    one.request_cancel("mine")
    two.signal("longer")
    line = line_of(meet(one, two), "WorkflowExecutionCancelRequested")
    two.request_cancel("its own")
    assert not two.do(lambda t: reapply(t, line))
    assert two.state.has_been_told(line.key)


def test_a_termination_is_known_again_by_the_winner_that_it_ended() -> None:
    """The winner may have been reset since, for a signal that came too late: its successor was terminated by nobody."""
    one, two = parted(begun())
    one.terminate()
    two.signal("longer")
    assert append(two, meet(one, two).lines) == [True]
    line = line_of(meet(one, two, has_taker=True), "WorkflowExecutionTerminated")
    assert line.outcome is Outcome.DUPLICATE


@pytest.mark.parametrize("what", ["WorkflowExecutionTerminated", "WorkflowExecutionCancelRequested"])
def test_what_was_appended_again_keeps_its_key_when_the_branch_that_has_it_loses(what: str) -> None:
    one, two = parted(begun())
    if what == "WorkflowExecutionTerminated":
        one.terminate()
    else:
        one.request_cancel("mine")
    two.signal("longer")
    three = part(two, 3)
    first = line_of(meet(one, two), what)
    assert append(two, [first]) == [True]
    three.signal("longer still")
    met = meet(two, three)
    again = line_of(met, what)
    assert met.winner is three and again.key == first.key
    assert append(three, [again]) == [True] and three.state.has_been_told(first.key)


@pytest.mark.parametrize(
    ("identity", "reason", "outcome"),
    [
        (lifecycle.HISTORY_SERVICE, "TerminateIfRunning WorkflowIdReusePolicy", "rolled back"),
        (lifecycle.RESETTER, "a reset", "rolled back"),
        (lifecycle.HISTORY_SERVICE, "by parent close policy", "reapply"),
        ("a user", "TerminateIfRunning WorkflowIdReusePolicy", "reapply"),
    ],
)
def test_what_the_server_terminated_for_its_own_reasons_is_not_terminated_again(
    identity: str, reason: str, outcome: str
) -> None:
    one, two = parted(begun())
    one.do(lambda t: lifecycle.terminate(t, reason=reason, details=None, identity=identity))
    two.signal("longer")
    assert outcome_of(meet(one, two), "WorkflowExecutionTerminated") == outcome


# --- what cannot be ----------------------------------------------------------------------------------------------------


def test_events_that_are_not_the_losers_are_refused() -> None:
    one, two = parted(begun())
    one.signal("s")
    with pytest.raises(ValueError, match="not those from 5 to 6"):
        salvage(two.state, one.state, common_event_id=4, common_transition=3, loser_events=one.event_bytes()[3:])


def test_a_line_that_asks_for_nothing_is_not_appended() -> None:
    one, two = parted(begun())
    one.task()
    two.signal("longer")
    two.task()
    met = meet(one, two)
    assert met.lines and all(line.outcome not in REAPPLIED and not line.event for line in met.lines)
    with pytest.raises(ValueError, match="is not reapplied"):
        two.do(lambda t: reapply(t, met.lines[0]))


def test_an_event_that_nobody_knows_is_not_passed_over() -> None:
    one, two = parted(begun())
    one.signal("s")
    odd = [HistoryEvent(event_id=5, event_type=9_999).SerializeToString(), *one.event_bytes()[5:]]  # type: ignore[arg-type]
    with pytest.raises(IllegalTransition, match="9999"):
        salvage(two.state, one.state, common_event_id=4, common_transition=3, loser_events=odd)


def test_the_ledger_of_the_same_two_branches_is_the_same_again() -> None:
    one, two = parted(begun(commands.start_child("c"), commands.schedule_activity("a", QUEUE)))
    one.signal("s")
    one.update("u")
    two.signal("longer")
    found = meet(one, two).lines
    assert found == meet(two, one).lines
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=list[LedgerLine]) == found
