"""A poison run, a queue that overruns, a store that fails: what happens to the rest. And what a passive region does not do."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

import replication.feed
from cluster.core.branches import contains, head_of
from cluster.core.entry import decode_entry
from cluster.core.state import checksum
from cluster.history.replicate import replicate
from cluster.history.run_delta import decode_delta, encode_delta
from cluster.stores.base import RunKey, ShardId, StoreUnavailable
from replication.cursors import CURSOR_KIND
from replication.quarantine import QUARANTINE_KIND
from replication.run_news import RunNews, delta_of, extension, news_of_group
from tests.history.commands import activity, child, complete, continue_as_new, timer
from tests.history.world import NAMESPACE, eventually
from tests.replication.lossy_link import Faults
from tests.replication.two_regions import LIMITS, Pair, RegionWorld, play


def poison(pair: Pair, workflow_id: str, *, until: list[bool]) -> None:
    """What is told of this workflow arrives with a checksum that is not its state's, for as long as until is [False]."""
    for sender in pair.one.region.senders.values():
        for feed in sender.feeds.values():

            async def offer(item: Any, now_s: float, honest: Any = feed.offer) -> Any:
                offer = await honest(item, now_s)
                delta = decode_delta(offer.delta)
                if delta.workflow_id == workflow_id and not until[0]:
                    delta = msgspec.structs.replace(delta, checksum="0" * 32)
                    offer = msgspec.structs.replace(offer, delta=encode_delta(delta))
                return offer

            feed.offer = offer  # type: ignore[method-assign]


# --- quarantine ----------------------------------------------------------------------------------------------------------


def test_a_poison_run_is_put_into_quarantine_and_the_others_flow() -> None:
    async def story(pair: Pair) -> None:
        honest = [False]
        await pair.one.start("warm-up")
        await pair.agree()
        poison(pair, "bad", until=honest)
        bad = await pair.one.start("bad")
        for number in range(10):
            await pair.one.start(f"good {number}")
        await eventually(lambda: pair.has_told_all())
        there = await pair.two.all_runs()
        assert bad not in there and len(there) == 11
        (row,) = await pair.two.region.quarantine.rows()
        assert row.run_id == bad and row.workflow_id == "bad" and "checksum" in row.reason and row.attempts == 1
        honest[0] = True
        await pair.one.signal("bad")  # its next delta brings it all
        await pair.agree()
        assert not await pair.two.region.quarantine.rows()

    play(story)


def test_a_quarantined_delta_survives_a_restart_and_can_be_retried_or_dropped() -> None:
    async def story(pair: Pair) -> None:
        await pair.one.start("warm-up")
        await pair.agree()
        poison(pair, "bad", until=[False])
        await pair.one.start("bad")
        await eventually(lambda: pair.has_told_all())
        await pair.restart(pair.two)
        region = pair.two.region
        (row,) = await region.quarantine.rows()
        assert "checksum" in await pair.two.inside(lambda: region.quarantine.retry(row.id, region.apply))
        (row,) = await region.quarantine.rows()
        assert row.attempts == 2
        good = msgspec.structs.replace(decode_delta(row.delta), checksum=_checksum(pair, "bad"))
        data = msgspec.msgpack.encode(msgspec.structs.replace(row, delta=encode_delta(good)))
        stored = await pair.two.store.metadata_get(QUARANTINE_KIND, row.id)
        assert stored is not None and await pair.two.store.metadata_put(QUARANTINE_KIND, row.id, data, stored.version)
        assert await pair.two.inside(lambda: region.quarantine.retry(row.id, region.apply)) == ""
        assert await region.quarantine.rows() == [] and not await region.quarantine.drop(row.id)
        await pair.agree()

    play(story)


def _checksum(pair: Pair, workflow_id: str) -> str:
    shard = pair.one.shard_for(workflow_id)
    return next(checksum(run.state) for key, run in shard.runs.items() if key.workflow_id == workflow_id)


def test_nothing_is_acknowledged_that_could_neither_be_applied_nor_quarantined() -> None:
    async def story(pair: Pair) -> None:
        await pair.one.start("warm-up")
        await pair.agree()
        poison(pair, "bad", until=[False])
        store, put = pair.two.store, pair.two.store.metadata_put

        async def unwritable(kind: str, id: str, data: bytes, expected_version: int) -> int | None:
            if kind == QUARANTINE_KIND:
                raise StoreUnavailable("the quarantine is full")
            return await put(kind, id, data, expected_version)

        store.metadata_put = unwritable  # type: ignore[method-assign]
        await pair.one.start("bad")
        position = pair.one.shard_for("bad").journal.durable_position
        await asyncio.sleep(30)
        number = pair.one.shard_for("bad").id
        assert pair.one.region.lag()["two"][number].positions >= 1
        assert pair.one.region.senders["two"].cursor(number) < position
        store.metadata_put = put  # type: ignore[method-assign]
        await eventually(lambda: pair.has_told_all())
        assert len(await pair.two.region.quarantine.rows()) == 1

    play(story)


