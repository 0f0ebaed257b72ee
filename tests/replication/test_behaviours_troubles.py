"""A peer that speaks more than we do, clocks that are wrong, a parent that closed just before: replication.md, section 9."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from temporalio.api.workflowservice import v1 as api

import replication.quarantine
from cluster.core.errors import CallerError, Code
from cluster.history.forks import Poison
from cluster.history.run_delta import RunDelta, decode_delta
from cluster.tokens import Purpose, TaskToken
from replication.loss_ledger import bound_of_loss
from tests.history.commands import activity, child, complete, timer
from tests.history.world import eventually
from tests.replication.calls import answer, events_named, fail_activity, fail_over, heal, signals, split
from tests.replication.test_behaviours_conflicts import notice
from tests.replication.test_loss_ledger import ledger_of
from tests.replication.two_regions import Pair, RegionWorld, play

MINUTE_NS = 60 * 1_000_000_000


def altered(world: RegionWorld, peer: str, alter: Callable[[dict[str, Any]], None]) -> None:
    """Every delta that is told to the peer passes through `alter`, decoded to plain fields."""
    for feed in world.region.senders[peer].feeds.values():

        async def offer(item: Any, now_s: float, honest: Any = feed.offer) -> Any:
            offer = await honest(item, now_s)
            fields = msgspec.msgpack.decode(offer.delta)
            alter(fields)
            return msgspec.structs.replace(offer, delta=msgspec.msgpack.encode(fields))

        feed.offer = offer  # type: ignore[method-assign]


# --- quarantine ----------------------------------------------------------------------------------------------------------


def test_dlq_workflow_replication_task_failure() -> None:
    """What cannot be applied is in quarantine, is shown, is applied by a retry, and the run is there."""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        honest, is_broken = two.region.take_in, [True]

        async def fails(delta: RunDelta) -> Any:
            if is_broken[0] and delta.workflow_id == "bad":
                raise Poison("a fault of the test")
            return await honest(delta)

        two.region.take_in = fails
        bad = await one.start("bad")
        await one.start("good")
        await eventually(lambda: pair.has_told_all())
        assert bad not in await two.all_runs() and len(await two.all_runs()) == 1
        quarantine = two.region.quarantine
        (row,) = await quarantine.rows()
        shown = await quarantine.show(row.id)
        assert shown == row and (row.run_id, row.reason, row.peer) == (bad, "a fault of the test", "one")
        assert await two.inside(lambda: quarantine.retry(row.id, two.region.take_in)) == "a fault of the test"
        is_broken[0] = False
        assert await two.inside(lambda: quarantine.retry(row.id, two.region.take_in)) == ""
        assert not await quarantine.rows()
        assert bad in await two.all_runs()
        await pair.agree()

    play(story)


class _NextDelta(RunDelta, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """As the next version has it."""

    colour: str = ""


def test_rolling_upgrade_of_the_peer_that_speaks_a_field_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What uses it is quarantined loudly and the others flow; once this side is upgraded, too, a retry takes it in."""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("warm-up")
        await pair.agree()

        def of_the_next_version(fields: dict[str, Any]) -> None:
            if fields["workflow_id"] == "new":
                fields["colour"] = "green"

        altered(one, "two", of_the_next_version)
        new = await one.start("new")
        for number in range(5):
            await one.start(f"old {number}")
        await eventually(lambda: pair.has_told_all())
        there = await two.all_runs()
        assert new not in there and len(there) == 6
        quarantine = two.region.quarantine
        (row,) = await quarantine.rows()
        assert "colour" in row.reason, "the operator reads which field it was"
        assert "cannot be read" in await two.inside(lambda: quarantine.retry(row.id, two.region.take_in))
        decoder = msgspec.msgpack.Decoder(_NextDelta)
        monkeypatch.setattr(replication.quarantine, "decode_delta", decoder.decode)  # this side is upgraded
        assert await two.inside(lambda: quarantine.retry(row.id, two.region.take_in)) == ""
        assert not await quarantine.rows()
        await pair.agree()

    play(story)


def test_rolling_upgrade_of_the_target_that_still_hears_the_older_version() -> None:
    """N to N+1 the other way round: a field that the older peer does not say has its default."""
    told = decode_delta(msgspec.msgpack.encode({"namespace_id": "n", "workflow_id": "w", "run_id": "r"}))
    newer = msgspec.msgpack.Decoder(_NextDelta).decode(msgspec.msgpack.encode(told))
    assert newer.colour == "" and newer.key == told.key


# --- clocks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew_minutes", [-5, 5])
def test_clock_skew_of_five_minutes_decides_nothing(skew_minutes: int) -> None:
    """Versions decide who wins, not times; a timer fires once, by the clock of the region that is active."""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        two.clock.skew_ns += skew_minutes * MINUTE_NS
        await one.start("forked")
        await one.start("timer")
        await pair.agree()
        for task in [await one.take_task() for _ in range(2)]:
            await answer(one, task, *([timer("t", 1_800)] if task.workflow_execution.workflow_id == "timer" else []))
        await pair.agree()
        await split(pair)
        await one.signal("forked", "in one")
        await two.signal("forked", "in two")
        await heal(pair)
        for world in (one, two):
            assert await signals(world, "forked") == ["in two", "in one"]
        began = asyncio.get_running_loop().time()
        while not await _has_fired(two):
            await asyncio.sleep(5)
            assert asyncio.get_running_loop().time() < began + 3_000, "it never fires"
        took_s = asyncio.get_running_loop().time() - began
        assert 1_800 - 60 * skew_minutes - 30 <= took_s <= 1_800 - 60 * skew_minutes + 30
        await fail_over(pair, one, 11)
        await asyncio.sleep(1_200)  # by its clock the timer is due as well, now or later
        await pair.agree()
        assert len(await events_named(one, "timer", "TimerFired")) == 1
        await answer(one, await one.take_task(), complete())
        await pair.agree()

    play(story)


