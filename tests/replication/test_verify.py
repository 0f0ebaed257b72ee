"""Equal regions are found equal after whatever happened; what was planted is found, named, and healed where it may be."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.core.errors import CallerError
from cluster.core.events import join_framed, split_framed
from cluster.history.replicas import TOMBSTONES_KIND
from cluster.stores.base import HistoryBlob, ShardId, Snapshot
from replication.verification import Kind
from tests.history.commands import complete, continue_as_new
from tests.history.world import refused
from tests.replication.comparing import Comparing, lease_of, rewrite_state, row_of, tamper, told, world_shard
from tests.replication.lossy_link import Faults
from tests.replication.test_stream import some_work
from tests.replication.two_regions import Pair, play


async def some_runs(pair: Pair) -> dict[str, str]:
    """Workflow ids and their current runs, in both regions."""
    runs: dict[str, str] = {}
    for number in range(8):
        runs[f"w{number}"] = await pair.one.start(f"w{number}")
        await pair.one.signal(f"w{number}", "hello")
    await pair.agree()
    return runs


def test_equal_regions_are_found_equal_with_one_question() -> None:
    async def story(pair: Pair) -> None:
        await some_runs(pair)
        comparing = Comparing(pair)
        report = await comparing.verify()
        assert (report.verdict, report.runs_here, report.runs_there, report.examined_count) == ("equal", 8, 8, 0)
        assert comparing.ports[0].asked_count == 1
        assert (await comparing.verify(of=1)).is_equal

    play(story)


def test_a_run_that_is_missing_is_named_and_told_again() -> None:
    async def story(pair: Pair) -> None:
        runs = await some_runs(pair)

        async def remove() -> None:
            row = await row_of(pair.two, "w3", runs["w3"])
            await pair.two.store.checkpoint(await lease_of(pair.two, "w3"), [], [], [row.key], 0)

        await tamper(pair, pair.two, remove)
        comparing = Comparing(pair)
        report = await comparing.verify(heals=False)
        assert {(one.workflow_id, one.run_id, one.kind) for one in report.differences} >= {("w3", runs["w3"], Kind.MISSING_THERE)}
        assert (report.verdict, report.runs_here, report.runs_there) == ("different", 8, 7)
        seen_there = await comparing.verify(of=1, heals=False)
        assert {(one.run_id, one.kind) for one in seen_there.differences} >= {(runs["w3"], Kind.MISSING_HERE)}
        healed = await comparing.verify(of=1)
        assert healed.verdict == "equal" and runs["w3"] in {one.run_id for one in healed.healed}
        assert (await comparing.verify()).examined_count == 0
        await pair.agree()

    play(story)


def test_an_event_that_was_changed_in_a_store_is_named_and_not_written_over() -> None:
    async def story(pair: Pair) -> None:
        runs = await some_runs(pair)

        async def change() -> None:
            row = await row_of(pair.two, "w5", runs["w5"])
            shard = ShardId(world_shard(pair.two, "w5"))
            blob = (await pair.two.store.history(shard, row.key, 0, 1, 100))[0]
            events = list(split_framed(blob.data))
            events[-1] = events[-1].replace(b"hello", b"jello")
            other = HistoryBlob(row.key, 0, blob.first_event_id, blob.last_event_id, join_framed(events))
            await pair.two.store.checkpoint(await lease_of(pair.two, "w5"), [], [other], [], 0)

        await tamper(pair, pair.two, change)
        comparing = Comparing(pair)
        assert (await comparing.verify(is_deep=False)).is_equal  # the states are equal
        report = await comparing.verify()
        assert told(report) == {("w5", "damaged in two: the stored events are not those that its state was folded from")}
        assert not report.healed
        assert told(await comparing.verify(of=1)) == told(report)

    play(story)


def test_a_state_that_was_changed_is_named() -> None:
    async def story(pair: Pair) -> None:
        runs = await some_runs(pair)
        await tamper(
            pair, pair.two, lambda: rewrite_state(pair.two, "w1", runs["w1"], lambda state: setattr(state, "task_queue", "no"))
        )
        assert told(await Comparing(pair).verify()) == {("w1", "the same events and transitions, with different states")}

    play(story)


def test_a_pointer_to_the_wrong_current_run_is_named_and_put_right() -> None:
    async def story(pair: Pair) -> None:
        first = await pair.one.start("w")
        await pair.one.work(continue_as_new())
        await pair.one.settle(1)
        await pair.one.work(complete())  # of open runs the region finds out by itself
        await pair.agree()
        last = (await pair.one.current("w")).key.run_id

        async def point_back() -> None:
            row = await row_of(pair.two, "w", first)
            back = Snapshot(row.key, row.data, True, row.is_open, row.wake_at, row.changed_position)
            await pair.two.store.checkpoint(await lease_of(pair.two, "w"), [back], [], [], 0)

        await tamper(pair, pair.two, point_back)
        comparing = Comparing(pair)
        assert told(await comparing.verify(heals=False)) == {("w", f"current run: {last} here, {first} there")}
        report = await comparing.verify()
        assert report.verdict == "equal" and [one.what for one in report.healed] == [f"current run: {last} here, {first} there"]
        await pair.two.checkpoint()
        row = await row_of(pair.two, "w", last)
        assert row.is_current

    play(story)


def test_a_tombstone_that_is_missing_is_named_and_told_again() -> None:
    async def story(pair: Pair) -> None:
        runs = await some_runs(pair)
        await pair.one.delete("w2")
        await pair.one.settle(8)
        await pair.agree()
        await pair.one.checkpoint()

        async def forget() -> None:
            kind = f"{TOMBSTONES_KIND}/{world_shard(pair.two, 'w2')}"
            (row,) = await pair.two.store.metadata_list(kind)
            assert await pair.two.store.metadata_delete(kind, row.id, row.version)

        await tamper(pair, pair.two, forget)
        comparing = Comparing(pair)
        report = await comparing.verify(heals=False)
        assert [(one.run_id, one.kind, one.what) for one in report.differences] == [
            (runs["w2"], Kind.MISSING_THERE, "its tombstone is missing there")
        ]
        assert [one.run_id for one in (await comparing.verify()).healed] == [runs["w2"]]
        assert (await comparing.verify(of=1)).is_equal

    play(story)


def test_what_is_under_way_is_behind_and_no_difference() -> None:
    async def story(pair: Pair) -> None:
        await some_runs(pair)
        pair.cut()
        world = pair.two
        slow = Faults(delay_s=60.0)  # the next link carries nothing in time
        pair.faults = slow
        await pair.one.signal("w4", "later")
        await pair.one.start("new")
        report = await Comparing(pair).verify()
        assert report.verdict == "behind" and not report.differences
        assert {one.workflow_id for one in report.behind} == {"w4", "new"}
        assert world.is_alive

    play(story)


def test_runs_that_change_while_they_are_compared_are_compared_again() -> None:
    async def story(pair: Pair) -> None:
        await some_runs(pair)
        comparing = Comparing(pair)
        is_over = False

        async def change() -> None:
            number = 0
            while not is_over:
                number += 1
                await pair.one.signal(f"w{number % 8}", f"s{number}", request_id=f"r{number}")
                await asyncio.sleep(0.03)

        changing = asyncio.get_running_loop().create_task(change())
        for _ in range(10):
            report = await comparing.verify(of=random.Random(1).randrange(2), is_fresh=True)
            assert not report.differences and not report.healed, report
        is_over = True
        await changing
        await pair.agree()
        assert (await comparing.verify()).is_equal

    play(story)


def test_runs_whose_retention_ends_in_each_region_in_its_own_time_are_no_difference() -> None:
    async def story(pair: Pair) -> None:
        await pair.one.start("w")
        await pair.one.work(complete())
        await some_runs(pair)
        day_ns, minute_ns = 86_400 * 1_000_000_000, 60 * 1_000_000_000
        pair.one.clock.skew_ns = day_ns - 60_000_000_000
        pair.two.clock.skew_ns = pair.one.clock.skew_ns + 2 * minute_ns  # its day is over two minutes earlier
        comparing = Comparing(pair)
        report = await comparing.verify(is_fresh=True)
        assert report.is_equal and (report.runs_here, report.runs_there, report.examined_count) == (9, 8, 1)
        await asyncio.sleep(600)
        report = await comparing.verify(is_fresh=True)
        assert report.is_equal and (report.runs_here, report.runs_there, report.examined_count) == (8, 8, 0)

    play(story)


def test_regions_that_cannot_be_asked_or_whose_shards_move_are_not_compared() -> None:
    async def story(pair: Pair) -> None:
        await some_runs(pair)
        comparing = Comparing(pair)
        pair.is_linked = False
        assert "nobody answers" in (await refused(comparing.verify())).message
        pair.is_linked = True
        shard = next(iter(pair.two.history._shards))
        await pair.two.inside(lambda: pair.two.history.release(shard))
        assert "moving" in (await refused(comparing.verify())).message
        await pair.two.inside(lambda: pair.two.history.take(shard))
        assert (await comparing.verify()).is_equal
        with pytest.raises(CallerError):
            await comparing.services[0].verify("three", "ns-id")

    play(story)


def test_a_shard_that_has_not_changed_is_not_read_again() -> None:
    async def story(pair: Pair) -> None:
        await some_runs(pair)
        comparing = Comparing(pair)
        await comparing.verify()
        read: list[int] = []
        runs = pair.one.store.runs

        async def counted(shard: ShardId, *rest: object) -> object:
            read.append(shard)
            return await runs(shard, *rest)  # type: ignore[arg-type]

        pair.one.store.runs = counted  # type: ignore[method-assign, assignment]
        await comparing.verify()
        assert read == []
        await pair.one.signal("w1", "again")
        await pair.agree()
        read.clear()
        assert (await comparing.verify()).is_equal
        assert set(read) == {world_shard(pair.one, "w1")}

    play(story)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), drop=st.sampled_from([0.0, 0.2]), fails_over=st.booleans())
def test_after_any_story_of_both_regions_the_verification_finds_them_equal(seed: int, drop: float, fails_over: bool) -> None:
    async def story(pair: Pair) -> None:
        draw = random.Random(seed)
        worlds = [pair.one, pair.two]
        version = 1
        for part in range(5):
            pair.is_linked = draw.random() < 0.6
            if not pair.is_linked:
                pair.cut()
            await some_work(next(world for world in worlds if world.view.is_active("")), seed + part, 8, not fails_over)
            if fails_over and draw.random() < 0.5:
                active = pair.two if version % 10 == 1 else pair.one
                version = version + 1 if active is pair.two else version + 9
                for world in worlds:
                    if world is active or pair.is_linked:
                        world.view.active, world.view.failover_version = active.name, version
                await pair.activate()
                await some_work(active, seed + 100 * part, 5)
            elif draw.random() < 0.3:
                await pair.restart(draw.choice(worlds))
        pair.fail_over(pair.two if version % 10 == 2 else pair.one, version)
        await pair.activate()
        pair.is_linked = True
        await pair.agree()
        comparing = Comparing(pair)
        for of in (0, 1):
            report = await comparing.verify(of=of, heals=False)
            assert report.is_equal, msgspec.to_builtins(report)

    play(story, Pair(Faults(seed, drop=drop, double=drop, delay_s=0.2)))
