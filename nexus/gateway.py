"""The gateway: HTTP in, one Nexus task to a worker (or a call to an external target) out, and the answer back.

    way of a request: origin -> rate -> route -> caller -> target -> policy -> body -> protocol.py -> port -> answer

The routes are a table (routes.py). Every refusal is a Failure object with its protocol status; nothing of the inside is shown.
Mounted on the node's HTTP port: `Gateway(parts, settings).mount(app)`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import structlog
from aiohttp import web
from temporalio.api.nexus.v1 import Link, Request

from cluster.core.errors import CallerError
from cluster.failures import as_caller_error
from cluster.namespaces.record import NamespaceRecord
from cluster.seams import Clock, Ids
from nexus import headers as h
from nexus import protocol
from nexus.body import read_body
from nexus.egress import Egress
from nexus.errors import ErrorType, Refused, bad_request, not_found, refused_by, unauthorized
from nexus.openapi import document
from nexus.operation_tokens import OperationToken, OperationTokens, Seals
from nexus.policy import Caller, EndpointPolicy, Rates, check_caller, check_operation
from nexus.ports import (
    CallerOperation,
    CompletionPort,
    EndpointsPort,
    HandlerError,
    IdentifyCaller,
    NamespacesPort,
    NexusDispatch,
    OperationsPort,
)
from nexus.protocol import Answer, json_answer
from nexus.proxy import Proxy
from nexus.results import EVENTS, Operation, Results
from nexus.routes import PREFIXES, Matched, MethodNotAllowed, match
from nexus.settings import GatewaySettings

log = structlog.get_logger("outlast.nexus")

# Where a callback's token may be: as the protocol says, as the public server's callers say, as it was sent with the start.
CALLBACK_TOKEN_HEADERS = ("temporal-callback-token", "token", "nexus-callback-token")
NEAR_DEADLINE = 0.8  # a synchronous handler that took this much of its time will one day not make it
_REASONS = {520: "Upstream Timeout"}
_ALWAYS = (("Server", "outlast"), ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))


class Parts(NamedTuple):
    """What is behind the gateway. egress None: external targets are refused. is_draining: the process takes nothing new."""

    dispatch: NexusDispatch
    endpoints: EndpointsPort
    namespaces: NamespacesPort
    completions: CompletionPort
    operations: OperationsPort
    tokens: Seals
    identify: IdentifyCaller
    clock: Clock
    ids: Ids
    egress: Egress | None = None
    is_draining: Callable[[], bool] = lambda: False


class Incoming(NamedTuple):
    request: web.Request
    pairs: h.Pairs
    values: dict[str, str]
    query: dict[str, str]
    caller: Caller


class Target(NamedTuple):
    """place: what tokens are bound to. namespace None: outside."""

    place: str
    name: str
    namespace: NamespaceRecord | None
    task_queue: str
    url: str
    policy: EndpointPolicy


class Gateway:
    def __init__(self, parts: Parts, settings: GatewaySettings) -> None:
        self._parts, self._settings = parts, settings
        self._tokens = OperationTokens(parts.tokens, settings)
        self._results = Results(parts.operations, settings)
        self._proxy = Proxy(parts.egress, settings) if parts.egress is not None else None
        self._rates = Rates(settings.requests_per_s_max, settings.requests_burst, asyncio.get_running_loop().time())
        self._document = json_answer(200, document(settings))
        self.answered: Counter[tuple[str, int]] = Counter()  # by action and status
        self.near_deadline_count = 0

    def mount(self, app: web.Application) -> None:
        for prefix in PREFIXES:
            app.router.add_route("*", prefix + "/{rest:.*}", self.serve)

    def stop(self) -> None:
        """Whoever waits for a result is told to ask again."""
        self._results.waits.stop()

    async def close(self) -> None:
        """Before the port is closed, which waits for whoever waits."""
        self.stop()

    def gauges(self) -> list[tuple[str, str, Callable[[], float]]]:
        """As Exposition takes them."""
        return [
            ("outlast_nexus_requests", "Requests that the Nexus gateway answered", lambda: float(self.answered.total())),
            ("outlast_nexus_waits", "Long polls and streams that wait for a result", lambda: float(self._results.waits.count)),
            ("outlast_nexus_near_deadline", "Synchronous handlers that nearly took too long", lambda: self.near_deadline_count),
        ]

    # --- any request ------------------------------------------------------------------------------------------------------
    async def serve(self, request: web.Request) -> web.StreamResponse:
        action = "none"
        try:
            origin = self._checked_origin(request)
            if request.method == "OPTIONS" and origin:
                return web.Response(status=204, headers=_cors(origin, preflight=True))
            if self._parts.is_draining():
                raise Refused(ErrorType.UNAVAILABLE, "the gateway stops, ask another one", retry_after_s=1.0)
            self._rates.check(asyncio.get_running_loop().time())
            matched = match(request.method, request.raw_path)
            action = matched.route.action
            answer = await self._act(request, matched)
        except MethodNotAllowed as error:
            allow = ", ".join(error.allowed)
            made = protocol.refusal(Refused(ErrorType.NOT_IMPLEMENTED, f"the method is not allowed here, only {allow}"))
            answer, origin = Answer(405, [*made.headers, ("Allow", allow)], made.body), ""
        except Refused as refused:
            answer, origin = protocol.refusal(refused), ""
        except CallerError as error:
            answer, origin = protocol.refusal(refused_by(error)), ""
        except ConnectionError:
            raise  # the caller went away, and aiohttp knows what to do
        except Exception as failure:
            shown = as_caller_error(failure, f"nexus {action}", self._parts.ids)
            answer, origin = protocol.refusal(refused_by(shown)), ""
        if isinstance(answer, web.StreamResponse):
            self.answered[(action, answer.status)] += 1
            return answer
        self.answered[(action, answer.status)] += 1
        return self._response(request, answer, origin)

    def _response(self, request: web.Request, answer: Answer, origin: str) -> web.Response:
        headers = [*_ALWAYS, *answer.headers]
        if origin:
            headers += list(_cors(origin, preflight=False).items())
        response = web.Response(status=answer.status, reason=_REASONS.get(answer.status), body=answer.body or None)
        response.headers.extend(headers)
        if not request.content.is_eof():  # the rest of a body that nobody wants: not to be taken for the next request
            response.force_close()
        return response

    def _checked_origin(self, request: web.Request) -> str:
        """A browser sends Origin with what a page asked for: refused, unless pages of that origin may. "" = no browser."""
        origin = request.headers.get("Origin", "")
        allowed = self._settings.cors_origins
        if origin and origin not in allowed and "*" not in allowed:
            raise unauthorized("pages of other origins may not call this gateway")
        return origin

    async def _act(self, request: web.Request, matched: Matched) -> Answer | web.StreamResponse:
        pairs = h.lower(request.headers.items())
        for name in h.SINGLE:
            h.single(pairs, name)
        peername = request.transport.get_extra_info("peername") if request.transport is not None else None
        peer = str(peername[0]) if isinstance(peername, tuple) and peername else ""
        caller = self._parts.identify(dict(pairs), peer)
        incoming = Incoming(request, pairs, matched.values, matched.query, caller)
        match matched.route.action:
            case "start":
                return await self._start(incoming)
            case "cancel":
                return await self._cancel(incoming)
            case "look":
                return await self._look(incoming)
            case "list":
                return await self._list(incoming)
            case "complete":
                return await self._complete(incoming)
            case _:
                return self._document

    # --- operations -------------------------------------------------------------------------------------------------------
    async def _target(self, incoming: Incoming) -> Target:
        """Whom the path names, if the caller may use it. Raises Refused, CallerError."""
        values, service, operation = incoming.values, incoming.values["service"], incoming.values["operation"]
        protocol.check_name(service, "service", self._settings)
        protocol.check_name(operation, "operation", self._settings)
        if "endpoint" not in values:
            protocol.check_name(values["task_queue"], "task queue", self._settings)
            namespace = await self._namespace(incoming, values["namespace"])
            return Target(f"queue:{values['task_queue']}", "", namespace, values["task_queue"], "", EndpointPolicy())
        protocol.check_name(values["endpoint"], "endpoint", self._settings)
        endpoint = await self._parts.endpoints.find(values["endpoint"])
        if endpoint is None:
            raise not_found("nexus endpoint not found")
        check_caller(endpoint.policy, incoming.caller)
        check_operation(endpoint.policy, service, operation)
        self._rates.check_endpoint(endpoint.id, endpoint.policy, asyncio.get_running_loop().time())
        if endpoint.url:
            return Target(endpoint.id, endpoint.name, None, "", endpoint.url, endpoint.policy)
        target = await self._parts.namespaces.by_name(endpoint.namespace)
        return Target(endpoint.id, endpoint.name, target, endpoint.task_queue, "", endpoint.policy)

    async def _namespace(self, incoming: Incoming, name: str) -> NamespaceRecord:
        """Of a path that names it itself: only for callers of that namespace, where callers have one."""
        if incoming.caller.namespace and incoming.caller.namespace != name:
            raise unauthorized("the caller may not act in this namespace")
        return await self._parts.namespaces.by_name(name)

    async def _start(self, incoming: Incoming) -> Answer:
        target = await self._target(incoming)
        body = await read_body(incoming.request, self._settings)
        service, operation = incoming.values["service"], incoming.values["operation"]
        times = protocol.request_times(incoming.pairs, self._parts.clock.now_ns(), self._settings)
        callback = incoming.query.get("callback", "")
        request_id = self._parts.ids.uuid()
        request = protocol.start_request(
            incoming.pairs, service, operation, callback, body, times, request_id, self._settings
        )
        request.endpoint = target.name
        shows_traces = target.policy.shows_stack_traces
        if target.namespace is None:
            outcome = await self._outside().start(target.url, request, times.dispatch_ns / 1e9, shows_traces)
        else:
            outcome = await self._ask_worker(target, target.namespace, request, times)
        if isinstance(outcome, Answer):
            return outcome
        token, links = outcome
        namespace_id = target.namespace.id if target.namespace is not None else ""
        sealed = self._tokens.seal(OperationToken(namespace_id, target.place, service, operation, token))
        return protocol.started_answer(sealed, links)

    async def _ask_worker(
        self, target: Target, namespace: NamespaceRecord, request: Request, times: protocol.Times
    ) -> Answer | tuple[str, list[Link]]:
        """(the handler's token, links) of an operation that goes on; else what the caller gets."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        response = await self._parts.dispatch.dispatch(namespace.id, target.task_queue, request, times.dispatch_ns / 1e9)
        took_s = loop.time() - began
        shows_traces = target.policy.shows_stack_traces
        if isinstance(response, HandlerError):
            return protocol.handler_error_answer(response.failure, shows_traces, self._settings)
        if (unsuccessful := protocol.start_outcome(response)) is not None:
            return protocol.operation_error_answer(*unsuccessful, shows_traces, self._settings)
        variant = response.start_operation.WhichOneof("variant")
        if variant == "sync_success":
            self._note_time(request, took_s, times)
            success = response.start_operation.sync_success
            return protocol.result_answer(success.payload, success.links, self._settings)
        if variant != "async_success":
            raise protocol.unusable()
        started = response.start_operation.async_success
        return started.operation_token or started.operation_id, list(started.links)

    def _note_time(self, request: Request, took_s: float, times: protocol.Times) -> None:
        if took_s >= NEAR_DEADLINE * times.dispatch_ns / 1e9:
            self.near_deadline_count += 1
            start = request.start_operation
            log.warning("a nexus handler is near its deadline", service=start.service, operation=start.operation, took_s=took_s)

    async def _cancel(self, incoming: Incoming) -> Answer:
        target = await self._target(incoming)
        await read_body(incoming.request, self._settings)  # empty, or of no meaning
        token = protocol.operation_token(incoming.pairs, incoming.query.get("token", ""), self._settings)
        service, operation = incoming.values["service"], incoming.values["operation"]
        own_token = self._own_token(target, service, operation, token)
        times = protocol.request_times(incoming.pairs, self._parts.clock.now_ns(), self._settings)
        request = protocol.cancel_request(incoming.pairs, service, operation, own_token, times, self._settings)
        request.endpoint = target.name
        shows_traces = target.policy.shows_stack_traces
        if target.namespace is None:
            return await self._outside().cancel(target.url, request, times.dispatch_ns / 1e9, shows_traces)
        response = await self._parts.dispatch.dispatch(
            target.namespace.id, target.task_queue, request, times.dispatch_ns / 1e9
        )
        if isinstance(response, HandlerError):
            return protocol.handler_error_answer(response.failure, shows_traces, self._settings)
        if response.WhichOneof("variant") != "cancel_operation":
            raise protocol.unusable()
        return Answer(202)

    def _own_token(self, target: Target, service: str, operation: str, token: str) -> str:
        namespace_id = target.namespace.id if target.namespace is not None else ""
        return self._tokens.open(token, namespace_id, target.place, service, operation)

    def _outside(self) -> Proxy:
        if self._proxy is None:
            raise Refused(ErrorType.NOT_IMPLEMENTED, "external targets are not served by this gateway")
        return self._proxy

    async def _look(self, incoming: Incoming) -> Answer | web.StreamResponse:
        target = await self._target(incoming)
        token = protocol.operation_token([], incoming.values["token"], self._settings)
        own_token = self._own_token(target, incoming.values["service"], incoming.values["operation"], token)
        if target.namespace is None:
            raise Refused(ErrorType.NOT_IMPLEMENTED, "an external target tells results by callback only")
        operation = Operation(target.namespace, token, own_token, target.policy.shows_stack_traces)
        if EVENTS in incoming.request.headers.get("Accept", ""):
            return await self._results.stream(incoming.request, operation)
        return await self._results.answer(operation, incoming.query.get("wait"))

    async def _list(self, incoming: Incoming) -> Answer:
        """Of one caller, a workflow's run: what it called and what became of it."""
        namespace = await self._namespace(incoming, incoming.values["namespace"])
        workflow_id, run_id = incoming.query.get("workflow_id", ""), incoming.query.get("run_id", "")
        protocol.check_name(workflow_id, "workflow_id", self._settings)
        if len(run_id.encode()) > self._settings.name_bytes_max:
            raise bad_request("run_id exceeds length limit")
        found = await self._parts.operations.of_caller(
            namespace, workflow_id, run_id, self._settings.operations_listed_max
        )
        return json_answer(200, {"operations": [_listed(one) for one in found]})

    # --- callbacks --------------------------------------------------------------------------------------------------------
    async def _complete(self, incoming: Incoming) -> Answer:
        values = [value for name in CALLBACK_TOKEN_HEADERS if (value := h.single(incoming.pairs, name))]
        if not values or len(values[0]) > self._settings.headers_bytes_max:
            raise bad_request("invalid callback token")
        name = incoming.values.get("namespace", "")
        if name:
            await self._parts.namespaces.by_name(name)
        body = await read_body(incoming.request, self._settings)
        await self._parts.completions.complete(
            protocol.completion(incoming.pairs, values[0], name, body, self._settings)
        )
        return Answer(200)


def _listed(one: CallerOperation) -> dict[str, object]:
    made: dict[str, object] = {
        "scheduledEventId": one.scheduled_event_id,
        "endpoint": one.endpoint,
        "service": one.service,
        "operation": one.operation,
        "state": one.state,
        "attempt": one.attempt,
        "scheduledTime": h.rfc3339(one.scheduled_at),
        "links": [{"url": link.url, "type": link.type} for link in one.links],
    }
    named = {"token": one.token, "lastFailure": one.last_failure, "blockedReason": one.blocked_reason}
    made.update({key: value for key, value in named.items() if value})
    if one.closed_at:
        made["closeTime"] = h.rfc3339(one.closed_at)
    return made


def _cors(origin: str, preflight: bool) -> dict[str, str]:
    headers = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
    if preflight:
        headers["Access-Control-Allow-Methods"] = "GET, POST"
        headers["Access-Control-Allow-Headers"] = (
            "Content-Type, Nexus-Operation-Token, Nexus-Request-Id, Nexus-Link, Operation-Timeout, Request-Timeout"
        )
        headers["Access-Control-Max-Age"] = "600"
    else:
        headers["Access-Control-Expose-Headers"] = "Nexus-Operation-State, Nexus-Link, Retry-After"
    return headers
