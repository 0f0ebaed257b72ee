"""The store contract: all that a database engine must do for Outlast, and its specification.

One shard of the journal has one writer at a time. The lease (`range_id`) is the fence: `acquire` raises the range id and
from then on every write under an older lease fails with `LeaseLost`, whatever its owner believes. Every write either is
durable when the call returns, or raises:

- `LeaseLost`: not written, and this owner may not write any more.
- `StoreUnknown`: may or may not have been written (time-out, connection lost at commit). The owner must acquire a new
  lease (which makes a late write of the old one impossible) and read the journal to find out.
- `StoreUnavailable`: certainly not written; the call may be repeated.

Positions of a shard's journal are dense: 1, 2, 3, ... without gaps, for ever (truncation removes a prefix, it does not
renumber). Engines store bytes and never look into them; what they index is given beside the bytes.

Stored bytes carry a checksum (`framing.py`). A damaged row hurts itself alone: reading it by name raises `CorruptRecord`,
and the calls that list rows pass over it, name it in `SnapshotRows.corrupt` and return the others.

Reads raise `StoreUnavailable` or `CorruptRecord`, never `StoreUnknown` or `LeaseLost`. `ValueError` means a breach of this
contract by the caller (a truncation beyond the end, a shard number out of range); nothing was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NewType, Protocol

import msgspec

NamespaceId = NewType("NamespaceId", str)
WorkflowId = NewType("WorkflowId", str)
RunId = NewType("RunId", str)
ShardId = NewType("ShardId", int)


class StoreError(Exception):
    """Base of what a store raises."""


class LeaseLost(StoreError):
    """Another owner acquired the shard; nothing was written."""


class StoreUnknown(StoreError):
    """The outcome of the write is not known."""


class StoreUnavailable(StoreError):
    """Nothing was written or read; try again."""


class StoreDamaged(StoreUnavailable):
    """The engine cannot read its own files; nothing was written or read, and only an operator's repair will help."""


class SchemaMismatch(StoreError):
    """The stored schema is of another version than this program; the message names the command to run."""


