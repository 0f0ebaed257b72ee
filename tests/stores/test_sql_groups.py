"""How appends become groups, how connections are shared, and that no statement reads more than it returns."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence

import pytest

from cluster.stores import mysql_statements, postgres_statements
from cluster.stores.base import Lease, LeaseLost, ShardId, StoreUnavailable, StoreUnknown
from cluster.stores.sql_groups import GROUP_BYTES_MAX, GROUP_RECORDS_MAX, AppendLanes, Run, _Waiting, take_group
from cluster.stores.sql_pool import Pool
from cluster.stores.sql_statements import READS, WRITES, compiled
from tests.stores.rows import SHARD, key, row
from tests.stores.servers import Database


def _lease(shard: int, range_id: int = 1) -> Lease:
    return Lease(ShardId(shard), range_id, "a")


def _waiting(*appends: tuple[int, int, int, bytes]) -> deque[_Waiting]:
    loop = asyncio.get_running_loop()
    return deque(_Waiting(_lease(shard, held), position, data, loop.create_future()) for shard, held, position, data in appends)


def _shape(runs: Sequence[Run]) -> list[tuple[int, int, int, int]]:
    return [(run.shard, run.range_id, run.first_position, len(run.records)) for run in runs]


async def test_consecutive_records_of_a_shard_are_one_run_and_others_wait_for_the_next_group() -> None:
    waiting = _waiting((1, 1, 5, b""), (2, 1, 1, b""), (1, 1, 6, b""), (1, 1, 9, b""), (2, 1, 2, b""))
    assert _shape(take_group(waiting)) == [(1, 1, 5, 2), (2, 1, 1, 1)]
    assert _shape(take_group(waiting)) == [(1, 1, 9, 1), (2, 1, 2, 1)]
    waiting = _waiting((1, 1, 5, b""), (1, 2, 6, b""))
    assert _shape(take_group(waiting)) == [(1, 1, 5, 1)], "another lease is another run"


async def test_a_group_is_bounded_in_records_and_bytes_and_never_empty() -> None:
    waiting = _waiting(*((1, 1, n, b"") for n in range(GROUP_RECORDS_MAX + 1)))
    assert [len(take_group(waiting)[0].records), len(waiting)] == [GROUP_RECORDS_MAX, 1]
    waiting = _waiting((1, 1, 1, b"x" * (GROUP_BYTES_MAX + 1)), (2, 1, 1, b"x"))
    assert _shape(take_group(waiting)) == [(1, 1, 1, 1)]
    waiting = _waiting((1, 1, 1, b"x" * (GROUP_BYTES_MAX - 1)), (2, 1, 1, b"x"), (3, 1, 1, b"x"))
    assert _shape(take_group(waiting)) == [(1, 1, 1, 1), (2, 1, 1, 1)]


async def test_each_append_gets_its_own_outcome_and_the_lane_goes_on_after_an_error() -> None:
    groups: list[list[tuple[int, int, int, int]]] = []
    outcomes: list[set[int] | Exception] = [{1}, StoreUnknown("cut"), StoreUnavailable("down"), {1, 2}]

    async def write(runs: Sequence[Run]) -> set[int]:
        groups.append(_shape(runs))
        await asyncio.sleep(0)
        outcome = outcomes[len(groups) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    lanes = AppendLanes(write, 1)
    first = await asyncio.gather(lanes.submit(_lease(1), 1, b""), lanes.submit(_lease(2), 1, b""), return_exceptions=True)
    assert [type(outcome) for outcome in first] == [type(None), LeaseLost]
    for expected in (StoreUnknown, StoreUnavailable):
        pair = await asyncio.gather(lanes.submit(_lease(1), 2, b""), lanes.submit(_lease(2), 2, b""), return_exceptions=True)
        assert [type(outcome) for outcome in pair] == [expected, expected]
        assert pair[0] is not pair[1]
    await asyncio.gather(lanes.submit(_lease(1), 2, b""), lanes.submit(_lease(2), 1, b""))
    assert [len(group) for group in groups] == [2, 2, 2, 2], "appends of one moment are one group"


async def test_a_cancelled_append_leaves_the_others_of_its_group_alone() -> None:
    under_way = asyncio.Event()

    async def write(runs: Sequence[Run]) -> set[int]:
        await under_way.wait()
        return {run.shard for run in runs}

    lanes = AppendLanes(write, 1)
    first, second = lanes.submit(_lease(1), 1, b""), lanes.submit(_lease(2), 1, b"")
    await asyncio.sleep(0)
    first.cancel()
    under_way.set()
    await second
    assert first.cancelled()


class _Connection:
    def __init__(self) -> None:
        self.closed = False

    def is_closed(self) -> bool:
        return self.closed

    def terminate(self) -> None:
        self.closed = True

    async def close(self) -> None:
        self.closed = True


def _pool(size_max: int, wait_timeout_s: float = 0.05) -> tuple[Pool[_Connection], list[_Connection]]:
    made: list[_Connection] = []

    async def connect() -> _Connection:
        await asyncio.sleep(0)
        made.append(_Connection())
        return made[-1]

    pool: Pool[_Connection] = Pool(connect, size_max, wait_timeout_s, 1.0)
    pool.open()
    return pool, made


async def test_a_pool_makes_no_more_than_its_size_and_serves_in_turn() -> None:
    pool, made = _pool(2, wait_timeout_s=5)
    order: list[int] = []

    async def use(number: int) -> None:
        connection = await pool.acquire()
        order.append(number)
        await asyncio.sleep(0)
        pool.release(connection)

    await asyncio.gather(*(use(number) for number in range(50)))
    assert (len(made), pool.size, sorted(order)) == (2, 2, list(range(50)))


async def test_a_broken_connection_takes_the_idle_ones_with_it_and_its_place_is_free_again() -> None:
    pool, made = _pool(2)
    one, two = await pool.acquire(), await pool.acquire()
    pool.release(one)
    pool.release(two, is_usable=False)
    assert (one.closed, two.closed, pool.size) == (True, True, 0)
    three = await pool.acquire()
    assert three is made[2]
    pool.release(three)
    three.closed = True  # closed by the server while idle
    assert await pool.acquire() is made[3]


async def test_who_waits_too_long_is_told_and_takes_no_place() -> None:
    pool, _ = _pool(1)
    held = await pool.acquire()
    with pytest.raises(StoreUnavailable, match="were busy"):
        await pool.acquire()
    waiting = asyncio.ensure_future(pool.acquire())
    await asyncio.sleep(0)
    waiting.cancel()
    pool.release(held)
    assert await pool.acquire() is held


async def test_a_failed_connect_gives_its_place_to_who_waits() -> None:
    attempts = 0

    async def connect() -> _Connection:
        nonlocal attempts
        attempts += 1
        await asyncio.sleep(0)
        if attempts == 1:
            raise StoreUnavailable("refused")
        return _Connection()

    pool: Pool[_Connection] = Pool(connect, 1, 5.0, 1.0)
    pool.open()
    first, second = await asyncio.gather(pool.acquire(), pool.acquire(), return_exceptions=True)
    assert isinstance(first, StoreUnavailable) and isinstance(second, _Connection)


async def test_a_closing_pool_waits_for_who_is_at_work_and_turns_the_others_away() -> None:
    pool, _ = _pool(1, wait_timeout_s=5)
    held = await pool.acquire()
    waiting = asyncio.ensure_future(pool.acquire())
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(pool.close(5.0))
    with pytest.raises(StoreUnavailable, match="not open"):
        await waiting
    assert (closing.done(), held.closed) == (False, False)
    pool.release(held)
    await closing
    assert (held.closed, pool.size) == (True, 0)


def test_a_comparison_of_rows_is_spelled_out_for_mysql() -> None:
    template = "SELECT 1 WHERE {behind:a=x,b=y} AND c::bigint > :x"
    assert compiled(template, "postgres").text == "SELECT 1 WHERE (a, b) > ($1, $2) AND c::bigint > $1"
    spelled = compiled(template, "mysql")
    assert spelled.text == "SELECT 1 WHERE ((a = ? AND b > ?) OR (a > ?)) AND c::bigint > ?"
    assert spelled.names == ("x", "y", "x", "x")


EXPLAINED = [name for name in (*READS, *WRITES) if name not in ("metadata_list",)]  # that one returns its whole kind


@pytest.mark.parametrize("name", EXPLAINED)
async def test_no_statement_reads_a_table_from_end_to_end(database: Database, name: str) -> None:
    """Asked of the server itself, on tables large enough that it would rather not."""
    async with database.opened() as store:
        lease = await store.acquire(SHARD, "a")
        await asyncio.gather(*(store.append(lease, position, b"x") for position in range(1, 101)))
        rows = [row(key(f"run-{n}", workflow=f"w{n}"), wake_at=0, changed=n) for n in range(200)]
        await store.checkpoint(lease, rows, [], [], 0)
        named = {
            "shard": SHARD, "after": 10, "limit": 5, "until": 9, "wake_at": 0, "namespace_id": b"ns-a", "workflow_id": b"w5",
            "run_id": b"run-5", "branch": 0, "first": 1, "last": 9, "position": 7, "kind": b"k", "id": b"i", "version": 2,
            "expected_version": 1, "data": b"x", "above": 0, "up_to": 5,
        }  # fmt: skip
        statement = compiled({**READS, **WRITES}[name], "postgres" if database.kind == "postgres" else "mysql")
        connection = await store._others.acquire()  # type: ignore[attr-defined]
        if database.kind == "postgres":
            plan = "\n".join(r[0] for r in await connection.fetch(f"EXPLAIN {statement.text}", *statement.values(named)))
            assert "Seq Scan" not in plan and "Bitmap" not in plan, plan
            assert "Sort" not in plan or name == "history", plan
        else:
            result = await connection.execute(f"EXPLAIN {statement.text}", statement.values(named))
            # Columns of EXPLAIN: id, select_type, table, type, possible_keys, key, key_len, ref, rows, Extra.
            for explained in result.rows:
                assert explained[3] not in ("ALL", "index"), explained
                assert "filesort" not in (explained[9] or ""), explained
        store._others.release(connection)  # type: ignore[attr-defined]


async def test_the_fenced_writes_find_their_shards_and_rows_by_index(database: Database) -> None:
    async with database.opened() as store:
        runs = [Run(shard, 1, 1, [b"x"]) for shard in range(30)]
        for shard in range(200):
            await store.acquire(ShardId(shard), "a")
        connection = await store._others.acquire()  # type: ignore[attr-defined]
        if database.kind == "postgres":
            own = postgres_statements
            for text in (own.APPEND, own.APPEND_GROUP, own.slice_statement(True, True)):
                nothing = re.sub(r"\$\d+(::\w+)?", lambda found: f"NULL{found[1] or ''}", text)
                plan = "\n".join(found[0] for found in await connection.fetch(f"EXPLAIN {nothing}"))
                assert "Seq Scan" not in plan and "Bitmap" not in plan, plan
        else:
            text = mysql_statements.append_group(runs)[0].replace("INTO @held", "")
            explained = {found[2]: found[3] for found in await connection.query(f"EXPLAIN {text}")}
            assert explained["s"] == "eq_ref", "a scan of the shards would wait for the locks of others"
        store._others.release(connection)  # type: ignore[attr-defined]
