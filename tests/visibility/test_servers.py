"""Visibility on database servers that several nodes write at once, and that fail: PostgreSQL and MariaDB."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from cluster.core.errors import CallerError, Code
from cluster.visibility.base import VisibilityRow, VisibilityUnavailable
from cluster.visibility.memory import MemoryVisibility
from cluster.visibility.query import parse_query
from cluster.visibility.server import ServerVisibility
from cluster.visibility.server_query import ServerTranslator
from cluster.visibility.server_rows import RUNS, VALUES, delete_statements, literal, run_key
from tests.services.proxy import Mode, TcpProxy, tcp_proxy
from tests.visibility.rows import DAY_ONE, NAMESPACE, SCHEMA, SECOND_NS, attributes, ids, row
from tests.visibility.servers import VisibilityDatabase


@pytest_asyncio.fixture
async def proxy(database: VisibilityDatabase) -> AsyncIterator[TcpProxy]:
    async with tcp_proxy(database.server.port) as opened:
        yield opened


async def _orphan_count(database: VisibilityDatabase) -> int:
    """Values that belong to no stored row as it is now."""
    async with database.session() as session:
        found = await session.run(
            f"SELECT count(*) FROM {VALUES} v LEFT JOIN {RUNS} r ON r.run_key = v.run_key AND r.stamp = v.stamp "
            "WHERE r.run_key IS NULL"
        )
    return int(found[0][0])


def _versions(number: int) -> list[VisibilityRow]:
    """What a run shows from journal position to journal position: each time other values."""
    return [
        row(
            f"w{number}",
            position=position,
            status=1 if position < 5 else 2,
            close_time=None if position < 5 else DAY_ONE + number * SECOND_NS,
            search_attributes=attributes(
                CustomerId=f"c{position}",
                Tags=[f"t{tag}" for tag in range(position % 4)],
                **({"Amount": 1} if position % 2 else {}),
            ),
        )
        for position in range(1, 7)
    ]


# --- several nodes ----------------------------------------------------------------------------------------------------
async def test_two_nodes_that_write_the_same_runs_in_any_order_end_with_the_newest_rows(database: VisibilityDatabase) -> None:
    draw = random.Random(7)
    everything = [version for number in range(40) for version in _versions(number)]
    oracle = MemoryVisibility()
    await oracle.upsert(everything)
    async with database.opened(writers_count_max=4) as one, database.opened(writers_count_max=4) as other:
        for _ in range(3):
            batches = []
            for store in (one, other):
                shuffled = draw.sample(everything, len(everything))
                batches += [store.upsert(shuffled[first : first + 60]) for first in range(0, len(shuffled), 60)]
            await asyncio.gather(*batches)
        for text in ("", "CustomerId = 'c6'", "CustomerId != 'c6'", "Tags = 't1'", "Amount = 1", "ORDER BY CustomerId DESC"):
            query = parse_query(text, SCHEMA)
            assert await other.list(NAMESPACE, query, 1_000, b"") == await oracle.list(NAMESPACE, query, 1_000, b"")
    assert await _orphan_count(database) == 0
    assert await database.value_count() == 40 * 3  # of position 6: a customer and two tags


async def test_rows_that_are_written_and_deleted_at_once_are_whole_or_gone(database: VisibilityDatabase) -> None:
    async with database.opened(writers_count_max=4) as one, database.opened(writers_count_max=4) as other:
        rows = [_versions(number)[5] for number in range(30)]
        for _ in range(10):
            keys = [each.key for each in rows]
            writes = [one.upsert(rows), other.upsert(rows[::-1])]
            await asyncio.gather(*writes, one.delete(keys), other.delete(keys[::-1]))
            assert sorted(await ids(one, "")) == sorted(await ids(one, "CustomerId = 'c6' AND Tags = 't0' AND Tags = 't1'"))
    assert await _orphan_count(database) == 0


async def test_a_run_that_is_written_in_the_middle_of_its_deletion_keeps_its_values(database: VisibilityDatabase) -> None:
    written = row("w", search_attributes=attributes(CustomerId="c"))
    async with database.opened() as store, database.session() as session:
        runs, values = delete_statements([written.key], store.dialect)
        await session.run("BEGIN")
        await session.run(runs)
        await store.upsert([written])
        await session.run(values)
        await session.run("COMMIT")
        assert await ids(store, "CustomerId = 'c'") == ["w"]
        await store.delete([written.key])
    assert await database.value_count() == 0


async def test_a_write_that_a_deadlock_ends_is_repeated(database: VisibilityDatabase) -> None:
    """A session of ours holds the run that the store locks second and asks for the one that it has locked first."""
    first, second = sorted((row("a"), row("b")), key=lambda each: run_key(each.key))
    async with database.opened() as store, database.session() as session, database.session() as watcher:
        await store.upsert([first, second])
        dialect = store.dialect
        places = [literal(run_key(each.key), dialect) for each in (first, second)]
        update = f"UPDATE {RUNS} SET history_length = history_length + 1 WHERE run_key = "
        await session.run("BEGIN")
        # More work than the store has done by then: MariaDB ends the transaction that has less to take back.
        for _ in range(20):
            await session.run(update + places[1])
        write = asyncio.create_task(
            store.upsert([msgspec.structs.replace(each, position=2, status=2) for each in (first, second)])
        )
        await _until_one_waits(database, watcher)
        try:
            await session.run(update + places[0])
            await session.run("COMMIT")
        except Exception as chosen:  # then it was our session that was ended, and the store's write went through
            assert "eadlock" in str(chosen)
            await session.run("ROLLBACK")
        await write
        assert sorted(await ids(store, "ExecutionStatus = 'Completed'")) == ["a", "b"]


async def _until_one_waits(database: VisibilityDatabase, watcher: object) -> None:
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        if database.kind == "postgres"
        else "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
    )
    async with asyncio.timeout(10):
        while (await watcher.run(waiting))[0][0] == 0:  # type: ignore[attr-defined]
            await asyncio.sleep(0.2)  # MariaDB shows the same for 0.1 s, and goes on doing so while it is asked


async def test_a_row_that_comes_again_writes_no_values(database: VisibilityDatabase) -> None:
    """Seen from within: the values' rows are the same physical ones, though other columns changed."""
    async with database.opened() as store:
        known = row("w", search_attributes=attributes(CustomerId="c", Tags=["a", "b"]))
        await store.upsert([known])
        async with database.session() as session:
            seen = "xmin, ctid" if database.kind == "postgres" else "stamp, value_no"
            before = await session.run(f"SELECT {seen} FROM {VALUES} ORDER BY head")
            await store.upsert([known, msgspec.structs.replace(known, position=2, history_length=9)])
            assert await session.run(f"SELECT {seen} FROM {VALUES} ORDER BY head") == before and len(before) == 3
        assert await ids(store, "HistoryLength = 9 AND Tags = 'b'") == ["w"]