class CorruptRecord(StoreError):
    """Stored bytes fail their checksum; concerns the named row alone.

    key: the run, when a run's row or history is meant; position: of the journal record, when one is meant.
    """

    def __init__(self, message: str, *, key: RunKey | None = None, position: int | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.position = position


class Lease(msgspec.Struct, frozen=True):
    """The right to write one shard."""

    shard: ShardId
    range_id: int
    owner: str


class JournalRecord(msgspec.Struct, frozen=True):
    """One group of transitions, as appended."""

    position: int
    data: bytes


class RunKey(msgspec.Struct, frozen=True, order=True):
    """Names one run. Two namespaces never share a row."""

    namespace_id: str
    workflow_id: str
    run_id: str


class Snapshot(msgspec.Struct, frozen=True):
    """A run's row. `data` is opaque; the other fields are columns.

    wake_at: ns since the epoch when the run wants to be looked at; 0 = has outstanding effects (now); None = never.
    is_current: this run is the current one of its workflow id. An engine keeps one current pointer per
    (namespace_id, workflow_id); writing a snapshot with is_current moves the pointer to it, writing one without leaves
    the pointer where it is. On read, is_current says whether the pointer names this run now, whatever was written.
    changed_position: the journal position of the last change contained (for `changed`).
    """

    key: RunKey
    data: bytes
    is_current: bool
    is_open: bool
    wake_at: int | None
    changed_position: int


class SnapshotRows(list[Snapshot]):
    """What `due`, `changed` and `runs` return: the good rows, and the keys of the damaged ones met on the way.

    `limit` counts good rows, so a page shorter than its limit is always the last one. Damaged rows stay in the store, and are
    named again by later calls, until their run is deleted or written again.
    """

    __slots__ = ("corrupt",)

    def __init__(self, rows: Iterable[Snapshot] = (), corrupt: Iterable[RunKey] = ()) -> None:
        super().__init__(rows)
        self.corrupt: list[RunKey] = list(corrupt)


class HistoryBlob(msgspec.Struct, frozen=True):
    """A contiguous piece of one branch: events first..last inclusive, as framed bytes. Never overwritten with other bytes,
    but a repeated write of the same blob is harmless. Blobs of a branch are contiguous and do not overlap.

    A blob is named by its first event: a recovery that cuts the same events differently (11..15 before the crash, 11..18
    after) replaces it."""

    key: RunKey
    branch: int
    first_event_id: int
    last_event_id: int
    data: bytes


class MetadataRow(msgspec.Struct, frozen=True):
    """A row of the compare-and-swap registry. version counts up from 1 with each write."""

    kind: str
    id: str
    version: int
    data: bytes


class Store(Protocol):
    """See the module's text. `kind` is memory, sqlite, postgres, mysql or cassandra."""

    kind: str

    async def open(self) -> None:
        """Connects, and creates or checks the schema. Raises SchemaMismatch, StoreUnavailable."""
        ...

    async def close(self) -> None:
        """Finishes the writes already handed over. Calls after it raise StoreUnavailable (memory: it simply goes on)."""
        ...

    # --- shards -----------------------------------------------------------------------------------------------------
    async def acquire(self, shard: ShardId, owner: str) -> Lease:
        """Raises the shard's range id by one and returns the lease; fences every former owner."""
        ...

    async def append(self, lease: Lease, position: int, data: bytes) -> None:
        """Durable at return. `position` must be the last position + 1, else LeaseLost (a sign of a second writer)."""
        ...

    async def read_journal(self, shard: ShardId, after: int, limit: int = 1000) -> list[JournalRecord]:
        """Records with position > after, in order. After a truncation the first one may lie further on.

        A damaged or missing record raises CorruptRecord with its position; those before it can be read with a smaller limit.
        """
        ...

    async def journal_bounds(self, shard: ShardId) -> tuple[int, int]:
        """(truncated_to, last_position): records truncated_to+1 .. last_position exist. (0, 0) for a new shard."""
        ...

    async def checkpoint(
        self,
        lease: Lease,
        snapshots: Sequence[Snapshot],
        histories: Sequence[HistoryBlob],
        deletions: Sequence[RunKey],
        truncate_to: int,
    ) -> None:
        """Writes history, then rows, deletes runs, then truncates the journal up to and including truncate_to.

        In this order: a row never describes events that are not stored, and a key both written and deleted is gone.
        Deleting a run deletes its row, its history on all branches, and the current pointer if it names this run.

        Conditional on the lease. Not necessarily one transaction: truncation happens only after all else is durable, so
        a crash (or a LeaseLost in the middle) leaves a journal whose replay gives the same rows again. A truncate_to of 0,
        or one already passed, truncates nothing.
        """
        ...

    # --- runs -------------------------------------------------------------------------------------------------------
    async def load(self, shard: ShardId, key: RunKey) -> Snapshot | None: ...

    async def current_run(self, shard: ShardId, namespace_id: str, workflow_id: str) -> Snapshot | None:
        """The current run's row of a workflow id."""
        ...

    async def history(
        self, shard: ShardId, key: RunKey, branch: int, first_event_id: int, last_event_id: int
    ) -> list[HistoryBlob]:
        """Blobs that overlap [first_event_id, last_event_id], in order; none if that range is empty."""
        ...

    async def due(
        self, shard: ShardId, until: int, limit: int, after: tuple[int, RunKey] | None = None
    ) -> SnapshotRows:
        """Rows with wake_at <= until, ordered by (wake_at, key); with `after`, those behind that (wake_at, key).

        The cursor is needed because runs with outstanding effects keep wake_at = 0 for as long as their tasks wait.
        """
        ...

    async def next_wake_at(self, shard: ShardId, after: int) -> int | None:
        """The smallest wake_at > after, or None."""
        ...

    async def changed(self, shard: ShardId, after_position: int, limit: int) -> SnapshotRows:
        """Rows with changed_position > after_position, by (changed_position, key) (state transfer to a region that lags).

        A page never ends within a position (one position changes many runs), so it may be longer than `limit`, and the
        last row's position is the next page's after_position.
        """
        ...

    async def runs(self, shard: ShardId, after: RunKey | None, limit: int) -> SnapshotRows:
        """All rows of the shard in key order, a page at a time (verification, rebuild of visibility)."""
        ...

    # --- metadata: a compare-and-swap registry, cluster-wide -----------------------------------------------------------
    async def metadata_get(self, kind: str, id: str) -> MetadataRow | None: ...

    async def metadata_list(self, kind: str) -> list[MetadataRow]:
        """Ordered by id. A damaged row raises CorruptRecord: going on as if a namespace did not exist would be worse."""
        ...

    async def metadata_put(self, kind: str, id: str, data: bytes, expected_version: int) -> int | None:
        """Writes if the row's version is expected_version (0 = must not exist). Returns the new version, None on conflict."""
        ...

    async def metadata_delete(self, kind: str, id: str, expected_version: int) -> bool: ...

    # --- figures ------------------------------------------------------------------------------------------------------
    def bytes_written(self) -> int:
        """Payload bytes handed to the engine since open (journal + rows + history), for the bench."""
        ...
