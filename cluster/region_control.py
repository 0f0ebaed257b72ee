"""What operators and the witness do with regions, over all nodes of this one: failovers, verification, the admin calls.

A piece of region_parts.py. What one node knows (its shards' lag, its branches) is asked of all of them (routing/everywhere.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec
import structlog

from cluster.core.errors import CallerError, not_found, unavailable
from cluster.history.service import HistoryService
from cluster.membership.members import NodeInfo
from cluster.namespaces.ownership_changes import Decide
from cluster.namespaces.record import NamespaceRecord, decode_record
from cluster.namespaces.registry import NamespaceRegistry
from cluster.routing.everywhere import Everywhere
from cluster.routing.peers import Peers
from cluster.seams import Clock, Ids, Spawn
from cluster.stores.base import Store, StoreError
from replication.admin import RegionAdmin
from replication.backlog import backlog_here, lag_notes_here, united_notes
from replication.control import FailoverControl, FailoverSettings
from replication.failover_ports import FailoverPorts
from replication.failover_report import Backlog, united
from replication.loss_ledger import LossLedger
from replication.newcomers import Newcomers
from replication.port import RegionPort
from replication.records import METHOD as RECORDS
from replication.records import Answered, Told, digest_of
from replication.region import Region
from replication.verify import VerifyService
from replication.verify_limits import VerifyLimits
from replication.verify_node import FACTS, NODES, RESEND, ROOTS, Side, There, ThisNode, ThisRegion, serve
from replication.witness import LagNote, Witness, WitnessError

log = structlog.get_logger("replication")

BACKLOG, LAG, HEARD = "regions.backlog", "regions.lag", "regions.heard"
VERIFY = "regions.verify."
VERIFY_ASK_S = 30.0
HEAR_S = 3.0
HEAR_PEERS_S = 1.0
HEARD_S = 1.0


class RegionControl:
    """One node's. `start` after the links have started."""

    def __init__(
        self,
        port: RegionPort,
        region: Region,
        namespaces: NamespaceRegistry,
        history: HistoryService,
        store: Store,
        newcomers: Newcomers,
        peers: Peers,
        clock: Clock,
        ids: Ids,
        spawn: Spawn,
        is_leader: Callable[[], bool],
        shared_with: Callable[[str], Iterable[str]],
        settings: FailoverSettings,
        witness: Witness | None,
    ) -> None:
        self.is_healthy: Callable[[], bool] = lambda: True
        self._region, self._namespaces, self._clock, self._peers, self._spawn = region, namespaces, clock, peers, spawn
        self._port = port
        self._here, self._shards_count = port.here, peers.ring.shard_count
        self._losses = LossLedger(store, self._shards_count, clock)
        self.everywhere = Everywhere(peers)
        self.everywhere.answer(BACKLOG, self._backlog_here)
        self.everywhere.answer(LAG, self._lag_here)
        self.everywhere.answer(HEARD, self._heard_here)
        ports = FailoverPorts(
            calls=port,
            namespaces=namespaces,
            change_ownership=self._change_ownership,
            regions=namespaces.clusters.regions,
            backlog=self._backlog,
            lag=self._lag,
            quarantined=self._quarantined,
            is_leading=lambda: 0 in history.owned,
            is_healthy=lambda: self.is_healthy(),
            clock=clock,
            ids=ids,
            spawn=spawn,
            now_s=asyncio.get_running_loop().time,
        )
        self.failovers = FailoverControl(ports, settings, peers.me, witness)
        namespaces.ownership_changes.before_move = self.failovers.before_move
        history.may_acknowledge = self.failovers.may_acknowledge
        limits = VerifyLimits()
        node = ThisNode(port.here, history, region, spawn, newcomers.is_told, limits)
        whole = ThisRegion(node, self._shards_count, self._others)
        self.verification = VerifyService(port, whole, clock, ids, shared_with, is_leader, limits)
        self._serve_verification(node)
        self.admin = RegionAdmin(
            port, region, namespaces, history, self.everywhere, self.failovers, self.verification, clock.now_ns, store
        )

    async def hear_of_moves(self) -> None:
        """What the witness says of namespaces that were moved while this node was away; without one, what the linked regions say.
        Who cannot be asked now: later."""
        watch = self.failovers.watch
        if watch is None:
            await asyncio.gather(*(self._hear_of_records(peer) for peer in self._port.peers()))
            return
        try:
            async with asyncio.timeout(HEAR_S):
                await watch.take_in_owners()
        except (WitnessError, CallerError, TimeoutError) as failure:
            log.warning("the witness cannot be asked who owns the namespaces; the records say it for now", reason=str(failure))

    async def _hear_of_records(self, peer: str) -> None:
        """A region that is away must not hold up the start of this one: it is asked for a moment, all of them at once."""
        try:
            ours = await self._namespaces.shared()
            told = msgspec.msgpack.encode(Told([], digest_of(ours, (self._here, peer))))
            async with asyncio.timeout(HEAR_PEERS_S):  # the way there, too, whatever the transport makes of its own time-out
                data = await self._port.ask(peer, RECORDS, told, HEAR_PEERS_S)
            records = [decode_record(one) for one in msgspec.msgpack.decode(data, type=Answered).records]
            if records:
                await self._namespaces.merge_all(records, peer)
        except (CallerError, TimeoutError, msgspec.MsgspecError) as failure:
            log.warning("a region cannot be asked who owns the namespaces", peer=peer, reason=str(failure))

    def start(self) -> None:
        self.failovers.start()
        self.verification.start(self._spawn)

    async def close(self) -> None:
        await self.failovers.close()

    async def _change_ownership(self, namespace_id: str, decide: Decide, is_witnessed: bool = False) -> NamespaceRecord:
        """As OwnershipChanges does it. What this region takes without the owner's word is noted as a cut: what the owner had not
        shipped will be told as that in the ledger."""
        before = self._namespaces.cached_by_id(namespace_id)
        record = await self._namespaces.ownership_changes.change_ownership(namespace_id, decide, is_witnessed)
        if before is None or record.active_cluster != self._here or before.active_cluster == self._here:
            return record
        if record.ownership.writer != before.active_cluster:
            versions = before.failover_version, record.failover_version
            try:
                heard = await self._heard_of(before.active_cluster)
                await self._losses.note_cut(before.active_cluster, heard, namespace_id, *versions)
            except StoreError as error:
                log.error("a cut could not be noted: its ledger will not say what lies behind it", error=repr(error))
        return record

    # --- what each node knows of its shards ---------------------------------------------------------------------------------
    async def _backlog(self, namespace_id: str, peer: str) -> Backlog:
        """Raises CallerError UNAVAILABLE."""
        found = await self.everywhere.ask_all(BACKLOG, msgspec.msgpack.encode((namespace_id, peer)))
        return united(msgspec.msgpack.decode(one, type=Backlog) for one in found)

    async def _backlog_here(self, payload: bytes) -> bytes:
        namespace_id, peer = msgspec.msgpack.decode(payload, type=tuple[str, str])
        record = self._namespaces.cached_by_id(namespace_id)
        if record is None:
            raise not_found(f"namespace {namespace_id} is not known at this node")
        return msgspec.msgpack.encode(backlog_here(self._region, record, self._here, peer, self._shards_count))

    async def _lag(self) -> dict[str, LagNote]:
        """Raises CallerError UNAVAILABLE."""
        found = await self.everywhere.ask_all(LAG)
        return united_notes(msgspec.msgpack.decode(one, type=dict[str, LagNote]) for one in found)

    async def _lag_here(self, payload: bytes) -> bytes:
        return msgspec.msgpack.encode(lag_notes_here(self._region, self._clock.now_ns()))

    async def _heard_of(self, peer: str) -> dict[int, int]:
        """By the peer's shards: so much this region has of them, all nodes together. One that cannot be asked is left out: the
        cut is too early then, and the bound of what was lost too high, never too low."""
        answers = await self.everywhere.ask(HEARD, peer.encode(), HEARD_S)
        if answers.unreachable:
            log.warning("what some nodes have heard is not in the cut", peer=peer, nodes=answers.unreachable)
        heard: dict[int, int] = {}
        for data in answers.by_node.values():
            for shard, position in msgspec.msgpack.decode(data, type=dict[int, int]).items():
                heard[shard] = max(position, heard.get(shard, 0))
        return heard

    async def _heard_here(self, payload: bytes) -> bytes:
        return msgspec.msgpack.encode(self._region.heard(payload.decode()))

    async def _quarantined(self, namespace_id: str) -> int:
        """Raises CallerError UNAVAILABLE."""
        try:
            rows = await self._region.quarantine.rows()
        except StoreError as error:
            raise unavailable(f"the quarantine cannot be read: {error}") from error
        return sum(row.namespace_id == namespace_id for row in rows)

    # --- verification of a region of several nodes ----------------------------------------------------------------------------
    def _serve_verification(self, node: ThisNode) -> None:
        def answering(method: str) -> Callable[[bytes, float | None], asyncio.Future[bytes]]:
            return lambda payload, deadline: asyncio.ensure_future(serve(node, method, payload))

        for method in (ROOTS, NODES, FACTS, RESEND):
            self._peers.serve(VERIFY + method, answering(method))

    def _others(self) -> Iterable[Side]:
        return [self._other(node) for node in self._peers.others()]

    def _other(self, node: NodeInfo) -> There:
        async def ask(method: str, data: bytes) -> bytes:
            deadline = asyncio.get_running_loop().time() + VERIFY_ASK_S
            return await self._peers.call(node, VERIFY + method, data, deadline)

        return There(ask)


