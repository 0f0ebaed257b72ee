"""SIGKILL of the database server under load, and its restart: nothing acknowledged is lost, and the load goes on by itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from cluster.stores.base import Lease, LeaseLost, ShardId, StoreUnavailable, StoreUnknown
from cluster.stores.sql_store import SqlStore
from tests.stores.rows import key, row
from tests.stores.servers import Database

SHARDS = [ShardId(shard) for shard in range(6)]
KILLS_COUNT = 3
ACKS_BETWEEN = 120


def _record(shard: int, position: int) -> bytes:
    return b"%d:%d:" % (shard, position) + b"x" * (position % 900)


class _Load:
    """One owner per shard, appending and checkpointing for ever, that does what the contract tells an owner to do."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.acked = dict.fromkeys(SHARDS, 0)
        self.checkpointed = dict.fromkeys(SHARDS, 0)
        self.acks_count = 0
        self.failures: Counter[str] = Counter()
        self._changed = asyncio.Condition()

    async def own(self, shard: ShardId) -> None:
        while True:
            try:
                lease = await self.store.acquire(shard, "load")
                _, last = await self.store.journal_bounds(shard)
                # One append is under way at a time: it was written or not, and nothing else may have happened.
                assert self.acked[shard] <= last <= self.acked[shard] + 1, f"shard {shard}: acknowledged, and gone"
                self.acked[shard] = last
                await self._append_until_it_fails(shard, lease, last)
            except (StoreUnknown, StoreUnavailable) as error:
                self.failures[type(error).__name__] += 1
                await asyncio.sleep(0.02)  # an owner's back-off

    async def _append_until_it_fails(self, shard: ShardId, lease: Lease, position: int) -> None:
        while True:
            position += 1
            await self.store.append(lease, position, _record(shard, position))
            self.acked[shard] = position
            self.acks_count += 1
            async with self._changed:
                self._changed.notify_all()
            if position % 15 == 0:
                snapshot = row(key(f"r{shard}"), changed=position, data=b"to %d" % position)
                await self.store.checkpoint(lease, [snapshot], [], [], position - 5)
                self.checkpointed[shard] = position

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(holds)

    async def audit(self, store: SqlStore) -> None:
        for shard in SHARDS:
            await store.acquire(shard, "audit")  # a write that was under way when its owner ended cannot come from here on
            truncated_to, last = await store.journal_bounds(shard)
            assert self.acked[shard] <= last <= self.acked[shard] + 1
            records = await store.read_journal(shard, 0, 1_000_000)
            assert [record.position for record in records] == list(range(truncated_to + 1, last + 1))
            assert all(record.data == _record(shard, record.position) for record in records)
            found = await store.load(shard, key(f"r{shard}"))
            rows_to = 0 if found is None else found.changed_position
            assert rows_to >= self.checkpointed[shard]
            assert rows_to >= truncated_to, "the journal was cut beyond what the rows contain"
            assert found is None or found.data == b"to %d" % rows_to


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_nothing_acknowledged_is_lost_when_the_database_dies_under_load(database: Database, how: str) -> None:
    store = database.store(statement_timeout_s=3.0)
    await store.open()
    load = _Load(store)
    owners = [asyncio.get_running_loop().create_task(load.own(shard)) for shard in SHARDS]
    try:
        for _ in range(KILLS_COUNT):
            enough = load.acks_count + ACKS_BETWEEN
            await load.until(lambda enough=enough: load.acks_count >= enough)  # type: ignore[misc]
            failed_before = load.failures.total()
            await asyncio.to_thread(getattr(database.server, how))
            await asyncio.to_thread(database.server.start)
            before = dict(load.acked)
            # The same store object goes on, on every shard.
            await load.until(lambda before=before: all(load.acked[shard] > before[shard] + 2 for shard in SHARDS))  # type: ignore[misc]
            assert load.failures.total() > failed_before, "the server died, and no owner noticed"
    finally:
        for owner in owners:
            owner.cancel()
        ended = await asyncio.gather(*owners, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
    async with database.opened() as witness:
        await load.audit(witness)
    await store.close()
    assert load.failures[StoreUnknown.__name__] > 0 or how == "stop"


async def test_a_server_that_is_down_is_unavailable_and_the_store_works_when_it_is_back(database: Database) -> None:
    async with database.opened() as store:
        lease = await store.acquire(SHARDS[0], "a")
        await store.append(lease, 1, b"1")
        await asyncio.to_thread(database.server.stop)
        try:
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await store.append(lease, 2, b"2")
                with pytest.raises(StoreUnavailable):
                    await store.load(SHARDS[0], key())
            with pytest.raises(StoreUnavailable):
                await database.store().open()
        finally:
            await asyncio.to_thread(database.server.start)
        # Certainly not written, as StoreUnavailable says: the lease holds, and the position is free.
        await store.append(lease, 2, b"2")
        with pytest.raises(LeaseLost):
            await store.append(lease, 2, b"2")
