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


async def some_work(world: RegionWorld, seed: int, steps: int) -> None:
    """Starts, signals, tasks, activities, chains, deletions: whatever the seed says."""
    draw = random.Random(seed)
    for step in range(steps):
        name = f"w{draw.randrange(5)}"
        kind = draw.randrange(8)
        runs = await world.all_runs()
        if kind <= 1 or not runs:
            try:
                await world.start(name, request_id=f"{seed} {step}")
            except CallerError as error:
                assert error.code is Code.ALREADY_EXISTS, error
        elif kind == 2:
            task = await world.take_task(wait_s=0.2)
            if task.task_token:
                commands = draw.choice(
                    [[activity(f"a{step}"), timer(f"t{step}", 3)], [complete()], [continue_as_new()], [timer(f"u{step}", 1)]]
                )
                await world.answer(task, *commands)
        elif kind == 3:
            task = await world.take_activity(wait_s=0.2)
            if task.task_token:
                await world.complete_activity(task)
        elif kind == 4:
            await world.checkpoint()
        elif kind == 5:
            await asyncio.sleep(draw.random() * 2)
        else:
            try:
                if kind == 7 and draw.random() < 0.3:
                    await world.delete(name)
                else:
                    await world.signal(name, f"s{step}", request_id=f"{seed} {step}")
            except CallerError as error:
                assert error.code is Code.NOT_FOUND, error


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
