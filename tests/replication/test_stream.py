"""What happens in the active region is so in the other one, whatever the link does."""

from __future__ import annotations

import asyncio
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.core.errors import CallerError, Code
from tests.history.commands import activity, complete, continue_as_new, timer
from tests.replication.lossy_link import Faults
from tests.replication.two_regions import Pair, RegionWorld, play


def test_a_run_of_one_region_is_in_the_other_with_the_same_state_and_history() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        run_id = await one.start("w")
        await one.work(activity("a"), timer("t", 5))
        await one.signal("w", "hello")
        await pair.agree()
        assert (await two.current("w")).key.run_id == run_id
        assert await two.event_names("w") == await one.event_names("w")
        task = await one.take_activity()
        await one.complete_activity(task)
        await one.work(complete())
        await pair.agree()
        assert (await two.all_runs())[run_id][3] > 5

    play(story)


def test_a_chain_of_runs_arrives_whole_and_its_last_run_is_current() -> None:
    async def story(pair: Pair) -> None:
        await pair.one.start("w")
        for _ in range(5):
            await pair.one.work(continue_as_new())
            await pair.one.settle(1)  # the next run of a quick chain waits for a moment
        await pair.agree()
        runs = await pair.two.all_runs()
        assert len(runs) == 6
        assert (await pair.two.current("w")).key == (await pair.one.current("w")).key

    play(story)


# --- links that fail ---------------------------------------------------------------------------------------------------


REFUSALS = (Code.ALREADY_EXISTS, Code.NOT_FOUND, Code.UNAVAILABLE, Code.INVALID_ARGUMENT)


async def some_work(world: RegionWorld, seed: int, steps: int) -> None:
    """Starts, signals, tasks, activities, chains, deletions: whatever the seed says, and the region does not refuse."""
    draw = random.Random(seed)
    for step in range(steps):
        try:
            await one_step(world, draw, f"{seed}.{step}")
        except CallerError as error:
            assert error.code in REFUSALS, error


async def one_step(world: RegionWorld, draw: random.Random, name: str) -> None:
    workflow_id = f"w{draw.randrange(5)}"
    kind = draw.randrange(8)
    if kind <= 1:
        await world.start(workflow_id, request_id=name)
    elif kind == 2:
        task = await world.take_task(wait_s=0.2)
        choices = [[activity(f"a{name}"), timer(f"t{name}", 3)], [complete()], [continue_as_new()], [timer(f"u{name}", 1)]]
        commands = draw.choice(choices)
        if task.task_token:
            await world.answer(task, *commands)
    elif kind == 3:
        attempt = await world.take_activity(wait_s=0.2)
        if attempt.task_token:
            await world.complete_activity(attempt)
    elif kind == 4:
        await world.checkpoint()
    elif kind == 5:
        await asyncio.sleep(draw.random() * 2)
    elif kind == 7 and draw.random() < 0.3:
        await world.delete(workflow_id)
    else:
        await world.signal(workflow_id, f"s{name}", request_id=name)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), drop=st.sampled_from([0.0, 0.1, 0.3]), double=st.sampled_from([0.0, 0.3]))
def test_whatever_a_link_loses_doubles_or_reorders_both_regions_end_up_equal(seed: int, drop: float, double: float) -> None:
    async def story(pair: Pair) -> None:
        draw = random.Random(seed)
        for part in range(4):
            await some_work(pair.one, seed + part, 12)
            what = draw.randrange(5)
            if what == 0:
                pair.cut()
            elif what == 1:
                await pair.restart(pair.one)
            elif what == 2:
                await pair.restart(pair.two)
            elif what == 3:
                await pair.two.checkpoint()
        await pair.agree()
        await pair.restart(pair.two)
        await pair.restart(pair.one)
        await pair.agree()

    play(story, Pair(Faults(seed, drop=drop, double=double, delay_s=0.2)))


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), drop=st.sampled_from([0.0, 0.2]))
def test_after_failovers_cuts_and_crashes_both_regions_agree_and_no_signal_is_there_twice(seed: int, drop: float) -> None:
    async def story(pair: Pair) -> None:
        draw = random.Random(seed)
        worlds = [pair.one, pair.two]
        version = 1
        for part in range(6):
            pair.is_linked = draw.random() < 0.6
            if not pair.is_linked:
                pair.cut()
            await some_work(next(world for world in worlds if world.view.is_active("")), seed + part, 8)
            kind = draw.randrange(4)
            if kind <= 1:  # the other one takes over, and this one may not know it yet
                active = pair.two if version % 10 == 1 else pair.one
                version = version + 1 if active is pair.two else version + 9
                for world in worlds:
                    if world is active or pair.is_linked:
                        world.view.active, world.view.failover_version = active.name, version
                await pair.activate()
                for world in worlds:
                    if world.view.is_active(""):
                        await some_work(world, seed + 100 * part, 5)
            elif kind == 2:
                await pair.restart(draw.choice(worlds))
        pair.fail_over(pair.two if version % 10 == 2 else pair.one, version)
        await pair.activate()
        pair.is_linked = True
        await pair.agree()
        for world in worlds:
            await pair.restart(world)
        await pair.agree()
        await no_signal_twice(pair)
        for world in worlds:
            assert not await world.region.quarantine.rows()

    play(story, Pair(Faults(seed, drop=drop, double=drop, delay_s=0.2)))


async def no_signal_twice(pair: Pair) -> None:
    for shard in pair.one.history._shards.values():
        for run in [run for run in shard.runs.values() if not run.state.is_deleted]:
            events = await pair.one.history_of(run.key.workflow_id, run.key.run_id)
            names = [event.workflow_execution_signaled_event_attributes.signal_name for event in events]
            told = [name for name in names if name]
            assert len(told) == len(set(told)), (run.key, told)
