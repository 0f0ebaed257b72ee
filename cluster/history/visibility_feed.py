"""Writes visibility rows behind the runs: a moment later, many at once, repeated until the visibility store takes them.

Its outage stops no workflow. What it has not taken is remembered in the run's row (wake_at 0), so a crash loses none.
"""

from __future__ import annotations

import asyncio

import structlog
from temporalio.api.common.v1 import Memo

from cluster.core.state import RunState
from cluster.history.run import Run, feed_signature
from cluster.history.shard import Shard
from cluster.seams import Spawn
from cluster.stores.base import RunKey
from cluster.visibility.base import VisibilityRow, VisibilityStore, VisibilityUnavailable

log = structlog.get_logger("visibility")

DELAY_S = 0.1
BATCH_ROWS = 500
BACKOFF_S_MAX = 5.0


class VisibilityFeed:
    """One per node, over all its shards."""

    def __init__(self, visibility: VisibilityStore, spawn: Spawn) -> None:
        self._visibility = visibility
        self._spawn = spawn
        self._waiting: dict[RunKey, tuple[Shard, VisibilityRow | None]] = {}  # None: the run is deleted
        self._writing: set[RunKey] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_running = False
        self._lock = asyncio.Lock()

    def take(self, shard: Shard, run: Run, state: RunState) -> None:
        """Called with a durable state of the run; the row shows that, not what may have come since."""
        signature = feed_signature(state)
        if run.fed == signature:
            return
        run.fed = signature
        self._waiting[run.key] = (shard, None if state.is_deleted else row_of(state, shard.journal.durable_position))
        if self._timer is None and not self._is_running:
            self._timer = asyncio.get_running_loop().call_later(DELAY_S, self._start)

    def is_fed(self, run: Run) -> bool:
        """Whether the visibility store has the run's row as it is now: a change that is not durable yet has not been taken."""
        return run.fed == feed_signature(run.state) and run.key not in self._waiting and run.key not in self._writing

    def forget_shard(self, shard: Shard) -> None:
        """The shard will be replayed, and what it owes is taken again."""
        for key in [key for key, (owner, _) in self._waiting.items() if owner is shard]:
            del self._waiting[key]

    async def close(self) -> None:
        """Writes what waits, once; what fails is found again at the next start."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            await self.flush()
        except VisibilityUnavailable as error:
            log.warning("visibility rows will be written at the next start", waiting=len(self._waiting), error=str(error))

    async def flush(self) -> None:
        """Writes what waits now. Raises VisibilityUnavailable."""
        async with self._lock:
            while self._waiting:
                await self._write({key: self._waiting.pop(key) for key in list(self._waiting)[:BATCH_ROWS]})

    async def _write(self, batch: dict[RunKey, tuple[Shard, VisibilityRow | None]]) -> None:
        self._writing = set(batch)
        try:
            rows = [row for _, row in batch.values() if row is not None]
            if rows:
                await self._visibility.upsert(rows)
            gone = [key for key, (_, row) in batch.items() if row is None]
            if gone:
                await self._visibility.delete(gone)
        except BaseException:
            for key, (shard, row) in batch.items():
                if shard.is_open:
                    self._waiting.setdefault(key, (shard, row))
            raise
        finally:
            self._writing = set()

    def _start(self) -> None:
        self._timer = None
        if not self._is_running:
            self._is_running = True
            self._spawn(self._run(), "visibility-feed")

    async def _run(self) -> None:
        backoff_s = DELAY_S
        try:
            while self._waiting:
                try:
                    await self.flush()
                except VisibilityUnavailable as error:
                    log.warning("visibility rows are late", waiting=len(self._waiting), error=str(error))
                    await asyncio.sleep(backoff_s)
                    backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)
        finally:
            self._is_running = False


def row_of(state: RunState, position: int) -> VisibilityRow:
    """The run as lists show it. position: of the journal, when the state was durable."""
    return VisibilityRow(
        namespace_id=state.namespace_id,
        workflow_id=state.workflow_id,
        run_id=state.run_id,
        workflow_type=state.workflow_type,
        status=state.status,
        start_time=state.started_at,
        position=position,
        execution_time=state.first_task_at or state.started_at,
        close_time=state.closed_at or None,
        history_length=state.next_event_id - 1,
        history_size_bytes=state.history_bytes,
        state_transition_count=state.transition_count,
        task_queue=state.task_queue,
        parent_workflow_id=state.parent.workflow_id if state.parent is not None else None,
        parent_run_id=state.parent.run_id if state.parent is not None else None,
        root_workflow_id=state.root_workflow_id or None,
        root_run_id=state.root_run_id or None,
        memo=_memo(state),
        search_attributes=state.search_attributes,
    )


def _memo(state: RunState) -> bytes:
    if not state.memo:
        return b""
    memo = Memo()
    for key, payload in state.memo.items():
        memo.fields[key].MergeFromString(payload)
    return memo.SerializeToString()
