"""Handlers of the `nexusrpc` package, served by plain HTTP: an aiohttp application that can be mounted in any other.

    app.add_subapp("/services", handler_app([PaymentsHandler()], table=table))

    POST /SERVICE/OPERATION                       start
    POST /SERVICE/OPERATION/cancel                cancel
    GET  /SERVICE/OPERATION/operations/TOKEN      state; with ?wait=30s the result (with a table)
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web
from nexusrpc import Content, HandlerError, HandlerErrorType, OperationError
from nexusrpc.handler import (
    CancelOperationContext,
    Handler,
    OperationTaskCancellation,
    StartOperationContext,
    StartOperationResultAsync,
)

from sdk.nexus_http import wire
from sdk.nexus_http.bodies import read_body
from sdk.nexus_http.content import JsonSerializer
from sdk.nexus_http.table import OperationTable

log = logging.getLogger("outlast.nexus_http")
REQUEST_TIMEOUT = timedelta(seconds=10)
WAIT_S_MAX = 60.0
Act = Callable[[web.Request], Coroutine[Any, Any, web.Response]]
_NOT_FOR_HANDLERS = frozenset({"host", "connection", "transfer-encoding", "cookie", "nexus-operation-token", "nexus-link"})


def handler_app(
    handlers: Sequence[Any],
    *,
    table: OperationTable | None = None,
    serializer: JsonSerializer | None = None,
    executor: Executor | None = None,
    body_bytes_max: int = wire.BODY_BYTES_MAX,
) -> web.Application:
    """handlers: objects of classes decorated with nexusrpc.handler.service_handler. executor: for those that are not async."""
    served = _Served(Handler(handlers, executor), table, serializer or JsonSerializer(), body_bytes_max)
    app = web.Application()
    app.router.add_post("/{service}/{operation}", _answered(served.start))
    app.router.add_post("/{service}/{operation}/cancel", _answered(served.cancel))
    app.router.add_get("/{service}/{operation}/operations/{token}", _answered(served.look))
    return app


class _Served:
    def __init__(
        self, handler: Handler, table: OperationTable | None, serializer: JsonSerializer, body_bytes_max: int
    ) -> None:
        self._handler, self._table, self._serializer = handler, table, serializer
        self._body_bytes_max = body_bytes_max

    async def start(self, request: web.Request) -> web.Response:
        headers, timeout = _headers(request), _timeout(request)
        try:
            links = wire.links_of(request.headers.getall(wire.LINK, []))
        except ValueError:
            raise _bad("links cannot be read") from None
        body = await read_body(request, self._body_bytes_max)
        context = StartOperationContext(
            service=request.match_info["service"],
            operation=request.match_info["operation"],
            headers=headers,
            task_cancellation=_Never(),
            request_deadline=datetime.now(UTC) + timeout,
            request_id=request.headers.get(wire.REQUEST_ID) or str(uuid.uuid4()),
            callback_url=request.query.get("callback"),
            callback_headers=_callback_headers(request),
            inbound_links=links,
        )
        input = _Input(self._serializer, Content(headers=_content_headers(request.headers), data=body))
        async with asyncio.timeout(timeout.total_seconds()):
            outcome = await self._handler.start_operation(context, input)
        made = [(wire.LINK, wire.link_header(link)) for link in context.outbound_links]
        if isinstance(outcome, StartOperationResultAsync):
            return _with(web.json_response({"token": outcome.token, "state": "running"}, status=201), made)
        return self._result(outcome.value, made)

    def _result(self, value: Any, links: Sequence[tuple[str, str]] = ()) -> web.Response:
        content = self._serializer.serialize(value)
        response = web.Response(body=content.data or None, headers={wire.OPERATION_STATE: "succeeded", **content.headers})
        return _with(response, links)

    async def cancel(self, request: web.Request) -> web.Response:
        token = request.headers.get(wire.OPERATION_TOKEN) or request.query.get("token", "")
        if not token:
            raise _bad("operation token is not set")
        timeout = _timeout(request)
        context = CancelOperationContext(
            service=request.match_info["service"],
            operation=request.match_info["operation"],
            headers=_headers(request),
            task_cancellation=_Never(),
            request_deadline=datetime.now(UTC) + timeout,
        )
        async with asyncio.timeout(timeout.total_seconds()):
            await self._handler.cancel_operation(context, token)
        return web.Response(status=202)

    async def look(self, request: web.Request) -> web.Response:
        if self._table is None:
            raise HandlerError("results are told by callback only", type=HandlerErrorType.NOT_IMPLEMENTED)
        kept = self._table.find(*(request.match_info[name] for name in ("service", "operation", "token")))
        wait = request.query.get("wait")
        if wait is not None:
            try:
                await self._table.wait(kept, min(WAIT_S_MAX, wire.duration(wait).total_seconds()))
            except ValueError as error:
                raise _bad(str(error)) from None
        if wait is None or kept.state == "running":
            info = {"token": kept.token, "state": kept.state}
            return web.json_response(info, status=202 if wait is not None else 200)
        if isinstance(kept.outcome, OperationError):
            raise kept.outcome
        return self._result(kept.outcome)


def _answered(act: Act) -> Act:
    """What is raised, as the protocol tells it. What nobody foresaw is logged here, and INTERNAL there."""

    async def answer(request: web.Request) -> web.Response:
        try:
            return await act(request)
        except OperationError as error:
            headers = {wire.OPERATION_STATE: error.state.value}
            return web.json_response(wire.operation_error_json(error), status=424, headers=headers)
        except HandlerError as error:
            return _refused(error)
        except TimeoutError:
            return _refused(HandlerError("the handler did not answer in time", type=HandlerErrorType.REQUEST_TIMEOUT))
        except ConnectionError:
            raise  # the caller is gone
        except Exception:
            log.exception("a handler failed: %s", request.path)
            return _refused(HandlerError("internal error", type=HandlerErrorType.INTERNAL))

    return answer


def _refused(error: HandlerError) -> web.Response:
    headers = {}
    if error.retryable_override is not None:
        headers["Nexus-Request-Retryable"] = str(error.retryable_override).lower()
    return web.json_response(wire.handler_error_json(error), status=wire.STATUS_OF.get(error.type, 500), headers=headers)


def _bad(message: str) -> HandlerError:
    return HandlerError(message, type=HandlerErrorType.BAD_REQUEST)


def _with(response: web.Response, headers: Sequence[tuple[str, str]]) -> web.Response:
    for name, value in headers:
        response.headers.add(name, value)
    return response


def _timeout(request: web.Request) -> timedelta:
    text = request.headers.get(wire.REQUEST_TIMEOUT, "")
    try:
        return wire.duration(text) if text else REQUEST_TIMEOUT
    except ValueError as error:
        raise _bad(str(error)) from None


def _content_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items() if name.lower().startswith("content-")}


def _headers(request: web.Request) -> dict[str, str]:
    skipped = (wire.CALLBACK_PREFIX, "content-")
    named = {name.lower(): value for name, value in request.headers.items()}
    return {name: value for name, value in named.items() if name not in _NOT_FOR_HANDLERS and not name.startswith(skipped)}


def _callback_headers(request: web.Request) -> dict[str, str]:
    named = ((name.lower(), value) for name, value in request.headers.items())
    return {name.removeprefix(wire.CALLBACK_PREFIX): value for name, value in named if name.startswith(wire.CALLBACK_PREFIX)}


@dataclass(frozen=True)
class _Input:
    """nexusrpc.LazyValueT: what does not fit the operation's type is the caller's fault."""

    serializer: JsonSerializer
    content: Content

    async def consume(self, as_type: type[Any] | None = None) -> Any:
        try:
            return self.serializer.read(self.content, as_type)
        except ValueError as error:
            raise _bad(f"the input is not what the operation takes: {error}") from None


class _Never(OperationTaskCancellation):
    """A request over HTTP is given up by its time-out, which cancels the handler's coroutine; nothing else is told."""

    def is_cancelled(self) -> bool:
        return False

    def cancellation_reason(self) -> str | None:
        return None

    def wait_until_cancelled_sync(self, timeout: float | None = None) -> bool:
        raise NotImplementedError("a request over HTTP is only ended by its time-out")

    async def wait_until_cancelled(self) -> None:
        await asyncio.Event().wait()
