"""Taking in another region's news: the same outcome in whatever order, and however often, they come."""

from __future__ import annotations

import itertools

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.core.branches import NOTHING, Head, Point, contains, extends, head_of, winner
from cluster.core.machines import child
from cluster.core.merge import (
    Branches,
    Contradiction,
    Extends,
    Fork,
    Gap,
    Known,
    RunClaim,
    Side,
    claim_of,
    merge,
    take,
    winner_of_runs,
)
from tests.core.build import Run
from tests.core.regions import part
from tests.core.test_branches import families
from tests.core.test_branches import head as head_of_line
from tests.e2e import commands


def told_in_order(heads: list[Head]) -> Branches:
    """A region that hears these, one after the other."""
    known = Branches()
    for head in heads:
        known = take(known, head)
    return known


def lives() -> tuple[Head, Head, Head, Head]:
    """A run's common part, what either region made of it, and how the second went on."""
    run = Run()
    run.version = 1
    run.task(commands.start_timer("t", 60))
    ours, theirs = part(run, 1), part(run, 2)
    ours.signal("ours")
    theirs.signal("theirs")
    middle = head_of(theirs.state)
    theirs.task()
    return head_of(run.state), head_of(ours.state), middle, head_of(theirs.state)


COMMON, OURS, MIDDLE, THEIRS = lives()


# --- one delta ---------------------------------------------------------------------------------------------------------


def test_what_we_have_is_known_and_so_is_what_our_losers_have() -> None:
    assert merge(THEIRS, MIDDLE) == merge(THEIRS, COMMON) == merge(THEIRS, THEIRS) == Known()
    assert merge(THEIRS, OURS, kept=[OURS]) == Known()
    assert merge(THEIRS, NOTHING) == Known()


def test_what_goes_on_from_ours_is_taken_from_where_we_are() -> None:
    assert merge(MIDDLE, THEIRS, base=MIDDLE) == Extends(0)
    assert merge(MIDDLE, THEIRS, base=COMMON) == Extends(1), "the first of the entries is known"
    assert merge(NOTHING, COMMON, base=NOTHING) == Extends(0)
    assert merge(COMMON, THEIRS) == merge(NOTHING, THEIRS) == Extends(0), "a snapshot replaces what we have"


def test_a_delta_whose_base_we_lack_is_asked_for_as_a_snapshot() -> None:
    assert merge(COMMON, THEIRS, base=MIDDLE) == Gap(COMMON, COMMON.last_event_id + 1)
    assert merge(NOTHING, THEIRS, base=COMMON) == Gap(NOTHING, 1)


def test_a_snapshot_without_the_events_that_we_lack_is_asked_for_again() -> None:
    needed = COMMON.last_event_id + 1
    assert merge(COMMON, THEIRS, events_from=needed) == Extends(0)
    assert merge(COMMON, THEIRS, events_from=needed + 1) == Gap(COMMON, needed)
    assert merge(OURS, THEIRS, events_from=needed + 1) == Gap(OURS, needed)


def test_a_fork_needs_a_snapshot_and_both_sides_see_the_same_one() -> None:
    assert merge(OURS, THEIRS, base=COMMON) == Gap(OURS, COMMON.last_event_id + 1), "entries cannot be put onto another state"
    parted = (Point(5, 1), Point(3, 1))
    assert merge(OURS, THEIRS) == Fork(Side.THEIRS, *parted)
    assert merge(THEIRS, OURS) == Fork(Side.OURS, *parted)


def test_the_same_history_with_two_hashes_is_nobodys() -> None:
    forged = msgspec.structs.replace(THEIRS, history_hash=b"x" * 16)
    assert isinstance(merge(THEIRS, forged), Contradiction) and isinstance(merge(forged, THEIRS), Contradiction)
    assert isinstance(merge(OURS, forged, kept=[THEIRS]), Contradiction)
    unknown = msgspec.structs.replace(THEIRS, history_hash=b"")
    assert merge(THEIRS, unknown) == Known(), "a row from before there were hashes contradicts nothing"


