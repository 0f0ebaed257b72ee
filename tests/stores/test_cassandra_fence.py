"""The fence on Cassandra: a stale owner, paused at any step of a write and woken up later, changes nothing that anybody sees."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cluster.stores.base import LeaseLost, Snapshot, Store, StoreUnknown
from cluster.stores.cassandra import CassandraStore
from tests.stores.keyspace import Keyspace
from tests.stores.rows import SHARD, all_rows, blob, key, row

WRITES_OF_THE_CHECKPOINT = 7
RUN_A, RUN_B, RUN_C = key("run-a"), key("run-b"), key("run-c", workflow="other")


class _Pause:
    """Holds a store's requests of one kind from the n-th on, as if the node slept just before it sent them.

    As a context manager it wakes the node at the latest at the end: a store waits for its checkpoints when it is closed.
    """

    def __init__(self, store: CassandraStore, kind: str, after_count: int) -> None:
        self._session = store._session
        self._kind, self._left = kind, after_count
        self._original: Callable[..., Any] = getattr(self._session, kind)
        self.reached, self._woken = asyncio.Event(), asyncio.Event()
        setattr(self._session, kind, self._held)

    async def _held(self, *steps: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            self.reached.set()
            await self._woken.wait()
        return await self._original(*steps)

    def __enter__(self) -> _Pause:
        return self

    def __exit__(self, *_: object) -> None:
        self.wake()

    def wake(self) -> None:
        setattr(self._session, self._kind, self._original)
        self._woken.set()


async def _everything(store: Store) -> list[object]:
    return [
        await all_rows(store),
        await store.current_run(SHARD, "ns-a", "order"),
        await store.current_run(SHARD, "ns-a", "other"),
        [await store.history(SHARD, of, 0, 1, 99) for of in (RUN_A, RUN_B, RUN_C)],
        await store.due(SHARD, 100, 10),
        await store.next_wake_at(SHARD, -1),
        await store.changed(SHARD, 0, 10),
        await store.journal_bounds(SHARD),
    ]


@asynccontextmanager
async def _two_nodes(keyspace: Keyspace) -> AsyncIterator[tuple[CassandraStore, CassandraStore]]:
    """The first one's clock is an hour ahead: its writes would win, if the clock decided."""
    async with keyspace.opened(now_ns=lambda: time.time_ns() + 3_600 * 10**9) as first, keyspace.opened() as second:
        yield first, second


@pytest.mark.parametrize("writes_before", range(WRITES_OF_THE_CHECKPOINT))
async def test_a_checkpoint_of_an_owner_that_slept_through_its_lease_loses_against_the_next_owners(
    keyspace: Keyspace, writes_before: int
) -> None:
    async with _two_nodes(keyspace) as (stale, fresh):
        lease = await stale.acquire(SHARD, "a")
        await stale.append(lease, 1, b"1")
        before = [row(RUN_A, wake_at=0, changed=1), row(RUN_C, wake_at=9, changed=1, current=True)]
        await stale.checkpoint(lease, before, [blob(RUN_A, 1, 3), blob(RUN_C, 1, 3)], [], 0)
        old = [row(RUN_A, wake_at=5, changed=1, data=b"old"), row(RUN_C, wake_at=7, changed=1, data=b"old")]
        # The journal says more than the stale owner knew: A was replaced by B and goes on, C is deleted.
        new: list[Snapshot] = [row(RUN_A, is_open=False, current=False, changed=1), row(RUN_B, wake_at=0, changed=1)]
        with _Pause(stale, "write", writes_before) as pause:
            late = asyncio.get_running_loop().create_task(
                stale.checkpoint(lease, old, [blob(RUN_A, 4, 5), blob(RUN_C, 4, 5)], [], 1)
            )
            reached = asyncio.get_running_loop().create_task(pause.reached.wait())
            await asyncio.wait([late, reached], return_when=asyncio.FIRST_COMPLETED)
            reached.cancel()
            next_lease = await fresh.acquire(SHARD, "b")
            if late.done():  # it had fewer writes, so there was nothing to hold back
                assert writes_before >= WRITES_OF_THE_CHECKPOINT
                await late
                return
            await fresh.checkpoint(next_lease, new, [blob(RUN_A, 4, 9), blob(RUN_B, 1, 2)], [RUN_C], 1)
            expected = await _everything(fresh)
            assert expected[0] == new
            assert expected[4] == new[1:]
        with pytest.raises(LeaseLost):
            await late
        assert await _everything(fresh) == expected
        async with keyspace.opened() as witness:
            assert await _everything(witness) == expected


