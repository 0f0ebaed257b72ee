"""A client for any handler that speaks the protocol over HTTP: typed calls, with the protocol's rules for another try.

    way of a call: start (same request id at every try) -> 200 the result | 201 a token -> long polls until it ended

Long polls (`GET .../operations/TOKEN?wait=`) are this project's; a handler without them tells results by callback (callbacks.py).
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, Self, TypedDict, TypeVar, Unpack, overload
from urllib.parse import quote, urlencode

import aiohttp
from nexusrpc import Content, HandlerError, HandlerErrorType, Link, Operation, get_service_definition
from yarl import URL

from sdk.nexus_http import wire
from sdk.nexus_http.callbacks import Callback
from sdk.nexus_http.content import JsonSerializer

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
WAIT_S = 30.0  # of one long poll


class OperationTimedOut(TimeoutError):
    """The operation did not end in time. It was asked to stop, which it may or may not have heard."""


@dataclass(frozen=True)
class RetryRules:
    """How often, and how long between: doubling, with some luck, or what the handler says (Retry-After)."""

    attempts_max: int = 10
    first_s: float = 0.2
    longest_s: float = 20.0

    def pause_s(self, attempt: int, retry_after_s: float | None) -> float:
        usual = min(self.longest_s, self.first_s * 2 ** (attempt - 1)) * random.uniform(0.8, 1.0)
        return float(max(usual, retry_after_s or 0.0))


class StartOptions(TypedDict, total=False):
    """request_id: the same for an operation that was started before, and may not have been heard. callback: where the result is
    to be told. output_type: of an operation that is named by a string. headers: more than the client's own."""

    callback: Callback | None
    request_id: str
    operation_timeout: timedelta | None
    links: Sequence[Link]
    headers: Mapping[str, str] | None
    output_type: Any


@dataclass(frozen=True)
class _Answer:
    status: int
    reason: str
    headers: Mapping[str, str]
    links: list[Link]
    body: bytes

    @property
    def content(self) -> Content:
        kept = {name.lower(): value for name, value in self.headers.items() if name.lower().startswith("content-")}
        return Content(headers=kept, data=self.body)


class OperationHandle(Generic[O]):
    """An operation that was started. token "": it had ended before the start was answered."""

    def __init__(
        self, client: NexusClient, operation: str, output: Any, token: str, value: Any, links: Sequence[Link]
    ) -> None:
        self._client, self._output, self._value = client, output, value
        self.operation, self.token, self.links = operation, token, links

    @property
    def is_done(self) -> bool:
        return not self.token

    async def result(self, timeout: timedelta | None = None) -> O:
        """Raises nexusrpc.OperationError, nexusrpc.HandlerError, OperationTimedOut."""
        if not self.token:
            value: O = self._value
            return value
        return await self._client._result(self, timeout)  # type: ignore[no-any-return]

    async def info(self) -> dict[str, Any]:
        """State, attempts, progress, links. Raises nexusrpc.HandlerError."""
        return await self._client._info(self)

    async def cancel(self) -> None:
        """Asks it to stop; it may still end in any way. Raises nexusrpc.HandlerError."""
        if self.token:
            await self._client._cancel(self)


