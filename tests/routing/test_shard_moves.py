"""Shards follow the ring, gently when their owner lives, by force when it does not, and nobody's acknowledged call is lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from chaos.sim.loop import running_loop
from cluster.core.errors import Code
from cluster.history.ownership import READ_LEASE_S
from cluster.membership.members import NodeState
from cluster.routing.shard_moves import CONFIRM_S, MOVES_AT_ONCE, PAUSE_S, RELEASE_S_MAX
from tests.routing.stage import SHARDS, Stage, acknowledged, perform, refused, until

WORKFLOWS = [f"w{number}" for number in range(12)]


def of(stage: Stage, node_id: str) -> list[str]:
    """The workflows whose shard is on this node."""
    return [each for each in WORKFLOWS if stage.shard_of(each) in stage.node(node_id).open]


class Load:
    """Signals through every node that lives, repeated until acknowledged, as SDKs do."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage, self.draws = stage, random.Random(seed)
        self.acknowledged: dict[str, list[str]] = {each: [] for each in WORKFLOWS}
        self.attempts = 0
        self.is_over = False

    async def run(self) -> None:
        for each in WORKFLOWS:
            await self.stage.start(self._through(), each)
        await asyncio.gather(*(self._signals(each) for each in WORKFLOWS))

    def _through(self) -> str:
        return self.draws.choice([node.node_id for node in self.stage.nodes])

    async def _signals(self, workflow_id: str) -> None:
        number = 0
        while not self.is_over:
            number += 1
            name = f"{workflow_id}-{number}"
            self.attempts += await acknowledged(lambda name=name: self.stage.signal(self._through(), workflow_id, name))  # type: ignore[misc]
            self.acknowledged[workflow_id].append(name)
            await asyncio.sleep(self.draws.uniform(0, 0.02))

    async def check(self) -> None:
        for each in WORKFLOWS:
            assert self.acknowledged[each], "the load did something"
            for node in self.stage.nodes:
                assert await self.stage.signals(node.node_id, each) == self.acknowledged[each]


@pytest.mark.parametrize("seed", range(3))
def test_a_node_that_comes_and_goes_moves_only_its_share_and_loses_no_acknowledged_signal(seed: int) -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        load = Load(stage, seed)
        loading = asyncio.ensure_future(load.run())
        await asyncio.sleep(0.5)
        before = {node_id: stage.node(node_id).open for node_id in "ab"}
        await stage.add("c")
        share = stage.node("c").open
        assert 0 < len(share) < SHARDS / 2
        for node_id in "ab":
            assert stage.node(node_id).open == before[node_id] - share
        await asyncio.sleep(0.5)
        stage.change("c", NodeState.LEAVING)
        await until(lambda: stage.node("c").service.ownership.is_empty)
        stage.forget("c")
        await stage.settled()
        assert {node_id: stage.node(node_id).open for node_id in "ab"} == before
        await asyncio.sleep(0.5)
        load.is_over = True
        await loading
        assert not any(node.moves.lost_count for node in stage.nodes), "every move was by agreement"
        await load.check()
        acknowledged_count = sum(map(len, load.acknowledged.values()))
        assert load.attempts - acknowledged_count < len(WORKFLOWS), "hardly any call had to be repeated"

    perform(story)


@pytest.mark.parametrize("seed", range(3))
def test_a_node_that_is_killed_under_load_is_replaced_and_no_acknowledged_signal_is_lost(seed: int) -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b", "c")
        load = Load(stage, seed)
        loading = asyncio.ensure_future(load.run())
        await asyncio.sleep(0.5)
        stage.kill("b")
        await asyncio.sleep(2)  # until its registration has run out
        stage.forget("b")
        await stage.settled()
        await asyncio.sleep(0.5)
        await stage.add("b")  # the next life of it
        await asyncio.sleep(0.5)
        load.is_over = True
        await loading
        await load.check()

    perform(story)


def test_the_owner_is_killed_and_others_serve_its_runs() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b", "c")
        for each in WORKFLOWS:
            await stage.start("a", each)
            await stage.signal("a", each, "before")
        orphans = of(stage, "b")
        assert orphans
        stage.kill("b")
        stage.forget("b")
        assert await stage.settled() < READ_LEASE_S + 0.5, "nobody is asked; all wait at the same time"
        for each in orphans:
            await stage.signal("c", each, "after")
            assert await stage.signals("a", each) == ["before", "after"]
        assert stage.node("a").open | stage.node("c").open == set(range(SHARDS))

    perform(story)


