"""HTTP as the protocol means it <-> the messages that workers get and give. Pure: no socket, no clock.

In: `start_request`, `cancel_request`, `completion`: whatever a caller sends becomes one of these or raises Refused.
Out: `started_answer`, `result_answer`, `operation_error_answer`, `handler_error_answer`, `refusal`: what becomes of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import NexusHandlerErrorRetryBehavior
from temporalio.api.failure.v1 import Failure as TemporalFailure
from temporalio.api.nexus.v1 import CancelOperationRequest, Link, Request, Response, StartOperationRequest

from cluster.nexus.failures import nexus_failure, operation_failure
from nexus import headers as h
from nexus.content import content_of, payload_of
from nexus.errors import STATUS_OF, STATUS_OF_UNKNOWN, ErrorType, Refused, bad_request, is_retryable
from nexus.failures import JSON_TYPE, failure_json, handler_error_json, operation_error_json, read_failure
from nexus.settings import GatewaySettings

_RETRY = NexusHandlerErrorRetryBehavior
STATES = ("succeeded", "failed", "canceled")


class Answer(msgspec.Struct, frozen=True):
    """What goes to the caller."""

    status: int
    headers: list[tuple[str, str]] = []
    body: bytes = b""


class Times(msgspec.Struct, frozen=True):
    """How long a worker has. now: ns since the epoch."""

    now: int
    dispatch_ns: int


class Completion(msgspec.Struct, frozen=True):
    """What a callback tells. token: the callback's own, unopened. At 0, no time was told. result None = empty; failure None =
    succeeded."""

    token: str
    state: str
    operation_token: str = ""
    namespace: str = ""
    result: Payload | None = None
    failure: TemporalFailure | None = None
    links: list[Link] = []
    started_at: int = 0
    closed_at: int = 0


# --- requests ----------------------------------------------------------------------------------------------------------


def request_times(pairs: h.Pairs, now: int, settings: GatewaySettings) -> Times:
    """A missing time gets a default; of the time that there is, a little is kept for the way back."""
    text = h.single(pairs, h.REQUEST_TIMEOUT)
    whole = h.duration_ns(text, h.REQUEST_TIMEOUT) if text else settings.request_timeout_default_ns
    whole = min(whole, settings.request_timeout_max_ns)
    return Times(now, whole - min(settings.dispatch_reserve_ns, whole // 10))


def check_name(name: str, what: str, settings: GatewaySettings) -> None:
    if not name or not h.is_text(name):
        raise bad_request(f"{what} is not set" if not name else f"{what} is not valid text")
    if len(name.encode()) > settings.name_bytes_max:
        raise bad_request(f"{what} exceeds length limit ({len(name.encode())}/{settings.name_bytes_max})")


def start_request(
    pairs: h.Pairs,
    service: str,
    operation: str,
    callback: str,
    body: bytes,
    times: Times,
    request_id: str,
    settings: GatewaySettings,
) -> Request:
    """request_id: for a caller that sent none. Raises Refused."""
    check_name(service, "service", settings)
    check_name(operation, "operation", settings)
    start = StartOperationRequest(
        service=service,
        operation=operation,
        request_id=h.single(pairs, h.REQUEST_ID) or request_id,
        callback=checked_callback(callback, settings),
        payload=payload_of(pairs, body),
        callback_header=h.for_callback(pairs, settings),
        links=h.links_of(pairs, settings),
    )
    if len(start.request_id.encode()) > settings.name_bytes_max:
        raise bad_request(f"request id exceeds length limit ({len(start.request_id.encode())}/{settings.name_bytes_max})")
    request = _request(pairs, times, settings)
    request.start_operation.CopyFrom(start)
    request.capabilities.temporal_failure_responses = True
    if text := h.single(pairs, h.OPERATION_TIMEOUT):
        h.duration_ns(text, h.OPERATION_TIMEOUT)
    request.header[h.REQUEST_ID] = start.request_id
    if links := [text for link in start.links if (text := h.link_header(link))]:
        request.header[h.LINK] = ", ".join(links)
    return request


def cancel_request(
    pairs: h.Pairs, service: str, operation: str, token: str, times: Times, settings: GatewaySettings
) -> Request:
    """token: the handler's own. Raises Refused."""
    check_name(service, "service", settings)
    check_name(operation, "operation", settings)
    request = _request(pairs, times, settings)
    cancel = CancelOperationRequest(service=service, operation=operation, operation_id=token, operation_token=token)
    request.cancel_operation.CopyFrom(cancel)
    return request


def _request(pairs: h.Pairs, times: Times, settings: GatewaySettings) -> Request:
    request = Request(header=h.for_handler(pairs, settings))
    request.header[h.REQUEST_TIMEOUT] = h.duration_text(times.dispatch_ns)
    request.scheduled_time.FromNanoseconds(times.now)
    return request


def operation_token(pairs: h.Pairs, query: str, settings: GatewaySettings) -> str:
    """From its header or from ?token=. Raises Refused."""
    named = h.single(pairs, h.OPERATION_TOKEN)
    if named and query and named != query:
        raise bad_request("the operation token of the header is not that of the query")
    token = named or query
    if not token:
        raise bad_request("operation token is not set")
    if not h.is_text(token):
        raise bad_request("operation token is not valid text")
    if len(token.encode()) > settings.token_bytes_max:
        raise bad_request(f"operation token length exceeds allowed limit ({len(token.encode())}/{settings.token_bytes_max})")
    return token


