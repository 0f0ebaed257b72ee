"""Heads tell what two regions' copies of a run share, and which of them is its history."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.core.apply import apply_entry, fold_events, new_state
from cluster.core.branches import (
    BEGIN,
    NOTHING,
    Head,
    Point,
    contains,
    contradicts,
    extends,
    head_of,
    history_hash,
    lca_event,
    lca_transition,
    next_version,
    owner_of,
    winner,
)
from cluster.core.entry import Base, Entry, decode_entry, encode_entry
from cluster.core.events import next_hash
from cluster.core.state import RunState, checksum, decode_state, encode_state
from cluster.core.table import IllegalTransition
from cluster.core.transition import Transition
from cluster.core.without_notes import hash_differs, without_notes
from tests.core.build import Run
from tests.core.regions import part
from tests.e2e import commands

# --- a small world of regions that write, fail over and tell each other ------------------------------------------------


class Step(NamedTuple):
    """One transition: whose and when is its name, so that two lines share it only if they went through it."""

    name: str
    version: int
    events: int


Line = tuple[Step, ...]


def events_of(line: Line) -> list[tuple[bytes, int]]:
    return [(f"{step.name}/{index}".encode(), step.version) for step in line for index in range(step.events)]


def head(line: Line) -> Head:
    transitions: list[tuple[int, int]] = []
    versions: list[tuple[int, int]] = []
    for history, found in ((transitions, [step.version for step in line]), (versions, [one for _, one in events_of(line)])):
        for number, version in enumerate(found, 1):
            if history and history[-1][1] == version:
                history.pop()
            history.append((number, version))
    events = [data for data, _ in events_of(line)]
    return Head(tuple(transitions), tuple(versions), len(events), history_hash(events))


class Region:
    def __init__(self, initial: int) -> None:
        self.initial, self.version, self.line = initial, 1, ()  # type: int, int, Line

    def write(self, events: int, serial: int) -> None:
        last = self.line[-1].version if self.line else 0
        if owner_of(self.version) == self.initial and last <= self.version:
            self.line = (*self.line, Step(f"{self.version}.{serial}", self.version, events))


whats = st.sampled_from(("write", "write", "write", "send", "tell", "fail over"))
action = st.tuples(whats, st.integers(0, 2), st.integers(0, 2))


def lines_of(actions: list[tuple[str, int, int]]) -> list[Line]:
    """Every line that some region ever had."""
    regions = [Region(1), Region(2), Region(3)]
    found: list[Line] = []
    for serial, (what, first, second) in enumerate(actions):
        one, other = regions[first], regions[second]
        if what == "write":
            one.write(second, serial)
        elif what == "fail over":
            one.version = next_version(one.version, one.initial)
        elif what == "tell":
            other.version = max(one.version, other.version)
        elif winner(head(one.line), head(other.line)) == head(one.line):
            other.line = one.line
        found += [region.line for region in regions]
    return list(dict.fromkeys(found))


families = st.lists(action, min_size=6, max_size=40).map(lines_of)


def shared(one: list[object], other: list[object]) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


@settings(max_examples=150, deadline=None)
@given(families)
def test_the_lowest_common_ancestor_is_the_true_common_prefix(lines: list[Line]) -> None:
    for one, other in itertools.combinations_with_replacement(lines[-14:], 2):
        mine, theirs = head(one), head(other)
        assert lca_transition(mine, theirs).number == shared(list(one), list(other))
        common = shared(list(events_of(one)), list(events_of(other)))
        assert lca_event(mine, theirs).number == common
        assert lca_event(mine, theirs) == lca_event(theirs, mine)
        assert contains(mine, theirs) == (one[: len(other)] == other)
        assert extends(mine, theirs) == (one[: len(other)] == other and len(one) > len(other))
        assert not contradicts(mine, theirs)


@settings(max_examples=100, deadline=None)
@given(families)
def test_hashes_are_equal_only_where_the_prefixes_are(lines: list[Line]) -> None:
    for one, other in itertools.combinations(lines[-14:], 2):
        for count in range(min(head(one).last_event_id, head(other).last_event_id) + 1):
            mine, theirs = ([data for data, _ in events_of(line)][:count] for line in (one, other))
            assert (history_hash(mine) == history_hash(theirs)) == (mine == theirs)


@settings(max_examples=100, deadline=None)
@given(families)
def test_the_winner_does_not_depend_on_the_order_in_which_branches_meet(lines: list[Line]) -> None:
    heads = [head(line) for line in lines[-14:]]
    for one, other, third in itertools.combinations(heads, 3):
        assert winner(one, other) == winner(other, one)
        assert winner(one, winner(other, third)) == winner(winner(one, other), third)
    for one, other in itertools.permutations(heads, 2):
        if extends(one, other):
            assert winner(one, other) == one, "what goes on from a branch never loses against it"


any_line = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=3).map(tuple)
any_head = st.builds(Head, any_line, any_line, st.integers(0, 9), st.binary(max_size=2))


@given(any_head, any_head, any_head)
def test_the_order_of_branches_is_total_even_where_heads_make_no_sense(one: Head, other: Head, third: Head) -> None:
    assert winner(one, other) == winner(other, one)
    assert winner(one, winner(other, third)) == winner(winner(one, other), third)
    lca_event(one, other), contains(one, other)  # no error


@pytest.mark.parametrize(
    ("versions", "others", "common"),
    [
        ([(10, 1)], [(10, 1)], Point(10, 1)),
        ([(10, 1)], [(12, 1)], Point(10, 1)),
        ([(10, 1), (15, 2)], [(12, 1)], Point(10, 1)),
        ([(10, 1), (15, 2)], [(10, 1), (14, 3)], Point(10, 1)),
        ([(10, 1), (15, 2), (20, 11)], [(10, 1), (13, 2), (17, 3)], Point(13, 2)),
        ([(10, 1), (15, 3)], [(8, 1), (12, 2), (20, 3)], Point(8, 1)),
        ([(10, 1), (15, 3)], [(8, 1), (20, 3)], Point(8, 1)),  # equal versions behind the fork count for nothing
        ([(10, 0), (12, 1)], [(10, 0), (11, 2)], Point(10, 0)),
        ([(3, 1)], [(3, 2)], BEGIN),
        ([], [(3, 2)], BEGIN),
    ],
)
def test_where_histories_part(versions: list[tuple[int, int]], others: list[tuple[int, int]], common: Point) -> None:
    one, other = (Head(tuple(line), tuple(line), line[-1][0] if line else 0, b"") for line in (versions, others))
    assert lca_event(one, other) == lca_event(other, one) == lca_transition(one, other) == common


# --- failover versions -------------------------------------------------------------------------------------------------


def test_a_version_says_whose_it_is_and_fail_back_takes_the_next_round() -> None:
    assert [owner_of(version) for version in (0, 1, 2, 11, 12, 103)] == [0, 1, 2, 1, 2, 3]
    assert next_version(0, 1) == 1 and next_version(1, 2) == 2 and next_version(2, 1) == 11 and next_version(11, 3) == 13
    assert next_version(11, 1) == 11, "who is active stays so"


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9))
def test_no_two_regions_are_given_one_version(current: int, one: int, other: int) -> None:
    mine, theirs = next_version(current, one), next_version(current, other)
    assert owner_of(mine) == one and current <= mine < current + 10
    assert (mine == theirs) == (one == other)
    assert owner_of(current) == one or mine > current


@pytest.mark.parametrize("initial", [0, 10, -1])
def test_an_initial_version_that_could_be_anybodys_is_refused(initial: int) -> None:
    with pytest.raises(ValueError, match="initial failover version"):
        next_version(5, initial)


# --- what a run keeps --------------------------------------------------------------------------------------------------


def test_a_run_that_fails_over_keeps_one_pair_for_each_version() -> None:
    run = Run()
    run.version = 1
    run.task(commands.start_timer("t", 9))
    run.version = 2
    run.signal()
    run.signal("again")
    state = run.state
    assert state.version_history == [(2, 0), (5, 1), (8, 2)]
    assert state.transition_history == [(1, 0), (3, 1), (5, 2)]
    assert [entry.version for entry in run.entries] == [0, 1, 1, 2, 2]
    assert {event.version for event in run.events()} == {0, 1, 2}
    assert head_of(state) == Head(((1, 0), (3, 1), (5, 2)), ((2, 0), (5, 1), (8, 2)), 8, history_hash(run.event_bytes()))


def test_a_note_is_a_transition_of_its_version_too() -> None:
    run = Run()
    run.start_task()
    run.version = 1
    run.signal()  # buffered: no event yet
    assert run.state.version_history == [(3, 0)] and run.state.transition_history == [(2, 0), (3, 1)]
    run.answer()
    assert [event.version for event in run.events()[3:]] == [1, 1, 1], "flushed under the version of the flush"


def test_a_lower_version_than_the_last_cannot_be_written_or_applied() -> None:
    run = Run()
    run.version = 2
    run.signal()
    before = checksum(run.state)
    late = Transition(run.state, part(run, 1).context())
    with pytest.raises(IllegalTransition, match="of version 1 after version 2"):
        late.entry()
    assert checksum(run.state) == before
    last = run.entries[-1]
    stale = Entry(last.namespace_id, last.workflow_id, last.run_id, 9, 0, [], 1)
    with pytest.raises(IllegalTransition):
        apply_entry(run.folded, stale)


def test_the_history_alone_gives_the_same_hash_and_version_history() -> None:
    run = Run()
    run.version = 12
    run.start_task()
    run.signal("one")
    run.answer(commands.marker("m"))
    state = run.state
    folded = fold_events(state.namespace_id, state.workflow_id, state.run_id, run.event_bytes())
    assert folded.history_hash == state.history_hash == history_hash(run.event_bytes()) != b""
    assert folded.version_history == state.version_history and folded.transition_history == []
    assert checksum(without_notes(folded)) == checksum(without_notes(state)) and not hash_differs(folded, state)
    other = fold_events(state.namespace_id, state.workflow_id, state.run_id, run.event_bytes()[:-1])
    assert hash_differs(other, state)


def test_a_buffered_event_counts_for_the_hash_when_it_is_flushed() -> None:
    run = Run()
    run.start_task()
    before = run.state.history_hash
    run.signal()
    assert run.state.history_hash == before
    run.answer()
    expected = before
    for data in run.event_bytes()[3:]:
        expected = next_hash(expected, data)
    assert run.state.history_hash == expected


def test_a_state_from_another_region_is_taken_as_it_is() -> None:
    run = Run()
    run.version = 2
    run.task(commands.marker("m"))
    state = run.state
    snapshot = Entry("ns-id", "w", "r", 1, run.now, [Base(encode_state(state), state.next_event_id - 1)], 2)
    taken = apply_entry(new_state("ns-id", "w", "r"), decode_entry(encode_entry(snapshot)))
    assert checksum(taken) == checksum(state) and head_of(taken) == head_of(state)


# --- what was written before there were versions and hashes -------------------------------------------------------------


class FormerEntry(msgspec.Struct, frozen=True, array_like=True):
    namespace_id: str
    workflow_id: str
    run_id: str
    first_event_id: int
    at: int
    items: list[bytes]


def former_row(state: RunState) -> bytes:
    fields = msgspec.msgpack.decode(encode_state(state)[1:])
    del fields["history_hash"], fields["transition_history"]
    return encode_state(state)[:1] + msgspec.msgpack.encode(fields)


def test_an_older_journal_record_is_of_version_0() -> None:
    run = Run()
    items = [item for item in run.entries[0].items if isinstance(item, bytes)]
    data = msgspec.msgpack.encode(FormerEntry("ns-id", "w", "r", 1, 5, items))
    entry = decode_entry(data)
    assert entry.version == 0 and apply_entry(new_state("ns-id", "w", "r"), entry).transition_history == [(1, 0)]


def test_an_older_row_goes_on_and_has_a_place_in_its_line() -> None:
    run = Run()
    run.task(commands.start_timer("t", 9))
    old = decode_state(former_row(run.state))
    assert (old.history_hash, old.transition_history) == (b"", [])
    assert head_of(old) == Head(((3, 0),), ((5, 0),), 5, b"")
    run.version = 1
    run.signal()
    on = apply_entry(old, run.entries[-1])
    assert on.transition_history == [(3, 0), (4, 1)] and on.history_hash == b"", "a hash of half a history is none"
    assert contains(head_of(run.state), head_of(on)) and contains(head_of(on), head_of(run.state))
    assert not contradicts(head_of(on), head_of(run.state)) and not hash_differs(run.rebuilt, on)
    assert checksum(without_notes(on)) == checksum(without_notes(run.state))


def test_a_head_travels_as_it_is() -> None:
    head = head_of(Run().state)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(head), type=Head) == head


def test_a_run_that_is_nowhere_has_a_head_too() -> None:
    assert head_of(new_state("ns-id", "w", "r")) == NOTHING and extends(head_of(Run().state), NOTHING)
