"""How fast a queue may dispatch (TokenBucket) and how fast it did (RateWindow). Pure: monotonic seconds are arguments."""

from __future__ import annotations

import math

BURST_S = 1.0  # how much of a rate may be used up in an instant: Temporal's defaultBurstDuration


class TokenBucket:
    """A bucket of `max(1, rate * BURST_S)` tokens, kept as one number: the theoretical arrival time of the next token (GCRA)."""

    __slots__ = ("_arrival", "_interval", "_tolerance", "rate")

    def __init__(self, rate: float | None = None) -> None:
        self._arrival = -math.inf
        self.set_rate(rate)

    def set_rate(self, rate: float | None) -> None:
        """Tokens per second; None = unlimited, 0 = nothing passes."""
        self.rate = rate
        if rate is None:
            self._interval = self._tolerance = 0.0
        elif rate <= 0:
            self._interval, self._tolerance = math.inf, 0.0
        else:
            self._interval = 1.0 / rate
            self._tolerance = (max(1.0, rate * BURST_S) - 1.0) * self._interval

    def ready_at(self) -> float:
        """When the next token is there; a time in the past means now."""
        if self.rate is None:
            return -math.inf
        if self.rate <= 0:
            return math.inf
        return self._arrival - self._tolerance

    def take(self, now: float) -> None:
        if self.rate is not None and self.rate > 0:
            self._arrival = max(self._arrival, now) + self._interval

    def refund(self) -> None:
        """The task of the last token was gone: nothing was dispatched."""
        if self.rate is not None and self.rate > 0:
            self._arrival -= self._interval


class RateWindow:
    """Events per second over the last 30 s, in six slots of 5 s."""

    __slots__ = ("_counts", "_first", "_slot")

    SLOT_S = 5.0
    SLOTS = 6

    def __init__(self, now: float) -> None:
        self._counts = [0] * self.SLOTS
        self._slot = int(now // self.SLOT_S)
        self._first = now

    def add(self, now: float) -> None:
        slot = int(now // self.SLOT_S)
        if slot != self._slot:
            self._turn(slot)
        self._counts[slot % self.SLOTS] += 1

    def rate(self, now: float) -> float:
        self._turn(int(now // self.SLOT_S))
        span = (self.SLOTS - 1) * self.SLOT_S + now % self.SLOT_S
        return sum(self._counts) / max(1.0, min(span, now - self._first))

    def _turn(self, slot: int) -> None:
        for passed in range(self._slot + 1, min(slot, self._slot + self.SLOTS) + 1):
            self._counts[passed % self.SLOTS] = 0
        self._slot = max(slot, self._slot)
