"""The node's own HTTP pages: GET /healthz for probes, /metrics for Prometheus, /cluster for `outlast cluster`. Nothing of the
public API is here, and nothing that changes anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

HEADER_TIMEOUT_S = 10.0
CONNECTIONS_BACKLOG = 128


class HttpPages:
    """healthy: "" or what is wrong. metrics: the page and its content type. cluster: nodes, ring and shards, for JSON."""

    def __init__(
        self,
        healthy: Callable[[], str],
        metrics: Callable[[], bytes],
        content_type: str,
        cluster: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        self._healthy = healthy
        self._cluster = cluster
        self._metrics = metrics
        self._content_type = content_type
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int, is_shared: bool = False) -> int:
        """Returns the port. Raises OSError. is_shared: other processes listen on the port, too."""
        app = web.Application(client_max_size=0)
        app.router.add_get("/healthz", self._health_page)
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_get("/cluster", self._cluster_page)
        runner = web.AppRunner(app, access_log=None, keepalive_timeout=HEADER_TIMEOUT_S, handle_signals=False)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port, backlog=CONNECTIONS_BACKLOG, reuse_address=True, reuse_port=is_shared)
            await site.start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        return int(runner.addresses[0][1])

    async def close(self) -> None:
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
