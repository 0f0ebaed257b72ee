"""The service that the tests call, its handlers, and workflows that call it, all of the official SDK."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import nexusrpc
import nexusrpc.handler as h
from temporalio import nexus, workflow
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError

from tests.nexus.stage import ENDPOINT


@nexusrpc.service
class Work:
    echo: nexusrpc.Operation[str, str]
    refuse: nexusrpc.Operation[str, str]
    run: nexusrpc.Operation[str, str]
    shared: nexusrpc.Operation[str, str]
    manual: nexusrpc.Operation[str, str]


@workflow.defn
class Backing:
    """What the handler's workflow does, by its word."""

    def __init__(self) -> None:
        self.told = ""

    @workflow.signal
    def tell(self, word: str) -> None:
        self.told = word

    @workflow.run
    async def run(self, word: str) -> str:
        if word == "wait":
            await workflow.wait_condition(lambda: bool(self.told))
            word = self.told
        if word == "fail":
            raise ApplicationError("it broke", "detail", type="Broken", non_retryable=True)
        if word == "again":
            workflow.continue_as_new("once more")
        return f"told {word}" if self.told else f"worked on {word}"


@h.service_handler(service=Work)
class Handler:
    """calls: how often each operation was started. fails_first: so often `refuse` says that it is not available.

    backing_id: of the run behind `run` and `shared`, "" = one of its own."""

    def __init__(self, fails_first: int = 0, backing_id: str = "") -> None:
        self.calls: Counter[str] = Counter()
        self.cancelled: list[str] = []
        self.contexts: list[h.StartOperationContext] = []
        self.fails_first = fails_first
        self.backing_id = backing_id
        self.started = asyncio.Event()

    @h.sync_operation
    async def echo(self, ctx: h.StartOperationContext, input: str) -> str:
        self.calls["echo"] += 1
        self.contexts.append(ctx)
        return f"hello {input}"

    @h.sync_operation
    async def refuse(self, ctx: h.StartOperationContext, input: str) -> str:
        self.calls["refuse"] += 1
        if input == "failed":
            raise nexusrpc.OperationError("bad luck", state=nexusrpc.OperationErrorState.FAILED)
        if input == "canceled":
            raise nexusrpc.OperationError("stopped", state=nexusrpc.OperationErrorState.CANCELED)
        if self.calls["refuse"] <= self.fails_first:
            raise nexusrpc.HandlerError("come again", type=nexusrpc.HandlerErrorType.UNAVAILABLE)
        if input == "never":
            raise nexusrpc.HandlerError("wrong", type=nexusrpc.HandlerErrorType.BAD_REQUEST)
        return f"at last {input}"

    @nexus.workflow_run_operation
    async def run(self, ctx: nexus.WorkflowRunOperationContext, input: str) -> nexus.WorkflowHandle[str]:
        self.calls["run"] += 1
        return await ctx.start_workflow(Backing.run, input, id=self.backing_id or f"backing-{ctx.request_id}")

    @nexus.workflow_run_operation
    async def shared(self, ctx: nexus.WorkflowRunOperationContext, input: str) -> nexus.WorkflowHandle[str]:
        return await ctx.start_workflow(
            Backing.run, input, id=self.backing_id or "shared", id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
        )

    @h.operation_handler
    def manual(self) -> h.OperationHandler[str, str]:
        return Manual(self)


class Manual(h.OperationHandler[str, str]):
    """Has a token of its own; somebody else says how it ended."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def start(self, ctx: h.StartOperationContext, input: str) -> h.StartOperationResultAsync:
        self._handler.calls["manual"] += 1
        self._handler.contexts.append(ctx)
        return h.StartOperationResultAsync(token=f"token-{input}")

    async def cancel(self, ctx: h.CancelOperationContext, token: str) -> None:
        self._handler.cancelled.append(token)
        if token == "token-refuses":
            raise nexusrpc.HandlerError("no", type=nexusrpc.HandlerErrorType.BAD_REQUEST)


def client_of(endpoint: str = ENDPOINT) -> Any:
    return workflow.create_nexus_client(service=Work, endpoint=endpoint)


@workflow.defn
class Call:
    """One operation, and its result. times: schedule-to-close, schedule-to-start, start-to-close, in seconds, 0 = none."""

    @workflow.run
    async def run(self, operation: str, input: str, endpoint: str = ENDPOINT, times: list[float] | None = None) -> str:
        spans = [timedelta(seconds=one) if one else None for one in times or [0, 0, 0]]
        result: str = await client_of(endpoint).execute_operation(
            getattr(Work, operation),
            input,
            schedule_to_close_timeout=spans[0],
            schedule_to_start_timeout=spans[1],
            start_to_close_timeout=spans[2],
            headers={"My-Header": "mine"},
        )
        return result


@workflow.defn
class Cancels:
    """Starts an operation, cancels it (waits: when it is told to), and tells what came of it."""

    def __init__(self) -> None:
        self.may_go = False

    @workflow.signal
    def go(self) -> None:
        self.may_go = True

    @workflow.run
    async def run(self, operation: str, input: str, kind: int, endpoint: str = ENDPOINT, waits: bool = False) -> str:
        handle = await client_of(endpoint).start_operation(
            getattr(Work, operation), input, cancellation_type=workflow.NexusOperationCancellationType(kind)
        )
        task = asyncio.ensure_future(_wait(handle))
        if waits:
            await workflow.wait_condition(lambda: self.may_go)
        else:
            await workflow.sleep(0.01)
        handle.cancel()
        return await task


async def _wait(handle: Any) -> str:
    try:
        return f"result {await handle}"
    except BaseException as error:
        return type(error.__cause__ or error).__name__
