"""Operations that take longer than a request, kept in this process: for handlers without any workflow server behind them.

    class PaymentsHandler:
        @nexusrpc.handler.operation_handler
        def charge(self) -> OperationHandler[Charge, Receipt]:
            return table.operation(self._charge)          # async def _charge(self, ctx, input) -> Receipt

A start with a request id that was seen gets the same token. They end with the process: what must outlive it is a workflow's.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from nexusrpc import HandlerError, HandlerErrorType, OperationError, OperationErrorState
from nexusrpc.handler import (
    CancelOperationContext,
    OperationHandler,
    StartOperationContext,
    StartOperationResultAsync,
    StartOperationResultSync,
)

from sdk.nexus_http.callbacks import Callback, CallbackSender

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


@dataclass
class Kept:
    """One operation. outcome: its result, or the OperationError that it ended with."""

    token: str
    service: str
    operation: str
    job: asyncio.Task[None] | None = None
    state: str = "running"
    outcome: Any = None
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    callbacks: list[Callback] = field(default_factory=list)


class OperationTable:
    """sender: tells results to callers who gave a callback; without one they are refused. kept_max: ended ones leave first.

    inline_s: a start waits so long for the end, and then answers with the result itself (0: never).
    """

    def __init__(self, sender: CallbackSender | None = None, *, inline_s: float = 0.0, kept_max: int = 10_000) -> None:
        self._sender, self._inline_s, self._kept_max = sender, inline_s, kept_max
        self._kept: dict[str, Kept] = {}
        self._by_request: dict[tuple[str, str, str], str] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self.undelivered: list[tuple[str, HandlerError]] = []  # tokens whose callback nobody took

    def operation(self, work: Callable[[StartOperationContext, I], Awaitable[O]]) -> OperationHandler[I, O]:
        return _Tabled(self, work)

    def find(self, service: str, operation: str, token: str) -> Kept:
        """Raises nexusrpc.HandlerError NOT_FOUND."""
        kept = self._kept.get(token)
        if kept is None or (kept.service, kept.operation) != (service, operation):
            raise HandlerError("operation not found", type=HandlerErrorType.NOT_FOUND)
        return kept

    async def begin(self, ctx: StartOperationContext, work: Callable[[], Awaitable[Any]]) -> Kept:
        if ctx.callback_url and self._sender is None:
            raise HandlerError("this handler tells nobody by callback", type=HandlerErrorType.NOT_IMPLEMENTED)
        request = (ctx.service, ctx.operation, ctx.request_id)
        known = self._kept.get(self._by_request.get(request, ""))
        if known is None:
            self._make_room()
            known = Kept(secrets.token_urlsafe(24), ctx.service, ctx.operation)
            self._kept[known.token] = known
            self._by_request[request] = known.token
            known.job = self._spawn(self._run(known, work))
        if self._inline_s:
            await self.wait(known, self._inline_s)
        # Only now: if it has ended, the answer to the start is the result, and nobody waits for another one.
        if ctx.callback_url and known.state == "running":
            callback = Callback(ctx.callback_url, dict(ctx.callback_headers))
            if callback not in known.callbacks:
                known.callbacks.append(callback)
        return known

    async def wait(self, kept: Kept, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await kept.ended.wait()
        except TimeoutError:
            return

    def cancel(self, kept: Kept) -> None:
        """Twice is once; what has ended stays as it is."""
        if kept.job is not None and kept.state == "running":
            kept.job.cancel()

    async def close(self) -> None:
        """Ends what runs. Their callers are not told: they ask, or run into their time-out."""
        for kept in self._kept.values():
            kept.callbacks.clear()
        jobs = list(self._jobs)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    async def _run(self, kept: Kept, work: Callable[[], Awaitable[Any]]) -> None:
        try:
            kept.outcome, kept.state = await work(), "succeeded"
        except OperationError as error:
            kept.outcome, kept.state = error, error.state.value
        except asyncio.CancelledError:
            kept.outcome, kept.state = OperationError("operation canceled", state=OperationErrorState.CANCELED), "canceled"
        except Exception as error:
            failed = OperationError(str(error), state=OperationErrorState.FAILED)
            failed.__cause__ = error
            kept.outcome, kept.state = failed, "failed"
        kept.ended.set()
        for callback in kept.callbacks:
            self._spawn(self._tell(kept, callback))

    async def _tell(self, kept: Kept, callback: Callback) -> None:
        assert self._sender is not None
        try:
            await self._sender.send(callback, kept.token, kept.outcome, started=kept.started)
        except HandlerError as error:
            self.undelivered.append((kept.token, error))

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        job: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job

    def _make_room(self) -> None:
        if len(self._kept) < self._kept_max:
            return
        ended = next((token for token, kept in self._kept.items() if kept.state != "running"), None)
        if ended is None:
            raise HandlerError("too many operations are under way", type=HandlerErrorType.RESOURCE_EXHAUSTED)
        del self._kept[ended]
        self._by_request = {request: token for request, token in self._by_request.items() if token != ended}


class _Tabled(OperationHandler[I, O], Generic[I, O]):
    def __init__(self, table: OperationTable, work: Callable[[StartOperationContext, I], Awaitable[O]]) -> None:
        self._table, self._work = table, work

    async def start(self, ctx: StartOperationContext, input: I) -> StartOperationResultSync[O] | StartOperationResultAsync:
        kept = await self._table.begin(ctx, lambda: self._work(ctx, input))
        if self._table._inline_s and kept.state != "running":
            if isinstance(kept.outcome, OperationError):
                raise kept.outcome
            return StartOperationResultSync(kept.outcome)
        return StartOperationResultAsync(kept.token)

    async def cancel(self, ctx: CancelOperationContext, token: str) -> None:
        self._table.cancel(self._table.find(ctx.service, ctx.operation, token))
