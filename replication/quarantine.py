"""Deltas that could not be taken in: durable rows, one per peer and run, to be looked at, tried again, or dropped by an operator.

A run's next delta replaces its row (it carries all that is missing, as a snapshot), and one that succeeds removes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from cluster.core.branches import NOTHING, Head
from cluster.history.forks import Poison
from cluster.history.replicate import Applied, Wanted
from cluster.history.run_delta import RunDelta, decode_delta
from cluster.seams import Clock
from cluster.stores.base import Store, StoreUnavailable

log = structlog.get_logger("replication")

QUARANTINE_KIND = "replication-quarantine"


class QuarantineRow(msgspec.Struct, frozen=True):
    """key fields "": the delta cannot even be read. delta: as it came."""

    id: str
    peer: str
    namespace_id: str
    workflow_id: str
    run_id: str
    reason: str
    attempts: int
    first_at: int  # ns since the epoch
    last_at: int
    head: Head  # that was offered
    delta: bytes


class Quarantine:
    """One region's."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._ids: set[str] | None = None  # of the rows that this node knows of

    async def put(self, peer: str, delta: RunDelta | None, data: bytes, reason: str) -> QuarantineRow:
        """Durable at return. Raises StoreError."""
        id = _id_of(peer, delta, data)
        found = await self._store.metadata_get(QUARANTINE_KIND, id)
        before = None if found is None else _decode(found.data)
        now = self._clock.now_ns()
        row = QuarantineRow(
            id=id,
            peer=peer,
            namespace_id=delta.namespace_id if delta is not None else "",
            workflow_id=delta.workflow_id if delta is not None else "",
            run_id=delta.run_id if delta is not None else "",
            reason=reason,
            attempts=1 if before is None else before.attempts + 1,
            first_at=now if before is None else before.first_at,
            last_at=now,
            head=delta.head if delta is not None else NOTHING,
            delta=data,
        )
        version = 0 if found is None else found.version
        if await self._store.metadata_put(QUARANTINE_KIND, id, msgspec.msgpack.encode(row), version) is None:
            raise StoreUnavailable(f"the quarantine row {id} was written by another node meanwhile")
        (await self._known()).add(id)
        log.error("a delta was put into quarantine", peer=peer, id=id, workflow_id=row.workflow_id, reason=reason)
        return row

    async def healed(self, peer: str, delta: RunDelta) -> None:
        """A later delta of the run was taken in. Raises StoreError."""
        id = _id_of(peer, delta, b"")
        if id in await self._known():
            await self.drop(id)

    async def rows(self) -> list[QuarantineRow]:
        """Raises StoreError."""
        return [_decode(row.data) for row in await self._store.metadata_list(QUARANTINE_KIND)]

    async def show(self, id: str) -> QuarantineRow | None:
        """Raises StoreError."""
        row = await self._store.metadata_get(QUARANTINE_KIND, id)
        return None if row is None else _decode(row.data)

    async def retry(self, id: str, apply: Callable[[RunDelta], Awaitable[Applied | Wanted]]) -> str:
        """Tries once more. Returns why it did not succeed, "" if it did: then the row is gone. Raises StoreError, CallerError."""
        row = await self.show(id)
        if row is None:
            return "there is no such row"
        try:
            delta = decode_delta(row.delta)
        except msgspec.MsgspecError as error:
            return f"it cannot be read: {error}"
        try:
            outcome = await apply(delta)
        except Poison as error:
            await self.put(row.peer, delta, row.delta, error.reason)
            return error.reason
        if isinstance(outcome, Wanted):
            return "what it builds on is not here: the peer must send the run as a snapshot"
        await self.drop(id)
        return ""

    async def drop(self, id: str) -> bool:
        """Whether there was such a row. The run stays as it is here. Raises StoreError."""
        (await self._known()).discard(id)
        row = await self._store.metadata_get(QUARANTINE_KIND, id)
        return row is not None and await self._store.metadata_delete(QUARANTINE_KIND, id, row.version)

    async def _known(self) -> set[str]:
        if self._ids is None:
            self._ids = {row.id for row in await self._store.metadata_list(QUARANTINE_KIND)}
        return self._ids


def _id_of(peer: str, delta: RunDelta | None, data: bytes) -> str:
    what = data if delta is None else f"{delta.namespace_id}\0{delta.workflow_id}\0{delta.run_id}".encode()
    return hashlib.blake2b(peer.encode() + b"\0" + what, digest_size=16).hexdigest()


def _decode(data: bytes) -> QuarantineRow:
    return msgspec.msgpack.decode(data, type=QuarantineRow)
