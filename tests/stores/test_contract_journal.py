"""The store contract, promise by promise, on every engine: leases, journal, truncation, metadata, the whole."""

from __future__ import annotations

import asyncio

import pytest

from cluster.stores.base import JournalRecord, Lease, LeaseLost, MetadataRow, ShardId, Store
from tests.stores.conftest import Engine
from tests.stores.rows import OTHER_SHARD, SHARD, all_rows, blob, key, row


# --- leases and the journal ---------------------------------------------------------------------------------------------
async def test_each_acquire_raises_the_range_id_by_one(store: Store) -> None:
    assert await store.acquire(SHARD, "node-a") == Lease(SHARD, 1, "node-a")
    assert await store.acquire(SHARD, "node-a") == Lease(SHARD, 2, "node-a")
    assert await store.acquire(SHARD, "node-b") == Lease(SHARD, 3, "node-b")
    assert await store.acquire(OTHER_SHARD, "node-b") == Lease(OTHER_SHARD, 1, "node-b")


async def test_a_new_shard_is_empty(store: Store) -> None:
    assert await store.journal_bounds(SHARD) == (0, 0)
    assert await store.read_journal(SHARD, 0) == []
    assert await store.runs(SHARD, None, 10) == []


async def test_appended_records_are_read_back_in_order(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    for position in range(1, 6):
        await store.append(lease, position, b"record %d" % position)
    assert await store.journal_bounds(SHARD) == (0, 5)
    assert await store.read_journal(SHARD, 0) == [JournalRecord(n, b"record %d" % n) for n in range(1, 6)]
    assert await store.read_journal(SHARD, 3) == [JournalRecord(4, b"record 4"), JournalRecord(5, b"record 5")]
    assert await store.read_journal(SHARD, 1, limit=2) == [JournalRecord(2, b"record 2"), JournalRecord(3, b"record 3")]
    assert await store.read_journal(SHARD, 5) == []
    assert await store.read_journal(SHARD, 99) == []


async def test_records_may_be_empty_and_hold_any_bytes(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    every_byte = bytes(range(256)) * 5_000
    await store.append(lease, 1, b"")
    await store.append(lease, 2, every_byte)
    assert [record.data for record in await store.read_journal(SHARD, 0)] == [b"", every_byte]


@pytest.mark.parametrize("position", [0, 1, 2, 4, 5, 100])
async def test_positions_are_dense_and_a_wrong_one_is_a_lost_lease(store: Store, position: int) -> None:
    lease = await store.acquire(SHARD, "a")
    await store.append(lease, 1, b"1")
    await store.append(lease, 2, b"2")
    with pytest.raises(LeaseLost):
        await store.append(lease, position, b"wrong")
    await store.append(lease, 3, b"3")
    assert [record.data for record in await store.read_journal(SHARD, 0)] == [b"1", b"2", b"3"]


async def test_a_stale_owner_cannot_append_or_checkpoint(engine: Engine) -> None:
    store = engine.store
    stale = await store.acquire(SHARD, "a")
    await store.append(stale, 1, b"by a")
    async with engine.second_node() as other:
        fresh = await other.acquire(SHARD, "b")
        with pytest.raises(LeaseLost):
            await store.append(stale, 2, b"late")
        with pytest.raises(LeaseLost):
            await store.checkpoint(stale, [row(key())], [blob(key(), 1, 2)], [], 1)
        with pytest.raises(LeaseLost):
            await store.checkpoint(stale, [], [], [], 0)
        await other.append(fresh, 2, b"by b")
        with pytest.raises(LeaseLost):
            await store.append(stale, 3, b"later still")
    assert [record.data for record in await store.read_journal(SHARD, 0)] == [b"by a", b"by b"]
    assert await all_rows(store) == []


async def test_two_owners_that_race_never_both_get_a_position(engine: Engine) -> None:
    async with engine.second_node() as other:
        written: dict[int, str] = {}

        async def own(store: Store, name: str) -> None:
            for _ in range(8):
                lease = await store.acquire(SHARD, name)
                try:
                    while True:
                        position = (await store.journal_bounds(SHARD))[1] + 1
                        await store.append(lease, position, name.encode())
                        assert position not in written
                        written[position] = name
                        await asyncio.sleep(0)
                        if position % 3 == 0:
                            break
                except LeaseLost:
                    continue

        await asyncio.gather(own(engine.store, "a"), own(other, "b"))
        records = await other.read_journal(SHARD, 0)
    assert {record.position: record.data.decode() for record in records} == written
    assert written


async def test_a_lease_of_one_shard_opens_no_other(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    with pytest.raises(LeaseLost):
        await store.append(Lease(OTHER_SHARD, lease.range_id, "a"), 1, b"x")
    with pytest.raises(LeaseLost):
        await store.checkpoint(Lease(OTHER_SHARD, lease.range_id, "a"), [row(key())], [], [], 0)


async def test_a_lease_that_lies_ahead_is_refused(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    with pytest.raises(LeaseLost):
        await store.append(Lease(SHARD, lease.range_id + 1, "a"), 1, b"x")


async def test_appends_to_many_shards_at_once_each_have_their_own_outcome(store: Store) -> None:
    leases = [await store.acquire(ShardId(shard), "a") for shard in range(20)]
    for shard in range(0, 20, 3):
        await store.acquire(ShardId(shard), "b")
    outcomes = await asyncio.gather(*(store.append(lease, 1, b"x") for lease in leases), return_exceptions=True)
    assert [isinstance(outcome, LeaseLost) for outcome in outcomes] == [shard % 3 == 0 for shard in range(20)]
    bounds = [await store.journal_bounds(lease.shard) for lease in leases]
    assert bounds == [(0, 0) if shard % 3 == 0 else (0, 1) for shard in range(20)]


# --- truncation ---------------------------------------------------------------------------------------------------------
async def test_truncation_removes_a_prefix_and_renumbers_nothing(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    for position in range(1, 6):
        await store.append(lease, position, b"%d" % position)
    await store.checkpoint(lease, [], [], [], 3)
    assert await store.journal_bounds(SHARD) == (3, 5)
    assert [record.position for record in await store.read_journal(SHARD, 0)] == [4, 5]
    await store.append(lease, 6, b"6")
    assert await store.journal_bounds(SHARD) == (3, 6)


async def test_positions_go_on_after_the_whole_journal_was_truncated(engine: Engine) -> None:
    store = engine.store
    lease = await store.acquire(SHARD, "a")
    await store.append(lease, 1, b"1")
    await store.append(lease, 2, b"2")
    await store.checkpoint(lease, [], [], [], 2)
    assert await store.journal_bounds(SHARD) == (2, 2)
    assert await store.read_journal(SHARD, 0) == []
    again = await store.acquire(SHARD, "a")
    for wrong in (1, 2, 4):
        with pytest.raises(LeaseLost):
            await store.append(again, wrong, b"x")
    await store.append(again, 3, b"3")
    assert await store.read_journal(SHARD, 0) == [JournalRecord(3, b"3")]


async def test_a_truncation_already_passed_is_harmless(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    for position in (1, 2, 3):
        await store.append(lease, position, b"x")
    await store.checkpoint(lease, [], [], [], 2)
    await store.checkpoint(lease, [], [], [], 1)
    await store.checkpoint(lease, [], [], [], 0)
    assert await store.journal_bounds(SHARD) == (2, 3)


async def test_a_truncation_beyond_the_end_is_refused_and_writes_nothing(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    await store.append(lease, 1, b"x")
    with pytest.raises(ValueError, match="beyond"):
        await store.checkpoint(lease, [row(key())], [], [], 2)
    assert await store.journal_bounds(SHARD) == (0, 1)
    assert await all_rows(store) == []


async def test_a_truncation_of_thousands_leaves_no_record_and_no_neighbour_harmed(store: Store) -> None:
    lease, neighbour = await store.acquire(SHARD, "a"), await store.acquire(OTHER_SHARD, "a")
    await store.append(neighbour, 1, b"mine")
    await asyncio.gather(*(store.append(lease, position, b"x") for position in range(1, 2_502)))
    await store.checkpoint(lease, [], [], [], 2_500)
    assert await store.read_journal(SHARD, 0) == [JournalRecord(2_501, b"x")]
    assert await store.read_journal(OTHER_SHARD, 0) == [JournalRecord(1, b"mine")]


# --- metadata -----------------------------------------------------------------------------------------------------------
async def test_metadata_is_written_only_by_who_knows_its_version(store: Store) -> None:
    assert await store.metadata_get("namespace", "a") is None
    assert await store.metadata_put("namespace", "a", b"x", 1) is None
    assert await store.metadata_put("namespace", "a", b"one", 0) == 1
    assert await store.metadata_put("namespace", "a", b"doubled", 0) is None
    assert await store.metadata_put("namespace", "a", b"two", 1) == 2
    assert await store.metadata_put("namespace", "a", b"late", 1) is None
    assert await store.metadata_get("namespace", "a") == MetadataRow("namespace", "a", 2, b"two")
    assert not await store.metadata_delete("namespace", "a", 1)
    assert not await store.metadata_delete("namespace", "b", 0)
    assert await store.metadata_delete("namespace", "a", 2)
    assert await store.metadata_get("namespace", "a") is None
    assert await store.metadata_put("namespace", "a", b"new", 0) == 1


async def test_metadata_lists_one_kind_by_id(store: Store) -> None:
    await store.metadata_put("cluster", "c", b"c", 0)
    for id in ("b", "a", "\U0001f600", "\ufffd"):
        await store.metadata_put("namespace", id, id.encode(), 0)
    assert [found.id for found in await store.metadata_list("namespace")] == ["a", "b", "\ufffd", "\U0001f600"]
    assert await store.metadata_list("cluster") == [MetadataRow("cluster", "c", 1, b"c")]
    assert await store.metadata_list("endpoint") == []


async def test_of_many_who_write_one_version_one_wins(store: Store) -> None:
    results = await asyncio.gather(*(store.metadata_put("namespace", "a", b"%d" % n, 0) for n in range(10)))
    assert sorted(results, key=str) == [1] + [None] * 9
    found = await store.metadata_get("namespace", "a")
    assert found is not None and found.data == b"%d" % results.index(1)


# --- the whole ----------------------------------------------------------------------------------------------------------
async def test_all_that_was_acknowledged_is_there_after_reopening(engine: Engine) -> None:
    if engine.connect is None:
        pytest.skip("lives and dies with the object")
    lease = await engine.store.acquire(SHARD, "a")
    await engine.store.append(lease, 1, b"1")
    await engine.store.append(lease, 2, b"2")
    written = row(key(), wake_at=8, changed=1)
    await engine.store.checkpoint(lease, [written], [blob(key(), 1, 3)], [], 1)
    await engine.store.metadata_put("namespace", "a", b"one", 0)
    await engine.reopen()
    store = engine.store
    assert await store.read_journal(SHARD, 0) == [JournalRecord(2, b"2")]
    assert await store.current_run(SHARD, "ns-a", "order") == written
    assert await store.history(SHARD, key(), 0, 1, 3) == [blob(key(), 1, 3)]
    assert await store.metadata_list("namespace") == [MetadataRow("namespace", "a", 1, b"one")]
    assert (await store.acquire(SHARD, "b")).range_id == 2
    with pytest.raises(LeaseLost):
        await store.append(lease, 3, b"stale")


async def test_bytes_written_counts_what_was_written_and_nothing_refused(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    assert store.bytes_written() == 0
    await store.append(lease, 1, b"12345")
    with pytest.raises(LeaseLost):
        await store.append(lease, 1, b"123")
    await store.checkpoint(lease, [row(key(), data=b"123")], [blob(key(), 1, 2, data=b"12")], [], 0)
    assert store.bytes_written() == 10
