"""A SQLite connection that lives in a thread of its own; the event loop hands it functions and awaits their results."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from cluster.core.errors import resource_exhausted
from cluster.visibility.base import VisibilityUnavailable

Result = TypeVar("Result")
_Work = tuple[Callable[[sqlite3.Connection], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]

# SQLite asks whether to go on after this many of its instructions, roughly each millisecond.
_INSTRUCTIONS_PER_CHECK = 20_000


class ConnectionThread:
    """Runs one function after the other. At most `pending_max` may wait; a function that runs longer than `limit_s`
    (None = no limit) is interrupted."""

    def __init__(
        self, name: str, connect: Callable[[], sqlite3.Connection], pending_max: int, limit_s: float | None
    ) -> None:
        self._connect = connect
        self._pending_max = pending_max
        self._limit_s = limit_s
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._deadline = float("inf")
        self._pending_count = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def pending_count(self) -> int:
        return self._pending_count

    async def open(self) -> None:
        """Connects; a connection that fails raises VisibilityUnavailable here."""
        self._thread.start()
        await self.run(lambda connection: connection.execute("SELECT 1").fetchone())

    async def run(self, function: Callable[[sqlite3.Connection], Result]) -> Result:
        """Raises what the function raises; database errors as VisibilityUnavailable."""
        if self._is_closed:
            raise VisibilityUnavailable("visibility is closed")
        if self._pending_count >= self._pending_max:
            raise resource_exhausted(f"visibility is busy: {self._pending_max} queries wait; retry later")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._pending_count += 1
        self._queue.put((function, future, loop))
        try:
            return await future
        finally:
            self._pending_count -= 1

    async def close(self) -> None:
        """Ends after what is queued is done."""
        if not self._is_closed and self._thread.ident is not None:
            self._is_closed = True
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    # --- in the thread ------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while (work := self._queue.get()) is not None:
            function, future, loop = work
            if future.cancelled():
                continue
            result: Any = None
            failure: Exception | None = None
            try:
                if connection is None:
                    connection = self._connect()
                    connection.set_progress_handler(self._is_late, _INSTRUCTIONS_PER_CHECK)
                self._deadline = float("inf") if self._limit_s is None else time.monotonic() + self._limit_s
                result = function(connection)
            except Exception as raised:
                # Handed to the caller, who awaits it: nothing is swallowed.
                failure = self._named(raised)
            try:
                loop.call_soon_threadsafe(_settle, future, result, failure)
            except RuntimeError:
                # The loop is closed: no one waits any more, and what was to be written is written.
                continue
        if connection is not None:
            connection.close()

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline

    def _named(self, raised: Exception) -> Exception:
        if isinstance(raised, sqlite3.OperationalError) and "interrupted" in str(raised):
            return resource_exhausted(
                f"the visibility query took longer than {self._limit_s} s: narrow it by WorkflowId, WorkflowType, "
                "ExecutionStatus, a time range or a search attribute"
            )
        if isinstance(raised, (sqlite3.ProgrammingError, sqlite3.IntegrityError)):
            return raised  # a mistake of ours, which no repetition mends
        if isinstance(raised, sqlite3.DatabaseError):
            return VisibilityUnavailable(f"visibility database: {raised}")
        return raised


def _settle(future: asyncio.Future[Any], result: Any, failure: Exception | None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)
