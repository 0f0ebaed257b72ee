"""Membership by etcd: each node holds a lease with its entry on it; a watch shows everybody the same entries.

Two loops: one keeps the lease (and registers again when it was lost), one watches. When etcd is gone both try on, the last known
view stays and is called stale. Leases survive a restart of etcd, which gives each its full time again, so nobody is lost by it.
The keys are in etcd_entries.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import aclosing, suppress
from typing import Any

import msgspec
import structlog

from cluster.membership.etcd_client import Compacted, Entry, Etcd, EtcdUnavailable, LeaseGone
from cluster.membership.etcd_entries import ClusterEntry, EtcdSettings, compare_cluster, incarnation_of, joins_of, node_of
from cluster.membership.flapping import hold_s, next_joins
from cluster.membership.listeners import Views
from cluster.membership.member_table import MemberTable
from cluster.membership.members import (
    MembershipRefused,
    MembershipUnavailable,
    NodeInfo,
    NodeState,
    OnChange,
    View,
)
from cluster.seams import Clock, Ids, Spawn

log = structlog.get_logger("outlast.membership")


def channel(settings: EtcdSettings) -> Etcd:
    return Etcd(settings.endpoints, settings.call_timeout_s, settings.tls)


class EtcdMembership:
    """See the module's text, and `Membership` for the interface. connect: makes a channel to etcd."""

    def __init__(
        self, settings: EtcdSettings, clock: Clock, ids: Ids, spawn: Spawn, connect: Callable[[EtcdSettings], Etcd] = channel
    ) -> None:
        self.settings = settings
        self._clock, self._ids, self._spawn = clock, ids, spawn
        self._etcd = connect(settings)  # the lease's
        self._watched_etcd = connect(settings)
        self._views, self._table = Views(), MemberTable()
        self._jobs: list[asyncio.Task[None]] = []
        self._me: NodeInfo | None = None
        self._wake = asyncio.Event()
        # The lease and what hangs on it.
        self._lease: int | None = None
        self._has_joined = False
        self._is_counted = False  # this registration is in the record of joins already
        self._published: NodeInfo | None = None
        self._published_revision = 0
        self._hold_until = 0.0
        self._answered_at = 0.0
        # The watch.
        self._is_synced = False
        self._revision = self._etcd_id = 0
        self._seen_of_me: tuple[int, str] = (0, "")  # revision and incarnation of the entry under this node's id
        self._linger: asyncio.TimerHandle | None = None
        # How it ends or begins.
        self._last_failure = ""
        self._news: list[asyncio.Future[None]] = []
        self._expelled: str | None = None

    # --- the interface ------------------------------------------------------------------------------------------------
    async def join(self, me: NodeInfo) -> None:
        assert self._me is None, "joined already"
        self._me = me
        self._jobs = [
            self._spawn(self._guarded(self._run_lease()), "membership lease"),
            self._spawn(self._guarded(self._run_watch()), "membership watch"),
        ]
        try:
            await self._until(lambda: self._published is not None and self._is_synced and self._seen_of_me[1] == me.incarnation)
        except (MembershipUnavailable, MembershipRefused, asyncio.CancelledError):
            await self.leave()
            raise

    async def set_state(self, state: NodeState) -> None:
        assert self._me is not None, "set_state before join"
        wished = self._me = msgspec.structs.replace(self._me, state=state)
        self._wake.set()
        await self._until(lambda: self._me is not wished or not self._is_unpublished(), self.settings.call_timeout_s * 2)

    async def leave(self) -> None:
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        self._jobs = []
        if self._linger is not None:
            self._linger.cancel()
        if (lease := self._lease) is not None:
            self._lease = None
            try:
                await self._etcd.revoke(lease)
            except EtcdUnavailable as failure:
                log.warning("could not leave; the lease runs out by itself", ttl_s=self.settings.lease_ttl_s, reason=str(failure))
            except LeaseGone:
                log.info("the lease had run out before this node left")
        await self._etcd.close()
        await self._watched_etcd.close()
        self._is_synced = False
        self._show()

    def members(self) -> View:
        return self._views.current

    def on_change(self, callback: OnChange) -> Callable[[], None]:
        return self._views.listen(callback)

    async def expelled(self) -> str:
        while self._expelled is None:
            await self._next_news()
        return self._expelled

    @property
    def last_failure(self) -> str:
        """What etcd, or the way to it, last had to say; for people."""
        return self._last_failure

    # --- the lease ------------------------------------------------------------------------------------------------------
    async def _run_lease(self) -> None:
        pause_s = self.settings.retry_min_s
        while True:
            try:
                if self._lease is None:
                    await self._register()
                elif self._is_unpublished():
                    await self._publish()
                else:
                    await self._etcd.keep_alive(self._lease)
                self._answered_at = asyncio.get_running_loop().time()
            except LeaseGone:
                log.warning("the lease is gone, registering again", node_id=self._mine.node_id)
                self._lease = None
            except EtcdUnavailable as failure:
                self._failed(failure)
                await self._etcd.rotate()
                await asyncio.sleep(pause_s * (0.5 + 0.5 * self._ids.jitter()))
                pause_s = min(self.settings.retry_max_s, pause_s * 2)
                continue
            pause_s = self.settings.retry_min_s
            self._show()  # what the watch showed may have waited for this answer to be fresh
            self._told()
            if self._lease is not None and not self._is_unpublished():
                await self._rest()

    async def _rest(self) -> None:
        """Until the next refresh is due, a new state is wished for, or the time of holding back is over."""
        self._wake.clear()
        limit_s = self.settings.lease_ttl_s / 3
        if (left_s := self._hold_until - asyncio.get_running_loop().time()) > 0:
            limit_s = min(limit_s, left_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):  # not wait_for, which in Python 3.11 loses a cancellation that meets a wake-up
                await self._wake.wait()

    @property
    def _mine(self) -> NodeInfo:
        assert self._me is not None, "used before join"
        return self._me

    def _shown(self) -> NodeInfo:
        """This node as others shall see it: while it is held back, it is joining."""
        is_held = self._mine.state is NodeState.READY and asyncio.get_running_loop().time() < self._hold_until
        return msgspec.structs.replace(self._mine, state=NodeState.JOINING) if is_held else self._mine

    def _is_unpublished(self) -> bool:
        return self._published != self._shown()

    async def _register(self) -> None:
        """A new lease with this node's entry. The first time it takes the id over from a former process."""
        me = self._mine
        await self._check_cluster()
        if not self._is_counted:
            await self._count_join()
            self._is_counted = True
        lease = await self._etcd.grant(self.settings.lease_ttl_s)
        key = self.settings.nodes_prefix + me.node_id
        there = await self._etcd.get(key)
        if there is not None and self._has_joined and incarnation_of(there) != me.incarnation:
            raise MembershipRefused(f"node id {me.node_id} was taken by another process while this one had lost its lease")
        shown = self._shown()
        revision = await self._etcd.put_if(key, msgspec.json.encode(shown), lease, there.revision if there else 0)
        if revision is None:
            return  # somebody else wrote it in between: the next turn of the loop looks who
        self._lease, self._has_joined, self._is_counted = lease, True, False
        self._published, self._published_revision = shown, revision
        log.info("registered", node_id=me.node_id, state=shown.state.value, lease=lease)
        self._check_superseded()

    async def _publish(self) -> None:
        assert self._lease is not None
        shown = self._shown()
        key = self.settings.nodes_prefix + shown.node_id
        revision = await self._etcd.put_if_mine(key, msgspec.json.encode(shown), self._lease)
        if revision is None:
            self._lease = None  # the entry is gone or another's: registering again finds out which
            return
        self._published, self._published_revision = shown, revision

    async def _check_cluster(self) -> None:
        """The first node writes which cluster this is; everybody else must be of it."""
        me, key = self._mine, self.settings.cluster_key
        there = await self._etcd.get(key)
        if there is None:
            mine = msgspec.json.encode(ClusterEntry(me.cluster_id, me.shard_count))
            if await self._etcd.put_if(key, mine, 0, 0) is not None:
                return
            there = await self._etcd.get(key)
        if there is None:
            raise EtcdUnavailable(f"{key} appears and disappears")
        compare_cluster(there, me)

    async def _count_join(self) -> None:
        """Remembers this join outside of the node's lease, and finds out how long to hold back for it."""
        limits = self.settings.flapping
        key = self.settings.joins_key(self._mine.node_id)
        there = await self._etcd.get(key)
        joins = next_joins(joins_of(there), self._clock.now_ns(), limits)
        memory = await self._etcd.grant(limits.window_s)  # so that ids which never come back leave nothing behind
        await self._etcd.put_if(key, msgspec.json.encode(joins), memory, there.revision if there else 0)
        if held_s := hold_s(joins, limits):
            self._hold_until = asyncio.get_running_loop().time() + held_s
            log.warning("this node comes and goes; it holds back before it takes shards", joins=len(joins), hold_s=held_s)

    # --- the watch ------------------------------------------------------------------------------------------------------
    async def _run_watch(self) -> None:
        pause_s = self.settings.retry_min_s
        while True:
            try:
                await self._read_all()
                pause_s = self.settings.retry_min_s
                async with aclosing(self._watched_etcd.watch(self.settings.prefix, self._revision + 1)) as changes:
                    async for entries in changes:
                        self._take(entries)
            except Compacted:
                log.warning("etcd has compacted its history past our watch, reading all again", revision=self._revision)
            except EtcdUnavailable as failure:
                self._is_synced = False
                self._failed(failure)
                await self._watched_etcd.rotate()
                await asyncio.sleep(pause_s * (0.5 + 0.5 * self._ids.jitter()))
                pause_s = min(self.settings.retry_max_s, pause_s * 2)

    async def _read_all(self) -> None:
        reading = await self._watched_etcd.read(self.settings.prefix)
        cluster = reading.entries.get(self.settings.cluster_key)
        if cluster is not None:
            compare_cluster(cluster, self._mine)
        has_lost_data = self._revision > 0 and (
            cluster is None or reading.revision < self._revision or reading.etcd_id != self._etcd_id
        )
        entries = [entry for key, entry in reading.entries.items() if key.startswith(self.settings.nodes_prefix)]
        self._seen_of_me = (0, "")  # what was seen in an etcd that has lost its data has a revision of before
        self._table.replace(self._readable(entries), has_lost_data)
        if has_lost_data:
            log.error("etcd has lost its data; members are kept until they have registered again", reading=reading.revision)
            self._linger_on()
        self._revision, self._etcd_id, self._is_synced = reading.revision, reading.etcd_id, True
        self._check_superseded()
        self._show()
        self._told()

    def _take(self, entries: list[Entry]) -> None:
        begin = self.settings.nodes_prefix
        for entry in entries:
            self._revision = max(self._revision, entry.revision)
            if entry.key == self.settings.cluster_key and not entry.is_deleted:
                compare_cluster(entry, self._mine)
            if not entry.key.startswith(begin):
                continue
            if entry.is_deleted:
                self._table.remove(entry.key.removeprefix(begin))
            else:
                for node in self._readable([entry]):
                    self._table.put(node)
        self._check_superseded()
        self._show()
        self._told()

    def _readable(self, entries: Iterable[Entry]) -> list[NodeInfo]:
        found = [(entry, node_of(entry, self.settings, self._mine.cluster_id)) for entry in entries]
        for entry, node in found:
            if node is not None and node.node_id == self._mine.node_id:
                self._seen_of_me = (entry.revision, node.incarnation)
        return [node for _, node in found if node is not None]

    def _check_superseded(self) -> None:
        """A later process with this node's id has taken its entry. It does not fight back: the two would flap for ever."""
        if not self._is_synced:
            return  # the next reading looks again
        revision, incarnation = self._seen_of_me
        if self._has_joined and revision > self._published_revision and incarnation != self._mine.incarnation:
            raise MembershipRefused(f"node id {self._mine.node_id} was taken by another process")

    def _linger_on(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self._linger = asyncio.get_running_loop().call_later(self.settings.linger_s, self._end_linger)

    def _end_linger(self) -> None:
        self._linger = None
        if self._table.drop_lingering():
            self._show()

    # --- both -------------------------------------------------------------------------------------------------------------
    def _show(self) -> None:
        unheard_s = asyncio.get_running_loop().time() - self._answered_at
        is_stale = not self._is_synced or (self._has_joined and unheard_s > self.settings.lease_ttl_s)
        self._views.show(self._table.ordered(), is_stale, frozenset(self._table.lingering))
        if self._is_synced:
            self._judge_hold()

    def _judge_hold(self) -> None:
        """Holding back spares others; where nobody else is ready it would leave the shards to nobody."""
        if asyncio.get_running_loop().time() >= self._hold_until:
            return
        me = self._mine.node_id
        if not any(node.state is NodeState.READY and node.node_id != me for node in self._views.current.nodes):
            log.warning("nobody else is ready: this node holds back no longer")
            self._hold_until = 0.0
            self._wake.set()

    def _failed(self, failure: EtcdUnavailable) -> None:
        if str(failure) != self._last_failure:
            log.warning("etcd does not answer, trying on", endpoint=self._etcd.endpoint, reason=str(failure))
        self._last_failure = str(failure)
        self._show()

    async def _guarded(self, loop: Coroutine[Any, Any, None]) -> None:
        """A loop that ends takes the membership with it, and says so."""
        try:
            await loop
        except MembershipRefused as refusal:
            self._expel(str(refusal))
        except Exception as failure:
            self._expel(f"membership failed: {type(failure).__name__}: {failure}")
            raise

    def _expel(self, reason: str) -> None:
        log.error("this node can be no member any more", reason=reason)
        self._expelled = self._expelled or reason
        for job in self._jobs:
            if job is not asyncio.current_task():
                job.cancel()
        self._is_synced = False
        self._show()
        self._told()

    async def _next_news(self) -> None:
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._news.append(news)
        await news

    def _told(self) -> None:
        waiting, self._news = self._news, []
        for news in waiting:
            if not news.done():
                news.set_result(None)

    async def _until(self, is_true: Callable[[], bool], limit_s: float | None = None) -> None:
        limit_s = limit_s or self.settings.join_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                while not is_true():
                    if self._expelled is not None:
                        raise MembershipRefused(self._expelled)
                    await self._next_news()
        except TimeoutError:
            reason = self._last_failure or "no answer"
            raise MembershipUnavailable(f"etcd {self._etcd.endpoint}, not within {limit_s:g} s: {reason}") from None
