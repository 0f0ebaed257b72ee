"""Every source of nondeterminism, and nothing else: clock, ids, spawned jobs.

Only the composition root (`cluster/node.py`) and the simulator's world (`chaos/sim`) build concrete ones. Stores are
the remaining seam and have a contract of their own in `cluster/stores/base.py`. Monotonic time and call_later come from
the running event loop (`loop.time()`), which the simulator replaces as a whole.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol


class Clock(Protocol):
    """Wall clock. Core receives its value as an argument and never sees the clock."""

    def now_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        ...


class Ids(Protocol):
    """Randomness: new run ids, request ids, jitter."""

    def uuid(self) -> str:
        """A random UUID (version 4) in its usual lower-case text form."""
        ...

    def jitter(self) -> float:
        """A number in [0, 1)."""
        ...

    def token_bytes(self, count: int) -> bytes: ...


class Spawn(Protocol):
    """Starts a background job and keeps a reference to it; an exception that escapes the job is reported, never lost."""

    def __call__(self, job: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]: ...


class SystemClock:
    """The machine's wall clock."""

    def now_ns(self) -> int:
        return time.time_ns()


class SystemIds:
    """Random bytes in blocks: `uuid4()` costs 22 us once a second thread exists, this about 0.6 us."""

    _BLOCK_BYTES = 4096

    def __init__(self) -> None:
        self._block = b""
        self._at = 0

    def token_bytes(self, count: int) -> bytes:
        if self._at + count > len(self._block):
            self._block, self._at = os.urandom(max(self._BLOCK_BYTES, count)), 0
        taken = self._block[self._at : self._at + count]
        self._at += count
        return taken

    def uuid(self) -> str:
        raw = bytearray(self.token_bytes(16))
        raw[6] = (raw[6] & 0x0F) | 0x40
        raw[8] = (raw[8] & 0x3F) | 0x80
        text = raw.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def jitter(self) -> float:
        return int.from_bytes(self.token_bytes(7), "big") / (1 << 56)


class JobSet:
    """The default Spawn: holds its jobs, reports their failures through `on_failure`, cancels them at close."""

    def __init__(self, on_failure: Callable[[str, BaseException], None]) -> None:
        self._jobs: dict[asyncio.Task[None], None] = {}  # ended in the order in which they began, the same in every run
        self._on_failure = on_failure

    def __call__(self, job: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(job, name=name)
        self._jobs[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._jobs.pop(task, None)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._on_failure(task.get_name(), failure)

    async def close(self) -> None:
        """Cancels what still runs and waits for it to end."""
        jobs = list(self._jobs)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
