"""Damaged rows in a database server hurt themselves alone, and values that no column takes are refused before they are sent."""

from __future__ import annotations

import asyncio

import pytest

from cluster.stores.base import CorruptRecord, Lease, LeaseLost, RunKey, ShardId, StoreUnavailable
from cluster.stores.sql_rows import SLICE_ROWS_MAX, Slice, slices
from cluster.stores.sql_store import REMOVE_STEP_COUNT, SqlStore
from tests.stores.rows import SHARD, all_rows, blob, key, row
from tests.stores.servers import Database

KEYS = [key(f"run-{n}", workflow=f"order-{n}") for n in range(5)]


async def _fill(store: SqlStore) -> Lease:
    lease = await store.acquire(SHARD, "a")
    for position in range(1, 6):
        await store.append(lease, position, b"record-%d" % position)
    rows = [row(of, wake_at=n, changed=n + 1, data=b"state-%d" % n) for n, of in enumerate(KEYS)]
    await store.checkpoint(lease, rows, [blob(of, 1, 3) for of in KEYS], [], 1)
    await store.metadata_put("namespace", "a", b"metadata", 0)
    return lease


def _bytes(database: Database, text: str) -> str:
    """A literal for a bytes column."""
    return f"'\\x{text.encode().hex()}'::bytea" if database.kind == "postgres" else f"X'{text.encode().hex()}'"


async def test_a_damaged_row_hurts_only_its_run(database: Database) -> None:
    async with database.opened() as store, database.session() as session:
        lease = await _fill(store)
        where = f"WHERE shard = {SHARD} AND workflow_id = {_bytes(database, 'order-2')}"
        for damage in (f"data = {_bytes(database, 'nonsense')}", "wake_at = 3"):
            await store.checkpoint(lease, [row(KEYS[2], wake_at=2, changed=3)], [], [], 0)
            await session.run(f"UPDATE outlast_runs SET {damage} {where}")
            with pytest.raises(CorruptRecord) as refused:
                await store.load(SHARD, KEYS[2])
            assert refused.value.key == KEYS[2]
            with pytest.raises(CorruptRecord):
                await store.current_run(SHARD, "ns-a", "order-2")
            for page in (await store.due(SHARD, 99, 4), await store.changed(SHARD, 0, 4), await store.runs(SHARD, None, 4)):
                assert {found.key for found in page} == set(KEYS) - {KEYS[2]}, "a page is full of good rows"
                assert page.corrupt == [KEYS[2]]
        await session.run(f"UPDATE outlast_history SET last_event_id = 4 {where}")
        with pytest.raises(CorruptRecord):
            await store.history(SHARD, KEYS[2], 0, 1, 9)
        assert await store.history(SHARD, KEYS[1], 0, 1, 9) == [blob(KEYS[1], 1, 3)]
        await store.checkpoint(lease, [], [], [KEYS[2]], 0)
        assert (await store.runs(SHARD, None, 9)).corrupt == []


async def test_a_damaged_or_missing_journal_record_is_named_by_its_position(database: Database) -> None:
    async with database.opened() as store, database.session() as session:
        await _fill(store)
        await session.run(f"UPDATE outlast_journal SET data = {_bytes(database, 'nonsense')} WHERE position = 4")
        with pytest.raises(CorruptRecord) as refused:
            await store.read_journal(SHARD, 0)
        assert refused.value.position == 4
        assert [record.position for record in await store.read_journal(SHARD, 0, limit=2)] == [2, 3]
        await session.run("DELETE FROM outlast_journal WHERE position = 3")
        with pytest.raises(CorruptRecord) as refused:
            await store.read_journal(SHARD, 0)
        assert refused.value.position == 3


async def test_damaged_metadata_is_not_passed_over(database: Database) -> None:
    async with database.opened() as store, database.session() as session:
        await _fill(store)
        await store.metadata_put("namespace", "b", b"good", 0)
        await session.run(f"UPDATE outlast_metadata SET version = 2 WHERE id = {_bytes(database, 'a')}")
        with pytest.raises(CorruptRecord, match="namespace a"):
            await store.metadata_get("namespace", "a")
        with pytest.raises(CorruptRecord):
            await store.metadata_list("namespace")
        assert await store.metadata_get("namespace", "b") is not None


