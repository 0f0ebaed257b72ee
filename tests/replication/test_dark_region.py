"""A region that was dark for longer than its timers, its journal and its retention comes back: nothing is resurrected, nothing
fires twice, and both regions are equal. Days pass in virtual time. (replication.md 9: offline for longer than retention, and
timers due in the gap)"""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from replication import region
from tests.history.commands import complete, timer
from tests.replication.two_regions import LIMITS, Pair, RegionWorld, play

DAY_S = 86_400.0
DARK_DAYS = 4  # the namespace keeps closed runs for one day


@pytest.mark.parametrize("is_rowed", [True, False])
@pytest.mark.parametrize("has_failed_over", [True, False])
def test_a_region_dark_for_longer_than_timers_journal_and_retention_comes_back(
    has_failed_over: bool, is_rowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former owner after a forced failover, or the passive region of a namespace that stayed where it was."""

    monkeypatch.setattr(region, "SHARDS_LOOK_S", 60.0)  # idle days pass faster

    async def story(pair: Pair) -> None:
        owner, dark = (pair.two, pair.one) if has_failed_over else (pair.one, pair.two)
        first = pair.one
        for number in range(4):
            await first.start(f"sleeps{number}")
            await first.work(timer("t", 3_600.0 * (number + 1)))
        for number in range(4):
            await first.start(f"ends{number}")
            await first.work(complete())
        await first.start("deleted")
        await pair.agree()
        if is_rowed:
            await dark.checkpoint()
        dark.crash()
        if has_failed_over:
            pair.two.view.active, pair.two.view.failover_version = "two", 2
            await pair.two.inside(lambda: pair.two.history.region_changed("ns-id"))
        await owner.delete("deleted")
        for number in range(30):
            await owner.start(f"new{number}")
            await owner.work(complete())
        for _ in range(4):  # each timer wakes its workflow
            await asyncio.sleep(3_600.0)
            while (task := await owner.take_task(wait_s=0.5)).task_token:
                await owner.answer(task)
        await asyncio.sleep(DARK_DAYS * DAY_S)
        await owner.start("latest")
        assert {name async for name in _names(owner)} == {"sleeps0", "sleeps1", "sleeps2", "sleeps3", "latest"}

        await pair.restart(dark)
        if has_failed_over:
            await asyncio.sleep(30)  # it still believes that it is the owner: what it does now must not last
            pair.one.view.active, pair.one.view.failover_version = "two", 2
            await pair.one.inside(lambda: pair.one.history.region_changed("ns-id"))
        await pair.agree(600.0)
        for world in (pair.one, pair.two):
            assert {name async for name in _names(world)} == {"sleeps0", "sleeps1", "sleeps2", "sleeps3", "latest"}
            for number in range(4):
                names = await world.event_names(f"sleeps{number}")
                assert names.count("TimerFired") == 1, (world.name, names)

    pair = Pair()
    for world in (pair.one, pair.two):
        world.stream_limits = msgspec.structs.replace(LIMITS, backoff_s_max=60.0, cursor_save_s=10.0)
    play(story, pair)


async def _names(world: RegionWorld):  # type: ignore[no-untyped-def]
    """Of all workflows that the region has, in memory or as rows."""
    runs = await world.all_runs()
    for shard in world.history._shards.values():
        for key, run in shard.runs.items():
            if key.run_id in runs and not run.state.is_deleted:
                yield key.workflow_id
