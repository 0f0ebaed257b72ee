"""The simulated network: the real wire runs over it, and what it does to connections is what TCP would do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from chaos.sim.faults import FaultPlan
from chaos.sim.loop import owned_by, running_loop, simulate
from chaos.sim.network import Fabric, LinkFault
from chaos.sim.rand import SimIds, Streams
from chaos.sim.trace import Trace
from cluster.core.errors import CallerError, Code
from cluster.wire.client import WireClient
from cluster.wire.connection import Identity, Peer
from cluster.wire.errors import ConnectionLost, Unreachable
from cluster.wire.server import WireServer

ADDRESS = "b:7400"


class Stage:
    """Node a calls node b."""

    def __init__(self, rates: dict[LinkFault, float] | None = None, seed: int = 1) -> None:
        self.streams = Streams(seed)
        self.plan = FaultPlan(self.streams("links"), rates or {})
        self.fabric = Fabric(self.streams, self.plan, 0.01)
        self.heard: list[bytes] = []
        self.answer_after_s = 0.0

    async def begin(self) -> WireClient:
        await self.serve(1)
        with owned_by("a#1"):
            return WireClient(Identity("a", "cluster", 4), self.fabric.node("a"), SimIds(self.streams("ids")))

    async def serve(self, life: int) -> None:
        with owned_by(f"b#{life}"):
            server = WireServer(self._handle, Identity("b", "cluster", 4), self.fabric.node("b"))
            self.address = await server.start(ADDRESS)

    async def _handle(self, method: str, payload: bytes, deadline: float | None, peer: Peer) -> bytes:
        self.heard.append(payload)
        await asyncio.sleep(self.answer_after_s)
        return payload.upper()


def staged(story: Callable[[Stage, WireClient], Awaitable[None]], rates: dict[LinkFault, float] | None = None) -> str:
    trace = Trace()

    async def main() -> None:
        stage = Stage(rates)
        await story(stage, await stage.begin())

    simulate(main(), trace)
    return trace.digest()


async def call(client: WireClient, payload: bytes, within_s: float = 20.0) -> bytes:
    return await client.call(ADDRESS, "say", payload, running_loop().time() + within_s)


def test_calls_and_answers_arrive_whole_and_in_order() -> None:
    async def story(stage: Stage, client: WireClient) -> None:
        asked = [b"%d " % number * (number * 50 + 1) for number in range(100)]
        assert await asyncio.gather(*(call(client, each) for each in asked)) == [each.upper() for each in asked]
        assert stage.heard == asked

    staged(story)


def test_a_cut_holds_bytes_back_and_healing_lets_them_arrive() -> None:
    async def story(stage: Stage, client: WireClient) -> None:
        await call(client, b"one")
        stage.fabric.cut("a", "b", is_one_way=True)
        waiting = asyncio.ensure_future(call(client, b"two"))
        await asyncio.sleep(2)
        assert stage.heard == [b"one"] and not waiting.done()
        stage.fabric.heal("a", "b")
        assert await waiting == b"TWO"

    staged(story)


def test_a_one_way_cut_lets_the_call_through_and_no_answer_back() -> None:
    async def story(stage: Stage, client: WireClient) -> None:
        await call(client, b"one")
        stage.fabric.cut("b", "a", is_one_way=True)
        with pytest.raises(CallerError) as caught:
            await call(client, b"two", within_s=3)
        assert caught.value.code == Code.DEADLINE_EXCEEDED
        assert stage.heard == [b"one", b"two"]

    staged(story)


def test_a_cut_that_heals_by_a_reset_loses_the_connection() -> None:
    async def story(stage: Stage, client: WireClient) -> None:
        await call(client, b"one")
        stage.fabric.cut("a", "b", is_one_way=False)
        waiting = asyncio.ensure_future(call(client, b"two"))
        await asyncio.sleep(1)
        stage.fabric.heal("a", "b", resets=True)
        with pytest.raises(ConnectionLost):
            await waiting
        await asyncio.sleep(5)  # past the client's backoff
        assert await call(client, b"three") == b"THREE"

    staged(story)


def test_nobody_listening_refuses_and_a_machine_without_power_says_nothing() -> None:
    async def story(stage: Stage, client: WireClient) -> None:
        stage.fabric.died("b", is_machine=False)
        with pytest.raises(Unreachable, match="refuses"):
            await call(client, b"one")
        stage.fabric.died("b", is_machine=True)
        await asyncio.sleep(3)
        with pytest.raises(Unreachable, match="no connection and handshake within"):
            await call(client, b"two")

    staged(story)


def test_peers_of_a_killed_process_are_told_those_of_a_machine_are_not() -> None:
    async def story(stage: Stage, client: WireClient) -> None:
        stage.answer_after_s = 60.0
        for is_machine in (False, True):
            waiting = asyncio.ensure_future(call(client, b"long", within_s=120))
            await asyncio.sleep(3)
            began = running_loop().time()
            running_loop().kill("b#1" if not is_machine else "b#2")
            stage.fabric.died("b", is_machine)
            with pytest.raises(ConnectionLost):
                await waiting
            # The kernel says it at once; a silent machine is found out by the wire's own signs of life.
            assert (running_loop().time() - began > 5) == is_machine
            await asyncio.sleep(5)
            await stage.serve(2)

    staged(story)


def test_a_new_life_resets_connections_of_the_old_one() -> None:
    async def story(stage: Stage, client: WireClient) -> None:
        await call(client, b"one")
        running_loop().kill("b#1")
        stage.fabric.died("b", is_machine=True)
        await asyncio.sleep(1)
        await stage.serve(2)
        with pytest.raises(ConnectionLost, match="reset"):
            await call(client, b"two")
        assert stage.heard == [b"one"]

    staged(story)


def test_a_paused_node_answers_after_it_goes_on() -> None:
    async def story(stage: Stage, client: WireClient) -> None:
        await call(client, b"one")
        running_loop().pause("b#1")
        waiting = asyncio.ensure_future(call(client, b"two"))
        await asyncio.sleep(4)
        assert stage.heard == [b"one"]
        running_loop().resume("b#1")
        assert await waiting == b"TWO"

    staged(story)


@pytest.mark.parametrize("fault", [LinkFault.RESET_MID_FRAME, LinkFault.GOES_SILENT])
def test_a_broken_connection_is_lost_and_never_garbled(fault: LinkFault) -> None:
    async def story(stage: Stage, client: WireClient) -> None:
        outcomes = set()
        for number in range(60):
            try:
                answer = await call(client, b"x%d" % number, within_s=30)
                assert answer == b"X%d" % number
            except CallerError as error:
                outcomes.add(type(error))
                await asyncio.sleep(3)
        assert ConnectionLost in outcomes
        assert stage.plan.injected[fault] > 2

    staged(story, {fault: 0.1})


def test_refused_connections_are_told_as_not_sent() -> None:
    async def story(stage: Stage, client: WireClient) -> None:
        with pytest.raises(Unreachable):
            await call(client, b"one")
        assert stage.heard == []

    staged(story, {LinkFault.CONNECT_REFUSED: 1.0})


def test_a_seed_is_one_story() -> None:
    async def story(stage: Stage, client: WireClient) -> None:
        for number in range(40):
            try:
                await call(client, b"%d" % number, within_s=10)
            except CallerError as error:
                running_loop().trace("failed", number=number, error=error.message)
            await asyncio.sleep(0.3)

    rates = dict.fromkeys(LinkFault, 0.02)
    assert staged(story, rates) == staged(story, rates)
