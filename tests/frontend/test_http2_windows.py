"""Flow control: nobody sends more than the other side has said it takes, and what waits goes on when there is room."""

from __future__ import annotations

from cluster.config import Limits
from cluster.frontend.http2_headers import encode_headers
from tests.frontend.http2_client import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    RST,
    SETTINGS,
    WINDOW,
    Client,
    WindowReader,
    call,
    frame,
    message,
    request_fields,
)
from tests.frontend.http2_client import settings as settings_frame
from tests.frontend.http2_serving import ANSWER, PATH, good, serving

FLOW_CONTROL_ERROR = 3
INITIAL_WINDOW, FRAME_SIZE = 4, 5


async def test_an_answer_waits_for_the_streams_window() -> None:
    async with serving() as (_, port):
        client = await Client.connect(port, {INITIAL_WINDOW: 100})
        client.send(call(1, PATH))
        assert (await client.until(DATA)).payload == message(ANSWER)[:100]
        client.send(frame(WINDOW, 0, 1, (30).to_bytes(4, "big")))
        assert (await client.frame()).payload == message(ANSWER)[100:130]
        client.send(frame(PING, 0, 0, b"12345678"))
        assert (await client.frame()).kind == PING, "more than the window was sent"
        client.send(frame(WINDOW, 0, 1, (1 << 20).to_bytes(4, "big")))
        fields, data = await client.answer(1)
        assert data == message(ANSWER)[130:] and fields["grpc-status"] == "0"


async def test_an_answer_waits_for_the_connections_window_and_others_go_on_after_it() -> None:
    async with serving() as (_, port):
        client = await Client.connect(port, {INITIAL_WINDOW: 1 << 20})
        client.send(call(1, PATH) + call(3, PATH))
        await good(client, 1)
        sent = 65_535 - len(message(ANSWER))
        assert len((await client.until(DATA)).payload) == sent
        client.send(frame(WINDOW, 0, 0, (1 << 20).to_bytes(4, "big")))
        fields, data = await client.answer(3)
        assert data == message(ANSWER)[sent:] and fields["grpc-status"] == "0"


async def test_a_window_that_shrinks_below_zero_is_waited_for() -> None:
    async with serving() as (_, port):
        client = await Client.connect(port, {INITIAL_WINDOW: 100})
        client.send(call(1, PATH))
        await client.until(DATA)
        client.send(settings_frame({INITIAL_WINDOW: 40}))  # 60 too many are sent now
        client.send(frame(WINDOW, 0, 1, (60).to_bytes(4, "big")) + frame(PING, 0, 0, b"12345678"))
        assert (await client.frame()).kind == PING
        client.send(settings_frame({INITIAL_WINDOW: 45}))
        assert (await client.frame()).payload == message(ANSWER)[100:105]


async def test_new_settings_are_acknowledged_before_they_are_used() -> None:
    async with serving() as (_, port):
        client = await Client.connect(port, {INITIAL_WINDOW: 100})
        client.send(call(1, PATH))
        await client.until(DATA)
        client.is_every_frame_told = True
        client.send(settings_frame({INITIAL_WINDOW: 200}))
        acknowledgement, data = await client.frame(), await client.frame()
        assert (acknowledgement.kind, acknowledgement.flags, len(data.payload)) == (SETTINGS, ACK, 100)


async def test_frames_are_as_large_as_the_client_takes() -> None:
    async with serving() as (_, port):
        client = await Client.connect(port, {FRAME_SIZE: 60_000, INITIAL_WINDOW: 1 << 20})
        client.send(call(1, PATH))
        assert (await client.until(DATA)).payload == message(ANSWER)


async def test_requests_as_large_as_they_may_be_follow_each_other_without_end() -> None:
    """The windows that the server gives are given anew: forty of these are twice the connection's."""
    size = Limits().grpc_message_bytes_max
    length = size - 6
    unknown_field = b"\xfa\x7f" + bytes((length & 127 | 128, length >> 7 & 127 | 128, length >> 14 & 127 | 128, length >> 21))
    whole = message(unknown_field + bytes(length))
    assert len(whole) == size + 5
    body = [whole[start : start + 16_384] for start in range(0, len(whole), 16_384)]
    window = WindowReader()
    async with serving() as (_, port):
        client = await Client.connect(port, {INITIAL_WINDOW: 1 << 20}, window)
        client.send(frame(WINDOW, 0, 0, (1 << 30).to_bytes(4, "big")))
        for stream in range(1, 81, 2):
            client.send(frame(HEADERS, END_HEADERS, stream, encode_headers(request_fields(PATH))))
            for piece in body:
                window.sent_bytes += len(piece)
                client.send(frame(DATA, END_STREAM if piece is body[-1] else 0, stream, piece))
            await good(client, stream)
            assert window.sent_bytes <= window.given_bytes, "more was sent than the server gave"


async def test_a_window_of_a_stream_without_end_is_reset_and_the_connection_goes_on() -> None:
    async with serving() as (_, port):
        client = await Client.connect(port, {INITIAL_WINDOW: 1 << 20})
        client.send(call(1, PATH) + call(3, PATH))  # the connection's window ends within the second answer
        await good(client)
        await client.until(DATA)
        client.send(frame(WINDOW, 0, 3, b"\x7f\xff\xff\xff"))
        assert (await client.until(RST)).number == FLOW_CONTROL_ERROR
        client.send(frame(WINDOW, 0, 0, b"\0\1\0\0") + call(5, PATH))
        await good(client, 5)
