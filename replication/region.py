"""This node's end of all streams: its shards on one side, a sender and a receiver per peer on the other.

    service.on_shard -> each shard that opens tells its durable groups to every sender
    parties(hello)   -> the sender and the receiver of a peer that is known by name
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from cluster.core.entry import Entry, decode_entry
from cluster.core.state import RunState
from cluster.history.replicate import Applied, Wanted, replicate
from cluster.history.run import Run
from cluster.history.run_delta import RunDelta
from cluster.history.service import HistoryService
from cluster.history.shard import Shard
from cluster.seams import Clock, Spawn
from cluster.stores.base import RunKey, Store, StoreError
from replication.cursors import Cursors
from replication.feed import Lag
from replication.limits import StreamLimits
from replication.messages import Hello
from replication.quarantine import Quarantine
from replication.receiver import Apply, Receiver, Share
from replication.sender import Sender
from replication.session import Refused

log = structlog.get_logger("replication")

SHARDS_LOOK_S = 0.5


class Peer(msgspec.Struct, frozen=True):
    """Another region, as it was linked."""

    name: str
    initial_version: int


ShareOf = Callable[[str, str], Awaitable[Share]]


class Region:
    """has(peer, namespace_id): whether that peer is one of the namespace's regions. share_of(peer, namespace_id): the same of
    what the peer tells (None: as `has` says). shared_with(peer): all namespaces that it has, too. `take_in` gives a delta to
    the run's shard: one of this node, or any once it is replaced."""

    def __init__(
        self,
        service: HistoryService,
        store: Store,
        clock: Clock,
        spawn: Spawn,
        has: Callable[[str, str], bool],
        limits: StreamLimits | None = None,
        share_of: ShareOf | None = None,
        shared_with: Callable[[str], frozenset[str]] = lambda peer: frozenset(),
    ) -> None:
        self._shared_with = shared_with
        self.take_in: Apply = self.apply
        self._share_of = share_of or self._share_as_told
        self.limits = limits or StreamLimits()
        self.quarantine = Quarantine(store, clock)
        self.senders: dict[str, Sender] = {}
        self._receivers: dict[str, Receiver] = {}
        self._peers: dict[str, Peer] = {}
        self._service, self._store, self._spawn, self._has = service, store, spawn, has
        service.on_shard = self._on_shard

    # --- peers -----------------------------------------------------------------------------------------------------------

    def add_peer(self, peer: Peer) -> None:
        if peer.name in self._peers:
            return

        def has(namespace_id: str) -> bool:
            return self._has(peer.name, namespace_id)

        self._peers[peer.name] = peer
        cursors = Cursors(self._store, peer.name)
        self.senders[peer.name] = Sender(
            peer.name, peer.initial_version, cursors, has, self.limits, lambda: self._shared_with(peer.name)
        )
        self._receivers[peer.name] = Receiver(
            peer.name, self._take_in, self.quarantine, self._spawn, self.limits, lambda id: self._share_of(peer.name, id)
        )
        for shard in list(self._service.ownership.open.values()):
            self._feed(shard)

    def parties(self, peer: Hello) -> tuple[Sender, Receiver]:
        """Raises Refused."""
        known = self._peers.get(peer.cluster)
        if known is None:
            raise Refused(f"region {peer.cluster!r} is not linked with this one")
        if known.initial_version != peer.initial_version:
            raise Refused(
                f"region {peer.cluster!r} says that its initial failover version is {peer.initial_version}, "
                f"and it was linked with {known.initial_version}"
            )
        return self.senders[peer.cluster], self._receivers[peer.cluster]

    def remove_peer(self, name: str) -> None:
        """It is no longer linked: nothing is told to it, and nothing of it is taken in."""
        self._peers.pop(name, None)
        self.senders.pop(name, None)
        self._receivers.pop(name, None)

    async def _share_as_told(self, peer: str, namespace_id: str) -> Share:
        return Share.SHARED if self._has(peer, namespace_id) else Share.FOREIGN

    async def _take_in(self, delta: RunDelta) -> Applied | Wanted:
        return await self.take_in(delta)

    async def apply(self, delta: RunDelta) -> Applied | Wanted:
        """On the shard of this node that owns the run. Raises Poison, CallerError UNAVAILABLE, NotHere."""
        service = self._service
        shard = await service.shard_of(delta.namespace_id, delta.workflow_id)
        service.ownership.call_begins(shard.id)
        try:
            return await replicate(shard, delta)
        finally:
            service.ownership.call_ends(shard.id)

    # --- shards ----------------------------------------------------------------------------------------------------------

    def _on_shard(self, shard: Shard) -> None:
        shard.on_durable_entries = self._take

    def _take(self, shard: Shard, position: int, entries: list[bytes], touched: dict[Run, RunState]) -> None:
        """A group is durable. Whatever goes wrong here must not end the shard: the peers are caught up by state then."""
        try:
            namespaces = {run.key.namespace_id for run in touched}
            senders = list(self.senders.values())
            wanted: list[tuple[bytes, Entry]] = []
            states: dict[RunKey, RunState] = {}
            if any(sender.ships(namespace_id) for sender in senders for namespace_id in namespaces):
                wanted = [(data, decode_entry(data)) for data in entries]
                states = {run.key: state for run, state in touched.items()}
            for sender in senders:
                sender.take(shard, position, wanted, states)
        except Exception:
            log.exception("a group could not be told to the peers; they are caught up by state", shard=shard.id)
            for sender in self.senders.values():
                sender.take_by_state(shard, position)

    def _feed(self, shard: Shard) -> None:
        for sender in self.senders.values():
            sender.feed_of(shard, shard.journal.durable_position)

    async def look_after_shards(self) -> None:
        """For ever: feeds of shards that were opened, and tombstones that every peer has had."""
        while True:
            for shard in list(self._service.ownership.open.values()):
                if shard.is_open:
                    self._feed(shard)
                    await self._forget_tombstones(shard)
            await asyncio.sleep(SHARDS_LOOK_S)

    async def _forget_tombstones(self, shard: Shard) -> None:
        if shard.replicas is None or not self.senders:
            return
        try:
            await shard.replicas.forget_passed(min(sender.cursor(shard.id) for sender in self.senders.values()))
        except StoreError as error:
            log.warning("tombstones stay for now", shard=shard.id, error=repr(error))

    def heard(self, peer: str) -> dict[int, int]:
        """Source shard -> up to which position of its journal this node has all that the peer told it."""
        receiver = self._receivers.get(peer)
        return {} if receiver is None else receiver.heard

    # --- figures ---------------------------------------------------------------------------------------------------------

    def lag(self) -> dict[str, dict[int, Lag]]:
        """By peer, by shard."""
        return {name: sender.lag() for name, sender in self.senders.items()}