async def test_values_that_no_column_takes_are_refused_and_hurt_nobody(database: Database) -> None:
    async with database.opened() as store:
        lease = await _fill(store)
        too_long = [RunKey("n" * 256, "w", "r"), RunKey("n", "w" * 1_025, "r"), RunKey("n", "w", "r" * 256)]
        for of in [*too_long, RunKey("\ud800", "w", "r")]:
            with pytest.raises(ValueError):
                await store.checkpoint(lease, [row(of)], [], [], 0)
        with pytest.raises(ValueError):
            await store.checkpoint(lease, [row(key(), wake_at=1 << 63)], [], [], 0)
        with pytest.raises(ValueError):
            await store.metadata_put("k" * 256, "id", b"", 0)
        for shard in (-1, 1 << 31):
            with pytest.raises(ValueError, match="out of range"):
                await store.acquire(ShardId(shard), "a")
        longest = RunKey("n" * 255, "w" * 1_024, "r" * 255)
        await store.checkpoint(lease, [row(longest, wake_at=(1 << 63) - 1)], [blob(longest, 1, 2)], [], 0)
        assert await store.current_run(SHARD, "n" * 255, "w" * 1_024) == row(longest, wake_at=(1 << 63) - 1)
        assert len(await all_rows(store)) == 6


async def test_a_record_of_several_megabytes_is_stored_and_one_beyond_the_servers_limit_is_refused(database: Database) -> None:
    async with database.opened() as store:
        lease = await store.acquire(SHARD, "a")
        large = bytes(range(256)) * 16_000
        await store.append(lease, 1, large)
        await store.checkpoint(lease, [row(key(), data=large)], [], [], 0)
        assert (await store.read_journal(SHARD, 0))[0].data == large
        if database.kind == "mariadb":  # max_allowed_packet is 16 MiB there
            with pytest.raises(ValueError, match="max_allowed_packet"):
                await store.append(lease, 2, b"x" * (17 << 20))
        await store.append(lease, 2, b"next")


async def test_truncated_records_leave_the_table_also_those_of_an_interrupted_truncation(database: Database) -> None:
    async with database.opened() as store, database.session() as session:
        lease = await store.acquire(SHARD, "a")
        count = 2 * REMOVE_STEP_COUNT + 10
        await asyncio.gather(*(store.append(lease, position, b"x") for position in range(1, count + 1)))
        # As after a crash between the mark and the removal.
        await session.run(f"UPDATE outlast_shards SET truncated_to = {count - 5} WHERE shard = {SHARD}")
        assert [record.position for record in await store.read_journal(SHARD, 0)] == list(range(count - 4, count + 1))
        await store.append(lease, count + 1, b"y")
        await store.checkpoint(lease, [], [], [], count - 1)
        remaining = await session.run("SELECT position FROM outlast_journal ORDER BY position")
        assert [found[0] for found in remaining] == [count, count + 1]


async def test_a_checkpoint_fenced_between_two_slices_has_not_truncated_the_journal(database: Database) -> None:
    async with database.opened() as store, database.opened() as other:
        lease = await store.acquire(SHARD, "a")
        await store.append(lease, 1, b"x")
        write_slice, written = store._write_slice, 0

        async def fenced_after_the_first(lease: Lease, part: Slice, truncate_to: int, is_last: bool) -> bool:
            nonlocal written
            written += 1
            if written == 2:
                await other.acquire(SHARD, "b")
            return await write_slice(lease, part, truncate_to, is_last)

        store._write_slice = fenced_after_the_first  # type: ignore[method-assign]
        with pytest.raises(LeaseLost):
            await store.checkpoint(lease, [row(key(f"run-{n}")) for n in range(3 * SLICE_ROWS_MAX)], [], [], 1)
        assert len(await other.runs(SHARD, None, 10_000)) == SLICE_ROWS_MAX
        assert await other.journal_bounds(SHARD) == (0, 1)


def test_a_slice_resolves_what_is_both_written_and_deleted() -> None:
    a, b = key("run-a"), key("run-b")
    (both,) = slices(SHARD, [blob(a, 1, 2), row(a), row(b), a])
    assert ([found[2] for found in both.rows], both.histories) == ([b"run-b"], [])
    assert ([found[2] for found in both.current], both.unset, both.unset_if) == ([b"run-b"], [], [])
    (last,) = slices(SHARD, [row(b), row(a), a])
    assert (last.current, last.unset, last.unset_if) == ([], [(b"ns-a", b"order")], [])
    (alone,) = slices(SHARD, [a])
    assert (alone.unset, alone.unset_if) == ([], [(b"ns-a", b"order", b"run-a")])


async def test_a_store_that_is_not_open_says_so(database: Database) -> None:
    store = database.store()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.load(SHARD, key())
