"""Measures visibility: `python -m tests.visibility.measure_queries [sqlite|postgres|mariadb] [rows]`. Not a test; prints a table.

Medians of five calls. Statistics are what the server has gathered by itself by then.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec

from cluster.visibility.base import VisibilityRow, VisibilityStore
from cluster.visibility.query import parse_query
from cluster.visibility.sqlite import SqliteVisibility
from tests.services.mariadb import mariadb_server
from tests.services.postgres import postgres_server
from tests.visibility.rows import DAY_ONE, NAMESPACE, SCHEMA, SECOND_NS, attributes, row
from tests.visibility.servers import VisibilityDatabase

_BATCH = 500  # as the visibility feed writes
_WINDOW = "CloseTime BETWEEN '2024-01-01T10:00:00Z' AND '2024-01-01T20:00:00Z'"
_QUERIES = [
    "",
    "ExecutionStatus = 'Running'",
    "WorkflowId = 'w777'",
    f"CustomerId = 'c77' AND ExecutionStatus = 'Failed' AND {_WINDOW}",
    f"CustomerId = 'big' AND ExecutionStatus = 'Failed' AND {_WINDOW}",
    "CustomerId = 'nobody'",
    "Tags = 'all'",
    "Amount > 99990",
    "Amount > 10",
    "Note = 'word7'",
    "WorkflowType = 'Refund' AND Amount BETWEEN 5 AND 6",
    "StartTime > '2024-01-01T20:00:00Z' AND CustomerId = 'big'",
    "CustomerId != 'big' ORDER BY StartTime DESC",
    "CustomerId = 'big' AND Amount = 3 AND Urgent = true",
    "WorkflowId STARTS_WITH 'w12345'",
]


def _row(number: int, draw: random.Random) -> VisibilityRow:
    start = DAY_ONE + number * SECOND_NS // 2
    is_open = draw.random() < 0.1
    return row(
        f"w{number}",
        workflow_type=draw.choice(["Transfer", "Transfer", "Refund"]),
        status=1 if is_open else 3 if draw.random() < 0.02 else 2,
        start_time=start,
        close_time=None if is_open else start + draw.randrange(60) * SECOND_NS,
        memo=b"m" * 50,
        search_attributes=attributes(
            CustomerId="big" if draw.random() < 0.3 else f"c{draw.randrange(5_000)}",
            Amount=draw.randrange(100_000),
            Urgent=draw.random() < 0.5,
            Note=f"word{draw.randrange(1000)} paid",
            Tags=["all", f"t{draw.randrange(100)}"],
        ),
    )


@asynccontextmanager
async def _opened(engine: str) -> AsyncIterator[VisibilityStore]:
    async with AsyncExitStack() as stack:
        if engine == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            store: VisibilityStore = SqliteVisibility(str(Path(folder) / "visibility.db"), read_limit_s=60)
            await store.open()
            stack.push_async_callback(store.close)
        else:
            if engine == "postgres":
                database = VisibilityDatabase(stack.enter_context(postgres_server()), "postgres")
            else:
                database = VisibilityDatabase(stack.enter_context(mariadb_server()), "test")
                async with database.session() as session:  # the tests' 64 MB hold a third of this, and the rest is read from disk
                    await session.run("SET GLOBAL innodb_buffer_pool_size = 536870912")
            await database.upgrade()
            store = await stack.enter_async_context(database.opened(statement_timeout_s=60))
        yield store


async def _fill(store: VisibilityStore, count: int) -> None:
    """Each run is written twice, as it starts and as it is, like the runs of a server."""
    draw = random.Random(1)
    spent = 0.0
    for first in range(0, count, _BATCH):
        batch = [_row(number, draw) for number in range(first, min(count, first + _BATCH))]
        started = [msgspec.structs.replace(one, status=1, close_time=None, position=0) for one in batch]
        began = time.perf_counter()
        await store.upsert(started)
        await store.upsert(batch)
        spent += time.perf_counter() - began
    print(f"{count} runs written twice: {2 * count / spent:.0f} upserts per second")


async def _median_ms(call: Callable[[], Awaitable[object]]) -> float:
    spent = []
    for _ in range(5):
        began = time.perf_counter()
        await call()
        spent.append((time.perf_counter() - began) * 1e3)
    return statistics.median(spent)


async def measure(engine: str, count: int) -> None:
    async with _opened(engine) as store:
        await _fill(store, count)
        for text in [*_QUERIES, "GROUP BY ExecutionStatus", "CustomerId = 'big' GROUP BY ExecutionStatus"]:
            query = parse_query(text, SCHEMA)
            if query.group_by is None:
                rows, token = await store.list(NAMESPACE, query, 100, b"")
                first_ms = await _median_ms(partial(store.list, NAMESPACE, query, 100, b""))
                second_ms = await _median_ms(partial(store.list, NAMESPACE, query, 100, token)) if token else 0.0
                print(f"list  {first_ms:8.2f} ms, next page {second_ms:8.2f} ms, {len(rows):4} rows  {text}")
            counted = await store.count(NAMESPACE, query)
            print(f"count {await _median_ms(partial(store.count, NAMESPACE, query)):8.2f} ms  {counted.total:7}  {text}")


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "sqlite"
    asyncio.run(measure(chosen, int(sys.argv[2]) if len(sys.argv) > 2 else 100_000))
