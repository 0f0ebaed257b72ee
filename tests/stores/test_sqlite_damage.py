"""What SQLite can do to us: damaged bytes, a locked file, a full disk, a failing commit, a file of another version."""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.stores.base import (
    CorruptRecord,
    LeaseLost,
    SchemaMismatch,
    ShardId,
    StoreDamaged,
    StoreUnavailable,
    StoreUnknown,
)
from cluster.stores.sqlite import SqliteStore
from tests.stores.rows import SHARD, all_rows, blob, key, row

KEYS = [key(f"run-{n}", workflow=f"order-{n}") for n in range(5)]


async def _filled(path: Path) -> SqliteStore:
    store = SqliteStore(str(path))
    await store.open()
    lease = await store.acquire(SHARD, "a")
    for position in range(1, 6):
        await store.append(lease, position, b"record-%d-" % position * 20)
    rows = [row(of, wake_at=n, changed=n + 1, data=b"state-%d-" % n * 20) for n, of in enumerate(KEYS)]
    await store.checkpoint(lease, rows, [blob(of, 1, 3, data=b"history-%d-" % n * 20) for n, of in enumerate(KEYS)], [], 1)
    await store.metadata_put("namespace", "a", b"metadata-a-" * 20, 0)
    await store.metadata_put("namespace", "b", b"metadata-b-" * 20, 0)
    return store


async def _with_flipped_bit(path: Path, marker: bytes) -> SqliteStore:
    """The filled store, reopened after one bit of the marked value was flipped on disk."""
    await (await _filled(path)).close()
    content = bytearray(path.read_bytes())
    assert content.count(marker * 20) == 1
    content[content.index(marker * 20) + 50] ^= 0x10
    path.write_bytes(content)
    store = SqliteStore(str(path))
    await store.open()
    return store


def _execute(path: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


async def test_a_damaged_row_hurts_only_its_run(tmp_path: Path) -> None:
    store = await _with_flipped_bit(tmp_path / "s.db", b"state-2-")
    with pytest.raises(CorruptRecord) as refused:
        await store.load(SHARD, KEYS[2])
    assert refused.value.key == KEYS[2]
    with pytest.raises(CorruptRecord):
        await store.current_run(SHARD, "ns-a", "order-2")
    good = [KEYS[0], KEYS[1], KEYS[3], KEYS[4]]
    for page in (await store.due(SHARD, 99, 99), await store.changed(SHARD, 0, 99), await store.runs(SHARD, None, 99)):
        assert [found.key for found in page] == good
        assert page.corrupt == [KEYS[2]]
    assert (await store.load(SHARD, KEYS[3])) is not None
    await store.close()


async def test_damaged_rows_do_not_shorten_a_page(tmp_path: Path) -> None:
    """A short page means the end; so a page goes on until it is full of good rows."""
    store = await _with_flipped_bit(tmp_path / "s.db", b"state-0-")
    page = await store.due(SHARD, 99, 2)
    assert ([found.key for found in page], page.corrupt) == (KEYS[1:3], [KEYS[0]])
    page = await store.runs(SHARD, None, 2)
    assert ([found.key for found in page], page.corrupt) == (KEYS[1:3], [KEYS[0]])
    page = await store.changed(SHARD, 0, 2)
    assert ([found.key for found in page], page.corrupt) == (KEYS[1:3], [KEYS[0]])
    await store.close()


async def test_a_damaged_run_can_be_written_again_or_deleted(tmp_path: Path) -> None:
    store = await _with_flipped_bit(tmp_path / "s.db", b"state-2-")
    lease = await store.acquire(SHARD, "a")
    repaired = row(KEYS[2], data=b"repaired")
    await store.checkpoint(lease, [repaired], [], [], 0)
    assert await store.load(SHARD, KEYS[2]) == repaired
    await store.checkpoint(lease, [], [], [KEYS[2]], 0)
    assert (await store.runs(SHARD, None, 99)).corrupt == []
    await store.close()


async def test_damaged_history_hurts_only_its_run(tmp_path: Path) -> None:
    store = await _with_flipped_bit(tmp_path / "s.db", b"history-2-")
    with pytest.raises(CorruptRecord) as refused:
        await store.history(SHARD, KEYS[2], 0, 1, 9)
    assert refused.value.key == KEYS[2]
    assert len(await store.history(SHARD, KEYS[1], 0, 1, 9)) == 1
    assert len(await all_rows(store)) == 5
    await store.close()


async def test_a_damaged_journal_record_is_named_and_those_before_it_can_be_read(tmp_path: Path) -> None:
    store = await _with_flipped_bit(tmp_path / "s.db", b"record-4-")
    with pytest.raises(CorruptRecord) as refused:
        await store.read_journal(SHARD, 0)
    assert refused.value.position == 4
    assert [record.position for record in await store.read_journal(SHARD, 0, limit=2)] == [2, 3]
    assert [record.position for record in await store.read_journal(SHARD, 4)] == [5]
    await store.close()


async def test_a_missing_journal_record_is_noticed(tmp_path: Path) -> None:
    store = await _filled(tmp_path / "s.db")
    _execute(tmp_path / "s.db", "DELETE FROM journal WHERE id = ?", SHARD << 40 | 3)
    with pytest.raises(CorruptRecord) as refused:
        await store.read_journal(SHARD, 0)
    assert refused.value.position == 3
    await store.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE runs SET wake_at = 3 WHERE run_id = 'run-2'",
        "UPDATE runs SET is_open = 0 WHERE run_id = 'run-2'",
        "UPDATE runs SET data = 'text' WHERE run_id = 'run-2'",
        "UPDATE runs SET data = x'' WHERE run_id = 'run-2'",
        "UPDATE runs SET data = x'FF' || substr(data, 2) WHERE run_id = 'run-2'",
        "UPDATE runs SET data = (SELECT data FROM runs WHERE run_id = 'run-1') WHERE run_id = 'run-2'",
        "UPDATE runs SET workflow_id = CAST(x'FF61' AS TEXT) WHERE run_id = 'run-2'",
    ],
)
async def test_a_row_with_foreign_columns_or_bytes_is_noticed(tmp_path: Path, change: str) -> None:
    store = await _filled(tmp_path / "s.db")
    _execute(tmp_path / "s.db", change)
    page = await store.runs(SHARD, None, 99)
    assert [found.run_id for found in page.corrupt] == ["run-2"]
    assert len(page) == 4
    await store.close()


