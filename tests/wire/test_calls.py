"""Calls between two nodes: answers, errors, deadlines, cancellation, the handshake. On virtual time, over pipes in memory."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.any_pb2 import Any as PackedAny
from temporalio.api.errordetails.v1 import NotFoundFailure, WorkflowExecutionAlreadyStartedFailure

from cluster.core.errors import CallerError, Code
from cluster.wire import frames
from cluster.wire.connection import Identity, Peer
from cluster.wire.errors import ConnectionLost, Unreachable, as_failure, from_failure
from cluster.wire.frames import FrameReader, Hello, encode
from cluster.wire.limits import WireLimits
from tests.wire.pipes import MemoryNetwork
from tests.wire.world import ADDRESS, YOU, World, error_of, simulated, until, with_limits


def test_an_answer_comes_back_and_the_peers_know_each_other() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        assert await world.call("echo", b"hello") == b"hello"
        assert world.handler.peers == {Peer("node-a", 1)}
        assert world.client.peer(ADDRESS) == Peer("node-b", 1)
        await world.stop()

    simulated(story)


def test_answers_come_in_the_order_in_which_they_are_ready() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        done: list[bytes] = []
        jobs = [world.job("sleep", text) for text in (b"3", b"1", b"2")]
        for job in jobs:
            job.add_done_callback(lambda job: done.append(job.result()))
        await asyncio.gather(*jobs)
        assert done == [b"1", b"2", b"3"]
        assert network.connects == 1, "one connection per peer"
        await world.stop()

    simulated(story)


def test_two_thousand_calls_at_once_share_one_connection_and_get_their_own_answers() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        answers = await asyncio.gather(*(world.job("echo", str(number).encode()) for number in range(2_000)))
        assert answers == [str(number).encode() for number in range(2_000)]
        assert network.connects == 1
        await world.stop()

    simulated(story)


def test_frames_of_one_turn_leave_as_one_write() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        await world.call("echo")
        before = network.writes
        await asyncio.gather(*(world.job("echo", b"x") for _ in range(50)))
        # One for the requests; the pipe hands them over in two parts, so the answers may leave in two.
        assert network.writes - before <= 3
        await world.stop()

    simulated(story)


def test_an_error_arrives_with_its_code_message_and_details() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        error = await error_of(world.call("fail", "kein Lauf: \u00fc".encode()))
        assert (error.code, error.message, error.details) == (Code.NOT_FOUND, "kein Lauf: \u00fc", ())
        await world.stop()

    simulated(story)


def test_details_are_the_same_messages_after_the_journey_and_unknown_ones_stay_packed() -> None:
    started = WorkflowExecutionAlreadyStartedFailure(start_request_id="r", run_id="run")
    unknown = PackedAny(type_url="type.googleapis.com/outlast.of.Tomorrow", value=b"\x08\x01")
    error = CallerError(Code.ALREADY_EXISTS, "there is one", started, unknown)
    reader = FrameReader(1 << 20)
    reader.receive(encode(as_failure(7, error, WireLimits())))
    received = reader.next_frame()
    assert isinstance(received, frames.Failure)
    back = from_failure(received)
    assert (back.code, back.message, back.details) == (error.code, error.message, (started, unknown))


def test_an_error_with_a_huge_or_unencodable_message_still_arrives() -> None:
    limits = with_limits(payload_bytes_max=100)
    error = CallerError(Code.INTERNAL, "\ud800" + "x" * 5_000, NotFoundFailure(current_cluster="y" * 200))
    failure = as_failure(1, error, limits)
    assert failure.message.startswith("?x") and len(failure.message) == limits.message_chars_max + 3
    assert failure.details == ()
    assert len(encode(failure)) < limits.envelope_bytes_max


def test_a_code_of_a_newer_version_is_unknown_and_not_a_crash() -> None:
    assert from_failure(frames.Failure(1, 99, "new")).code is Code.UNKNOWN


def test_the_inside_of_a_failure_is_not_told_to_the_caller() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        error = await error_of(world.call("bug"))
        assert error.code is Code.INTERNAL
        assert "inside" not in error.message
        await world.stop()

    simulated(story)


def test_a_deadline_travels_as_the_time_that_is_left() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        await world.call("echo")
        now = asyncio.get_running_loop().time()
        await world.call("echo", timeout_s=7.5)
        await world.call("echo", timeout_s=None)
        explicit, default = world.handler.deadlines[1:]
        assert explicit is not None and 7.5 <= explicit - now < 7.52
        assert default is not None and 90 <= default - now < 90.1, "a call without a deadline has one nevertheless"
        await world.stop()

    simulated(story)


def test_a_call_ends_at_its_deadline_on_both_sides() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        error = await error_of(world.call("wait", timeout_s=2))
        assert error.code is Code.DEADLINE_EXCEEDED
        assert 2 <= loop.time() - begun < 2.01
        await until(lambda: world.handler.cancelled == 1)
        assert await world.call("echo", b"still open") == b"still open"
        await world.stop()

    simulated(story)


def test_a_deadline_that_is_over_already_sends_nothing() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        await world.call("echo")
        assert (await error_of(world.call("echo", timeout_s=0))).code is Code.DEADLINE_EXCEEDED
        assert world.handler.started == 1
        await world.stop()

    simulated(story)


def test_a_cancelled_call_is_cancelled_there_and_gives_its_credit_back() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network, with_limits(requests_in_flight_max=1, long_polls_in_flight_max=1)).start()
        job = world.job("wait")
        await until(lambda: world.handler.running == 1)
        job.cancel()
        await asyncio.wait([job])
        assert job.cancelled()
        assert await world.call("echo", b"next") == b"next"
        assert world.handler.cancelled == 1
        await world.stop()

    simulated(story)


def test_a_request_and_its_cancel_in_one_packet_end_with_one_answer() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network, with_limits(requests_in_flight_max=1, long_polls_in_flight_max=1)).start()
        await world.call("echo")
        job = world.job("wait")
        await asyncio.sleep(0)
        job.cancel()
        await asyncio.wait([job])
        assert await world.call("echo", b"next") == b"next", "the credit came back, so there was an answer"
        await world.stop()

    simulated(story)


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (YOU._replace(cluster_id="cluster-2"), ["'cluster-1'", "'cluster-2'"]),
        (YOU._replace(shard_count=32), ["16 shards", "32"]),
    ],
)
def test_a_peer_of_another_cluster_is_refused_and_told_why(server: Identity, words: list[str]) -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network, server=server).start()
        error = await error_of(world.call("echo"))
        assert isinstance(error, Unreachable)
        assert all(word in error.message for word in words), error.message
        assert world.handler.started == 0
        await world.stop()

    simulated(story)


def test_a_peer_without_a_common_version_is_refused_and_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.wire.client_connection.VERSION_MIN", 5)
    monkeypatch.setattr("cluster.wire.client_connection.VERSION_MAX", 6)

    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        error = await error_of(world.call("echo"))
        assert "versions 5 to 6, this node 1 to 1" in error.message
        await world.stop()

    simulated(story)


def test_a_newer_peer_that_still_speaks_our_version_is_welcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.wire.client_connection.VERSION_MAX", 9)

    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        assert await world.call("echo", b"x") == b"x"
        assert world.handler.peers == {Peer("node-a", 1)}
        await world.stop()

    simulated(story)


class Rude(asyncio.Protocol):
    """Says what it is told to, and keeps what it hears."""

    def __init__(self, words: bytes) -> None:
        self.words, self.heard, self.is_over = words, b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.words:
            transport.write(self.words)

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, failure: Exception | None) -> None:
        self.is_over = True


HELLO = encode(Hello("outlast-wire", 1, 1, "n", "cluster-1", 16))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"a frame of 1195725856 bytes"),
        (encode(frames.Request(1, "echo", 1_000, b"")), b"Request must not come while greeting"),
        (encode(Hello("other", 1, 1, "n", "c", 16)), b"not the node-to-node protocol"),
        (HELLO + HELLO, b"Hello must not come while open"),
        (HELLO + encode(frames.Response(1, b"")), b"Response must not come while open"),
        (HELLO + encode(frames.Cancel(5)), b"which never came"),
        (HELLO + encode(frames.Request(2, "wait", 9, b"")) + encode(frames.Request(2, "wait", 9, b"")), b"request id 2 after 2"),
        (HELLO + b"".join(encode(frames.Request(n, "wait", 9, b"")) for n in (1, 2, 3)), b"more requests than the credit"),
        (HELLO + encode(frames.Request(1, "echo", 9, bytes(2_000))), b"more requests than the credit"),
        (HELLO + (1 << 30).to_bytes(4, "big"), b"a frame of 1073741824 bytes"),
    ],
)
def test_a_breach_of_the_protocol_ends_the_connection_says_why_and_leaves_the_server_well(words: bytes, why: bytes) -> None:
    async def story(network: MemoryNetwork) -> None:
        limits = with_limits(requests_in_flight_max=2, request_bytes_in_flight_max=1_500, payload_bytes_max=4_000)
        world = await World(network, limits).start()
        rude = await network.connect(ADDRESS, lambda: Rude(words))
        await until(lambda: rude.is_over)
        assert why in rude.heard
        await until(lambda: not world.server.connections and not world.server.calls)
        assert world.server.request_bytes == 0
        assert await world.call("echo", b"fine") == b"fine"
        await world.stop()

    simulated(story)


def test_a_peer_that_never_greets_is_dropped_in_time() -> None:
    async def story(network: MemoryNetwork) -> None:
        world = await World(network).start()
        rude = await network.connect(ADDRESS, lambda: Rude(b""))
        await until(lambda: rude.is_over, limit_s=world.limits.handshake_timeout_s + 0.1)
        assert not world.server.connections
        await world.stop()

    simulated(story)


def test_a_server_that_answers_what_was_not_asked_loses_its_connection() -> None:
    async def story(network: MemoryNetwork) -> None:
        welcome = frames.Welcome(1, "node-b", "cluster-1", 16, 10, 1_000, 1_000)
        network.listening[ADDRESS] = lambda: Rude(encode(welcome) + encode(frames.Response(77, b"")))
        world = World(network)
        error = await error_of(world.call("echo"))
        assert isinstance(error, ConnectionLost | Unreachable)
        assert "call 77, which is not in flight" in error.message
        await world.stop()

    simulated(story)
