"""Two regions that both wrote: one branch wins in both, the other is kept, and what was told to it is not lost."""

from __future__ import annotations

import asyncio

from cluster.core.ledger import Outcome
from tests.history.commands import complete, timer
from tests.history.world import NAMESPACE, eventually, name_of
from tests.replication.calls import ledger
from tests.replication.two_regions import Pair, RegionWorld, play


async def signals(world: RegionWorld, workflow_id: str) -> list[str]:
    events = await world.history_of(workflow_id)
    names = [event.workflow_execution_signaled_event_attributes.signal_name for event in events]
    return [name for event, name in zip(events, names, strict=True) if name_of(event) == "WorkflowExecutionSignaled"]


async def forked(pair: Pair) -> None:
    """Both regions believe to be active, and get a signal each."""
    await pair.one.start("w")
    await pair.one.signal("w", "before")
    await pair.agree()
    pair.is_linked = False
    pair.cut()
    pair.two.view.active, pair.two.view.failover_version = "two", 2
    await pair.activate()
    await pair.one.signal("w", "in one")
    await pair.two.signal("w", "in two")
    await pair.two.signal("w", "in two, again")


def heal(pair: Pair) -> None:
    pair.one.view.active, pair.one.view.failover_version = "two", 2
    pair.is_linked = True


def test_the_higher_version_wins_and_the_other_regions_signal_is_appended_once() -> None:
    async def story(pair: Pair) -> None:
        await forked(pair)
        heal(pair)
        await pair.agree()
        assert await signals(pair.two, "w") == ["before", "in two", "in two, again", "in one"]
        assert await signals(pair.one, "w") == await signals(pair.two, "w")
        for world in (pair.one, pair.two):
            await pair.restart(world)
        await pair.agree()
        assert await signals(pair.one, "w") == ["before", "in two", "in two, again", "in one"]

    play(story)


def test_the_branch_that_lost_is_kept_with_its_events_and_its_ledger() -> None:
    async def story(pair: Pair) -> None:
        await forked(pair)
        before = (await pair.one.current("w")).state
        heal(pair)
        await pair.agree()
        run = await pair.two.current("w")
        shard = pair.two.shard_for("w")
        assert shard.replicas is not None
        (kept,) = shard.replicas.losers(run.key, run.state)
        assert kept.head.history_hash == before.history_hash
        (line,) = [entry.line for entry in await ledger(pair.two)]
        assert (line.name, line.outcome, line.winner_run_id) == ("WorkflowExecutionSignaled", Outcome.REAPPLY, run.key.run_id)
        assert (await pair.two.history_of("w"))[line.winner_event_id - 1].event_id == line.winner_event_id > 0
        blobs = await pair.two.store.history(shard.id, run.key, kept.number, kept.events_from, kept.head.last_event_id)
        assert blobs[-1].last_event_id == kept.head.last_event_id
        assert blobs[0].first_event_id == kept.events_from

    play(story)


def test_a_region_that_was_replaced_still_tells_the_other_what_it_had() -> None:
    """The winner reaches the loser first; the loser's branch must come the other way all the same."""

    async def story(pair: Pair) -> None:
        await forked(pair)
        await pair.one.checkpoint()
        heal(pair)
        for feed in pair.one.region.senders["two"].feeds.values():
            feed._entries.clear()
            feed._queue.clear()  # as if one had nothing to tell when the link came back
        await pair.agree()
        assert await signals(pair.two, "w") == ["before", "in two", "in two, again", "in one"]

    play(story)


def test_a_branch_that_was_kept_while_passive_is_salvaged_by_the_region_when_it_becomes_active() -> None:
    async def story(pair: Pair) -> None:
        await forked(pair)
        pair.one.view.active, pair.one.view.failover_version = "two", 2
        pair.two.view.active = "one"  # nobody acts while the link comes back
        pair.is_linked = True
        await pair.agree()
        assert await signals(pair.two, "w") == ["before", "in two", "in two, again"]
        pair.fail_over(pair.two, 2)
        await pair.activate()
        await pair.agree()
        assert await signals(pair.one, "w") == ["before", "in two", "in two, again", "in one"]

    play(story)