async def test_damaged_metadata_is_refused_not_left_out(tmp_path: Path) -> None:
    store = await _with_flipped_bit(tmp_path / "s.db", b"metadata-a-")
    with pytest.raises(CorruptRecord, match="namespace a"):
        await store.metadata_get("namespace", "a")
    with pytest.raises(CorruptRecord):
        await store.metadata_list("namespace")
    assert await store.metadata_get("namespace", "b") is not None
    await store.close()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"this is a letter, not a database. " * 200)
    with pytest.raises(StoreDamaged):
        await SqliteStore(str(path)).open()
    assert path.read_bytes().startswith(b"this is a letter")


async def test_a_file_of_another_version_is_refused_and_the_message_says_what_to_run(tmp_path: Path) -> None:
    await (await _filled(tmp_path / "s.db")).close()
    _execute(tmp_path / "s.db", "UPDATE outlast_schema SET version = 99 WHERE component = 'store'")
    with pytest.raises(SchemaMismatch, match=r"version 99.*`outlast schema upgrade`"):
        await SqliteStore(str(tmp_path / "s.db")).open()


async def test_a_path_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        await SqliteStore(str(tmp_path / "no-such-folder" / "s.db")).open()


async def test_a_closed_store_refuses_and_can_be_opened_again(tmp_path: Path) -> None:
    store = await _filled(tmp_path / "s.db")
    await store.close()
    calls: list[Callable[[], Any]] = [lambda: store.acquire(SHARD, "a"), lambda: store.load(SHARD, KEYS[0])]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="not open"):
            await call()
    await store.open()
    assert len(await all_rows(store)) == 5
    await store.close()


async def test_a_file_locked_by_another_process_is_unavailable_until_it_is_released(tmp_path: Path) -> None:
    await (await _filled(tmp_path / "s.db")).close()
    store = SqliteStore(str(tmp_path / "s.db"), busy_timeout_ms=30)
    await store.open()
    lease = await store.acquire(SHARD, "a")
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        await store.append(lease, 6, b"x")
    assert len(await all_rows(store)) == 5, "readers do not wait for a writer"
    other.execute("ROLLBACK")
    other.close()
    await store.append(lease, 6, b"x")
    await store.close()


async def test_a_disk_that_is_full_at_commit_leaves_the_outcome_unknown_and_the_store_usable(tmp_path: Path) -> None:
    """A file size limit stands for the full disk: the log cannot grow, so COMMIT fails after its first pages were written."""
    path = tmp_path / "s.db"
    store = await _filled(path)
    lease = await store.acquire(SHARD, "a")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "s.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10_000, before[1]))
    try:
        with pytest.raises(StoreUnknown):
            await store.append(lease, 6, b"x" * 100_000)
        with pytest.raises(StoreUnknown):
            await store.checkpoint(lease, [row(KEYS[0], data=b"y" * 100_000)], [], [], 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    fresh = await store.acquire(SHARD, "a")
    assert await store.journal_bounds(SHARD) == (1, 5)
    with pytest.raises(LeaseLost):
        await store.append(lease, 6, b"late")
    await store.append(fresh, 6, b"x")
    await store.close()
    store = SqliteStore(str(path))
    await store.open()
    assert await store.journal_bounds(SHARD) == (1, 6)
    found = await store.load(SHARD, KEYS[0])
    assert found is not None and found.data == b"state-0-" * 20
    await store.close()


@pytest.mark.parametrize("shard", [-1, 1 << 23])
async def test_a_shard_number_out_of_range_is_refused(shard: int) -> None:
    store = SqliteStore(":memory:")
    await store.open()
    with pytest.raises(ValueError, match="out of range"):
        await store.acquire(ShardId(shard), "a")
    await store.acquire(ShardId((1 << 23) - 1), "a")
    await store.close()
