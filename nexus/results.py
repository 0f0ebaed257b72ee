"""What became of an operation, for callers without a callback: its state at once, its result by long poll, or a stream of events.

    GET .../operations/TOKEN                          200 {"token", "state", "attempt", "progress", ...}
    GET .../operations/TOKEN?wait=30s                 200 the result | 424 Failure | 202 still running: ask again
    GET .../operations/TOKEN, Accept: text/event-stream
        id: 7                                         grows with what happened
        event: state                                  data: as above, whenever something changed
        event: end                                    data: {"state", "result" | "resultBase64" and "contentType" | "failure"}

Nothing is kept here: whoever asks again, here or at another gateway, after a restart or a failover, gets the same answer.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from cluster.core.errors import CallerError
from cluster.namespaces.record import NamespaceRecord
from nexus import headers as h
from nexus.content import content_of
from nexus.errors import ErrorType, Refused
from nexus.ports import OperationInfo, OperationsPort
from nexus.protocol import Answer, json_answer, operation_error_answer, result_answer
from nexus.settings import GatewaySettings

EVENTS = "text/event-stream"
RETRY_MS = 1_000  # after which a cut-off stream is asked for again


class Waits:
    """The long polls and streams of this process: how many there may be, and how all of them end when it stops."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._scopes: set[asyncio.Timeout] = set()
        self._is_stopping = False

    @property
    def count(self) -> int:
        return len(self._scopes)

    async def hold(self, wait: Callable[[], Awaitable[OperationInfo]]) -> OperationInfo:
        """Raises Refused: there are too many, or the process stops."""
        if self._is_stopping:
            raise _stopping()
        if len(self._scopes) >= self._count_max:
            raise Refused(ErrorType.RESOURCE_EXHAUSTED, "too many callers wait for results", retry_after_s=5.0)
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scopes.add(scope)
                return await wait()
        except TimeoutError:
            if scope.expired():
                raise _stopping() from None
            raise
        finally:
            self._scopes.discard(scope)

    def stop(self) -> None:
        self._is_stopping = True
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            scope.reschedule(now)


def _stopping() -> Refused:
    return Refused(ErrorType.UNAVAILABLE, "the gateway stops, ask again", retry_after_s=1.0)


class Operation:
    """One that somebody asks about. token: as the caller has it; own_token: the handler's."""

    def __init__(self, namespace: NamespaceRecord, token: str, own_token: str, shows_traces: bool) -> None:
        self.namespace, self.token, self.own_token, self.shows_traces = namespace, token, own_token, shows_traces


class Results:
    def __init__(self, operations: OperationsPort, settings: GatewaySettings) -> None:
        self._operations, self._settings = operations, settings
        self.waits = Waits(settings.waits_count_max)

    async def answer(self, operation: Operation, wait: str | None) -> Answer:
        """wait: as the query has it. Raises Refused, CallerError."""
        if wait is None:
            info = await self._operations.info(operation.namespace, operation.own_token)
            return json_answer(200, self._described(operation, info))
        wait_ns = min(h.duration_ns(wait, "wait"), self._settings.wait_max_ns)
        info = await self._wait(operation, 0, wait_ns / 1e9)
        if info.state == "running":
            return json_answer(202, self._described(operation, info), [("Nexus-Operation-State", "running")])
        if info.failure is not None:
            return operation_error_answer(info.state, info.failure, operation.shows_traces, self._settings)
        return result_answer(info.result, info.links, self._settings)

    async def stream(self, request: web.Request, operation: Operation) -> web.StreamResponse:
        """Raises Refused or CallerError while nothing has been sent; later, the stream just ends."""
        info = await self._operations.info(operation.namespace, operation.own_token)
        response = web.StreamResponse(headers={"Content-Type": EVENTS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        await response.prepare(request)
        await response.write(f"retry: {RETRY_MS}\n\n".encode())
        until = asyncio.get_running_loop().time() + self._settings.stream_s_max
        shown = None
        while True:
            described = self._described(operation, info)
            if described != shown:
                await response.write(_event("state", info.position, described))
                shown = described
            else:
                await response.write(b": still running\n\n")
            if info.state != "running":
                await response.write(_event("end", info.position, self._ended(operation, info)))
                break
            if asyncio.get_running_loop().time() >= until:
                break
            try:
                info = await self._wait(operation, info.position, self._settings.stream_beat_s)
            except (CallerError, Refused):
                break  # moved, or stopping: the caller comes back by itself, and asks as it did first
        await response.write_eof()
        return response

    async def _wait(self, operation: Operation, position: int, wait_s: float) -> OperationInfo:
        return await self.waits.hold(
            lambda: self._operations.wait(operation.namespace, operation.own_token, position, wait_s)
        )

    def _described(self, operation: Operation, info: OperationInfo) -> dict[str, Any]:
        made: dict[str, Any] = {"token": operation.token, "state": info.state}
        if info.attempt:
            made["attempt"] = info.attempt
        if info.last_failure:
            made["lastFailure"] = info.last_failure
        if info.progress:
            made["progress"] = info.progress
        if info.started_at:
            made["startTime"] = h.rfc3339(info.started_at)
        if info.closed_at:
            made["closeTime"] = h.rfc3339(info.closed_at)
        if info.links:
            made["links"] = [{"url": link.url, "type": link.type} for link in info.links]
        return made

    def _ended(self, operation: Operation, info: OperationInfo) -> dict[str, Any]:
        if info.failure is not None:
            made = operation_error_answer(info.state, info.failure, operation.shows_traces, self._settings)
            return {"state": info.state, "failure": json.loads(made.body)}
        content, body = content_of(info.result)
        type = content.get("Content-Type", "")
        if type == "application/json":
            try:
                return {"state": info.state, "contentType": type, "result": json.loads(body)}
            except ValueError:
                type = "application/json; invalid"  # said to be JSON by its handler; the bytes go on as they are
        if not body and not type:
            return {"state": info.state, "result": None}
        return {"state": info.state, "contentType": type, "resultBase64": base64.b64encode(body).decode()}


def _event(name: str, position: int, data: dict[str, Any]) -> bytes:
    return f"id: {position}\nevent: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
