"""Which shards this node has, and how it comes to have one and gives it back. For any other shard it answers NotHere.

    state of a shard here | begins with                       | a call for it
    ----------------------+-----------------------------------+----------------------------------------
    absent                | never taken, given back, lost     | NotHere: nothing has happened, ask elsewhere
    opening               | take; a failure of the open shard | waits, OPEN_WAIT_S_MAX at most
    open                  | its journal is replayed           | is served
    leaving               | release                           | NotHere; calls under way end, then checkpoint and close

Who should have which shard is decided elsewhere (cluster/routing/shard_moves.py); the store's fence makes it true.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection

import structlog

from cluster.core.errors import CallerError, unavailable
from cluster.history.journal import shard_is_moving
from cluster.history.shard import Shard
from cluster.seams import Clock, Spawn
from cluster.stores.base import LeaseLost, StoreError, StoreUnavailable

log = structlog.get_logger("history")

OPEN_BACKOFF_S_FIRST = 0.05
OPEN_BACKOFF_S_MAX = 5.0
OPEN_WAIT_S_MAX = 10.0
CALLS_END_S_MAX = 1.0  # what calls under way get before their shard leaves; then they are told to retry
PARKED_AGAIN_S = 0.05  # how soon a call that parks itself in a leaving shard is ended
# How long an owner may answer from memory after the last write that showed its lease to be good. Whoever takes a shard without
# the former owner's word waits as long before it serves. So a node that was passed over (stopped, cut off) shows and refuses
# nothing on the strength of what it last knew. A busy shard's own appends keep it fresh.
READ_LEASE_S = 1.0
SHUTTING_DOWN = "This node is shutting down: retry, another node or its next start will answer."


class NotHere(Exception):
    """This node does not have the shard. Nothing has happened. ask: the node that may have it, "" = look at the ring."""

    def __init__(self, shard: int, ask: str = "") -> None:
        super().__init__(f"shard {shard} is not on this node")
        self.shard = shard
        self.ask = ask


class Ownership:
    """See the module's text. One per node.

    make: a shard, not yet open. on_gone: it has left memory. may_open is asked before each lease that is taken.
    on_lease_lost: told of a shard that somebody else took; it is absent then. Without it the shard is taken again at once,
    as befits a node that is alone.
    """

    def __init__(
        self, make: Callable[[int], Shard], owner: str, clock: Clock, spawn: Spawn, on_gone: Callable[[Shard], None]
    ) -> None:
        self.open: dict[int, Shard] = {}
        self.owned: set[int] = set()
        self.since: dict[int, int] = {}  # ns since the epoch, of each open shard
        self.may_open: Callable[[int], bool] = lambda number: True
        self.on_lease_lost: Callable[[int], None] | None = None
        self.on_open: Callable[[Shard], None] = lambda shard: None
        self.is_closed = False
        self.is_shared = False  # other nodes may take a shard from this one
        self._confirming: dict[int, asyncio.Lock] = {}
        self._unreleased: set[int] = set()  # to be taken without the former owner's word
        self._make, self._owner, self._clock, self._spawn, self._on_gone = make, owner, clock, spawn, on_gone
        self._opening: dict[int, asyncio.Future[Shard]] = {}
        self._leaving: dict[int, asyncio.Task[None]] = {}
        self._calls: Counter[int] = Counter()
        self._idle: dict[int, asyncio.Future[None]] = {}

    # --- looking ----------------------------------------------------------------------------------------------------------
    async def get(self, number: int) -> Shard:
        """The open shard; waits for it to open. Raises NotHere, UNAVAILABLE."""
        shard = self.open.get(number)
        if shard is not None:
            return shard
        if self.is_closed:
            raise unavailable(SHUTTING_DOWN)
        if number not in self.owned:
            raise NotHere(number)
        try:
            async with asyncio.timeout(OPEN_WAIT_S_MAX):
                return await asyncio.shield(self._open_once(number))
        except TimeoutError:
            raise unavailable("The shard of this workflow is still recovering: retry with the same request id.") from None

    def state_of(self, number: int) -> str:
        if number in self.open:
            return "open"
        if number in self._leaving:
            return "leaving"
        return "opening" if number in self.owned else ""

    @property
    def is_empty(self) -> bool:
        return not (self.open or self.owned or self._leaving)

    @property
    def leaving_count(self) -> int:
        return len(self._leaving)

    # --- calls under way: a shard that leaves lets them end ------------------------------------------------------------------
    def call_begins(self, number: int) -> None:
        self._calls[number] += 1

    def call_ends(self, number: int) -> None:
        left_count = self._calls[number] = self._calls[number] - 1
        if not left_count and (idle := self._idle.get(number)) is not None and not idle.done():
            idle.set_result(None)

    # --- taking -----------------------------------------------------------------------------------------------------------
    async def take_all(self, numbers: Collection[int]) -> None:
        self.owned.update(numbers)
        await asyncio.gather(*(asyncio.shield(self._open_once(number)) for number in numbers))

    async def take(self, number: int, *, is_released: bool = True) -> None:
        """Returns when it is open. is_released: nobody serves it any more. Raises NotHere (released, or lost, before it was),
        UNAVAILABLE (shutting down)."""
        while (leaving := self._leaving.get(number)) is not None:
            await asyncio.shield(leaving)
        if self.is_closed:
            raise unavailable(SHUTTING_DOWN)
        self.owned.add(number)
        if number not in self.open:
            if not is_released:
                self._unreleased.add(number)
            await asyncio.shield(self._open_once(number))

    def _open_once(self, number: int) -> asyncio.Future[Shard]:
        opening = self._opening.get(number)
        if opening is None:
            opening = asyncio.get_running_loop().create_future()
            opening.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may be that nobody waits
            self._opening[number] = opening
            self._spawn(self._open(number, opening), f"open-shard-{number}")
        return opening

    async def _open(self, number: int, opening: asyncio.Future[Shard]) -> None:
        backoff_s = OPEN_BACKOFF_S_FIRST
        while not self.is_closed and not opening.done() and number in self.owned:
            if not self.may_open(number):
                self.owned.discard(number)
                break
            shard = self._make(number)
            error: Exception | None = None
            try:
                await shard.open(self._owner, READ_LEASE_S if number in self._unreleased else 0.0)
                self._unreleased.discard(number)
            except (StoreError, CallerError) as failure:  # CallerError: its journal failed while it was looking for what is due
                log.warning("shard cannot be opened yet, will be tried again", shard=number, error=repr(failure))
                error = failure
                shard.fail(error if isinstance(error, StoreError) else StoreUnavailable(error.message))
            except Exception as failure:  # such as a record of a newer version: another try would not help
                self._ended(number, opening, failure)
                raise
            if shard.is_open:
                if number in self.owned and not self.is_closed:
                    self.open[number], self.since[number] = shard, self._clock.now_ns()
                    self._ended(number, opening, shard)
                    self.on_open(shard)
                    return
                await self._close(shard)  # it was released meanwhile
                break
            if self._is_lost(shard, error):
                break
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, OPEN_BACKOFF_S_MAX)
        self._ended(number, opening, unavailable(SHUTTING_DOWN) if self.is_closed else NotHere(number))

    def _ended(self, number: int, opening: asyncio.Future[Shard], outcome: Shard | Exception) -> None:
        self._opening.pop(number, None)
        if opening.done():
            return
        if isinstance(outcome, Shard):
            opening.set_result(outcome)
        else:
            opening.set_exception(outcome)

    # --- losing ---------------------------------------------------------------------------------------------------------
    def failed(self, shard: Shard) -> None:
        """The shard gave up its memory: it is opened again, unless somebody else has it now."""
        if self.open.get(shard.id, shard) is not shard:
            return
        self._on_gone(shard)
        if self.open.pop(shard.id, None) is None or self.is_closed or self._is_lost(shard, None):
            return
        self.since.pop(shard.id, None)
        self._open_once(shard.id)

    def _is_lost(self, shard: Shard, error: Exception | None) -> bool:
        """Whoever took it from us is not fought: two owners that did would fence each other for ever."""
        failure = shard.journal.failure if hasattr(shard, "journal") else None
        if self.on_lease_lost is None or not (isinstance(error, LeaseLost) or isinstance(failure, LeaseLost)):
            return False
        self.owned.discard(shard.id)
        self.since.pop(shard.id, None)
        self.on_lease_lost(shard.id)
        return True

    async def confirm(self, number: int) -> None:
        """Gives up the shard if its lease is not good any more: until its next write it would not notice."""
        shard = self.open.get(number)
        if shard is not None and shard.is_open:
            await self._has_lease(shard)

    async def confirm_lately(self, shard: Shard) -> None:
        """Before an answer from memory goes out: it was right when it was made. Raises ShardIsMoving."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        if not self.is_shared or began - shard.journal.confirmed_at <= READ_LEASE_S:
            return
        async with self._confirming.setdefault(shard.id, asyncio.Lock()):
            if shard.journal.confirmed_at < began and not (shard.is_open and await self._has_lease(shard)):
                raise shard_is_moving()

    async def _has_lease(self, shard: Shard) -> bool:
        """Asks the store."""
        sent_at = asyncio.get_running_loop().time()
        try:
            await shard.store.checkpoint(shard.lease, [], [], [], 0)
        except LeaseLost as error:
            shard.fail(error)
            return False
        except StoreError as error:
            log.warning("the lease of a shard could not be confirmed", shard=shard.id, error=repr(error))
            return False
        shard.journal.confirmed_at = max(shard.journal.confirmed_at, sent_at)
        return True

    # --- giving back ------------------------------------------------------------------------------------------------------
    async def release(self, number: int) -> bool:
        """Returns when the shard is checkpointed and closed; False if it was not here. Goes on if its caller gives up."""
        leaving = self._leaving.get(number)
        if leaving is None:
            if number not in self.owned:
                return False
            self.owned.discard(number)
            leaving = self._leaving[number] = self._spawn(self._leave(number), f"release-shard-{number}")
        await asyncio.shield(leaving)
        return True

    async def _leave(self, number: int) -> None:
        try:
            if (opening := self._opening.get(number)) is not None:
                await asyncio.wait([opening])
            shard = self.open.pop(number, None)
            self.since.pop(number, None)
            if shard is not None:
                await self._calls_end(shard)
                await self._close(shard)
        finally:
            del self._leaving[number]

    async def _calls_end(self, shard: Shard) -> None:
        """Parked calls are told to come again, to the next owner; the others are about to end by themselves."""
        loop = asyncio.get_running_loop()
        until = loop.time() + CALLS_END_S_MAX
        while shard.is_open and self._calls[shard.id] and loop.time() < until:
            for run in list(shard.runs.values()):
                run.fail_waiters(shard_is_moving())
            idle = self._idle[shard.id] = loop.create_future()
            await asyncio.wait([idle], timeout=PARKED_AGAIN_S)
            del self._idle[shard.id]

    async def _close(self, shard: Shard) -> None:
        await shard.close()
        self._on_gone(shard)

    def refuse_openings(self) -> None:
        """The node ends: nobody waits for a shard any more."""
        self.is_closed = True
        for opening in list(self._opening.values()):
            if not opening.done():
                opening.set_exception(unavailable(SHUTTING_DOWN))

    async def close(self) -> None:
        """Checkpoints and gives up what is open."""
        self.is_closed = True
        await asyncio.gather(*map(asyncio.shield, self._leaving.values()))
        for shard in list(self.open.values()):
            await self._close(shard)
        self.open.clear()
        self.owned.clear()
