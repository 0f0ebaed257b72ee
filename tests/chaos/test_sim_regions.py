"""Several regions in the simulator: a slice of the seeds, that a seed is the same story every time, and the network between them.

`python -m chaos.sim run --regions 2 --seeds 1000` runs many more.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from chaos.sim.between import Between
from chaos.sim.faults import FaultPlan
from chaos.sim.link_ends import LinkEnd, LinkFault
from chaos.sim.loop import simulate
from chaos.sim.rand import Streams
from chaos.sim.seeds import Result, Wanted, run_seed
from replication.link import LinkDown

SEEDS = (1, 2, 3, 4, 5)
TWO = Wanted(None, 2)


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return [run_seed(seed, wanted=TWO) for seed in SEEDS]


def test_no_seed_of_two_regions_shows_a_violation(results: list[Result]) -> None:
    assert {result.seed: result.violations for result in results if result.violations} == {}


def test_the_slice_of_two_regions_has_work_acknowledged_and_namespaces_that_move(results: list[Result]) -> None:
    assert all(result.acked_count and result.regions_count == 2 for result in results)
    injected = {str(kind) for result in results for kind in result.injected}
    assert {"graceful_failover", "forced_failover"} <= injected
    assert len({kind for kind in injected if kind.startswith("region")}) >= 6, injected


def test_a_seed_of_regions_is_the_same_story_for_any_hash_seed_of_python(results: list[Result]) -> None:
    command = [sys.executable, "-m", "chaos.sim", "run", "--regions", "2", "--seeds", "1", "--first", "3", "--hashes"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": "4711"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.splitlines()[0] == f"3 {results[2].digest}", done.stdout + done.stderr


# --- the network between regions -------------------------------------------------------------------------------------------
def between(**rates: float) -> Between:
    streams = Streams(1)
    none = FaultPlan(streams("none"), {}, active=False)
    regions: Any = [SimpleNamespace(name=name, slots={f"{name}-n1": None}) for name in ("r1", "r2")]
    return Between(streams, regions, none, FaultPlan(streams("faults"), rates), delay_s_max=0.05)


def linked(net: Between) -> tuple[LinkEnd, LinkEnd]:
    near, far = LinkEnd(net, "r1-n1"), LinkEnd(net, "r2-n1")
    near.peer, far.peer = far, near
    net._ends += [near, far]
    return near, far


def play(story: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await story()

    simulate(main())


async def send_all(end: LinkEnd, *data: bytes) -> None:
    for one in data:
        await end.send(one)


async def receive_all(end: LinkEnd, count: int) -> list[bytes]:
    return [await end.receive() for _ in range(count)]


def test_messages_arrive_in_order_and_a_close_after_them() -> None:
    async def story() -> None:
        near, far = linked(between())
        await send_all(near, b"1", b"2", b"3")
        near.close()
        assert await receive_all(far, 3) == [b"1", b"2", b"3"]
        with pytest.raises(LinkDown):
            await far.receive()

    play(story)


def test_a_lost_message_is_the_end_of_the_link_for_both_sides() -> None:
    async def story() -> None:
        near, far = linked(between(**{LinkFault.BREAKS: 1.0}))
        await near.send(b"the first one comes whole")
        with pytest.raises(LinkDown):
            await near.send(b"lost")
        with pytest.raises(LinkDown):
            await receive_all(far, 2)

    play(story)


def test_what_is_late_or_doubled_arrives_all_the_same() -> None:
    async def story() -> None:
        near, far = linked(between(**{LinkFault.DOUBLED: 1.0}))
        await send_all(near, b"1", b"2")
        assert sorted(await receive_all(far, 3)) == [b"1", b"2", b"2"]

    play(story)


def test_a_cut_way_carries_nothing_until_it_is_healed() -> None:
    async def story() -> None:
        net = between()
        near, far = linked(net)
        net.cut(net.pairs("r1", "r2"))
        await send_all(near, b"1", b"2")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await far.receive()
        net.heal(net.pairs("r1", "r2"))
        assert await receive_all(far, 2) == [b"1", b"2"]

    play(story)


def test_a_link_over_a_way_that_stays_cut_is_held_for_dead_by_both_sides() -> None:
    async def story() -> None:
        net = between()
        near, far = linked(net)
        net.cut(net.pairs("r2", "r1"))
        for end in (near, far):
            with pytest.raises(LinkDown):
                await end.receive()

    play(story)


def test_a_process_that_dies_is_noticed_at_once_and_a_machine_later() -> None:
    async def noticed_s(is_machine: bool) -> float:
        net = between()
        near, _ = linked(net)
        net.died("r2-n1", is_machine)
        began = asyncio.get_running_loop().time()
        with pytest.raises(LinkDown):
            await near.receive()
        return asyncio.get_running_loop().time() - began

    async def story() -> None:
        assert await noticed_s(False) == 0.0
        assert await noticed_s(True) >= 2.0

    play(story)
