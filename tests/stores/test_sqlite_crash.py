"""kill -9 of a process that appends and checkpoints: all that it acknowledged is there, and the journal is dense."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cluster.stores.base import RunKey, ShardId, Snapshot
from cluster.stores.sqlite import SqliteStore

ROOT = Path(__file__).parents[2]
SHARDS_COUNT = 4
KILLS_COUNT = 5
ACKED_MIN_PER_KILL = 30


def _record(shard: int, position: int) -> bytes:
    return b"%d:%d:" % (shard, position) + b"x" * (position % 700)


async def _write_for_ever(path: str) -> None:
    """The child: appends to all shards at once, checkpoints now and then, and says what was acknowledged."""
    store = SqliteStore(path)
    await store.open()

    async def own(shard: ShardId) -> None:
        lease = await store.acquire(shard, "child")
        position = (await store.journal_bounds(shard))[1]
        while True:
            position += 1
            await store.append(lease, position, _record(shard, position))
            os.write(1, b"append %d %d\n" % (shard, position))
            if position % 20 == 0:
                row = Snapshot(RunKey("ns", "w", f"r{shard}"), b"to %d" % position, True, True, None, position)
                await store.checkpoint(lease, [row], [], [], position - 5)
                os.write(1, b"checkpoint %d %d\n" % (shard, position))

    await asyncio.gather(*(own(ShardId(shard)) for shard in range(SHARDS_COUNT)))


def _run_and_kill(path: str, after_lines: int) -> list[tuple[str, int, int]]:
    """Starts the child, kills it in the middle, returns what it acknowledged."""
    child = subprocess.Popen([sys.executable, "-m", "tests.stores.test_sqlite_crash", path], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        lines = [child.stdout.readline() for _ in range(after_lines)]
        time.sleep(0.003 * (after_lines % 7))  # the moment of the kill shall not be tied to the child's last line
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert child.returncode == -signal.SIGKILL, "the child ended by itself"
    acked = [line.decode().split() for line in lines if line.endswith(b"\n")]
    return [(what, int(shard), int(position)) for what, shard, position in acked]


async def test_what_was_acknowledged_before_kill_9_is_there_after_reopening(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    appended, checkpointed = dict.fromkeys(range(SHARDS_COUNT), 0), dict.fromkeys(range(SHARDS_COUNT), 0)
    acked_count = 0
    for kill in range(KILLS_COUNT):
        for what, shard, position in await asyncio.to_thread(_run_and_kill, path, ACKED_MIN_PER_KILL + 37 * kill):
            (appended if what == "append" else checkpointed)[shard] = position
            acked_count += 1
        store = SqliteStore(path)
        await store.open()
        for shard in range(SHARDS_COUNT):
            truncated_to, last = await store.journal_bounds(ShardId(shard))
            records = await store.read_journal(ShardId(shard), 0, 1_000_000)
            assert [record.position for record in records] == list(range(truncated_to + 1, last + 1))
            assert all(record.data == _record(shard, record.position) for record in records)
            # One more may have been written than was acknowledged, never one less.
            assert appended[shard] <= last <= appended[shard] + 1
            row = await store.load(ShardId(shard), RunKey("ns", "w", f"r{shard}"))
            rows_to = 0 if row is None else row.changed_position
            assert rows_to >= checkpointed[shard]
            assert row is None or row.data == b"to %d" % rows_to
            assert rows_to >= truncated_to, "the journal was truncated beyond what the rows contain"
            appended[shard] = last
        await store.close()
    assert acked_count >= KILLS_COUNT * ACKED_MIN_PER_KILL
    assert any(checkpointed.values())


async def test_two_processes_with_one_file_fence_each_other(tmp_path: Path) -> None:
    """The child owns the shards until this process acquires one: from then on the child cannot append to it."""
    path = str(tmp_path / "store.db")
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.stores.test_sqlite_crash", path], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None and child.stderr is not None
    try:
        for _ in range(40):
            await asyncio.to_thread(child.stdout.readline)
        store = SqliteStore(path)
        await store.open()
        lease = await store.acquire(ShardId(2), "parent")
        assert lease.range_id == 2
        _, last = await store.journal_bounds(ShardId(2))
        await store.append(lease, last + 1, b"by the parent")
        _, said = await asyncio.to_thread(child.communicate, None, 10)
        assert b"LeaseLost" in said
        assert [record.data for record in await store.read_journal(ShardId(2), last)] == [b"by the parent"]
        await store.close()
    finally:
        child.kill()
        child.wait()


if __name__ == "__main__":
    asyncio.run(_write_for_ever(sys.argv[1]))
