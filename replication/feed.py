"""One source shard's news for one peer: a bounded queue of durable groups, and the catch-up that replaces what it could not hold.

    queue overrun, peer new, sender restarted -> a catch-up from the cursor to the position from where the queue is whole
    live and catch-up items                   -> one stream of numbers (outbox.py), live ones first
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from cluster.core.entry import Entry
from cluster.core.state import RunState
from cluster.history.shard import Shard
from cluster.stores.base import RunKey
from replication.catch_up import CatchUp
from replication.limits import StreamLimits
from replication.messages import Offer
from replication.outbox import Item, Outbox
from replication.run_news import RunNews, delta_of, news_of_group

log = structlog.get_logger("replication")


class Lag(NamedTuple):
    """Of one shard, for one peer. positions: durable groups that the peer has not acknowledged. By namespace: entries that wait
    or are under way, and when the oldest of them was written (ns since the epoch).

    While a catch-up is under way there are runs beyond those, by namespace as well: each with at least one entry, written before
    the catch-up began, which then is what oldest_at says. They are counted page by page, so that for a moment there are more.
    """

    positions: int
    is_catching_up: bool
    entries: dict[str, int]
    oldest_at: dict[str, int]
    runs_left: dict[str, int] = {}  # noqa: RUF012


class _Waiting:
    """News in the queue. covers: the position of their group, if they are the last of it."""

    __slots__ = ("covers", "news", "position")

    def __init__(self, news: RunNews, position: int, covers: int) -> None:
        self.news, self.position, self.covers = news, position, covers


@dataclass
class _Whole:
    """last_number: of the items that were begun for it."""

    namespaces: frozenset[str]
    catch_up: CatchUp
    last_number: int = 0


class Feed:
    """Begins at the position up to which the shard was durable when it was made: what is older is caught up."""

    def __init__(
        self, shard: Shard, peer_initial_version: int, ships: Callable[[str], bool], limits: StreamLimits, position: int
    ) -> None:
        self.shard = shard
        self.limits = limits
        self._peer_initial_version, self._ships = peer_initial_version, ships
        self._begins_at = position
        self._queue: deque[_Waiting] = deque()
        self._queued_entries = self._queued_bytes = 0
        self._entries: Counter[str] = Counter()  # by namespace, waiting or under way
        self._since_catch_up = 0
        self._catch_up: CatchUp | None = None
        self._overdue_looked_s = float("-inf")
        self.outbox: Outbox[RunNews] | None = None  # None until the cursor is known
        self.is_from_zero = False  # the peer had nothing of this shard when the feed began
        self._whole: _Whole | None = None
        self._waiting_for: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def stream(self) -> int:
        return self.shard.lease.range_id

    # --- what the shard tells ----------------------------------------------------------------------------------------------

    def start(self, cursor: int) -> None:
        """cursor: as it was stored."""
        if cursor > self.shard.journal.last_position:
            log.warning("the peer is ahead of this shard: all is told again", shard=self.shard.id, cursor=cursor)
            cursor = 0
        self.outbox, self.is_from_zero = Outbox(cursor), cursor == 0
        if cursor < self._begins_at:
            self._begin_catch_up(self._begins_at)

    def take(self, position: int, entries: Sequence[tuple[bytes, Entry]], states: dict[RunKey, RunState]) -> None:
        """A durable group: those of its entries whose namespace the peer has; none of them = []."""
        if position <= self._begins_at:
            return
        news = news_of_group(self.shard, entries, states, self._peer_initial_version) if entries else []
        if not news:
            self._skip(position)
            return
        for number, one in enumerate(news, 1):
            self._enqueue(_Waiting(one, position, position if number == len(news) else position - 1))
        limits = self.limits
        if self._queued_entries > limits.queue_entries_max or self._queued_bytes > limits.queue_bytes_max:
            self.overrun(position)

    def tell_again(self, keys: Sequence[RunKey]) -> None:
        """These runs, deleted or not, as they are when their turn comes: the peer lacks them, whatever it has acknowledged."""
        for key in keys:
            self._enqueue(_Waiting(RunNews(key, []), self.shard.journal.durable_position, 0))

    def _enqueue(self, waiting: _Waiting) -> None:
        self._queue.append(waiting)
        self._queued_entries += waiting.news.entries_count
        self._queued_bytes += waiting.news.size
        self._entries[waiting.news.key.namespace_id] += waiting.news.entries_count

    def _skip(self, position: int) -> None:
        if self._queue:
            self._queue[-1].covers = position
        elif self.outbox is not None:
            self.outbox.skipped(position)
            self._tell_waiting()
        else:
            self._begins_at = position  # before the cursor is known there is nothing to be in line with

    def overrun(self, position: int) -> None:
        """All that waits, and what comes up to there, is told by state."""
        if position <= self._begins_at:
            return
        log.info("the queue for a peer is overrun; it is caught up by state", shard=self.shard.id, position=position)
        for waiting in self._queue:
            self._entries[waiting.news.key.namespace_id] -= waiting.news.entries_count
        self._queue.clear()
        self._queued_entries = self._queued_bytes = 0
        if self.outbox is None:
            self._begins_at = position
        else:
            self._begin_catch_up(position)

    def _begin_catch_up(self, target: int) -> None:
        assert self.outbox is not None
        if self._catch_up is None:
            self._catch_up = CatchUp(self.shard, self.outbox.cursor, target, self._ships, self.limits.catch_up_page_runs)
        else:
            self._catch_up.extend(target)
        self.outbox.catch_up_begins(target)

    # --- what the peer is told ---------------------------------------------------------------------------------------------

    def has_item_wanted(self) -> bool:
        """Whether the peer waits for a snapshot in place of what it could not use: that needs no further credit."""
        return self.outbox is not None and any(item.wants_from for item in self.outbox.under_way)

    async def next_item(self) -> Item[RunNews] | None:
        """What is to be sent now: again first, then live, then of the catch-up. Raises StoreError."""
        outbox = self.outbox
        if outbox is None:
            return None
        for item in outbox.under_way:
            if item.wants_from:
                return item
        for item in outbox.under_way:
            if not item.sends_count:
                return item
        is_turn = self._since_catch_up >= self.limits.catch_up_share
        if self._queue and not (is_turn and self._has_more_to_catch_up()):
            waiting = self._queue.popleft()
            self._since_catch_up += 1
            self._queued_entries -= waiting.news.entries_count
            self._queued_bytes -= waiting.news.size
            return outbox.begin(waiting.news, waiting.position, waiting.covers)
        if self._catch_up is not None:
            self._since_catch_up = 0
            step = await self._catch_up.next()
            if step is not None:
                return outbox.begin(step.news, step.position, step.covers, is_catch_up=True)
            self._end_catch_up()
        if self._whole is not None and not self._whole.catch_up.is_ended:
            self._since_catch_up = 0
            step = await self._whole.catch_up.next()
            if step is not None:
                item = outbox.begin(step.news, step.position, 0, is_catch_up=True)
                self._whole.last_number = item.number
                return item
        return None

    # --- namespaces that are new to the peer -----------------------------------------------------------------------------

    @property
    def is_telling_whole(self) -> bool:
        return self._whole is not None

    def tell_whole(self, namespaces: frozenset[str]) -> None:
        """All runs of these, whatever the cursor: the peer has become one of their regions. One set at a time."""
        assert self._whole is None
        page_runs, target = self.limits.catch_up_page_runs, self.shard.journal.durable_position
        self._whole = _Whole(namespaces, CatchUp(self.shard, 0, target, namespaces.__contains__, page_runs))

    def whole_told(self) -> frozenset[str]:
        """The namespaces of `tell_whole`, once, when the peer has all of their runs; until then none."""
        whole = self._whole
        if whole is None or self.outbox is None or not whole.catch_up.is_ended or self.outbox.acked_number < whole.last_number:
            return frozenset()
        self._whole = None
        return whole.namespaces

    def _catch_ups(self) -> list[CatchUp]:
        whole = None if self._whole is None else self._whole.catch_up
        return [one for one in (self._catch_up, whole) if one is not None]

    def _has_more_to_catch_up(self) -> bool:
        return any(not one.is_ended for one in self._catch_ups())

    def _end_catch_up(self) -> None:
        """Once all of it is acknowledged, the live stream is all there is."""
        outbox, catch_up = self.outbox, self._catch_up
        if outbox is None or catch_up is None or not catch_up.is_ended:
            return
        if not any(item.is_catch_up for item in outbox.under_way):
            self._catch_up = None
            outbox.catch_up_ended()

    async def offer(self, item: Item[RunNews], now_s: float) -> Offer:
        """Raises CallerError, StoreError."""
        outbox = self.outbox
        assert outbox is not None
        delta = await delta_of(self.shard, item.what, item.wants_from or (1 if item.is_catch_up else 0))
        outbox.sent(item, len(delta), now_s)
        return Offer(self.shard.id, self.stream, item.number, outbox.floor, item.position, delta)

    def acked(self, number: int) -> bool:
        """Whether the cursor has moved."""
        outbox = self.outbox
        assert outbox is not None
        before = outbox.cursor
        for item in outbox.acked(number):
            if not item.is_catch_up:
                self._entries[item.what.key.namespace_id] -= item.what.entries_count
        self._end_catch_up()
        self._tell_waiting()
        return outbox.cursor > before

    def reached(self, position: int) -> asyncio.Future[None]:
        """Done when the peer has acknowledged everything up to there."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting_for.append((position, future))
        self._tell_waiting()
        return future

    def _tell_waiting(self) -> None:
        if not self._waiting_for or self.outbox is None:
            return
        cursor = self.outbox.cursor
        for position, future in self._waiting_for:
            if position <= cursor and not future.done():
                future.set_result(None)
        self._waiting_for = [(position, future) for position, future in self._waiting_for if not future.done()]

    def send_again(self) -> None:
        """The link is another one: what was under way may be lost."""
        if self.outbox is not None:
            for item in self.outbox.under_way:
                item.sends_count = 0

    def overdue(self, now_s: float) -> bool:
        """Whether something is to be sent again because nobody has answered. Looked at now and then."""
        if now_s < self._overdue_looked_s + self.limits.resend_s / 8:
            return False
        self._overdue_looked_s = now_s
        found = False
        for item in self.outbox.under_way if self.outbox is not None else ():
            waited_s = min(self.limits.resend_s * 2 ** min(item.resends_count, 10), self.limits.resend_s_max)
            if item.sends_count and item.sent_at + waited_s <= now_s:
                item.sends_count, item.resends_count = 0, item.resends_count + 1
                found = True
        return found

    def lag(self) -> Lag:
        oldest: dict[str, int] = {}
        under_way = [item.what for item in self.outbox.under_way if not item.is_catch_up] if self.outbox is not None else []
        for news in (*under_way, *(waiting.news for waiting in self._queue)):
            if news.at:
                oldest[news.key.namespace_id] = min(news.at, oldest.get(news.key.namespace_id, news.at))
        cursor = self.outbox.cursor if self.outbox is not None else 0
        runs_left: Counter[str] = Counter()
        for catch_up in self._catch_ups():
            runs_left.update(catch_up.left)
            for namespace_id in catch_up.left:
                oldest[namespace_id] = min(catch_up.began_at, oldest.get(namespace_id, catch_up.began_at))
        if self.outbox is not None:
            runs_left.update(item.what.key.namespace_id for item in self.outbox.under_way if item.is_catch_up)
        return Lag(
            self.shard.journal.durable_position - cursor,
            self.outbox is None or self.outbox.is_catching_up,
            {namespace: count for namespace, count in self._entries.items() if count},
            oldest,
            {namespace: count for namespace, count in runs_left.items() if count},
        )
