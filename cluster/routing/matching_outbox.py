"""What is to be said to one node about task queues: one message under way, the next takes all that gathered meanwhile.

So messages of one node to another keep their order, cost less the more there is to say, and a slow node is sent no more than
it answers. Offers that do not fit, or were in a message that perhaps did not arrive, are remembered as places (queue, shard) to
be listed again from the shard's own index: memory is bounded by what the shards have anyway, and nothing is lost.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from itertools import islice
from typing import Protocol

import structlog

from cluster.core.errors import CallerError
from cluster.matching.limits import MatchingLimits
from cluster.matching.meeting import PartNews
from cluster.matching.tasks import QueueKey, TaskHint
from cluster.matching.window import TaskKey, key_of
from cluster.membership.members import NodeInfo
from cluster.routing.matching_messages import BATCH, Batch, BatchAnswer, Listing, Withdrawn, decode, encode
from cluster.routing.matching_places import Place
from cluster.routing.peers import Peers
from cluster.seams import Ids, Spawn

log = structlog.get_logger("outlast.routing")


class Sender(Protocol):
    """Whose messages these are."""

    def listing(self, place: Place, node: str) -> Listing:
        """What the shard has for the queue now, as far as it belongs to that node."""
        ...

    def list_place(self, place: Place) -> None:
        """To whoever has it by the present ring."""
        ...

    def compose(self, queue: QueueKey, node: str) -> PartNews | None: ...

    def undelivered(self, node: str, news: PartNews) -> None: ...

    def answered(self, node: str, batch: Batch, answer: BatchAnswer) -> bool:
        """False: some of it was not taken because the rings differ."""
        ...


class Outbox:
    """See the module's text. One per other node; closed when that node has left."""

    def __init__(
        self, node: NodeInfo, peers: Peers, sender: Sender, limits: MatchingLimits, spawn: Spawn, ids: Ids, counts: Counter[str]
    ) -> None:
        self.node = node
        self._peers, self._sender, self._limits, self._spawn, self._ids = peers, sender, limits, spawn, ids
        self._counts = counts
        self._offers: dict[tuple[QueueKey, TaskKey], TaskHint] = {}
        self._withdrawn: dict[Place, dict[TaskKey, None]] = {}
        self._withdrawn_count = 0
        self._listings: dict[Place, None] = {}
        self._refused: deque[TaskHint] = deque(maxlen=limits.refused_hints_max)
        self._news: dict[QueueKey, None] = {}
        self._job: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._failures = 0
        self._is_closed = False

    @property
    def unsent_count(self) -> int:
        return len(self._offers) + self._withdrawn_count + len(self._listings) + len(self._refused) + len(self._news)

    # --- to be said -----------------------------------------------------------------------------------------------------
    def offer(self, hint: TaskHint) -> None:
        place = (hint.queue, hint.shard)
        if place in self._listings:
            return  # the listing is read from the index when it is sent
        if len(self._offers) >= self._limits.unsent_hints_max:
            self.list_place(place)
            return
        self._offers[hint.queue, key_of(hint)] = hint
        self._begin()

    def withdraw(self, hint: TaskHint) -> None:
        place, key = (hint.queue, hint.shard), key_of(hint)
        self._offers.pop((hint.queue, key), None)
        self._name_withdrawn(place, key)

    def _name_withdrawn(self, place: Place, key: TaskKey) -> None:
        if self._withdrawn_count >= self._limits.unsent_hints_max:
            self._counts["withdrawal_left_out"] += 1  # the stale hint costs one TaskGone
            return
        keys = self._withdrawn.setdefault(place, {})
        if key not in keys:
            keys[key] = None
            self._withdrawn_count += 1
        self._begin()

    def forget(self, hint: TaskHint) -> None:
        """Its shard is somebody else's now."""
        self._offers.pop((hint.queue, key_of(hint)), None)

    def list_place(self, place: Place) -> None:
        self._listings[place] = None
        self._begin()

    def refuse(self, hint: TaskHint) -> None:
        self._refused.append(hint)
        self._begin()

    def mark(self, queue: QueueKey) -> None:
        self._news[queue] = None
        self._begin()

    def hurry(self) -> None:
        """The ring has changed: what failed before may go well now."""
        self._failures = 0
        self._hurry.set()

    def close(self) -> None:
        self._is_closed = True
        if self._job is not None:
            self._job.cancel()

    # --- saying it ------------------------------------------------------------------------------------------------------
    def _begin(self) -> None:
        # The job begins in the next turn of the loop, when this turn has said all it has to say.
        if self._job is None and not self._is_closed:
            self._job = self._spawn(self._send(), f"queue news for {self.node.node_id}")

    async def _send(self) -> None:
        try:
            while self.unsent_count and not self._is_closed:
                batch = self._next_batch()
                if batch is None:
                    continue
                self._hurry.clear()
                if await self._deliver(batch):
                    self._failures = 0
                else:
                    await self._rest()
        finally:
            self._job = None

    async def _deliver(self, batch: Batch) -> bool:
        node = self.node.node_id
        deadline = asyncio.get_running_loop().time() + self._limits.message_timeout_s
        try:
            answer = decode(BatchAnswer, await self._peers.call(self.node, BATCH, encode(batch), deadline))
        except CallerError as error:
            log.info("queue news not delivered, will be said again", node=node, error=error.message)
            self._counts["message_failed"] += 1
            self._say_again(batch)
            return False
        self._counts["message"] += 1
        return self._sender.answered(node, batch, answer)

    def _say_again(self, batch: Batch) -> None:
        """It may have arrived or not: both lists of what is there and words of what is gone may be repeated."""
        for withdrawn in batch.withdrawn:
            for key in withdrawn.keys:
                self._name_withdrawn((withdrawn.queue, withdrawn.shard), key)
        for listing in batch.listings:
            self.list_place((listing.queue, listing.shard))
        for hint in batch.offers:
            self.list_place((hint.queue, hint.shard))
        self._refused.extendleft(reversed(batch.refused[: self._limits.refused_hints_max - len(self._refused)]))
        for news in batch.news:
            self._sender.undelivered(self.node.node_id, news)

    async def _rest(self) -> None:
        """Until the ring changes, but not longer than the pause; half of it is jitter."""
        pause_s = min(self._limits.message_retry_max_s, self._limits.message_retry_s * 2.0 ** min(self._failures, 20))
        self._failures += 1
        try:
            async with asyncio.timeout(pause_s * (0.5 + 0.5 * self._ids.jitter())):
                await self._hurry.wait()
        except TimeoutError:
            return

    def _next_batch(self) -> Batch | None:
        """Up to `message_hints_max` hints and as many names; what is left goes with the next one."""
        room = self._limits.message_hints_max
        withdrawn: list[Withdrawn] = []
        named = 0
        while self._withdrawn and named < room:
            place, keys = self._withdrawn.popitem()
            self._withdrawn_count -= len(keys)
            named += len(keys)
            withdrawn.append(Withdrawn(*place, list(keys)))
        offers: list[TaskHint] = []
        for at in list(islice(self._offers, room)):
            offers.append(self._offers.pop(at))
        room -= len(offers)
        news: list[PartNews] = []
        while self._news and room > 0:
            queue = next(iter(self._news))
            del self._news[queue]
            if (composed := self._sender.compose(queue, self.node.node_id)) is not None:
                news.append(composed)
                room -= max(1, len(composed.guests))
        listings: list[Listing] = []
        while self._listings and room > 0:
            place = next(iter(self._listings))
            del self._listings[place]
            listing = self._sender.listing(place, self.node.node_id)
            if listing.hints:
                listings.append(listing)
                room -= len(listing.hints)
        refused = [self._refused.popleft() for _ in range(min(len(self._refused), self._limits.message_hints_max))]
        if not (withdrawn or offers or news or listings or refused):
            return None
        return Batch(
            sender=self._peers.me, withdrawn=withdrawn, listings=listings, offers=offers, refused=refused, news=news
        )
