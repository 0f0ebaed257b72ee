"""The safeguards that a single node needs, for removal.py to remove; those of a cluster and of regions besides:
cluster_safeguards.py, region_safeguards.py."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import Any

from chaos.sim import cluster_safeguards, region_safeguards
from chaos.sim.removal import SAFEGUARDS, Put, find_hole, removed, safeguard
from cluster.core.errors import not_found
from cluster.core.machines import activity, activity_calls, lifecycle, start, update
from cluster.core.transition import Transition
from cluster.history import between_runs, checkpoint, deliveries, polls, visibility_feed
from cluster.history.api import reset_workflow_execution, respond_workflow_task
from cluster.history.checkpoint import Checkpointer
from cluster.history.journal import Journal
from cluster.history.outstanding import Outstanding
from cluster.history.shard import Shard
from cluster.history.sweep import Sweep
from cluster.stores.base import Lease, StoreUnknown
from cluster.stores.faulty import FaultyStore
from cluster.stores.memory import MemoryStore

__all__ = ["SAFEGUARDS", "cluster_safeguards", "find_hole", "region_safeguards", "removed"]

# Whether the running job writes rows; belongs to the job, so that nothing is left of it when its node is killed.
IN_SLICE: contextvars.ContextVar[bool] = contextvars.ContextVar("chaos_sim_in_slice", default=False)


def _done() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


# --- once -----------------------------------------------------------------------------------------------------------------
@safeguard
def signal_request_id_dedup(put: Put) -> None:
    """A signal that is sent again is known by its request id."""
    real = lifecycle.signal

    def signal(t: Transition, *args: Any, **kwargs: Any) -> bool:
        t.state.signal_request_ids = {}
        return real(t, *args, **kwargs)

    put(lifecycle, "signal", signal)


@safeguard
def start_request_id_dedup(put: Put) -> None:
    """A start that is sent again finds the run that it began."""
    real = start.decide_id
    put(start, "decide_id", lambda state, request_id, *rest: real(state, "", *rest))


@safeguard
def update_id_dedup(put: Put) -> None:
    """An update that is sent again joins the one under way."""
    real = update.admit

    def admit(t: Transition, request: Any) -> bool:
        t.state.updates = {known: one for known, one in t.state.updates.items() if known != request.meta.update_id}
        return real(t, request)

    put(update, "admit", admit)


@safeguard
def child_request_id_is_stable(put: Put) -> None:
    """A child whose start is delivered again is known by its request id."""
    real = deliveries._request_of_child
    count = iter(range(1_000_000))
    put(deliveries, "_request_of_child", lambda initiated, request_id: real(initiated, f"fresh-{next(count)}"))


@safeguard
def workflow_task_token_names_one_attempt(put: Put) -> None:
    """An answer to a task that is over is refused."""

    def require_task(state: Any, token: Any) -> None:
        if state.task is None or not state.task.is_started:
            raise not_found(respond_workflow_task.TASK_NOT_FOUND)

    put(respond_workflow_task, "_require_task", require_task)


@safeguard
def activity_token_names_one_attempt(put: Put) -> None:
    """A worker whose attempt timed out may not complete the next one."""
    real = activity.find  # `activity_calls` has its own name for it, and that is the one replaced

    def find(state: Any, scheduled_event_id: int, activity_id: str, attempt: int, **kwargs: Any) -> Any:
        held = state.activities.get(scheduled_event_id)
        return real(state, scheduled_event_id, activity_id, held.attempt if held is not None else attempt, **kwargs)

    put(activity_calls, "find", find)


@safeguard
def external_signal_request_id_is_stable(put: Put) -> None:
    """A signal to another workflow that is delivered again is known by its request id."""
    real = lifecycle.signal
    count = iter(range(1_000_000))

    def signal(t: Transition, attributes: Any, *args: Any, **kwargs: Any) -> bool:
        if attributes.external_workflow_execution.run_id and attributes.identity == between_runs.IDENTITY:
            attributes.request_id = f"fresh-{next(count)}"
        return real(t, attributes, *args, **kwargs)

    put(lifecycle, "signal", signal)


# --- durable before told ------------------------------------------------------------------------------------------------------
@safeguard
def acks_wait_for_durability(put: Put) -> None:
    """Nobody is told of a change before it is in the journal."""
    real = Shard.commit

    def commit(self: Shard, *changes: Any) -> asyncio.Future[None]:
        real(self, *changes).add_done_callback(lambda future: future.cancelled() or future.exception())
        return _done()

    put(Shard, "commit", commit)


@safeguard
def reads_wait_for_durability(put: Put) -> None:
    """Nobody is shown a state, or refused because of it, before it is in the journal."""

    async def read(self: Shard, run: Any) -> Any:
        return run.state

    async def all_durable(self: Shard) -> None:
        return None

    put(Shard, "read", read)
    put(Shard, "durable", lambda self, run: _done())
    put(Shard, "all_durable", all_durable)


@safeguard
def memory_is_dropped_after_an_unknown_append(put: Put) -> None:
    """An append of unknown outcome is not taken as done."""
    real = FaultyStore.append

    async def append(self: FaultyStore, lease: Lease, position: int, data: bytes) -> None:
        with contextlib.suppress(StoreUnknown):
            await real(self, lease, position, data)

    put(FaultyStore, "append", append)


@safeguard
def lease_fences_appends(put: Put) -> None:
    """A former owner cannot append, however late its write arrives."""

    async def append(self: MemoryStore, lease: Lease, position: int, data: bytes) -> None:
        held = self._shards[lease.shard]
        held.journal[position] = data
        held.last_position = max(held.last_position, position)

    put(MemoryStore, "append", append)


# --- checkpoint and recovery ----------------------------------------------------------------------------------------------------
@safeguard
def journal_is_sealed_before_a_snapshot(put: Put) -> None:
    """A row that says position p contains all of p's record."""
    put(Journal, "seal", lambda self: self.last_position)


