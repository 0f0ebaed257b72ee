"""Short ways to write the rows that store tests need."""

from __future__ import annotations

from cluster.stores.base import HistoryBlob, RunKey, ShardId, Snapshot, Store

SHARD = ShardId(3)
OTHER_SHARD = ShardId(4)


def key(run: str = "run-1", workflow: str = "order", namespace: str = "ns-a") -> RunKey:
    return RunKey(namespace, workflow, run)


def row(
    of: RunKey,
    *,
    current: bool = True,
    is_open: bool = True,
    wake_at: int | None = None,
    changed: int = 0,
    data: bytes = b"state",
) -> Snapshot:
    return Snapshot(of, data, current, is_open, wake_at, changed)


def blob(of: RunKey, first: int, last: int, branch: int = 0, data: bytes | None = None) -> HistoryBlob:
    return HistoryBlob(of, branch, first, last, b"events %d-%d" % (first, last) if data is None else data)


async def all_rows(store: Store, shard: ShardId = SHARD) -> list[Snapshot]:
    return list(await store.runs(shard, None, 1_000))
