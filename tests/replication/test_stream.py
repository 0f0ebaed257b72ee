"""What happens in the active region is so in the other one, whatever the link does."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.core.errors import CallerError, Code
from cluster.core.events import parse_event
from cluster.core.ledger import decode_line
from cluster.history.events import read_events
from tests.history.commands import activity, complete, continue_as_new, timer
from tests.replication.calls import ACCEPTED, accepting, answer, cancel, reset, send_update, signal_with_start
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


async def some_work(world: RegionWorld, seed: int, steps: int, deletes: bool = False, is_wild: bool = False) -> None:
    """Starts, signals, tasks, activities, chains, deletions: whatever the seed says, and the region does not refuse."""
    draw = random.Random(seed)
    for step in range(steps):
        try:
            if is_wild and draw.random() < 0.4:
                await wild_step(world, draw, f"{seed}.{step}")
            else:
                await one_step(world, draw, f"{seed}.{step}", deletes)
        except CallerError as error:
            assert error.code in REFUSALS, error


async def one_step(world: RegionWorld, draw: random.Random, name: str, deletes: bool) -> None:
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
    elif kind == 7 and deletes and draw.random() < 0.3:
        await world.delete(workflow_id)
    else:
        await world.signal(workflow_id, f"s{name}", request_id=name)
        world.acknowledged.append(f"s{name}")


async def wild_step(world: RegionWorld, draw: random.Random, name: str) -> None:
    """What ends runs, or begins them in other ways."""
    workflow_id = f"w{draw.randrange(5)}"
    kind = draw.randrange(6)
    if kind <= 1:
        await signal_with_start(world, workflow_id, f"s{name} {world.name}")
        world.acknowledged.append(f"s{name} {world.name}")
    elif kind == 2:
        await cancel(world, workflow_id)
    elif kind == 3:
        await world.terminate(workflow_id)
    elif kind == 4:
        await reset(world, workflow_id, 4)
    else:
        sent = send_update(world, workflow_id, f"u{name} {world.name}")
        sent.add_done_callback(partial(note_if_accepted, world, f"u{name} {world.name}"))
        await asyncio.sleep(0.01)
        task = await world.take_task(wait_s=0.2)
        if task.task_token:
            await answer(world, task, messages=accepting(task, completes=draw.random() < 0.5))


def note_if_accepted(world: RegionWorld, update_id: str, sent: asyncio.Future[Any]) -> None:
    """One that was refused leaves no trace."""
    if sent.cancelled() or sent.exception() is not None:
        return
    if sent.result().stage >= ACCEPTED and not sent.result().outcome.HasField("failure"):
        world.acknowledged.append(update_id)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), drop=st.sampled_from([0.0, 0.1, 0.3]), double=st.sampled_from([0.0, 0.3]))
def test_whatever_a_link_loses_doubles_or_reorders_both_regions_end_up_equal(seed: int, drop: float, double: float) -> None:
    async def story(pair: Pair) -> None:
        draw = random.Random(seed)
        for part in range(4):
            await some_work(pair.one, seed + part, 12, deletes=True)
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
@given(seed=st.integers(0, 2**32), drop=st.sampled_from([0.0, 0.2]), is_wild=st.booleans())
def test_after_failovers_both_regions_agree_and_each_signal_is_there_once_or_in_the_ledger(
    seed: int, drop: float, is_wild: bool
) -> None:
    agree_after_failovers(seed, drop, is_wild, deletes=False)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), drop=st.sampled_from([0.0, 0.2]))
def test_after_failovers_both_regions_agree_although_runs_were_deleted_in_either(seed: int, drop: float) -> None:
    agree_after_failovers(seed, drop, True, deletes=True)


def agree_after_failovers(seed: int, drop: float, is_wild: bool, deletes: bool) -> None:
    """Failovers, some of them by force and unheard of, and work on both sides; then the regions must agree."""

    async def story(pair: Pair) -> None:
        draw = random.Random(seed)
        worlds = [pair.one, pair.two]
        version = 1
        for part in range(6):
            pair.is_linked = draw.random() < 0.6
            if not pair.is_linked:
                pair.cut()
            await some_work(next(world for world in worlds if world.view.is_active("")), seed + part, 8, deletes, is_wild)
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
                        await some_work(world, seed + 100 * part, 5, deletes, is_wild)
            elif kind == 2:
                await pair.restart(draw.choice(worlds))
        pair.fail_over(pair.two if version % 10 == 2 else pair.one, version)
        await pair.activate()
        pair.is_linked = True
        await pair.agree()
        for world in worlds:
            await pair.restart(world)
        await pair.agree()
        if not deletes:
            await each_signal_is_explained(pair)
        await one_open_run_of_each_id(pair)
        for world in worlds:
            assert not await world.region.quarantine.rows()

    play(story, Pair(Faults(seed, drop=drop, double=drop, delay_s=0.2)))


async def one_open_run_of_each_id(pair: Pair) -> None:
    """I7, in the end: a run that lost its workflow id was ended by whoever is active."""
    for world in (pair.one, pair.two):
        names = [
            run.key.workflow_id
            for shard in world.history._shards.values()
            for run in shard.runs.values()
            if run.state.is_open and not run.state.is_deleted
        ]
        assert len(names) == len(set(names)), f"{world.name}: {sorted(names)}"


async def each_signal_is_explained(pair: Pair) -> None:
    """Each that was acknowledged (updates: accepted) is in a run, signals once, or in an inbox."""
    found: set[str] = set()
    for world in (pair.one, pair.two):
        for shard in world.history._shards.values():
            assert shard.replicas is not None
            for run in list(shard.runs.values()):
                events = await read_events(world.store, shard.id, run, 1, run.state.next_event_id - 1)
                found.update(run.state.updates)  # one that was only admitted is given to the next worker
                waiting = [decode_line(item.line).event for item in run.state.inbox.values() if item.line]
                found.update(id for data in (*events, *run.state.buffered, *waiting) if (id := update_id_of(data)))
                names = [name for data in (*events, *run.state.buffered) if (name := signal_name(data))]
                assert len(names) == len(set(names)), (run.key, names)
                found.update(names)
                found.update(map(signal_name, waiting))
    told = {*pair.one.acknowledged, *pair.two.acknowledged}
    assert not told - found, f"acknowledged, and nobody knows what became of it: {sorted(told - found)}"


def update_id_of(data: bytes) -> str:
    event = parse_event(data)
    accepted = event.workflow_execution_update_accepted_event_attributes
    return accepted.protocol_instance_id or event.workflow_execution_update_admitted_event_attributes.request.meta.update_id


def signal_name(event: bytes) -> str:
    return parse_event(event).workflow_execution_signaled_event_attributes.signal_name