# --- trouble ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["lose_requests", "lose_answers", "silent", "deaf"])
async def test_an_outage_is_told_soon_and_a_repeated_write_is_written_once(
    database: VisibilityDatabase, proxy: TcpProxy, mode: Mode
) -> None:
    async with database.opened(proxy.port, statement_timeout_s=0.5, connect_timeout_s=0.5) as store:
        await store.upsert([row("before", search_attributes=attributes(CustomerId="c"))])
        proxy.mode = mode
        began = time.monotonic()
        with pytest.raises(VisibilityUnavailable):
            await store.upsert([row("w", search_attributes=attributes(CustomerId="c"))])
        with pytest.raises(VisibilityUnavailable):
            await ids(store, "CustomerId = 'c'")
        with pytest.raises(VisibilityUnavailable):
            await store.delete([row("before").key])
        assert time.monotonic() - began < 10
        proxy.mode = "pass"
        proxy.cut()
        await _until_it_answers(store)
        await store.upsert([row("w", search_attributes=attributes(CustomerId="c"))])
        await store.delete([row("before").key])
        assert await ids(store, "CustomerId = 'c'") == ["w"]
    assert await database.value_count() == 1


async def _until_it_answers(store: ServerVisibility) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await store.count(NAMESPACE, parse_query("", SCHEMA))
                return
            except VisibilityUnavailable:
                await asyncio.sleep(0.05)