async def _has_fired(world: RegionWorld) -> bool:
    return bool(await events_named(world, "timer", "TimerFired"))


# --- a parent that closed ---------------------------------------------------------------------------------------------------


async def _parent_with_child(pair: Pair) -> None:
    """The child is running, and its parent has heard so."""
    await pair.one.start("parent")
    await pair.one.work(child("child"))
    await pair.agree()
    await pair.one.work(queue="children")
    await eventually(partial(_knows_of_child, pair.one))
    await pair.agree()


async def _knows_of_child(world: RegionWorld) -> bool:
    return bool(await events_named(world, "parent", "ChildWorkflowExecutionStarted"))


def test_close_transfer_task_acked_replication() -> None:
    """The parent's close was carried out before it was told: the region that takes over does not do it again."""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await _parent_with_child(pair)
        pair.is_linked = False
        pair.cut()
        await one.work(complete())
        await eventually(partial(_is_ended, one))
        pair.is_linked = True
        offered: list[str] = []
        notice(two, offered)
        await fail_over(pair, two, 2)
        await asyncio.sleep(30)
        ends = {world.name: await events_named(world, "child", "WorkflowExecutionTerminated") for world in (one, two)}
        assert ends["one"] == ends["two"] and len(ends["two"]) == 1 and ends["two"][0].version == 1
        assert offered == [], "nothing is owed any more"
        await pair.agree()

    play(story)


def test_parent_close_logic_happens_once_although_both_regions_carried_it_out() -> None:
    """The close was told, that it was carried out was not: both regions end the child, and it has one end when they meet."""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await _parent_with_child(pair)
        honest = two.region.take_in

        async def only_the_close(delta: RunDelta) -> Any:
            if delta.workflow_id == "child" or await _is_closed(two, "parent"):
                raise CallerError(Code.UNAVAILABLE, "not yet")
            return await honest(delta)

        two.region.take_in = only_the_close
        await one.work(complete())
        await eventually(partial(_is_ended, one))
        await eventually(partial(_is_closed, two, "parent"))
        assert not await _is_ended(two)
        await split(pair)
        await eventually(partial(_is_ended, two))
        two.region.take_in = honest
        await heal(pair)
        for world in (one, two):
            (end,) = await events_named(world, "child", "WorkflowExecutionTerminated")
            assert end.version == 2

    play(story)


async def _is_ended(world: RegionWorld) -> bool:
    return bool(await events_named(world, "child", "WorkflowExecutionTerminated"))


async def _is_closed(world: RegionWorld, workflow_id: str) -> bool:
    return not (await world.current(workflow_id)).state.is_open


# --- how far it was heard ----------------------------------------------------------------------------------------------------


def test_what_was_heard_of_a_region_bounds_what_is_lost_with_it() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        for number in range(6):
            await one.start(f"w{number}")
        await pair.agree()
        receiver = two.region._receivers["one"]
        durable = {number: shard.journal.durable_position for number, shard in one.history._shards.items()}
        assert receiver.heard == receiver.told == {number: at for number, at in durable.items() if at}
        honest = two.region.take_in

        async def not_now(delta: RunDelta) -> Any:
            if delta.workflow_id == "w0":
                raise CallerError(Code.UNAVAILABLE, "not yet")
            return await honest(delta)

        two.region.take_in = not_now
        shard = one.shard_for("w0").id
        await one.signal("w0", "is not taken in")
        for number in range(1, 6):
            await one.signal(f"w{number}", "is")
        await asyncio.sleep(2)
        before = durable[shard]
        assert receiver.heard[shard] == before < receiver.told[shard] == one.shard_for("w0").journal.durable_position
        ledger = ledger_of(two)
        await ledger.note_cut("one", receiver.heard, "a namespace", 1, 2)
        (cut,) = await ledger.cuts()
        lost = {number: count for number, count in bound_of_loss(cut, receiver.told).items() if count}
        assert lost == {shard: receiver.told[shard] - before}
        two.region.take_in = honest
        await pair.agree()
        assert receiver.heard == receiver.told
        await pair.restart(one)  # another stream of the same journal
        await one.signal("w0", "again")
        await pair.agree()
        assert receiver.heard[shard] == receiver.told[shard] == one.shard_for("w0").journal.durable_position

    play(story)


# --- workflow tasks and activities -------------------------------------------------------------------------------------------


async def _fail_task(world: RegionWorld) -> None:
    task = await world.take_task(wait_s=30)
    token = world.life.tokens.open(Purpose.TASK, task.task_token, TaskToken)
    request = api.RespondWorkflowTaskFailedRequest(task_token=task.task_token, identity="worker")
    await world.call("respond_workflow_task_failed", token.workflow_id, request, token)


def test_workflow_task_failure_stamp_replication() -> None:
    """The attempt of a failing workflow task, and its stamp, are the same where the namespace is passive."""

    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        for _ in range(3):
            await _fail_task(one)
        await pair.agree()
        ours, theirs = (await one.current("w")).state.task, (await two.current("w")).state.task
        assert ours == theirs and ours is not None and ours.attempt == 4

    play(story)


def test_retrying_activity_does_not_accumulate_standby_timer_tasks() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await one.work(activity("a", timeout_s=100))
        await pair.agree()
        sizes = set()
        for _ in range(6):
            await fail_activity(one, await one.take_activity(wait_s=120))
            await pair.agree()
            sizes.add(len(two.shard_for("w")._sweep))
        assert len(sizes) == 1, sizes

    play(story)