@pytest.mark.parametrize("write", ["append", "truncate", "reserve"])
async def test_a_transaction_that_a_stale_owner_sends_late_is_refused(keyspace: Keyspace, write: str) -> None:
    async with _two_nodes(keyspace) as (stale, fresh):
        lease = await stale.acquire(SHARD, "a")
        await stale.append(lease, 1, b"1")
        calls = {
            "append": lambda: stale.append(lease, 2, b"late"),
            "truncate": lambda: stale.checkpoint(lease, [], [], [], 1),
            "reserve": lambda: stale.checkpoint(lease, [row(RUN_A)], [], [], 0),
        }
        with _Pause(stale, "decide", 0) as pause:
            late = asyncio.get_running_loop().create_task(calls[write]())
            await asyncio.wait_for(pause.reached.wait(), 20)
            await fresh.acquire(SHARD, "b")
        with pytest.raises(LeaseLost):
            await late
        assert [record.data for record in await fresh.read_journal(SHARD, 0)] == [b"1"]
        assert await all_rows(fresh) == []


async def test_a_checkpoint_fenced_while_it_writes_says_so_also_when_it_truncates_nothing(keyspace: Keyspace) -> None:
    async with _two_nodes(keyspace) as (stale, fresh):
        lease = await stale.acquire(SHARD, "a")
        with _Pause(stale, "write", 0) as pause:
            late = asyncio.get_running_loop().create_task(stale.checkpoint(lease, [row(RUN_A)], [], [], 0))
            await asyncio.wait_for(pause.reached.wait(), 20)
            await fresh.acquire(SHARD, "b")
        with pytest.raises(LeaseLost):
            await late


@pytest.mark.parametrize("now_ns", [0, 1 << 62], ids=["far behind", "far ahead"])
async def test_stamps_rise_whatever_the_clocks_of_the_nodes_say(keyspace: Keyspace, now_ns: int) -> None:
    async with keyspace.opened() as usual, keyspace.opened(now_ns=lambda: now_ns) as wrong:
        for turn in range(3):
            for store in (wrong, usual):
                lease = await store.acquire(SHARD, "a")
                written = row(RUN_A, wake_at=turn, data=b"%s %d" % (store._target.name.encode(), turn))
                await store.checkpoint(lease, [written], [blob(RUN_A, 1, 2 + turn)], [], 0)
                assert await usual.load(SHARD, RUN_A) == written
                assert await wrong.due(SHARD, 100, 10) == [written]
                await store.checkpoint(lease, [], [], [RUN_A], 0)
                assert await all_rows(usual) == []
                assert await usual.history(SHARD, RUN_A, 0, 1, 9) == []


async def test_reads_are_serial_from_an_unknown_outcome_until_the_next_lease(keyspace: Keyspace) -> None:
    async with keyspace.opened() as store:
        lease = await store.acquire(SHARD, "a")
        asked: list[bool] = []
        read, decide = store._session.read, store._session.decide

        async def watched(name: str, *values: Any, is_serial: bool = False) -> list[tuple[Any, ...]]:
            asked.append(is_serial)
            return await read(name, *values, is_serial=is_serial)

        async def unknown(*steps: Any) -> dict[str, Any]:
            await decide(*steps)
            raise StoreUnknown("done, but nobody heard of it")

        store._session.read, store._session.decide = watched, unknown  # type: ignore[method-assign]
        await store.journal_bounds(SHARD)
        with pytest.raises(StoreUnknown):
            await store.append(lease, 1, b"x")
        assert await store.journal_bounds(SHARD) == (0, 1)
        with pytest.raises(StoreUnknown):
            await store.metadata_put("kind", "id", b"x", 0)
        assert len(await store.metadata_list("kind")) == 1
        store._session.decide = decide  # type: ignore[method-assign]
        await store.acquire(SHARD, "a")
        await store.journal_bounds(SHARD)
        assert await store.metadata_put("kind", "id", b"y", 1) == 2
        await store.metadata_get("kind", "id")
        # bounds; bounds and list after the unknown outcomes; acquire's first look; bounds and get when all is certain again
        assert asked == [False, True, True, True, False, False]
