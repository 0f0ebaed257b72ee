"""Namespaces that have become another region's, too: what happened in them before is told to it, whole.

The stream's cursor says how far a peer has what it was to be told; of a namespace that it joins later, that says nothing.
So each source shard keeps, per peer, the namespaces whose runs were all told once; one that is shared and not among them is
told from its first run on (feed.py `tell_whole`), and noted when the peer has acknowledged the last one. A crash before that
tells it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from cluster.stores.base import Store, StoreError
from replication.feed import Feed
from replication.region import Region
from replication.sender import Sender

log = structlog.get_logger("replication")

KIND = "replication-told"
LOOK_S = 0.5

Ids = frozenset[str]


class Newcomers:
    """One node's, for the shards that it has. shared_with(peer): the namespaces that both regions have."""

    def __init__(self, region: Region, store: Store, shared_with: Callable[[str], Ids]) -> None:
        self._region, self._store, self._shared_with = region, store, shared_with
        self._told: dict[tuple[str, Feed], tuple[int, Ids]] = {}  # version of the row, namespaces
        self._changed = asyncio.Event()

    def look(self) -> None:
        """Records have changed."""
        self._changed.set()

    def is_told(self, peer: str, namespace_id: str) -> bool:
        """Whether the peer has had all runs of it that the shards of this node have, as far as it was linked."""
        sender = self._region.senders.get(peer)
        feeds = [] if sender is None else list(sender.feeds.values())
        known = [self._told.get((peer, feed)) for feed in feeds]
        return bool(feeds) and all(told is not None and namespace_id in told[1] for told in known)

    async def run(self) -> None:
        """For ever."""
        while True:
            for sender in list(self._region.senders.values()):
                for feed in list(sender.feeds.values()):
                    try:
                        await self._look_at(sender, feed)
                    except StoreError as error:
                        log.warning("which namespaces a peer has whole is not known now", peer=sender.peer, error=repr(error))
            self._forget_closed()
            self._changed.clear()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _look_at(self, sender: Sender, feed: Feed) -> None:
        if feed.outbox is None or not feed.shard.is_open:
            return
        known = self._told.get((sender.peer, feed))
        if known is None:
            known = self._told[sender.peer, feed] = await self._load(sender, feed)
        version, told = known
        shared = self._shared_with(sender.peer)
        now = (told | feed.whole_told()) & shared
        if now != told or not version:
            data = msgspec.msgpack.encode(sorted(now))
            written = await self._store.metadata_put(KIND, _id(sender, feed), data, version)
            if written is None:  # an earlier write that seemed to fail
                del self._told[sender.peer, feed]
                return
            self._told[sender.peer, feed] = written, now
        new = shared - now
        if new and not feed.is_telling_whole:
            log.info("namespaces are told to a peer from their beginning", peer=sender.peer, shard=feed.shard.id, count=len(new))
            feed.tell_whole(new)
            sender.has_news()

    async def _load(self, sender: Sender, feed: Feed) -> tuple[int, Ids]:
        """A peer that had nothing when the feed began is told everything that was shared then."""
        row = await self._store.metadata_get(KIND, _id(sender, feed))
        if row is None:
            return 0, sender.shared_at_start.get(feed.shard.id, frozenset()) if feed.is_from_zero else frozenset()
        return row.version, frozenset(msgspec.msgpack.decode(row.data, type=list[str]))

    def _forget_closed(self) -> None:
        alive = {(name, feed) for name, sender in self._region.senders.items() for feed in sender.feeds.values()}
        self._told = {key: told for key, told in self._told.items() if key in alive}


def _id(sender: Sender, feed: Feed) -> str:
    return f"{sender.peer}/{feed.shard.id}"
