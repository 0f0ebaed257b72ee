"""Who a job belongs to, and what becomes of jobs whose owner is dead or stopped.

    alive    its callbacks run as they come
    paused   (SIGSTOP) nothing of it runs while others' time goes on; what became ready is kept, and runs when it is resumed
    dead     (SIGKILL) nothing of it ever runs again: no `finally`, no `except CancelledError`

The owner travels in the context, so whatever a job creates (jobs, timers, callbacks of futures) belongs to its owner too.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import events
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

# "" is the world itself (clients, fault plans, stores), anything else is one life of one node.
OWNER: contextvars.ContextVar[str] = contextvars.ContextVar("chaos_sim_owner", default="")


@contextmanager
def owned_by(owner: str) -> Iterator[None]:
    """Jobs, callbacks and timers created inside belong to `owner` and so do those that they create."""
    token = OWNER.set(owner)
    try:
        yield
    finally:
        OWNER.reset(token)


class Owners:
    """The dead and the paused, and what they left lying."""

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self._paused: dict[str, list[events.Handle]] = {}
        # Kept, so that no garbage collection closes their coroutines (which would run `finally` blocks) in mid-run.
        self.graveyard: list[object] = []

    @property
    def all_run(self) -> bool:
        """Nobody is dead or paused: the loop need not look whose callback it is."""
        return not self.dead and not self._paused

    def is_paused(self, owner: str) -> bool:
        return owner in self._paused

    def buries(self, handle: events.Handle) -> bool:
        """Whether its owner is dead; then it is taken out of the world."""
        if _owner_of(handle) not in self.dead:
            return False
        self.graveyard.append(handle)
        return True

    def holds_back(self, handle: events.Handle) -> bool:
        """Whether it may not run now. What a paused owner would have run is kept."""
        if (kept := self._paused.get(_owner_of(handle))) is not None:
            kept.append(handle)
            return True
        return bool(self.dead) and self.buries(handle)

    def pause(self, owner: str) -> None:
        self._paused.setdefault(owner, [])

    def resume(self, owner: str) -> list[events.Handle]:
        """What became ready meanwhile: first what came from outside, then timers, as a loop stopped in its select."""
        kept = self._paused.pop(owner, [])
        return sorted(kept, key=lambda handle: isinstance(handle, events.TimerHandle))

    def kill(self, owner: str) -> None:
        self.dead.add(owner)
        self.graveyard.extend(self._paused.pop(owner, []))


def _owner_of(handle: events.Handle) -> str:
    context: contextvars.Context | None = handle._context  # type: ignore[attr-defined]
    return context.get(OWNER, "") if context is not None else ""


async def far_away(work: Callable[[], Coroutine[Any, Any, T]], name: str, back_s: float = 0.0) -> T:
    """Runs `work` as a job of the world and gives its outcome back `back_s` later. When the caller dies or stops waiting, what
    it had sent still arrives and is executed, and nobody sees the answer."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    async def execute() -> None:
        try:
            result = await work()
        except Exception as error:
            await asyncio.sleep(back_s)
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # marks it as seen: whoever waited may be dead
        else:
            await asyncio.sleep(back_s)
            if not answer.done():
                answer.set_result(result)

    with owned_by(""):
        job = loop.create_task(execute(), name=name)
    try:
        return await answer
    finally:
        del job  # holds the reference until the answer is here