async def test_what_was_acknowledged_is_there_after_the_server_was_killed(database: VisibilityDatabase) -> None:
    acknowledged: list[str] = []
    failed = asyncio.Event()

    async def write(store: ServerVisibility) -> None:
        while not failed.is_set():
            name = f"w{len(acknowledged)}"
            try:
                await store.upsert([row(name, search_attributes=attributes(CustomerId="c"))])
                acknowledged.append(name)
            except VisibilityUnavailable:
                failed.set()

    async with database.opened(connect_timeout_s=2) as store:
        writing = asyncio.create_task(write(store))
        async with asyncio.timeout(30):
            while len(acknowledged) < 50:
                await asyncio.sleep(0.005)
        database.server.kill()
        await writing
        with pytest.raises(VisibilityUnavailable):
            await database.visibility(connect_timeout_s=1).open()
        with pytest.raises(VisibilityUnavailable):
            await ids(store, "")
        await asyncio.to_thread(database.server.start)
        await _until_it_answers(store)
        assert set(acknowledged) <= set(await ids(store, "CustomerId = 'c'"))
        await store.upsert([row("after")])
        assert "after" in await ids(store, "")
    assert await _orphan_count(database) == 0


async def test_a_slow_list_is_refused_a_slow_write_is_unavailable_and_both_work_afterwards(database: VisibilityDatabase) -> None:
    async with database.opened(statement_timeout_s=1.0) as store, database.session() as session:
        await store.upsert([row("w")])
        if database.kind == "postgres":
            await session.run("BEGIN")
            await session.run(f"LOCK TABLE {RUNS} IN ACCESS EXCLUSIVE MODE")
        else:
            await session.run(f"LOCK TABLES {RUNS} WRITE")
        listing, writing = await asyncio.gather(ids(store, ""), store.upsert([row("later")]), return_exceptions=True)
        assert isinstance(listing, CallerError) and listing.code is Code.RESOURCE_EXHAUSTED
        assert isinstance(writing, VisibilityUnavailable)
        await session.run("ROLLBACK" if database.kind == "postgres" else "UNLOCK TABLES")
        await store.upsert([row("later", position=2)])
        assert sorted(await ids(store, "")) == ["later", "w"]


async def test_more_lists_than_connections_wait_their_turn_and_writes_go_on_beside(database: VisibilityDatabase) -> None:
    async with database.opened(connections_count_max=3, writers_count_max=1) as store:
        await store.upsert([row(f"w{number}") for number in range(200)])
        reads = [ids(store, "TaskQueue = 'payments'", page_size=50) for _ in range(40)]
        writes = [store.upsert([row(f"w{number}", position=2)]) for number in range(40)]
        answers, _ = await asyncio.gather(asyncio.gather(*reads), asyncio.gather(*writes))
        assert all(len(found) == 200 for found in answers)


async def test_a_closed_visibility_is_unavailable(database: VisibilityDatabase) -> None:
    store = database.visibility()
    await store.open()
    await store.close()
    for call in (store.upsert([row("w")]), store.delete([row("w").key]), ids(store, "")):
        with pytest.raises(VisibilityUnavailable, match="not open"):
            await call


# --- plans ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "",
        "ExecutionStatus = 'Completed'",
        "CustomerId = 'big'",
        "CustomerId = 'big' AND Tags = 'all' AND CloseTime > '2024-01-01T00:00:10Z'",
        "Tags = 'all' OR Amount > 5",
        "WorkflowId = 'w7'",
        "RunId = 'run-w7' AND CustomerId != 'small'",
    ],
)
async def test_a_page_in_the_order_of_lists_is_read_from_an_index_and_never_sorted(
    database: VisibilityDatabase, text: str
) -> None:
    """However many runs match, and whatever the server thinks of how many they are: it would sort the last two."""
    rows = [
        row(
            f"w{number}",
            status=2,
            start_time=DAY_ONE + number * SECOND_NS,
            close_time=DAY_ONE + (number + 9) * SECOND_NS,
            search_attributes=attributes(CustomerId="big" if number % 3 else "small", Tags=["all"], Amount=number % 10),
        )
        for number in range(600)
    ]
    async with database.opened() as store:
        await store.upsert(rows)
        query = parse_query(text, SCHEMA)
        place = (DAY_ONE + 300 * SECOND_NS, DAY_ONE + 291 * SECOND_NS, "r", "w")
        for at in (None, place):
            statement = ServerTranslator(NAMESPACE, query, store.dialect).list_statement(at, 51, None)
            statement.text = "EXPLAIN " + statement.text
            plan = "\n".join(str(tuple(line)) for line in await store._fetch(statement))
            assert "Sort" not in plan and "filesort" not in plan and "Using temporary" not in plan, plan
            assert "outlast_visibility_by_" in plan, plan
