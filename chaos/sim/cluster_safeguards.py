"""The safeguards that only a cluster needs, each removed in turn in seeds of three nodes (removal.py).

What speed alone rests on is not here: without a release that waits, or without anybody being asked to let go, the fence still
holds and only more calls have to be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from chaos.sim.removal import Put, cluster_safeguard
from cluster.history.ownership import Ownership
from cluster.history.shard import Shard
from cluster.matching.sharing import Sharing
from cluster.membership.etcd import EtcdMembership
from cluster.routing.history import RoutedHistory
from cluster.routing.matching import RoutedMatching
from cluster.routing.matching_messages import Batch, BatchAnswer
from cluster.routing.matching_outbox import Outbox
from cluster.routing.shard_moves import ShardMoves
from cluster.stores.base import HistoryBlob, Lease, LeaseLost, RunKey, Snapshot
from cluster.stores.memory import MemoryStore
from cluster.wire import client_connection
from cluster.wire.connection import Connection
from cluster.wire.errors import Unreachable

NEVER_S = 86_400.0


# --- the fence ----------------------------------------------------------------------------------------------------------------
@cluster_safeguard
def lease_fences_checkpoints(put: Put) -> None:
    """A former owner cannot write rows over those of the next."""
    real = MemoryStore.checkpoint

    async def checkpoint(
        self: MemoryStore,
        lease: Lease,
        snapshots: Sequence[Snapshot],
        histories: Sequence[HistoryBlob],
        deletions: Sequence[RunKey],
        truncate_to: int,
    ) -> None:
        newest = Lease(lease.shard, self._shards[lease.shard].range_id, lease.owner)
        await real(self, newest, snapshots, histories, deletions, truncate_to)

    put(MemoryStore, "checkpoint", checkpoint)


@cluster_safeguard
def lease_fences_appends_of_other_nodes(put: Put) -> None:
    """A paused owner's append is refused when it goes on."""

    async def append(self: MemoryStore, lease: Lease, position: int, data: bytes) -> None:
        held = self._shards[lease.shard]
        if position != held.last_position + 1:
            raise LeaseLost(f"shard {lease.shard}: position {position} is not the next one")
        held.journal[position] = data
        held.last_position = position

    put(MemoryStore, "append", append)


# --- who has a shard --------------------------------------------------------------------------------------------------------
@cluster_safeguard
def lost_shards_are_not_stolen_back(put: Put) -> None:
    """Whoever took a shard keeps it until the ring says otherwise."""
    put(Ownership, "_is_lost", lambda self, shard, error: False)
    put(ShardMoves, "_is_mine", lambda self, shard: True)


@cluster_safeguard
def a_call_does_not_open_a_shard(put: Put) -> None:
    """A call for a shard that is not here is told NotHere, whatever the caller's ring says."""
    real = Ownership.get

    async def get(self: Ownership, number: int) -> Shard:
        if number not in self.owned:
            self.owned.add(number)
        return await real(self, number)

    put(Ownership, "get", get)
    put(ShardMoves, "_is_mine", lambda self, shard: True)


@cluster_safeguard
def shards_follow_the_ring(put: Put) -> None:
    """The shards of a node that is gone are taken by others."""
    real = ShardMoves._on_ring
    put(ShardMoves, "_on_ring", lambda self, before, after: real(self, before, after) if not before.nodes else None)


@cluster_safeguard
def wrong_owners_are_asked_no_more(put: Put) -> None:
    """A call that was sent to a node that has not the shard goes on to the one that has."""

    async def at_owner(self: RoutedHistory, shard: int, here: Any, there: Any, deadline: Any, is_repeatable: bool) -> Any:
        node = self._peers.ring.owner_of_shard(shard)
        return await (here() if node is None or node.node_id == self._peers.me else there(node))

    put(RoutedHistory, "at_owner", at_owner)


@cluster_safeguard
def cut_off_writes_are_not_repeated_by_the_server(put: Put) -> None:
    """What may have been executed is told to the caller as such: only the caller knows whether a repetition is the same act."""
    real = RoutedHistory.at_owner

    async def at_owner(self: RoutedHistory, shard: int, here: Any, there: Any, deadline: Any, is_repeatable: bool) -> Any:
        return await real(self, shard, here, there, deadline, True)

    put(RoutedHistory, "at_owner", at_owner)


@cluster_safeguard
def owners_that_cannot_hear_confirm_their_leases(put: Put) -> None:
    """A node that was passed over learns of it although it writes nothing."""

    async def nothing(self: ShardMoves) -> None:
        return None

    put(ShardMoves, "_confirm", nothing)


# --- membership -------------------------------------------------------------------------------------------------------------
@cluster_safeguard
def a_lost_membership_is_registered_again(put: Put) -> None:
    """A node that was held up longer than its lease comes back by itself."""
    real = EtcdMembership._register

    async def register(self: EtcdMembership) -> None:
        if self._has_joined:
            await asyncio.sleep(NEVER_S)
        await real(self)

    put(EtcdMembership, "_register", register)


# --- the wire ---------------------------------------------------------------------------------------------------------------
@cluster_safeguard
def silent_connections_are_noticed(put: Put) -> None:
    """A half-open connection ends although nobody closed it."""
    put(Connection, "_check_alive", lambda self: None)


@cluster_safeguard
def a_cut_off_call_is_not_called_unsent(put: Put) -> None:
    """A call that was under way when its connection broke may have been executed."""
    put(client_connection, "ConnectionLost", Unreachable)


# --- task queues over nodes -----------------------------------------------------------------------------------------------------
@cluster_safeguard
def lone_tasks_go_to_the_root(put: Put) -> None:
    """A task that finds no poll where it is goes where polls are known."""
    put(Sharing, "_forward", lambda self, partition, link, now: None)


@cluster_safeguard
def the_root_hears_of_idle_polls(put: Put) -> None:
    """A poll that finds no task where it is parked is known where tasks go."""
    put(Sharing, "_tell", lambda self, link, now: None)
    put(Sharing, "_refresh", lambda self, partition, link, now: None)


@cluster_safeguard
def the_root_lends_to_idle_shares(put: Put) -> None:
    """A task at the root is given to a share that has a poll for it."""
    put(Sharing, "_lend", lambda self, partition, link, now: None)


@cluster_safeguard
def moved_tasks_are_offered_again(put: Put) -> None:
    """What was offered to a node that is gone, or that another one stands in for, is offered anew."""

    async def offer_moved(self: RoutedMatching) -> None:
        self._walked, self._is_walking = self._places.now, False

    put(RoutedMatching, "_offer_moved", offer_moved)


@cluster_safeguard
def undelivered_offers_are_said_again(put: Put) -> None:
    """An offer whose message failed may not have arrived."""
    put(Outbox, "_say_again", lambda self, batch: None)


@cluster_safeguard
def refused_hints_go_to_their_node(put: Put) -> None:
    """A node that is told of another's tasks refuses them, and whoever told it asks its ring again."""
    real = RoutedMatching.answered

    def answered(self: RoutedMatching, node: str, batch: Batch, answer: BatchAnswer) -> bool:
        answer.not_here = []
        return real(self, node, batch, answer)

    put(RoutedMatching, "answered", answered)
