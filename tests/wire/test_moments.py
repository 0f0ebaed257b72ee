"""Two things in the same moment: a grant and a cancellation, an answer and a cancellation, a grant and the end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

from cluster.wire.client_connection import ClientConnection
from cluster.wire.errors import Unreachable
from cluster.wire.frames import Welcome, encode
from tests.wire.pipes import MemoryNetwork
from tests.wire.test_calls import Rude
from tests.wire.world import ADDRESS, World, error_of, simulated, until, with_limits


def then(connection: ClientConnection, method: str, action: Callable[[], object]) -> None:
    """Each call of the connection's method is followed by the action, before the loop can turn."""
    original: Callable[..., Any] = getattr(connection, method)

    def both(*arguments: Any) -> Any:
        result = original(*arguments)
        action()
        return result

    setattr(connection, method, both)


async def with_a_waiting_call(network: MemoryNetwork) -> tuple[World, ClientConnection, asyncio.Task[bytes], asyncio.Task[bytes]]:
    """One call holds all the credit, one waits for it."""
    world = await World(network, with_limits(requests_in_flight_max=1)).start()
    holder = world.job("wait")
    await until(lambda: world.handler.running == 1)
    waiting = world.job("echo")
    connection = world.client._links[ADDRESS].connection
    assert connection is not None
    await until(lambda: len(connection._waiting) == 1)
    return world, connection, holder, waiting


def test_credit_granted_to_a_caller_who_leaves_in_that_moment_is_not_lost() -> None:
    async def story(network: MemoryNetwork) -> None:
        world, connection, holder, waiting = await with_a_waiting_call(network)
        then(connection, "_admit", waiting.cancel)
        world.handler.release.set()
        await holder
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert await world.call("echo", b"next", timeout_s=5) == b"next"
        await world.stop()

    simulated(story)


def test_a_call_granted_its_credit_in_the_moment_of_the_end_knows_that_it_was_never_sent() -> None:
    async def story(network: MemoryNetwork) -> None:
        world, connection, holder, waiting = await with_a_waiting_call(network)
        then(connection, "_admit", lambda: connection.abort("cut in that moment"))
        world.handler.release.set()
        await holder
        error = await error_of(waiting)
        assert isinstance(error, Unreachable) and "cut in that moment" in error.message
        await world.stop()

    simulated(story)


def test_an_error_that_comes_in_the_moment_of_the_cancellation_is_not_reported_as_forgotten() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        await world.call("echo")
        connection = world.client._links[ADDRESS].connection
        assert connection is not None
        job = world.job("fail", b"nobody hears this")
        then(connection, "take", job.cancel)
        await asyncio.wait([job])
        assert job.cancelled()
        del job
        gc.collect()
        await world.stop()

    simulated(story)  # fails by what asyncio reports


def test_a_request_that_is_held_back_is_dropped_when_its_caller_gives_up() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network, with_limits(answer_bytes_hold=1_000, keepalive_s=1_000.0)).start()
        await world.call("echo")
        (client_end,) = {pipe.address for pipe in network.pipes} - {ADDRESS}
        network.unread.add(client_end)
        large = world.job("big", b"5000")
        await until(lambda: world.handler.started == 2)
        await asyncio.sleep(0.1)
        held = world.job("echo", timeout_s=2)
        (server_end,) = world.server.connections
        await until(lambda: len(server_end._held) == 1)
        await error_of(held)
        await until(lambda: not server_end._held)
        network.read_again(client_end)
        await large
        assert world.handler.started == 2
        await world.stop()

    simulated(story)


def test_a_peer_that_welcomes_and_hangs_up_again_and_again_is_not_called_in_a_loop() -> None:
    class HangsUp(Rude):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.close()

    async def story(network: MemoryNetwork) -> None:
        network.listening[ADDRESS] = lambda: HangsUp(encode(Welcome(1, "node-b", "cluster-1", 16, 10, 1_000, 1_000)))
        world = World(network)
        for _ in range(500):
            await error_of(world.call("echo"))
            await asyncio.sleep(0.01)
        assert network.connects < 12, f"{network.connects} connections in 5 s"
        await world.stop()

    simulated(story)