def test_a_region_that_dies_as_it_becomes_active_salvages_what_was_kept_when_it_is_back() -> None:
    async def story(pair: Pair) -> None:
        await forked(pair)
        pair.one.view.active, pair.one.view.failover_version = "two", 2
        pair.two.view.active = "one"  # nobody acts while the link comes back
        pair.is_linked = True
        await pair.agree()
        pair.fail_over(pair.two, 2)
        await pair.restart(pair.two)  # nobody has looked at the runs yet
        await eventually(lambda: _was_told(pair, "in one"))
        await pair.agree()
        assert await signals(pair.one, "w") == ["before", "in two", "in two, again", "in one"]
        assert [entry.line.outcome for entry in await ledger(pair.two)] == [Outcome.REAPPLY]

    play(story)


async def _was_told(pair: Pair, signal: str) -> bool:
    return signal in await signals(pair.two, "w")


def test_a_fork_survives_a_crash_of_either_side_at_any_moment() -> None:
    for moment_s in (0.0, 0.05, 0.1, 0.3, 0.6):
        for which in ("one", "two"):

            async def story(pair: Pair, moment_s: float = moment_s, which: str = which) -> None:
                await forked(pair)
                heal(pair)
                await asyncio.sleep(moment_s)
                await pair.restart(pair.one if which == "one" else pair.two)
                await pair.agree()
                assert sorted(await signals(pair.two, "w")) == ["before", "in one", "in two", "in two, again"]

            play(story)


def test_of_two_runs_begun_apart_the_active_region_ends_the_one_that_lost() -> None:
    async def story(pair: Pair) -> None:
        await pair.one.start("other")
        await pair.agree()
        pair.is_linked = False
        pair.cut()
        pair.two.view.active, pair.two.view.failover_version = "two", 2
        await pair.activate()
        lost = await pair.one.start("w", request_id="one")
        kept = await pair.two.start("w", request_id="two")
        heal(pair)
        await pair.agree()
        for world in (pair.one, pair.two):
            assert (await world.current("w")).key.run_id == kept
            assert (await world.event_names("w", lost))[-1] == "WorkflowExecutionTerminated"

    play(story)


def test_a_failover_without_a_fork_goes_on_where_the_other_region_was() -> None:
    async def story(pair: Pair) -> None:
        await pair.one.start("w")
        await pair.one.work(timer("t", 20))
        await pair.agree()
        pair.fail_over(pair.two, 2)
        await pair.activate()
        await asyncio.sleep(25)
        assert (await pair.two.event_names("w"))[-2:] == ["TimerFired", "WorkflowTaskScheduled"]
        await pair.two.work(complete())
        await pair.agree()
        versions = [event.version for event in await pair.one.history_of("w")]
        assert versions == sorted(versions) and set(versions) == {1, 2}
        assert (await pair.one.describe("w")).workflow_execution_info.status == 2

    play(story)


# --- deletion ----------------------------------------------------------------------------------------------------------


def test_a_deleted_run_is_deleted_everywhere_and_stays_so() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        kept = await one.start("kept")
        gone = await one.start("w")
        await pair.agree()
        pair.is_linked = False
        pair.cut()
        await one.delete("w")
        await one.checkpoint()
        await asyncio.sleep(10)
        await one.checkpoint()
        assert gone not in await one.all_runs()
        await pair.restart(one)  # what it knew in memory is gone
        pair.is_linked = True
        await pair.agree()
        for world in (one, two):
            assert set(await world.all_runs()) == {kept}
        await two.checkpoint()
        await pair.restart(two)
        await pair.agree()
        assert set(await two.all_runs()) == {kept}

    play(story)


def test_a_deletion_of_one_run_touches_no_other_run_of_the_workflow_id() -> None:
    async def story(pair: Pair) -> None:
        first = await pair.one.start("w", request_id="1")
        await pair.one.terminate("w")
        second = await pair.one.start("w", request_id="2")
        await pair.one.delete("w", first)
        await pair.agree()
        assert set(await pair.two.all_runs()) == {second}
        assert (await pair.two.current("w")).key.run_id == second

    play(story)


def test_a_run_whose_retention_has_ended_leaves_each_region_by_itself() -> None:
    async def story(pair: Pair) -> None:
        await pair.one.start("w")
        await pair.one.terminate("w")
        await pair.agree()
        await asyncio.sleep(NAMESPACE.retention_ns / 1e9 + 60)
        await eventually(lambda: _is_gone(pair))
        for world in (pair.one, pair.two):
            shard = world.shard_for("w")
            assert shard.replicas is not None and not shard.replicas.tombstones(0)

    play(story)


async def _is_gone(pair: Pair) -> bool:
    return not await pair.one.all_runs() and not await pair.two.all_runs()
