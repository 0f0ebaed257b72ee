"""Connections that die, hang, come back or are not needed any more; servers that stop. On virtual time, over pipes in memory."""

from __future__ import annotations

import asyncio
import itertools

from cluster.core.errors import Code
from cluster.wire.errors import ConnectionLost, Unreachable
from cluster.wire.frames import Welcome, encode
from cluster.wire.server import WireServer
from tests.wire.pipes import MemoryNetwork
from tests.wire.test_calls import Rude
from tests.wire.world import ADDRESS, YOU, World, error_of, simulated, until


def test_a_half_open_connection_is_found_and_its_calls_fail_as_perhaps_executed() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        await world.call("echo")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        job = world.job("wait", timeout_s=80)
        await until(lambda: world.handler.running == 1)
        network.cut.add(ADDRESS)
        error = await error_of(job)
        assert isinstance(error, ConnectionLost)
        assert "no sign of life" in error.message
        limits = world.limits
        assert limits.keepalive_s <= loop.time() - begun <= limits.keepalive_s + limits.keepalive_timeout_s + 0.1
        # Nobody told the server: it finds out by its own watch, and ends what it does for the peer.
        await until(lambda: world.handler.cancelled == 1, limit_s=20)
        network.heal()
        await world.stop()

    simulated(story)


def test_a_peer_that_greets_and_then_never_answers_is_given_up() -> None:
    async def story(network: MemoryNetwork) -> None:
        network.listening[ADDRESS] = lambda: Rude(encode(Welcome(1, "node-b", "cluster-1", 16, 10, 1_000, 1_000)))
        world = World(network)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        error = await error_of(world.call("echo", timeout_s=80))
        assert isinstance(error, ConnectionLost)
        assert loop.time() - begun <= world.limits.keepalive_s + world.limits.keepalive_timeout_s + 0.1
        await world.stop()

    simulated(story)


def test_a_process_that_was_stopped_for_long_does_not_take_its_own_silence_for_its_peers() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        await world.call("echo")
        connection = next(iter(world.server.connections))
        connection._asked_at = connection.loop.time()
        connection._heard_at -= 60.0  # resumed: the clock has moved on, the answer to the ping is still in the socket
        connection._watch_due_at -= 45.0
        connection._check_alive()
        assert not connection.end_reason
        assert await world.call("echo", b"x") == b"x"
        connection._heard_at, connection._asked_at = connection.loop.time() - 60.0, connection.loop.time() - 5.0
        connection._watch_due_at = connection.loop.time()
        connection._check_alive()
        assert "no sign of life" in connection.end_reason, "in time, the same silence is the end"
        await world.stop()

    simulated(story)


def test_a_quiet_healthy_connection_is_kept_by_signs_of_life_during_a_long_poll() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        assert await world.call("sleep", b"65", timeout_s=70) == b"65"
        assert network.connects == 1
        await world.stop()

    simulated(story)


def test_a_peer_that_accepts_and_never_answers_ends_the_call_in_time() -> None:
    async def story(network: MemoryNetwork) -> None:
        network.listening[ADDRESS] = lambda: Rude(b"")
        world = World(network)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        error = await error_of(world.call("echo"))
        assert isinstance(error, Unreachable)
        assert "handshake" in error.message
        assert loop.time() - begun <= world.limits.connect_timeout_s + 0.1
        await world.stop()

    simulated(story)


def test_a_host_that_does_not_answer_at_all_ends_the_call_at_its_own_deadline_if_that_is_earlier() -> None:
    async def story(network: MemoryNetwork) -> None:
        network.cut.add(ADDRESS)
        world = World(network)
        assert (await error_of(world.call("echo", timeout_s=1))).code is Code.DEADLINE_EXCEEDED
        error = await error_of(world.call("echo", timeout_s=30))
        assert isinstance(error, Unreachable)
        await world.stop()

    simulated(story)


def test_attempts_back_off_with_jitter_up_to_a_limit_and_calls_between_them_fail_at_once() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = World(network)
        loop = asyncio.get_running_loop()
        attempts: list[float] = []
        seen = 0
        while len(attempts) < 14:
            begun = loop.time()
            assert isinstance(await error_of(world.call("echo")), Unreachable)
            if network.connects > seen:
                seen = network.connects
                attempts.append(begun)
            else:
                assert loop.time() == begun, "within the backoff a call fails at once"
            await asyncio.sleep(0.005)
        gaps = [later - earlier for earlier, later in itertools.pairwise(attempts)]
        assert 0.02 < gaps[0] < 0.07
        assert all(0.99 <= gap < 2.03 for gap in gaps[-5:]), "half to all of backoff_max_s"
        assert len({round(gap, 3) for gap in gaps[-5:]}) > 1, "with jitter"
        await world.stop()

    simulated(story)


