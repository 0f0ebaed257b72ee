"""Calls to addresses that somebody else named (callbacks, external targets), without becoming their way into this network.

| trick                                          | what stops it                                                            |
|------------------------------------------------|--------------------------------------------------------------------------|
| a private, loopback, link-local, metadata name | every address that the name resolves to is checked, one bad is enough    |
| a name that resolves otherwise the second time | the connection goes to the very addresses that were checked              |
| 127.1, 0x7f.1, 2130706433                      | the resolver makes real addresses of them, which are checked             |
| ::ffff:10.0.0.1, 64:ff9b::a00:1, 2002:a00:1::  | the IPv4 address inside is what counts                                   |
| a redirect to where a call would be refused    | redirects are not followed: 3xx is an answer, and no good one            |
| a proxy, cookies, .netrc of this process       | not used                                                                 |
| an endless or compressed answer                | read up to a limit and a time; not decompressed                          |

What is allowed all the same is in `EgressSettings.allowed_networks`: a development server allows loopback.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping, Sequence

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

MIB = 1024 * 1024
LOOPBACK_NETWORKS = ("127.0.0.0/8", "::1/128")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_METADATA = frozenset({"169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "fd00:ec2::254"})

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Headers = Mapping[str, str] | Sequence[tuple[str, str]]


class EgressSettings(msgspec.Struct, frozen=True):
    allowed_networks: tuple[str, ...] = ()  # as "10.1.0.0/16": may be called although they are not public
    refused_networks: tuple[str, ...] = ()  # may not be called although they are public; wins
    schemes: tuple[str, ...] = ("https", "http")
    response_bytes_max: int = 2 * MIB
    connect_timeout_s: float = 5.0
    connections_max: int = 1_000
    connections_per_host_max: int = 100


class EgressRefused(Exception):
    """The address may not be called: not now, and not later. The message does not say what it resolved to."""


class CallFailed(Exception):
    """No answer: refused, cut off, not resolved, too large. Whether the other side did something is not known."""


class Answered(msgspec.Struct, frozen=True):
    """headers: names in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class AddressRule:
    def __init__(self, settings: EgressSettings) -> None:
        self._allowed: list[Network] = [ipaddress.ip_network(text) for text in settings.allowed_networks]
        self._refused: list[Network] = [ipaddress.ip_network(text) for text in settings.refused_networks]

    def allows(self, text: str) -> bool:
        try:
            address: Address = ipaddress.ip_address(text.split("%", 1)[0])
        except ValueError:
            return False
        inside = _inner(address)
        if inside is None:
            return self._allows(address)
        return not _within(address, self._refused) and self._allows(inside)

    def _allows(self, address: Address) -> bool:
        if _within(address, self._refused):
            return False
        if _within(address, self._allowed):
            return True
        if str(address) in _METADATA or address.is_multicast or address.is_reserved or address.is_unspecified:
            return False
        return address.is_global


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _inner(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that is really called by this IPv6 address."""
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if int(address) >> 32 == 0 and int(address) > 1:  # ::a.b.c.d, the deprecated form
        return ipaddress.IPv4Address(int(address))
    return None


class CheckedResolver(AbstractResolver):
    """Gives only addresses that may be called; the connection is made to these."""

    def __init__(self, rule: AddressRule, inner: AbstractResolver) -> None:
        self._rule, self._inner = rule, inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if not found or not all(self._rule.allows(one["host"]) for one in found):
            raise _AddressRefused(host)
        return found

    async def close(self) -> None:
        await self._inner.close()


class _AddressRefused(OSError):
    """Passes through the client, which knows OSError of resolvers."""


class Egress:
    """One per process; call `close` at its end."""

    def __init__(self, settings: EgressSettings, resolver: AbstractResolver | None = None) -> None:
        self._settings = settings
        self._rule = AddressRule(settings)
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    def checked_url(self, text: str) -> URL:
        """What can be said without the network, of the very parts that the connection is made from. Raises EgressRefused."""
        try:
            url = URL(text, encoded=True)
            host, port = url.host, url.port
        except ValueError:
            raise EgressRefused("not a URL") from None
        if url.scheme not in self._settings.schemes or not host or not port or not text.isprintable() or "\\" in text:
            raise EgressRefused("the URL needs a scheme that is allowed, and a host")
        if url.user is not None or url.password is not None:
            raise EgressRefused("the URL may not carry credentials")
        if _is_literal(host) and not self._rule.allows(host):
            raise EgressRefused("the URL leads to an address that may not be called")
        return url

    async def post(self, url: str, headers: Headers, body: bytes, timeout_s: float) -> Answered:
        """Raises EgressRefused, CallFailed, TimeoutError."""
        return await self.request("POST", url, headers, body, timeout_s)

    async def request(self, method: str, url: str, headers: Headers, body: bytes, timeout_s: float) -> Answered:
        """As post."""
        checked = self.checked_url(url)
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        try:
            async with asyncio.timeout(timeout_s):
                sent = self._open().request(method, checked, data=body, headers=pairs, allow_redirects=False)
                async with sent as response:
                    return await self._read(response)
        except TimeoutError:
            raise
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, _AddressRefused):
                raise EgressRefused("the URL leads to an address that may not be called") from None
            raise CallFailed(f"cannot connect: {type(error.os_error).__name__}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise CallFailed(f"the call failed: {type(error).__name__}") from error

    async def _read(self, response: aiohttp.ClientResponse) -> Answered:
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > self._settings.response_bytes_max:
                response.close()
                raise CallFailed("http: response body too large")
            chunks.append(chunk)
        return Answered(response.status, [(name.lower(), value) for name, value in response.headers.items()], b"".join(chunks))

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            settings = self._settings
            connector = aiohttp.TCPConnector(
                resolver=CheckedResolver(self._rule, self._resolver or aiohttp.ThreadedResolver()),
                limit=settings.connections_max,
                limit_per_host=settings.connections_per_host_max,
                use_dns_cache=False,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout_s),
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.split("%", 1)[0])
    except ValueError:
        return False
    return True
