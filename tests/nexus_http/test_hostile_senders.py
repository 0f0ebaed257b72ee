"""Bad input at the socket: slow senders, too much, smuggling, pages of other origins. The right status, and no effect."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from cluster.frontend import http_pages
from nexus.settings import GatewaySettings
from tests.nexus_http.world import gateway_world

PATH = "/nexus/endpoints/payments/services/billing/charge"


def head(*lines: str, path: str = PATH) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def status_of(text: bytes) -> int:
    return int(text.split(b" ", 2)[1])


async def test_a_body_at_its_limit_is_taken_and_one_byte_more_is_not() -> None:
    async with gateway_world(GatewaySettings(body_bytes_max=1_000)) as world:
        async with world.post(PATH, b"x" * 1_000, Content_Type="application/octet-stream") as response:
            assert response.status == 200
        async with world.post(PATH, b"x" * 1_001, Content_Type="application/octet-stream") as response:
            assert response.status == 400 and "1000 bytes" in (await response.json())["message"]
        chunks = b"400\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n"
        chunked = await world.raw(head("Transfer-Encoding: chunked", "Connection: close") + chunks)
        assert status_of(chunked) == 400
        declared = await world.raw(head("Content-Length: 99999999999"))
        assert status_of(declared) == 400
        assert len(world.worker.asked) == 1


async def test_a_slow_body_is_cut_off_at_its_deadline() -> None:
    async with gateway_world(GatewaySettings(body_timeout_s=0.2)) as world:
        text = await world.raw(head("Content-Length: 10") + b"abc")
        assert status_of(text) == 408
        assert json.loads(text.partition(b"\r\n\r\n")[2])["details"]["type"] == "REQUEST_TIMEOUT"
        assert world.worker.asked == []


async def test_a_slow_head_is_cut_off_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_pages, "HEADER_TIMEOUT_S", 0.3)
    async with gateway_world() as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        sending = asyncio.create_task(_dribble(writer, head("X-Slow: yes").rstrip()))
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionResetError):  # closed while a byte was on its way
                assert await reader.read() == b""  # closed, although something came all the time
        sending.cancel()
        writer.close()
        assert world.worker.asked == []


async def _dribble(writer: asyncio.StreamWriter, data: bytes) -> None:
    """A byte now and then, and never the end."""
    for byte in data:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.02)
    await asyncio.Event().wait()


async def test_one_connection_too_many_is_told_so_and_the_others_go_on() -> None:
    async with gateway_world(connections_max=3) as world:
        idle = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(3)]
        idle[0][1].write(head("Content-Length: 0"))
        assert (await idle[0][0].readline()).startswith(b"HTTP/1.1 200 ")
        text = await world.raw(head("Content-Length: 0"))
        assert status_of(text) == 503 and b"Retry-After: 1" in text
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
        while status_of(await world.raw(head("Content-Length: 0", "Connection: close"))) != 200:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 4", "Transfer-Encoding: chunked"),
        ("Content-Length: 4", "Content-Length: 5"),
        ("Content-Length: -1",),
        ("Content-Length: 0x4",),
        ("Content-Length : 4",),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding: xchunked",),
        (" folded: yes",),
        ("Bad\x00Name: 1",),
        ("Name: a\rb",),
    ],
)
async def test_a_request_that_two_readers_could_read_differently_is_refused(lines: tuple[str, ...]) -> None:
    smuggled = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    async with gateway_world() as world:
        text = await world.raw(head(*lines) + b"0\r\n\r\n" + smuggled)
        assert status_of(text) == 400, text
        assert text.count(b"HTTP/1.") == 1  # what came behind it was not served
        assert world.worker.asked == []


@pytest.mark.parametrize(
    "lines",
    [
        ("Nexus-Operation-Token: a", "Nexus-Operation-Token: b"),
        ("Nexus-Request-Id: a", "Nexus-Request-Id: b"),
        ("Request-Timeout: 1s", "Request-Timeout: 2s"),
        ("Content-Type: a/b", "Content-Type: c/d"),
        ("Request-Timeout: soon",),
        ("Request-Timeout: 1h",),
        ("Operation-Timeout: -1s",),
        ("Nexus-Link: <x>",),
        ('Nexus-Link: <x>; type="a b"',),
        ("Nexus-Link: " + ", ".join(['<x>; type="T"'] * 11),),
        ('Nexus-Link: <' + "u" * 4_001 + '>; type="T"',),
        ("Nexus-Callback-Token: a", "Nexus-Callback-Token: b"),
        tuple(f"X-Big-{n}: " + "v" * 4_000 for n in range(3)),
        tuple(f"Nexus-Callback-Big-{n}: " + "v" * 4_000 for n in range(3)),
    ],
)
async def test_headers_that_say_too_much_or_two_things_are_refused(lines: tuple[str, ...]) -> None:
    async with gateway_world() as world:
        text = await world.raw(head(*lines, "Content-Length: 0", "Connection: close"))
        assert status_of(text) == 400, text
        if lines[0] != "Content-Type: a/b":  # which is no HTTP any more
            assert json.loads(text.partition(b"\r\n\r\n")[2])["metadata"]["type"] == "nexus.HandlerError"
        assert world.worker.asked == []


async def test_ten_links_and_a_long_token_fit() -> None:
    async with gateway_world() as world:
        lines = [f'Nexus-Link: <{"u" * 3_990}{n}>; type="T"' for n in range(10)]
        text = await world.raw(head(*lines, "Content-Length: 0", "Connection: close"))
        assert status_of(text) == 200
        assert len(world.worker.last.start_operation.links) == 10


async def test_a_page_of_another_origin_may_not_call_unless_it_is_allowed() -> None:
    async with gateway_world() as world:
        async with world.post(PATH, Origin="https://evil.example") as response:
            assert response.status == 403
            assert "Access-Control-Allow-Origin" not in response.headers
        assert world.worker.asked == []
    async with gateway_world(GatewaySettings(cors_origins=("https://good.example",))) as world:
        async with world.post(PATH, Origin="https://good.example") as response:
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == "https://good.example"
        async with world.session.options(world.url + PATH, headers={"Origin": "https://good.example"}) as response:
            assert response.status == 204 and "POST" in response.headers["Access-Control-Allow-Methods"]
        async with world.post(PATH, Origin="https://evil.example") as response:
            assert response.status == 403


async def test_the_gateway_takes_only_its_own_paths() -> None:
    async with gateway_world() as world:
        for path in ("/nexus/../metrics", "/nexus/%2e%2e/metrics", "/nexus/./callback/", "http://other.host" + PATH):
            text = await world.raw(head("Content-Length: 0", "Connection: close", path=path))
            assert status_of(text) in (400, 404, 405), (path, text)
        async with world.session.get(world.url + "/healthz") as response:
            assert await response.text() == "ok"
        assert world.worker.asked == []


async def test_the_whole_gateway_has_a_rate_limit() -> None:
    async with gateway_world(GatewaySettings(requests_per_s_max=1, requests_burst=3)) as world:
        statuses = []
        for _ in range(5):
            async with world.post(PATH) as response:
                statuses.append(response.status)
        assert statuses[:3] == [200, 200, 200] and statuses[-1] == 429
        assert len(world.worker.asked) == statuses.count(200)
