"""The Transport seam: how connections come to be. TCP with or without TLS here, pipes in memory in tests and simulation.

The protocol code above sees asyncio protocols and the few methods of `Pipe`, which every asyncio transport has.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

P = TypeVar("P", bound=asyncio.Protocol)


class Pipe(Protocol):
    """What a connection asks of its transport."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None:
        """Sends what is buffered, then ends; `connection_lost` follows."""
        ...

    def abort(self) -> None:
        """Ends at once; `connection_lost` follows."""
        ...

    def get_write_buffer_size(self) -> int: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """From `high` unsent bytes on `pause_writing` is called, below `low` `resume_writing`."""
        ...

    def get_extra_info(self, name: str, default: Any = None) -> Any: ...


class Listener(Protocol):
    @property
    def address(self) -> str:
        """With the port that was chosen, if it was asked for as 0."""
        ...

    def close(self) -> None:
        """No new connections; those there are stay."""
        ...


class Network(Protocol):
    """Addresses are "host:port", "[v6]:port"."""

    async def connect(self, address: str, factory: Callable[[], P]) -> P:
        """Raises OSError (TLS errors are that, too)."""
        ...

    async def listen(self, address: str, factory: Callable[[], asyncio.Protocol]) -> Listener:
        """Raises OSError, or InsecureListener."""
        ...


class InsecureListener(ValueError):
    """Without TLS anyone who reaches the port is a node: only loopback may listen so."""


class Tls:
    """Mutual TLS from PEM files. Both sides show a certificate of the region's authority.

    peer_name: a DNS name that every node's certificate carries. Set it when the same authority also signs others (workers,
    users): without it any certificate of that authority may call this port. It is also the name a client checks.
    """

    def __init__(self, certificate: Path, key: Path, authority: Path, peer_name: str | None = None) -> None:
        self._certificate, self._key, self._authority = certificate, key, authority
        self.peer_name = peer_name
        self.server, self.client = self._contexts()

    def _contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        made = []
        for purpose in (ssl.Purpose.CLIENT_AUTH, ssl.Purpose.SERVER_AUTH):
            context = ssl.create_default_context(purpose, cafile=str(self._authority))
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_cert_chain(str(self._certificate), str(self._key))
            made.append(context)
        return made[0], made[1]

    def reload(self) -> None:
        """Reads the certificate and key again, for connections made from now on; a new authority needs a restart."""
        for context in (self.server, self.client):
            context.load_cert_chain(str(self._certificate), str(self._key))


class TcpNetwork:
    """Sockets. `allow_plain` is for networks that are closed by other means; its name is a warning."""

    def __init__(self, tls: Tls | None = None, allow_plain: bool = False, handshake_timeout_s: float = 5.0) -> None:
        self._tls, self._allow_plain, self._handshake_timeout_s = tls, allow_plain, handshake_timeout_s

    async def connect(self, address: str, factory: Callable[[], P]) -> P:
        host, port = split_address(address)
        loop = asyncio.get_running_loop()
        if self._tls is None:
            return (await loop.create_connection(factory, host, port))[1]
        _, protocol = await loop.create_connection(
            factory,
            host,
            port,
            ssl=self._tls.client,
            server_hostname=self._tls.peer_name or host,
            ssl_handshake_timeout=self._handshake_timeout_s,
        )
        return protocol

    async def listen(self, address: str, factory: Callable[[], asyncio.Protocol]) -> Listener:
        host, port = split_address(address)
        if self._tls is None and not self._allow_plain and not is_loopback(host):
            raise InsecureListener(f"{address} is not loopback and there is no TLS: set tls, or name the danger with allow_plain")
        loop = asyncio.get_running_loop()
        if self._tls is None:
            return TcpListener(await loop.create_server(factory, host, port, backlog=128), host)
        server = await loop.create_server(
            factory,
            host,
            port,
            backlog=128,
            ssl=self._tls.server,
            ssl_handshake_timeout=self._handshake_timeout_s,
        )
        return TcpListener(server, host)


class TcpListener:
    def __init__(self, server: asyncio.Server, host: str) -> None:
        self._server = server
        port = server.sockets[0].getsockname()[1]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self) -> None:
        self._server.close()


def split_address(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"{address!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # another name may lead anywhere


def certificate_names(certificate: dict[str, Any] | None) -> frozenset[str]:
    """The DNS names of a verified peer certificate, as `get_extra_info("peercert")` gives it."""
    return frozenset(name for kind, name in (certificate or {}).get("subjectAltName", ()) if kind == "DNS")
