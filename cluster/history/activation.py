"""A namespace has become active or passive in this region: its runs begin to be worked on here, or are let go of.

All that is owed follows from the runs' states, so nothing is handed over: runs in memory are settled anew, the others are
found by their rows (sweep.py), and one that is called is loaded at once. Many namespaces cost one look.

A node may die before it has salvaged what was kept. So a shard that opens looks at what it keeps of the namespaces that are
active here by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

import structlog

from cluster.core.errors import CallerError
from cluster.history.forks import salvage_kept
from cluster.history.ownership import Ownership
from cluster.history.regions import Regions
from cluster.history.shard import Shard
from cluster.history.takeover import take_over
from cluster.namespaces.record import NamespaceRecord
from cluster.stores.base import StoreError

log = structlog.get_logger("history")

SLICE_RUNS = 200  # are settled without a pause
RETRY_S = 0.5

_Owned = tuple[str, int, int, bool]


class Shards(Protocol):
    """HistoryService."""

    regions: Regions
    ownership: Ownership


async def carry(service: Shards, changed: Collection[str]) -> None:
    """These namespaces have become active or passive here. May be repeated. Raises StoreError, CallerError UNAVAILABLE."""
    for shard in list(service.ownership.open.values()):
        runs = [run for run in shard.runs.values() if run.key.namespace_id in changed]
        for number, run in enumerate(runs):
            if not run.is_evicted and shard.is_open:
                take_over(shard, run)
                if shard.is_durable(run):  # else its commit settles it
                    shard.settle(run, run.state)
            if number % SLICE_RUNS == SLICE_RUNS - 1:
                await asyncio.sleep(0)
        if not shard.is_open:
            continue  # it is opened anew, with what is owed then
        await shard.look_anew()
        for namespace_id in changed:
            if shard.is_open and shard.replicas is not None and service.regions.is_active(namespace_id):
                await salvage_kept(shard, namespace_id)


async def salvage_again(service: Shards, shard: Shard) -> None:
    """A shard has opened: whoever had it before may have left what was kept as it was. Raises StoreError, CallerError."""
    for namespace_id in shard.replicas.forked_namespaces() if shard.replicas is not None else []:
        if shard.is_open and service.regions.is_active(namespace_id):
            await salvage_kept(shard, namespace_id)


class Activation:
    """`look` after each change of records on this node; `run` is the job that carries the news into history."""

    def __init__(self, service: Shards, records: Callable[[], Iterable[NamespaceRecord]]) -> None:
        self._service, self._records = service, records
        self._owned: dict[str, _Owned] = self._now()
        self._changed: set[str] = set()
        self._opened: dict[int, Shard] = {}
        self._news = asyncio.Event()
        service.ownership.on_open = self._has_opened

    def _has_opened(self, shard: Shard) -> None:
        self._opened[shard.id] = shard
        self._news.set()

    def _now(self) -> dict[str, _Owned]:
        return {
            record.id: (record.active_cluster, record.failover_version, record.replication_state, record.is_global)
            for record in self._records()
        }

    def look(self) -> None:
        now = self._now()
        changed = {id for id, owned in now.items() if self._owned.get(id, owned) != owned}
        self._owned = now
        if changed:
            self._changed |= changed
            self._news.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            changed, self._changed = self._changed, set()
            opened, self._opened = self._opened, {}
            try:
                if changed:
                    await carry(self._service, sorted(changed))
                while opened:
                    await salvage_again(self._service, opened[min(opened)])
                    del opened[min(opened)]
            except (StoreError, CallerError) as error:
                log.warning("namespaces that moved cannot be looked at yet", count=len(changed), error=str(error))
                self._changed |= changed
                self._opened = opened | self._opened  # one that was opened anew meanwhile comes instead
                self._news.set()
                await asyncio.sleep(RETRY_S)
