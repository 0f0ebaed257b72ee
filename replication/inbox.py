"""One source shard's stream as its receiver sees it: what begins, in which order, and up to where all is done. Pure.

    state of a number | begins with                            | then
    ------------------+----------------------------------------+------------------------------------------------
    waiting           | it came, and one before it has not     | begun, in the order of the numbers
    begun             | it may be worked on                    | done, or asked for again
    asked             | it comes again, as a snapshot          | begun once more
    done              | durable, or in quarantine              |

Items begin in the order of their numbers, so a run's news come in the order in which it changed; they end in any order. The Ack
is the number up to which all are done: it never passes one that is not.
"""

from __future__ import annotations

from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")


class Arrival(Enum):
    NEW = "new"  # it begins when those before it have
    KNOWN = "known"  # it waits or is worked on
    DONE = "done"  # the Ack was lost, or comes yet
    STALE = "stale"  # of a stream that has ended


class Inbox(Generic[T]):
    """One stream's."""

    def __init__(self, stream: int = 0) -> None:
        self.stream = stream
        self.done_number = 0  # all up to here are done
        self._begun_number = 0
        self._waiting: dict[int, T] = {}
        self._ready: list[tuple[int, T]] = []
        self._asked: set[int] = set()
        self._done: set[int] = set()  # beyond done_number

    @property
    def unfinished_count(self) -> int:
        return len(self._waiting) + self._begun_number - self.done_number - len(self._done)

    def take(self, stream: int, number: int, floor: int, what: T) -> Arrival:
        """stream: the inbox's own, or an older one; a newer one needs an inbox of its own."""
        if stream != self.stream:
            return Arrival.STALE
        if floor - 1 > self.done_number:  # a former life of this receiver has acknowledged those
            self._forget_below(floor)
        if number <= self.done_number or number in self._done:
            return Arrival.DONE
        if number in self._asked:
            self._asked.discard(number)
            self._ready.append((number, what))
            return Arrival.NEW
        if number <= self._begun_number or number in self._waiting:
            return Arrival.KNOWN
        self._waiting[number] = what
        self._begin()
        return Arrival.NEW

    def begin(self) -> list[tuple[int, T]]:
        """What is to be worked on from now on, in this order."""
        ready, self._ready = self._ready, []
        return ready

    def done(self, number: int) -> None:
        if number <= self.done_number:
            return
        self._done.add(number)
        self._asked.discard(number)
        while self.done_number + 1 in self._done:
            self.done_number += 1
            self._done.discard(self.done_number)

    def asked(self, number: int) -> None:
        """It was begun, and cannot be done as it is."""
        if number > self.done_number:
            self._asked.add(number)

    def failed(self, number: int) -> None:
        """It was begun, and nothing is known of it any more: it may come again as it was."""
        self.asked(number)

    def _begin(self) -> None:
        while self._begun_number + 1 in self._waiting:
            self._begun_number += 1
            self._ready.append((self._begun_number, self._waiting.pop(self._begun_number)))

    def _forget_below(self, floor: int) -> None:
        for number in [number for number in self._waiting if number < floor]:
            del self._waiting[number]
        self._done = {number for number in self._done if number >= floor}
        self._asked = {number for number in self._asked if number >= floor}
        self.done_number = floor - 1
        self._begun_number = max(self._begun_number, floor - 1)
        while self.done_number + 1 in self._done:
            self.done_number += 1
            self._done.discard(self.done_number)
        self._begin()
