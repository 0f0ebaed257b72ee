"""Callbacks by plain HTTP: a sender for whoever handles operations, a receiver for whoever called them."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Generic, TypeVar

import aiohttp
from aiohttp import web
from nexusrpc import Content, HandlerError, HandlerErrorType, Link, Operation, OperationError
from yarl import URL

from sdk.nexus_http import wire
from sdk.nexus_http.bodies import read_body
from sdk.nexus_http.content import JsonSerializer

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
TOKEN = "Token"


@dataclass(frozen=True)
class Callback:
    """Where the result is to be told. headers: as they are to be sent there; `Token` says whose result it is."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


class CallbackSender:
    """Tells how operations ended, again and again until somebody hears it or says that nobody waits any more."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        serializer: JsonSerializer | None = None,
        *,
        attempts_max: int = 50,
        first_s: float = 1.0,
        longest_s: float = 3_600.0,
        request_timeout_s: float = 10.0,
    ) -> None:
        self._session, self._serializer = session, serializer or JsonSerializer()
        self._attempts_max, self._first_s, self._longest_s = attempts_max, first_s, longest_s
        self._request_timeout_s = request_timeout_s

    async def send(
        self,
        callback: Callback,
        token: str,
        outcome: Any,
        *,
        started: datetime | None = None,
        links: Sequence[Link] = (),
    ) -> None:
        """outcome: the result, or an OperationError. Raises nexusrpc.HandlerError: refused for good, or never heard."""
        headers = dict(callback.headers) | {
            wire.OPERATION_TOKEN: token,
            wire.CLOSE_TIME: datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }
        if started is not None:
            headers[wire.START_TIME] = format_datetime(started.astimezone(UTC), usegmt=True)
        if links:
            headers[wire.LINK] = ", ".join(wire.link_header(link) for link in links)
        if isinstance(outcome, OperationError):
            headers |= {wire.OPERATION_STATE: outcome.state.value, "Content-Type": "application/json"}
            body = json.dumps(wire.operation_error_json(outcome)).encode()
        else:
            content = self._serializer.serialize(outcome)
            headers |= {wire.OPERATION_STATE: "succeeded", **content.headers}
            body = content.data
        await self._deliver(callback.url, headers, body)

    async def _deliver(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        failure = HandlerError("never tried", type=HandlerErrorType.UNAVAILABLE)
        for attempt in range(self._attempts_max):
            if attempt:
                pause_s = min(self._longest_s, self._first_s * 2 ** (attempt - 1))
                await asyncio.sleep(pause_s * random.uniform(0.8, 1.0))
            try:
                async with asyncio.timeout(self._request_timeout_s), self._session.post(
                    URL(url, encoded=True), data=body, headers=headers, allow_redirects=False, skip_auto_headers=("Content-Type",)
                ) as response:
                    if 200 <= response.status < 300:
                        return
                    retryable = response.headers.get("Nexus-Request-Retryable", "")
                    failure = wire.handler_error_of(response.status, response.reason or "", await response.read(), retryable)
                    if not failure.retryable:
                        raise failure
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failure = HandlerError(f"no answer: {type(error).__name__}", type=HandlerErrorType.UNAVAILABLE)
                failure.__cause__ = error
        raise failure


class Expected(Generic[O]):
    """A result that will be told. Give `callback` to the start."""

    def __init__(self, callback: Callback, output: Any) -> None:
        self.callback, self._output = callback, output
        self.operation_token = ""
        self.outcome: asyncio.Future[O] = asyncio.get_running_loop().create_future()

    async def result(self) -> O:
        """Raises nexusrpc.OperationError."""
        return await asyncio.shield(self.outcome)


class CallbackReceiver:
    """Mount `app` somewhere that handlers reach as `url`. Expectations live in this process, and end with it."""

    def __init__(self, url: str, serializer: JsonSerializer | None = None) -> None:
        self._url, self._serializer = url, serializer or JsonSerializer()
        self._expected: dict[str, Expected[Any]] = {}
        self.app = web.Application()
        self.app.router.add_post("/callback", self._receive)

    def expect(self, operation: Operation[I, O]) -> Expected[O]:
        token = secrets.token_urlsafe(32)
        expected: Expected[O] = Expected(Callback(f"{self._url.rstrip('/')}/callback", {TOKEN: token}), operation.output_type)
        self._expected[token] = expected
        return expected

    async def _receive(self, request: web.Request) -> web.Response:
        """The first one wins. What nobody waits for is NOT_FOUND, so that its sender stops."""
        token = request.headers.get(TOKEN, "")
        expected = self._expected.get(token)
        if expected is None:
            return _refused(HandlerError("nobody waits for this result", type=HandlerErrorType.NOT_FOUND))
        state = request.headers.get(wire.OPERATION_STATE, "")
        try:
            body = await read_body(request, wire.BODY_BYTES_MAX)
            outcome: Any
            if state == "succeeded":
                headers = {name.lower(): value for name, value in request.headers.items()}
                outcome = self._serializer.read(Content(headers=headers, data=body), expected._output)
            elif state in ("failed", "canceled") and wire.read_failure(body) is not None:
                outcome = wire.operation_error_of(state, body)
            else:
                raise ValueError("state and body do not fit")
        except (ValueError, HandlerError) as error:
            return _refused(HandlerError(f"the callback cannot be read: {error}", type=HandlerErrorType.BAD_REQUEST))
        self._expected.pop(token, None)
        expected.operation_token = request.headers.get(wire.OPERATION_TOKEN, "")
        if isinstance(outcome, OperationError):
            expected.outcome.set_exception(outcome)
        else:
            expected.outcome.set_result(outcome)
        return web.Response()


def _refused(error: HandlerError) -> web.Response:
    return web.json_response(wire.handler_error_json(error), status=wire.STATUS_OF[error.type])
