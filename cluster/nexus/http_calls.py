"""Calls over HTTP, as the protocol says: start and cancel of an external endpoint's operations, and callbacks to whoever waits.

Pure but for `CallHttp`, which sends one request and brings back one answer (or says that none came).

    status of a start | what it means
    ------------------+---------------------------------------------------------------------------------------
    200               | the result
    201               | {token, state}: it has started
    424               | it failed or was cancelled: a Failure, and Nexus-Operation-State
    any other known   | a handler error, of the status' type or of the type that its Failure names
    anything else     | nothing that a handler says: a failed call, tried again
"""

from __future__ import annotations

import json
from typing import Protocol
from urllib.parse import quote, urlencode

import msgspec
from temporalio.api.enums.v1 import NexusHandlerErrorRetryBehavior
from temporalio.api.failure.v1 import Failure, NexusHandlerFailureInfo
from temporalio.api.nexus.v1 import CancelOperationRequest, Link, StartOperationRequest
from temporalio.api.nexus.v1 import Failure as NexusFailure

from cluster.core.machines.callback import Completion
from cluster.nexus import callback_token
from cluster.nexus.answers import CallFailed, CancelAnswer, Heard, StartAnswer, Started, Succeeded, Unsuccessful
from cluster.nexus.dispatch import HandlerError
from cluster.nexus.failures import HANDLER_ERROR, OPERATION_ERROR, nexus_failure, operation_failure, temporal_failure
from cluster.nexus.links import common_links, nexus_link
from nexus import headers as h
from nexus.content import content_of, payload_of
from nexus.errors import TYPE_OF, Refused
from nexus.failures import JSON_TYPE, failure_json, read_failure
from nexus.settings import GatewaySettings

SETTINGS = GatewaySettings()
NO_HTTP = "this server calls nobody over HTTP"
_RETRY = NexusHandlerErrorRetryBehavior
_BEHAVIORS = {
    "true": _RETRY.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE,
    "false": _RETRY.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE,
}


class HttpAnswer(msgspec.Struct, frozen=True):
    """headers: names in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class CallHttp(Protocol):
    async def __call__(
        self, url: str, headers: dict[str, str], body: bytes, timeout_s: float, answer_bytes_max: int
    ) -> HttpAnswer | CallFailed:
        """One POST; follows no redirect, and goes to no address that it may not."""
        ...


async def nobody(url: str, headers: dict[str, str], body: bytes, timeout_s: float, answer_bytes_max: int) -> CallFailed:
    """Where no client was made."""
    return CallFailed(NO_HTTP)


class HttpCalls:
    """callback_url: of this cluster's gateway, "{namespace}" for the caller's."""

    def __init__(self, call: CallHttp, callback_url: str) -> None:
        self._call, self._callback_url = call, callback_url

    def use(self, call: CallHttp, callback_url: str) -> None:
        """callback_url "": as before."""
        self._call, self._callback_url = call, callback_url or self._callback_url

    async def start(
        self, base: str, namespace: str, request: StartOperationRequest, header: dict[str, str], timeout_s: float
    ) -> StartAnswer:
        content, body = content_of(request.payload)
        query = urlencode({"callback": self._callback_url.replace("{namespace}", quote(namespace, safe=""))})
        headers = {
            **_own(header),
            **{key.lower(): value for key, value in content.items()},
            "nexus-request-id": request.request_id,
            "nexus-link": ", ".join(filter(None, map(h.link_header, request.links))),
            h.CALLBACK_PREFIX + callback_token.HEADER: request.callback_header[callback_token.HEADER],
            "request-timeout": h.duration_text(int(timeout_s * 1e9)),
            "temporal-nexus-failure-support": "true",
        }
        url = f"{base.rstrip('/')}/{quote(request.service, safe='')}/{quote(request.operation, safe='')}?{query}"
        answer = await self._call(url, headers, body, timeout_s, SETTINGS.body_bytes_max)
        if isinstance(answer, CallFailed):
            return answer
        try:
            return _start_answer(answer)
        except Refused as error:
            return CallFailed(f"the handler's answer cannot be read: {error.message}")

    async def cancel(
        self, base: str, request: CancelOperationRequest, header: dict[str, str], timeout_s: float
    ) -> CancelAnswer:
        headers = {
            **_own(header),
            h.OPERATION_TOKEN: request.operation_token,
            "request-timeout": h.duration_text(int(timeout_s * 1e9)),
            "temporal-nexus-failure-support": "true",
        }
        url = f"{base.rstrip('/')}/{quote(request.service, safe='')}/{quote(request.operation, safe='')}/cancel"
        return _heard(await self._call(url, headers, b"", timeout_s, SETTINGS.body_bytes_max))

    async def call_back(self, url: str, header: dict[str, str], told: Completion, timeout_s: float) -> CancelAnswer:
        headers = {
            **_own(header),
            h.OPERATION_STATE: told.state,
            h.START_TIME: h.rfc5322(told.started_at),
            h.CLOSE_TIME: h.rfc3339(told.closed_at),
            h.LINK: h.link_header(nexus_link(told.link.workflow_event)),
        }
        if told.failure is None:
            content, body = content_of(told.result)
            headers |= {key.lower(): value for key, value in content.items()}
        else:
            failure = failure_json(nexus_failure(told.failure), True, SETTINGS.failure_depth_max)
            body = json.dumps(failure, separators=(",", ":")).encode()
            headers["content-type"] = JSON_TYPE
        return _heard(await self._call(url, headers, body, timeout_s, SETTINGS.body_bytes_max))


# What an operation's own headers may not say: it belongs to the connection, or is said by this server.
_NOT_THEIRS = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive", "expect"}
)


def _own(header: dict[str, str]) -> dict[str, str]:
    return {
        key.lower(): value
        for key, value in header.items()
        if key.lower() not in _NOT_THEIRS and key.isascii() and h.is_text(value) and "\n" not in value and "\r" not in value
    }


def _start_answer(answer: HttpAnswer) -> StartAnswer:
    """Raises Refused for what is not of the protocol's form."""
    if answer.status == 200:
        return Succeeded(payload_of(answer.headers, answer.body), common_links(_links(answer)))
    if answer.status == 201:
        token = _token(answer.body)
        return Started(token, common_links(_links(answer))) if token else CallFailed("invalid operation info: no token")
    if answer.status == 424:
        failure = read_failure(answer.body, SETTINGS.failure_depth_max)
        state = _state(answer, failure)
        if state not in ("failed", "canceled"):
            return CallFailed(f"invalid operation state: {json.dumps(state)}")
        return Unsuccessful(operation_failure(state, failure), state == "canceled")
    return _error(answer)


