"""What was deleted costs readers nothing: the journal after 100,000 records, wake-ups that came and went, sizes of groups."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from cluster.stores import cassandra_wakeups
from cluster.stores.base import JournalRecord
from cluster.stores.sql_groups import GROUP_RECORDS_MAX
from tests.stores.keyspace import CqlSession, Keyspace
from tests.stores.rows import OTHER_SHARD, SHARD, key, row

RECORDS_COUNT = 100_000
CUT_EVERY = 2_000


async def _tombstones(session: CqlSession, text: str) -> int:
    """How many the server met for this read, as its trace says."""
    result = await asyncio.to_thread(session.driver.execute, text, None, 30.0, True)
    trace: Any = await asyncio.to_thread(result.get_query_trace, 20.0)
    counts = [found[1] for event in trace.events if (found := re.search(r"and (\d+) tombstone cells", event.description))]
    assert counts, "the trace does not say"
    return sum(map(int, counts))


async def test_reads_stay_flat_after_a_hundred_thousand_records_came_and_went(keyspace: Keyspace) -> None:
    async with keyspace.opened() as store, keyspace.session() as session:
        lease = await store.acquire(SHARD, "a")
        for start in range(0, RECORDS_COUNT, CUT_EVERY):
            await asyncio.gather(*(store.append(lease, start + n, b"x") for n in range(1, CUT_EVERY + 1)))
            await store.checkpoint(lease, [], [], [], start + CUT_EVERY - 10)
        cut = RECORDS_COUNT - 10
        assert await store.journal_bounds(SHARD) == (cut, RECORDS_COUNT)
        assert await store.read_journal(SHARD, 0) == [JournalRecord(cut + n, b"x") for n in range(1, 11)]
        table = "SELECT position FROM outlast_journal WHERE shard ="
        assert await _tombstones(session, f"{table} {SHARD} AND position = 0") == 0
        assert await _tombstones(session, f"{table} {SHARD} AND position > {cut} AND position <= {RECORDS_COUNT} LIMIT 100") == 0
        # Fifty truncations have left one range, of two markers, and not one row behind them that is still visible.
        assert await _tombstones(session, f"{table} {SHARD} AND position > 0 LIMIT 100") <= 2
        # The measure itself: rows deleted one by one are what it would have counted.
        for position in range(1, 101):
            await session.run(f"DELETE FROM outlast_journal WHERE shard = {OTHER_SHARD} AND position = {position}")
        assert await _tombstones(session, f"{table} {OTHER_SHARD} AND position > 0 LIMIT 100") == 100


async def test_wakeups_that_came_and_went_fill_bounded_buckets_and_leave_the_list(
    keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cassandra_wakeups, "ENTRIES_MAX", 50)
    # Generations are named by (about) seconds; within a minute, nobody prunes.
    clock = iter(range(10**18, 10**18 + 60 * 10**9, 12 * 10**8))
    async with keyspace.opened(now_ns=lambda: next(clock)) as store, keyspace.session() as session:
        lease = await store.acquire(SHARD, "a")
        lasting = row(key(workflow="lasting"), wake_at=0)
        await store.checkpoint(lease, [lasting], [], [], 0)
        for turn in range(20):
            keys = [key(f"run-{turn}-{n}") for n in range(20)]
            await store.checkpoint(lease, [row(of, wake_at=0) for of in keys], [], [], 0)
            await store.checkpoint(lease, [row(of, wake_at=None) for of in keys], [], [], 0)
        buckets = [found[0] for found in await session.run(f"SELECT bucket FROM outlast_wake_buckets WHERE shard = {SHARD}")]
        assert len(buckets) == 7, "401 entries, and a bucket is left at the first checkpoint after its fiftieth"
        for bucket in buckets:
            read = f"SELECT wake_at FROM outlast_wakeups WHERE shard = {SHARD} AND bucket = {bucket}"
            assert await _tombstones(session, read) <= 61
        assert await store.due(SHARD, 100, 10) == [lasting]
        await store.checkpoint(lease, [row(key("another"))], [], [], 0)  # deletes what `due` found empty
        left = [found[0] for found in await session.run(f"SELECT bucket FROM outlast_wake_buckets WHERE shard = {SHARD}")]
        assert left == buckets[:1], "only the lasting one's is left"
        assert await store.due(SHARD, 100, 10) == [lasting]


async def test_past_buckets_leave_the_list_while_the_shard_is_owned(keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anybody who asks for what is due from the beginning."""
    now = 10**18
    async with keyspace.opened(now_ns=lambda: now) as store, keyspace.session() as session:
        lease = await store.acquire(SHARD, "a")
        for _ in range(12):
            now += 300 * 10**9
            await store.checkpoint(lease, [row(key(), wake_at=now + 1)], [], [], 0)
        listed = f"SELECT bucket FROM outlast_wake_buckets WHERE shard = {SHARD}"
        assert len(await session.run(listed)) < 12
        for _ in range(8):
            now += 61 * 10**9
            await store.checkpoint(lease, [row(key(), wake_at=10**18 * 2)], [], [], 0)
        assert len(await session.run(listed)) == 1
        assert await store.next_wake_at(SHARD, 0) == 10**18 * 2


async def test_appends_that_wait_together_are_one_transaction_of_bounded_size(keyspace: Keyspace) -> None:
    async with keyspace.opened() as store:
        lease = await store.acquire(SHARD, "a")
        sizes: list[int] = []
        decide = store._session.decide

        async def watched(*steps: Any) -> dict[str, Any]:
            sizes.append(len(steps) - 1)
            return await decide(*steps)

        store._session.decide = watched  # type: ignore[method-assign]
        await asyncio.gather(*(store.append(lease, position, b"x") for position in range(1, 601)))
        assert sizes == [256, 256, 88] and GROUP_RECORDS_MAX == 256
        sizes.clear()
        for position in range(601, 604):
            await store.append(lease, position, b"x")
        assert sizes == [1, 1, 1]
        assert await store.journal_bounds(SHARD) == (0, 603)
