"""An endpoint whose target is an address outside, called through the gateway: with a worker's policy, tokens and hygiene."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import ParamSpec, TypeVar
from urllib.parse import quote, urlencode

from temporalio.api.nexus.v1 import Link, Request

from nexus import headers as h
from nexus.content import content_of, payload_of
from nexus.egress import Answered, CallFailed, Egress, EgressRefused
from nexus.errors import STATUS_OF, STATUS_OF_UNKNOWN, TYPE_OF, ErrorType, Refused
from nexus.failures import failure_json, handler_error_json, operation_error_json, read_failure
from nexus.protocol import Answer, json_answer, operation_token, result_answer, unusable
from nexus.settings import GatewaySettings

P = ParamSpec("P")
T = TypeVar("T")


class Proxy:
    def __init__(self, egress: Egress, settings: GatewaySettings) -> None:
        self._egress, self._settings = egress, settings

    async def start(self, url: str, request: Request, timeout_s: float, shows_traces: bool) -> tuple[str, list[Link]] | Answer:
        """(the handler's token, links) of an operation that goes on; else what the caller gets. Raises Refused."""
        start = request.start_operation
        query = f"?{urlencode({'callback': start.callback})}" if start.callback else ""
        content, body = content_of(start.payload)
        callback = {f"nexus-callback-{name}": value for name, value in start.callback_header.items()}
        headers = {**request.header, **callback, **content}
        answered = await self._post(url, start.service, start.operation, query, headers, body, timeout_s)
        if answered.status not in (200, 201):
            return self._unsuccessful(answered, shows_traces)
        links = self._readable(h.links_of, answered.headers, self._settings)
        if answered.status == 201:
            return self._token(answered), links
        return result_answer(self._readable(payload_of, answered.headers, answered.body), links, self._settings)

    async def cancel(self, url: str, request: Request, timeout_s: float, shows_traces: bool) -> Answer:
        cancel = request.cancel_operation
        headers = {**request.header, h.OPERATION_TOKEN: cancel.operation_token}
        answered = await self._post(url, cancel.service, cancel.operation, "/cancel", headers, b"", timeout_s)
        return Answer(202) if answered.status == 202 else self._unsuccessful(answered, shows_traces)

    async def _post(
        self, url: str, service: str, operation: str, tail: str, headers: dict[str, str], body: bytes, timeout_s: float
    ) -> Answered:
        address = f"{url.rstrip('/')}/{quote(service, safe='')}/{quote(operation, safe='')}{tail}"
        try:
            return await self._egress.post(address, headers, body, timeout_s)
        except EgressRefused as error:
            raise Refused(ErrorType.UNAVAILABLE, f"the endpoint's target cannot be called: {error}", is_retryable=False) from None
        except TimeoutError:
            raise Refused(ErrorType.UPSTREAM_TIMEOUT, "upstream timeout") from None
        except CallFailed:
            raise Refused(ErrorType.UNAVAILABLE, "the endpoint's target did not answer", retry_after_s=1.0) from None

    def _token(self, answered: Answered) -> str:
        try:
            token = json.loads(answered.body).get("token")
        except (ValueError, AttributeError, RecursionError):
            raise unusable() from None
        return self._readable(operation_token, [], token if isinstance(token, str) else "", self._settings)

    def _readable(self, read: Callable[P, T], *what: P.args, **named: P.kwargs) -> T:
        """What the target says wrong is not the caller's fault."""
        try:
            return read(*what, **named)
        except Refused:
            raise unusable() from None

    def _unsuccessful(self, answered: Answered, shows_traces: bool) -> Answer:
        """The handler's failure goes on, in the protocol's words and without its traces; a page of HTML does not."""
        try:
            failure = read_failure(answered.body, self._settings.failure_depth_max)
            inner = failure_json(failure, shows_traces, self._settings.failure_depth_max)
        except Refused:
            inner = {"message": ""}
        if answered.status == 424:
            state = h.single(answered.headers, h.OPERATION_STATE)
            details = inner.get("details")
            if state not in ("failed", "canceled"):
                state = details.get("state", "failed") if isinstance(details, dict) else "failed"
            state = "canceled" if state == "canceled" else "failed"
            return json_answer(424, operation_error_json(state, inner), [("Nexus-Operation-State", state)])
        details = inner["details"] if isinstance(inner.get("details"), dict) else {}
        type = details.get("type") if isinstance(details.get("type"), str) else ""
        type = type or TYPE_OF.get(answered.status, ErrorType.INTERNAL.value)
        override = details.get("retryableOverride")
        body = handler_error_json(type, inner["message"], override if isinstance(override, bool) else None, inner.get("cause"))
        after = [value for name, value in answered.headers if name == "retry-after" and value.isascii() and value.isdigit()]
        return json_answer(STATUS_OF.get(type, STATUS_OF_UNKNOWN), body, [("Retry-After", value) for value in after[:1]])
