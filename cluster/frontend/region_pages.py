"""The admin calls of regions on the node's HTTP port: GET looks, POST does, JSON in and out. What they do: replication/admin.py.

| call                                | parameters                                             |
|-------------------------------------|--------------------------------------------------------|
| GET  /regions/status                |                                                        |
| GET  /regions/conflicts             | namespace ("" = all)                                   |
| GET  /regions/ledger                | namespace ("" = all)                                   |
| GET  /regions/quarantine            | id ("" = list)                                         |
| GET  /regions/failover/plan         | to, namespace ("" = all that could move)               |
| GET  /regions/failover/status       |                                                        |
| POST /regions/link                  | address, own_address ("" = only this side)             |
| POST /regions/unlink                | region                                                 |
| POST /regions/verify                | namespace, region ("" = each), is_fresh                |
| POST /regions/quarantine/retry      | id                                                     |
| POST /regions/quarantine/drop       | id                                                     |
| POST /regions/failover/run          | namespaces ([] = all), to, kind, timeout_s,            |
|                                     | without_witness                                        |

An error is {"code": "NOT_FOUND", "message": "..."}, with the public API's words. A POST must say that it is JSON: a form of a
web page that somebody happens to look at cannot. What a POST began goes on when its caller hangs up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from cluster.core.errors import Code, invalid_argument, unavailable
from cluster.failures import as_caller_error
from cluster.frontend.drain import Drain
from cluster.seams import Ids
from replication.admin import RegionAdmin

BODY_BYTES_MAX = 1 << 20  # namespaces to fail over, by name

STATUSES: dict[Code, int] = {
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.FAILED_PRECONDITION: 412,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}  # all others 500

Asked = Mapping[str, Any]


class LinkAsk(msgspec.Struct, forbid_unknown_fields=True):
    address: str
    own_address: str = ""


class UnlinkAsk(msgspec.Struct, forbid_unknown_fields=True):
    region: str


class VerifyAsk(msgspec.Struct, forbid_unknown_fields=True):
    namespace: str
    region: str = ""
    is_fresh: bool = False


class RowAsk(msgspec.Struct, forbid_unknown_fields=True):
    id: str


class RunAsk(msgspec.Struct, forbid_unknown_fields=True):
    to: str
    kind: str
    namespaces: list[str] = []
    timeout_s: float | None = None
    without_witness: bool = False


class RegionPages:
    """`mount` it before the HTTP port opens. Who reaches the port may do all of it, as with the gRPC port."""

    def __init__(self, admin: RegionAdmin, ids: Ids, drain: Drain) -> None:
        self._admin, self._ids, self._drain = admin, ids, drain
        self._jobs: set[asyncio.Task[Any]] = set()

    def mount(self, app: web.Application) -> None:
        admin = self._admin
        self._get(app, "status", lambda asked: admin.status())
        self._get(app, "conflicts", lambda asked: admin.conflicts(asked.get("namespace", "")))
        self._get(app, "ledger", lambda asked: admin.ledger(asked.get("namespace", "")))
        self._get(app, "quarantine", lambda asked: admin.quarantine_row(asked["id"]) if asked.get("id") else admin.quarantine())
        self._get(app, "failover/plan", lambda asked: admin.failover_plan(asked.get("namespace", ""), asked.get("to", "")))
        self._get(app, "failover/status", lambda asked: admin.failover_status())
        self._post(app, "link", LinkAsk, lambda ask: admin.link(ask.address, ask.own_address))
        self._post(app, "unlink", UnlinkAsk, lambda ask: admin.unlink(ask.region))
        self._post(app, "verify", VerifyAsk, lambda ask: admin.verify(ask.namespace, ask.region, ask.is_fresh))
        self._post(app, "quarantine/retry", RowAsk, lambda ask: admin.quarantine_retry(ask.id))
        self._post(app, "quarantine/drop", RowAsk, lambda ask: admin.quarantine_drop(ask.id))
        self._post(
            app,
            "failover/run",
            RunAsk,
            lambda ask: admin.failover_run(ask.namespaces, ask.to, ask.kind, ask.timeout_s, ask.without_witness),
        )

    async def close(self) -> None:
        """What was begun and is not over is ended: a handover then goes back to normal."""
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    def _get(self, app: web.Application, name: str, look: Callable[[Asked], Awaitable[Any]]) -> None:
        async def page(request: web.Request) -> web.Response:
            return await self._answered(name, lambda: look(request.query))

        app.router.add_get(f"/regions/{name}", page)

    def _post(self, app: web.Application, name: str, kind: type[Any], act: Callable[[Any], Awaitable[Any]]) -> None:
        async def page(request: web.Request) -> web.Response:
            async def run() -> Any:
                ask = await _asked(request, kind)
                if self._drain.has_begun:
                    raise unavailable("the server is shutting down, please retry")
                return await self._to_the_end(act(ask))

            return await self._answered(name, run)

        app.router.add_post(f"/regions/{name}", page)

    async def _to_the_end(self, work: Awaitable[Any]) -> Any:
        """Whether the caller waits for it or not."""
        job = asyncio.ensure_future(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return await asyncio.shield(job)

    async def _answered(self, name: str, work: Callable[[], Awaitable[Any]]) -> web.Response:
        try:
            return _json(await work(), 200)
        except Exception as failure:
            error = as_caller_error(failure, f"regions/{name}", self._ids)
            return _json({"code": error.code.name, "message": error.message}, STATUSES.get(error.code, 500))


async def _asked(request: web.Request, kind: type[Any]) -> Any:
    """Raises INVALID_ARGUMENT."""
    if request.content_type != "application/json":
        raise invalid_argument("the body must be JSON, and say so: Content-Type: application/json")
    body = await request.content.read(BODY_BYTES_MAX + 1)
    while not request.content.at_eof() and len(body) <= BODY_BYTES_MAX:
        body += await request.content.read(BODY_BYTES_MAX + 1 - len(body))
    if len(body) > BODY_BYTES_MAX:
        raise invalid_argument(f"the body is larger than {BODY_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise invalid_argument(f"the body cannot be read: {error}") from None


def _json(answer: Any, status: int) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), status=status, content_type="application/json")
