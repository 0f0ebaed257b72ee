"""The lives of one node, and the wire between clients and it.

A `NodeSlot` is a place where a node runs; a crash ends one life (`SimLoop.kill`: nothing of it ever runs again, its memory is
gone) and the next life is built afresh on the same store. A `Wire` carries calls to whatever life is there, with delays
and reply faults, and tells waiting clients UNAVAILABLE when the life under their call ends.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from chaos.sim.faults import FaultPlan, ReplyFault
from chaos.sim.loop import owned_by, running_loop
from cluster.core.errors import CallerError, Code, unavailable

N = TypeVar("N")
Reply = TypeVar("Reply")


class NodeDied(Exception):
    """The life that was waited for ended."""


class NodeSlot(Generic[N]):
    """`build(life)` makes a ready node; it runs inside that life, so all jobs it spawns die with it."""

    def __init__(self, name: str, build: Callable[[int], Coroutine[Any, Any, N]]) -> None:
        self.name = name
        self._build = build
        self.life = 0
        self.node: N | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._numbers = 0

    @property
    def owner(self) -> str:
        return f"{self.name}#{self.life}"

    async def start(self) -> N:
        """Begins the next life and waits until it is ready. NodeDied if it is killed before."""
        assert self.node is None, f"{self.owner} still lives"
        self.life += 1
        running_loop().trace("start", node=self.owner)
        self.node = await self.run_inside(lambda: self._build(self.life), f"build {self.owner}")
        running_loop().trace("ready", node=self.owner)
        return self.node

    async def run_inside(self, work: Callable[[], Coroutine[Any, Any, Reply]], name: str) -> Reply:
        """Runs work as a job of the current life; a caller that is cancelled cancels the work, as a broken connection does."""
        loop = running_loop()
        answer: asyncio.Future[Reply] = loop.create_future()
        self._numbers += 1
        number = self._numbers
        self._waiting[number] = answer
        with owned_by(self.owner):
            job = loop.create_task(_answer(work, answer), name=name)
        try:
            return await answer
        except asyncio.CancelledError:
            job.cancel()
            raise
        finally:
            self._waiting.pop(number, None)

    @property
    def is_paused(self) -> bool:
        return running_loop().is_paused(self.owner)

    def pause(self) -> None:
        """SIGSTOP: the life stands still, its time does not."""
        running_loop().trace("pause", node=self.owner)
        running_loop().pause(self.owner)

    def resume(self) -> None:
        """SIGCONT. Nothing happens if that life is over or was never paused."""
        running_loop().trace("resume", node=self.owner)
        running_loop().resume(self.owner)

    def crash(self) -> int:
        """Ends the current life at once; callers waiting on it get NodeDied. Returns how many jobs died."""
        loop = running_loop()
        lost = loop.kill(self.owner)
        self.node = None
        loop.trace("crash", node=self.owner, jobs=lost)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(NodeDied(self.owner))
        return lost


async def _answer(work: Callable[[], Awaitable[Reply]], answer: asyncio.Future[Reply]) -> None:
    try:
        result = await work()
    except asyncio.CancelledError:
        answer.cancel()
        raise
    except Exception as error:
        if not answer.done():
            answer.set_exception(error)
    else:
        if not answer.done():
            answer.set_result(result)


class Wire(Generic[N]):
    """Carries calls. `serve(node)` is the call itself, e.g. `lambda node: node.call("StartWorkflowExecution", request)`."""

    def __init__(self, slot: NodeSlot[N], plan: FaultPlan, delays: random.Random, delay_s_max: float = 0.02) -> None:
        self.slot = slot
        self.plan = plan
        self._delays = delays
        self.delay_s_max = delay_s_max

    async def call(
        self,
        what: str,
        serve: Callable[[N], Coroutine[Any, Any, Reply]],
        deadline_s: float = 30.0,
        on_sent: Callable[[], None] | None = None,
    ) -> Reply:
        """The reply, or CallerError: DEADLINE_EXCEEDED, UNAVAILABLE (lost, dropped, node died: perhaps done), the handler's.

        on_sent: called for each copy that goes out, so that a ledger knows how often the server may have seen a request.
        """
        there, back, gap = (self._delays.uniform(0, self.delay_s_max) for _ in range(3))
        fault = self.plan.draw()
        if fault is not None:
            running_loop().trace("reply fault", call=what, fault=fault)
        for _ in range(2 if fault == ReplyFault.REQUEST_DOUBLED else 1):
            if on_sent is not None:
                on_sent()
        await asyncio.sleep(there)
        try:
            async with asyncio.timeout(deadline_s):
                if fault == ReplyFault.REQUEST_LOST:
                    raise unavailable(f"injected: {what} was lost on its way")
                if fault == ReplyFault.REQUEST_DOUBLED:
                    reply = await self._doubled(what, serve, gap)
                else:
                    reply = await self._once(what, serve)
        except TimeoutError:
            raise CallerError(Code.DEADLINE_EXCEEDED, f"{what} took longer than {deadline_s} s") from None
        await asyncio.sleep(back)
        if fault == ReplyFault.REPLY_DROPPED:
            raise unavailable(f"injected: {what} was executed, its reply dropped")
        return reply

    async def _once(self, what: str, serve: Callable[[N], Coroutine[Any, Any, Reply]]) -> Reply:
        node = self.slot.node
        if node is None:
            raise unavailable(f"{self.slot.name} is down")
        try:
            return await self.slot.run_inside(lambda: serve(node), what)
        except NodeDied as died:
            raise unavailable(f"{died} died during {what}") from None

    async def _doubled(self, what: str, serve: Callable[[N], Coroutine[Any, Any, Reply]], gap: float) -> Reply:
        """The client sees the answer of the copy, as one that gave up on its first attempt and tried again."""

        async def later() -> Reply:
            await asyncio.sleep(gap)
            return await self._once(what, serve)

        _, second = await asyncio.gather(self._once(what, serve), later(), return_exceptions=True)
        if isinstance(second, BaseException):
            raise second
        return second
