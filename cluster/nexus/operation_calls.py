"""Carries out StartNexusOperation and CancelNexusOperation: one effect, one call, one entry that says what came of it.

A call may be repeated after a crash: the request id is the event's, so the handler starts once. What the answer means for the
operation is the core's (core/machines/nexus_results.py); where the call goes is the endpoint's.

    endpoint's target   way
    worker              the task queue (dispatch.py); its handler calls back by "temporal://system"
    external            HTTP (http_calls.py); its handler calls back over HTTP, at the gateway
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from temporalio.api.common.v1 import Link
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import NexusOperationScheduledEventAttributes
from temporalio.api.nexus.v1 import CancelOperationRequest, Request, StartOperationRequest

from cluster.core.effects import CancelNexusOperation, StartNexusOperation
from cluster.core.events import parse_event
from cluster.core.machines import callback as core_callback
from cluster.core.machines import nexus_operation, nexus_results
from cluster.core.nexus_state import NexusOperation
from cluster.core.transition import Transition
from cluster.history.deliveries import Deliver
from cluster.history.run import Run
from cluster.history.shard import Shard
from cluster.nexus import callback_token
from cluster.nexus.answers import (
    CallFailed,
    CancelAnswer,
    Heard,
    StartAnswer,
    Started,
    Succeeded,
    Unsuccessful,
    cancel_answer,
    counts_against,
    start_answer,
)
from cluster.nexus.breakers import REASON, Breaker, BreakerKey, Breakers
from cluster.nexus.callback_token import CallbackToken
from cluster.nexus.dispatch import HandlerError, NexusDispatch, handler_error
from cluster.nexus.endpoint_record import EndpointRecord
from cluster.nexus.endpoints import EndpointRegistry
from cluster.nexus.http_calls import HttpCalls
from cluster.nexus.links import nexus_link
from cluster.tokens import Tokens

REQUEST_NS = 10_000_000_000  # component.nexusoperations.request.timeout
RESERVE_NS = 1_000_000_000  # of it, for the way back
LEAST_NS = 1_500_000_000  # with less time left no call is made: component.nexusoperations.minRequestTimeout
NO_TIME_FOR_CANCEL = "not enough time to execute another request before {} timeout"
_WORDS = {1: "StartToClose", 2: "ScheduleToStart", 3: "ScheduleToClose"}


class OperationCalls:
    """See the module's text. One per node."""

    def __init__(
        self, endpoints: EndpointRegistry, dispatch: NexusDispatch, http: HttpCalls, tokens: Tokens, breakers: Breakers
    ) -> None:
        self._endpoints, self._dispatch, self._http = endpoints, dispatch, http
        self._tokens, self._breakers = tokens, breakers

    def table(self) -> dict[type, Deliver]:
        return {StartNexusOperation: self._start, CancelNexusOperation: self._cancel}

    # --- start --------------------------------------------------------------------------------------------------------------
    async def _start(self, shard: Shard, run: Run, effect: StartNexusOperation) -> None:
        id = effect.scheduled_event_id
        operation = _callable(run, effect)
        if operation is None:
            return
        event = parse_event((await shard.events(run, id, id))[0])
        scheduled = event.nexus_operation_scheduled_event_attributes
        endpoint = self._endpoint(shard, run, operation)
        if isinstance(endpoint, HandlerError):
            await _record(shard, run, lambda t: _take_start(t, id, operation.request_id, effect.attempt, endpoint))
            return
        answer: StartAnswer | None = None
        key = BreakerKey(run.key.namespace_id, endpoint.id)
        breaker = self._breakers.enter(key)
        try:
            if not await _admitted(
                shard, run, breaker, lambda: _callable(run, effect), lambda t, reason: nexus_results.record_blocked(t, id, reason)
            ):
                return
            try:
                deadline, what = nexus_operation.call_deadline(operation)
                if deadline and deadline - shard.clock.now_ns() < LEAST_NS:
                    breaker.given_up()
                    await _record(shard, run, lambda t: nexus_results.record_timed_out(t, id, what))
                    return
                answer = await self._call_start(shard, run, operation, scheduled, endpoint, deadline)
            finally:
                _judge(breaker, answer)
        finally:
            self._breakers.leave(key)
        await _record(shard, run, lambda t: _take_start(t, id, operation.request_id, effect.attempt, answer))

    def _endpoint(self, shard: Shard, run: Run, operation: NexusOperation) -> EndpointRecord | HandlerError:
        """Or why it may not be called."""
        endpoint = self._endpoints.find(operation.endpoint_id, operation.endpoint)
        if endpoint is None:
            return handler_error("NOT_FOUND", "endpoint not registered")
        if not endpoint.allows(shard.context(run.key.namespace_id).namespace):
            return handler_error("UNAUTHORIZED", "the caller may not use this endpoint")
        return endpoint

    async def _call_start(
        self,
        shard: Shard,
        run: Run,
        operation: NexusOperation,
        scheduled: NexusOperationScheduledEventAttributes,
        endpoint: EndpointRecord,
        deadline: int,
    ) -> StartAnswer:
        now, key = shard.clock.now_ns(), run.key
        namespace = shard.context(key.namespace_id).namespace
        timeout_ns = min(REQUEST_NS, deadline - now) if deadline else REQUEST_NS
        event = Link.WorkflowEvent(namespace=namespace, workflow_id=key.workflow_id, run_id=key.run_id)
        event.event_ref.event_id = operation.scheduled_event_id
        event.event_ref.event_type = EventType.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED
        token = CallbackToken(
            key.namespace_id, key.workflow_id, key.run_id, operation.scheduled_event_id, operation.request_id
        )
        start = StartOperationRequest(
            service=operation.service,
            operation=operation.operation,
            request_id=operation.request_id,
            callback=core_callback.SYSTEM_URL,
            callback_header={callback_token.HEADER: callback_token.seal(self._tokens, token)},
            links=[nexus_link(event)],
        )
        if scheduled.HasField("input"):
            start.payload.CopyFrom(scheduled.input)
        else:
            start.payload.metadata["encoding"] = b"binary/null"
        header = dict(scheduled.nexus_header)
        if operation_ns := _operation_timeout_ns(operation, now):
            header.setdefault("operation-timeout", f"{operation_ns // 1_000_000}ms")
        if endpoint.is_external:
            return await self._http.start(endpoint.url, namespace, start, header, timeout_ns / 1e9)
        header["nexus-request-id"] = operation.request_id
        header["nexus-link"] = f'<{start.links[0].url}>; type="{start.links[0].type}"'
        request = _to_worker(header, operation.endpoint, now)
        request.start_operation.CopyFrom(start)
        request.capabilities.temporal_failure_responses = True
        return start_answer(await self._ask_worker(endpoint, request, timeout_ns))

    async def _ask_worker(self, endpoint: EndpointRecord, request: Request, timeout_ns: int) -> Any:
        left_s = (timeout_ns - min(RESERVE_NS, timeout_ns // 10)) / 1e9
        return await self._dispatch.dispatch(endpoint.namespace_id, endpoint.task_queue, request, left_s)

    # --- cancel -------------------------------------------------------------------------------------------------------------
    async def _cancel(self, shard: Shard, run: Run, effect: CancelNexusOperation) -> None:
        id = effect.scheduled_event_id
        operation = _cancellable(run, effect)
        if operation is None:
            return
        event = parse_event((await shard.events(run, id, id))[0])
        header = dict(event.nexus_operation_scheduled_event_attributes.nexus_header)
        endpoint = self._endpoint(shard, run, operation)
        if isinstance(endpoint, HandlerError):
            await _record(shard, run, lambda t: _take_cancel(t, id, effect.attempt, endpoint))
            return
        answer: CancelAnswer | None = None
        key = BreakerKey(run.key.namespace_id, endpoint.id)
        breaker = self._breakers.enter(key)
        try:
            if not await _admitted(
                shard,
                run,
                breaker,
                lambda: _cancellable(run, effect),
                lambda t, reason: nexus_results.record_cancel_blocked(t, id, reason),
            ):
                return
            try:
                answer = await self._call_cancel(shard, operation, endpoint, header)
            finally:
                _judge(breaker, answer)
        finally:
            self._breakers.leave(key)
        told = answer
        await _record(shard, run, lambda t: _take_cancel(t, id, effect.attempt, told))

    async def _call_cancel(
        self, shard: Shard, operation: NexusOperation, endpoint: EndpointRecord, header: dict[str, str]
    ) -> CancelAnswer:
        now = shard.clock.now_ns()
        deadline, what = nexus_operation.call_deadline(operation)
        if deadline and deadline - now < LEAST_NS:
            return CallFailed(NO_TIME_FOR_CANCEL.format(_WORDS.get(int(what), "")), is_final=True)
        timeout_ns = min(REQUEST_NS, deadline - now) if deadline else REQUEST_NS
        cancel = CancelOperationRequest(
            service=operation.service,
            operation=operation.operation,
            operation_id=operation.token,
            operation_token=operation.token,
        )
        if endpoint.is_external:
            return await self._http.cancel(endpoint.url, cancel, header, timeout_ns / 1e9)
        request = _to_worker(header, operation.endpoint, now)
        request.cancel_operation.CopyFrom(cancel)
        return cancel_answer(await self._ask_worker(endpoint, request, timeout_ns))


# --- what both have in common ---------------------------------------------------------------------------------------------
def _callable(run: Run, effect: StartNexusOperation) -> NexusOperation | None:
    """The operation, while its start is owed as this effect says."""
    operation = nexus_operation.expected(run.state, effect.scheduled_event_id)
    if operation is None or operation.attempt != effect.attempt or not nexus_operation.is_callable(operation):
        return None
    return operation


def _cancellable(run: Run, effect: CancelNexusOperation) -> NexusOperation | None:
    operation = nexus_operation.expected(run.state, effect.scheduled_event_id)
    if operation is None or operation.cancellation is None or operation.cancellation.attempt != effect.attempt:
        return None
    return operation if nexus_operation.is_cancel_callable(operation) else None


async def _admitted(
    shard: Shard,
    run: Run,
    breaker: Breaker,
    wanted: Callable[[], NexusOperation | None],
    block: Callable[[Transition, str], bool],
) -> bool:
    """Waits for the breaker. False: the call is not wanted any more, or not from here."""
    loop = asyncio.get_running_loop()
    while not breaker.may_call(loop.time()):
        await _record(shard, run, lambda t: block(t, REASON))
        await breaker.wait(loop.time())
        if not shard.is_open or run.is_evicted or wanted() is None:
            return False
    if breaker.is_closed:
        try:
            await _record(shard, run, lambda t: block(t, ""))
        except BaseException:
            breaker.given_up()
            raise
    return True


def _judge(breaker: Breaker, answer: StartAnswer | CancelAnswer | None) -> None:
    """answer None: the call was cut off."""
    if answer is None:
        breaker.given_up()
    else:
        breaker.ended(counts_against(answer), asyncio.get_running_loop().time())


async def _record(shard: Shard, run: Run, decide: Callable[[Transition], Any]) -> None:
    shard.require_open()
    t = shard.begin(run)
    decide(t)
    if not t.is_empty:
        await shard.commit((run, t))


def _take_start(t: Transition, id: int, request_id: str, attempt: int, answer: StartAnswer | None) -> bool:
    assert answer is not None
    if isinstance(answer, Started):
        return nexus_results.record_started(t, id, request_id, answer.token, answer.links)
    if isinstance(answer, Succeeded):
        return nexus_results.record_completed(t, id, request_id, answer.result, answer.links)
    if isinstance(answer, Unsuccessful):
        record = nexus_results.record_canceled if answer.is_canceled else nexus_results.record_failed
        return record(t, id, request_id, answer.failure)
    return nexus_results.record_attempt_failed(t, id, attempt, answer.failure, is_retryable=answer.is_retryable)


def _take_cancel(t: Transition, id: int, attempt: int, answer: CancelAnswer | None) -> bool:
    assert answer is not None
    if isinstance(answer, Heard):
        return nexus_results.record_cancel_answer(t, id, attempt, None)
    return nexus_results.record_cancel_answer(t, id, attempt, answer.failure, is_retryable=answer.is_retryable)


def _operation_timeout_ns(operation: NexusOperation, now: int) -> int:
    """How long the handler has for all of it; 0 = as long as it takes."""
    spans = [operation.start_to_close_ns] if operation.start_to_close_ns else []
    if operation.schedule_to_close_ns:
        spans.append(operation.scheduled_at + operation.schedule_to_close_ns - now)
    return max(1_000_000, min(spans)) if spans else 0


def _to_worker(header: dict[str, str], endpoint: str, now: int) -> Request:
    request = Request(header={**header, "user-agent": "outlast"}, endpoint=endpoint)
    request.scheduled_time.FromNanoseconds(now)
    return request
