"""When a region takes over what another one owns: the machine row by row, the votes, and who may take what."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from replication.automatic import (
    TABLE,
    AutomaticSettings,
    Candidate,
    Seen,
    Sight,
    State,
    Watch,
    cooling_s,
    has_majority,
    next_watch,
    rank_of,
    seen_of,
    why_not,
)
from replication.witness import LagNote
from replication.witness_lease import Life

RULES = AutomaticSettings(failing_s=4.0, cool_down_s=100.0, stagger_s=8.0, lag_events_max=10, lag_s_max=5.0)
SIGHTS: dict[Seen, Sight] = {
    Seen.WITNESS_LOST: Sight(now_s=9, life=Life.UNKNOWN, is_probe_ok=False, left_count=1),
    Seen.LEASE_LIVES: Sight(now_s=9, life=Life.ALIVE, is_probe_ok=False, left_count=1),
    Seen.NO_MAJORITY: Sight(now_s=9, life=Life.EXPIRED, is_probe_ok=True, left_count=1),
    Seen.MAJORITY: Sight(now_s=9, life=Life.EXPIRED, is_probe_ok=False, left_count=1),
}


# --- the machine ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seen", SIGHTS)
@pytest.mark.parametrize("state", State)
def test_each_sight_leads_where_the_table_says_and_otherwise_nothing_changes(state: State, seen: Seen) -> None:
    watch = Watch(state, since_s=8, silent_since_s=7)
    if state in (State.CLAIMING, State.MOVED) and seen is Seen.MAJORITY:
        seen, sight = Seen.SOMETHING_LEFT, SIGHTS[seen]
    else:
        sight = SIGHTS[seen]
    assert seen_of(watch, sight, RULES) is seen
    after = next_watch(watch, sight, RULES)
    assert after.state is TABLE.get((state, seen), state)
    assert (after is watch) == (after.state is state)


def test_a_region_is_claimed_only_when_a_majority_failed_for_long_enough() -> None:
    watch, states = Watch(), []
    for now_s in range(0, 10):
        watch = next_watch(watch, msgspec.structs.replace(SIGHTS[Seen.MAJORITY], now_s=float(now_s)), RULES)
        states.append(watch.state)
    assert states == [State.SUSPECT, *[State.PROBING] * 4, *[State.CLAIMING] * 5]
    assert watch.silent_since_s == 0.0
    done = next_watch(watch, msgspec.structs.replace(SIGHTS[Seen.MAJORITY], left_count=0), RULES)
    assert done.state is State.MOVED


def test_a_single_good_probe_begins_the_time_anew() -> None:
    watch = Watch(State.PROBING, since_s=0.0)
    watch = next_watch(watch, msgspec.structs.replace(SIGHTS[Seen.NO_MAJORITY], now_s=3.9), RULES)
    assert watch.state is State.SUSPECT
    watch = next_watch(watch, msgspec.structs.replace(SIGHTS[Seen.MAJORITY], now_s=4.0), RULES)
    assert watch == Watch(State.PROBING, 4.0, watch.silent_since_s)


def test_nothing_is_claimed_from_any_state_while_the_witness_cannot_be_read() -> None:
    assert {next_watch(Watch(state), SIGHTS[Seen.WITNESS_LOST], RULES).state for state in State} == {State.PARTITIONED}
    assert [pair for pair, state in TABLE.items() if state is State.CLAIMING] == [
        (State.PROBING, Seen.MAJORITY_LONG),
        (State.MOVED, Seen.SOMETHING_LEFT),
    ]


@pytest.mark.parametrize(
    ("life", "is_probe_ok", "opinions", "others_count", "expected"),
    [
        (Life.EXPIRED, False, {}, 0, True),
        (Life.EXPIRED, True, {}, 0, False),
        (Life.ALIVE, False, {}, 0, False),
        (Life.EXPIRED, False, {}, 1, True),  # two of three, whatever the third would say
        (Life.EXPIRED, False, {"three": True}, 1, True),
        (Life.EXPIRED, True, {"three": False}, 1, True),
        (Life.EXPIRED, True, {"three": True}, 1, False),
        (Life.EXPIRED, True, {}, 1, False),
        (Life.EXPIRED, False, {}, 2, False),  # two of four are no majority
        (Life.EXPIRED, False, {"three": False}, 2, True),
    ],
)
def test_a_majority_is_one_of_all_voters(
    life: Life, is_probe_ok: bool, opinions: dict[str, bool], others_count: int, expected: bool
) -> None:
    sight = Sight(now_s=0, life=life, is_probe_ok=is_probe_ok, opinions=opinions, others_count=others_count)
    assert has_majority(sight) is expected


GOOD = Candidate(namespace_id="n", rank=0, waited_s=0.0, lag=LagNote(), cooling_s=0.0)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, ""),
        ({"lag": LagNote(events=10)}, ""),
        ({"lag": LagNote(events=11)}, "11 events were not here yet"),
        ({"lag": LagNote(events=50, by_namespace={"n": 3, "other": 47})}, ""),
        ({"lag": LagNote(events=1, oldest_ns=5_000_000_001)}, "the lag was 5.0 s"),
        ({"lag": LagNote(is_catching_up=True)}, "a catch-up was under way"),
        ({"lag": None}, "the lag is not known"),
        ({"cooling_s": 0.1}, "cool-down"),
        ({"is_allowed": False}, "switched off"),
        ({"rank": 1}, "another region of the list comes first"),
        ({"rank": 1, "waited_s": 8.0}, ""),
        ({"rank": 2, "waited_s": 15.9}, "another region of the list comes first"),
    ],
)
def test_a_candidate_takes_a_namespace_only_when_it_may(changed: dict[str, Any], reason: str) -> None:
    why = why_not(msgspec.structs.replace(GOOD, **changed), RULES)
    assert reason in why and bool(reason) == bool(why)


def test_candidates_are_ranked_by_the_namespaces_list() -> None:
    assert [rank_of(("b", "a", "c"), "b", name) for name in ("a", "c")] == [0, 1]
    assert [rank_of(("b", "a", "c"), "a", name) for name in ("b", "c")] == [0, 1]


def test_a_cool_down_is_by_this_nodes_own_clock_when_it_saw_the_move() -> None:
    hour_ns = 3_600_000_000_000
    assert cooling_s(moved_at=hour_ns, now_ns=0, known_for_s=30.0, settings=RULES) == 70.0
    assert cooling_s(moved_at=0, now_ns=hour_ns, known_for_s=None, settings=RULES) == 0.0
    assert cooling_s(moved_at=hour_ns, now_ns=0, known_for_s=None, settings=RULES) == 100.0, "a clock that is wrong: at most once"
