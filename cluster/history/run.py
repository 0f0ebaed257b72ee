"""A run in a shard's memory: its state, the events the store does not have yet, and who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

import msgspec

from cluster.config import Limits
from cluster.core.entry import Base, Entry, Flushed
from cluster.core.state import RunState, SnapshotFormatError, decode_state
from cluster.frontend.call import Call
from cluster.history.journal import shard_is_moving
from cluster.stores.base import CorruptRecord, RunKey, Snapshot


class Run:
    """position: journal position of its last change. tail: encoded events from stored_event_id + 1 on."""

    __slots__ = (
        "active",
        "branch",
        "fed",
        "is_current",
        "is_dirty",
        "is_evicted",
        "is_pointed_to",
        "is_stand_in",
        "key",
        "position",
        "queries",
        "rejected",
        "row_position",
        "shutdown_sticky",
        "state",
        "stored_event_id",
        "tail",
        "used_at",
        "waiters",
        "wake_at",
    )

    def __init__(self, key: RunKey, state: RunState, *, is_current: bool, position: int, stored_event_id: int) -> None:
        self.key = key
        self.state = state
        self.is_current = is_current
        self.position = position
        self.stored_event_id = stored_event_id
        self.branch = 0  # the number under which the store has its history
        self.row_position = 0  # position of the row that the store has; 0 = none that this process knows of
        self.tail: list[bytes] = []
        self.is_pointed_to = False  # a row that was stored has moved the store's pointer of the current run to this one
        self.is_stand_in = False  # made for a deleted run that is not in memory (current_runs.py)
        self.is_dirty = False
        self.is_evicted = False
        self.wake_at = 0  # what the wake-up heap knows
        self.used_at = 0.0
        self.active: dict[Hashable, Any] = {}  # outstanding effects and what serves them
        self.waiters: list[asyncio.Future[None]] = []  # called at the next durable change
        self.queries: dict[str, Any] = {}
        self.rejected: dict[str, bytes] = {}
        self.fed: tuple[Any, ...] = ()

    @property
    def last_event_id(self) -> int:
        return self.state.next_event_id - 1

    def take(self, state: RunState, entry: Entry) -> None:
        """The entry's outcome becomes the run's state."""
        self.state = state
        for item in entry.items:
            if isinstance(item, bytes):
                self.tail.append(item)
            elif isinstance(item, Flushed):
                self.tail.append(item.event)
            elif isinstance(item, Base):  # its events were stored before
                self.tail.clear()
                self.stored_event_id = item.last_event_id

    def changed(self) -> asyncio.Future[None]:
        """Done at the next durable change of this run."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.is_evicted:
            future.set_exception(shard_is_moving())  # its changes happen elsewhere now
        else:
            self.waiters.append(future)
        return future

    async def changed_until(self, until: float) -> None:
        """Returns at the next durable change, or at `until` (loop.time() seconds). Raises what ends the waiting for all."""
        changed = self.changed()
        timer = asyncio.get_running_loop().call_at(until, _give_up, changed)
        try:
            await changed
        finally:
            timer.cancel()

    def wake_waiters(self) -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def fail_waiters(self, error: BaseException) -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)
        for query in self.queries.values():
            query.fail(error)
        self.queries.clear()


def run_of(row: Snapshot) -> Run:
    """The run of a row. Raises CorruptRecord."""
    try:
        state = decode_state(row.data)
    except (SnapshotFormatError, msgspec.MsgspecError) as error:
        raise CorruptRecord(f"the row of {row.key} cannot be read: {error}", key=row.key) from error
    position, events_count = row.changed_position, state.next_event_id - 1
    run = Run(row.key, state, is_current=row.is_current, position=position, stored_event_id=events_count)
    run.row_position = row.changed_position
    run.is_pointed_to = row.is_current
    return run


def feed_signature(state: RunState) -> tuple[Any, ...]:
    """What the visibility row shows; when it changes, the row is written again."""
    end = (state.closed_at, 0 if state.is_open else state.next_event_id)  # another branch of the run may have ended otherwise
    return (state.status, state.search_attributes, state.memo, state.first_task_at, state.task_queue, state.is_deleted, end)


LONG_POLL_TAIL_S = 1.0  # a long poll is answered this long before its caller's deadline


def long_poll_until(limits: Limits, call: Call | None) -> float:
    """loop.time() seconds at which a long poll ends, in good time before the caller's deadline if it set one."""
    now = asyncio.get_running_loop().time()
    longest = now + limits.history_long_poll_ns / 1e9
    deadline = call.deadline if call is not None else None
    return longest if deadline is None else max(now, min(longest, deadline - LONG_POLL_TAIL_S))


def _give_up(changed: asyncio.Future[None]) -> None:
    if not changed.done():
        changed.set_result(None)