# --- cursors and acknowledgements ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_what_a_stored_cursor_covers_is_durable_at_the_peer(seed: int) -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        checked: list[int] = []
        put = one.store.metadata_put

        async def watched(kind: str, id: str, data: bytes, expected_version: int) -> int | None:
            if kind == CURSOR_KIND:
                number, position = int(id.split("/")[1]), msgspec.msgpack.decode(data, type=int)
                for key, run in one.history._shards[number].runs.items():
                    if run.position <= position:
                        there = two.shard_for(key.workflow_id)
                        copy = there.runs[key]
                        assert contains(head_of(copy.state), head_of(run.state)), key
                        assert there.is_durable(copy)
                        checked.append(position)
            return await put(kind, id, data, expected_version)

        one.store.metadata_put = watched  # type: ignore[method-assign]
        for round in range(6):
            for number in range(8):
                await one.start(f"w{number}", request_id=f"{round}", workflow_id_conflict_policy=2)
                await one.signal(f"w{number}", f"s{round}")
            await asyncio.sleep(0.3)
        await pair.agree()
        assert checked

    play(story, Pair(Faults(seed, drop=0.1, double=0.2, delay_s=0.3)))


def test_cursors_only_rise_and_a_restarted_sender_tells_no_more_than_what_came_behind_them() -> None:
    async def story(pair: Pair) -> None:
        for number in range(20):
            await pair.one.start(f"w{number}")
        await pair.agree()
        await asyncio.sleep(1)
        await pair.restart(pair.one)
        await pair.agree()
        assert sum(len(end.sent) for end in pair.one.ends[-1:]) < 5

    play(story)


# --- the queue -----------------------------------------------------------------------------------------------------------


def test_a_peer_that_was_away_for_longer_than_the_queue_holds_is_caught_up_by_state() -> None:
    async def story(pair: Pair) -> None:
        await pair.one.start("w0")
        await pair.agree()
        pair.is_linked = False
        pair.cut()
        for number in range(12):
            await pair.one.start(f"w{number}", request_id="x", workflow_id_conflict_policy=2)
            for signal in range(4):
                await pair.one.signal(f"w{number}", f"s{signal}")
            if number == 6:
                await pair.one.checkpoint()
        lag = pair.one.region.lag()["two"]
        assert any(one.is_catching_up for one in lag.values())
        assert sum(one.positions for one in lag.values()) > 0
        pair.is_linked = True
        await pair.agree()

    pair = Pair()
    pair.one.stream_limits = msgspec.structs.replace(LIMITS, queue_entries_max=5)
    play(story, pair)


def test_a_new_peer_gets_all_that_there_is_while_the_active_region_works_on() -> None:
    async def story(pair: Pair) -> None:
        pair.is_linked = False
        pair.cut()
        for number in range(40):
            await pair.one.start(f"w{number}")
        await pair.one.checkpoint()
        for number in range(10):
            await pair.one.signal(f"w{number}", "not in a row yet")
        pair.is_linked = True
        for number in range(40):
            await pair.one.signal(f"w{number}", "while it is caught up")
            await asyncio.sleep(0.01)
        await pair.agree()
        assert len(await pair.two.all_runs()) == 40

    play(story)


def test_a_stale_owner_of_a_shard_tells_what_its_successor_has_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is durable, and beyond the end of its own journal."""

    async def story(pair: Pair) -> None:
        one = pair.one
        run_id = await one.start("w")
        await pair.agree()
        await one.checkpoint()
        shard, key = one.shard_for("w"), RunKey(NAMESPACE.id, "w", run_id)
        shard.forget(shard.runs[key])
        load = shard.store.load

        async def successors_row(number: ShardId, wanted: RunKey) -> Any:
            row = await load(number, wanted)
            assert row is not None
            return msgspec.structs.replace(row, changed_position=shard.journal.last_position + 2)

        monkeypatch.setattr(shard.store, "load", successors_row)
        delta = decode_delta(await one.inside(lambda: delta_of(shard, RunNews(key, []), 1)))
        assert delta.run_id == run_id and delta.state

    play(story)


def test_a_group_that_cannot_be_told_is_told_by_state_and_the_stream_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers, too: the peer has done with those that were told before, and would apply nothing that came under them."""

    async def story(pair: Pair) -> None:
        one = pair.one
        await one.start("w")
        for number in range(5):
            await one.signal("w", f"told {number}")
        await pair.agree()
        failed: list[int] = []

        def failing(*group: Any) -> Any:
            if not failed:
                failed.append(1)
                raise KeyError("planted by the test")
            return news_of_group(*group)

        monkeypatch.setattr(replication.feed, "news_of_group", failing)
        await one.signal("w", "in the group that fails")
        assert failed
        await one.signal("w", "behind it")
        await pair.agree()
        await one.start("x")
        await pair.agree()

    play(story)


