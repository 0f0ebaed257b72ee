"""One source shard's stream to one peer: what is under way, and how far the peer has everything. Pure.

    state of an item  | begins with                        | then
    ------------------+------------------------------------+-------------------------------------------------
    under way         | begin: it has a number             | sent, sent again after a time, until an Ack covers it
    to be rebuilt     | Have: the peer lacks its base      | the same number carries a snapshot instead
    done              | an Ack of its number or a later one|

Two kinds of items: live ones (a durable group's) and those of a catch-up (a page of runs). The cursor is the position up to
which the peer has everything: of the catch-up while there is one, of the live items once it has ended.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class Item(Generic[T]):
    """covers: the position up to which everything is told when this item and all before it are; 0 = it covers none."""

    number: int
    what: T
    position: int
    covers: int
    is_catch_up: bool
    size: int = 0
    sent_at: float = 0.0
    sends_count: int = 0  # on this link; 0 = to be sent
    resends_count: int = 0
    wants_from: int = 0  # the peer wants a snapshot with the events from here on


@dataclass
class Outbox(Generic[T]):
    """cursor: where the stream stands, at first as it was stored."""

    cursor: int
    last_number: int = 0
    acked_number: int = 0
    under_way: deque[Item[T]] = field(default_factory=deque)
    bytes_under_way: int = 0
    _live_covered: int = 0  # by live items that are done
    _catching_up_to: int = 0  # 0 = there is no catch-up

    @property
    def floor(self) -> int:
        return self.acked_number + 1

    @property
    def is_catching_up(self) -> bool:
        return self._catching_up_to > 0

    def begin(self, what: T, position: int, covers: int, *, is_catch_up: bool = False) -> Item[T]:
        self.last_number += 1
        item = Item(self.last_number, what, position, covers, is_catch_up)
        self.under_way.append(item)
        return item

    def sent(self, item: Item[T], size: int, now_s: float) -> None:
        self.bytes_under_way += size - item.size
        item.size, item.sent_at = size, now_s
        item.sends_count += 1
        item.wants_from = 0

    def acked(self, number: int) -> list[Item[T]]:
        """The items that are done now; none for an Ack that came late. Raises ValueError for a number that was never begun."""
        if number > self.last_number:
            raise ValueError(f"number {number} is acknowledged, and {self.last_number} was the last one")
        done = []
        while self.under_way and self.under_way[0].number <= number:
            item = self.under_way.popleft()
            self.acked_number = item.number
            self.bytes_under_way -= item.size
            done.append(item)
            self.covered(item.covers, is_catch_up=item.is_catch_up)
        return done

    def covered(self, position: int, *, is_catch_up: bool) -> None:
        """All up to this position is told (or need not be), if nothing before it is under way."""
        if not is_catch_up:
            self._live_covered = max(self._live_covered, position)
        elif self.is_catching_up:
            self.cursor = max(self.cursor, min(position, self._catching_up_to))
        if not self.is_catching_up:
            self.cursor = max(self.cursor, self._live_covered)

    def skipped(self, position: int) -> None:
        """The live group of this position has nothing for the peer. Its place is behind the last live item under way."""
        last = next((item for item in reversed(self.under_way) if not item.is_catch_up), None)
        if last is None:
            self.covered(position, is_catch_up=False)
        else:
            last.covers = max(last.covers, position)

    def catch_up_begins(self, to: int) -> None:
        """What changed up to `to` is told by the runs' states: live items up to there count no more."""
        self._catching_up_to = max(self._catching_up_to, to)
        self._live_covered = max(self._live_covered, self._catching_up_to)

    def catch_up_ended(self) -> None:
        """All of it is acknowledged: from here on live items count."""
        self.cursor = max(self.cursor, self._catching_up_to)
        self._catching_up_to = 0
        self.covered(0, is_catch_up=False)

    def wanted(self, number: int, events_from: int) -> Item[T] | None:
        """The item that the peer wants as a snapshot; None if that is over."""
        for item in self.under_way:
            if item.number == number:
                item.wants_from = max(events_from, 1)
                return item
        return None
