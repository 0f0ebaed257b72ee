"""A node that goes quiet loses nobody's call."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.message import Message

from cluster.core.errors import CallerError, Code
from cluster.frontend.call import Call, Handler
from cluster.frontend.drain import Drain
from cluster.frontend.methods import METHODS


def wrapped(drain: Drain, name: str, handler: Handler) -> Any:
    method = METHODS[name]
    outer = drain.interceptor(method, handler)
    return lambda: outer(Call(method.path, {}, None, ""), None)


async def _forever(call: Call, request: Any) -> Message | bytes:
    await asyncio.Event().wait()
    raise AssertionError("not reached")


async def test_a_new_call_is_refused_with_a_retryable_code() -> None:
    drain = Drain()
    drain.begin()
    with pytest.raises(CallerError) as refusal:
        await wrapped(drain, "StartWorkflowExecution", _forever)()
    assert refusal.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize("name", ["GetWorkflowExecutionHistory", "PollWorkflowExecutionUpdate", "QueryWorkflow"])
async def test_a_parked_wait_ends_at_once_with_a_retryable_code(name: str) -> None:
    drain = Drain()
    waiting = asyncio.ensure_future(wrapped(drain, name, _forever)())
    await asyncio.sleep(0)
    drain.begin()
    with pytest.raises(CallerError) as refusal:
        await asyncio.wait_for(waiting, 5)
    assert refusal.value.code is Code.UNAVAILABLE


async def test_a_call_under_way_is_finished_and_waited_for() -> None:
    drain, release = Drain(), asyncio.Event()

    async def handler(call: Call, request: Any) -> Message | bytes:
        await release.wait()
        return b"done"

    under_way = asyncio.ensure_future(wrapped(drain, "SignalWorkflowExecution", handler)())
    await asyncio.sleep(0)
    drain.begin()
    assert not await drain.wait_until_idle(0.05)
    idle = asyncio.ensure_future(drain.wait_until_idle(5))
    await asyncio.sleep(0)
    release.set()
    assert await under_way == b"done"
    assert await idle


async def test_an_idle_node_need_not_wait() -> None:
    drain = Drain()
    drain.begin()
    assert await drain.wait_until_idle(0)


async def test_a_client_that_leaves_before_the_drain_is_no_drain() -> None:
    drain = Drain()
    waiting = asyncio.ensure_future(wrapped(drain, "QueryWorkflow", _forever)())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    drain.begin()
    assert await drain.wait_until_idle(0)
