"""Limits and flow control: credit, sizes, a peer that does not read, and the order in which calls get their turn."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import CallerError, Code
from cluster.wire.credit import Credit
from tests.wire.pipes import MemoryNetwork
from tests.wire.world import World, error_of, simulated, until, with_limits

WISHES = st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=60)


@given(WISHES, st.integers(0, 5), st.integers(0, 100), st.integers(0, 5))
def test_credit_never_exceeds_its_limits_and_comes_back_whole(
    wishes: list[tuple[int, bool]], requests_max: int, bytes_max: int, polls_max: int
) -> None:
    credit = Credit(requests_max, bytes_max, polls_max)
    held = []
    for size, is_poll in wishes:
        before = (credit.requests, credit.bytes_in_flight, credit.long_polls)
        if credit.take(size, is_poll):
            held.append((size, is_poll))
        else:
            assert (credit.requests, credit.bytes_in_flight, credit.long_polls) == before
            if held:
                credit.give_back(*held.pop(0))
        assert credit.requests == len(held) <= requests_max
        assert credit.bytes_in_flight == sum(size for size, _ in held) <= bytes_max
        assert credit.long_polls == sum(is_poll for _, is_poll in held) <= polls_max
    for size, is_poll in held:
        credit.give_back(size, is_poll)
    assert (credit.requests, credit.bytes_in_flight, credit.long_polls) == (0, 0, 0)


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_requests_are_in_flight_than_the_server_grants(most: int) -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network, with_limits(requests_in_flight_max=most), with_limits()).start()
        answers = await asyncio.gather(*(world.job("sleep", b"0.5") for _ in range(10)))
        assert len(answers) == 10
        assert world.handler.running_max == most
        await world.stop()

    simulated(story)


def test_no_more_bytes_are_in_flight_than_the_server_grants() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network, with_limits(request_bytes_in_flight_max=1_000)).start()
        await asyncio.gather(*(world.job("sleep", b"0.5".ljust(400)) for _ in range(7)))
        assert world.handler.running_max == 2
        await world.stop()

    simulated(story)


def test_without_credit_a_call_waits_and_is_told_so_at_its_deadline() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network, with_limits(requests_in_flight_max=1)).start()
        holder = world.job("wait")
        await until(lambda: world.handler.running == 1)
        error = await error_of(world.call("echo", timeout_s=3))
        assert (error.code, world.handler.started) == (Code.RESOURCE_EXHAUSTED, 1)
        waiting = world.job("echo", b"in time")
        await asyncio.sleep(1)
        world.handler.release.set()
        assert await waiting == b"in time"
        await holder
        await world.stop()

    simulated(story)


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_only_so_many_calls_may_wait_for_credit(over: int) -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network, with_limits(requests_in_flight_max=1, requests_waiting_max=5)).start()
        world.job("wait")
        await until(lambda: world.handler.running == 1)
        jobs = [world.job("echo") for _ in range(5 + over)]
        await asyncio.sleep(0.1)
        refused = [job for job in jobs if job.done()]
        assert len(refused) == max(0, over)
        for job in refused:
            assert (await error_of(job)).code is Code.RESOURCE_EXHAUSTED
        world.handler.release.set()
        await asyncio.gather(*(job for job in jobs if job not in refused))
        await world.stop()

    simulated(story)


def test_a_cancelled_wait_for_credit_lets_the_next_one_pass() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network, with_limits(request_bytes_in_flight_max=1_000)).start()
        holder = world.job("wait", bytes(600))
        await until(lambda: world.handler.running == 1)
        large, small = world.job("echo", bytes(900)), world.job("echo", bytes(100))
        await asyncio.sleep(0.5)
        assert not small.done(), "it waits behind the large one, so that the large one is not passed over for ever"
        large.cancel()
        assert await small == bytes(100)
        world.handler.release.set()
        await holder
        await world.stop()

    simulated(story)


def test_long_polls_leave_room_for_the_calls_that_end_them() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network, with_limits(requests_in_flight_max=10, long_polls_in_flight_max=6)).start()
        polls = [world.job("wait", is_long_poll=True) for _ in range(20)]
        await until(lambda: world.handler.running == 6)
        assert await world.call("echo", b"offer", timeout_s=1) == b"offer"
        assert world.handler.running == 6
        world.handler.release.set()
        await asyncio.gather(*polls)
        await world.stop()

    simulated(story)


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_a_payload_travels_up_to_its_limit_and_is_refused_above_it_without_breaking_the_connection(over: int) -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network, with_limits(payload_bytes_max=5_000, request_bytes_in_flight_max=50_000)).start()
        size = 5_000 + over
        if over > 0:
            assert (await error_of(world.call("echo", bytes(size)))).code is Code.RESOURCE_EXHAUSTED
            assert world.handler.started == 0, "it was never sent"
            assert (await error_of(world.call("big", str(size).encode()))).code is Code.RESOURCE_EXHAUSTED
        else:
            assert await world.call("echo", bytes(size)) == bytes(size)
            assert len(await world.call("big", str(size).encode())) == size
        assert await world.call("echo", b"after") == b"after"
        assert network.connects == 1
        await world.stop()

    simulated(story)


def test_a_server_full_of_requests_says_so() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network, with_limits(total_request_bytes_in_flight_max=1_000)).start()
        holder = world.job("wait", bytes(800))
        await until(lambda: world.handler.running == 1)
        assert (await error_of(world.call("echo", bytes(300)))).code is Code.RESOURCE_EXHAUSTED
        assert await world.call("echo", bytes(100)) == bytes(100)
        world.handler.release.set()
        await holder
        assert await world.call("echo", bytes(300)) == bytes(300)
        await world.stop()

    simulated(story)


def test_while_the_peer_takes_no_answers_no_further_request_begins_and_the_unsent_bytes_stay_bounded() -> None:
    async def story(network: MemoryNetwork) -> None:
        limits = with_limits(answer_bytes_hold=10_000, answer_bytes_max=40_000, keepalive_s=1_000.0)
        world = await World(network, limits).start()
        await world.call("echo")
        (client_end,) = {pipe.address for pipe in network.pipes} - {world.address}
        network.unread.add(client_end)
        burst = [world.job("big", b"8000", timeout_s=100) for _ in range(8)]
        await until(lambda: world.handler.started == 9)
        later = [world.job("big", b"8000", timeout_s=100) for _ in range(5)]
        await asyncio.sleep(2)
        assert world.handler.started == 9, "requests are held while answers are stuck"
        (server_end,) = world.server.connections
        assert server_end.unsent_bytes <= limits.answer_bytes_max + 8 * limits.message_chars_max
        network.read_again(client_end)
        results = await asyncio.gather(*burst, return_exceptions=True)
        kept = [result for result in results if isinstance(result, bytes)]
        assert len(kept) == 4, "below 40,000 bytes there is room for four answers of 8,000 and their frames"
        assert {error.code for error in results if isinstance(error, CallerError)} == {Code.RESOURCE_EXHAUSTED}
        assert [len(answer) for answer in await asyncio.gather(*later)] == [8_000] * 5
        await world.stop()

    simulated(story)


def test_a_server_takes_only_so_many_connections() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network, with_limits(connections_max=1)).start()
        await world.call("echo")
        second = World(network)
        second.address = world.address
        error = await error_of(second.call("echo"))
        assert "more than 1 connections" in error.message
        await second.client.close()
        await world.stop()

    simulated(story)


def test_a_client_connects_to_only_so_many_peers() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network, with_limits(peers_max=1)).start()
        await world.call("echo")
        error = await error_of(world.client.call("other:1", "echo", b""))
        assert error.code is Code.RESOURCE_EXHAUSTED
        await world.stop()

    simulated(story)
