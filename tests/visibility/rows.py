"""Rows, attributes and stores for the tests of visibility."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from cluster.visibility.base import VisibilityRow, VisibilityStore
from cluster.visibility.memory import MemoryVisibility
from cluster.visibility.query import parse_query
from cluster.visibility.search_attributes import AttributeType, Schema, encode_value
from cluster.visibility.sqlite import SqliteVisibility

NAMESPACE = "ns-1"
SECOND_NS = 1_000_000_000
# 2024-01-01T00:00:00Z
DAY_ONE = 1_704_067_200 * SECOND_NS

CUSTOM = {
    "CustomerId": AttributeType.KEYWORD,
    "Note": AttributeType.TEXT,
    "Amount": AttributeType.INT,
    "Rate": AttributeType.DOUBLE,
    "Urgent": AttributeType.BOOL,
    "Due": AttributeType.DATETIME,
    "Tags": AttributeType.KEYWORD_LIST,
}
SCHEMA = Schema(CUSTOM)


def attributes(**values: Any) -> dict[str, bytes]:
    return {
        name: encode_value(value, SCHEMA.stored_type_of(name) or AttributeType.KEYWORD).SerializeToString()
        for name, value in values.items()
    }


def row(workflow_id: str, **changes: Any) -> VisibilityRow:
    known: dict[str, Any] = {
        "namespace_id": NAMESPACE,
        "workflow_id": workflow_id,
        "run_id": f"run-{workflow_id}",
        "workflow_type": "Transfer",
        "status": 1,
        "start_time": DAY_ONE,
        "position": 1,
        "task_queue": "payments",
    }
    return VisibilityRow(**(known | changes))


@contextlib.asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[VisibilityStore]:
    """memory, sqlite (a file) or sqlite-memory."""
    store: VisibilityStore = MemoryVisibility()
    if kind != "memory":
        store = SqliteVisibility(":memory:" if kind == "sqlite-memory" else str(folder / "visibility.db"))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def ids(store: VisibilityStore, text: str, page_size: int = 1000, namespace: str = NAMESPACE) -> list[str]:
    """Workflow ids of all pages."""
    query, token, found = parse_query(text, SCHEMA), b"", []
    while True:
        page, token = await store.list(namespace, query, page_size, token)
        found += [one.workflow_id for one in page]
        if not token:
            return found