def _links(answer: HttpAnswer) -> list[Link]:
    """Of an answer that is otherwise good, unreadable links are left out: they are a courtesy."""
    try:
        return h.links_of(answer.headers, SETTINGS)
    except Refused:
        return []


def _token(body: bytes) -> str:
    try:
        info = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    token = (info.get("token") or info.get("id")) if isinstance(info, dict) else ""
    return token if isinstance(token, str) else ""


def _state(answer: HttpAnswer, failure: NexusFailure) -> str:
    state = h.single(answer.headers, h.OPERATION_STATE)
    if not state and failure.metadata.get("type") == OPERATION_ERROR:
        details = json.loads(failure.details or b"{}")
        state = str(details.get("state", "")) if isinstance(details, dict) else ""
    return state


def _heard(answer: HttpAnswer | CallFailed) -> CancelAnswer:
    if isinstance(answer, CallFailed):
        return answer
    return Heard() if 200 <= answer.status < 300 else _error(answer)


def _error(answer: HttpAnswer) -> HandlerError | CallFailed:
    type = TYPE_OF.get(answer.status, "")
    if not type:
        return CallFailed(f"unexpected response status: {answer.status}")
    try:
        failure = read_failure(answer.body, SETTINGS.failure_depth_max)
    except Refused:
        text = answer.body[:1_000].decode("utf-8", "replace")
        failure = NexusFailure(message=text or type.replace("_", " ").lower())
    if failure.metadata.get("type") == HANDLER_ERROR:
        made = temporal_failure(failure)
        if made.HasField("nexus_handler_failure_info"):
            made.nexus_handler_failure_info.type = made.nexus_handler_failure_info.type or type
            return HandlerError(made)
    try:
        retryable = h.single(answer.headers, "nexus-request-retryable").lower()
    except Refused:
        retryable = ""
    info = NexusHandlerFailureInfo(type=type, retry_behavior=_BEHAVIORS.get(retryable, _RETRY.ValueType(0)))
    made = Failure(nexus_handler_failure_info=info)
    made.cause.CopyFrom(temporal_failure(failure))
    return HandlerError(made)