def test_a_chain_of_three_runs_in_one_group_is_told_as_one() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        pair.is_linked = False
        pair.cut()
        shard = one.shard_for("w")
        group: list[Any] = []
        states: dict[Any, Any] = {}
        tell = shard.on_durable_entries
        assert tell is not None

        def heard(shard: Any, position: int, entries: list[bytes], touched: dict[Any, Any]) -> None:
            group.extend((data, decode_entry(data)) for data in entries)
            states.update({run.key: state for run, state in touched.items()})
            tell(shard, position, entries, touched)

        shard.on_durable_entries = heard
        await one.start("w")
        for _ in range(2):
            await one.answer(await one.take_task(wait_s=10), continue_as_new())
        (news,) = news_of_group(shard, group, states, 2)
        assert news.successor is not None and news.successor.successor is not None
        await two.inside(lambda: replicate(two.shard_for("w"), extension(news)))
        assert await two.all_runs() == await one.all_runs() and len(await two.all_runs()) == 3

    play(story)


def test_the_lag_is_what_the_peer_has_not_acknowledged() -> None:
    async def story(pair: Pair) -> None:
        await pair.one.start("w")
        await pair.agree()
        pair.is_linked = False
        pair.cut()
        at = pair.one.clock.now_ns()
        await asyncio.sleep(1)
        for number in range(5):
            await pair.one.signal("w", f"s{number}")
        lag = pair.one.region.lag()["two"][pair.one.shard_for("w").id]
        assert lag.entries == {NAMESPACE.id: 5} and lag.positions == 5 and not lag.is_catching_up
        assert lag.oldest_at[NAMESPACE.id] - at == 1_000_000_000

    play(story)


# --- a passive region ------------------------------------------------------------------------------------------------------


def test_a_passive_region_offers_no_task_fires_no_timer_and_starts_no_child() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w", request_id="1")
        await one.work(timer("t", 3), activity("a"), child("c"))
        await one.start("v", request_id="2")
        await pair.agree()
        one.crash()
        await asyncio.sleep(60)
        assert not (await two.take_task()).task_token
        assert not (await two.take_task(queue="children")).task_token
        assert not (await two.take_activity()).task_token
        assert "TimerFired" not in await two.event_names("w")
        assert not any(run.active for shard in two.history._shards.values() for run in shard.runs.values())
        await two.checkpoint()
        await two.restart()
        await asyncio.sleep(60)
        assert not (await two.take_task()).task_token and "TimerFired" not in await two.event_names("w")

    play(story)


def test_a_region_that_becomes_active_does_all_that_is_owed_also_of_runs_that_are_not_in_memory() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w", request_id="1")
        await one.work(timer("t", 3))
        await one.start("v", request_id="2")
        await pair.agree()
        one.crash()
        await two.checkpoint()
        for shard in two.history._shards.values():
            for run in list(shard.runs.values()):
                shard.forget(run)
        two.view.active, two.view.failover_version = "two", 2
        await asyncio.sleep(1_200)  # longer than its timer
        await two.inside(lambda: two.history.region_changed(NAMESPACE.id))
        await two.settle(2)
        assert (await two.event_names("w"))[-2:] == ["TimerFired", "WorkflowTaskScheduled"]
        found = {(await two.take_task()).workflow_execution.workflow_id for _ in range(2)}
        assert found == {"w", "v"}

    play(story)


async def stored_rows(world: RegionWorld) -> dict[RunKey, int]:
    return {
        row.key: row.changed_position
        for number in range(world.shards_count)
        for row in await world.store.runs(ShardId(number), None, 1_000)
    }


def test_a_passive_region_comes_back_from_a_crash_as_it_was() -> None:
    async def story(pair: Pair) -> None:
        first = await pair.one.start("w", request_id="1")
        await pair.one.work(complete())
        second = await pair.one.start("w", request_id="2")
        await pair.agree()
        before = await pair.two.all_runs()
        await pair.two.restart()
        assert await pair.two.all_runs() == before and set(before) == {first, second}
        await pair.two.checkpoint()
        assert len(await stored_rows(pair.two)) == 2
        await pair.two.restart()
        assert await pair.two.all_runs() == before

    play(story)