class NexusClient:
    """base_url: what the service's name is appended to. One per service; it may share a session with others.

    request_timeout: of one request. headers: sent with each, such as Authorization.
    """

    def __init__(
        self,
        base_url: str,
        service: type[Any] | str,
        *,
        session: aiohttp.ClientSession | None = None,
        serializer: JsonSerializer | None = None,
        retry: RetryRules | None = None,
        request_timeout: timedelta = timedelta(seconds=10),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if isinstance(service, str):
            self.service = service
        else:
            definition = get_service_definition(service)
            if definition is None:
                raise TypeError(f"{service} is not decorated with nexusrpc.service")
            self.service = definition.name
        self._base_url = base_url.rstrip("/")
        self._session, self._owns_session = session, session is None
        self._serializer = serializer or JsonSerializer()
        self._retry = retry or RetryRules()
        self._request_timeout = request_timeout
        self._headers = dict(headers or {})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._owns_session and self._session is not None:
            session, self._session = self._session, None
            await session.close()

    # --- calls ------------------------------------------------------------------------------------------------------------
    @overload
    async def start(self, operation: Operation[I, O], input: I, **options: Unpack[StartOptions]) -> OperationHandle[O]: ...

    @overload
    async def start(self, operation: str, input: Any = None, **options: Unpack[StartOptions]) -> OperationHandle[Any]: ...

    async def start(
        self, operation: Operation[Any, Any] | str, input: Any = None, **options: Unpack[StartOptions]
    ) -> OperationHandle[Any]:
        """Raises nexusrpc.OperationError (it ended, and not well) and nexusrpc.HandlerError (it was not started)."""
        if isinstance(operation, str):
            name, output = operation, options.get("output_type")
        else:
            name, output = operation.name, operation.output_type
        callback, links, timeout = options.get("callback"), options.get("links", ()), options.get("operation_timeout")
        content = self._serializer.serialize(input)
        sent = {**self._headers, **(options.get("headers") or {}), **content.headers}
        sent[wire.REQUEST_ID] = options.get("request_id") or str(uuid.uuid4())
        if timeout is not None:
            sent[wire.OPERATION_TIMEOUT] = wire.duration_text(timeout)
        if links:
            sent[wire.LINK] = ", ".join(wire.link_header(link) for link in links)
        query = ""
        if callback is not None:
            query = "?" + urlencode({"callback": callback.url})
            sent |= {f"Nexus-Callback-{key}": value for key, value in callback.headers.items()}
        answer = await self._until_answered("POST", self._path(name) + query, sent, content.data)
        if answer.status == 200:
            value = self._value(answer, output)
            return OperationHandle(self, name, output, "", value, answer.links)
        if answer.status == 201:
            token = _token(answer)
            return OperationHandle(self, name, output, token, None, answer.links)
        raise self._error(answer)

    @overload
    async def execute(
        self, operation: Operation[I, O], input: I, *, timeout: timedelta | None = None, **options: Unpack[StartOptions]
    ) -> O: ...

    @overload
    async def execute(
        self, operation: str, input: Any = None, *, timeout: timedelta | None = None, **options: Unpack[StartOptions]
    ) -> Any: ...

    async def execute(
        self,
        operation: Operation[Any, Any] | str,
        input: Any = None,
        *,
        timeout: timedelta | None = None,
        **options: Unpack[StartOptions],
    ) -> Any:
        """Starts it and waits for its result, whether that takes milliseconds or days.

        timeout: for all of it; then the operation is asked to stop. Raises as start and OperationHandle.result.
        """
        options.setdefault("operation_timeout", timeout)
        handle: OperationHandle[Any] = await self.start(operation, input, **options)
        return await handle.result(timeout)

    def handle(self, operation: Operation[I, O], token: str) -> OperationHandle[O]:
        """Of an operation that was started before, maybe by another process."""
        return OperationHandle(self, operation.name, operation.output_type, token, None, [])

    async def _result(self, handle: OperationHandle[Any], timeout: timedelta | None) -> Any:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout.total_seconds() if timeout is not None else float("inf")
        while True:
            wait_s = min(WAIT_S, until - loop.time())
            if wait_s <= 0:
                await self._give_up(handle)
                raise OperationTimedOut(f"operation {self.service}/{handle.operation} did not end within {timeout}")
            path = f"{self._looked_at(handle)}?wait={wire.duration_text(timedelta(seconds=wait_s))}"
            longest_s = wait_s + self._request_timeout.total_seconds()
            answer = await self._until_answered("GET", path, dict(self._headers), b"", longest_s)
            if answer.status == 200:
                return self._value(answer, handle._output)
            if answer.status != 202:
                raise self._error(answer)

    async def _give_up(self, handle: OperationHandle[Any]) -> None:
        try:
            await self._cancel(handle)
        except HandlerError as error:
            if error.retryable:  # it was asked as often as the rules say; what counts for the caller is that time is over
                return
            raise

    async def _info(self, handle: OperationHandle[Any]) -> dict[str, Any]:
        answer = await self._until_answered("GET", self._looked_at(handle), dict(self._headers), b"")
        if answer.status != 200:
            raise self._error(answer)
        info = self._serializer.read(answer.content)
        return info if isinstance(info, dict) else {}

    async def _cancel(self, handle: OperationHandle[Any]) -> None:
        sent = {**self._headers, wire.OPERATION_TOKEN: handle.token}
        answer = await self._until_answered("POST", self._path(handle.operation) + "/cancel", sent, b"")
        if answer.status != 202:
            raise self._error(answer)

    # --- requests ---------------------------------------------------------------------------------------------------------
    def _path(self, operation: str) -> str:
        return f"{self._base_url}/{quote(self.service, safe='')}/{quote(operation, safe='')}"

    def _looked_at(self, handle: OperationHandle[Any]) -> str:
        return f"{self._path(handle.operation)}/operations/{quote(handle.token, safe='')}"

    async def _until_answered(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float | None = None
    ) -> _Answer:
        """Tries again what the protocol says may be tried again. Raises nexusrpc.HandlerError UNAVAILABLE if nobody answers."""
        timeout_s = timeout_s or self._request_timeout.total_seconds()
        sent = {wire.REQUEST_TIMEOUT: wire.duration_text(timedelta(seconds=timeout_s)), **headers}
        for attempt in range(1, self._retry.attempts_max + 1):
            retry_after_s: float | None = None
            failure: HandlerError
            try:
                answer = await self._once(method, url, sent, body, timeout_s)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failure = HandlerError(f"no answer: {type(error).__name__}", type=HandlerErrorType.UNAVAILABLE)
                failure.__cause__ = error
            else:
                if answer.status < 300 or answer.status == 424:
                    return answer
                failure = self._handler_error(answer)
                if not failure.retryable:
                    return answer
                after = answer.headers.get("Retry-After", "")
                retry_after_s = float(after) if after.isascii() and after.isdigit() else None
            if attempt == self._retry.attempts_max:
                raise failure
            await asyncio.sleep(self._retry.pause_s(attempt, retry_after_s))
        raise AssertionError("attempts_max is at least 1")

    async def _once(self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> _Answer:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        async with asyncio.timeout(timeout_s):
            sent = self._session.request(
                method,
                URL(url, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
                skip_auto_headers=("Content-Type",),
            )
            async with sent as response:
                links = response.headers.getall(wire.LINK, [])
                try:
                    read = wire.links_of(links)
                except ValueError:
                    read = []  # links are there to look at: a bad one does not make a result bad
                return _Answer(response.status, response.reason or "", dict(response.headers), read, await response.read())

    def _value(self, answer: _Answer, output: Any) -> Any:
        try:
            return self._serializer.read(answer.content, output)
        except ValueError as error:
            message = f"the result is not what the service says: {error}"
            raise HandlerError(message, type=HandlerErrorType.INTERNAL, retryable_override=False) from error

    def _handler_error(self, answer: _Answer) -> HandlerError:
        retryable = answer.headers.get("Nexus-Request-Retryable", "")
        return wire.handler_error_of(answer.status, answer.reason, answer.body, retryable)

    def _error(self, answer: _Answer) -> Exception:
        if answer.status == 424:
            return wire.operation_error_of(answer.headers.get(wire.OPERATION_STATE, "failed"), answer.body)
        return self._handler_error(answer)


def _token(answer: _Answer) -> str:
    info = JsonSerializer().read(answer.content)
    token = info.get("token") if isinstance(info, dict) else None
    if not isinstance(token, str) or not token:
        raise HandlerError("the answer to a start has no token", type=HandlerErrorType.INTERNAL, retryable_override=False)
    return token
