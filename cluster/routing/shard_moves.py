"""Shards follow the ring: what this node should have and has not it takes, from whoever has it; what others should have it gives.

    the ring says | here    | what happens
    --------------+---------+------------------------------------------------------------------------------------------
    mine          | absent  | its former owner, if alive, is asked to release it; then the lease is taken, which fences all others
    mine          | open    | nothing
    another's     | open    | it is served until its new owner asks for it; if that takes long, the lease is confirmed, and the
                  |         | owner told: it may believe that it has the shard
    nobody's      | open    | it is served: this node is leaving, and nobody is ready to take over

At most MOVES_AT_ONCE are taken at a time from others, TAKES_AT_ONCE of those that nobody serves, and these first. A lease that
was lost is not fought for: the shard is taken again after a pause, if a fresh view still says that it is mine. While the view
is stale nothing is taken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import structlog

from cluster.core.errors import CallerError, invalid_argument
from cluster.history.ownership import NotHere
from cluster.history.service import HistoryService
from cluster.membership.members import View
from cluster.membership.ring import HISTORY, Ring
from cluster.routing.history_messages import HELD, RELEASE, Held, Release, Released, decode, encode
from cluster.routing.peers import Peers
from cluster.routing.shard_plan import Plan, Take, formers, plan
from cluster.seams import Ids, Spawn

log = structlog.get_logger("outlast.routing")

MOVES_AT_ONCE = 4
TAKES_AT_ONCE = 32  # of shards that nobody serves: what they wait for (READ_LEASE_S), they wait for together
RELEASE_S_MAX = 5.0  # what a former owner gets to checkpoint and close; then its lease is taken without its word
ASKS_MAX = 3  # nodes asked for one shard: each may name the one that has it really
PAUSE_S = 1.0  # after a lost lease; up to twice that, by jitter. Membership has told both sides by then
CONFIRM_S = 5.0  # between two looks at leases that somebody else may have taken unnoticed
TELL_S_MAX = 2.0
SOON_S = 0.001  # less is no time to wait for
LAST_MOVES_MAX = 100


class ShardRow(msgspec.Struct, frozen=True):
    """One line of `outlast cluster shards`, as this node sees it.

    owner: by the ring, "" = nobody. state: of the shard here: taking, opening, open, leaving, or "". since: ns since the epoch;
    0, like range_id 0: not open here.
    """

    shard: int
    owner: str
    state: str
    since: int
    range_id: int


class Moves(Protocol):
    """What routing asks of the driver."""

    def where(self, shard: int) -> str:
        """The node to ask for a shard that is not here, "" = not known. It is wanted: its turn comes first."""
        ...


class ShardMoves:
    """See the module's text. One per node; `start` after the service's."""

    def __init__(self, service: HistoryService, peers: Peers, spawn: Spawn, ids: Ids) -> None:
        self.taken_count = self.given_count = self.lost_count = 0
        self.last_moves_s: deque[float] = deque(maxlen=LAST_MOVES_MAX)
        self._service, self._peers, self._spawn, self._ids = service, peers, spawn, ids
        self._me = peers.me
        self._ring: Ring | None = None  # the one whose former owners are known
        self._former: dict[int, str] = {}
        self._taking: dict[int, str] = {}  # shard -> whoever is being asked for it
        self._wanted: set[int] = set()  # a call has come for it
        self._paused_until: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._confirm_timer: asyncio.TimerHandle | None = None
        self._news: asyncio.Future[None] | None = None
        self._is_running = False
        service.ownership.may_open = self._is_mine
        service.ownership.is_shared = peers.has_others
        service.ownership.on_lease_lost = self._on_lease_lost
        peers.on_ring(self._on_ring)
        self._end_listening = peers.membership.on_change(self._on_view)
        peers.serve(RELEASE, self._serve_release)
        peers.serve(HELD, self._serve_held)

    # --- life ---------------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """From now on shards are taken; they are given from the beginning."""
        self._is_running = True
        self._learn(Ring((), self._peers.ring.shard_count), self._peers.ring)
        self._look()

    async def close(self) -> None:
        """Before the service's. Nothing is taken any more. What is under way ends with the service."""
        self._is_running = False
        self._end_listening()
        for timer in (self._timer, self._confirm_timer):
            if timer is not None:
                timer.cancel()

    async def wait_until_settled(self, deadline: float) -> bool:
        """True when all shards that the ring gives to this node are open; False at the deadline (loop.time() seconds)."""
        return await self._wait_until(lambda: self._open.issuperset(self._peers.ring.shards_of(self._me)), deadline)

    async def wait_until_empty(self, deadline: float) -> bool:
        """For the drain, after the state LEAVING: True when the others have taken every shard. False at the deadline, or as soon
        as no other node is there to take them."""
        await self._wait_until(lambda: self._service.ownership.is_empty or not self._has_heirs, deadline)
        return self._service.ownership.is_empty

    @property
    def _open(self) -> set[int]:
        return set(self._service.ownership.open)

    @property
    def _has_heirs(self) -> bool:
        return any(node.node_id != self._me for node in self._peers.ring.with_role(HISTORY))

    async def _wait_until(self, is_so: Callable[[], bool], deadline: float) -> bool:
        loop = asyncio.get_running_loop()
        while not is_so():
            left_s = deadline - loop.time()
            if left_s < SOON_S:
                return False
            if self._news is None:
                self._news = loop.create_future()
            await asyncio.wait([self._news], timeout=left_s)
        return True

    def _tell(self) -> None:
        news, self._news = self._news, None
        if news is not None and not news.done():
            news.set_result(None)

    # --- what people see ------------------------------------------------------------------------------------------------------
    @property
    def under_way_count(self) -> int:
        return len(self._taking) + self._service.ownership.leaving_count

    def describe(self) -> list[ShardRow]:
        """One row per shard of the cluster."""
        ownership = self._service.ownership
        rows = []
        for shard, owner in enumerate(self._peers.ring.shard_owners):
            held = ownership.open.get(shard)
            rows.append(
                ShardRow(
                    shard,
                    owner.node_id if owner is not None else "",
                    ownership.state_of(shard) or ("taking" if shard in self._taking else ""),
                    ownership.since.get(shard, 0),
                    held.lease.range_id if held is not None else 0,
                )
            )
        return rows

    def own_rows(self) -> list[dict[str, Any]]:
        """Those of the shards that this node has to do with, for Overview."""
        return [msgspec.to_builtins(row) for row in self.describe() if row.state]

    def figures(self) -> dict[str, float]:
        """For metrics and people."""
        last = sorted(self.last_moves_s)
        return {
            "owned": len(self._service.owned),
            "under_way": self.under_way_count,
            "taken": self.taken_count,
            "given": self.given_count,
            "lost": self.lost_count,
            "last_moves_s_median": last[len(last) // 2] if last else 0.0,
            "last_moves_s_max": last[-1] if last else 0.0,
        }

    def where(self, shard: int) -> str:
        """Whom to ask for a shard that is not open here, "" = not known. A shard that this node should have is wanted: its turn
        comes first."""
        if self._is_mine(shard):
            self._wanted.add(shard)
        return self._pointer(shard)

    def _pointer(self, shard: int) -> str:
        if not self._is_mine(shard):
            owner = self._peers.ring.owner_of_shard(shard)
            return owner.node_id if owner is not None else ""
        former = self._taking.get(shard) or self._former.get(shard, "")
        return former if former != self._me and former in self._alive else ""

    # --- the ring -----------------------------------------------------------------------------------------------------------
    @property
    def _alive(self) -> set[str]:
        return {node.node_id for node in self._peers.membership.members().nodes}

    @property
    def _is_stale(self) -> bool:
        return self._peers.membership.members().is_stale

    def _is_mine(self, shard: int) -> bool:
        return self._peers.is_me(self._peers.ring.owner_of_shard(shard))

    def _learn(self, before: Ring, after: Ring) -> None:
        self._ring, self._former = after, formers(self._me, self._former, before, after)

    def _on_ring(self, before: Ring, after: Ring) -> None:
        self._learn(before, after)
        self._paused_until.clear()
        self._look()
        self._tell()

    def _on_view(self, view: View) -> None:
        """Fresh again, perhaps with the same members: then no ring change tells of it."""
        if view.is_stale:
            self._confirm_later()
        else:
            self._look()

    def _plan(self) -> Plan:
        return plan(self._me, self._peers.ring, self._service.owned, self._former, self._alive)

    def _look(self) -> None:
        """Begins what may begin now. Not between a new ring and the news of it: who is to be asked is not known then."""
        if not self._is_running or self._is_stale or self._ring is not self._peers.ring:
            return
        now = asyncio.get_running_loop().time()
        takes, gives = self._plan()
        for take in sorted(takes, key=lambda take: take.shard not in self._wanted):
            if len(self._taking) >= (MOVES_AT_ONCE if take.ask else TAKES_AT_ONCE):
                continue
            if take.shard not in self._taking and self._paused_until.get(take.shard, 0.0) <= now:
                self._taking[take.shard] = take.ask
                self._spawn(self._take(take), f"take-shard-{take.shard}")
        if gives:
            self._confirm_later()
        pauses = [self._paused_until[take.shard] for take in takes if self._paused_until.get(take.shard, 0.0) > now]
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(min(pauses), self._look) if pauses else None

    # --- taking -------------------------------------------------------------------------------------------------------------
    async def _take(self, take: Take) -> None:
        shard, loop = take.shard, asyncio.get_running_loop()
        began = loop.time()
        try:
            is_released = await self._ask_for(take)
            if self._may_take(shard):
                await self._service.take(shard, is_released=is_released)
                self.taken_count += 1
                self.last_moves_s.append(loop.time() - began)
        except (NotHere, CallerError) as error:
            log.info("shard was not taken", shard=shard, reason=str(error))
            self._pause(shard)
        except Exception as error:  # its opening has been reported as a job's failure; the other shards are taken none the less
            log.error("shard cannot be taken", shard=shard, error=repr(error))
            self._pause(shard)
        finally:
            del self._taking[shard]
        self._wanted.discard(shard)
        self._look()
        self._tell()

    def _may_take(self, shard: int) -> bool:
        now = asyncio.get_running_loop().time()
        return self._is_running and self._is_mine(shard) and self._paused_until.get(shard, 0.0) <= now

    async def _ask_for(self, take: Take) -> bool:
        """True when the shard has been released; False if nobody can be asked: then its lease is taken without a word."""
        ask, asked = take.ask, {self._me, ""}
        while ask not in asked and len(asked) < 2 + ASKS_MAX and self._may_take(take.shard):
            asked.add(ask)
            node = self._peers.membership.members().node(ask)
            if node is None:
                return False
            self._taking[take.shard] = ask
            deadline = asyncio.get_running_loop().time() + RELEASE_S_MAX
            try:
                payload = await self._peers.call(node, RELEASE, encode(Release(shard=take.shard, by=self._me)), deadline)
                answer = decode(Released, payload)
            except CallerError as error:
                log.warning("former owner does not release a shard", shard=take.shard, node=ask, error=error.message)
                return False
            if answer.was_here:
                return True
            ask = answer.ask
        return False

    # --- giving -------------------------------------------------------------------------------------------------------------
    async def _serve_release(self, payload: bytes, deadline: float | None) -> bytes:
        """Whoever asks has a newer ring, or will be told by one: it is not argued with."""
        message = decode(Release, payload)
        shard = message.shard
        if not 0 <= shard < self._peers.ring.shard_count:
            raise invalid_argument(f"shard {shard} of {self._peers.ring.shard_count}")
        if self._is_mine(shard):
            self._pause(shard)
        try:
            was_here = await self._service.release(shard)
        finally:
            self._look()  # also if the asker has given up meanwhile: the shard leaves all the same, and may have to come back
        if was_here:
            self.given_count += 1
            log.info("shard given", shard=shard, to=message.by)
            self._former[shard] = message.by
            self._tell()
            self._look()
        ask = "" if was_here else self._pointer(shard)
        return encode(Released(was_here=was_here, ask="" if ask == message.by else ask))

    # --- losing -------------------------------------------------------------------------------------------------------------
    def _on_lease_lost(self, shard: int) -> None:
        log.warning("another node took a shard", shard=shard)
        self.lost_count += 1
        self._pause(shard)
        self._look()
        self._tell()

    def _pause(self, shard: int) -> None:
        self._paused_until[shard] = asyncio.get_running_loop().time() + PAUSE_S * (1 + self._ids.jitter())

    def _confirm_later(self) -> None:
        if self._confirm_timer is None and self._is_running:
            self._confirm_timer = asyncio.get_running_loop().call_later(CONFIRM_S, self._begin_confirming)

    def _begin_confirming(self) -> None:
        self._confirm_timer = None
        if self._is_running:
            self._spawn(self._confirm(), "confirm-leases")

    async def _confirm(self) -> None:
        """A shard that another node may have taken while this one could not hear it would go on showing what it last knew."""
        suspects = sorted(self._service.owned) if self._is_stale else self._plan().gives
        for shard in suspects:
            await self._service.ownership.confirm(shard)
            await self._tell_owner(shard)
        if suspects:
            self._confirm_later()

    async def _tell_owner(self, shard: int) -> None:
        """Of a shard that is rightly open here, and is another's by the ring."""
        held, owner = self._service.ownership.open.get(shard), self._peers.ring.owner_of_shard(shard)
        if held is None or owner is None or owner.node_id == self._me or self._is_stale:
            return
        message = Held(shard=shard, range_id=held.lease.range_id, by=self._me)
        try:
            await self._peers.call(owner, HELD, encode(message), asyncio.get_running_loop().time() + TELL_S_MAX)
        except CallerError as error:
            log.info("the owner of a shard could not be told who has it", shard=shard, node=owner.node_id, error=error.message)

    async def _serve_held(self, payload: bytes, deadline: float | None) -> bytes:
        message = decode(Held, payload)
        self._former[message.shard] = message.by
        mine = self._service.ownership.open.get(message.shard)
        if mine is not None and mine.lease.range_id < message.range_id:
            await self._service.ownership.confirm(message.shard)
        self._look()
        return b""
