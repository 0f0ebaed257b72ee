"""What survives a crash: the store and the visibility index, and an archive of every record ever appended.

The archive is the checkers' own memory: the product truncates its journal, so the fold of *all* entries of a run can be compared
with its row only if somebody keeps them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from chaos.sim.faults import FaultPlan
from chaos.sim.loop import running_loop
from cluster.core.entry import Entry, decode_group
from cluster.stores.base import Lease, RunKey, ShardId
from cluster.stores.memory import MemoryStore
from cluster.visibility.base import VisibilityCount, VisibilityRow, VisibilityUnavailable
from cluster.visibility.expressions import Query
from cluster.visibility.memory import MemoryVisibility

VISIBILITY_DOWN = "visibility_down"


class ArchivedStore(MemoryStore):
    """The oracle store, which also remembers what it truncates."""

    def __init__(self) -> None:
        super().__init__()
        self.archive: dict[ShardId, dict[int, bytes]] = {}

    async def append(self, lease: Lease, position: int, data: bytes) -> None:
        await super().append(lease, position, data)
        self.archive.setdefault(lease.shard, {})[position] = data

    def entries(self) -> dict[tuple[ShardId, RunKey], list[tuple[int, Entry]]]:
        """Every entry ever made durable, per run, as (position, entry) in order."""
        found: dict[tuple[ShardId, RunKey], list[tuple[int, Entry]]] = {}
        for shard in sorted(self.archive):
            for position, data in sorted(self.archive[shard].items()):
                for entry in decode_group(data):
                    key = RunKey(entry.namespace_id, entry.workflow_id, entry.run_id)
                    found.setdefault((shard, key), []).append((position, entry))
        return found


class SimVisibility:
    """One life's connection to the visibility index: with latency, and down from time to time."""

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
    ) -> tuple[Sequence[VisibilityRow], bytes]:
        await self._arrive("list")
        return await self._inner.list(namespace_id, query, page_size, page_token)

    async def count(self, namespace_id: str, query: Query) -> VisibilityCount:
        await self._arrive("count")
        return await self._inner.count(namespace_id, query)
