"""Group commit: many writes, one transaction, an outcome each, also when the transaction fails."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.stores import sqlite_rows as rows
from cluster.stores.base import JournalRecord, Lease, LeaseLost, ShardId, StoreUnavailable, StoreUnknown
from cluster.stores.framing import journal_context, seal
from cluster.stores.sqlite import SLICE_ROWS_MAX, SqliteStore
from cluster.stores.sqlite_schema import create_or_check
from cluster.stores.sqlite_threads import Outcome, Write, run_group
from tests.stores.rows import blob, key, row


class _Connection(sqlite3.Connection):
    """Fails one kind of statement with one error, and counts commits."""

    fail_on = ""
    error_code = sqlite3.SQLITE_IOERR
    error_leaves_transaction = True
    commits_count = 0

    def execute(self, statement: str, *args: Any) -> sqlite3.Cursor:
        self.commits_count += statement == "COMMIT"
        if self.fail_on and statement.startswith(self.fail_on):
            if not self.error_leaves_transaction and self.in_transaction:
                super().execute("ROLLBACK")
            error = sqlite3.OperationalError("made to fail")
            error.sqlite_errorcode = self.error_code
            raise error
        return super().execute(statement, *args)


@pytest.fixture
def connection() -> Iterator[_Connection]:
    opened = sqlite3.connect(":memory:", isolation_level=None, factory=_Connection)
    create_or_check(opened, ":memory:")
    opened.commits_count = 0
    yield opened
    opened.close()


def _leases(connection: sqlite3.Connection, count: int) -> list[Lease]:
    return [rows.acquire(connection, ShardId(shard), "a") for shard in range(count)]


def _append(lease: Lease, position: int) -> Write:
    sealed = seal(b"x", journal_context(lease.shard, position))
    return Write(partial(rows.append, lease=lease, position=position, sealed=sealed), has_several_statements=False)


def _checkpoint(lease: Lease, truncate_to: int = 0) -> Write:
    write = partial(
        rows.write_slice,
        lease=lease,
        histories=[blob(key(), 1, 2)],
        snapshots=[row(key())],
        deletions=[],
        truncate_to=truncate_to,
        is_last=True,
    )
    return Write(write, has_several_statements=True)


def _fails_after_writing(lease: Lease) -> Write:
    def operation(connection: sqlite3.Connection) -> None:
        _checkpoint(lease).operation(connection)
        raise LeaseLost("after all was written")

    return Write(operation, has_several_statements=True)


def _kinds(outcomes: list[Outcome]) -> list[type | None]:
    return [None if outcome.failure is None else type(outcome.failure) for outcome in outcomes]


def _lasts(connection: sqlite3.Connection, count: int) -> list[int]:
    return [rows.journal_bounds(connection, ShardId(shard))[1] for shard in range(count)]


def test_a_lost_lease_does_not_spoil_the_others_of_its_group(connection: _Connection) -> None:
    leases = _leases(connection, 4)
    rows.acquire(connection, ShardId(1), "b")
    outcomes = run_group(connection, [_append(leases[n], 1) for n in range(4)])
    assert _kinds(outcomes) == [None, LeaseLost, None, None]
    assert connection.commits_count == 1
    assert _lasts(connection, 4) == [1, 0, 1, 1]


def test_a_refused_write_of_several_statements_is_undone_alone(connection: _Connection) -> None:
    leases = _leases(connection, 3)
    outcomes = run_group(connection, [_append(leases[0], 1), _fails_after_writing(leases[1]), _append(leases[2], 1)])
    assert _kinds(outcomes) == [None, LeaseLost, None]
    assert rows.load(connection, ShardId(1), key()) is None
    assert _lasts(connection, 3) == [1, 0, 1]


def test_a_refused_write_alone_is_rolled_back(connection: _Connection) -> None:
    (lease,) = _leases(connection, 1)
    assert _kinds(run_group(connection, [_fails_after_writing(lease)])) == [LeaseLost]
    assert rows.load(connection, ShardId(0), key()) is None
    assert _kinds(run_group(connection, [_append(lease, 1)])) == [None]


def test_writes_of_one_shard_in_one_group_see_each_other(connection: _Connection) -> None:
    (lease,) = _leases(connection, 1)
    group = [_append(lease, 1), _append(lease, 2), _checkpoint(lease, 2), _append(lease, 3), _append(lease, 5)]
    assert _kinds(run_group(connection, group)) == [None, None, None, None, LeaseLost]
    assert rows.journal_bounds(connection, ShardId(0)) == (2, 3)


def test_a_failed_commit_is_unknown_to_who_wrote_and_unavailable_to_who_was_refused(connection: _Connection) -> None:
    leases = _leases(connection, 3)
    connection.fail_on, connection.error_leaves_transaction = "COMMIT", False
    outcomes = run_group(connection, [_append(leases[0], 1), _append(leases[1], 7), _append(leases[2], 1)])
    # The refusal may rest on what the group itself wrote, and that may be gone: so it is not a lost lease.
    assert _kinds(outcomes) == [StoreUnknown, StoreUnavailable, StoreUnknown]
    connection.fail_on = ""
    assert _lasts(connection, 3) == [0, 0, 0]


def test_a_commit_refused_as_busy_is_rolled_back_and_unavailable(connection: _Connection) -> None:
    leases = _leases(connection, 2)
    connection.fail_on, connection.error_code = "COMMIT", sqlite3.SQLITE_BUSY
    assert _kinds(run_group(connection, [_append(lease, 1) for lease in leases])) == [StoreUnavailable] * 2
    connection.fail_on = ""
    assert not connection.in_transaction
    assert _lasts(connection, 2) == [0, 0]


def test_a_group_that_cannot_begin_is_unavailable(connection: _Connection) -> None:
    leases = _leases(connection, 2)
    connection.fail_on = "BEGIN"
    assert _kinds(run_group(connection, [_append(lease, 1) for lease in leases])) == [StoreUnavailable] * 2


def test_a_transaction_that_sqlite_undoes_midway_leaves_no_member_acknowledged(connection: _Connection) -> None:
    leases = _leases(connection, 3)
    connection.fail_on, connection.error_leaves_transaction = "UPDATE shards", False
    rows.append(connection, leases[1], 1, b"")
    group = [_append(leases[0], 1), _checkpoint(leases[1], 1), _append(leases[2], 1)]
    assert _kinds(run_group(connection, group)) == [StoreUnavailable] * 3
    connection.fail_on = ""
    assert _lasts(connection, 3) == [0, 1, 0]
    assert _kinds(run_group(connection, group)) == [None, None, None]


def test_a_full_database_refuses_and_goes_on_when_there_is_room(connection: _Connection) -> None:
    leases = _leases(connection, 2)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    large = Write(partial(rows.append, lease=leases[0], position=1, sealed=b"x" * 100_000), has_several_statements=False)
    kinds = _kinds(run_group(connection, [large, _append(leases[1], 1)]))
    assert kinds[0] is StoreUnavailable
    assert _lasts(connection, 2) == [0, 1 if kinds[1] is None else 0]
    connection.execute("PRAGMA max_page_count = 1000000")
    assert _kinds(run_group(connection, [large])) == [None]


async def test_writes_that_wait_together_share_commits(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "s.db"))
    await store.open()
    leases = [await store.acquire(ShardId(shard), "a") for shard in range(100)]
    log = tmp_path / "s.db-wal"
    before = log.stat().st_size
    await asyncio.gather(*(store.append(lease, 1, b"x" * 10) for lease in leases))
    # 100 commits of their own would write at least 100 pages of 4 kB.
    assert log.stat().st_size - before < 50 * 4_096
    await store.close()


async def test_a_cancelled_append_leaves_the_writer_alive(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "s.db"))
    await store.open()
    lease = await store.acquire(ShardId(0), "a")
    job = asyncio.get_running_loop().create_task(store.append(lease, 1, b"x"))
    await asyncio.sleep(0)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    await store.append(lease, 2, b"y")
    assert await store.journal_bounds(ShardId(0)) == (0, 2)
    await store.close()


async def test_close_finishes_what_was_handed_over(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "s.db"))
    await store.open()
    lease = await store.acquire(ShardId(0), "a")
    jobs = [asyncio.get_running_loop().create_task(store.append(lease, position, b"x")) for position in range(1, 401)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*jobs)
    await store.open()
    assert await store.journal_bounds(ShardId(0)) == (0, 400)
    await store.close()


async def test_a_checkpoint_fenced_between_two_slices_has_not_truncated_the_journal(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "s.db"))
    await store.open()
    lease = await store.acquire(ShardId(0), "a")
    await store.append(lease, 1, b"x")
    snapshots = [row(key(f"run-{n}")) for n in range(3 * SLICE_ROWS_MAX)]
    checkpoint = asyncio.get_running_loop().create_task(store.checkpoint(lease, snapshots, [], [], 1))
    await asyncio.sleep(0)  # the first slice is queued now, the next one is not: the other owner comes between
    await store.acquire(ShardId(0), "b")
    with pytest.raises(LeaseLost):
        await checkpoint
    assert len(await store.runs(ShardId(0), None, 10_000)) == SLICE_ROWS_MAX
    assert await store.journal_bounds(ShardId(0)) == (0, 1)
    assert await store.read_journal(ShardId(0), 0) == [JournalRecord(1, b"x")]
    await store.close()


async def test_truncated_records_leave_the_file_also_those_of_an_interrupted_truncation(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "s.db"))
    await store.open()
    lease = await store.acquire(ShardId(0), "a")
    count = rows.TRUNCATE_STEP_COUNT + 10
    await asyncio.gather(*(store.append(lease, position, b"x") for position in range(1, count + 1)))
    checkpoint = asyncio.get_running_loop().create_task(store.checkpoint(lease, [], [], [], count - 1))
    await asyncio.sleep(0)
    checkpoint.cancel()  # the mark is on its way; the removal will never be asked for
    with pytest.raises(asyncio.CancelledError):
        await checkpoint
    await store.append(lease, count + 1, b"y")
    assert await store.journal_bounds(ShardId(0)) == (count - 1, count + 1)
    assert [record.position for record in await store.read_journal(ShardId(0), 0)] == [count, count + 1]
    await store.checkpoint(lease, [], [], [], count)
    other = sqlite3.connect(tmp_path / "s.db")
    assert other.execute("SELECT id FROM journal").fetchall() == [(count + 1,)]
    other.close()
    await store.close()
