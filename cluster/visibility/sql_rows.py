"""A run's columns as every SQL engine names them, and back to a row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cluster.visibility.base import STILL_OPEN, VisibilityRow

# In the order in which `row_of_columns` reads them.
COLUMNS = (
    "workflow_id", "run_id", "workflow_type", "status", "start_at", "position", "execution_at", "close_at", "history_length",
    "history_bytes", "transition_count", "task_queue", "parent_workflow_id", "parent_run_id", "root_workflow_id", "root_run_id",
    "memo", "attributes",
)  # fmt: skip
SELECTED = ", ".join(f"r.{column}" for column in COLUMNS)


def row_of_columns(namespace_id: str, found: Iterable[Any], attributes: dict[str, bytes]) -> VisibilityRow:
    """`found` begins with COLUMNS, texts as texts; `attributes` is the last of them, decoded."""
    columns = iter(found)
    return VisibilityRow(
        namespace_id=namespace_id,
        workflow_id=next(columns),
        run_id=next(columns),
        workflow_type=next(columns) or "",
        status=next(columns),
        start_time=next(columns),
        position=next(columns),
        execution_time=next(columns),
        close_time=None if (close_at := next(columns)) == STILL_OPEN else close_at,
        history_length=next(columns),
        history_size_bytes=next(columns),
        state_transition_count=next(columns),
        task_queue=next(columns) or "",
        parent_workflow_id=next(columns),
        parent_run_id=next(columns),
        root_workflow_id=next(columns),
        root_run_id=next(columns),
        memo=next(columns),
        search_attributes=attributes,
    )


def close_at_of(row: VisibilityRow) -> int:
    return STILL_OPEN if row.close_time is None else row.close_time
