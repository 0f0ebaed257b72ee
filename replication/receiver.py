"""Takes in what one peer tells: each delta goes to the shard that owns its run here, and is acknowledged when it is durable.

    outcome                | answer
    -----------------------+---------------------------------------------------------------------
    applied, or known      | Ack, once all numbers before it are done as well
    its base is not here   | Have; the number stays open until it came as a snapshot
    poison                 | a durable row of the quarantine, then as if it were applied
    the shard is moving    | none yet: tried again, ever more rarely

One run's deltas are worked on one after the other, different runs' at the same time: a poison or slow run stops no other.
It outlives links; what has begun goes on, and answers over the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum

import msgspec
import structlog

from cluster.core.errors import CallerError, unavailable
from cluster.history.forks import Poison
from cluster.history.ownership import NotHere
from cluster.history.replicate import Applied, Wanted
from cluster.history.run_delta import RunDelta, decode_delta
from cluster.seams import Spawn
from cluster.stores.base import RunKey, StoreError
from replication.inbox import Arrival, Inbox
from replication.limits import StreamLimits
from replication.messages import Ack, Have, Offer
from replication.quarantine import Quarantine

log = structlog.get_logger("replication")

Apply = Callable[[RunDelta], Awaitable[Applied | Wanted]]
Answers = asyncio.Queue[Ack | Have]  # what goes out over one link


class Share(Enum):
    """What a namespace is to the peer that tells of a run in it."""

    SHARED = "both regions have it"
    UNKNOWN = "this region has not heard of it yet: its record is on the way"
    GONE = "it was deleted here: what is still told of it is known by that"
    FOREIGN = "the peer is no part of it, and may not write it"


class TooMuch(Exception):
    """The peer sends more than it has credit for: the link ends."""


class _Heard:
    """How far the peer has told of one of its shards. Positions outlive streams: each owner goes on in the same journal."""

    __slots__ = ("_done", "_number", "_open", "told")

    def __init__(self) -> None:
        self.told = self._done = 0  # the highest position of any offer, and of those that an Ack covers
        self._open: dict[int, int] = {}  # number -> position of what no Ack covers yet
        self._number = 0  # up to which an Ack covers all of this stream

    def stream_begins(self) -> None:
        self._open.clear()
        self._number = 0

    def offered(self, number: int, position: int) -> None:
        self.told = max(self.told, position)
        if number > self._number:
            self._open[number] = position

    def acknowledged(self, number: int) -> None:
        if number - self._number > len(self._open):  # a former life of this receiver has acknowledged most of them
            covered = [one for one in self._open if one <= number]
        else:
            covered = [one for one in range(self._number + 1, number + 1) if one in self._open]
        for one in covered:
            self._done = max(self._done, self._open.pop(one))
        self._number = max(self._number, number)

    @property
    def whole(self) -> int:
        return max(0, min([self._done, *(position - 1 for position in self._open.values())]))


class Receiver:
    """From one peer, over any number of links: a shard is answered over the one it was last told of by. What is lost is asked for
    again."""

    def __init__(
        self,
        peer: str,
        apply: Apply,
        quarantine: Quarantine,
        spawn: Spawn,
        limits: StreamLimits,
        share_of: Callable[[str], Awaitable[Share]],
    ) -> None:
        """share_of: a namespace by its id; raises CallerError UNAVAILABLE."""
        self.peer = peer
        self._answers: dict[int, Answers] = {}
        self._apply, self._quarantine, self._spawn, self._limits = apply, quarantine, spawn, limits
        self._share_of = share_of
        self._inboxes: dict[int, Inbox[bytes]] = {}
        self._last_of_run: dict[RunKey, asyncio.Event] = {}  # set when the last delta of the run has ended
        self._heard: dict[int, _Heard] = {}

    def leave(self, answers: Answers) -> None:
        """That link has ended."""
        self._answers = {shard: queue for shard, queue in self._answers.items() if queue is not answers}

    @property
    def heard(self) -> dict[int, int]:
        """By the peer's shard: the highest position for which every offer up to it, of all that came, is durable here (or in
        quarantine). Known since this node began; what the peer has yet to catch this region up with is not in it."""
        return {shard: heard.whole for shard, heard in self._heard.items()}

    @property
    def told(self) -> dict[int, int]:
        """By the peer's shard: the last position of which this region has been told at all."""
        return {shard: heard.told for shard, heard in self._heard.items()}

    def _answer(self, message: Ack | Have) -> None:
        answers = self._answers.get(message.shard)
        if answers is not None:
            answers.put_nowait(message)

    def take(self, offer: Offer, answers: Answers) -> None:
        """Raises TooMuch."""
        self._answers[offer.shard] = answers
        inbox = self._inboxes.get(offer.shard)
        if inbox is None or offer.stream > inbox.stream:
            inbox = self._inboxes[offer.shard] = Inbox(offer.stream)
            self._heard.setdefault(offer.shard, _Heard()).stream_begins()
        arrival = inbox.take(offer.stream, offer.number, offer.floor, offer.delta)
        if arrival is not Arrival.STALE:
            self._heard[offer.shard].offered(offer.number, offer.position)
            self._heard[offer.shard].acknowledged(inbox.done_number)
        if arrival is Arrival.DONE:
            self._acknowledge(offer.shard, inbox)
        if inbox.unfinished_count > 2 * self._limits.credit_offers:
            raise TooMuch(f"{inbox.unfinished_count} offers are unfinished, and the credit is {self._limits.credit_offers}")
        for number, data in inbox.begin():
            self._begin(offer.shard, inbox, number, data)

    def _begin(self, shard: int, inbox: Inbox[bytes], number: int, data: bytes) -> None:
        delta: RunDelta | None = None
        reason = ""
        try:
            delta = decode_delta(data)
        except msgspec.MsgspecError as error:
            reason = f"the delta cannot be read: {error}"
        keys = [] if delta is None else [delta.key, *([delta.successor.key] if delta.successor is not None else [])]
        before = [event for key in keys if (event := self._last_of_run.get(key)) is not None]
        ended = asyncio.Event()
        for key in keys:
            self._last_of_run[key] = ended
        work = self._work(shard, inbox, number, data, delta, reason, before)
        self._spawn(self._until_ended(work, keys, ended), f"replicate-{self.peer}-{shard}")

    async def _until_ended(self, work: Awaitable[None], keys: list[RunKey], ended: asyncio.Event) -> None:
        try:
            await work
        finally:
            ended.set()
            for key in keys:
                if self._last_of_run.get(key) is ended:
                    del self._last_of_run[key]

    async def _work(
        self,
        shard: int,
        inbox: Inbox[bytes],
        number: int,
        data: bytes,
        delta: RunDelta | None,
        reason: str,
        before: list[asyncio.Event],
    ) -> None:
        for event in before:
            await event.wait()
        backoff_s = self._limits.backoff_s_first
        while self._inboxes.get(shard) is inbox:  # a newer stream tells all that this one has not
            try:
                wanted = await self._once(data, delta, reason)
                break
            except (CallerError, NotHere, StoreError) as error:
                log.info("a delta waits", peer=self.peer, shard=shard, number=number, error=repr(error))
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, self._limits.backoff_s_max)
        else:
            return
        if wanted is not None:
            inbox.asked(number)
            self._answer(Have(shard, inbox.stream, number, wanted.have, wanted.events_from))
            return
        done_before = inbox.done_number
        inbox.done(number)
        if inbox.done_number > done_before:
            if self._inboxes.get(shard) is inbox:
                self._heard[shard].acknowledged(inbox.done_number)
            self._acknowledge(shard, inbox)

    async def _once(self, data: bytes, delta: RunDelta | None, reason: str) -> Wanted | None:
        """None: it is durable, or in quarantine. Raises what passes."""
        if delta is not None:
            try:
                share = await self._share_of(delta.namespace_id)
                if share is Share.GONE:
                    return None
                if share is Share.UNKNOWN:
                    raise unavailable(f"the namespace {delta.namespace_id} is not known here yet")
                if share is Share.FOREIGN:
                    raise Poison(f"the namespace {delta.namespace_id} is not one that this peer may write")
                outcome = await self._apply(delta)
                if isinstance(outcome, Wanted):
                    return outcome
                await self._quarantine.healed(self.peer, delta)
                return None
            except Poison as error:
                reason = error.reason
        await self._quarantine.put(self.peer, delta, data, reason)
        return None

    def _acknowledge(self, shard: int, inbox: Inbox[bytes]) -> None:
        if inbox.done_number:
            self._answer(Ack(shard, inbox.stream, inbox.done_number))