def test_a_paused_owner_that_hears_nothing_is_fenced_and_does_not_steal_its_shard_back() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b", "c")
        for each in WORKFLOWS:
            await stage.start("a", each)
        paused = stage.node("b")
        mine = of(stage, "b")
        held = {shard: stage.node("b").service.ownership.open[shard].lease.range_id for shard in paused.open}
        paused.store.hold("append")
        late = asyncio.ensure_future(refused(stage.signal("b", mine[0], "late")))
        await asyncio.sleep(0.05)
        stage.network.cut.add("b:7000")
        stage.tell_one("b", is_stale=True)
        stage.silent = {"b"}
        del stage.states["b"]
        stage.tell()
        await stage.settled()
        for each in mine:
            await stage.signal("a", each, "new owner")
        paused.store.release("append")
        assert (await late).code is Code.UNAVAILABLE
        await asyncio.sleep(3 * (PAUSE_S + CONFIRM_S))
        assert not paused.open, "what the others took is given up: by the append, or when the lease was looked at"
        assert paused.moves.taken_count == len(held)
        for each in mine:
            assert await stage.signals("a", each) == ["new owner"]
        stage.network.heal()
        stage.silent = set()
        stage.states["b"] = NodeState.READY
        stage.tell()
        await stage.settled()
        assert paused.open == set(held), "a fresh view gives them back"

    perform(story)


def test_a_lost_lease_is_taken_again_after_a_pause_if_the_ring_still_says_so() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        for each in WORKFLOWS:
            await stage.start("a", each)
        (workflow_id, *_), node = of(stage, "b"), stage.node("b")
        shard = stage.shard_of(workflow_id)
        await stage.store.acquire(node.service.ownership.open[shard].lease.shard, "thief")
        began = running_loop().time()
        assert await acknowledged(lambda: stage.signal("a", workflow_id, "s")) > 1
        assert PAUSE_S <= running_loop().time() - began <= 2 * PAUSE_S + READ_LEASE_S + 0.6
        assert node.moves.lost_count == 1
        assert await stage.signals("a", workflow_id) == ["s"]

    perform(story)


def test_a_release_waits_for_the_checkpoint_and_the_former_owner_serves_until_then() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a")
        for each in WORKFLOWS:
            await stage.start("a", each)
        await stage.begin("b")
        giver = stage.node("a")
        giver.store.hold("checkpoint")
        stage.change("b", NodeState.READY)
        await until(lambda: giver.store.count("checkpoint") == MOVES_AT_ONCE)
        assert not stage.node("b").open, "nothing is taken before the former owner has let go"
        waiting = [each for each in WORKFLOWS if stage.owner(stage.shard_of(each)) == "b" and stage.shard_of(each) in giver.open]
        assert waiting, "those whose turn has not come are served where they were"
        for each in waiting:
            assert await stage.describe("b", each, deadline_s=0.5)
        giver.store.release("checkpoint")
        await stage.settled()
        assert giver.moves.lost_count == 0 and giver.moves.given_count == len(stage.node("b").open)
        for each in WORKFLOWS:
            shard = stage.shard_of(each)
            if shard in stage.node("b").open:
                bounds = await stage.store.journal_bounds(stage.node("b").service.ownership.open[shard].lease.shard)
                assert bounds[0] == bounds[1], "nothing was left to replay"

    perform(story)


def test_a_former_owner_that_does_not_let_go_is_fenced_in_the_end() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a")
        for each in WORKFLOWS:
            await stage.start("a", each)
        stage.node("a").store.hold("checkpoint")
        await stage.begin("b")
        stage.change("b", NodeState.READY)
        share = len(stage.node("a").peers.ring.shards_of("b")) or SHARDS
        await asyncio.sleep(RELEASE_S_MAX - 0.5)
        assert not stage.node("b").open
        await until(lambda: bool(stage.node("b").open), 2)
        taken = of(stage, "b")
        for each in taken:
            await stage.signal("a", each, "here")
        stage.node("a").store.release("checkpoint")
        await stage.settled(RELEASE_S_MAX * share)

    perform(story)


