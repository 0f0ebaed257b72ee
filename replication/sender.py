"""Tells one peer what changes here: the feeds of this node's shards over one link, within the credit that the peer gives.

    run(link)   until the link ends: offers in turn of the shards, as long as there is credit
    answered    Ack, Have and Credit, as they come in
    lag         per shard: what the peer does not have yet

It outlives links: what was under way when one ended is sent again over the next. Cursors are durable, a moment later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from cluster.core.entry import Entry
from cluster.core.errors import CallerError, Code
from cluster.core.state import RunState
from cluster.history.run_delta import RunDelta, encode_delta
from cluster.history.shard import Shard
from cluster.stores.base import CorruptRecord, RunKey, StoreError
from replication.cursors import Cursors
from replication.feed import Feed, Lag
from replication.limits import StreamLimits
from replication.link import Link
from replication.messages import Ack, Credit, Have, Offer, encode
from replication.outbox import Item
from replication.run_news import RunNews

log = structlog.get_logger("replication")


class _News:
    """An event for each of the links that wait for something to do."""

    def __init__(self) -> None:
        self._listeners: list[asyncio.Event] = []

    def listener(self) -> asyncio.Event:
        event = asyncio.Event()
        self._listeners.append(event)
        return event

    def leave(self, event: asyncio.Event) -> None:
        self._listeners.remove(event)

    def set(self) -> None:
        for event in self._listeners:
            event.set()


class _Way:
    """A link to the peer. credit: what the other end takes in."""

    __slots__ = ("credit", "is_dialled", "news")

    def __init__(self, credit: Credit, is_dialled: bool, news: asyncio.Event) -> None:
        self.credit, self.is_dialled, self.news = credit, is_dialled, news


class Sender:
    """To one peer. `ships`: whether the peer has the namespace."""

    def __init__(
        self,
        peer: str,
        peer_initial_version: int,
        cursors: Cursors,
        ships: Callable[[str], bool],
        limits: StreamLimits,
        shared: Callable[[], frozenset[str]],
    ) -> None:
        """shared: all namespaces that the peer has, too."""
        self.peer = peer
        self.shared_at_start: dict[int, frozenset[str]] = {}  # by shard, when its feed began
        self._shared = shared
        self.feeds: dict[int, Feed] = {}
        self._peer_initial_version = peer_initial_version
        self._cursors, self._ships, self._limits = cursors, ships, limits
        self._credit = Credit(limits.credit_offers, limits.credit_bytes)
        self._news = _News()
        self._ways: list[_Way] = []
        self._turn = 0
        self._saved_at_s = 0.0
        self._telling = asyncio.Lock()

    # --- shards ----------------------------------------------------------------------------------------------------------

    def feed_of(self, shard: Shard, position: int) -> Feed:
        """The shard's feed; a new one tells live what comes behind the position."""
        feed = self.feeds.get(shard.id)
        if feed is None or feed.shard is not shard:
            feed = self.feeds[shard.id] = Feed(shard, self._peer_initial_version, self._ships, self._limits, position)
            self._news.set()
        return feed

    def ships(self, namespace_id: str) -> bool:
        return self._ships(namespace_id)

    def take(
        self, shard: Shard, position: int, entries: Sequence[tuple[bytes, Entry]], states: dict[RunKey, RunState]
    ) -> None:
        """A durable group of a shard: all its entries that any peer may want."""
        wanted = [pair for pair in entries if self._ships(pair[1].namespace_id)]
        self.feed_of(shard, position - 1).take(position, wanted, states)
        if wanted:
            self._news.set()

    def behind(self, namespace_id: str) -> tuple[int, int]:
        """Of this node's shards: events of the namespace that the peer has not acknowledged, and when the oldest was written (ns
        since the epoch; 0 = none). Runs that a catch-up has still to tell count as one each."""
        lags = self.lag().values()
        oldest = [at for lag in lags if (at := lag.oldest_at.get(namespace_id))]
        events = sum(lag.entries.get(namespace_id, 0) + lag.runs_left.get(namespace_id, 0) for lag in lags)
        return events, min(oldest, default=0)

    async def has_reached(self, shard: Shard, position: int) -> None:
        """Returns when the peer has acknowledged all of the shard up to there."""
        await self.feed_of(shard, position).reached(position)

    def has_news(self) -> None:
        """A feed has more to tell."""
        self._news.set()

    def forget(self, shard: Shard) -> None:
        """It is closed: once it is opened anew it has another stream."""
        feed = self.feeds.get(shard.id)
        if feed is not None and feed.shard is shard:
            del self.feeds[shard.id]

    def take_by_state(self, shard: Shard, position: int) -> None:
        """A group that cannot be told as it is. The feed stays: a new one would number its stream from 1 again, and the peer
        has done with those numbers."""
        self.feed_of(shard, position).overrun(position)
        self._news.set()

    def cursor(self, shard: int) -> int:
        """What the peer has for sure: as it is stored."""
        return self._cursors.saved(shard)

    def lag(self) -> dict[int, Lag]:
        return {number: feed.lag() for number, feed in self.feeds.items()}

    # --- the link --------------------------------------------------------------------------------------------------------

    def answered(self, message: Ack | Have | Credit) -> None:
        """Raises ValueError for an answer to what was never said."""
        if isinstance(message, Credit):
            self._credit = message
            self._news.set()
            return
        feed = self.feeds.get(message.shard)
        if feed is None or feed.outbox is None or feed.stream != message.stream:
            return  # of a stream that has ended
        if isinstance(message, Ack):
            feed.acked(message.number)
        else:
            feed.outbox.wanted(message.number, message.events_from)
        self._news.set()

    @property
    def is_linked(self) -> bool:
        return bool(self._ways)

    async def run(self, link: Link, credit: Credit, is_dialled: bool) -> None:
        """Until the link ends: raises LinkDown. Of several links one is used: of those that this side dialled the newest, else of
        the others the newest."""
        way = _Way(credit, is_dialled, self._news.listener())
        self._ways.append(way)
        self._news.set()
        try:
            await self._tell(link, way)
        finally:
            self._ways.remove(way)
            self._news.leave(way.news)
            self._news.set()

    async def _tell(self, link: Link, way: _Way) -> None:
        is_used = False
        while True:
            way.news.clear()
            if self._way_now() is not way:
                is_used = False
                await way.news.wait()
                continue
            if not is_used:
                is_used, self._credit = True, way.credit
                for feed in self.feeds.values():
                    feed.send_again()
            async with self._telling:  # another link may have taken over while this one waited for the store
                if self._way_now() is not way:
                    continue
                await self._look_after_feeds()
                offer = await self._next_offer()
            if offer is not None:
                await link.send(encode(offer))
                continue
            try:
                async with asyncio.timeout(self._limits.cursor_save_s):
                    await way.news.wait()
            except TimeoutError:
                continue  # time to save cursors, and to see what nobody has answered

    def _way_now(self) -> _Way:
        dialled = [way for way in self._ways if way.is_dialled]
        return (dialled or self._ways)[-1]

    async def save_cursors(self) -> None:
        """Raises StoreError."""
        self._saved_at_s = asyncio.get_running_loop().time()
        for number, feed in list(self.feeds.items()):
            if feed.outbox is not None and feed.outbox.cursor > self._cursors.saved(number):
                await self._cursors.save(number, feed.outbox.cursor)

    async def _look_after_feeds(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for number, feed in list(self.feeds.items()):
            if not feed.shard.is_open:
                self.forget(feed.shard)
                continue
            try:
                if feed.outbox is None:
                    cursor = await self._cursors.load(number)
                    self.shared_at_start[number] = self._shared()
                    feed.start(cursor)
            except StoreError as error:
                log.warning("a cursor cannot be read yet", peer=self.peer, shard=number, error=repr(error))
            feed.overdue(now_s)
        if now_s >= self._saved_at_s + self._limits.cursor_save_s:
            try:
                await self.save_cursors()
            except StoreError as error:
                log.warning("cursors could not be written; a restart would tell more again", peer=self.peer, error=repr(error))

    async def _next_offer(self) -> Offer | None:
        """Of the next shard in turn that has something; None without credit."""
        feeds = list(self.feeds.values())
        under_way = sum(sum(1 for item in feed.outbox.under_way if item.sends_count) for feed in feeds if feed.outbox)
        under_way_bytes = sum(feed.outbox.bytes_under_way for feed in feeds if feed.outbox)
        has_credit = under_way < self._credit.offers and (under_way_bytes < self._credit.bytes or not under_way)
        for at in range(len(feeds)):
            feed = feeds[(self._turn + at) % len(feeds)]
            if not feed.shard.is_open or not (has_credit or feed.has_item_wanted()):
                continue
            try:
                item = await feed.next_item()
                offer = None if item is None else await self._offer(feed, item)
            except (StoreError, CallerError) as error:
                log.info("a shard cannot be told of now", peer=self.peer, shard=feed.shard.id, error=repr(error))
                continue
            if offer is not None:
                self._turn = (self._turn + at + 1) % len(feeds)
                return offer
        return None

    async def _offer(self, feed: Feed, item: Item[RunNews]) -> Offer:
        now_s = asyncio.get_running_loop().time()
        try:
            return await feed.offer(item, now_s)
        except CorruptRecord as error:
            reason = str(error)
        except CallerError as error:
            if error.code is not Code.DATA_LOSS:
                raise
            reason = error.message
        key = item.what.key
        log.error("a damaged run cannot be told to the peer, the others are", peer=self.peer, run=key, reason=reason)
        nothing = encode_delta(RunDelta(key.namespace_id, key.workflow_id, key.run_id))
        assert feed.outbox is not None
        feed.outbox.sent(item, len(nothing), now_s)
        return Offer(feed.shard.id, feed.stream, item.number, feed.outbox.floor, item.position, nothing)
