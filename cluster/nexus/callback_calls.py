"""Carries out DeliverCallback: whoever attached a callback to a run hears how it ended. One effect, one call, one entry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from temporalio.api.common.v1 import Callback as PublicCallback

from cluster.core.effects import DeliverCallback
from cluster.core.errors import CallerError, Code
from cluster.core.events import parse_event
from cluster.core.machines import callback
from cluster.core.machines.callback import SYSTEM_URL, Completion
from cluster.core.state import Callback
from cluster.core.transition import Transition
from cluster.history.deliveries import Deliver
from cluster.history.run import Run
from cluster.history.shard import Shard
from cluster.nexus import callback_token
from cluster.nexus.answers import CallFailed, CancelAnswer, Heard, counts_against
from cluster.nexus.breakers import REASON, BreakerKey, Breakers
from cluster.nexus.completions import Completions
from cluster.nexus.dispatch import HandlerError, handler_error
from cluster.nexus.http_calls import HttpCalls
from cluster.tokens import Tokens

CALL_S = 10.0  # component.callbacks.request.timeout
OPERATION_TOKEN = "nexus-operation-token"
_TYPES = {
    Code.INVALID_ARGUMENT: "BAD_REQUEST",
    Code.NOT_FOUND: "NOT_FOUND",
    Code.RESOURCE_EXHAUSTED: "RESOURCE_EXHAUSTED",
    Code.DEADLINE_EXCEEDED: "UPSTREAM_TIMEOUT",
    Code.UNAVAILABLE: "UNAVAILABLE",
}


class CallbackCalls:
    """One per node."""

    def __init__(self, completions: Completions, http: HttpCalls, tokens: Tokens, breakers: Breakers) -> None:
        self._completions, self._http, self._tokens, self._breakers = completions, http, tokens, breakers

    def table(self) -> dict[type, Deliver]:
        return {DeliverCallback: self._deliver}

    async def _deliver(self, shard: Shard, run: Run, effect: DeliverCallback) -> None:
        owed = _owed(run, effect)
        if owed is None:
            return
        public = PublicCallback.FromString(owed.callback)
        close_id = run.state.close_event_id
        close = parse_event((await shard.events(run, close_id, close_id))[0])
        namespace = shard.context(run.key.namespace_id).namespace
        told = callback.completion(run.state, namespace, owed, close)
        answer: CancelAnswer | None = None
        if public.nexus.url == SYSTEM_URL:
            answer = await self._inside(public, told)
        else:
            answer = await self._outside(shard, run, effect, public, told)
        if answer is not None:
            heard = answer
            await _record(shard, run, lambda t: _take(t, effect, heard))

    async def _inside(self, public: PublicCallback, told: Completion) -> CancelAnswer:
        """To a caller's run of this cluster."""
        try:
            token = callback_token.open_token(self._tokens, public.nexus.header.get(callback_token.HEADER, ""))
            await self._completions.end(
                token,
                told.state,
                public.nexus.header.get(OPERATION_TOKEN, ""),
                told.started_at,
                [told.link],
                told.result,
                told.failure,
            )
        except CallerError as error:
            return handler_error(_TYPES.get(error.code, "INTERNAL"), error.message)
        return Heard()

    async def _outside(
        self, shard: Shard, run: Run, effect: DeliverCallback, public: PublicCallback, told: Completion
    ) -> CancelAnswer | None:
        """None: it is not wanted any more."""
        parts = urlsplit(public.nexus.url)
        key = BreakerKey(run.key.namespace_id, f"{parts.scheme}://{parts.netloc}")
        breaker = self._breakers.enter(key)
        loop = asyncio.get_running_loop()
        answer: CancelAnswer | None = None
        try:
            while not breaker.may_call(loop.time()):
                await _record(shard, run, lambda t: callback.record_blocked(t, effect.index, REASON))
                await breaker.wait(loop.time())
                if not shard.is_open or run.is_evicted or _owed(run, effect) is None:
                    return None
            try:
                if breaker.is_closed:
                    await _record(shard, run, lambda t: callback.record_blocked(t, effect.index, ""))
                answer = await self._http.call_back(public.nexus.url, dict(public.nexus.header), told, CALL_S)
            finally:
                if answer is None:
                    breaker.given_up()
                else:
                    breaker.ended(counts_against(answer), loop.time())
        finally:
            self._breakers.leave(key)
        return answer


def _owed(run: Run, effect: DeliverCallback) -> Callback | None:
    callbacks = run.state.callbacks
    if run.state.is_open or effect.index >= len(callbacks):
        return None
    one = callbacks[effect.index]
    return one if callback.is_callable(one) and one.attempt == effect.attempt else None


async def _record(shard: Shard, run: Run, decide: Callable[[Transition], Any]) -> None:
    shard.require_open()
    t = shard.begin(run)
    decide(t)
    if not t.is_empty:
        await shard.commit((run, t))


def _take(t: Transition, effect: DeliverCallback, answer: CancelAnswer) -> bool:
    if isinstance(answer, Heard):
        return callback.record_delivered(t, effect.index)
    message = answer.message if isinstance(answer, CallFailed) else _words(answer)
    return callback.record_attempt_failed(t, effect.index, effect.attempt, message, is_retryable=answer.is_retryable)


def _words(error: HandlerError) -> str:
    """As the public server shows it: what kind of refusal it was, not what the other side said."""
    return f"handler error ({error.type})"
