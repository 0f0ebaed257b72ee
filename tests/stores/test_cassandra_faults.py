"""What happens between a node and Cassandra: lost answers, silence, slowness, bounds, close. On a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from cluster.stores.base import JournalRecord, Lease, LeaseLost, ShardId, StoreUnavailable, StoreUnknown
from cluster.stores.cassandra import CassandraStore
from tests.services.proxy import Mode, TcpProxy, tcp_proxy
from tests.stores.keyspace import Keyspace
from tests.stores.rows import OTHER_SHARD, SHARD, all_rows, blob, key, row


@pytest_asyncio.fixture
async def proxy(keyspace: Keyspace) -> AsyncIterator[TcpProxy]:
    async with tcp_proxy(keyspace.server.port) as opened:
        yield opened


async def _with_a_record(store: CassandraStore, shard: ShardId = SHARD) -> Lease:
    lease = await store.acquire(shard, "a")
    await store.append(lease, 1, b"1")
    return lease


Write = Callable[[CassandraStore, Lease], Awaitable[object]]
WRITES: dict[str, Write] = {
    "append": lambda store, lease: store.append(lease, 2, b"2"),
    "appends in a group": lambda store, lease: asyncio.gather(store.append(lease, 2, b"2"), store.append(lease, 3, b"3")),
    "checkpoint": lambda store, lease: store.checkpoint(lease, [row(key())], [blob(key(), 1, 2)], [], 1),
    "truncation": lambda store, lease: store.checkpoint(lease, [], [], [], 1),
    "acquire": lambda store, lease: store.acquire(lease.shard, "b"),
    "metadata_put": lambda store, lease: store.metadata_put("kind", f"new-{lease.shard}", b"x", 0),
    "metadata_delete": lambda store, lease: store.metadata_delete("kind", f"old-{lease.shard}", 1),
}
# Their first message is only a reservation, or a read: an answer lost there changes nothing that can be seen.
CHANGES_LATER = {"checkpoint", "acquire"}


async def _state(store: CassandraStore) -> tuple[object, ...]:
    return (
        await store.journal_bounds(SHARD),
        await store.read_journal(SHARD, 0),
        await all_rows(store),
        await store.metadata_list("kind"),
    )


async def _until_it_works(call: Callable[[], Awaitable[object]]) -> None:
    """The driver looks for its host twice a second."""
    async with asyncio.timeout(20):
        while True:
            try:
                await call()
                return
            except StoreUnavailable:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("mode", ["lose_requests", "lose_answers"])
async def test_a_write_whose_connection_is_lost_is_unknown_and_the_truth_is_found_by_reading(
    keyspace: Keyspace, proxy: TcpProxy, write: str, mode: Mode
) -> None:
    async with keyspace.opened(proxy.port) as store, keyspace.opened() as witness:
        lease = await _with_a_record(store)
        await store.metadata_put("kind", f"old-{SHARD}", b"x", 0)
        before = await _state(witness)
        proxy.mode = mode
        # An acquire begins with a read, and a read that is lost has certainly written nothing.
        with pytest.raises(StoreUnavailable if write == "acquire" else StoreUnknown):
            await WRITES[write](store, lease)
        proxy.mode = "pass"
        assert proxy.requests_count > 0
        await _until_it_works(lambda: store.load(SHARD, key()))
        fresh = await store.acquire(SHARD, "a again")
        assert fresh.range_id == lease.range_id + 1
        assert (await _state(store) == before) == (mode == "lose_requests" or write in CHANGES_LATER)
        with pytest.raises(LeaseLost):
            await store.append(lease, (await store.journal_bounds(SHARD))[1] + 1, b"late")
        _, last = await store.journal_bounds(SHARD)
        await store.append(fresh, last + 1, b"after")
        assert (await witness.read_journal(SHARD, last)) == [JournalRecord(last + 1, b"after")]


@pytest.mark.parametrize("steps_before", range(7))
async def test_a_checkpoint_cut_off_at_any_step_is_made_good_by_the_next_owner(keyspace: Keyspace, steps_before: int) -> None:
    """Whatever part was written: after the same checkpoint by a new lease all is as if there had been only that one."""
    first, second, third = row(key("run-1"), wake_at=5, changed=1), row(key("run-2"), wake_at=6, changed=1), key("run-3")
    async with keyspace.opened() as store:
        lease = await _with_a_record(store)
        await store.checkpoint(lease, [row(key("run-1"), wake_at=0), row(third, wake_at=7)], [blob(third, 1, 2)], [], 0)
        writes_count, write = 0, store._session.write

        async def cut_off(*steps: object) -> None:
            nonlocal writes_count
            writes_count += 1
            if writes_count > steps_before:
                raise StoreUnknown("cut off by the test")
            await write(*steps)  # type: ignore[arg-type]

        store._session.write = cut_off  # type: ignore[method-assign]
        whole = ([first, second], [blob(first.key, 1, 3), blob(second.key, 1, 3)], [third])
        with pytest.raises(StoreUnknown):
            await store.checkpoint(lease, *whole, 1)
        assert writes_count > steps_before
        store._session.write = write  # type: ignore[method-assign]
        assert (await store.journal_bounds(SHARD)) == (0, 1), "nothing is truncated before all is written"
        fresh = await store.acquire(SHARD, "b")
        await store.checkpoint(fresh, *whole, 1)
        assert [found.key for found in await store.due(SHARD, 100, 10)] == [first.key, second.key]
        assert await store.next_wake_at(SHARD, 6) is None
        assert await store.current_run(SHARD, "ns-a", "order") == second
        assert await store.history(SHARD, first.key, 0, 1, 9) == [blob(first.key, 1, 3)]
        assert await store.history(SHARD, third, 0, 1, 9) == []
        # And what is left of the first one is swept up: the next checkpoint deletes what `due` found.
        await store.checkpoint(fresh, [first, second], [], [], 0)
        async with keyspace.session() as session:
            entries = await session.run("SELECT wake_at, run_id FROM outlast_wakeups")
        assert sorted((wake_at, run_id) for wake_at, run_id in entries) == [(5, b"run-1"), (6, b"run-2")]


@pytest.mark.parametrize("mode", ["silent", "deaf"])
async def test_a_server_that_does_not_answer_costs_a_write_its_deadline_and_no_more(
    keyspace: Keyspace, proxy: TcpProxy, mode: Mode
) -> None:
    async with keyspace.opened() as witness:
        store = keyspace.store(proxy.port, request_timeout_s=1.0, connect_timeout_s=1.0)
        await store.open()
        lease = await _with_a_record(store)
        proxy.mode = mode
        started = time.monotonic()
        with pytest.raises(StoreUnknown):
            await store.append(lease, 2, b"2")
        with pytest.raises(StoreUnavailable):
            await store.load(SHARD, key())
        assert time.monotonic() - started < 6
        assert (await witness.journal_bounds(SHARD))[1] == (2 if mode == "silent" else 1)
        proxy.mode = "pass"
        proxy.cut()
        await _until_it_works(lambda: store.load(SHARD, key()))
        assert (await store.acquire(SHARD, "a")).range_id == 2
        await store.close()


async def test_a_paused_server_is_waited_for_within_the_deadline_and_goes_on_afterwards(keyspace: Keyspace) -> None:
    async with keyspace.opened(request_timeout_s=1.0) as store:
        lease = await _with_a_record(store)
        keyspace.server.pause()
        try:
            with pytest.raises(StoreUnknown):
                await store.append(lease, 2, b"2")
        finally:
            keyspace.server.resume()
        await _until_it_works(lambda: store.acquire(SHARD, "b"))
        _, last = await store.journal_bounds(SHARD)
        with pytest.raises(LeaseLost):
            await store.append(lease, last + 1, b"late")


async def test_a_slow_reader_of_the_proxy_changes_nothing_but_time(keyspace: Keyspace, proxy: TcpProxy) -> None:
    """A large value arrives in many pieces, each of which the proxy holds back."""
    async with keyspace.opened(proxy.port) as store:
        lease = await _with_a_record(store)
        large = bytes(range(256)) * 16_000
        await store.append(lease, 2, large)
        await store.checkpoint(lease, [row(key(), data=large)], [blob(key(), 1, 2, data=large * 2)], [], 0)
        assert (await store.read_journal(SHARD, 1))[0].data == large
        found = await store.load(SHARD, key())
        assert found is not None and found.data == large
        assert (await store.history(SHARD, key(), 0, 1, 2))[0].data == large * 2
        await store.checkpoint(lease, [], [blob(key(), 1, 3, data=b"short")], [], 0)
        assert await store.history(SHARD, key(), 0, 1, 3) == [blob(key(), 1, 3, data=b"short")]
        with pytest.raises(ValueError, match="too large"):
            await store.append(lease, 3, b"x" * (16 << 20))
        await store.append(lease, 3, b"next")


# --- bounds ---------------------------------------------------------------------------------------------------------------
async def test_requests_under_way_are_bounded_and_callers_wait_their_turn(keyspace: Keyspace) -> None:
    async with keyspace.opened(in_flight_max=4) as store:
        lease = await _with_a_record(store)
        under_way_max, submit = 0, store._session._submit

        def counted(*args: Any, **named: Any) -> asyncio.Future[list[Any]]:
            nonlocal under_way_max
            answer = submit(*args, **named)
            under_way_max = max(under_way_max, len(store._session._under_way))
            return answer

        store._session._submit = counted  # type: ignore[method-assign]
        await asyncio.gather(*(store.read_journal(SHARD, 0) for _ in range(100)), store.append(lease, 2, b"2"))
        assert 1 < under_way_max <= 4 + 1, "an append does not stand in the queue of the others"


async def test_a_cancelled_call_gives_its_place_back(keyspace: Keyspace) -> None:
    async with keyspace.opened(in_flight_max=2) as store:
        await _with_a_record(store)
        for _ in range(10):
            reading = asyncio.get_running_loop().create_task(store.read_journal(SHARD, 0))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        assert await store.read_journal(SHARD, 0) == [JournalRecord(1, b"1")]


async def test_close_finishes_what_was_handed_over_and_later_calls_are_refused(keyspace: Keyspace) -> None:
    store = keyspace.store()
    await store.open()
    lease, other = await store.acquire(SHARD, "a"), await store.acquire(OTHER_SHARD, "a")
    jobs = [asyncio.get_running_loop().create_task(store.append(lease, position, b"x")) for position in range(1, 301)]
    rows = [row(key(f"run-{n}")) for n in range(50)]
    jobs.append(asyncio.get_running_loop().create_task(store.checkpoint(other, rows, [], [], 0)))
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*jobs)
    calls = [store.append(lease, 301, b"x"), store.acquire(SHARD, "a"), store.load(SHARD, key()), store.metadata_list("k")]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="not open"):
            await call
    async with keyspace.opened() as again:
        assert await again.journal_bounds(SHARD) == (0, 300)
        assert len(await all_rows(again, OTHER_SHARD)) == 50
