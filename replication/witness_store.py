"""A witness in the metadata of a store: a SQLite file that regions of one machine share, or a database in a third place.

A witness's SQLite file is of its own: no node holds its lock, any number of processes open it, and its writes are transactions.
Open it with `open_witness`: two processes that make a new file at one moment get in each other's way for a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from cluster.stores.base import CorruptRecord, MetadataRow, Store, StoreUnavailable, StoreUnknown
from replication.witness import Register, WitnessUnavailable, WitnessUnknown

KIND = "witness "
OPEN_S_MAX = 10.0
OPEN_PAUSE_S = 0.1


async def open_witness(store: Store) -> StoreWitness:
    """Over a store that is not open yet. Raises StoreUnavailable after OPEN_S_MAX, SchemaMismatch at once."""
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + OPEN_S_MAX
    while True:
        try:
            await store.open()
            return StoreWitness(store)
        except StoreUnavailable:
            if loop.time() >= ends_s:
                raise
        await asyncio.sleep(OPEN_PAUSE_S)


class StoreWitness:
    """Implements `replication.witness.Witness`. The store is open already; `close` closes it."""

    def __init__(self, store: Store) -> None:
        self.kind = f"{store.kind} store"
        self._store = store

    async def read(self, key: str) -> Register | None:
        kind, name = _place(key)
        try:
            row = await self._store.metadata_get(kind, name)
        except (StoreUnavailable, CorruptRecord) as failure:
            raise WitnessUnavailable(str(failure)) from failure
        return None if row is None else _register(row)

    async def swap(self, key: str, data: bytes, expected_version: int) -> int | None:
        kind, name = _place(key)
        try:
            return await self._store.metadata_put(kind, name, data, expected_version)
        except StoreUnavailable as failure:
            raise WitnessUnavailable(str(failure)) from failure
        except StoreUnknown as failure:
            raise WitnessUnknown(str(failure)) from failure

    async def list(self, prefix: str) -> Mapping[str, Register]:
        kind, _ = _place(prefix)
        try:
            rows = await self._store.metadata_list(kind)
        except (StoreUnavailable, CorruptRecord) as failure:
            raise WitnessUnavailable(str(failure)) from failure
        return {prefix + row.id: _register(row) for row in rows}

    async def close(self) -> None:
        await self._store.close()


def _place(key: str) -> tuple[str, str]:
    kind, slash, name = key.partition("/")
    assert slash, f"{key} is no key of a witness"
    return KIND + kind, name


def _register(row: MetadataRow) -> Register:
    return Register(row.data, row.version)