def test_a_peer_that_comes_back_is_found_again() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        await world.call("echo")
        await asyncio.sleep(5)
        await world.server.stop()
        assert isinstance(await error_of(world.call("echo")), Unreachable)
        server = WireServer(world.handler, YOU, network)
        await server.start(ADDRESS)
        await asyncio.sleep(world.limits.backoff_max_s)
        assert await world.call("echo", b"again") == b"again"
        await world.client.close()
        await server.stop()

    simulated(story)


def test_a_connection_without_calls_is_closed_and_made_again_when_needed() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        await world.call("echo")
        await asyncio.sleep(world.limits.idle_s * 0.9)
        assert world.server.connections
        await asyncio.sleep(world.limits.idle_s * 0.5)
        assert not world.server.connections
        assert await world.call("echo", b"x") == b"x"
        assert network.connects == 2
        await world.stop()

    simulated(story)


def test_an_idle_close_never_ends_a_call() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        assert await world.call("sleep", b"500", timeout_s=590) == b"500"
        await world.stop()

    simulated(story)


def test_a_stopping_server_lets_calls_end_and_then_tells_the_rest_unavailable() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        quick, slow = world.job("sleep", b"1"), world.job("wait")
        await until(lambda: world.handler.running == 2)
        stopping = asyncio.get_running_loop().create_task(world.server.stop(grace_s=3))
        await asyncio.sleep(0.1)
        refused = await error_of(world.call("echo"))
        assert isinstance(refused, Unreachable)
        assert await quick == b"1"
        error = await error_of(slow)
        assert (error.code, "stopping" in error.message) == (Code.UNAVAILABLE, True)
        await stopping
        assert world.handler.cancelled == 1
        assert not world.server.connections and not world.server.calls
        await until(lambda: not network.pipes)
        await world.client.close()

    simulated(story)


def test_requests_that_crossed_the_goodbye_are_refused_and_not_begun() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        await world.call("echo")
        job = world.job("echo")
        await asyncio.sleep(0)  # sent, not yet there
        await asyncio.gather(world.server.stop(grace_s=3), _unavailable(job))
        assert world.handler.started == 1
        await world.client.close()

    async def _unavailable(job: asyncio.Task[bytes]) -> None:
        assert (await error_of(job)).code is Code.UNAVAILABLE

    simulated(story)


def test_a_server_stops_in_time_although_its_peer_hangs() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        job = world.job("wait", timeout_s=300)
        await until(lambda: world.handler.running == 1)
        (client_end,) = {pipe.address for pipe in network.pipes} - {ADDRESS}
        network.unread.add(client_end)
        begun = asyncio.get_running_loop().time()
        await world.server.stop(grace_s=2)
        assert asyncio.get_running_loop().time() - begun <= 2 + world.limits.close_timeout_s + 0.1
        await error_of(job)
        await world.client.close()

    simulated(story)


def test_a_closing_client_fails_its_calls_and_takes_no_new_ones() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        job = world.job("wait")
        await until(lambda: world.handler.running == 1)
        await world.client.close()
        assert isinstance(await error_of(job), ConnectionLost)
        assert isinstance(await error_of(world.call("echo")), Unreachable)
        await until(lambda: world.handler.cancelled == 1)
        await world.server.stop()

    simulated(story)


def test_a_member_that_left_gets_no_new_calls_while_the_old_ones_end() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        job = world.job("sleep", b"3")
        await until(lambda: world.handler.running == 1)
        world.client.disconnect(ADDRESS)
        assert await job == b"3"
        await until(lambda: not world.server.connections)
        await world.stop()

    simulated(story)


def test_a_caller_that_leaves_during_the_attempt_does_not_take_it_from_the_others() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        first, second = world.job("echo", b"1"), world.job("echo", b"2")
        await asyncio.sleep(0)
        first.cancel()
        assert await second == b"2"
        assert network.connects == 1
        await world.stop()

    simulated(story)