def test_at_most_a_few_shards_move_at_a_time() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a")
        stage.node("a").store.hold("checkpoint")
        await stage.begin("b")
        stage.change("b", NodeState.READY)
        await asyncio.sleep(1)
        assert stage.node("b").moves.under_way_count == MOVES_AT_ONCE
        assert stage.node("a").moves.under_way_count == MOVES_AT_ONCE
        stage.node("a").store.release("checkpoint")
        await stage.settled()
        figures = stage.node("b").moves.figures()
        assert figures["taken"] == figures["owned"] and 1 <= figures["last_moves_s_max"] < 1.1

    perform(story)


def test_a_leaving_node_is_emptied_and_the_drain_hears_of_it() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b", "c")
        for each in WORKFLOWS:
            await stage.start("a", each)
        moves = stage.node("b").moves
        stage.change("b", NodeState.LEAVING)
        await asyncio.sleep(0.001)
        deadline = running_loop().time() + 10
        assert await stage.inside("b", lambda node: moves.wait_until_empty(deadline))
        assert running_loop().time() < deadline - 5 and not stage.node("b").open
        for each in WORKFLOWS:
            await stage.signal("b", each, "through the one that leaves")
        assert moves.lost_count == 0

    perform(story)


def test_the_last_node_does_not_wait_for_heirs_and_serves_on() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a")
        await stage.start("a", "w")
        stage.change("a", NodeState.LEAVING)
        await asyncio.sleep(0.001)
        began = running_loop().time()
        assert not await stage.inside("a", lambda node: node.moves.wait_until_empty(began + 60))
        assert running_loop().time() == began
        await stage.signal("a", "w", "still here")
        assert await stage.signals("a", "w") == ["still here"]

    perform(story)


def test_a_stale_view_moves_nothing() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b", "c")
        before = {node.node_id: node.open for node in stage.nodes}
        ranges = {node.node_id: [row.range_id for row in node.moves.describe()] for node in stage.nodes}
        stage.silent = set("abc")
        del stage.states["c"]
        for node_id in "abc":
            stage.tell_one(node_id, is_stale=True)
        await asyncio.sleep(60)
        assert {node.node_id: node.open for node in stage.nodes} == before
        assert {node.node_id: [row.range_id for row in node.moves.describe()] for node in stage.nodes} == ranges
        stage.states["c"] = NodeState.READY
        stage.silent = set()
        stage.tell()
        await stage.settled()
        assert {node.node_id: node.open for node in stage.nodes} == before

    perform(story)


def test_a_shard_of_which_nobody_knows_that_it_was_taken_is_given_up_when_its_lease_is_looked_at() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        idle = stage.node("b")
        stage.silent = {"b"}
        stage.tell_one("b", is_stale=True)
        del stage.states["b"]
        stage.network.cut.add("b:7000")
        stage.tell()
        await stage.settled()
        await asyncio.sleep(2 * CONFIRM_S)
        assert not idle.open and idle.moves.lost_count
        stage.network.heal()
        stage.states["b"] = NodeState.READY
        stage.silent = set()
        stage.tell()
        await stage.settled()

    perform(story)


def test_an_owner_that_was_passed_over_for_a_moment_learns_who_has_its_shards() -> None:
    """The others saw it go and come back; it saw nothing, and has nothing to write that would tell it of its lost leases."""

    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        for each in WORKFLOWS:
            await stage.start("a", each)
        unaware = stage.node("b")
        mine = of(stage, "b")
        await asyncio.sleep(10)  # all is checkpointed
        stage.silent = {"b"}
        del stage.states["b"]
        stage.tell()
        await until(lambda: len(stage.node("a").open) == SHARDS)
        for each in mine:
            await stage.signal("a", each, "meanwhile")
        stage.states["b"] = NodeState.READY
        stage.tell()
        assert unaware.open and not unaware.moves.lost_count, "it has heard nothing"
        await asyncio.sleep(CONFIRM_S + 2 * PAUSE_S + 1)
        await stage.settled(1)
        for each in mine:
            assert await stage.signals("b", each) == ["meanwhile"]
        stage.silent = set()

    perform(story)
