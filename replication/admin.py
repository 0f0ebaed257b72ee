"""What an operator sees and does of regions, at any node of one: behind /regions/... (cluster/frontend/region_pages.py).

| looking             | shows                                                                                                  |
|---------------------|--------------------------------------------------------------------------------------------------------|
| status              | linked regions, namespaces, lag by namespace and by shard, in events and in seconds; what is wrong     |
| conflicts           | runs with branches that lost and were kept                                                             |
| quarantine, _row    | what could not be taken in                                                                             |
| ledger              | each thing that a losing branch had, and what became of it; the cuts of forced failovers               |
| failover_plan, _status | what to look at before a failover; leases, machines and moves of the automatic one                  |

| doing               | changes                                                                                                |
|---------------------|--------------------------------------------------------------------------------------------------------|
| link, unlink        | which regions this one knows                                                                           |
| verify              | nothing, but for what differs for good: it is told again                                               |
| quarantine_retry, _drop | one row                                                                                            |
| failover_run        | who owns namespaces                                                                                    |

Answers are plain dictionaries for JSON. All raise CallerError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec
from temporalio.api.operatorservice.v1 import AddOrUpdateRemoteClusterRequest

from cluster.core.errors import CallerError, invalid_argument, not_found, unavailable
from cluster.history.service import HistoryService
from cluster.namespaces.record import DELETED, NamespaceRecord
from cluster.namespaces.registry import NamespaceRegistry
from cluster.stores.base import CorruptRecord, Store, StoreError
from replication.control import FailoverControl, FailoverStatus
from replication.failover_report import FailoverReport, Kind
from replication.loss_ledger import LossLedger, summary_of
from replication.port import RegionPort
from replication.quarantine import QuarantineRow
from replication.region import Region
from replication.verify import VerifyReport, VerifyService

Row = dict[str, Any]

PART, CONFLICTS, FAILOVERS = "regions.part", "regions.conflicts", "regions.failovers"
ADD_CLUSTER = "/temporal.api.operatorservice.v1.OperatorService/AddOrUpdateRemoteCluster"
CALL_S = 10.0


class FailoverPart(msgspec.Struct, frozen=True):
    """Of one node. lag_told_of: regions of which the witness knows how far they are; another one takes nothing over by itself."""

    status: FailoverStatus
    lag_told_of: list[str]


class Answers(Protocol):
    by_node: dict[str, bytes]
    unreachable: dict[str, str]


class Everywhere(Protocol):
    """cluster.routing.everywhere.Everywhere."""

    def answer(self, method: str, handler: Callable[[bytes], Any]) -> None: ...

    async def ask(self, method: str, payload: bytes = ..., timeout_s: float = ...) -> Any: ...

    async def ask_all(self, method: str, payload: bytes = ..., timeout_s: float = ...) -> list[bytes]: ...


class RegionAdmin:
    """One node's."""

    def __init__(
        self,
        port: RegionPort,
        region: Region,
        namespaces: NamespaceRegistry,
        history: HistoryService,
        everywhere: Everywhere,
        failovers: FailoverControl,
        verification: VerifyService,
        now_ns: Callable[[], int],
        store: Store,
    ) -> None:
        self._port, self._region, self._namespaces, self._history = port, region, namespaces, history
        self._everywhere, self._failovers, self._verification, self._now_ns = everywhere, failovers, verification, now_ns
        self._losses = LossLedger(store, namespaces.clusters.own.shard_count)
        everywhere.answer(PART, self._part)
        everywhere.answer(CONFLICTS, self._conflicts_here)
        everywhere.answer(FAILOVERS, self._failovers_here)

    # --- status -----------------------------------------------------------------------------------------------------------
    async def status(self) -> Row:
        answers = await self._everywhere.ask(PART)
        parts = {node: msgspec.msgpack.decode(part) for node, part in answers.by_node.items()}
        quarantine = await self._guarded(self._region.quarantine.rows())
        lag = [{"node": node, **row} for node, part in parts.items() for row in part["lag"]]
        shards = [{"node": node, **row} for node, part in parts.items() for row in part["shards"]]
        page = {
            "region": self._port.here,
            "initial_failover_version": self._namespaces.clusters.own.initial_failover_version,
            "failover_version_increment": self._namespaces.clusters.own.failover_version_increment,
            "regions": [self._peer(name, parts.values(), shards) for name in sorted(self._linked())],
            "namespaces": [self._namespace(record, lag, quarantine) for record in self._shared()],
            "lag": sorted(lag, key=lambda row: (row["namespace"], row["peer"], row["shard"])),
            "shards": sorted(shards, key=lambda row: (row["peer"], row["shard"])),
            "quarantine_count": len(quarantine),
            "unreachable": answers.unreachable,
        }
        return {**page, "problems": problems_of(page)}

    def _linked(self) -> set[str]:
        return {cluster.name for cluster in self._namespaces.clusters.remotes()}

    def _shared(self) -> list[NamespaceRecord]:
        records = [one for one in self._namespaces.all_cached() if one.is_global and one.state != DELETED]
        return sorted(records, key=lambda one: one.name)

    def _peer(self, name: str, parts: Iterable[Row], shards: list[Row]) -> Row:
        cluster = self._namespaces.clusters.named(name)
        assert cluster is not None
        mine = [row for row in shards if row["peer"] == name]
        return {
            "name": name,
            "address": cluster.address,
            "initial_failover_version": cluster.initial_failover_version,
            "shards": cluster.shard_count,
            "is_connection_enabled": cluster.is_connection_enabled,
            "is_replication_enabled": cluster.is_replication_enabled,
            "is_up": any(name in part["linked"] for part in parts),
            "events": sum(row["events"] for row in mine),
            "seconds": max((row["seconds"] for row in mine), default=0.0),
            "is_catching_up": any(row["is_catching_up"] for row in mine),
        }

    def _namespace(self, record: NamespaceRecord, lag: list[Row], quarantine: list[QuarantineRow]) -> Row:
        mine = [row for row in lag if row["namespace"] == record.name]
        by_peer = {
            peer: {
                "events": sum(row["events"] for row in mine if row["peer"] == peer),
                "runs_left": sum(row["runs_left"] for row in mine if row["peer"] == peer),
                "seconds": max((row["seconds"] for row in mine if row["peer"] == peer), default=0.0),
            }
            for peer in record.members
            if peer != self._port.here
        }
        return {
            "name": record.name,
            "id": record.id,
            "active": record.active_cluster,
            "failover_version": record.failover_version,
            "state": record.ownership.state.name.lower(),
            "regions": list(record.members),
            "lag": by_peer,
            "quarantined": sum(row.namespace_id == record.id for row in quarantine),
        }

    async def _part(self, payload: bytes) -> bytes:
        """What this node knows: of its shards."""
        now_ns, lags, shards = self._now_ns(), list[Row](), list[Row]()
        for peer, by_shard in self._region.lag().items():
            for shard, lag in by_shard.items():
                ages = {one: max(0, now_ns - at) / 1e9 for one, at in lag.oldest_at.items()}
                place = {"peer": peer, "shard": shard}
                shards.append(
                    {
                        **place,
                        "positions": lag.positions,
                        "events": sum(lag.entries.values()),
                        "seconds": max(ages.values(), default=0.0),
                        "is_catching_up": lag.is_catching_up,
                    }
                )
                for namespace_id in sorted({*lag.entries, *lag.runs_left}):
                    lags.append(
                        {
                            **place,
                            "namespace": self._name_of(namespace_id),
                            "events": lag.entries.get(namespace_id, 0),
                            "runs_left": lag.runs_left.get(namespace_id, 0),
                            "seconds": ages.get(namespace_id, 0.0),
                        }
                    )
        linked = [name for name, sender in self._region.senders.items() if sender.is_linked]
        return msgspec.msgpack.encode({"linked": linked, "lag": lags, "shards": shards})

    def _name_of(self, namespace_id: str) -> str:
        record = self._namespaces.cached_by_id(namespace_id)
        return record.name if record is not None else namespace_id

    async def _id_of(self, namespace: str) -> str | None:
        return (await self._namespaces.by_name(namespace)).id if namespace else None

    # --- links ------------------------------------------------------------------------------------------------------------
    async def link(self, address: str, own_address: str) -> Row:
        """own_address: where that region reaches this one; "" = that side is linked by somebody else."""
        if not address:
            raise invalid_argument("address: where the other region's frontend listens, host:port")
        added = await self._namespaces.add_or_update_cluster(address, "", True, True)
        if own_address:
            request = AddOrUpdateRemoteClusterRequest(
                frontend_address=own_address, enable_remote_cluster_connection=True, enable_replication=True
            )
            await self._port.remote.forward(added.name, ADD_CLUSTER, request.SerializeToString(), {}, CALL_S)
        return {"region": added.name, "address": address, "is_linked_back": bool(own_address)}

    async def unlink(self, name: str) -> Row:
        await self._namespaces.remove_cluster(name)
        return {"region": name}

    async def verify(self, namespace: str, peer: str = "", is_fresh: bool = False) -> list[Row]:
        """With one region, or with each that has the namespace."""
        record = await self._namespaces.by_name(namespace)
        peers = [peer] if peer else [name for name in record.members if name != self._port.here]
        if not record.is_replicated or not peers:
            raise invalid_argument(f"namespace {namespace} is in no other region")
        reports = [await self._verification.verify(one, record.id, is_deep=True, is_fresh=is_fresh) for one in peers]
        return [_verdict(report) for report in reports]

    # --- conflicts and the ledger -----------------------------------------------------------------------------------------
    async def conflicts(self, namespace: str = "") -> list[Row]:
        wanted = await self._id_of(namespace)
        parts = await self._everywhere.ask_all(CONFLICTS, msgspec.msgpack.encode(wanted))
        rows = [row for part in parts for row in msgspec.msgpack.decode(part)]
        return sorted(rows, key=lambda row: (row["namespace"], row["workflow_id"], row["run_id"], row["branch"]))

    async def _conflicts_here(self, payload: bytes) -> bytes:
        wanted: str | None = msgspec.msgpack.decode(payload)
        rows: list[Row] = []
        for shard in list(self._history.ownership.open.values()):
            if not shard.is_open or shard.replicas is None:
                continue
            for record in self._namespaces.all_cached():
                if wanted not in (None, record.id):
                    continue
                for key in shard.replicas.forked(record.id):
                    run = await shard.run(key)
                    losers = shard.replicas.losers(key, run.state) if run is not None else []
                    rows += [
                        {
                            "namespace": record.name,
                            "workflow_id": key.workflow_id,
                            "run_id": key.run_id,
                            "branch": loser.number,
                            "events_from": loser.events_from,
                            "last_event_id": loser.head.last_event_id,
                            "version": loser.head.versions[-1][1] if loser.head.versions else 0,
                        }
                        for loser in losers
                    ]
        return msgspec.msgpack.encode(rows)

    async def ledger(self, namespace: str = "") -> Row:
        wanted = await self._id_of(namespace)
        entries = await self._guarded(self._losses.lines(wanted))
        cuts = await self._guarded(self._losses.cuts(wanted))
        return {
            "region": self._port.here,
            "summary": msgspec.to_builtins(summary_of([entry.line for entry in entries])),
            "lines": [{"namespace": self._name_of(entry.line.namespace_id), **entry.as_dict()} for entry in entries],
            "cuts": [
                {**msgspec.to_builtins(cut, str_keys=True), "namespace": self._name_of(cut.namespace_id)} for cut in cuts
            ],
        }

    # --- quarantine -------------------------------------------------------------------------------------------------------
    async def quarantine(self) -> list[Row]:
        rows = await self._guarded(self._region.quarantine.rows())
        return [self._quarantined(row) for row in sorted(rows, key=lambda row: (row.first_at, row.id))]

    async def quarantine_row(self, id: str) -> Row:
        return self._quarantined(await self._found(id))

    async def quarantine_retry(self, id: str) -> Row:
        await self._found(id)
        reason = await self._guarded(self._region.quarantine.retry(id, self._region.take_in))
        return {"id": id, "is_taken_in": not reason, "reason": reason}

    async def quarantine_drop(self, id: str) -> Row:
        """The run stays as it is here: verification will name it."""
        if not await self._guarded(self._region.quarantine.drop(id)):
            raise not_found(f"there is nothing {id} in quarantine")
        return {"id": id}

    async def _found(self, id: str) -> QuarantineRow:
        row: QuarantineRow | None = await self._guarded(self._region.quarantine.show(id))
        if row is None:
            raise not_found(f"there is nothing {id} in quarantine")
        return row

    def _quarantined(self, row: QuarantineRow) -> Row:
        return {
            "id": row.id,
            "peer": row.peer,
            "namespace": self._name_of(row.namespace_id),
            "workflow_id": row.workflow_id,
            "run_id": row.run_id,
            "reason": row.reason,
            "attempts": row.attempts,
            "first_at": row.first_at,
            "last_at": row.last_at,
            "offered_events": row.head.last_event_id,
            "bytes": len(row.delta),
        }

    # --- failovers --------------------------------------------------------------------------------------------------------
    async def failover_plan(self, namespace: str, to: str) -> list[Row]:
        """namespace "": all that could move there."""
        checks = await self._failovers.plan(namespace or None, to)
        rows: list[Row] = msgspec.to_builtins(checks)
        return rows

    async def failover_run(
        self, namespaces: list[str], to: str, kind: str, timeout_s: float | None, without_witness: bool = False
    ) -> list[Row]:
        """namespaces []: all that could move there. without_witness: forced while the witness cannot be asked; see control.py."""
        kinds = {one.value: one for one in (Kind.GRACEFUL, Kind.FORCED, Kind.HYBRID)}
        if kind not in kinds:
            raise invalid_argument(f"kind is one of {', '.join(kinds)}, not {kind!r}")
        names = namespaces or [one.name for one in self._shared() if to in one.members and one.active_cluster != to]
        for name in names:
            await self._namespaces.by_name(name)  # a wrong word is told before anything moves
        if without_witness and kinds[kind] is not Kind.FORCED:
            raise invalid_argument("without the witness a failover is forced, or it is none")
        if without_witness:
            return [_told(await self._failovers.fail_over(name, to, Kind.FORCED, without_witness=True)) for name in names]
        return [_told(report) for report in await self._failovers.fail_over_all(names, to, kinds[kind], timeout_s)]

    async def failover_status(self) -> Row:
        """Leases and automatic moves are the leading node's, handovers those of all."""
        answers = await self._everywhere.ask(FAILOVERS)
        found = {node: msgspec.msgpack.decode(part, type=FailoverPart) for node, part in answers.by_node.items()}
        leading = next((node for node, part in found.items() if part.status.is_leading), "")
        part = found[leading] if leading else FailoverPart(FailoverStatus(None, False, {}, {}, [], []), [])
        status = part.status
        return {
            "region": self._port.here,
            "leading_node": leading,
            "has_witness": any(one.status.lease_held_s is not None for one in found.values()),
            "lease_held_s": status.lease_held_s,
            "may_be_taken_over_by": part.lag_told_of,
            "regions": status.regions,
            "waiting": {self._name_of(id): reason for id, reason in status.waiting.items()},
            "handovers": sorted({name for one in found.values() for name in one.status.handovers}),
            "moves": [
                {"region": move.region, "first_record_ns": move.first_record_ns, "reports": [_told(one) for one in move.reports]}
                for move in status.moves
            ],
            "namespaces": [
                {
                    "name": record.name,
                    "active": record.active_cluster,
                    "failover_version": record.failover_version,
                    "state": record.ownership.state.name.lower(),
                    "regions": list(record.members),
                    "history": [{"at": one.at, "version": one.version} for one in record.ownership.history],
                }
                for record in self._shared()
            ],
            "unreachable": answers.unreachable,
        }

    async def _failovers_here(self, payload: bytes) -> bytes:
        watch = self._failovers.watch
        latest = watch.lease.latest if watch is not None else None
        return msgspec.msgpack.encode(FailoverPart(self._failovers.status(), sorted(latest.lag) if latest is not None else []))

    async def _guarded(self, reading: Any) -> Any:
        """Raises UNAVAILABLE when the store does not answer."""
        try:
            return await reading
        except CallerError:
            raise
        except (StoreError, CorruptRecord) as error:
            raise unavailable(f"the store of region {self._port.here} does not answer: {error}") from error


def problems_of(page: Mapping[str, Any]) -> list[str]:
    """What is not as it should be, one line each; nothing when all is well."""
    wrong = [f"node {node} does not answer: {reason}" for node, reason in page["unreachable"].items()]
    for peer in page["regions"]:
        if peer["is_connection_enabled"] and peer["is_replication_enabled"] and not peer["is_up"]:
            wrong.append(f"there is no link to region {peer['name']} at {peer['address']}")
    if page["quarantine_count"]:
        wrong.append(f"{page['quarantine_count']} runs could not be taken in: see the quarantine")
    wrong += [f"namespace {one['name']} is in handover" for one in page["namespaces"] if one["state"] == "handover"]
    return wrong


def _verdict(report: VerifyReport) -> Row:
    row: Row = msgspec.to_builtins(report)
    return {**row, "verdict": report.verdict, "is_equal": report.is_equal}


def _told(report: FailoverReport) -> Row:
    row: Row = msgspec.to_builtins(report)
    return row
