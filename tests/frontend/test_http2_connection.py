"""The public port, spoken to in frames: what HTTP/2 allows is served, what it forbids ends the connection and nothing else."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.frontend import http2_connection
from cluster.frontend.call import Call
from cluster.frontend.http2_headers import encode_headers
from tests.frontend.http2_client import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    RST,
    WINDOW,
    Client,
    call,
    frame,
    message,
    request_fields,
)
from tests.frontend.http2_client import settings as settings_frame
from tests.frontend.http2_serving import ANSWER, PATH, good, running, serving

PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, REFUSED_STREAM, COMPRESSION_ERROR, CALM = 1, 3, 6, 7, 9, 11
INITIAL_WINDOW, FRAME_SIZE = 4, 5


async def test_a_request_may_come_byte_by_byte() -> None:
    async with serving() as (_, port):
        client = await Client.connect(port)
        for byte in call(1, PATH):
            client.send(bytes((byte,)))
            await asyncio.sleep(0)
        await good(client)


async def test_headers_in_pieces_and_padded_data_are_one_request() -> None:
    block = encode_headers(request_fields(PATH))
    body = message(b"")
    async with serving() as (_, port):
        client = await Client.connect(port)
        client.send(frame(HEADERS, 0, 1, block[:7]) + frame(CONTINUATION, 0, 1, block[7:20]))
        client.send(frame(CONTINUATION, END_HEADERS, 1, block[20:]))
        client.send(frame(DATA, PADDED, 1, b"\4" + body[:2] + bytes(4)) + frame(DATA, END_STREAM, 1, body[2:]))
        await good(client)


async def test_calls_of_one_connection_run_beside_each_other() -> None:
    go_on = asyncio.Event()

    async def second_first(call: Call) -> bytes:
        if call.metadata["which"] == "1":
            await go_on.wait()
        return call.metadata["which"].encode()

    async with serving(second_first) as (_, port):
        client = await Client.connect(port)
        client.send(call(1, PATH, b"", (b"which", b"1")) + call(3, PATH, b"", (b"which", b"2")))
        assert (await client.answer(3))[1] == message(b"2")
        go_on.set()
        assert (await client.answer(1))[1] == message(b"1")


# --- who gives up --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["reset", "lost"])
async def test_a_client_that_gives_up_ends_its_call(how: str) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def waits(call: Call) -> bytes:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError("not reached")

    async with serving(waits) as (transport, port), asyncio.timeout(5):
        client = await Client.connect(port)
        client.send(call(1, PATH))
        await began.wait()
        if how == "reset":
            client.send(frame(RST, 0, 1, (8).to_bytes(4, "big")))
        else:
            await client.close()
        await ended.wait()
        await asyncio.sleep(0)
        assert running(transport) == 0


async def test_a_call_that_is_given_up_before_it_begins_leaves_nothing_behind() -> None:
    async with serving() as (transport, port):
        client = await Client.connect(port)
        client.send(call(1, PATH) + frame(RST, 0, 1, (8).to_bytes(4, "big")) + call(3, PATH))
        await good(client, 3)
        assert running(transport) == 0


async def test_a_deadline_ends_a_call_whose_client_forgot_it() -> None:
    ended = asyncio.Event()

    async def waits(call: Call) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError("not reached")

    async with serving(waits) as (transport, port):
        client = await Client.connect(port)
        client.send(call(1, PATH, b"", (b"grpc-timeout", b"50m")))
        fields, _ = await client.answer(1)
        assert fields["grpc-status"] == "4" and ended.is_set() and running(transport) == 0


async def test_a_deadline_far_away_does_not_end_a_call_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.frontend.grpc_front.DEADLINE_STEP_S", 0.02)
    monkeypatch.setattr("cluster.frontend.grpc_front.DEADLINE_AHEAD_STEPS_MAX", 2)

    async def slow(call: Call) -> bytes:
        await asyncio.sleep(0.3)
        return ANSWER

    async with serving(slow) as (_, port):
        client = await Client.connect(port)
        client.send(call(1, PATH, b"", (b"grpc-timeout", b"10S")))
        await good(client)


async def test_a_server_that_leaves_finishes_what_has_begun_and_takes_nothing_new() -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def waits(call: Call) -> bytes:
        began.set()
        await go_on.wait()
        return ANSWER

    async with serving(waits) as (transport, port):
        client = await Client.connect(port)
        client.send(call(1, PATH))
        await began.wait()
        closing = asyncio.ensure_future(transport.close())
        assert (await client.until(GOAWAY)).payload[:4] == (1).to_bytes(4, "big")
        client.send(call(3, PATH))
        go_on.set()
        await good(client)
        assert await client.is_closed()
        await closing


# --- what is forbidden ----------------------------------------------------------------------------------------------------
BLOCK = encode_headers(request_fields(PATH))


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        (frame(DATA, 0, 5, b"x"), PROTOCOL_ERROR),
        (frame(DATA, PADDED, 1, b"\5abc"), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 2, BLOCK), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 0, BLOCK), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 1, b"\x80"), COMPRESSION_ERROR),
        (frame(HEADERS, 0, 1, BLOCK[:9]) + frame(PING, 0, 0, bytes(8)), PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, BLOCK[:9]) + frame(CONTINUATION, 4, 3, BLOCK[9:]), PROTOCOL_ERROR),
        (frame(CONTINUATION, 4, 1, BLOCK), PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * 100, CALM),
        (frame(HEADERS, 0, 1, bytes(16_384)) + frame(CONTINUATION, 0, 1, bytes(16_384)) * 4, CALM),
        (frame(HEADERS, END_HEADERS, 1, BLOCK) + frame(DATA, 0, 1) * 10_001, CALM),
        (frame(HEADERS, END_HEADERS, 1, BLOCK) * 2, PROTOCOL_ERROR),
        (frame(5, 4, 1, bytes(4) + BLOCK), PROTOCOL_ERROR),
        (frame(PING, 0, 0, b"short"), FRAME_SIZE_ERROR),
        (frame(RST, 0, 9, bytes(4)), PROTOCOL_ERROR),
        (frame(WINDOW, 0, 0, bytes(4)), PROTOCOL_ERROR),
        (frame(WINDOW, 0, 9, b"\0\0\0\1"), PROTOCOL_ERROR),
        (frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"), FLOW_CONTROL_ERROR),
        (settings_frame({INITIAL_WINDOW: 1 << 31}), FLOW_CONTROL_ERROR),
        (settings_frame({FRAME_SIZE: 10}), PROTOCOL_ERROR),
        (frame(4, 0, 0, b"abc"), FRAME_SIZE_ERROR),
        (frame(4, 0, 1), PROTOCOL_ERROR),
        (b"\0\x40\1\0\0\0\0\0\1", FRAME_SIZE_ERROR),
        (frame(PING, 0, 0, bytes(8)) * 4, CALM),
    ],
)  # fmt: skip
async def test_what_breaks_the_protocol_ends_the_connection_with_its_code(sent: bytes, code: int) -> None:
    async with serving() as (transport, port):
        other = await Client.connect(port)
        client = await Client.connect(port)
        client.send(sent)
        assert (await client.until(GOAWAY)).number == code
        assert await client.is_closed()
        other.send(call(1, PATH))
        await good(other)
        assert running(transport) == 0


async def test_who_speaks_something_else_is_told_and_dropped() -> None:
    async with serving() as (_, port):
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert (await client.until(GOAWAY)).number == PROTOCOL_ERROR
        assert await client.is_closed()


async def test_unknown_frames_and_late_frames_of_ended_streams_are_ignored() -> None:
    async with serving() as (_, port):
        client = await Client.connect(port)
        client.send(frame(77, 255, 9, b"?") + frame(2, 0, 1, bytes(5)) + call(1, PATH))
        await good(client)
        client.send(frame(WINDOW, 0, 1, b"\0\0\0\1") + frame(RST, 0, 1, bytes(4)) + frame(GOAWAY, 0, 0, bytes(8)))
        client.send(frame(WINDOW, 0, 0, b"\0\1\0\0") + call(3, PATH))
        await good(client, 3)


async def test_pings_between_answers_are_welcome() -> None:
    async with serving() as (_, port):
        client = await Client.connect(port)
        for stream in (1, 3, 5, 7, 9):
            client.send(frame(PING, 0, 0, b"12345678") + frame(WINDOW, 0, 0, b"\0\1\0\0") + call(stream, PATH))
            pong = await client.until(PING)
            assert (pong.flags, pong.payload) == (ACK, b"12345678")
            await good(client, stream)


async def test_streams_above_the_limit_are_refused_for_a_later_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_connection, "STREAMS_MAX", 2)

    async def waits(call: Call) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError("not reached")

    async with serving(waits) as (_, port):
        client = await Client.connect(port)
        client.send(call(1, PATH) + call(3, PATH) + call(5, PATH))
        refused = await client.until(RST)
        assert (refused.stream, refused.number) == (5, REFUSED_STREAM)


async def test_unfinished_requests_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_connection, "UNFINISHED_BYTES_MAX", 40_000)
    part = message(bytes(20_000))[:15_000]
    async with serving() as (_, port):
        client = await Client.connect(port)
        for stream in (1, 3, 5):
            client.send(frame(HEADERS, END_HEADERS, stream, BLOCK) + frame(DATA, 0, stream, part))
        assert (await client.until(GOAWAY)).number == CALM


async def test_resets_in_a_row_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_connection, "RESETS_IN_A_ROW_MAX", 10)
    async with serving() as (_, port):
        client = await Client.connect(port)
        for stream in range(1, 41, 2):
            client.send(frame(HEADERS, END_HEADERS, stream, BLOCK) + frame(RST, 0, stream, bytes(4)))
        assert (await client.until(GOAWAY)).number == CALM


async def test_a_client_that_vanished_is_noticed_and_a_silent_one_that_lives_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_connection, "KEEPALIVE_S", 0.1)
    monkeypatch.setattr(http2_connection, "KEEPALIVE_TIMEOUT_S", 0.3)
    monkeypatch.setattr(http2_connection, "GREETING_TIMEOUT_S", 0.1)
    async with serving() as (_, port):
        alive, vanished = await Client.connect(port), await Client.connect(port)
        for _ in range(3):
            ping = await alive.until(PING)
            alive.send(frame(PING, ACK, 0, ping.payload))
        assert await vanished.is_closed()
        alive.send(call(1, PATH))
        await good(alive)


async def test_who_connects_and_says_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_connection, "GREETING_TIMEOUT_S", 0.1)
    async with serving() as (_, port):
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        client.send(PREFACE[:10])
        assert await client.is_closed()


# --- anything -----------------------------------------------------------------------------------------------------------
GOOD_FRAMES = [
    call(1, PATH), call(3, PATH), frame(HEADERS, END_HEADERS, 5, BLOCK), frame(DATA, END_STREAM, 5, message(b"")),
    frame(RST, 0, 1, bytes(4)), frame(PING, 0, 0, bytes(8)), settings_frame({INITIAL_WINDOW: 50}),
    frame(WINDOW, 0, 3, b"\0\0\1\0"), frame(HEADERS, 0, 7, BLOCK[:9]), frame(CONTINUATION, END_HEADERS, 7, BLOCK[9:]),
    frame(GOAWAY, 0, 0, bytes(8)),
]  # fmt: skip


@given(
    st.lists(st.sampled_from(GOOD_FRAMES), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
)
@settings(deadline=None)
def test_no_bytes_harm_the_server_or_other_clients(frames: list[bytes], changes: list[tuple[int, int]]) -> None:
    sent = bytearray(b"".join(frames))
    for place, value in changes:
        sent[place % len(sent)] = value

    async def run() -> None:
        async with serving() as (transport, port):
            bad, client = await Client.connect(port), await Client.connect(port)
            bad.send(bytes(sent))
            client.send(call(1, PATH))
            await good(client)
            await bad.close()
            async with asyncio.timeout(5):
                while running(transport):
                    await asyncio.sleep(0.01)

    asyncio.run(run())