def test_notes_alone_can_part_a_run_and_the_later_version_keeps_its_own() -> None:
    run = Run()
    run.start_task()
    ours, theirs = part(run, 1), part(run, 2)
    ours.signal("ours")
    theirs.signal("theirs")
    heads = (head_of(ours.state), head_of(theirs.state))
    assert heads[0].versions == heads[1].versions
    assert merge(*heads) == Fork(Side.THEIRS, Point(3, 0), Point(2, 0))


# --- any number of them, in any order ----------------------------------------------------------------------------------


def test_every_order_of_arrival_ends_with_the_same_branches() -> None:
    known = {told_in_order(list(order)) for order in itertools.permutations((COMMON, OURS, MIDDLE, THEIRS))}
    assert known == {Branches(THEIRS, (OURS,))}


@settings(max_examples=150, deadline=None)
@given(families, st.randoms(use_true_random=False))
def test_arrival_order_and_repetition_change_nothing(lines: list[tuple[object, ...]], random: object) -> None:
    heads = [head_of_line(line) for line in lines[-7:]]  # type: ignore[arg-type]
    told = heads + heads[::2]
    expected = told_in_order(heads)
    for _ in range(4):
        random.shuffle(told)  # type: ignore[attr-defined]
        assert told_in_order(told) == expected
    # Two regions that exchange all they know agree, and telling it again changes nothing.
    for cut in range(len(heads) + 1):
        one, other = told_in_order(heads[:cut]), told_in_order(heads[cut:])
        assert told_in_order([one.current, *one.losers, other.current, *other.losers]) == expected
    assert all(take(expected, head) == expected for head in heads)
    branches = [expected.current, *expected.losers]
    assert all(any(contains(branch, head) for branch in branches) for head in heads), "every state is kept in some branch"
    assert not any(extends(one, other) for one, other in itertools.permutations(branches, 2))
    assert all(winner(expected.current, head) == expected.current for head in heads)


@settings(max_examples=100, deadline=None)
@given(families)
def test_what_merge_says_of_snapshots_is_what_take_does(lines: list[tuple[object, ...]]) -> None:
    known = Branches()
    for head in (head_of_line(line) for line in lines[-12:]):  # type: ignore[arg-type]
        verdict, after = merge(known.current, head, kept=known.losers), take(known, head)
        if verdict == Known():
            assert after == known
        elif isinstance(verdict, Extends):
            assert after.current == head
        else:
            assert isinstance(verdict, Fork)
            assert after.current == (head if verdict.wins is Side.THEIRS else known.current)
            assert {after.current, *after.losers} >= {head}
            back = merge(head, known.current)
            assert isinstance(back, Fork) and back.wins is not verdict.wins and back[1:] == verdict[1:]
        known = after


# --- two runs of one workflow id ---------------------------------------------------------------------------------------


def claims() -> st.SearchStrategy[RunClaim]:
    small = st.integers(1, 3)
    return st.builds(RunClaim, small, small, st.booleans(), small, st.sampled_from("abc"))


@given(claims(), claims(), claims())
def test_the_current_run_does_not_depend_on_the_order_in_which_runs_meet(one: RunClaim, other: RunClaim, third: RunClaim) -> None:
    assert winner_of_runs(one, other) == winner_of_runs(other, one)
    assert winner_of_runs(one, winner_of_runs(other, third)) == winner_of_runs(winner_of_runs(one, other), third)


def test_the_run_that_was_written_last_is_the_current_one() -> None:
    old, new = Run(), Run()
    old.version = new.version = 1
    new.version = 2
    new.signal()
    assert winner_of_runs(claim_of(old.state), claim_of(new.state)) == claim_of(new.state)


def test_of_a_chain_the_successor_is_current_whatever_the_run_ids_are() -> None:
    first = Run()
    done = first.task(commands.continue_as_new())
    after = first.successor(done)
    assert not claim_of(first.state).is_last_of_chain
    assert winner_of_runs(claim_of(first.state), claim_of(after.state)) == claim_of(after.state)


def test_notes_of_a_closed_run_make_no_claim() -> None:
    """What it still owes is noted under the version of whoever is active then; the run that followed it stays current."""
    closed = Run()
    closed.version = 1
    closed.task(commands.start_child("c"))
    closed.terminate()
    before = claim_of(closed.state)
    closed.version = 2
    closed.do(lambda t: child.close_policy_done(t, 5))
    assert closed.state.transition_history[-1][1] == 2 and claim_of(closed.state) == before
