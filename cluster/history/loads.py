"""Runs come into memory: each is read once, however many ask for it at the same moment.

A run that leaves memory while a row is being read may have been written since: then the row is read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cluster.history.current_runs import name_of
from cluster.history.events import data_loss, verify
from cluster.history.journal import shard_is_moving
from cluster.history.run import Run
from cluster.stores.base import CorruptRecord, LeaseLost, Snapshot, StoreError

if TYPE_CHECKING:
    from cluster.history.shard import Shard

LOADED_RUNS_MAX = 1_000  # above twice the idle bound, reading alone makes runs leave memory


class Loads:
    """One shard's."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._under_way: dict[Any, asyncio.Future[Run | None]] = {}

    async def once(self, what: Any, load: Callable[[], Any]) -> Run | None:
        """what: names the read; load: makes it. Raises CallerError."""
        self._shard.require_open()
        loading = self._under_way.get(what)
        if loading is None:
            loading = asyncio.ensure_future(self._load(load))
            self._under_way[what] = loading
            loading.add_done_callback(lambda done: self._under_way.pop(what, None))
            loading.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may be that nobody waits any more
        run = await asyncio.shield(loading)
        self._shard.require_open()
        return run

    async def _load(self, load: Callable[[], Any]) -> Run | None:
        shard = self._shard
        while True:
            left_count = shard.left_count
            try:
                row: Snapshot | None = await load()
            except CorruptRecord as error:
                raise data_loss("state", str(error)) from error
            except StoreError as error:
                raise shard_is_moving() from error
            shard.require_open()
            run = shard.runs.get(row.key) if row is not None else None
            if run is not None or left_count == shard.left_count:
                break  # else a run left memory during the read, which may have been older than its row
        if row is None:
            return None
        if run is None:
            run = self._admit(row)
        elif row.is_current and shard.current_runs.get(name_of(row.key)) is None:
            shard.current_runs.begins(run)
        return run

    def _admit(self, row: Snapshot) -> Run:
        shard = self._shard
        shard.refuse_set_aside(row.key)
        try:
            run = shard.admit(row)
        except CorruptRecord as error:
            raise data_loss("state", str(error)) from error
        except LeaseLost as error:
            shard.fail(error)
            raise shard_is_moving() from error
        shard.settle(run, run.state)
        if shard.ids.jitter() < shard.config.verified_loads_share:
            shard.spawn(verify(shard.store, shard.id, run), f"verify-{shard.id}")
        if len(shard.runs) > 2 * shard.config.idle_runs_in_memory_max + LOADED_RUNS_MAX:
            shard.evict_idle(run)
        return run
