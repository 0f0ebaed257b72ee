"""Measures SQLite visibility: `python -m tests.visibility.measure_queries [rows]`. Not a test; prints a table."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from cluster.visibility.base import VisibilityRow
from cluster.visibility.query import parse_query
from cluster.visibility.sqlite import SqliteVisibility
from tests.visibility.rows import DAY_ONE, NAMESPACE, SCHEMA, SECOND_NS, attributes, row

_BATCH = 1_000
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


async def measure(count: int) -> None:
    draw = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "visibility.db"
        store = SqliteVisibility(str(path), read_limit_s=60)
        await store.open()
        spent = 0.0
        for first in range(0, count, _BATCH):
            batch = [_row(number, draw) for number in range(first, min(count, first + _BATCH))]
            began = time.perf_counter()
            await store.upsert(batch)
            spent += time.perf_counter() - began
        print(f"{count} rows: {spent / count * 1e6:.0f} us and {path.stat().st_size / count:.0f} bytes per row")
        for text in [*_QUERIES, "GROUP BY ExecutionStatus", "CustomerId = 'big' GROUP BY ExecutionStatus"]:
            query = parse_query(text, SCHEMA)
            if query.group_by is None:
                began = time.perf_counter()
                rows, token = await store.list(NAMESPACE, query, 100, b"")
                first_ms = (time.perf_counter() - began) * 1e3
                began = time.perf_counter()
                if token:
                    await store.list(NAMESPACE, query, 100, token)
                second_ms = (time.perf_counter() - began) * 1e3
                print(f"list  {first_ms:8.2f} ms, next page {second_ms:8.2f} ms, {len(rows):4} rows  {text}")
            began = time.perf_counter()
            counted = await store.count(NAMESPACE, query)
            print(f"count {(time.perf_counter() - began) * 1e3:8.2f} ms  {counted.total:7}  {text}")
        await store.close()


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000))
