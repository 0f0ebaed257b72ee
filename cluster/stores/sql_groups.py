"""Group commit for engines with a server: appends that wait together go to the database as one statement.

    append --> lane of its shard --> (one statement under way per lane; meanwhile the next group gathers) --> database

Appends of one shard keep their order since they share a lane. Within a group the consecutive records of a shard form a *run*:
it is accepted or refused as a whole, since each record was built on the one before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from cluster.stores.base import Lease, LeaseLost, StoreError, StoreUnavailable, StoreUnknown

# Bounds the time that the first one of a group waits for the last, and the size of a statement.
GROUP_RECORDS_MAX = 256
GROUP_BYTES_MAX = 1 << 20
# Beyond this the database does not keep up, and memory is no place for a queue.
WAITING_COUNT_MAX = 16_384


@dataclass(slots=True)
class Run:
    """Consecutive records of one shard under one lease."""

    shard: int
    range_id: int
    first_position: int
    records: list[bytes] = field(default_factory=list)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)

    def continues_with(self, lease: Lease, position: int) -> bool:
        return self.range_id == lease.range_id and self.first_position + len(self.records) == position


@dataclass(slots=True)
class _Waiting:
    lease: Lease
    position: int
    sealed: bytes
    waiter: asyncio.Future[None]


# Writes a group; returns the shards that took their run. Raises StoreUnknown or StoreUnavailable for the group as a whole.
WriteGroup = Callable[[Sequence[Run]], Awaitable[set[int]]]


class AppendLanes:
    """Gathers appends into groups. Errors of the contract only."""

    def __init__(self, write: WriteGroup, lanes_count: int) -> None:
        self._lanes = [_Lane(write) for _ in range(lanes_count)]

    def submit(self, lease: Lease, position: int, sealed: bytes) -> asyncio.Future[None]:
        return self._lanes[lease.shard % len(self._lanes)].submit(lease, position, sealed)

    async def drain(self) -> None:
        """Until all that was handed over has its outcome."""
        jobs = [lane.job for lane in self._lanes if lane.job is not None]
        if jobs:
            await asyncio.wait(jobs)


class _Lane:
    def __init__(self, write: WriteGroup) -> None:
        self._write = write
        self._waiting: deque[_Waiting] = deque()
        self.job: asyncio.Task[None] | None = None

    def submit(self, lease: Lease, position: int, sealed: bytes) -> asyncio.Future[None]:
        if len(self._waiting) >= WAITING_COUNT_MAX:
            raise StoreUnavailable(f"{WAITING_COUNT_MAX} appends wait for the database already")
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting.append(_Waiting(lease, position, sealed, waiter))
        if self.job is None:
            self.job = loop.create_task(self._run())
        return waiter

    async def _run(self) -> None:
        """Ends when nothing waits; the next append starts it again."""
        try:
            while self._waiting:
                runs = take_group(self._waiting)
                try:
                    _settle(runs, await self._write(runs))
                except BaseException as error:
                    _fail(runs, error)
                    if not isinstance(error, Exception):
                        raise
        finally:
            self.job = None
            while self._waiting:  # only after a cancellation of this job itself: the loop is going down
                _refuse(self._waiting.popleft().waiter, StoreUnavailable("the store is shutting down"))


def take_group(waiting: deque[_Waiting]) -> list[Run]:
    """Takes what fits in one statement, in order. One that does not continue its shard's run ends the group."""
    runs: dict[int, Run] = {}
    count = size = 0
    while waiting and count < GROUP_RECORDS_MAX:
        following = waiting[0]
        lease = following.lease
        if count and size + len(following.sealed) > GROUP_BYTES_MAX:
            break
        run = runs.get(lease.shard)
        if run is None:
            run = runs[lease.shard] = Run(lease.shard, lease.range_id, following.position)
        elif not run.continues_with(lease, following.position):
            break
        run.records.append(following.sealed)
        run.waiters.append(following.waiter)
        count += 1
        size += len(following.sealed)
        waiting.popleft()
    return list(runs.values())


def _settle(runs: Sequence[Run], taken: set[int]) -> None:
    for run in runs:
        for place, waiter in enumerate(run.waiters):
            if run.shard in taken:
                if not waiter.done():
                    waiter.set_result(None)
            else:
                position = run.first_position + place
                fenced = f"shard {run.shard}: range {run.range_id} is fenced, or {position} is not the next position"
                _refuse(waiter, LeaseLost(fenced))


def _fail(runs: Sequence[Run], error: BaseException) -> None:
    """Each waiter gets an exception of its own: a shared one would collect the tracebacks of all."""
    for run in runs:
        for waiter in run.waiters:
            if isinstance(error, StoreError):
                own = type(error)(*error.args)
                own.__cause__ = error
                _refuse(waiter, own)
            elif isinstance(error, Exception):
                _refuse(waiter, error)
            else:
                _refuse(waiter, StoreUnknown("the store was shut down while the append was under way"))


def _refuse(waiter: asyncio.Future[None], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)
