"""Lag is what the other region does not have: in events, in runs, in seconds, and never 0 before it has all."""

from __future__ import annotations

import asyncio

from cluster.config import ShardConfig
from replication.figures import RegionFigures
from replication.limits import StreamLimits
from tests.history.world import NAMESPACE
from tests.replication.comparing import Comparing
from tests.replication.lossy_link import Faults
from tests.replication.two_regions import Pair, RegionWorld, play


def shown(comparing: Comparing, of: int = 0) -> dict[str, float]:
    """Of the namespace or all shards together, by the metric's name."""
    world = comparing.ports[of].world
    figures = RegionFigures(world.region, comparing.services[of], lambda id: NAMESPACE.name, world.clock.now_ns)
    found: dict[str, float] = {}
    for family in figures.families():
        for labels, value in family.samples:
            assert labels.get("target_cluster", "two") == "two" and labels.get("namespace", NAMESPACE.name) == NAMESPACE.name
            name = f"{family.name} {labels.get('kind', labels.get('outcome', ''))}".strip()
            found[name] = found.get(name, 0) + value
    return found


def entries_of(world: RegionWorld) -> int:
    """Transitions of all runs: what was ever told, or is to be."""
    return sum(run.state.transition_count for shard in world.history._shards.values() for run in shard.runs.values())


def test_the_lag_of_a_link_that_is_down_is_exactly_what_the_other_region_lacks() -> None:
    async def story(pair: Pair) -> None:
        for number in range(4):
            await pair.one.start(f"w{number}")
        await pair.agree()
        comparing = Comparing(pair)
        assert {name: value for name, value in shown(comparing).items() if value} == {}
        pair.is_linked = False
        pair.cut()
        for number in range(6):
            await pair.one.start(f"new{number}")
            await pair.one.signal(f"w{number % 4}", f"s{number}", request_id=f"r{number}")
        await asyncio.sleep(100)
        found = shown(comparing)
        assert found["replication_lag_events"] == entries_of(pair.one) - entries_of(pair.two) == 12
        assert found["replication_tasks_lag"] > 0
        assert 100 <= found["replication_latency"] < 102
        pair.is_linked = True
        await pair.agree()
        found = shown(comparing)
        assert found["replication_lag_events"] == found["replication_tasks_lag"] == found["replication_latency"] == 0
        await comparing.verify()
        found = shown(comparing)
        assert found["replication_verifications equal"] == 1 and found["replication_verify_differences mismatch"] == 0

    play(story)


def test_while_a_region_is_caught_up_the_runs_that_are_left_are_counted() -> None:
    async def story(pair: Pair) -> None:
        pair.one.stream_limits = StreamLimits(catch_up_page_runs=3, credit_offers=2, queue_entries_max=5, cursor_save_s=0.2)
        pair.two.stream_limits = pair.one.stream_limits  # little at once, so that there is something to look at
        pair.is_linked = False
        await pair.restart(pair.two)
        await pair.restart(pair.one)
        for number in range(60):
            await pair.one.start(f"w{number}")
        await pair.one.checkpoint()
        pair.faults.delay_s = 1.0
        pair.is_linked = True
        comparing = Comparing(pair)
        seen: list[float] = []
        while len(await pair.two.all_runs()) < 60:
            found = shown(comparing)
            missing = 60 - len(await pair.two.all_runs())
            assert (found["replication_tasks_lag"] > 0 and found["replication_is_catching_up"] > 0) or not missing
            seen.append(found["replication_runs_left"])
            if seen[-1]:
                assert found["replication_latency"] > 0
            await asyncio.sleep(2)
        assert max(seen) > 30 and len([one for one in seen if one]) > 5, seen
        await pair.agree()
        assert shown(comparing)["replication_runs_left"] == shown(comparing)["replication_is_catching_up"] == 0

    play(story, Pair(Faults(), config=ShardConfig(checkpoint_interval_ns=2_000_000_000)))
