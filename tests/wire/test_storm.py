"""Everything at once, by seed: calls, cancellations, deadlines, aborted and half-open connections. Nothing may be left over."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from cluster.core.errors import CallerError
from tests.wire.pipes import MemoryNetwork
from tests.wire.world import ADDRESS, World, simulated, until, with_limits

LIMITS = with_limits(
    requests_in_flight_max=6,
    long_polls_in_flight_max=3,
    request_bytes_in_flight_max=3_000,
    payload_bytes_max=2_000,
    requests_waiting_max=40,
    answer_bytes_hold=3_000,
    answer_bytes_max=9_000,
    total_request_bytes_in_flight_max=2_800,
)


async def _one(world: World, draw: random.Random, ends: Counter[str]) -> None:
    """One call with drawn ways to go wrong; an answer must be its own."""
    method = draw.choice(["echo", "echo", "sleep", "wait", "fail"])
    payload = f"{draw.uniform(0, 4):.3f}".ljust(draw.randrange(6, 2_100)).encode()
    call = world.job(method, payload, timeout_s=draw.choice([0.5, 5, 30]), is_long_poll=method == "wait")
    patience_s = draw.choice([None, None, 0.0, 0.001, 1.0])
    try:
        answer = await (call if patience_s is None else asyncio.wait_for(call, patience_s))
        assert answer == payload
        ends["answered"] += 1
    except CallerError as error:
        ends[error.code.name] += 1
    except TimeoutError:
        ends["caller left"] += 1


async def _faults(network: MemoryNetwork, draw: random.Random, ends: Counter[str]) -> None:
    while True:
        await asyncio.sleep(draw.uniform(0.5, 15))
        fault = draw.choice(["abort", "cut", "unread"])
        pipes = sorted(network.pipes, key=lambda pipe: pipe.address)
        if fault == "abort" and pipes:
            draw.choice(pipes).abort()
        elif fault == "cut":
            network.cut.add(ADDRESS)
            await asyncio.sleep(draw.uniform(0, 20))
            network.heal()
        elif pipes:
            hangs = draw.choice(pipes).address
            network.unread.add(hangs)
            await asyncio.sleep(draw.uniform(0, 8))
            network.read_again(hangs)
        ends[f"fault {fault}"] += 1


@pytest.mark.parametrize("seed", range(8))
def test_after_a_storm_every_call_has_ended_and_all_credit_is_back(seed: int) -> None:
    ends: Counter[str] = Counter()

    async def story(network: MemoryNetwork) -> None:
        draw = random.Random(seed)
        world = await World(network, LIMITS).start()
        loop = asyncio.get_running_loop()
        faults = loop.create_task(_faults(network, draw, ends))
        calls = []
        for _ in range(400):
            calls.append(loop.create_task(_one(world, draw, ends)))
            await asyncio.sleep(draw.choice([0, 0, 0, 0.05, 1.0]))
        faults.cancel()
        network.heal()
        for address in sorted(network.unread):
            network.read_again(address)
        await asyncio.gather(*calls)
        await until(lambda: not world.server.calls, limit_s=60)
        assert world.server.request_bytes == 0
        await asyncio.sleep(3)
        assert await world.call("echo", b"well again") == b"well again"
        for connection in world.server.connections:
            credit = connection._credit
            assert (credit.requests, credit.bytes_in_flight, credit.long_polls) == (0, 0, 0)
        for link in world.client._links.values():
            assert link.connection is not None and link.waiting_count == 0
            credit, left = link.connection._credit, (link.connection._waiting, link.connection._waiting_polls)
            assert (credit.requests, credit.bytes_in_flight, credit.long_polls, *map(len, left)) == (0, 0, 0, 0, 0)
        assert world.handler.running_max <= LIMITS.requests_in_flight_max * max(1, network.connects)
        await world.stop()
        await until(lambda: not network.pipes)

    simulated(story)
    assert ends["answered"] > 20 and ends["caller left"] > 20 and ends["UNAVAILABLE"] > 0, ends
    assert sum(count for end, count in ends.items() if end.startswith("fault")) >= 3, ends
