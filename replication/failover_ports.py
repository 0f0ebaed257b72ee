"""What failovers need of the rest of a node: other regions, namespaces, the stream. Assembly gives the real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from cluster.core.errors import CallerError, unavailable
from cluster.namespaces.ownership_changes import Decide
from cluster.namespaces.record import NamespaceRecord
from cluster.seams import Clock, Ids, Spawn
from replication.failover import Ownership, Regions
from replication.failover_report import OWNERSHIP, Backlog, OwnershipTold, PeerState
from replication.witness import LagNote

FAULT_PAUSE_S = 1.0


class RegionCalls(Protocol):
    """replication.port.RegionPort."""

    here: str

    def peers(self) -> list[str]: ...

    def answer(self, method: str, answerer: Callable[[str, bytes], Awaitable[bytes]]) -> None: ...

    async def ask(self, peer: str, method: str, data: bytes, timeout_s: float = ...) -> bytes:
        """Raises CallerError."""
        ...


class Namespaces(Protocol):
    """cluster.namespaces.registry.NamespaceRegistry."""

    def all_cached(self) -> list[NamespaceRecord]: ...

    def cached_by_id(self, namespace_id: str) -> NamespaceRecord | None: ...

    async def by_name(self, name: str) -> NamespaceRecord: ...

    async def refresh(self) -> None: ...


class ChangeOwnership(Protocol):
    """cluster.namespaces.ownership_changes.OwnershipChanges.change_ownership."""

    async def __call__(self, namespace_id: str, decide: Decide, is_witnessed: bool = False) -> NamespaceRecord: ...


class FailoverPorts(msgspec.Struct, frozen=True, kw_only=True):
    """backlog(namespace id, peer), lag(): of all nodes of this region together; raise CallerError when one cannot be asked.
    quarantined(namespace id): how many of its runs this region could not take in. is_leading: whether this node has shard 0 open.
    is_healthy: whether this node can serve what its region is asked. now_s: monotonic. spawn: a job of the node."""

    calls: RegionCalls
    namespaces: Namespaces
    change_ownership: ChangeOwnership
    regions: Callable[[], Regions]
    backlog: Callable[[str, str], Awaitable[Backlog]]
    lag: Callable[[], Awaitable[dict[str, LagNote]]]
    quarantined: Callable[[str], Awaitable[int]]
    is_leading: Callable[[], bool]
    is_healthy: Callable[[], bool]
    clock: Clock
    ids: Ids
    spawn: Spawn
    now_s: Callable[[], float]


async def tell_owner(
    calls: RegionCalls, region: str, namespace_id: str, ownership: Ownership | None, timeout_s: float
) -> PeerState:
    """Tells a region who owns a namespace (None: only asks), and how that looks there then. Raises CallerError."""
    data = await calls.ask(region, OWNERSHIP, msgspec.msgpack.encode(OwnershipTold(namespace_id, ownership)), timeout_s)
    try:
        return msgspec.msgpack.decode(data, type=PeerState)
    except msgspec.MsgspecError as broken:
        raise unavailable(f"region {region} answers what cannot be read here: is it of another version?") from broken


async def repeat(ports: FailoverPorts, name: str, step: Callable[[], Awaitable[float]]) -> None:
    """For ever; the step says for how long to pause. A lease or a watch must not end by a fault of ours: what escapes a step is
    reported as the failure of a job, and the step is done again."""
    while True:
        pause_s = FAULT_PAUSE_S
        try:
            pause_s = await step()
        except Exception as fault:
            ports.spawn(_report(fault), name)
        await asyncio.sleep(pause_s)


async def _report(fault: Exception) -> None:
    raise fault


def reason_of(error: Exception) -> str:
    return error.message if isinstance(error, CallerError) else str(error)


def nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
