"""The plan of moves: pure, so its promises hold for any members, any holdings, any order of views."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.membership.members import NodeInfo, NodeState
from cluster.membership.ring import Ring
from cluster.routing.shard_plan import formers, plan
from tests.routing.stage import info

SHARDS = 16
IDS = tuple("abcdef")
node_sets = st.sets(st.sampled_from(IDS), max_size=5)
settle = settings(max_examples=60, deadline=None)


def ring(ids: set[str], leaving: frozenset[str] = frozenset()) -> Ring:
    nodes: list[NodeInfo] = [info(each, shards=SHARDS) for each in sorted(ids)]
    state = NodeState.LEAVING
    return Ring([msgspec.structs.replace(node, state=state) if node.node_id in leaving else node for node in nodes], SHARDS)


holdings = st.sets(st.integers(0, SHARDS - 1))
known = st.dictionaries(st.integers(0, SHARDS - 1), st.sampled_from(IDS))


@settle
@given(st.sampled_from(IDS), node_sets, holdings, known, node_sets)
def test_a_plan_takes_what_is_mine_and_missing_and_names_what_is_anothers(
    me: str, ids: set[str], owned: set[int], former: dict[int, str], alive: set[str]
) -> None:
    seen = ring(ids)
    takes, gives = plan(me, seen, owned, former, alive)
    assert {take.shard for take in takes} == set(seen.shards_of(me)) - owned
    assert len({take.shard for take in takes}) == len(takes)
    wanted = {shard for shard in owned if (owner := seen.owner_of_shard(shard)) is not None and owner.node_id != me}
    assert set(gives) == wanted
    assert not ids or set(gives) | set(seen.shards_of(me)) >= owned, "with somebody in the ring, every shard has a place"


@settle
@given(st.sampled_from(IDS), node_sets, holdings, known, node_sets)
def test_only_a_living_other_is_asked_and_what_nobody_serves_comes_first(
    me: str, ids: set[str], owned: set[int], former: dict[int, str], alive: set[str]
) -> None:
    takes = plan(me, ring(ids), owned, former, alive).takes
    assert all(take.ask == "" or (take.ask != me and take.ask in alive and take.ask == former[take.shard]) for take in takes)
    asked = [take.ask != "" for take in takes]
    assert asked == sorted(asked)


@settle
@given(st.lists(node_sets, min_size=1, max_size=5))
def test_carried_out_everywhere_the_plans_give_every_shard_one_owner_and_then_rest(views: list[set[str]]) -> None:
    held: dict[str, set[int]] = {each: set() for each in IDS}
    former: dict[str, dict[int, str]] = {each: {} for each in IDS}
    before = ring(set())
    for ids in views:
        after = ring(ids)
        moved = 0
        for me in IDS:
            former[me] = formers(me, former[me], before, after)
        for me in sorted(ids):
            for take in plan(me, after, held[me], former[me], ids).takes:
                holders = [each for each in IDS if take.shard in held[each]]
                assert len(holders) <= 1
                if holders and holders[0] in ids:
                    assert take.ask == holders[0], "a holder that lives is asked"
                for each in holders:
                    held[each].discard(take.shard)
                held[me].add(take.shard)
                moved += 1
        if ids:
            assert sum(map(len, held.values())) == SHARDS
            assert all(held[each] == set(after.shards_of(each)) for each in IDS)
        assert not ids or not any(plan(me, after, held[me], former[me], ids).takes for me in ids)
        before = after


def test_a_node_that_sees_its_first_ring_knows_whom_to_ask() -> None:
    without, joined = ring({"a", "b"}), ring({"a", "b", "c"})
    former = formers("c", {}, ring(set()), joined)
    for shard in joined.shards_of("c"):
        owner = without.owner_of_shard(shard)
        assert owner is not None and former[shard] == owner.node_id


def test_the_first_node_of_all_asks_nobody() -> None:
    alone = ring({"a"})
    takes = plan("a", alone, (), formers("a", {}, ring(set()), alone), {"a"}).takes
    assert len(takes) == SHARDS and not any(take.ask for take in takes)


def test_a_leaving_node_is_given_nothing_and_asked_for_everything() -> None:
    before, after = ring({"a", "b"}), ring({"a", "b"}, frozenset({"b"}))
    assert plan("b", after, before.shards_of("b"), {}, {"a", "b"}).gives == tuple(before.shards_of("b"))
    takes = plan("a", after, before.shards_of("a"), formers("a", {}, before, after), {"a", "b"}).takes
    assert {take.shard for take in takes} == set(before.shards_of("b"))
    assert {take.ask for take in takes} == {"b"}


def test_the_last_node_keeps_its_shards_while_nobody_is_ready() -> None:
    before, after = ring({"a"}), ring({"a"}, frozenset({"a"}))
    assert plan("a", after, before.shards_of("a"), {}, {"a"}) == ((), ())
