"""The node's HTTP port. Its own pages: GET /healthz for probes, /metrics for Prometheus, /cluster for `outlast cluster`; they
change nothing. What else is served there (the Nexus gateway) is mounted by the node and knows its own limits.

Of the port itself: a request's head must come within HEADER_TIMEOUT_S, lines and fields have lengths, connections are counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

HEADER_TIMEOUT_S = 10.0  # aiohttp's idle time, which goes on while a head is incomplete
LINGER_S = 1.0  # for the rest of a body that was refused
CLOSE_S = 1.0  # for requests under way, when the node stops
CONNECTIONS_BACKLOG = 512
CONNECTIONS_MAX = 13_000  # 10,000 waiting long polls, and room
LINE_BYTES_MAX = 32 * 1024  # a path can carry an operation's token and names, each byte of them as three
FIELD_BYTES_MAX = 8_190
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


class HttpPages:
    """healthy: "" or what is wrong. metrics: the page and its content type. cluster: nodes, ring and shards, for JSON."""

    def __init__(
        self,
        healthy: Callable[[], str],
        metrics: Callable[[], bytes],
        content_type: str,
        cluster: Callable[[], Awaitable[dict[str, Any]]],
        mounts: Sequence[Callable[[web.Application], None]] = (),
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        """mounts: each adds its routes to the application. Whoever mounts also ends what waits there, before `close`."""
        self._healthy = healthy
        self._cluster = cluster
        self._metrics = metrics
        self._content_type = content_type
        self._mounts = mounts
        self._connections_max = connections_max
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int, is_shared: bool = False) -> int:
        """Returns the port. Raises OSError. is_shared: other processes listen on the port, too."""
        app = web.Application(client_max_size=0)
        app.router.add_get("/healthz", self._health_page)
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_get("/cluster", self._cluster_page)
        for mount in self._mounts:
            mount(app)
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=_logger(),
            keepalive_timeout=HEADER_TIMEOUT_S,
            handle_signals=False,
            handler_cancellation=True,  # a caller that hung up waits for nothing
            auto_decompress=False,  # a compressed body goes on as it came, and bursts nowhere
            lingering_time=LINGER_S,
            shutdown_timeout=CLOSE_S,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=FIELD_BYTES_MAX,
        )
        await runner.setup()
        server = runner.server
        assert server is not None

        def connected() -> asyncio.Protocol:
            return server() if len(server.connections) < self._connections_max else _Full()

        try:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(
                connected, host, port, backlog=CONNECTIONS_BACKLOG, reuse_address=True, reuse_port=is_shared
            )
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        return int(self._listener.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _health_page(self, request: web.Request) -> web.Response:
        fault = self._healthy()
        return web.Response(text=fault or "ok", status=503 if fault else 200)

    async def _cluster_page(self, request: web.Request) -> web.Response:
        return web.json_response(await self._cluster())

    async def _metrics_page(self, request: web.Request) -> web.Response:
        # Rendering takes milliseconds with many namespaces; calls go on meanwhile.
        page = await asyncio.get_running_loop().run_in_executor(None, self._metrics)
        return web.Response(body=page, headers={"Content-Type": self._content_type})


class _Full(asyncio.Protocol):
    """Of a connection that is one too many: it is told so, whatever it wanted to ask."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(_FULL)
        transport.close()


def _logger() -> logging.Logger:
    """What handlers of pages raise is logged; that somebody sent what is no HTTP is not worth a stack trace for each."""
    logger = logging.getLogger("outlast.http")
    if not logger.filters:
        logger.addFilter(_is_our_fault)
    return logger


def _is_our_fault(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
