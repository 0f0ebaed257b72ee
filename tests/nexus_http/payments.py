"""A service, its contract and its handler, without any workflow: what a team behind plain HTTP would write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import nexusrpc
import nexusrpc.handler as h
from aiohttp import web
from nexusrpc import HandlerError, HandlerErrorType, Link, OperationError, OperationErrorState

from sdk.nexus_http import OperationTable, handler_app


@dataclass
class Charge:
    amount: int
    card: str = "card"


@dataclass
class Receipt:
    number: str
    amount: int


@nexusrpc.service(name="pay/ments v1")
class Payments:
    quote: nexusrpc.Operation[int, Receipt]
    charge: nexusrpc.Operation[Charge, Receipt]
    refuse: nexusrpc.Operation[str, str]
    copy: nexusrpc.Operation[bytes, bytes]
    nothing: nexusrpc.Operation[None, None]


@h.service_handler(service=Payments)
class PaymentsHandler:
    """go: lets charges end. seen: the contexts of starts."""

    def __init__(self, table: OperationTable) -> None:
        self.table, self.go = table, asyncio.Event()
        self.seen: list[h.StartOperationContext] = []
        self.charged = 0

    @h.sync_operation
    async def quote(self, ctx: h.StartOperationContext, input: int) -> Receipt:
        self.seen.append(ctx)
        ctx.outbound_links.append(Link(url="quote:///1", type="a.Quote"))
        return Receipt("quote", input)

    @h.operation_handler
    def charge(self) -> h.OperationHandler[Charge, Receipt]:
        return self.table.operation(self._charge)

    async def _charge(self, ctx: h.StartOperationContext, input: Charge) -> Receipt:
        self.seen.append(ctx)
        if input.card == "stolen":
            raise OperationError("card is stolen", state=OperationErrorState.FAILED)
        if input.card == "broken":
            raise RuntimeError("the reader broke")
        await self.go.wait()
        self.charged += 1
        return Receipt("r-1", input.amount)

    @h.sync_operation
    async def refuse(self, ctx: h.StartOperationContext, input: str) -> str:
        self.seen.append(ctx)
        if input == "slow":
            await asyncio.sleep(30)
        if input == "bug":
            raise RuntimeError("in /srv/secret.py")
        if input in ("failed", "canceled"):
            raise OperationError("no", state=OperationErrorState(input)) from ValueError("deep")
        if input == "override":
            raise HandlerError("never again", type=HandlerErrorType.INTERNAL, retryable_override=False)
        if input.startswith("once:") and len(self.seen) > 1:
            return "at last"
        raise HandlerError("refused", type=HandlerErrorType[input.removeprefix("once:")])

    @h.sync_operation
    async def copy(self, ctx: h.StartOperationContext, input: bytes) -> bytes:
        return input

    @h.sync_operation
    async def nothing(self, ctx: h.StartOperationContext, input: None) -> None:
        return None


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=0.2, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Wrap(Protocol):
    def __call__(self, request: web.Request, handler: Next) -> Awaitable[web.StreamResponse]: ...


@asynccontextmanager
async def payments(
    table: OperationTable | None = None, middleware: Wrap | None = None
) -> AsyncIterator[tuple[str, PaymentsHandler]]:
    """(base url, handler): mounted under a path of an application that has other pages."""
    table = table or OperationTable()
    handler = PaymentsHandler(table)
    app = web.Application(middlewares=[web.middleware(middleware)] if middleware is not None else [])
    app.add_subapp("/their/services", handler_app([handler], table=table, body_bytes_max=10_000))
    async with served(app) as url:
        yield f"{url}/their/services", handler
        await table.close()
