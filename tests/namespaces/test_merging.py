"""What two regions know of one namespace, put together: laws over generated changes."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.core.errors import CallerError
from cluster.namespaces.changes import updated, with_search_attributes, with_state, without_search_attributes
from cluster.namespaces.merging import is_same, merged, settings_of, stamped
from cluster.namespaces.record import DELETED, DEPRECATED, NamespaceRecord, Stamp, decode_record, encode_record
from replication import failover
from replication.failover import Ownership
from tests.namespaces.registering import LIMITS
from tests.namespaces.two_regions import REGIONS, VERSIONS, wished

NAMES = tuple(VERSIONS)
BASE = NamespaceRecord(
    id="i", name="shop", retention_ns=LIMITS.retention_min_ns, created_at=1, clusters=list(NAMES), active_cluster="c1"
).owned(failover.promote(Ownership(active="c1"), REGIONS, "c1"))

_NAME = st.sampled_from(NAMES)
_KEY = st.sampled_from(["a", "b"])
# (region, what it does, with what): "hear" takes what another region has.
ACTIONS = st.lists(
    st.one_of(
        st.tuples(_NAME, st.just("hear"), _NAME),
        st.tuples(_NAME, st.just("active"), _NAME),
        st.tuples(_NAME, st.just("describe"), st.text("xyz", min_size=1, max_size=2)),
        st.tuples(_NAME, st.just("data"), _KEY),
        st.tuples(_NAME, st.sampled_from(["add", "remove"]), _KEY),
        st.tuples(_NAME, st.just("clusters"), st.sets(_NAME, min_size=1)),
        st.tuples(_NAME, st.just("state"), st.sampled_from([DEPRECATED, DELETED])),
    ),
    max_size=20,
)


def change(record: NamespaceRecord, here: str, action: str, what: Any, now_ns: int) -> NamespaceRecord:
    """A change as the registry makes it; one that is refused changes nothing."""
    try:
        if action == "add":
            after = with_search_attributes(record, {what: 2 + now_ns % 2}, LIMITS)
        elif action == "remove":
            after = without_search_attributes(record, [what])
        elif action == "state":
            after = with_state(record, what)
        elif action == "data":
            after = msgspec.structs.replace(record, data=record.data | {what: f"{here} at {now_ns}"})
        elif action == "describe":
            after = msgspec.structs.replace(record, description=what)
        else:
            asked = wished(active=what) if action == "active" else wished(*sorted(what))
            after = updated(record, asked, here, REGIONS, LIMITS, now_ns)
    except CallerError:
        return record
    return stamped(record, after, here)


def played(actions: list[tuple[str, str, Any]]) -> tuple[dict[str, NamespaceRecord], list[NamespaceRecord]]:
    held, ever = dict.fromkeys(NAMES, BASE), [BASE]
    for now_ns, (here, action, what) in enumerate(actions, 1):
        held[here] = merged(held[here], held[what]) if action == "hear" else change(held[here], here, action, what, now_ns)
        ever.append(held[here])
    return held, ever


@settings(max_examples=300, deadline=None)
@given(ACTIONS)
def test_regions_end_with_the_same_record_in_whatever_order_they_hear_of_changes(actions: list[tuple[str, str, Any]]) -> None:
    held, ever = played(actions)
    ends = []
    for order in itertools.permutations(held.values()):
        end = order[0]
        for one in [*order[1:], *order]:  # and hearing twice changes nothing
            end = merged(end, one)
        ends.append(end)
    everything = ever[0]
    for one in ever[1:]:  # nor does what they had in between
        everything = merged(everything, one)
    assert all(is_same(end, everything) for end in ends)
    assert everything.active_cluster in everything.members


@settings(max_examples=200, deadline=None)
@given(ACTIONS, st.randoms(use_true_random=False))
def test_merging_is_associative(actions: list[tuple[str, str, Any]], random: Any) -> None:
    _, ever = played(actions)
    one, two, three = (random.choice(ever) for _ in range(3))
    assert is_same(merged(merged(one, two), three), merged(one, merged(two, three)))
    assert is_same(merged(one, two), merged(two, one))
    assert is_same(merged(one, one), one)


def test_changes_of_different_settings_at_the_same_time_are_all_kept() -> None:
    here = change(change(BASE, "c1", "describe", "new", 1), "c1", "data", "a", 2)
    there = change(change(BASE, "c2", "add", "b", 1), "c2", "active", "c2", 2)
    both = merged(here, there)
    assert (both.description, list(both.data), list(both.custom_search_attributes)) == ("new", ["a"], ["b"])
    assert (both.active_cluster, both.failover_version) == ("c2", 2)


def test_of_two_writers_of_one_setting_the_later_counts_and_of_two_at_once_the_greater_name() -> None:
    one, other = change(BASE, "c1", "describe", "z", 1), change(BASE, "c2", "describe", "a", 1)
    both = merged(one, other)
    assert both.description == "a" and both.stamps["description"] == Stamp(1, "c2")
    later = change(both, "c1", "describe", "x", 2)
    assert later.stamps["description"] == Stamp(2, "c1")
    assert merged(other, later).description == merged(later, other).description == "x"


def test_a_removed_search_attribute_stays_removed_until_somebody_adds_it_again() -> None:
    added = change(BASE, "c1", "add", "a", 1)
    removed = change(added, "c2", "remove", "a", 2)
    assert merged(added, removed).custom_search_attributes == merged(removed, added).custom_search_attributes == {}
    again = change(merged(added, removed), "c1", "add", "a", 3)
    assert list(merged(again, removed).custom_search_attributes) == ["a"]


def test_a_deletion_beats_everything() -> None:
    deleted = change(BASE, "c1", "state", DELETED, 1)
    busy = change(change(BASE, "c2", "active", "c2", 1), "c2", "describe", "new", 2)
    assert merged(deleted, busy).state == merged(busy, deleted).state == DELETED


def test_a_region_taken_off_the_list_while_it_became_active_stays_on_it() -> None:
    shrunk = change(BASE, "c1", "clusters", {"c1"}, 1)
    moved = change(BASE, "c2", "active", "c2", 1)
    both = merged(shrunk, moved)
    assert both.members == ("c1", "c2") and both.active_cluster == "c2"
    back = change(both, "c1", "active", "c1", 2)
    assert back.members == ("c1",) and back.failover_version == 11


def test_a_local_namespace_has_no_stamps_and_its_stored_form_is_that_of_older_servers() -> None:
    local = NamespaceRecord(id="i", name="n", retention_ns=1, created_at=1, clusters=["c1"], active_cluster="c1")
    after = change(local, "c1", "describe", "new", 1)
    assert (after.stamps, after.config_version, after.record_version) == ({}, 0, 1)
    assert BASE.record_version == 2 and decode_record(encode_record(BASE)) == BASE
    assert set(settings_of(BASE)) == {"description", "owner_email", "retention_ns", "clusters"}
