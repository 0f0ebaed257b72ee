"""The ring: a node that comes or goes moves its share and nothing else; everybody computes the same."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.membership.members import NodeInfo, NodeState
from cluster.membership.ring import CACHED_PARTITIONS_MAX, HISTORY, MATCHING, Move, Ring, moves, partition_key, shard_key
from tests.membership.world import node

NAMES = st.lists(st.text("abcdefghij-0123456789", min_size=1, max_size=12), min_size=1, max_size=12, unique=True)
SHARDS = 128


def nodes(names: list[str], **changes: object) -> list[NodeInfo]:
    return [node(name, incarnation="i", **changes) for name in names]


@settings(deadline=None, max_examples=60)
@given(NAMES, st.data())
def test_a_node_that_comes_takes_shards_to_itself_alone_and_they_return_when_it_goes(
    names: list[str], data: st.DataObject
) -> None:
    newcomer = data.draw(st.text("klmnop", min_size=1, max_size=8))
    before, after = Ring(nodes(names), SHARDS), Ring(nodes([*names, newcomer]), SHARDS)
    moved = moves(before, after)
    assert {move.to_node for move in moved} <= {newcomer}
    assert [move.shard for move in moved] == after.shards_of(newcomer)
    assert [Move(move.shard, move.to_node, move.from_node) for move in moved] == moves(after, before)


@settings(deadline=None, max_examples=60)
@given(NAMES, st.data())
def test_a_partition_moves_only_to_or_from_the_node_that_changed(names: list[str], data: st.DataObject) -> None:
    newcomer = data.draw(st.text("klmnop", min_size=1, max_size=8))
    before, after = Ring(nodes(names), 1), Ring(nodes([*names, newcomer]), 1)
    for number in range(40):
        was, now = (ring.owner_of_partition("ns", f"queue-{number}", "workflow") for ring in (before, after))
        assert was is not None and now is not None
        assert now.node_id in (was.node_id, newcomer)


@settings(deadline=None, max_examples=60)
@given(NAMES, st.randoms(use_true_random=False))
def test_every_node_computes_the_same_ring_in_whatever_order_it_heard_of_the_members(names: list[str], random: object) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Ring(nodes(names), SHARDS).shard_owners == Ring(nodes(shuffled), SHARDS).shard_owners


@settings(deadline=None, max_examples=60)
@given(NAMES, st.integers(0, SHARDS - 1))
def test_the_ranking_begins_with_the_owner_and_loses_only_who_goes(names: list[str], shard: int) -> None:
    ring = Ring(nodes(names), SHARDS)
    ranked = [each.node_id for each in ring.ranked(HISTORY, shard_key(shard))]
    owner = ring.owner_of_shard(shard)
    assert owner is not None and ranked[0] == owner.node_id
    assert sorted(ranked) == sorted(names)
    rest = Ring(nodes([name for name in names if name != ranked[0]]), SHARDS)
    assert [each.node_id for each in rest.ranked(HISTORY, shard_key(shard))] == ranked[1:]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_adding_one_of_n_moves_about_one_nth(count: int) -> None:
    shards = 4_096
    names = [f"node-{number}" for number in range(count)]
    before, after = Ring(nodes(names), shards), Ring(nodes([*names, "node-new"]), shards)
    share = 1 / (count + 1)
    spread = 4 * math.sqrt(shards * share * (1 - share))  # four standard deviations of the binomial
    assert abs(len(moves(before, after)) - shards * share) < spread


def test_shards_are_spread_evenly_over_nodes() -> None:
    ring = Ring(nodes([f"node-{number}" for number in range(8)]), 4_096)
    counts = [count for owned in ring.spread().values() for count in owned.values()]
    assert len(counts) == 8 and sum(counts) == 4_096
    assert max(counts) < 512 + 4 * math.sqrt(4_096 / 8) and min(counts) > 512 - 4 * math.sqrt(4_096 / 8)


def test_the_hash_is_fixed_so_that_two_versions_in_one_ring_agree() -> None:
    ring = Ring(nodes(["a", "b", "c"]), 16)
    assert [owner.node_id if owner else None for owner in ring.shard_owners] == list(GOLDEN)
    assert partition_key("ns", "q", "workflow", 3) == b"queue/3/2:ns1:q8:workflow"


GOLDEN = "cbbbabbbaaabacba"


def test_only_ready_nodes_with_the_role_own_anything() -> None:
    members = [
        node("joining", state=NodeState.JOINING),
        node("leaving", state=NodeState.LEAVING),
        node("front", roles=("frontend",)),
        node("history", roles=("history",)),
        node("matching", roles=("matching",)),
    ]
    ring = Ring(members, 8)
    assert {owner.node_id for owner in ring.shard_owners if owner} == {"history"}
    owner = ring.owner_of_partition("ns", "q", "workflow")
    assert owner is not None and owner.node_id == "matching"
    assert [each.node_id for each in ring.with_role("frontend")] == ["front"]


def test_without_a_node_for_it_nobody_owns_a_shard() -> None:
    ring = Ring([node("front", roles=("frontend",))], 4)
    assert ring.shard_owners == (None,) * 4
    assert ring.owner(MATCHING, b"x") is None and ring.standbys(HISTORY, shard_key(0), 2) == []
    assert moves(ring, Ring([node("h")], 4)) == [Move(shard, None, "h") for shard in range(4)]


def test_a_change_that_moves_nothing_is_no_move() -> None:
    old = Ring([node("a", state=NodeState.READY), node("b", state=NodeState.JOINING)], 16)
    new = Ring([node("a", version="0.2.0", incarnation="restarted")], 16)
    assert moves(old, new) == []


def test_standbys_are_of_other_zones_first() -> None:
    members = [node("a1"), node("a2"), node("b1", zone="z2"), node("b2", zone="z2"), node("c1", zone="z3")]
    ring = Ring(members, 64)
    for shard in range(64):
        owner = ring.owner_of_shard(shard)
        first, second, *rest = ring.standbys(HISTORY, shard_key(shard), 4)
        assert owner is not None
        assert len({owner.zone, first.zone, second.zone}) == 3
        assert len({each.node_id for each in (owner, first, second, *rest)}) == 5
    assert set(ring.spread()) == {"z1", "z2", "z3"}
    assert sum(count for owned in ring.spread().values() for count in owned.values()) == 64


PARTITIONS = st.tuples(st.text("a1:/", max_size=6), st.text("a1:/", max_size=6), st.integers(0, 20))


@given(PARTITIONS, PARTITIONS)
def test_different_partitions_have_different_keys(one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
    keys = [partition_key(namespace, queue, "workflow", number) for namespace, queue, number in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


def test_the_cache_of_partitions_is_bounded_and_changes_no_answer() -> None:
    ring = Ring(nodes(["a", "b", "c"]), 1)
    first = [ring.owner_of_partition("ns", f"q{number}", "activity") for number in range(CACHED_PARTITIONS_MAX + 10)]
    assert len(ring._partitions) <= CACHED_PARTITIONS_MAX
    assert [ring.owner_of_partition("ns", f"q{number}", "activity") for number in range(100)] == first[:100]


def test_a_shard_that_does_not_exist_and_rings_of_different_size_are_refused() -> None:
    ring = Ring(nodes(["a"]), 4)
    for shard in (-1, 4):
        with pytest.raises(ValueError, match="of 4"):
            ring.owner_of_shard(shard)
    with pytest.raises(ValueError, match="4 shards cannot become 8"):
        moves(ring, Ring(nodes(["a"]), 8))
