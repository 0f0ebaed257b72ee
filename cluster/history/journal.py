"""The journal's writing end: one fenced append at a time, everything that comes in meanwhile forms the next group.

A caller adds its entry, then waits on a future of its own; the future is done when the group is durable. Positions are
dense. The first failure ends this journal: memory may be ahead of the store, so the shard must be dropped and replayed.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

from cluster.config import ShardConfig
from cluster.core.entry import encode_group
from cluster.core.errors import CallerError, Code
from cluster.seams import Spawn
from cluster.stores.base import Lease, Store, StoreError, StoreUnknown


class Group:
    """Transitions that become durable together."""

    __slots__ = ("data_bytes", "entries", "position", "waiters")

    def __init__(self, position: int) -> None:
        self.position = position
        self.entries: list[bytes] = []
        self.data_bytes = 0
        self.waiters: list[asyncio.Future[None]] = []


class Journal:
    """Writes one shard's journal under one lease."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        last_position: int,
        config: ShardConfig,
        spawn: Spawn,
        on_durable: Callable[[Group], None],
        on_failure: Callable[[StoreError], None],
    ) -> None:
        self._store = store
        self._lease = lease
        self._config = config
        self._spawn = spawn
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._groups: deque[Group] = deque()
        self._sealed_position = last_position
        self._is_writing = False
        self.durable_position = last_position
        self.confirmed_at = -math.inf  # loop.time() when the last write that went well was sent: the lease was good then
        self.failure: StoreError | None = None
        self.entries_since_cut = 0
        self.bytes_since_cut = 0
        self.appends_count = 0  # these two: how large groups are under load
        self.appended_entries_count = 0

    @property
    def last_position(self) -> int:
        """The position of the last group that has entries."""
        return self._groups[-1].position if self._groups else self.durable_position

    def add(self, *entries: bytes) -> int:
        """Takes entries that become durable together; returns the position of their group. Raises UNAVAILABLE after a failure."""
        if self.failure is not None:
            raise shard_is_moving()
        group = self._forming()
        group.entries.extend(entries)
        added_bytes = sum(map(len, entries))
        group.data_bytes += added_bytes
        self.entries_since_cut += len(entries)
        self.bytes_since_cut += added_bytes
        if group.data_bytes >= self._config.group_bytes_max or len(group.entries) >= self._config.group_entries_max:
            self.seal()
        if not self._is_writing:
            self._is_writing = True
            self._spawn(self._write(), f"journal-{self._lease.shard}")
        return group.position

    def seal(self) -> int:
        """Later entries join a later group. Returns the position that covers everything added so far."""
        if self._groups and self._groups[-1].position > self._sealed_position:
            self._sealed_position = self._groups[-1].position
        return self._sealed_position

    def durable(self, position: int) -> asyncio.Future[None]:
        """A future of the caller's own, done when `position` is durable. It raises UNAVAILABLE if that fails."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.failure is not None:
            future.set_exception(shard_is_moving())
        elif position <= self.durable_position:
            future.set_result(None)
        else:
            for group in reversed(self._groups):
                if group.position <= position:
                    group.waiters.append(future)
                    break
            else:
                raise AssertionError(f"position {position} was never added")
        return future

    def end(self, failure: StoreError) -> None:
        """Fails everybody who waits; nothing can be added any more."""
        if self.failure is not None:
            return
        self.failure = failure
        for group in self._groups:
            for waiter in group.waiters:
                if not waiter.done():
                    waiter.set_exception(shard_is_moving())
        self._groups.clear()

    def _forming(self) -> Group:
        if not self._groups or self._groups[-1].position <= self._sealed_position:
            self._groups.append(Group(self._sealed_position + 1))
        return self._groups[-1]

    def _fail(self, error: StoreError) -> None:
        self.end(error)
        self._on_failure(error)

    def _has_failed(self) -> bool:
        return self.failure is not None

    async def _write(self) -> None:
        while self._groups and not self._has_failed():
            group = self._groups[0]
            self._sealed_position = max(self._sealed_position, group.position)
            sent_at = asyncio.get_running_loop().time()
            try:
                await self._store.append(self._lease, group.position, encode_group(group.entries))
            except StoreError as error:
                self._fail(error)
                return
            except Exception as error:  # a store that breaks its contract: what it did is not known
                self._fail(StoreUnknown(f"append ended with {error!r}"))
                raise
            if self._has_failed():
                return  # the shard was given up meanwhile
            self._groups.popleft()
            self.durable_position = group.position
            self.confirmed_at = max(self.confirmed_at, sent_at)
            self.appends_count += 1
            self.appended_entries_count += len(group.entries)
            for waiter in group.waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._on_durable(group)
        self._is_writing = False


class ShardIsMoving(CallerError):
    """The shard left memory under a call: what the call did may or may not be durable. A read may go to the next owner."""


def shard_is_moving() -> CallerError:
    return ShardIsMoving(Code.UNAVAILABLE, "The shard of this workflow is moving or recovering: retry with the same request id.")
