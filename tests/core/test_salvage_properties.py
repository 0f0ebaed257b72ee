"""Whatever two regions did to their copies of a run before they met: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import copy
from collections import Counter
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from cluster.core.branches import contains, head_of
from cluster.core.events import parse_event
from cluster.core.ledger import REAPPLIED, LedgerLine, Outcome, Source
from cluster.core.salvage import signal_digest
from cluster.core.state import UpdateStage, checksum
from tests.core.build import Run
from tests.core.regions import RegionIds, append, meet
from tests.properties.test_core_properties import FIELDS, STEPS, Life

SIGNALED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
Steps = list[tuple[str, int, int]]
LIVELY = ("poll", "answer", "activity", "deliver")
NEWS = {"signal", "update", "cancel", "attach", "deliver", "activity"}
kinds = st.one_of(st.sampled_from(sorted(STEPS)), st.sampled_from(sorted(NEWS)))
steps = st.lists(st.tuples(kinds, st.integers(0, 2), st.integers(0, 10_000)), max_size=14)


def lead(life: Life, run: Run, taken: Steps) -> None:
    """The run's part of this life: until it closes, whatever follows it."""
    for kind, pick, other in taken:
        if life.run is not run or not run.state.is_open:
            return
        life.step(kind, pick, other)


def signals_of(run: Run, since: int = 0) -> list[HistoryEvent]:
    found = [parse_event(data) for data in (*run.event_bytes()[since:], *run.state.buffered)]
    return [event for event in found if event.event_type == SIGNALED]


def request_ids(run: Run) -> Counter[str]:
    return Counter(event.workflow_execution_signaled_event_attributes.request_id for event in signals_of(run))


def nothing_is_left_out(loser: Run, winner: Run, lines: list[LedgerLine], common: int) -> None:
    state = loser.state
    events = [(line.number, line.event_type, line.version) for line in lines if line.source is Source.EVENT]
    assert events == [(one.event_id, one.event_type, one.version) for one in loser.events()[common:]]
    buffered = [line.event_type for line in lines if line.source is Source.BUFFERED]
    assert buffered == [parse_event(data).event_type for data in state.buffered]
    told = [line for line in lines if line.event_type == SIGNALED]
    expected = {Outcome.DUPLICATE, Outcome.REAPPLY} if winner.state.is_open else {Outcome.DUPLICATE, Outcome.RESET, Outcome.INBOX}
    assert len(told) == len(signals_of(loser, common)) and {line.outcome for line in told} <= expected
    assert all(line.reason for line in lines)
    assert all(bool(line.event) == (line.outcome in REAPPLIED) for line in lines)
    assert all(line.key for line in lines if line.event)


def every_signal_is_there_once(loser: Run, winner: Run) -> None:
    asked, kept = request_ids(loser), request_ids(winner)
    assert all(kept[one] == 1 for one in asked if one), "a signal of a request id is in the winner once"
    anonymous = Counter(signal_digest(event) for event in signals_of(loser) if not _request_id(event))
    own = Counter(signal_digest(event) for event in signals_of(winner) if not _request_id(event))
    for digest, count in anonymous.items():
        appended = sum(1 for one in kept if one.startswith(f"reapplied:{loser.state.run_id}:{digest}:"))
        assert own[digest] + appended == max(own[digest], count)


def _request_id(event: HistoryEvent) -> str:
    return event.workflow_execution_signaled_event_attributes.request_id


def every_update_is_there(loser: Run, winner: Run) -> None:
    """Updates that somebody in the losing region was promised: the winner has them, or has an answer to that id."""
    for update in loser.state.updates.values():
        if update.stage >= UpdateStage.ACCEPTED and update.accepted_event_id:
            known = update.update_id in winner.state.updates
            assert known or f"reapplied:{loser.state.run_id}:update:{update.update_id}" in winner.state.request_ids


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FIELDS), steps, steps, steps, steps, st.booleans())
def test_a_salvage_loses_nothing_and_doubles_nothing(
    fields: dict[str, Any], before: Steps, ones: Steps, twos: Steps, later: Steps, adopts: bool
) -> None:
    life = Life(fields)
    run = life.run
    run.version = 1
    lead(life, run, [("poll", 0, 0), ("answer", 0, sum(other for _, _, other in before)), *before])
    if life.run is not run or not run.state.is_open:
        return
    one, two = (copy.deepcopy(life) for _ in range(2))
    one.run.ids, two.run.ids, two.run.version = RegionIds("one"), RegionIds("two"), 2
    first, second = one.run, two.run
    lead(one, first, ones)
    lead(two, second, twos)
    heads = head_of(first.state), head_of(second.state)
    if contains(*heads) or contains(*reversed(heads)):
        return
    met = meet(first, second, adopts_activities=adopts)
    winner, loser = met.winner, met.loser
    common = len(run.event_bytes())
    assert met.lines == meet(second, first, adopts_activities=adopts).lines, "the same on both sides"
    nothing_is_left_out(loser, winner, met.lines, common)

    append(winner, met.lines)
    after = checksum(winner.state)
    if winner.state.is_open:
        every_signal_is_there_once(loser, winner)
        every_update_is_there(loser, winner)
        assert not any(append(winner, met.lines)) and checksum(winner.state) == after, "twice is once"
        again = meet(winner, loser, adopts_activities=adopts)
        assert again.winner is winner and not [line for line in again.lines if line.outcome is Outcome.REAPPLY]

    # The losing region has not heard of it and goes on; then the winner, salvaged once more, lives on as any run.
    lost = one if loser is first else two
    lead(lost, loser, later)
    met = meet(winner, loser, adopts_activities=adopts)
    if met.winner is winner and winner.state.is_open:
        append(winner, met.lines)
        if winner.state.is_open:
            every_signal_is_there_once(loser, winner)
    keeper = two if winner is second else one
    keeper.run = winner
    draw = Random(len(ones))
    lead(keeper, winner, [(draw.choice(LIVELY), draw.randrange(3), draw.randrange(9_999)) for _ in range(8)])
