"""The visibility contract: what lists and counts runs, apart from the store that keeps them.

Visibility is a view. A shard writes a run's row after the run's own state is durable, and repeats the write until it
succeeds, so an outage of visibility delays lists and stops no workflow. A row carries the journal position it was made at:
an older row never replaces a newer one, whatever the order in which they arrive.

Every engine answers the same: rows ordered by ORDER BY (runs without the attribute last) and then open runs first, latest
close first, latest start first, run id, workflow id. Pages are keysets: a page token holds the place of the last row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import msgspec

from cluster.core.errors import CallerError, invalid_argument
from cluster.stores.base import RunKey
from cluster.visibility.expressions import Attribute, Query
from cluster.visibility.search_attributes import INT64_MAX, INT64_MIN, AttributeType

# The close time that open runs sort by.
STILL_OPEN = INT64_MAX


class VisibilityUnavailable(Exception):
    """Nothing can be read or was written now; the call may be repeated."""


class VisibilityRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Times are ns since the epoch. memo is a serialized temporal.api.common.v1.Memo; each search attribute is a
    serialized Payload with its type in the metadata. position is the shard's journal position of the state it shows."""

    namespace_id: str
    workflow_id: str
    run_id: str
    workflow_type: str
    status: int
    start_time: int
    position: int
    execution_time: int | None = None
    close_time: int | None = None
    history_length: int = 0
    history_size_bytes: int = 0
    state_transition_count: int = 0
    task_queue: str = ""
    parent_workflow_id: str | None = None
    parent_run_id: str | None = None
    root_workflow_id: str | None = None
    root_run_id: str | None = None
    memo: bytes = b""
    search_attributes: dict[str, bytes] = {}

    @property
    def key(self) -> RunKey:
        return RunKey(self.namespace_id, self.workflow_id, self.run_id)


class CountGroup(msgspec.Struct, frozen=True):
    """Runs that share a value of the GROUP BY attribute; None = they have none. ExecutionStatus is its number."""

    value: str | int | None
    count: int


class VisibilityCount(msgspec.Struct, frozen=True):
    """Groups are the largest ones, largest first, at most GROUPS_MAX; total counts all runs."""

    total: int
    groups: tuple[CountGroup, ...] = ()


GROUPS_MAX = 1_000


class VisibilityStore(Protocol):
    """Reads raise CallerError for a bad page token or a query that takes too long; all calls may raise
    VisibilityUnavailable."""

    kind: str

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def upsert(self, rows: Sequence[VisibilityRow]) -> None:
        """Writes rows, leaving out those older than what is stored. All or none, but that an engine may write more than a few
        MiB in parts: then some may be written when this raises. Repeating is harmless."""
        ...

    async def delete(self, keys: Sequence[RunKey]) -> None:
        """Removes runs; unknown ones are no error."""
        ...

    async def list(
        self, namespace_id: str, query: Query, page_size: int, page_token: bytes
    ) -> tuple[list[VisibilityRow], bytes]:
        """At most page_size rows and the token of the next page, empty after the last one. GROUP BY is refused."""
        ...

    async def count(self, namespace_id: str, query: Query) -> VisibilityCount: ...


# --- what an attribute of the system is ---------------------------------------------------------------------------------
def system_value(row: VisibilityRow, name: str) -> str | int | None:
    """The value of a system search attribute; an empty text counts as none."""
    match name:
        case "WorkflowId":
            return row.workflow_id
        case "RunId":
            return row.run_id
        case "WorkflowType":
            return row.workflow_type or None
        case "ExecutionStatus":
            return row.status
        case "StartTime":
            return row.start_time
        case "ExecutionTime":
            return execution_time_of(row)
        case "CloseTime":
            return row.close_time
        case "ExecutionDuration":
            return None if row.close_time is None else row.close_time - execution_time_of(row)
        case "TaskQueue":
            return row.task_queue or None
        case "HistoryLength":
            return row.history_length
        case "HistorySizeBytes":
            return row.history_size_bytes
        case "StateTransitionCount":
            return row.state_transition_count
        case "ParentWorkflowId":
            return row.parent_workflow_id or None
        case "ParentRunId":
            return row.parent_run_id or None
        case "RootWorkflowId":
            return row.root_workflow_id or None
        case "RootRunId":
            return row.root_run_id or None
    raise KeyError(name)


def execution_time_of(row: VisibilityRow) -> int:
    """When the first workflow task is due: later than the start for cron, retries and delayed starts."""
    return row.start_time if row.execution_time is None else row.execution_time


def as_stored(row: VisibilityRow) -> VisibilityRow:
    """The row as every engine gives it back: with its execution time, and None for an empty parent or root."""
    return msgspec.structs.replace(
        row,
        execution_time=execution_time_of(row),
        parent_workflow_id=row.parent_workflow_id or None,
        parent_run_id=row.parent_run_id or None,
        root_workflow_id=row.root_workflow_id or None,
        root_run_id=row.root_run_id or None,
    )


# --- page tokens ----------------------------------------------------------------------------------------------------------
SortValue = str | int | float | None
_TOKEN_VERSION = 1
_DIGEST_BYTES = 12


def _digest(namespace_id: str, query: Query, body: bytes) -> bytes:
    bound = msgspec.msgpack.encode((namespace_id, query.text, body))
    return hashlib.blake2b(bound, digest_size=_DIGEST_BYTES).digest()


def encode_page_token(namespace_id: str, query: Query, place: Sequence[SortValue]) -> bytes:
    """Opaque to callers. The digest finds a token that is damaged or belongs to another query or namespace; that a token
    was not forged is for the frontend's signature to say, and a forged place shows nothing the query would not."""
    body = msgspec.msgpack.encode((_TOKEN_VERSION, tuple(place)))
    return _digest(namespace_id, query, body) + body


def decode_page_token(namespace_id: str, query: Query, token: bytes) -> tuple[SortValue, ...] | None:
    """The place after which the page begins, None for the first page. Raises CallerError INVALID_ARGUMENT."""
    if not token:
        return None
    digest, body = token[:_DIGEST_BYTES], token[_DIGEST_BYTES:]
    if digest != _digest(namespace_id, query, body):
        raise _bad_token()
    try:
        version, place = msgspec.msgpack.decode(body, type=tuple[int, tuple[SortValue, ...]])
    except (msgspec.DecodeError, msgspec.ValidationError) as broken:
        raise _bad_token() from broken
    types = [_sort_type(order.attribute) for order in query.order_by] + [int, int, str, str]
    if version != _TOKEN_VERSION or len(place) != len(types):
        raise _bad_token()
    for at, (value, wanted) in enumerate(zip(place, types, strict=True)):
        fits = at < len(query.order_by) if value is None else type(value) is wanted and value == value  # not NaN
        if not fits or (isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX):
            raise _bad_token()
    return place


def _sort_type(attribute: Attribute) -> type:
    if attribute.kind is AttributeType.KEYWORD and attribute.name != "ExecutionStatus":
        return str
    return float if attribute.kind is AttributeType.DOUBLE else int


def _bad_token() -> CallerError:
    return invalid_argument("Invalid NextPageToken.")


def check_list(query: Query, page_size: int) -> None:
    """Refuses what a list cannot answer."""
    if query.group_by is not None:
        raise invalid_argument("invalid query: operation is not supported: 'GROUP BY' clause")
    if page_size < 1:
        raise invalid_argument("PageSize must be positive.")
