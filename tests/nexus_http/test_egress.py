"""The guard of calls to addresses that somebody else named: every trick of nexus/egress.py's table, and what is allowed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from nexus.egress import LOOPBACK_NETWORKS, AddressRule, CallFailed, Egress, EgressRefused, EgressSettings

OPEN = EgressSettings(allowed_networks=LOOPBACK_NETWORKS)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class Names(AbstractResolver):
    """A name server under the attacker's control. answers: one after the other."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        families = {one: socket.AF_INET6 if ":" in one else socket.AF_INET for one in answer}
        return [
            ResolveResult(hostname=host, host=one, port=port, family=families[one], proto=0, flags=0) for one in answer
        ]

    async def close(self) -> None:
        return None


async def reached(request: web.Request) -> web.Response:
    return web.Response(text="reached")


BAD = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "169.254.0.1", "100.64.0.1", "100.100.100.200", "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "64:ff9b::a00:1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::", "::127.0.0.1", "2001:db8::1", "not an address", "",
]  # fmt: skip


@pytest.mark.parametrize("address", BAD)
def test_an_address_of_this_network_is_refused(address: str) -> None:
    assert not AddressRule(EgressSettings()).allows(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_a_public_address_is_allowed(address: str) -> None:
    assert AddressRule(EgressSettings()).allows(address)


def test_settings_open_and_close_networks_and_closing_wins() -> None:
    rule = AddressRule(EgressSettings(allowed_networks=("10.1.0.0/16",), refused_networks=("10.1.2.0/24", "1.1.1.0/24")))
    assert rule.allows("10.1.1.1") and rule.allows("::ffff:10.1.1.1")
    assert not rule.allows("10.1.2.1") and not rule.allows("10.2.0.1") and not rule.allows("1.1.1.1")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://127.1:{port}/", "http://2130706433:{port}/",
        "http://0x7f000001:{port}/", "http://0177.0.0.1:{port}/", "http://[::1]:{port}/", "http://[::ffff:127.0.0.1]:{port}/",
        "http://0.0.0.0:{port}/", "http://user@127.0.0.1:{port}/", "http://1.1.1.1:80@127.0.0.1:{port}/",
        "http://1.1.1.1\\@127.0.0.1:{port}/", "file:///etc/passwd", "gopher://127.0.0.1:{port}/", "ftp://1.1.1.1/", "http:///x",
        "//x/", "http://1.1.1.1:0/", "http://127.0.0.1 :{port}/", "http://a\r\nb/", "", "http://[::1", "http://1.1.1.1:99999/",
    ],
)  # fmt: skip
async def test_no_form_of_a_url_leads_inside(url: str) -> None:
    count = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal count
        count += 1
        return web.Response()

    async with listening(handler) as port:
        egress = Egress(EgressSettings())
        with pytest.raises((EgressRefused, CallFailed)):
            await egress.post(url.replace("{port}", str(port)), {}, b"", 5.0)
        await egress.close()
    assert count == 0


async def test_a_name_is_refused_if_one_of_its_addresses_is_bad() -> None:
    async with listening(reached) as port:
        for answer in (["127.0.0.1"], ["1.1.1.1", "10.0.0.1"], []):
            egress = Egress(EgressSettings(), Names(answer))
            with pytest.raises(EgressRefused, match="may not be called"):
                await egress.post(f"http://rebind.example:{port}/", {}, b"", 5.0)
            await egress.close()


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    """A name server that says something else the second time is not asked a second time."""
    async with listening(reached) as port:
        names = Names(["127.0.0.1"], ["10.0.0.1"])
        egress = Egress(OPEN, names)
        answered = await egress.post(f"http://rebind.example:{port}/", {}, b"", 5.0)
        assert answered.body == b"reached" and names.asked == ["rebind.example"]
        await egress.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer_and_not_followed(status: int) -> None:
    paths = []

    async def handler(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=status, headers={"Location": "/inside"})

    async with listening(handler) as port:
        egress = Egress(OPEN)
        assert (await egress.post(f"http://127.0.0.1:{port}/outside", {}, b"", 5.0)).status == status
        await egress.close()
    assert paths == ["/outside"]


async def test_what_is_sent_is_what_was_given_and_cookies_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9/")
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.raw_path, dict(request.headers), await request.read()))
        response = web.Response(text="ok", headers={"Content-Encoding": "gzip"})
        response.set_cookie("a", "b")
        return response

    async with listening(handler) as port:
        egress = Egress(OPEN)
        for _ in range(2):
            answered = await egress.post(f"http://127.0.0.1:{port}/a%2Fb?c=%20d", {"X-Mine": "1"}, b"body", 5.0)
            assert answered.body == b"ok"  # said to be compressed: not our business
        await egress.close()
    for path, headers, body in seen:
        assert path == "/a%2Fb?c=%20d" and body == b"body"
        assert set(headers) == {"Host", "X-Mine", "Content-Length"}


async def test_an_answer_that_is_too_large_or_too_slow_is_a_failed_call() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/slow":
            await asyncio.sleep(30)
        return web.Response(body=b"x" * 1_001)

    async with listening(handler) as port:
        egress = Egress(EgressSettings(allowed_networks=LOOPBACK_NETWORKS, response_bytes_max=1_000))
        with pytest.raises(CallFailed, match="too large"):
            await egress.post(f"http://127.0.0.1:{port}/", {}, b"", 5.0)
        with pytest.raises(TimeoutError):
            await egress.post(f"http://127.0.0.1:{port}/slow", {}, b"", 0.1)
        await egress.close()


async def test_a_port_where_nobody_listens_is_a_failed_call() -> None:
    async with listening(reached) as port:
        pass
    egress = Egress(OPEN)
    with pytest.raises(CallFailed, match="cannot connect"):
        await egress.post(f"http://127.0.0.1:{port}/", {}, b"", 5.0)
    await egress.close()
