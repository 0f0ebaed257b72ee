"""How far each peer has what each source shard told it: one row of metadata each, which only rises."""

from __future__ import annotations

import msgspec

from cluster.stores.base import MetadataRow, Store

CURSOR_KIND = "replication-cursor"


class Cursors:
    """Of one peer. Whoever owns the shard writes its row; a former owner's late write cannot lower it."""

    def __init__(self, store: Store, peer: str) -> None:
        self._store, self._peer = store, peer
        self._rows: dict[int, tuple[int, int]] = {}  # shard -> (version of the row, position)

    async def load(self, shard: int) -> int:
        """The position up to which the peer has everything, 0 for a new peer. Raises StoreError."""
        row = await self._store.metadata_get(CURSOR_KIND, self._id(shard))
        self._rows[shard] = _read(row)
        return self._rows[shard][1]

    async def save(self, shard: int, position: int) -> None:
        """Durable at return, unless the row is there already. Raises StoreError."""
        version, stored = self._rows.get(shard, (0, 0))
        while position > stored:
            written = await self._store.metadata_put(
                CURSOR_KIND, self._id(shard), msgspec.msgpack.encode(position), version
            )
            if written is not None:
                self._rows[shard] = written, position
                return
            version, stored = _read(await self._store.metadata_get(CURSOR_KIND, self._id(shard)))
            self._rows[shard] = version, stored

    def saved(self, shard: int) -> int:
        return self._rows.get(shard, (0, 0))[1]

    def _id(self, shard: int) -> str:
        return f"{self._peer}/{shard}"


def _read(row: MetadataRow | None) -> tuple[int, int]:
    return (0, 0) if row is None else (row.version, msgspec.msgpack.decode(row.data, type=int))
