"""What happens between a node and its database server: two owners, lost answers, silence, slowness. On both real servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from cluster.stores.base import JournalRecord, Lease, LeaseLost, ShardId, StoreUnavailable, StoreUnknown
from cluster.stores.sql_store import SqlStore
from tests.services.proxy import Mode, TcpProxy, tcp_proxy
from tests.stores.rows import OTHER_SHARD, SHARD, all_rows, blob, key, row
from tests.stores.servers import Database


@pytest_asyncio.fixture
async def proxy(database: Database) -> AsyncIterator[TcpProxy]:
    async with tcp_proxy(database.server.port) as opened:
        yield opened


async def _with_a_record(store: SqlStore, shard: ShardId = SHARD) -> Lease:
    lease = await store.acquire(shard, "a")
    await store.append(lease, 1, b"1")
    return lease


Write = Callable[[SqlStore, Lease], Awaitable[object]]
WRITES: dict[str, Write] = {
    "append": lambda store, lease: store.append(lease, 2, b"2"),
    "appends in a group": lambda store, lease: asyncio.gather(store.append(lease, 2, b"2"), store.append(lease, 3, b"3")),
    "checkpoint": lambda store, lease: store.checkpoint(lease, [row(key())], [blob(key(), 1, 2)], [], 1),
    "checkpoint that truncates nothing": lambda store, lease: store.checkpoint(lease, [row(key())], [], [], 0),
    "acquire": lambda store, lease: store.acquire(lease.shard, "b"),
    "metadata_put": lambda store, lease: store.metadata_put("kind", f"new-{lease.shard}", b"x", 0),
    "metadata_delete": lambda store, lease: store.metadata_delete("kind", f"old-{lease.shard}", 1),
}


async def _state(store: SqlStore) -> tuple[object, ...]:
    """All that the writes above change, but the range id."""
    return (
        await store.journal_bounds(SHARD),
        await store.read_journal(SHARD, 0),
        await all_rows(store),
        await store.metadata_list("kind"),
    )


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("mode", ["lose_requests", "lose_answers"])
async def test_a_write_whose_connection_is_lost_is_unknown_and_the_truth_is_found_by_reading(
    database: Database, proxy: TcpProxy, write: str, mode: Mode
) -> None:
    """The answer is cut off only after the server gave it: so the commit has happened, and nobody here has heard of it."""
    async with database.opened(proxy.port) as store, database.opened() as witness:
        leases = [await _with_a_record(store, shard) for shard in (OTHER_SHARD, SHARD)]
        for held in leases:
            await store.metadata_put("kind", f"old-{held.shard}", b"x", 0)
        # Once on another shard, so that the statement is prepared and the answer that gets lost is the write's own.
        await WRITES[write](store, leases[0])
        lease = leases[1]
        before = await _state(witness)
        proxy.mode = mode
        with pytest.raises(StoreUnknown):
            await WRITES[write](store, lease)
        proxy.mode = "pass"
        assert proxy.requests_count > 0
        fresh = await store.acquire(SHARD, "a again")
        was_acquired = write == "acquire" and mode == "lose_answers"
        assert fresh.range_id == lease.range_id + 1 + was_acquired
        if write != "acquire":
            assert (await _state(store) == before) == (mode == "lose_requests")
        with pytest.raises(LeaseLost):
            await store.append(lease, (await store.journal_bounds(SHARD))[1] + 1, b"late")
        _, last = await store.journal_bounds(SHARD)
        await store.append(fresh, last + 1, b"after")
        assert (await witness.read_journal(SHARD, last)) == [JournalRecord(last + 1, b"after")]


@pytest.mark.parametrize("mode", ["silent", "deaf"])
async def test_a_server_that_does_not_answer_costs_a_write_its_deadline_and_no_more(
    database: Database, proxy: TcpProxy, mode: Mode
) -> None:
    async with database.opened() as witness:
        store = database.store(proxy.port, statement_timeout_s=1.0, connect_timeout_s=1.0)
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
        assert (await store.acquire(SHARD, "a")).range_id == 2
        await store.close()


async def test_a_read_whose_connection_is_lost_is_unavailable_and_the_next_one_works(database: Database, proxy: TcpProxy) -> None:
    async with database.opened(proxy.port) as store:
        await _with_a_record(store)
        proxy.mode = "lose_answers"
        for read in (store.read_journal(SHARD, 0), store.load(SHARD, key()), store.runs(SHARD, None, 1)):
            with pytest.raises(StoreUnavailable):
                await read
        proxy.mode = "pass"
        assert await store.read_journal(SHARD, 0) == [JournalRecord(1, b"1")]


async def test_connections_cut_while_idle_are_replaced_without_a_word(database: Database, proxy: TcpProxy) -> None:
    async with database.opened(proxy.port) as store:
        lease = await _with_a_record(store)
        for position in range(2, 6):
            proxy.cut()
            # The store hears of the cut as soon as its event loop has looked at the sockets.
            await _until(lambda: all(connection.is_closed() for connection in store._appenders._idle))  # type: ignore[attr-defined]
            await store.append(lease, position, b"x")
        assert (await store.journal_bounds(SHARD))[1] == 5


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.005)


# --- the fence, with two connections ---------------------------------------------------------------------------------------
async def test_an_append_that_waits_for_an_acquire_under_way_is_refused_when_it_commits(database: Database) -> None:
    async with database.opened() as store, database.session() as other:
        await _with_a_record(store)
        for write in ("append", "appends in a group", "checkpoint", "checkpoint that truncates nothing"):
            lease = await store.acquire(SHARD, "a")
            await other.run("BEGIN")
            await other.run(f"UPDATE outlast_shards SET range_id = range_id + 1 WHERE shard = {SHARD}")
            waiting = asyncio.ensure_future(WRITES[write](store, lease))
            done, _ = await asyncio.wait([waiting], timeout=0.3)
            assert not done, "the write did not wait for the lease's row"
            await other.run("COMMIT")
            with pytest.raises(LeaseLost):
                await waiting
        assert await store.journal_bounds(SHARD) == (0, 1)
        assert await all_rows(store) == []


async def test_a_group_with_one_fenced_shard_writes_the_others(database: Database) -> None:
    async with database.opened(append_lanes_count=1) as store, database.opened() as other:
        leases = [await store.acquire(shard, "a") for shard in (SHARD, OTHER_SHARD)]
        await other.acquire(SHARD, "b")
        writes = [store.append(lease, position, b"x") for position in (1, 2) for lease in leases]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert [isinstance(outcome, LeaseLost) for outcome in outcomes] == [True, False, True, False]
        assert await store.journal_bounds(SHARD) == (0, 0)
        assert await store.journal_bounds(OTHER_SHARD) == (0, 2)


async def test_an_acquire_waits_for_a_write_under_way_and_then_everybody_sees_that_write(database: Database) -> None:
    """Otherwise a former owner's append could become visible after the new owner has read the journal."""
    hold = "FOR SHARE" if database.kind == "postgres" else "LOCK IN SHARE MODE"  # as the store's own append does
    async with database.opened() as store, database.session() as writer:
        await _with_a_record(store)
        await writer.run("BEGIN")
        await writer.run(f"SELECT 1 FROM outlast_shards WHERE shard = {SHARD} AND range_id = 1 {hold}")
        await writer.run(f"INSERT INTO outlast_journal (shard, position, data) VALUES ({SHARD}, 2, 'under way')")
        acquiring = asyncio.get_running_loop().create_task(store.acquire(SHARD, "b"))
        done, _ = await asyncio.wait([acquiring], timeout=0.3)
        assert not done, "the lease was given away while an append was under way"
        await writer.run("COMMIT")
        await acquiring
        assert (await store.journal_bounds(SHARD))[1] == 2


