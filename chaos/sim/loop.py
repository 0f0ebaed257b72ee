"""An asyncio event loop with virtual time: the same program and seed always take the same steps.

Why our own: asyncio's loop takes its time from the machine and its wake-ups from the kernel, so no two runs agree. Here
the ready queue is strictly first in, first out, timers go off in the order (time, sequence number), and when nothing is
ready the clock jumps to the next timer. Interleavings come from message delays, store latencies and explicit pauses drawn
from seeded streams, never from shuffling the ready queue (that breaks honest libraries).

Whatever would let the machine in (threads, executors, sockets, subprocesses, signals) raises `SimulationError`. If nothing is
ready and no timer is set, the program waits for something that cannot come: `SimulationDeadlock` names who waits where.

A crash is modelled as an *owner* that dies (`kill`), a SIGSTOP as one that is paused: see owners.py. Cancellation would let a
dead node write its last words.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import heapq
import itertools
import math
import sys
import threading
import weakref
from asyncio import events
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from typing import Any, NoReturn, Self, TypeVar, TypeVarTuple, Unpack

from chaos.sim.owners import OWNER, Owners, owned_by
from chaos.sim.trace import Trace
from chaos.sim.whereabouts import described, told_of, where

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
SECOND_NS = 1_000_000_000

__all__ = ["OWNER", "SimLoop", "SimulationDeadlock", "SimulationError", "SimulationStuck", "owned_by", "running_loop", "simulate"]

class SimulationError(RuntimeError):
    """The program left what can be simulated, or an exception escaped."""


class SimulationDeadlock(SimulationError):
    """Nothing is ready, no timer is set, and the main job is not done."""


class SimulationStuck(SimulationError):
    """Virtual time ran past its limit, or does not advance although callbacks run."""


class Job(asyncio.Task[T]):
    """A task that knows its owner."""

    owner: str = ""


class SimLoop(asyncio.AbstractEventLoop):
    """Create it with `SimLoop.create()`; drive it with `run_until_complete` or `simulate()`."""

    # A program that runs this many callbacks in one instant is in a loop that never waits.
    CALLBACKS_PER_INSTANT_MAX = 200_000
    # Automatic collection depends on allocation counts; a fixed rhythm makes the loss of unreferenced jobs repeatable.
    CALLBACKS_PER_COLLECTION = 100_000

    def __init__(self, trace: Trace | None = None, limit_s: float = 86_400.0 * 30) -> None:
        self._now_ns = 0
        self._limit_ns = round(limit_s * SECOND_NS)
        self._ready: deque[events.Handle] = deque()
        self._timers: list[tuple[int, int, events.TimerHandle]] = []
        self._sequence = itertools.count()
        self._jobs: dict[int, weakref.ref[Job[Any]]] = {}
        self._owners = Owners()
        self._generators: dict[int, weakref.ref[AsyncGenerator[Any, Any]]] = {}
        self._running = self._stopping = self._closed = False
        self._thread = threading.get_ident()
        self._instant_callbacks = 0
        self._busy: set[str] = set()  # what ran last before the loop was found to be stuck
        self._unwinding = False
        self.callbacks_run = 0
        self.failures: list[dict[str, Any]] = []
        self.trace_log = trace if trace is not None else Trace()
        self.trace_log.clock_ns = self.now_ns

    @classmethod
    def create(cls, trace: Trace | None = None, limit_s: float = 86_400.0 * 30) -> Self:
        # A class method because typeshed marks every socket call of the base class abstract.
        return cls(trace, limit_s)

    def trace(self, kind: str, **fields: object) -> None:
        self.trace_log.add(kind, **fields)

    # --- time and callbacks -------------------------------------------------------------------------------------------
    def now_ns(self) -> int:
        """Virtual nanoseconds since the loop began."""
        return self._now_ns

    def time(self) -> float:
        return self._now_ns / SECOND_NS

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> events.Handle:
        self._check_open()
        handle = events.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> events.Handle:
        if threading.get_ident() != self._thread:
            raise SimulationError(f"call_soon_threadsafe({callback!r}) from another thread: threads are not simulated")
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> events.TimerHandle:
        # However short, it takes time: whoever waits for what is left of a deadline must come to its end.
        delay_ns = max(1, round(delay * SECOND_NS)) if delay > 0 else 0
        return self.call_at_ns(self._now_ns + delay_ns, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> events.TimerHandle:
        # Never early: whoever compares time() with the time he asked for must find it reached.
        when_ns = max(math.ceil(when * SECOND_NS), self._now_ns)
        while when_ns / SECOND_NS < when:
            when_ns += 1
        return self.call_at_ns(when_ns, callback, *args, context=context)

    def call_at_ns(
        self, when_ns: int, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> events.TimerHandle:
        self._check_open()
        when_ns = max(when_ns, self._now_ns)
        timer = events.TimerHandle(when_ns / SECOND_NS, callback, args, self, context)
        heapq.heappush(self._timers, (when_ns, next(self._sequence), timer))
        return timer

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        """Called by asyncio; a cancelled timer is dropped when its time comes or when it reaches the top of the heap."""

    # --- futures and jobs ---------------------------------------------------------------------------------------------
    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> Job[T]:
        self._check_open()
        number = next(self._sequence)
        # asyncio's default names count over the whole process, so a second run would differ from the first.
        task: Job[T] = Job(coro, loop=self, name=name or f"job-{number}", context=context)
        task.owner = context.get(OWNER, "") if context is not None else OWNER.get()
        self._jobs[number] = weakref.ref(task, lambda _: self._jobs.pop(number, None) and None)
        return task

    def pending_jobs(self) -> list[Job[Any]]:
        """Jobs that are not done, in the order of their creation; those of dead owners are left out."""
        alive = (reference() for reference in self._jobs.values())
        return [task for task in alive if task is not None and not task.done() and task.owner not in self._owners.dead]

    def kill(self, owner: str) -> int:
        """The owner dies on the spot: none of its jobs, callbacks and timers runs again. Returns the number of jobs lost."""
        self._check_not_oneself(owner)
        lost = [task for task in self.pending_jobs() if task.owner == owner]
        for task in lost:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # a dead job is no leak
        owners = self._owners
        owners.kill(owner)
        owners.graveyard.extend(lost)
        self._ready = deque(handle for handle in self._ready if not owners.buries(handle))
        self._timers = [entry for entry in self._timers if not owners.buries(entry[2])]
        heapq.heapify(self._timers)
        return len(lost)

    def pause(self, owner: str) -> None:
        """The owner stands still from now on: what comes for it waits, its timers pass unheard."""
        self._check_not_oneself(owner)
        self._owners.pause(owner)

    def resume(self, owner: str) -> None:
        self._ready.extend(self._owners.resume(owner))

    def _check_not_oneself(self, owner: str) -> None:
        if not owner:
            raise SimulationError("the world itself cannot be killed or paused")
        if OWNER.get() == owner:
            raise SimulationError(f"{owner} cannot kill or pause itself: call it from outside its jobs")

    def is_dead(self, owner: str) -> bool:
        return owner in self._owners.dead

    def is_paused(self, owner: str) -> bool:
        return self._owners.is_paused(owner)

    # --- running ------------------------------------------------------------------------------------------------------
    def run_until_complete(self, future: Coroutine[Any, Any, T] | asyncio.Future[T]) -> T:  # type: ignore[override]
        main = future if isinstance(future, asyncio.Future) else self.create_task(future, name="main")
        main.add_done_callback(self._stop_on_done)
        try:
            self.run_forever()
        finally:
            main.remove_done_callback(self._stop_on_done)
        if not main.done():
            raise SimulationError("the loop was stopped before its main job was done")
        if (failure := None if main.cancelled() else main.exception()) is not None and self.failures:
            failure.add_note("also escaped: " + self.describe_failures())
        result = main.result()
        self.raise_failures()
        return result

    def _stop_on_done(self, _: asyncio.Future[Any]) -> None:
        self.stop()

    def run_forever(self) -> None:
        self._check_open()
        if self._running:
            raise SimulationError("this loop is already running")
        self._thread = threading.get_ident()
        collects, hooks = gc.isenabled(), sys.get_asyncgen_hooks()
        events._set_running_loop(self)
        self._running = True
        gc.disable()
        sys.set_asyncgen_hooks(firstiter=self._generator_begins, finalizer=self._generator_ends)
        try:
            while not self._stopping:
                self._step()
        finally:
            self._running = self._stopping = False
            events._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
            if collects:
                gc.enable()

    def _step(self) -> None:
        """Runs one ready callback, or moves the clock to the next timer."""
        if not self._ready:
            self._advance()
            return
        handle = self._ready.popleft()
        if handle.cancelled() or (not self._owners.all_run and self._owners.holds_back(handle)):
            return
        self.callbacks_run += 1
        self._instant_callbacks += 1
        if self._instant_callbacks > self.CALLBACKS_PER_INSTANT_MAX - 100:
            self._busy.add(described(handle))
        if self._instant_callbacks > self.CALLBACKS_PER_INSTANT_MAX:
            busy = "\n".join(sorted(f"  runs again and again: {text}" for text in self._busy))
            count = self._instant_callbacks
            raise SimulationStuck(f"{count} callbacks without any time passing\n{busy}\n{self.describe_pending()}")
        if self.callbacks_run % self.CALLBACKS_PER_COLLECTION == 0:
            gc.collect(1)
        handle._run()

    def _advance(self) -> None:
        owners = self._owners
        while self._timers and (self._timers[0][2].cancelled() or (owners.dead and owners.buries(self._timers[0][2]))):
            heapq.heappop(self._timers)
        if not self._timers:
            raise SimulationDeadlock(f"nothing ready and no timer at {self.time():.9f} s\n{self.describe_pending()}")
        when_ns = self._timers[0][0]
        if when_ns > self._limit_ns:
            raise SimulationStuck(f"virtual time passed its limit of {self._limit_ns / SECOND_NS} s\n{self.describe_pending()}")
        if when_ns > self._now_ns:
            self._now_ns, self._instant_callbacks = when_ns, 0
        # All that is due now becomes ready before any of it runs, as in asyncio; `_step` looks again who was cancelled or died.
        while self._timers and self._timers[0][0] <= self._now_ns:
            self._ready.append(heapq.heappop(self._timers)[2])

    def describe_pending(self) -> str:
        return "\n".join(f"  {task.owner or 'world'}: {task.get_name()} waits at {where(task)}" for task in self.pending_jobs())

    def stop(self) -> None:
        self._stopping = True

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Ends the simulated world: jobs that still wait are dropped where they are, like those of dead owners."""
        if self._running:
            raise SimulationError("a running loop cannot be closed")
        left = self.pending_jobs()
        self._closed = self._unwinding = True
        self._ready.clear()
        self._timers.clear()
        for task in [*left, *(buried for buried in self._owners.graveyard if isinstance(buried, Job))]:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            # Whatever a dropped job says while it is closed (an await in its `finally`, a call on this closed loop) comes
            # after the end of the world and concerns nobody.
            with suppress(BaseException):
                coroutine = task.get_coro()
                if isinstance(coroutine, Coroutine):
                    coroutine.close()
        self._owners.graveyard.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise SimulationError("this loop is closed")

    # --- failures -----------------------------------------------------------------------------------------------------
    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """What escapes a callback or is never retrieved ends up here and fails the run."""
        # While `close` unwinds, jobs end in an order no program has to be ready for.
        if not self._unwinding:
            self.failures.append(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def set_exception_handler(self, handler: Any) -> NoReturn:
        raise SimulationError("exceptions that escape fail the run; no handler may hide them")

    def get_exception_handler(self) -> None:
        return None

    def raise_failures(self) -> None:
        if not self.failures:
            return
        cause = next((failure["exception"] for failure in self.failures if failure.get("exception") is not None), None)
        raise SimulationError("exceptions escaped: " + self.describe_failures()) from cause

    def describe_failures(self) -> str:
        return "; ".join(
            f"{failure.get('message')} ({told_of(failure)}): {failure.get('exception')!r}" for failure in self.failures
        )

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        raise SimulationError("debug mode reads the real clock")

    # --- asynchronous generators --------------------------------------------------------------------------------------
    def _generator_begins(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generators[next(self._sequence)] = weakref.ref(generator)

    def _generator_ends(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._closed and OWNER.get() not in self._owners.dead:
            self.create_task(_close_generator(generator), name="close-generator")

    async def shutdown_asyncgens(self) -> None:
        alive = [generator for generator in (reference() for reference in self._generators.values()) if generator is not None]
        self._generators.clear()
        await asyncio.gather(*(generator.aclose() for generator in alive), return_exceptions=True)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There never is one."""


async def _close_generator(generator: AsyncGenerator[Any, Any]) -> None:
    await generator.aclose()


def simulate(main: Coroutine[Any, Any, T], trace: Trace | None = None, limit_s: float = 86_400.0 * 30) -> T:
    """Runs `main` in a world of its own and closes it."""
    loop = SimLoop.create(trace, limit_s)
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


def running_loop() -> SimLoop:
    """The simulated loop that the caller runs on."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, SimLoop):
        raise SimulationError(f"not on a simulated loop but on {loop!r}")
    return loop


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refused(self: SimLoop, *args: object, **kwargs: object) -> NoReturn:
        raise SimulationError(f"{name} would leave the simulation: threads, sockets, processes and signals are not simulated")

    refused.__name__ = name
    return refused


# Everything of AbstractEventLoop that is not defined above refuses. Written as a loop so that a new Python cannot add a hole.
for _name, _member in vars(asyncio.AbstractEventLoop).items():
    if callable(_member) and not _name.startswith("__") and _name not in vars(SimLoop):
        setattr(SimLoop, _name, _refuse(_name))
