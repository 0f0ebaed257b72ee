"""Near wake-ups of a shard in one heap with one timer; far ones stay in the store's index until they come near.

Idle runs cost nothing: no timer exists for what is farther away than the horizon, only one sweep of an indexed column.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from cluster.seams import Clock
from cluster.stores.base import RunKey

_EARLIEST_S = 0.0
_OVERRIDDEN_MAX = 1_000  # stale entries beyond those that count twice


class Wakeups:
    """Calls `wake(key)` when the time given for a key has come. A later `set` for the same key overrides an earlier one."""

    def __init__(self, clock: Clock, wake: Callable[[RunKey, int], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._heap: list[tuple[int, RunKey]] = []
        self._wanted: dict[RunKey, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0

    def __len__(self) -> int:
        return len(self._wanted)

    def set(self, key: RunKey, at: int) -> None:
        """at: ns since the epoch; 0 forgets the key."""
        if not at:
            self._wanted.pop(key, None)
            return
        if self._wanted.get(key) == at:
            return
        self._wanted[key] = at
        if len(self._heap) > 2 * len(self._wanted) + _OVERRIDDEN_MAX:
            self._heap = [(wanted_at, wanted) for wanted, wanted_at in self._wanted.items() if wanted != key]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (at, key))
        if self._timer is None or at < self._timer_at:
            self._arm()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._heap.clear()
        self._wanted.clear()

    def _arm(self) -> None:
        while self._heap and self._wanted.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # overridden
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            self._timer_at = self._heap[0][0]
            delay_s = max((self._timer_at - self._clock.now_ns()) / 1e9, _EARLIEST_S)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._clock.now_ns()
        try:
            while self._heap and self._heap[0][0] <= now:
                at, key = heapq.heappop(self._heap)
                if self._wanted.get(key) == at:
                    del self._wanted[key]
                    self._wake(key, at)
        finally:
            self._arm()  # one key's trouble must not stop the others' time
