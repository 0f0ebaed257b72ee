"""What an acknowledged write of a replicated namespace is worth, by the namespace's data key `outlast.write-mode`.

| value                        | a start, signal or update is                                                                   |
|------------------------------|------------------------------------------------------------------------------------------------|
| `async` (default)            | acknowledged when it is durable here                                                           |
| `bounded events=N seconds=S` | refused (RESOURCE_EXHAUSTED, nothing was done) while the others are further behind than that   |
| `sync`                       | acknowledged when another region holds it, too: losing this one loses nothing acknowledged     |

How far behind: the region that is least behind counts. A sync write that no region confirms in time is UNAVAILABLE: it is durable
here, and the client's request id makes its repetition safe. Refused at once, with nothing done, while no region is linked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from cluster.core.errors import resource_exhausted, unavailable
from cluster.frontend.call import Call
from cluster.history.shard import Shard
from cluster.namespaces.record import NamespaceRecord
from cluster.namespaces.write_mode import ASYNC, KEY, WriteMode, write_mode_of

WRITES = frozenset(
    {
        "start_workflow_execution",
        "signal_workflow_execution",
        "signal_with_start_workflow_execution",
        "update_workflow_execution",
        "execute_multi_operation",
    }
)
SYNC_S_MAX = 10.0
SYNC_TAIL_S = 0.2  # the refusal must reach the caller before it gives up
_SECOND_NS = 1_000_000_000


class Peer(Protocol):
    """Another region, as this node tells it."""

    @property
    def is_linked(self) -> bool: ...

    def ships(self, namespace_id: str) -> bool: ...

    def behind(self, namespace_id: str) -> tuple[int, int]:
        """Events that it has not acknowledged, and when the oldest was written (ns; 0 = none)."""
        ...

    async def has_reached(self, shard: Shard, position: int) -> None:
        """Returns when the region has acknowledged all of the shard up to there."""
        ...


class WriteModes:
    """One node's. peers: all linked regions."""

    def __init__(self, peers: Callable[[], Sequence[Peer]], now_ns: Callable[[], int]) -> None:
        self._peers, self._now_ns = peers, now_ns
        self._parsed: dict[str, WriteMode] = {}

    def of(self, namespace: NamespaceRecord) -> WriteMode:
        text = namespace.data.get(KEY, "")
        if not text or not namespace.is_replicated:
            return ASYNC
        mode = self._parsed.get(text)
        if mode is None:
            mode = self._parsed[text] = write_mode_of(namespace.data)
        return mode

    def check(self, namespace: NamespaceRecord) -> None:
        """Before anything is done. Raises CallerError."""
        mode = self.of(namespace)
        if mode is ASYNC:
            return
        peers = [peer for peer in self._peers() if peer.ships(namespace.id)]
        if mode.is_sync:
            if not any(peer.is_linked for peer in peers):
                raise unavailable(f"namespace {namespace.name} has the write mode sync, and no other region is linked now: retry")
            return
        behind = [peer.behind(namespace.id) for peer in peers]
        events = min((count for count, _ in behind), default=0)
        oldest_at = max((at or self._now_ns() for _, at in behind), default=0)
        seconds = (self._now_ns() - oldest_at) / _SECOND_NS if oldest_at else 0.0
        if 0 < mode.events_max <= events or 0 < mode.seconds_max <= seconds:
            raise resource_exhausted(
                f"namespace {namespace.name}: the other regions are {events} events and {seconds:.1f} s behind, more than its "
                f"write mode allows ({namespace.data[KEY]}); retry when they have caught up"
            )

    async def confirm(self, namespace: NamespaceRecord, shard: Shard, call: Call | None) -> None:
        """What was written is durable here. Raises CallerError UNAVAILABLE."""
        if not self.of(namespace).is_sync:
            return
        loop, position = asyncio.get_running_loop(), shard.journal.durable_position
        until = loop.time() + SYNC_S_MAX
        if call is not None and call.deadline is not None:
            until = min(until, call.deadline - SYNC_TAIL_S)
        waits = [
            loop.create_task(peer.has_reached(shard, position)) for peer in self._peers() if peer.ships(namespace.id)
        ]
        try:
            if waits:
                done, _ = await asyncio.wait(waits, timeout=max(0.0, until - loop.time()), return_when=asyncio.FIRST_COMPLETED)
                if any(not one.cancelled() and one.exception() is None for one in done):
                    return
        finally:
            for wait in waits:
                wait.cancel()
        raise unavailable("No other region has confirmed this write in time; it is durable here: retry with the same request id.")
