"""One node's share of one task queue of one kind: its window of tasks, its direct queries, its parked polls, who polled lately.

Holds state and decides who gets what; waiting, timers and calls to history are the driver's (`matcher.py`). A queue has several
partitions where several nodes share it; all of them that one node owns are one share, since they would meet at once anyway.
`link` is what the share knows of the others (meeting.py); a share that is the whole queue has none.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from cluster.matching.fairness import Entry, EntryState
from cluster.matching.limits import MatchingLimits
from cluster.matching.meeting import PartLink
from cluster.matching.queries import DirectQuery
from cluster.matching.rates import RateWindow
from cluster.matching.tasks import QueueKey
from cluster.matching.window import TaskWindow

Matched = Entry | DirectQuery


class ParkedPoll:
    """A poll that waits. Its future gets a match, or None when its time is over; nothing else completes it."""

    __slots__ = ("future", "matched", "request", "timer")

    def __init__(self, future: asyncio.Future[Matched | None], request: Message) -> None:
        self.future = future
        self.request = request
        self.timer: asyncio.TimerHandle | None = None
        self.matched: Matched | None = None

    def resolve(self, matched: Matched | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if not self.future.done():
            self.matched = matched
            self.future.set_result(matched)


class Partition:
    """See the module's text. Times are monotonic seconds, except `last_polls` (ns since the epoch)."""

    __slots__ = (
        "add_rate",
        "api_rate",
        "dispatch_rate",
        "fairness_rate",
        "key",
        "last_polled_at",
        "last_polls",
        "limits",
        "link",
        "parked",
        "queries",
        "refilling",
        "used_at",
        "wake_at",
        "waker",
        "weights",
        "window",
        "worker_rate",
    )

    def __init__(self, key: QueueKey, limits: MatchingLimits, now: float) -> None:
        self.key = key
        self.limits = limits
        self.window = TaskWindow(limits)
        self.parked: OrderedDict[ParkedPoll, None] = OrderedDict()
        self.queries: deque[DirectQuery] = deque()
        self.last_polls: OrderedDict[str, tuple[int, Message]] = OrderedDict()  # by identity, the latest last
        self.last_polled_at = -math.inf
        self.used_at = now
        self.add_rate = RateWindow(now)
        self.dispatch_rate = RateWindow(now)
        self.api_rate: float | None = None  # UpdateTaskQueueConfig goes before what the last poll asked for
        self.worker_rate: float | None = None
        self.fairness_rate: float | None = None
        self.weights: dict[str, float] = {}
        self.link: PartLink | None = None
        self.waker: asyncio.TimerHandle | None = None
        self.wake_at = math.inf
        self.refilling = False

    def note_poll(self, identity: str, request: Message, now: float, now_ns: int) -> None:
        self.last_polled_at = self.used_at = now
        self.last_polls[identity] = (now_ns, request)
        self.last_polls.move_to_end(identity)
        if len(self.last_polls) > self.limits.pollers_per_queue_max:
            self.last_polls.popitem(last=False)

    def has_poller(self, now: float, within_s: float) -> bool:
        return bool(self.parked) or now - self.last_polled_at < within_s

    def rate(self) -> float | None:
        return self.worker_rate if self.api_rate is None else self.api_rate

    def ask_rate(self, worker_rate: float | None) -> None:
        """What the latest poll said about max_tasks_per_second; a poll without it lifts the limit, as in the real server."""
        if worker_rate != self.worker_rate:
            self.worker_rate = worker_rate
            if self.link is None or self.link.is_root:
                self.window.throttle.set_rate(self.rate())
            else:
                self.link.is_told = False

    def configure(self) -> None:
        """Tokens are counted in one place: the only share, or the root."""
        is_judge = self.link is None or self.link.is_root
        self.window.configure(
            self.rate() if is_judge else None, self.fairness_rate if is_judge else None, self.weights
        )

    @property
    def meets_here(self) -> bool:
        """Tasks of this share may go straight to its own polls: not at a child of a queue with a rate limit."""
        return self.link is None or self.link.is_root or (self.rate() is None and self.fairness_rate is None)

    def idle_count(self) -> int:
        return sum(not poll.future.done() for poll in self.parked)

    def lent_and_borrowed(self) -> dict[int, int]:
        """By priority, how many waiting tasks the window shows too few (forwarded to the root) or too many (guests)."""
        off: dict[int, int] = {}
        if self.link is not None:
            if not self.link.is_root:
                for away in self.link.away.values():
                    off[away.entry.level] = off.get(away.entry.level, 0) + 1
            for key in self.link.guests:
                entry = self.window.entry(key)
                if entry is not None and entry.state in (EntryState.WAITING, EntryState.DELAYED):
                    off[entry.level] = off.get(entry.level, 0) - 1
        return off

    def backlog_count(self) -> int:
        """Tasks of this share that wait. What other shares wait with here is theirs to count."""
        return max(0, self.window.backlog_count() + sum(self.lent_and_borrowed().values()))

    def next_item(self, now: float) -> Matched | None:
        """Queries first: they are synchronous, somebody waits for the answer."""
        while self.queries:
            query = self.queries.popleft()
            if not query.is_over:
                return query
        if not self.meets_here:
            return None
        entry = self.window.take(now)
        if entry is None and self.link is not None:
            entry = self.link.recall_oldest()
        if entry is not None:
            self.dispatch_rate.add(now)
            self.used_at = now
        return entry

    def has_waiting_poll(self) -> bool:
        """Polls whose call was cancelled, but whose coroutine has not run since, are passed over."""
        while self.parked:
            if not next(iter(self.parked)).future.done():
                return True
            self.parked.popitem(last=False)
        return False

    def hand_over(self, matched: Matched, now: float) -> None:
        """To the poll that waits longest; `has_waiting_poll` was asked before."""
        poll, _ = self.parked.popitem(last=False)
        poll.resolve(matched)
        self.last_polled_at = now

    def end_polls(self, is_meant: Callable[[Any], bool]) -> None:
        """Parked polls whose request is meant end empty."""
        for poll in [poll for poll in self.parked if is_meant(poll.request)]:
            del self.parked[poll]
            poll.resolve(None)

    def is_idle(self, now: float, idle_s: float) -> bool:
        is_used = self.parked or self.queries or self.refilling or not self.window.is_empty
        is_used = is_used or (self.link is not None and self.link.is_used(now))
        return not is_used and now - self.used_at >= idle_s

    def is_evictable(self) -> bool:
        """Nobody waits here and nothing is in flight, so all that it knows can be asked of the shards again."""
        away_count = 0 if self.link is None else len(self.link.away)
        return not (self.parked or self.queries or self.refilling or self.window.in_flight_count > away_count)

    def close(self) -> None:
        """Every parked poll ends empty; no timer and no link stays behind."""
        self.link = None
        if self.waker is not None:
            self.waker.cancel()
            self.waker = None
        self.wake_at = math.inf
        while self.parked:
            self.parked.popitem(last=False)[0].resolve(None)
