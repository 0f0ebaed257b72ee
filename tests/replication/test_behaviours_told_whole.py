"""Runs that are told whole: to a region that becomes one of the namespace's, and one by one. See replication.md, section 9.

There is no call that imports a history here: what another server calls import or force replication is `Feed.tell_whole`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import pytest

from cluster.core.branches import Head
from cluster.core.events import split_framed
from cluster.history.forks import Poison, losing_branch
from cluster.history.replicate import Applied, Wanted, replicate
from cluster.history.run_delta import LosingBranch, RunDelta, decode_delta
from replication.run_news import RunNews, delta_of
from tests.history.commands import activity, complete, timer
from tests.history.world import NAMESPACE, eventually
from tests.replication.calls import heal, split
from tests.replication.two_regions import Pair, RegionWorld, play


class Third:
    """A region "three", linked with one, that is not one of the namespace's regions until it is let in."""

    def __init__(self, pair: Pair) -> None:
        self.is_in = False
        self.world = RegionWorld("three", 5, ("one",))
        pair.one.peers = ("two", "three")
        self._one = pair.one
        self._way = Pair()
        self._way.one, self._way.two = pair.one, self.world

    async def begin(self) -> None:
        await self.world.begin()
        self._one.region._has = lambda peer, namespace_id: peer != "three" or self.is_in
        self._way.dial()

    async def let_in(self) -> None:
        """Every run is told, whatever was told before; returns when all of it is there."""
        self.is_in = True
        view = self.world.view
        view.active, view.failover_version = self._one.view.active, self._one.view.failover_version
        sender = self._one.region.senders["three"]
        for feed in sender.feeds.values():
            feed.tell_whole(frozenset({NAMESPACE.id}))
        sender.has_news()
        for feed in sender.feeds.values():
            await eventually(partial(_is_told, feed))


def _is_told(feed: Any) -> bool:
    feed.whole_told()
    return not feed.is_telling_whole


async def branches(world: RegionWorld, workflow_id: str) -> dict[Head, tuple[int, list[bytes]]]:
    """Of the current run: the head of each branch that lost, where it begins, and its events as they are stored."""
    run = await world.current(workflow_id)
    shard = world.shard_for(workflow_id)
    assert shard.replicas is not None
    found: dict[Head, tuple[int, list[bytes]]] = {}
    for kept in shard.replicas.losers(run.key, run.state):
        branch: LosingBranch = await world.inside(partial(losing_branch, shard, run, kept))
        found[branch.head] = branch.events_from, list(split_framed(branch.events))
    return found


def play_with_third(story: Any) -> None:
    pair = Pair()
    third = Third(pair)

    async def whole(pair: Pair) -> None:
        await third.begin()
        await story(pair, third)
        assert not third.world.failed_jobs, third.world.failed_jobs
        third.world.crash()

    play(whole, pair)


def test_replicate_history_events_force_replication_scenario() -> None:
    """A run of several branches: all of them, and all events, are equal on the target."""

    async def story(pair: Pair, third: Third) -> None:
        one, two, three = pair.one, pair.two, third.world
        await one.start("w")
        await one.work(timer("before", 500), activity("before"))
        await pair.agree()
        await split(pair)
        for world in (one, two):
            await world.signal("w", f"in {world.name}")
            await world.work(timer(f"of {world.name}", 500))
        await heal(pair)
        assert not await three.all_runs()
        await third.let_in()
        assert await three.all_runs() == await one.all_runs() == await two.all_runs()
        assert await three.history_of("w") == await one.history_of("w")
        there = await branches(three, "w")
        assert there == await branches(one, "w") and len(there) == 1
        ((_, events),) = there.values()
        assert len(events) >= 3, "the branch of one has its signal, and the workflow task behind it"
        await three.restart()
        assert await branches(three, "w") == there

    play_with_third(story)


def test_import_multiple_branch() -> None:
    """Three branches, as both regions took over without having heard of each other."""

    async def story(pair: Pair, third: Third) -> None:
        one, two, three = pair.one, pair.two, third.world
        await one.start("w")
        await pair.agree()
        await split(pair)
        await one.signal("w", "of version 1")
        await two.signal("w", "of version 2")
        one.view.active, one.view.failover_version = "one", 11
        await one.signal("w", "of version 11")
        two.view.active, two.view.failover_version = "one", 11
        pair.is_linked = True
        await pair.activate()
        await pair.agree()
        await third.let_in()
        assert await three.all_runs() == await one.all_runs()
        assert await branches(three, "w") == await branches(one, "w") != {}

    play_with_third(story)


@pytest.mark.parametrize("is_closed", [False, True])
def test_import_single(is_closed: bool) -> None:
    """One branch, open or closed: the same mutable state on the target, by its checksum."""

    async def story(pair: Pair, third: Third) -> None:
        one, three = pair.one, third.world
        await one.start("w")
        await one.work(timer("t", 500), activity("a"), activity("b"))
        await one.complete_activity(await one.take_activity(), "first")
        await one.signal("w", "s")
        if is_closed:
            await one.work(complete())
        await pair.agree()
        await one.checkpoint()
        await third.let_in()
        assert await three.all_runs() == await one.all_runs()
        ours, theirs = (await one.current("w")).state, (await three.current("w")).state
        assert theirs.is_open is not is_closed
        assert theirs.timers.keys() == ours.timers.keys() and theirs.activity_ids == ours.activity_ids

    play_with_third(story)


def test_replicate_workflow_state_partial_replicated() -> None:
    """A state whose first events are not there is not taken in: the events are asked for; with them it is."""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        pair.is_linked = False
        pair.cut()
        await one.start("w")
        await one.work(timer("t", 500))
        await one.signal("w", "s")
        run, source, target = await one.current("w"), one.shard_for("w"), two.shard_for("w")

        async def state_with_events(first: int) -> RunDelta:
            return decode_delta(await one.inside(partial(delta_of, source, RunNews(run.key, []), first)))

        partly = await state_with_events(4)
        assert partly.events_from == 4 and partly.state
        wanted = await two.inside(partial(replicate, target, partly))
        assert isinstance(wanted, Wanted) and wanted.events_from == 1
        assert await two.all_runs() == {}, "nothing of it is there"
        whole = await state_with_events(1)
        events = list(split_framed(whole.events))
        with pytest.raises(Poison):  # its events end too early for the state that it brings
            await two.inside(partial(replicate, target, msgspec.structs.replace(whole, events=partly.events)))
        assert await two.all_runs() == {} and len(events) == whole.head.last_event_id
        assert isinstance(await two.inside(partial(replicate, target, whole)), Applied)
        assert await two.all_runs() == await one.all_runs()
        assert isinstance(await two.inside(partial(replicate, target, partly)), Applied), "it is known now"

    play(story)
