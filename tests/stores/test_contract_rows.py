"""The store contract, promise by promise, on every engine: rows, current pointer, history, lists."""

from __future__ import annotations

import pytest

from cluster.stores.base import RunKey, Snapshot, Store
from tests.stores.conftest import Engine
from tests.stores.rows import OTHER_SHARD, SHARD, all_rows, blob, key, row


def _named(namespace: str, workflow: str) -> RunKey:
    return key("run", workflow=workflow, namespace=namespace)


# --- rows and the current pointer -----------------------------------------------------------------------------------------
async def test_a_row_is_read_back_as_written(engine: Engine) -> None:
    store = engine.store
    written = row(key(), is_open=False, wake_at=1_700_000_000_000_000_000, changed=7, data=bytes(range(256)))
    lease = await store.acquire(SHARD, "a")
    await store.checkpoint(lease, [written], [], [], 0)
    assert await store.load(SHARD, key()) == written
    assert await store.load(OTHER_SHARD, key()) is None
    assert await store.load(SHARD, key("run-2")) is None
    newer = row(key(), wake_at=None, changed=9, data=b"")
    await store.checkpoint(lease, [newer], [], [], 0)
    assert await store.load(SHARD, key()) == newer
    assert await all_rows(store) == [newer]


async def test_the_same_ids_in_another_namespace_or_shard_are_another_run(store: Store) -> None:
    here, there = await store.acquire(SHARD, "a"), await store.acquire(OTHER_SHARD, "a")
    of_a, of_b = row(key(), data=b"a"), row(key(namespace="ns-b"), data=b"b")
    await store.checkpoint(here, [of_a, of_b], [blob(of_a.key, 1, 1, data=b"a")], [], 0)
    await store.checkpoint(there, [row(key(), data=b"elsewhere")], [], [], 0)
    await store.checkpoint(here, [], [], [of_a.key], 0)
    assert await all_rows(store) == [of_b]
    assert await store.current_run(SHARD, "ns-a", "order") is None
    assert await store.current_run(SHARD, "ns-b", "order") == of_b
    assert [found.data for found in await all_rows(store, OTHER_SHARD)] == [b"elsewhere"]


