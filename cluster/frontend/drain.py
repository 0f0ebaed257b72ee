"""How a node goes quiet: new calls are refused, parked waits end, the rest finish.

The node calls `begin` on SIGTERM, and matching's own `drain`, which ends parked polls with an empty answer. Workers ask again,
clients get UNAVAILABLE and retry; both find another node or this one restarted.
"""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.message import Message

from cluster.core.errors import CallerError, unavailable
from cluster.frontend.call import Call, Handler
from cluster.frontend.methods import Method

# Calls that wait for something to happen and have no empty answer: the client retries. (Polls end in matching: cancelling one
# here could lose a task that was just started for it.)
_WAITING_CALLS = frozenset(
    {
        "GetWorkflowExecutionHistory",
        "PollWorkflowExecutionUpdate",
        "UpdateWorkflowExecution",
        "ExecuteMultiOperation",
        "QueryWorkflow",
    }
)


class Drain:
    def __init__(self) -> None:
        self.has_begun = False
        self._waiting: dict[asyncio.Task[Any], None] = {}  # in the order in which they came: a set has another one each time
        self._busy = 0
        self._idle: asyncio.Event | None = None

    def begin(self) -> None:
        """Ends every parked wait now; refuses whatever comes after."""
        self.has_begun = True
        for task in list(self._waiting):
            task.cancel()

    async def wait_until_idle(self, timeout_s: float) -> bool:
        """True once no call is in flight, False if some still are after the time."""
        if self._busy == 0:
            return True
        self._idle = asyncio.Event()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def interceptor(self, method: Method, following: Handler) -> Handler:
        if method.name in _WAITING_CALLS:
            return self._parked(method, following)

        async def refused_when_draining(call: Call, request: Any) -> Message | bytes:
            self._enter()
            try:
                return await following(call, request)
            finally:
                self._left()

        return refused_when_draining

    def _parked(self, method: Method, following: Handler) -> Handler:
        waiting = self._waiting

        async def ended_when_draining(call: Call, request: Any) -> Message | bytes:
            task = asyncio.current_task()
            assert task is not None
            self._enter()
            waiting[task] = None
            try:
                return await following(call, request)
            except asyncio.CancelledError:
                if not self.has_begun:
                    raise  # the client has gone, not the server
                task.uncancel()
                raise _shutting_down() from None
            finally:
                waiting.pop(task, None)
                self._left()

        return ended_when_draining

    def _enter(self) -> None:
        if self.has_begun:
            raise _shutting_down()
        self._busy += 1

    def _left(self) -> None:
        self._busy -= 1
        if self._busy == 0 and self._idle is not None:
            self._idle.set()


def _shutting_down() -> CallerError:
    return unavailable("the server is shutting down, please retry")
