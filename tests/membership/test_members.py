"""Members without a registry: entries, the fold of news, flapping, the static list."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.membership.etcd_entries import EtcdSettings
from cluster.membership.flapping import SECOND_NS, FlapLimits, hold_s, next_joins
from cluster.membership.member_table import MemberTable
from cluster.membership.members import Membership, MembershipRefused, NodeInfo, NodeState, View
from cluster.membership.static import StaticMembership
from tests.membership.world import node

LIMITS = FlapLimits()
IDS = st.sampled_from("abcdef")
NEWS = st.one_of(
    st.tuples(st.just("put"), IDS), st.tuples(st.just("remove"), IDS), st.tuples(st.just("read"), st.frozensets(IDS))
)


@pytest.mark.parametrize(
    "changes", [{"node_id": ""}, {"node_id": "a/b"}, {"node_id": "x" * 201}, {"roles": ("history", "king")}, {"shard_count": 0}]
)
def test_a_node_that_cannot_be_is_refused_also_when_it_is_read(changes: dict[str, object]) -> None:
    raw = msgspec.to_builtins(node("a")) | changes
    with pytest.raises(ValueError):
        NodeInfo(**raw)
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(msgspec.json.encode(raw), type=NodeInfo)


@pytest.mark.parametrize("changes", [{"prefix": "/x"}, {"call_timeout_s": 5.0}, {"call_timeout_s": 0.0}])
def test_settings_that_cannot_work_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        EtcdSettings(("e:1",), **changes)  # type: ignore[arg-type]


@given(st.lists(NEWS, max_size=30))
def test_the_table_is_what_the_news_say_when_the_registry_keeps_its_data(news: list[tuple[str, object]]) -> None:
    table, expected = MemberTable(), set()
    for kind, what in news:
        if kind == "put":
            table.put(node(str(what)))
            expected.add(what)
        elif kind == "remove":
            table.remove(str(what))
            expected.discard(what)
        else:
            assert isinstance(what, frozenset)
            table.replace([node(each) for each in what], has_lost_data=False)
            expected = set(what)
        assert [each.node_id for each in table.ordered()] == sorted(map(str, expected))
        assert not table.lingering


@given(st.frozensets(IDS), st.frozensets(IDS), st.lists(IDS, max_size=6), st.lists(IDS, max_size=6))
def test_a_registry_without_its_data_loses_nobody_until_their_time_is_over(
    known: frozenset[str], read: frozenset[str], back: list[str], gone: list[str]
) -> None:
    table = MemberTable()
    table.replace([node(each) for each in known], has_lost_data=False)
    table.replace([node(each) for each in read], has_lost_data=True)
    assert set(table.nodes) == known | read
    assert table.lingering == known - read
    table.replace([node(each) for each in read], has_lost_data=False)  # the same registry read again changes nothing
    assert set(table.nodes) == known | read
    for each in back:
        table.put(node(each))
    for each in gone:
        table.remove(each)
    left = (known - read) - set(back) - set(gone)
    assert table.lingering == left
    assert table.drop_lingering() == bool(left)
    assert set(table.nodes) == (read | set(back)) - set(gone)


def test_the_first_joins_are_free_and_then_the_wait_doubles_up_to_a_limit() -> None:
    waits = [hold_s(tuple(range(count)), LIMITS) for count in range(1, 10)]
    assert waits == [0, 0, 0, 5, 10, 20, 40, 60, 60]


def test_a_join_is_forgotten_after_the_window_and_one_of_the_future_does_not_count() -> None:
    now = 1_000 * SECOND_NS
    old, recent, future = now - LIMITS.window_s * SECOND_NS, now - SECOND_NS, now + SECOND_NS
    assert next_joins((old, recent, future), now, LIMITS) == (recent, now)


@given(st.lists(st.integers(0, 10**15), max_size=200), st.integers(0, 10**15))
def test_the_record_of_joins_is_bounded(joins: list[int], now: int) -> None:
    after = next_joins(tuple(joins), now, LIMITS)
    assert len(after) <= 64 and after[-1] == now and list(after) == sorted(after)


async def test_a_static_list_is_what_it_says_and_changes_are_told() -> None:
    a, b = node("a", state=NodeState.JOINING), node("b")
    membership = StaticMembership([a, b])
    assert membership.members().is_stale, "before join it says nothing"
    views: list[View] = []
    end = membership.on_change(views.append)
    await membership.join(a)
    assert membership.members().nodes == (a, b)
    await membership.set_state(NodeState.READY)
    membership.replace([node("a"), node("c")])
    assert [each.node_id for each in membership.members().nodes] == ["a", "c"]
    assert membership.members().nodes[0] == msgspec.structs.replace(a, state=NodeState.READY), "its own entry is its own"
    await asyncio.sleep(0)
    assert views == [membership.members()], "views that nobody could act on in between are passed over"
    end()
    await membership.leave()
    await asyncio.sleep(0)
    assert len(views) == 1
    assert [each.node_id for each in membership.members().nodes] == ["c"]


async def test_a_view_that_says_the_same_is_not_told_again() -> None:
    a = node("a")
    membership = StaticMembership([a])
    await membership.join(a)
    number = membership.members().number
    membership.replace([a])
    await membership.set_state(a.state)
    assert membership.members().number == number


@pytest.mark.parametrize(
    ("me", "words"),
    [
        (node("x"), "not in the list"),
        (node("a", address="other:1"), "listens on other:1"),
        (node("a", shard_count=8), "64 shards.*8"),
        (node("a", cluster_id="c2"), "'c2'"),
    ],
)
async def test_a_node_that_does_not_fit_the_list_is_refused_and_told_why(me: NodeInfo, words: str) -> None:
    membership: Membership = StaticMembership([node("a"), node("b")])
    with pytest.raises(MembershipRefused, match=words):
        await membership.join(me)


def test_a_node_listed_twice_is_refused() -> None:
    with pytest.raises(MembershipRefused, match="twice"):
        StaticMembership([node("a"), node("a")])