async def test_the_current_pointer_follows_the_last_row_written_as_current(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    assert await store.current_run(SHARD, "ns-a", "order") is None
    first, second = row(key("run-1")), row(key("run-2"))
    await store.checkpoint(lease, [first], [], [], 0)
    assert await store.current_run(SHARD, "ns-a", "order") == first
    await store.checkpoint(lease, [second], [], [], 0)
    assert await store.current_run(SHARD, "ns-a", "order") == second
    old = await store.load(SHARD, first.key)
    assert old is not None and not old.is_current
    await store.checkpoint(lease, [row(key("run-1"), current=False, data=b"again")], [], [], 0)
    assert await store.current_run(SHARD, "ns-a", "order") == second


async def test_a_row_written_as_not_current_leaves_its_pointer(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    await store.checkpoint(lease, [row(key())], [], [], 0)
    await store.checkpoint(lease, [row(key(), current=False, data=b"new")], [], [], 0)
    found = await store.current_run(SHARD, "ns-a", "order")
    assert found is not None and found.data == b"new" and found.is_current


async def test_deleting_a_run_removes_its_row_its_history_and_only_its_own_pointer(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    old, new = row(key("run-1"), current=False), row(key("run-2"))
    histories = [blob(old.key, 1, 3), blob(old.key, 1, 2, branch=1), blob(new.key, 1, 3)]
    await store.checkpoint(lease, [old, new], histories, [], 0)
    await store.checkpoint(lease, [], [], [old.key], 0)
    assert await store.load(SHARD, old.key) is None
    assert await store.history(SHARD, old.key, 0, 1, 99) == []
    assert await store.history(SHARD, old.key, 1, 1, 99) == []
    assert await store.current_run(SHARD, "ns-a", "order") == new
    assert await store.history(SHARD, new.key, 0, 1, 99) == [blob(new.key, 1, 3)]
    await store.checkpoint(lease, [], [], [new.key, key("never-was")], 0)
    assert await store.current_run(SHARD, "ns-a", "order") is None
    assert await all_rows(store) == []


async def test_a_key_both_written_and_deleted_is_gone(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    await store.checkpoint(lease, [row(key())], [blob(key(), 1, 2)], [key()], 0)
    assert await store.load(SHARD, key()) is None
    assert await store.history(SHARD, key(), 0, 1, 9) == []
    assert await store.current_run(SHARD, "ns-a", "order") is None


async def test_a_checkpoint_larger_than_one_slice_is_written_whole(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    await store.append(lease, 1, b"x")
    keys = [key(f"run-{n:04}", workflow=f"order-{n:04}") for n in range(700)]
    large = b"\x00" * 300_000
    rows = [row(of, wake_at=n, data=large if n % 100 == 0 else b"s") for n, of in enumerate(keys)]
    await store.checkpoint(lease, rows, [blob(of, 1, 5) for of in keys], [keys[5]], 1)
    assert await all_rows(store) == rows[:5] + rows[6:]
    assert await store.history(SHARD, keys[699], 0, 1, 5) == [blob(keys[699], 1, 5)]
    assert await store.history(SHARD, keys[5], 0, 1, 5) == []
    assert await store.journal_bounds(SHARD) == (1, 1)
    assert store.bytes_written() == 1 + sum(len(r.data) for r in rows) + sum(len(blob(of, 1, 5).data) for of in keys)


# --- history ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (1, 30, [(1, 4), (5, 9), (10, 10), (11, 20)]),
        (4, 5, [(1, 4), (5, 9)]),
        (6, 7, [(5, 9)]),
        (10, 10, [(10, 10)]),
        (20, 20, [(11, 20)]),
        (21, 30, []),
        (9, 8, []),
    ],
)
async def test_history_returns_the_blobs_that_overlap(
    store: Store, first: int, last: int, expected: list[tuple[int, int]]
) -> None:
    lease = await store.acquire(SHARD, "a")
    blobs = [blob(key(), 1, 4), blob(key(), 5, 9), blob(key(), 10, 10), blob(key(), 11, 20)]
    await store.checkpoint(lease, [], blobs[:2], [], 0)
    await store.checkpoint(lease, [], [*blobs[2:], blob(key(), 1, 40, branch=1), blob(key("run-2"), 1, 40)], [], 0)
    found = await store.history(SHARD, key(), 0, first, last)
    assert found == [blob(key(), *bounds) for bounds in expected]


async def test_a_blob_written_again_is_stored_once_and_a_longer_one_replaces_it(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    await store.checkpoint(lease, [], [blob(key(), 1, 4), blob(key(), 5, 6)], [], 0)
    await store.checkpoint(lease, [], [blob(key(), 5, 6)], [], 0)
    assert await store.history(SHARD, key(), 0, 1, 99) == [blob(key(), 1, 4), blob(key(), 5, 6)]
    await store.checkpoint(lease, [], [blob(key(), 5, 8)], [], 0)
    assert await store.history(SHARD, key(), 0, 1, 99) == [blob(key(), 1, 4), blob(key(), 5, 8)]


# --- lists --------------------------------------------------------------------------------------------------------------
async def test_due_gives_the_earliest_first_and_pages_through_equal_times(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    times: list[int | None] = [0, 50, 0, None, 10, 0, 10, 51, 0]
    rows = [row(key(f"run-{n}", workflow=f"w{n}"), wake_at=wake_at) for n, wake_at in enumerate(times)]
    await store.checkpoint(lease, rows, [], [], 0)
    expected = sorted((r for r in rows if r.wake_at is not None and r.wake_at <= 50), key=lambda r: (r.wake_at, r.key))
    assert await store.due(SHARD, 50, 100) == expected
    assert await store.due(SHARD, 50, 3) == expected[:3]
    assert await store.due(SHARD, -1, 100) == []
    assert await store.due(OTHER_SHARD, 50, 100) == []
    paged: list[Snapshot] = []
    after: tuple[int, RunKey] | None = None
    while page := await store.due(SHARD, 50, 2, after):
        paged += page
        assert page[-1].wake_at is not None
        after = (page[-1].wake_at, page[-1].key)
    assert paged == expected


async def test_a_changed_wake_up_replaces_the_former_one(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    await store.checkpoint(lease, [row(key(), wake_at=5)], [], [], 0)
    await store.checkpoint(lease, [row(key(), wake_at=20)], [], [], 0)
    assert await store.due(SHARD, 10, 9) == []
    assert await store.next_wake_at(SHARD, 0) == 20
    await store.checkpoint(lease, [row(key(), wake_at=None)], [], [], 0)
    assert await store.due(SHARD, 100, 9) == []
    assert await store.next_wake_at(SHARD, 0) is None


async def test_next_wake_at_is_the_smallest_one_after(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    assert await store.next_wake_at(SHARD, 0) is None
    rows = [row(key(f"run-{wake_at}"), wake_at=wake_at) for wake_at in (0, 7, 9)]
    await store.checkpoint(lease, rows, [], [], 0)
    assert [await store.next_wake_at(SHARD, after) for after in (-1, 0, 6, 7, 9)] == [0, 7, 7, 9, None]


async def test_a_page_of_changed_rows_never_ends_within_a_position(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    positions = [3, 1, 2, 2, 2, 4, 3]
    rows = [row(key(f"run-{n}", workflow=f"w{n}"), changed=position) for n, position in enumerate(positions)]
    await store.checkpoint(lease, rows, [], [], 0)
    expected = sorted(rows, key=lambda r: (r.changed_position, r.key))
    assert await store.changed(SHARD, 0, 100) == expected
    assert await store.changed(SHARD, 0, 2) == expected[:4]
    assert await store.changed(SHARD, 2, 1) == expected[4:6]
    assert await store.changed(SHARD, 4, 10) == []
    assert await store.changed(SHARD, 0, 0) == []


async def test_runs_come_in_key_order_a_page_at_a_time(store: Store) -> None:
    lease = await store.acquire(SHARD, "a")
    # Order is by code point: U+FFFD before U+1F600, which UTF-16 and most collations have the other way round.
    names = ["a", "B", "b", "ä", "\ufffd", "\U0001f600", "a\x00", "", "a'; --"]
    rows = [row(_named(namespace, name), data=name.encode()) for namespace in ("n2", "n1") for name in names]
    await store.checkpoint(lease, rows, [], [], 0)
    expected = sorted(rows, key=lambda r: r.key)
    assert await all_rows(store) == expected
    paged: list[Snapshot] = []
    after: RunKey | None = None
    while page := await store.runs(SHARD, after, 4):
        paged += page
        after = page[-1].key
    assert paged == expected
    assert page.corrupt == []
