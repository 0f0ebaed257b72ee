"""Which region owns a namespace: the table, row by row, and the laws of versions and merging over generated failovers."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replication import failover
from replication.failover import Failover, NotAllowed, Ownership, OwnershipAlarm, Regions, State

NAMES = ("c1", "c2", "c3")
REGIONS = Regions({"c1": 1, "c2": 2, "c3": 3}, 10, frozenset(NAMES), are_linked=True)
LOCAL = Ownership(active="c1")
NORMAL = failover.promote(LOCAL, REGIONS, "c1")
HANDOVER = failover.begin_handover(NORMAL, "c1", 1, "c2", until_ns=100)

STEPS: dict[str, Callable[[Ownership], Ownership]] = {
    "promote": lambda one: failover.promote(one, REGIONS, "c1"),
    "fail over": lambda one: failover.fail_over(one, "c2", REGIONS, "c1", 5),
    "begin handover": lambda one: failover.begin_handover(one, "c1", 5, "c2"),
    "finish handover": lambda one: failover.finish_handover(one, REGIONS, "c1", 5),
    "abort handover": lambda one: failover.abort_handover(one, "c1", 5),
}


@pytest.mark.parametrize("trigger", STEPS)
@pytest.mark.parametrize("before", [LOCAL, NORMAL, HANDOVER], ids=lambda one: one.state.value)
def test_each_step_leads_where_the_table_says_and_no_other_is_taken(before: Ownership, trigger: str) -> None:
    target = failover.TABLE.get((before.state, trigger))
    if target is None:
        with pytest.raises(NotAllowed):
            STEPS[trigger](before)
    else:
        assert STEPS[trigger](before).state is target


@pytest.mark.parametrize(
    ("current", "to", "version"),
    [(0, "c1", 1), (0, "c3", 3), (1, "c2", 2), (1, "c1", 11), (2, "c1", 11), (9, "c3", 13), (11, "c2", 12), (12, "c2", 22)],
)
def test_the_next_version_is_the_smallest_above_the_current_one_that_belongs_to_the_region(
    current: int, to: str, version: int
) -> None:
    assert REGIONS.next_version(to, current) == version
    assert [v for v in range(current + 1, version) if REGIONS.owner_of(v) == to] == []
    assert REGIONS.owner_of(version) == to


def test_a_failover_to_a_region_nobody_knows_is_not_decided() -> None:
    with pytest.raises(NotAllowed, match="no region is named c9"):
        failover.fail_over(NORMAL, "c9", REGIONS, "c1", 5)


def test_failing_over_to_the_owner_changes_nothing_and_ends_a_handover() -> None:
    assert failover.fail_over(NORMAL, "c1", REGIONS, "c1", 5) is NORMAL
    ended = failover.fail_over(HANDOVER, "c1", REGIONS, "c1", 5)
    assert (ended.state, ended.version, ended.handover_to, ended.handover_until) == (State.NORMAL, 1, "", 0)


def test_a_handover_keeps_its_version_until_it_is_finished() -> None:
    assert HANDOVER.version == NORMAL.version
    finished = failover.finish_handover(HANDOVER, REGIONS, "c1", 5)
    assert (finished.active, finished.version, finished.state, finished.handover_to) == ("c2", 2, State.NORMAL, "")
    with pytest.raises(NotAllowed, match="no destination"):
        failover.finish_handover(failover.begin_handover(NORMAL, "c1", 1), REGIONS, "c1", 5)
    with pytest.raises(NotAllowed, match="active already"):
        failover.begin_handover(NORMAL, "c1", 1, to="c1")


@pytest.mark.parametrize(("here", "now", "is_given_up"), [("c1", 99, False), ("c1", 100, True), ("c2", 100, False)])
def test_only_the_owner_gives_up_a_handover_and_only_when_its_time_is_over(here: str, now: int, is_given_up: bool) -> None:
    after = failover.give_up_overdue(HANDOVER, here, now)
    assert after.state is (State.NORMAL if is_given_up else State.HANDOVER)
    assert failover.give_up_overdue(failover.begin_handover(NORMAL, "c1", 1), "c1", 10**18).state is State.HANDOVER


def test_the_history_keeps_the_newest_versions() -> None:
    ownership = NORMAL
    for turn in range(failover.HISTORY_COUNT_MAX + 3):
        ownership = failover.fail_over(ownership, NAMES[(turn + 1) % 2], REGIONS, "c1", turn)
    versions = [one.version for one in ownership.history]
    assert len(versions) == failover.HISTORY_COUNT_MAX
    assert versions == sorted(versions) and versions[-1] == ownership.version


# --- laws -----------------------------------------------------------------------------------------------------------------
# Which region decides what: each on the record that it has at that moment, hearing of the others only now and then.
_A_NAME = st.sampled_from(NAMES)
ACTIONS = st.lists(st.tuples(_A_NAME, st.sampled_from([*NAMES, "begin", "abort", "finish", "hear"]), _A_NAME), max_size=25)


def decide(ownership: Ownership, action: str, here: str, now_ns: int) -> Ownership:
    """What cannot be done now is left out, as an operator would."""
    try:
        if action == "begin":
            return failover.begin_handover(ownership, here, now_ns, next(name for name in NAMES if name != ownership.active))
        if action == "abort":
            return failover.abort_handover(ownership, here, now_ns)
        if action == "finish":
            return failover.finish_handover(ownership, REGIONS, here, now_ns)
        return failover.fail_over(ownership, action, REGIONS, here, now_ns)
    except NotAllowed:
        return ownership


def played(actions: list[tuple[str, str, str]]) -> tuple[dict[str, Ownership], list[Ownership]]:
    """What each region has in the end, and every record there ever was."""
    held = dict.fromkeys(NAMES, NORMAL)
    ever = [NORMAL]
    for now_ns, (here, action, other) in enumerate(actions, 1):
        before = held[here]
        after = failover.merge(before, held[other]) if action == "hear" else decide(before, action, here, now_ns)
        assert after.version >= before.version
        assert after.version > before.version or after.active == before.active
        held[here] = after
        ever.append(after)
    return held, ever


@settings(max_examples=300, deadline=None)
@given(ACTIONS)
def test_a_version_has_one_owner_whatever_regions_decide_at_the_same_time(actions: list[tuple[str, str, str]]) -> None:
    _, ever = played(actions)
    owner: dict[int, str] = {}
    for one in ever:
        assert owner.setdefault(one.version, one.active) == one.active == REGIONS.owner_of(one.version)
        failover.check_owner(one, REGIONS)


@settings(max_examples=300, deadline=None)
@given(ACTIONS)
def test_regions_that_hear_of_each_other_agree_in_whatever_order_they_do(actions: list[tuple[str, str, str]]) -> None:
    held, _ = played(actions)
    ends = set()
    for order in itertools.permutations(held.values()):
        merged = order[0]
        for one in [*order[1:], *order]:  # and hearing twice changes nothing
            merged = failover.merge(merged, one)
        ends.add(merged)
    assert len(ends) == 1
    (end,) = ends
    assert end.version == max(one.version for one in held.values())


@settings(max_examples=200, deadline=None)
@given(ACTIONS, st.randoms(use_true_random=False))
def test_merging_all_records_there_ever_were_gives_the_same_in_any_grouping(
    actions: list[tuple[str, str, str]], random: object
) -> None:
    _, ever = played(actions)
    left = ever[0]
    for one in ever[1:]:
        left = failover.merge(left, one)
    groups = [list(ever[start::3]) for start in range(3) if ever[start::3]]
    merged_groups = []
    for group in groups:
        random.shuffle(group)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
        merged = group[0]
        for one in group[1:]:
            merged = failover.merge(merged, one)
        merged_groups.append(merged)
    right = merged_groups[-1]
    for one in merged_groups[:-1]:
        right = failover.merge(right, one)
    assert left == right


def test_one_version_with_two_owners_is_an_alarm_and_nobody_wins() -> None:
    other = Ownership(active="c2", version=1, state=State.NORMAL)
    for pair in ((NORMAL, other), (other, NORMAL)):
        with pytest.raises(OwnershipAlarm, match="failover version 1 is given to"):
            failover.merge(*pair)
    with pytest.raises(OwnershipAlarm, match="belongs to c1, a record gives it to c2"):
        failover.check_owner(other, REGIONS)
    failover.check_owner(Ownership(active="unknown", version=14, state=State.NORMAL), REGIONS)


def test_a_version_that_two_regions_issued_at_different_times_is_in_the_history_once() -> None:
    one, other = (failover.fail_over(NORMAL, "c2", REGIONS, here, now) for here, now in (("c1", 9), ("c3", 7)))
    assert failover.merge(one, other).history == failover.merge(other, one).history == (Failover(7, 2),)