@safeguard
def truncation_stops_at_the_cut(put: Put) -> None:
    """Only records whose every change is in a row are truncated."""
    real = MemoryStore.checkpoint

    async def checkpoint_all(self: MemoryStore, lease: Lease, rows: Any, blobs: Any, gone: Any, truncate_to: int) -> None:
        last = self._shards[lease.shard].last_position
        await real(self, lease, rows, blobs, gone, last if truncate_to else 0)

    put(MemoryStore, "checkpoint", checkpoint_all)


@safeguard
def rows_wait_for_the_journal(put: Put) -> None:
    """A row never shows what the journal may lose."""

    real_durable, real_slice = Journal.durable, Checkpointer._write_slice

    def durable(self: Journal, position: int) -> asyncio.Future[None]:
        return _done() if IN_SLICE.get() else real_durable(self, position)

    async def write_slice(self: Checkpointer, keys: Any) -> None:
        token = IN_SLICE.set(True)
        try:
            await real_slice(self, keys)
        finally:
            IN_SLICE.reset(token)

    put(Journal, "durable", durable)
    put(Checkpointer, "_write_slice", write_slice)


@safeguard
def effects_are_reconciled_after_replay(put: Put) -> None:
    """A shard that was opened offers again what its runs owe."""
    _quiet_while_opening(put, Outstanding, "reconcile")


@safeguard
def wakeups_are_set_after_replay(put: Put) -> None:
    """A shard that was opened knows the timers of its runs again."""
    _quiet_while_opening(put, Sweep, "set")


def _quiet_while_opening(put: Put, owner: Any, attribute: str) -> None:
    """The method does nothing while a shard is being opened, and what it would have done then is not made up for."""
    opening: set[int] = set()
    real_open, real = Shard.open, getattr(owner, attribute)

    async def open_quietly(self: Shard, name: str) -> None:
        opening.add(id(self))
        try:
            await real_open(self, name)
        finally:
            opening.discard(id(self))

    def quiet(self: Any, *args: Any) -> Any:
        shard = self._shard if isinstance(self, Sweep) else args[0]
        return None if id(shard) in opening else real(self, *args)

    put(Shard, "open", open_quietly)
    put(owner, attribute, quiet)


@safeguard
def row_says_that_visibility_is_owed(put: Put) -> None:
    """A run whose visibility row is not written is found again after a crash (wake_at 0)."""
    real = checkpoint.snapshot_of
    put(checkpoint, "snapshot_of", lambda run, is_fed, wake_at: real(run, True, wake_at))


@safeguard
def visibility_is_owed_from_the_change_on(put: Put) -> None:
    """What is not durable yet has not been fed either."""
    put(
        visibility_feed.VisibilityFeed,
        "is_fed",
        lambda self, run: run.key not in self._waiting and run.key not in self._writing,
    )


# --- order --------------------------------------------------------------------------------------------------------------------
@safeguard
def buffered_events_are_flushed(put: Put) -> None:
    """What came while a task was started joins the history when it ends."""
    put(Transition, "flush", lambda self: False)


@safeguard
def timers_wake_their_runs(put: Put) -> None:
    """A change moves the wake-up."""
    put(Shard, "set_wake", lambda self, run: None)


@safeguard
def queries_do_not_ride_with_earlier_tasks(put: Put) -> None:
    """A query that came after a task's start waits for the next one, which shows what was acked before the query."""

    def send_all(run: Any, state: Any, answer: Any) -> None:
        for query_id, waiting in run.queries.items():
            waiting.is_sent = True
            answer.queries[query_id].CopyFrom(waiting.query)

    put(polls, "send_buffered", send_all)


@safeguard
def resets_wait_for_what_came_meanwhile(put: Put) -> None:
    """What the base run takes while a reset is under way is reapplied too."""
    real = reset_workflow_execution._later_events

    async def later_events(shard: Shard, base: Any, first: int) -> Any:
        seen, _, later = await real(shard, base, first)
        await asyncio.sleep(0.1)
        current = await shard.current(base.namespace_id, base.workflow_id)
        return seen, current, later

    put(reset_workflow_execution, "_later_events", later_events)
