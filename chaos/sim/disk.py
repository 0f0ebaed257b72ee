"""What survives a crash: the store and the visibility index, and an archive of every record ever appended.

The archive is the checkers' own memory: the product truncates its journal, so the fold of *all* entries of a run can be compared
with its row only if somebody keeps them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from chaos.checkers.ownership import Acquired, Appended, Checkpointed, Ownership
from chaos.sim.faults import FaultPlan
from chaos.sim.loop import running_loop
from cluster.core.apply import apply_entry, new_state
from cluster.core.effects import effects
from cluster.core.entry import Entry, decode_group
from cluster.core.state import RunState, decode_state
from cluster.stores.base import HistoryBlob, Lease, RunKey, ShardId, Snapshot, StoreUnknown
from cluster.stores.memory import MemoryStore
from cluster.visibility.base import VisibilityCount, VisibilityRow, VisibilityUnavailable
from cluster.visibility.expressions import Query
from cluster.visibility.memory import MemoryVisibility

VISIBILITY_DOWN = "visibility_down"
TORN_CHECKPOINT = "torn_checkpoint"


class ArchivedStore(MemoryStore):
    """The oracle store, which also remembers what it truncates, and which tears checkpoints: the contract does not promise one
    transaction, only an order (history, rows, deletions, truncation), so a prefix of that order may be all that is done."""

    def __init__(self, torn: FaultPlan, cuts: random.Random, ownership: Ownership) -> None:
        super().__init__()
        self.ownership = ownership
        self.archive: dict[ShardId, dict[int, bytes]] = {}
        self.on_append: Callable[[Sequence[Entry]], None] | None = None
        self.on_metadata: Callable[[str, str, bytes], None] | None = None
        self._torn = torn
        self._cuts = cuts

    async def acquire(self, shard: ShardId, owner: str) -> Lease:
        lease = await super().acquire(shard, owner)
        self.ownership.events.append(Acquired(running_loop().now_ns(), shard, lease.range_id, owner))
        running_loop().trace("acquired", shard=shard, owner=owner, range_id=lease.range_id)
        return lease

    async def append(self, lease: Lease, position: int, data: bytes) -> None:
        await super().append(lease, position, data)
        self.ownership.events.append(
            Appended(running_loop().now_ns(), lease.shard, lease.range_id, lease.owner, position)
        )
        self.archive.setdefault(lease.shard, {})[position] = data
        if self.on_append is not None:
            self.on_append(decode_group(data))

    async def metadata_put(self, kind: str, id: str, data: bytes, expected_version: int) -> int | None:
        version = await super().metadata_put(kind, id, data, expected_version)
        if version is not None and self.on_metadata is not None:
            self.on_metadata(kind, id, data)
        return version

    def durable_position(self, shard: ShardId) -> int:
        return max(self.archive.get(shard, {0: b""}))

    async def checkpoint(
        self,
        lease: Lease,
        snapshots: Sequence[Snapshot],
        histories: Sequence[HistoryBlob],
        deletions: Sequence[RunKey],
        truncate_to: int,
    ) -> None:
        cut = self._cuts.randrange(len(histories) + len(snapshots) + 1)
        held = self._shards[lease.shard].rows
        back = [row.key.run_id for row in snapshots if row.key in held and row.changed_position < held[row.key].changed_position]
        done = Checkpointed(running_loop().now_ns(), lease.shard, lease.range_id, lease.owner, " ".join(back))
        if self._torn.draw() is None:
            await super().checkpoint(lease, snapshots, histories, deletions, truncate_to)
            self.ownership.events.append(done)
            return
        running_loop().trace("torn checkpoint", shard=lease.shard, done=cut)
        await super().checkpoint(lease, snapshots[: max(0, cut - len(histories))], histories[:cut], [], 0)
        raise StoreUnknown("injected: the checkpoint was cut off")


class SimVisibility:
    """One life's connection to the visibility index: with latency, and down from time to time."""

    kind = "memory"

    def __init__(self, inner: MemoryVisibility, plan: FaultPlan, latency: random.Random, latency_s_max: float = 0.01) -> None:
        self._inner = inner
        self._plan = plan
        self._latency = latency
        self._latency_s_max = latency_s_max

    async def _arrive(self, what: str) -> None:
        fault = self._plan.draw()
        await asyncio.sleep(self._latency.uniform(0, self._latency_s_max))
        if fault is not None:
            running_loop().trace("visibility fault", call=what)
            raise VisibilityUnavailable(f"injected: {what}")

    async def open(self) -> None:
        await self._inner.open()

    async def close(self) -> None:
        """The index outlives its connection."""

    async def upsert(self, rows: Sequence[VisibilityRow]) -> None:
        await self._arrive("upsert")
        await self._inner.upsert(rows)

    async def delete(self, keys: Sequence[RunKey]) -> None:
        await self._arrive("delete")
        await self._inner.delete(keys)

    async def list(
        self, namespace_id: str, query: Query, page_size: int, page_token: bytes
    ) -> tuple[list[VisibilityRow], bytes]:
        await self._arrive("list")
        return await self._inner.list(namespace_id, query, page_size, page_token)

    async def count(self, namespace_id: str, query: Query) -> VisibilityCount:
        await self._arrive("count")
        return await self._inner.count(namespace_id, query)


class Chronicle:
    """The state of every run by the fold of all its entries, brought up to date as records are appended."""

    def __init__(self, disk: ArchivedStore) -> None:
        self._disk = disk
        self._read: dict[ShardId, int] = {}
        self.states: dict[RunKey, RunState] = {}
        self.shards: dict[RunKey, ShardId] = {}
        self.positions: dict[RunKey, int] = {}

    def advance(self) -> dict[RunKey, RunState]:
        for shard in sorted(self._disk.archive):
            records = self._disk.archive[shard]
            for position in range(self._read.get(shard, 0) + 1, len(records) + 1):
                for entry in decode_group(records[position]):
                    key = RunKey(entry.namespace_id, entry.workflow_id, entry.run_id)
                    state = self.states.get(key) or new_state(key.namespace_id, key.workflow_id, key.run_id)
                    self.states[key] = apply_entry(state, entry)
                    self.shards[key] = shard
                    self.positions[key] = position
            self._read[shard] = len(records)
        return self.states

    def unfinished(self) -> list[RunKey]:
        """Runs that are open, or closed and still owe something to others."""
        return [key for key, state in self.advance().items() if state.is_open or effects(state)]


async def stored_state(disk: ArchivedStore, shard: ShardId, key: RunKey) -> RunState | None:
    """What the store alone says of a run: its row and the journal behind it."""
    row = await disk.load(shard, key)
    state = decode_state(row.data) if row is not None else None
    contained = row.changed_position if row is not None else 0
    for record in await disk.read_journal(shard, contained, limit=1_000_000):
        for entry in decode_group(record.data):
            if RunKey(entry.namespace_id, entry.workflow_id, entry.run_id) == key:
                state = apply_entry(state or new_state(key.namespace_id, key.workflow_id, key.run_id), entry)
    return state
