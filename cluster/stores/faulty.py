"""A store that fails when told to: the seam where the simulator and the fault tests inject storage faults.

| fault                | executed | the caller gets                                                    | applies to     |
|----------------------|----------|--------------------------------------------------------------------|----------------|
| error_before         | no       | StoreUnavailable                                                   | every call     |
| error_after          | yes      | StoreUnknown                                                       | writes         |
| unknown_not_executed | no       | StoreUnknown                                                       | writes         |
| lease_lost           | refused  | LeaseLost, since another owner really acquires the shard first     | append and     |
|                      |          |                                                                    | checkpoint     |
| slow                 | yes      | its answer, after `seconds` of the running loop's time             | every call     |

`error_after` is the fault that finds most bugs. A plan that asks for a fault where the contract does not allow it is an error:
a run that believes it injected what it did not would pass by doing nothing. `injected` tells what a run really did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Final, TypeVar

import msgspec

from cluster.stores.base import (
    HistoryBlob,
    JournalRecord,
    Lease,
    MetadataRow,
    RunKey,
    ShardId,
    Snapshot,
    SnapshotRows,
    Store,
    StoreUnavailable,
    StoreUnknown,
)

T = TypeVar("T")


class FaultKind(StrEnum):
    ERROR_BEFORE = "error_before"
    ERROR_AFTER = "error_after"
    UNKNOWN_NOT_EXECUTED = "unknown_not_executed"
    LEASE_LOST = "lease_lost"
    SLOW = "slow"


class Fault(msgspec.Struct, frozen=True):
    """What to do to one call. `seconds` counts for SLOW alone."""

    kind: FaultKind
    seconds: float = 0.0


class Injected(msgspec.Struct, frozen=True):
    call_index: int
    method: str
    fault: Fault


Plan = Callable[[int, str], Fault | None]

LEASED_WRITES: Final = frozenset({"append", "checkpoint"})
WRITES: Final = LEASED_WRITES | {"acquire", "metadata_put", "metadata_delete"}
# The owner in whose name LEASE_LOST takes the shard away.
THIEF: Final = "fault-injection"


def kinds_for(method: str) -> frozenset[FaultKind]:
    """The faults that the contract allows for a method of the store."""
    kinds = {FaultKind.ERROR_BEFORE, FaultKind.SLOW}
    if method in WRITES:
        kinds |= {FaultKind.ERROR_AFTER, FaultKind.UNKNOWN_NOT_EXECUTED}
    if method in LEASED_WRITES:
        kinds.add(FaultKind.LEASE_LOST)
    return frozenset(kinds)


class FaultyStore:
    """Implements `cluster.stores.base.Store` around another one. The plan sees every call but open and close, counted from 0."""

    def __init__(self, inner: Store, plan: Plan) -> None:
        self.kind = inner.kind
        self.inner = inner
        self.plan = plan
        self.call_count = 0
        self.injected: list[Injected] = []

    async def _call(self, method: str, run: Callable[[], Awaitable[T]], lease: Lease | None = None) -> T:
        index = self.call_count
        self.call_count += 1
        fault = self.plan(index, method)
        if fault is None:
            return await run()
        if fault.kind not in kinds_for(method):
            raise ValueError(f"the plan asks for {fault.kind} at call {index}, which the contract does not allow for {method}")
        self.injected.append(Injected(index, method, fault))
        where = f"injected at call {index}, {method}"
        match fault.kind:
            case FaultKind.ERROR_BEFORE:
                raise StoreUnavailable(where)
            case FaultKind.UNKNOWN_NOT_EXECUTED:
                raise StoreUnknown(where)
            case FaultKind.ERROR_AFTER:
                await run()
                raise StoreUnknown(where)
            case FaultKind.LEASE_LOST:
                assert lease is not None
                await self.inner.acquire(lease.shard, THIEF)
            case FaultKind.SLOW:
                await asyncio.sleep(fault.seconds)
        return await run()

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    # --- shards -----------------------------------------------------------------------------------------------------
    async def acquire(self, shard: ShardId, owner: str) -> Lease:
        return await self._call("acquire", lambda: self.inner.acquire(shard, owner))

    async def append(self, lease: Lease, position: int, data: bytes) -> None:
        await self._call("append", lambda: self.inner.append(lease, position, data), lease)

    async def read_journal(self, shard: ShardId, after: int, limit: int = 1000) -> list[JournalRecord]:
        return await self._call("read_journal", lambda: self.inner.read_journal(shard, after, limit))

    async def journal_bounds(self, shard: ShardId) -> tuple[int, int]:
        return await self._call("journal_bounds", lambda: self.inner.journal_bounds(shard))

    async def checkpoint(
        self,
        lease: Lease,
        snapshots: Sequence[Snapshot],
        histories: Sequence[HistoryBlob],
        deletions: Sequence[RunKey],
        truncate_to: int,
    ) -> None:
        await self._call(
            "checkpoint", lambda: self.inner.checkpoint(lease, snapshots, histories, deletions, truncate_to), lease
        )

    # --- runs -------------------------------------------------------------------------------------------------------
    async def load(self, shard: ShardId, key: RunKey) -> Snapshot | None:
        return await self._call("load", lambda: self.inner.load(shard, key))

    async def current_run(self, shard: ShardId, namespace_id: str, workflow_id: str) -> Snapshot | None:
        return await self._call("current_run", lambda: self.inner.current_run(shard, namespace_id, workflow_id))

    async def history(
        self, shard: ShardId, key: RunKey, branch: int, first_event_id: int, last_event_id: int
    ) -> list[HistoryBlob]:
        return await self._call("history", lambda: self.inner.history(shard, key, branch, first_event_id, last_event_id))

    async def due(
        self, shard: ShardId, until: int, limit: int, after: tuple[int, RunKey] | None = None
    ) -> SnapshotRows:
        return await self._call("due", lambda: self.inner.due(shard, until, limit, after))

    async def next_wake_at(self, shard: ShardId, after: int) -> int | None:
        return await self._call("next_wake_at", lambda: self.inner.next_wake_at(shard, after))

    async def changed(self, shard: ShardId, after_position: int, limit: int) -> SnapshotRows:
        return await self._call("changed", lambda: self.inner.changed(shard, after_position, limit))

    async def runs(self, shard: ShardId, after: RunKey | None, limit: int) -> SnapshotRows:
        return await self._call("runs", lambda: self.inner.runs(shard, after, limit))

    # --- metadata ---------------------------------------------------------------------------------------------------
    async def metadata_get(self, kind: str, id: str) -> MetadataRow | None:
        return await self._call("metadata_get", lambda: self.inner.metadata_get(kind, id))

    async def metadata_list(self, kind: str) -> list[MetadataRow]:
        return await self._call("metadata_list", lambda: self.inner.metadata_list(kind))

    async def metadata_put(self, kind: str, id: str, data: bytes, expected_version: int) -> int | None:
        return await self._call("metadata_put", lambda: self.inner.metadata_put(kind, id, data, expected_version))

    async def metadata_delete(self, kind: str, id: str, expected_version: int) -> bool:
        return await self._call("metadata_delete", lambda: self.inner.metadata_delete(kind, id, expected_version))

    # --- figures ----------------------------------------------------------------------------------------------------
    def bytes_written(self) -> int:
        return self.inner.bytes_written()