async def test_a_lock_held_by_another_is_waited_for_only_within_the_deadline_and_nothing_is_written(database: Database) -> None:
    async with database.opened(statement_timeout_s=1.0) as store, database.session() as other:
        lease = await _with_a_record(store)
        await other.run("BEGIN")
        await other.run(f"UPDATE outlast_shards SET owner = owner WHERE shard = {SHARD}")
        await other.run(f"SELECT shard FROM outlast_shards WHERE shard = {SHARD} FOR UPDATE")
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.append(lease, 2, b"2")
        assert time.monotonic() - started < 4
        neighbour = await store.acquire(OTHER_SHARD, "a")
        await store.append(neighbour, 1, b"not harmed")
        await other.run("ROLLBACK")
        await store.append(lease, 2, b"2")
        assert await store.read_journal(SHARD, 1) == [JournalRecord(2, b"2")]


# --- bounds ----------------------------------------------------------------------------------------------------------------
async def test_the_number_of_connections_is_bounded_and_callers_wait_their_turn(database: Database) -> None:
    async with database.opened(connections_count_max=4, append_lanes_count=2) as store:
        lease = await _with_a_record(store)
        reads = [store.read_journal(SHARD, 0) for _ in range(200)]
        appends = [store.append(lease, position, b"x") for position in range(2, 202)]
        await asyncio.gather(*reads, *appends)
        assert store._appenders.size + store._others.size <= 4  # type: ignore[attr-defined]
        assert (await store.journal_bounds(SHARD))[1] == 201


async def test_appends_go_on_while_every_other_connection_is_busy(database: Database) -> None:
    async with database.opened(connections_count_max=4, statement_timeout_s=1.0) as store, database.session() as other:
        lease, free = await _with_a_record(store), await store.acquire(OTHER_SHARD, "a")
        await other.run("BEGIN")
        await other.run(f"SELECT shard FROM outlast_shards WHERE shard = {SHARD} FOR UPDATE")
        blocked = [asyncio.get_running_loop().create_task(store.checkpoint(lease, [], [], [], 1)) for _ in range(4)]
        await asyncio.wait(blocked, timeout=0.2)
        await store.append(free, 1, b"x")
        outcomes = await asyncio.gather(*blocked, return_exceptions=True)
        assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
        await other.run("ROLLBACK")


async def test_a_cancelled_call_gives_its_place_back(database: Database) -> None:
    async with database.opened(connections_count_max=3, statement_timeout_s=2.0) as store, database.session() as other:
        await _with_a_record(store)
        await other.run("BEGIN")
        await other.run(f"SELECT shard FROM outlast_shards WHERE shard = {SHARD} FOR UPDATE")
        for _ in range(3):
            acquiring = asyncio.get_running_loop().create_task(store.acquire(SHARD, "b"))
            await asyncio.wait([acquiring], timeout=0.1)
            acquiring.cancel()
            with pytest.raises(asyncio.CancelledError):
                await acquiring
        await other.run("ROLLBACK")
        assert await store.read_journal(SHARD, 0) == [JournalRecord(1, b"1")]


async def test_close_finishes_what_was_handed_over_and_later_calls_are_refused(database: Database) -> None:
    store = database.store()
    await store.open()
    lease = await store.acquire(SHARD, "a")
    jobs = [asyncio.get_running_loop().create_task(store.append(lease, position, b"x")) for position in range(1, 301)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*jobs)
    calls = [store.append(lease, 301, b"x"), store.acquire(SHARD, "a"), store.load(SHARD, key()), store.metadata_list("k")]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="not open"):
            await call
    async with database.opened() as again:
        assert await again.journal_bounds(SHARD) == (0, 300)
