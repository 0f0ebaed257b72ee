"""The records of global namespaces, exchanged between regions: who owns them, their settings, search attributes, deletions.

    changed here   the record goes to every linked region at once
    every LOOK_S   one node asks each region whether it has the same (a digest); if not, all go both ways

Merging is commutative and idempotent (cluster/namespaces/merging.py), so nothing here cares for order, loss or repetition. What
the other side lacks comes back with its answer, so one region that can reach the other is enough.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable

import msgspec
import structlog

from cluster.core.errors import CallerError
from cluster.namespaces.incoming import Taken
from cluster.namespaces.record import DELETED, NamespaceRecord, decode_record, encode_record
from cluster.namespaces.registry import NamespaceRegistry
from cluster.seams import Spawn
from replication.port import RegionPort

log = structlog.get_logger("replication")

_encoder = msgspec.msgpack.Encoder(order="deterministic")

METHOD = "Records"
LOOK_S = 5.0


class Told(msgspec.Struct, frozen=True):
    """records: encoded. digest: of all that the asker shares; b"" = it asks for nothing more than what its records lack."""

    records: list[bytes]
    digest: bytes = b""


class Answered(msgspec.Struct, frozen=True):
    """records: what the asker lacks. wants_all: the digests differ, and the asker's records are wanted."""

    records: list[bytes]
    wants_all: bool = False


class Records:
    """One node's. is_leader: whether this node is the one that looks around."""

    def __init__(self, port: RegionPort, registry: NamespaceRegistry, spawn: Spawn, is_leader: Callable[[], bool]) -> None:
        self._port, self._registry, self._spawn, self._is_leader = port, registry, spawn, is_leader
        self._known: dict[str, NamespaceRecord] = {}  # as this node last saw them
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        port.answer(METHOD, self._answer)

    def start(self) -> None:
        self._known = {record.id: record for record in self._global()}
        self._spawn(self._look_around(), "namespaces of other regions")
        self._spawn(self._tell_changes(), "changed namespaces")

    def changed(self) -> None:
        """This node has written, or read, records that may be news."""
        self._changed.set()

    def _global(self) -> Iterable[NamespaceRecord]:
        return (record for record in self._registry.all_cached() if record.is_global and not record.renamed_to)

    # --- telling ----------------------------------------------------------------------------------------------------------
    async def _tell_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            news = [record for record in self._global() if self._known.get(record.id) != record]
            self._known.update((record.id, record) for record in news)
            if news:
                encoded = [encode_record(record) for record in news]
                await asyncio.gather(*(self._tell(peer, Told(encoded)) for peer in self._port.peers()))

    async def _look_around(self) -> None:
        while True:
            if self._is_leader():
                await asyncio.gather(*(self.exchange(peer) for peer in self._port.peers()))
            await asyncio.sleep(LOOK_S)

    async def exchange(self, peer: str) -> bool:
        """Whether both regions have the same now."""
        try:
            ours = await self._registry.shared()
        except CallerError as error:
            log.info("namespaces cannot be read now", error=error.message)
            return False
        answer = await self._tell(peer, Told([], digest_of(ours, (self._port.here, peer))))
        if answer is None:
            return False
        if answer.wants_all:
            return await self._tell(peer, Told([encode_record(record) for record in ours])) is not None
        return True

    async def _tell(self, peer: str, told: Told) -> Answered | None:
        try:
            data = await self._port.ask(peer, METHOD, msgspec.msgpack.encode(told))
            answer = msgspec.msgpack.decode(data, type=Answered)
            await self._take(answer.records, peer)
        except (CallerError, msgspec.MsgspecError) as error:
            log.info("a region cannot be told of namespaces now; it will be again", peer=peer, error=str(error))
            return None
        return answer

    # --- being told -------------------------------------------------------------------------------------------------------
    async def _answer(self, peer: str, data: bytes) -> bytes:
        told = msgspec.msgpack.decode(data, type=Told)
        lacking = [encode_record(one.record) for one in await self._take(told.records, peer) if one.has_news and one.record]
        wants_all = False
        if told.digest:
            ours = await self._registry.shared()
            if wants_all := digest_of(ours, (self._port.here, peer)) != told.digest:
                lacking = [encode_record(record) for record in ours]
        return msgspec.msgpack.encode(Answered(lacking, wants_all))

    async def _take(self, records: list[bytes], peer: str) -> list[Taken]:
        """Raises CallerError UNAVAILABLE: what was not taken comes again."""
        if not records:
            return []
        return await self._registry.merge_all([decode_record(data) for data in records], peer)


def digest_of(records: Iterable[NamespaceRecord], both: tuple[str, str]) -> bytes:
    """Of the namespaces that both regions have, as far as it travels. Names of deleted ones differ between regions."""
    digest = hashlib.blake2b(digest_size=16)
    for record in sorted(records, key=lambda one: one.id):
        if not all(region in record.members for region in both):
            continue
        if record.state == DELETED:  # what is left of it may differ
            record = NamespaceRecord(id=record.id, name="", retention_ns=0, created_at=0, state=DELETED)
        digest.update(_encoder.encode(msgspec.structs.replace(record, name="", renamed_to="", created_at=0)))
    return digest.digest()
