"""The one way in which a region changes who owns a namespace: read, decide, let the witness agree, compare and swap.

What a decision may be is replication/failover.py. Where there is a witness, a decision that raises the failover version is
written there first (`before_move`), so that two regions that decide at once do not both go on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cluster.core.errors import failed_precondition, unavailable
from cluster.namespaces.merging import stamped
from cluster.namespaces.record import DELETED, NamespaceRecord
from cluster.namespaces.rows import NamespaceRows
from replication.failover import Ownership

_CONFLICTS_MAX = 100

Decide = Callable[[Ownership], Ownership]
# Called before a record with another failover version is written; raises CallerError to prevent it. May be called again.
BeforeMove = Callable[[NamespaceRecord, Ownership], Awaitable[None]]


class OwnershipChanges:
    """Over the registry's rows, so that a change is told to all nodes before it is acknowledged."""

    def __init__(self, rows: NamespaceRows, here: str, before_move: BeforeMove | None = None) -> None:
        self._rows, self._here = rows, here
        self.before_move = before_move

    async def change_ownership(self, namespace_id: str, decide: Decide, is_witnessed: bool = False) -> NamespaceRecord:
        """The record as it is then. is_witnessed: the witness says so already. Raises what `decide` raises (NotAllowed,
        OwnershipAlarm), and CallerError: NOT_FOUND, FAILED_PRECONDITION, UNAVAILABLE."""
        for _ in range(_CONFLICTS_MAX):
            name = (await self._rows.entry_by_id(namespace_id)).record.name
            entry = await self._rows.read(name)
            before = entry.record
            if before.id != namespace_id:
                await self._rows.read_all()  # it was renamed, and another has its name now
                continue
            if before.state == DELETED:
                raise failed_precondition(f"namespace {before.name} is deleted")
            decided = decide(before.ownership)
            changed = stamped(before, before.owned(decided), self._here)
            if changed == before:
                return before
            if decided.version != before.failover_version and not is_witnessed:
                await self.agree(before, decided)
            if await self._rows.put(changed, entry.version):
                return changed
        raise unavailable(f"namespace {namespace_id} is being changed by many callers; retry")

    async def agree(self, before: NamespaceRecord, after: Ownership) -> None:
        """The witness, where there is one, lets it happen. Raises CallerError."""
        if self.before_move is not None:
            await self.before_move(before, after)