def checked_callback(url: str, settings: GatewaySettings) -> str:
    """Where it may lead to is the sender's to check, once it is sent. Raises Refused."""
    if not url:
        return ""
    size = len(url.encode("utf-8", "replace"))
    if size > settings.callback_url_bytes_max:
        raise bad_request(f"invalid callback url: length exceeds allowed limit ({size}/{settings.callback_url_bytes_max})")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise bad_request("invalid callback url") from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or not url.isprintable():
        raise bad_request("invalid callback url: http or https and a host are needed, and no password")
    return url


def completion(pairs: h.Pairs, token: str, namespace: str, body: bytes, settings: GatewaySettings) -> Completion:
    """A callback that came in. Raises Refused, in the public server's words."""
    state = h.single(pairs, h.OPERATION_STATE)
    if state not in STATES:
        raise bad_request(f"invalid request operation state: {json.dumps(h.shown(state))}")
    links = h.links_of(pairs, settings)
    started, closed = h.single(pairs, h.START_TIME), h.single(pairs, h.CLOSE_TIME)
    named = h.single(pairs, h.OPERATION_TOKEN)
    if named:
        operation_token(pairs, "", settings)
    result, failure = None, None
    if state == "succeeded":
        result = payload_of(pairs, body)
    else:
        type = h.single(pairs, "content-type")
        if type.partition(";")[0].strip().lower() != JSON_TYPE:
            raise bad_request(f"invalid request content type: {json.dumps(h.shown(type))}")
        failure = operation_failure(state, read_failure(body, settings.failure_depth_max))
    return Completion(
        token=token,
        state=state,
        operation_token=named,
        namespace=namespace,
        result=result,
        failure=failure,
        links=links,
        started_at=h.start_time_ns(started) if started else 0,
        closed_at=h.close_time_ns(closed) if closed else 0,
    )


# --- answers -----------------------------------------------------------------------------------------------------------


def json_answer(status: int, value: Any, headers: list[tuple[str, str]] | None = None) -> Answer:
    body = json.dumps(value, separators=(",", ":")).encode()
    return Answer(status, [("Content-Type", JSON_TYPE), *(headers or [])], body)


def refusal(refused: Refused) -> Answer:
    """The gateway's own no."""
    headers = []
    if refused.retry_after_s is not None:
        headers.append(("Retry-After", str(max(1, round(refused.retry_after_s)))))
    if refused.is_retryable is not None:
        headers.append(("Nexus-Request-Retryable", str(refused.is_retryable).lower()))
    body = handler_error_json(refused.type.value, refused.message, refused.is_retryable)
    return json_answer(STATUS_OF[refused.type.value], body, headers)


def handler_error_answer(failure: TemporalFailure, shows_traces: bool, settings: GatewaySettings) -> Answer:
    """failure: with nexus_handler_failure_info."""
    info = failure.nexus_handler_failure_info
    override = {
        _RETRY.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE: True,
        _RETRY.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE: False,
    }.get(info.retry_behavior)
    type = info.type or ErrorType.INTERNAL.value
    made = failure_json(nexus_failure(failure), shows_traces, settings.failure_depth_max)
    message = made["message"] or made.get("cause", {}).get("message", "")
    body = {**made, **handler_error_json(type, message, override)}
    headers = []
    if override is not None:  # deprecated by the protocol, and still what older callers read
        headers.append(("Nexus-Request-Retryable", str(override).lower()))
    if type in ("RESOURCE_EXHAUSTED", "UNAVAILABLE") and is_retryable(type, override):
        headers.append(("Retry-After", "1"))
    return json_answer(STATUS_OF.get(type, STATUS_OF_UNKNOWN), body, headers)


def operation_error_answer(state: str, failure: TemporalFailure, shows_traces: bool, settings: GatewaySettings) -> Answer:
    """The operation has ended, and not well."""
    inner = failure_json(nexus_failure(failure), shows_traces, settings.failure_depth_max)
    return json_answer(424, operation_error_json(state, inner), [("Nexus-Operation-State", state)])


def result_answer(payload: Payload | None, links: Iterable[Link], settings: GatewaySettings) -> Answer:
    """The operation has ended well. A result that no answer can carry is the handler's fault."""
    content, body = content_of(payload)
    if len(body) > settings.body_bytes_max:
        raise Refused(ErrorType.INTERNAL, "the operation's result is too large for an answer", is_retryable=False)
    return Answer(200, [*content.items(), ("Nexus-Operation-State", "succeeded"), *_links(links)], body)


def started_answer(token: str, links: Iterable[Link]) -> Answer:
    return json_answer(201, {"token": token, "state": "running"}, _links(links))


def _links(links: Iterable[Link]) -> list[tuple[str, str]]:
    return [("Nexus-Link", text) for link in links if (text := h.link_header(link))]


def unusable() -> Refused:
    """A worker answered something that is no answer to what it was asked."""
    return Refused(ErrorType.INTERNAL, "the handler's answer does not fit the request")


def state_of(failure: TemporalFailure) -> str:
    return "canceled" if failure.HasField("canceled_failure_info") else "failed"


def start_outcome(response: Response) -> tuple[str, TemporalFailure] | None:
    """(state, failure) if the operation was unsuccessful, whichever form the worker speaks."""
    start = response.start_operation
    variant = start.WhichOneof("variant")
    if variant == "operation_error":
        state = start.operation_error.operation_state
        if state not in ("failed", "canceled"):
            raise unusable()
        return state, operation_failure(state, start.operation_error.failure)
    if variant == "failure":
        return state_of(start.failure), start.failure
    return None
