"""The loss ledger of a region: what each losing branch (or run) had, and what became of it; and the cut of each forced failover.

Lines are written by the shards as they salvage (cluster/history/loss_rows.py). Here they are read, counted, and compared with the
cut: what the former region wrote under the old version and lost was not here when this region took over, so it lies behind the
cut. If that region never returns, the bound on what was lost is what it was last heard to have, less the cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from cluster.core.ledger import LedgerLine, Outcome
from cluster.history.loss_rows import CUTS_KIND, LEDGER_KIND, Cut, decode_cut, decode_row
from cluster.seams import Clock
from cluster.stores.base import Store, StoreUnavailable


class LedgerEntry(msgspec.Struct, frozen=True):
    """One line, and when its branch was salvaged, ns since the epoch."""

    line: LedgerLine
    at: int

    def as_dict(self) -> dict[str, object]:
        """For people and programs: an operator's list, a drill's report."""
        line = self.line
        return {
            "namespace_id": line.namespace_id,
            "workflow_id": line.workflow_id,
            "run_id": line.run_id,
            "branch": line.branch,
            "source": str(line.source),
            "number": line.number,
            "version": line.version,
            "event": line.name,
            "outcome": str(line.outcome),
            "reason": line.reason,
            "winner_run_id": line.winner_run_id,
            "winner_event_id": line.winner_event_id,
            "is_past_cut": line.is_past_cut,
            "at": self.at,
        }


class Summary(msgspec.Struct, frozen=True):
    """unexplained: lines without an outcome or a reason; there must be none."""

    lines: int
    by_outcome: dict[str, int]
    past_cut: int
    workflows: int
    waiting: int  # in an inbox, not given to a run yet
    unexplained: int


class LossLedger:
    """A region's. shards_count: this region's own."""

    def __init__(self, store: Store, shards_count: int, clock: Clock | None = None) -> None:
        """clock: only for noting cuts."""
        self._store, self._shards_count, self._clock = store, shards_count, clock

    async def lines(self, namespace_id: str | None = None) -> list[LedgerEntry]:
        """In the order of workflow ids, runs, branches and events. Raises StoreError."""
        rows = []
        for shard in range(self._shards_count):
            rows += [decode_row(row.data) for row in await self._store.metadata_list(f"{LEDGER_KIND}/{shard}")]
        rows = [row for row in rows if namespace_id in (None, row.namespace_id)]
        rows.sort(key=lambda row: (row.namespace_id, row.workflow_id, row.run_id, row.branch, row.number))
        return [LedgerEntry(line, row.at) for row in rows for line in row.lines]

    async def summary(self, namespace_id: str | None = None) -> Summary:
        """Raises StoreError."""
        return summary_of([entry.line for entry in await self.lines(namespace_id)])

    # --- the cut --------------------------------------------------------------------------------------------------------

    async def note_cut(
        self, peer: str, positions: Mapping[int, int], namespace_id: str, old_version: int, new_version: int
    ) -> None:
        """This region takes the namespace over by force: so much it has of the peer's shards (source shard -> position). May be
        repeated: the first word counts, since what was heard later is not of the cut. Raises StoreError."""
        assert self._clock is not None, "a ledger that is only read"
        id = hashlib.blake2b(f"{namespace_id}\0{peer}\0{old_version}".encode(), digest_size=16).hexdigest()
        cut = Cut(namespace_id, peer, old_version, new_version, dict(positions), self._clock.now_ns())
        if await self._store.metadata_put(CUTS_KIND, id, msgspec.msgpack.encode(cut), 0) is not None:
            return
        if await self._store.metadata_get(CUTS_KIND, id) is None:
            raise StoreUnavailable(f"the cut of {namespace_id} comes and goes")

    async def cuts(self, namespace_id: str | None = None) -> list[Cut]:
        """The oldest first. Raises StoreError."""
        found = [decode_cut(row.data) for row in await self._store.metadata_list(CUTS_KIND)]
        found = [cut for cut in found if namespace_id in (None, cut.namespace_id)]
        return sorted(found, key=lambda cut: (cut.at, cut.namespace_id, cut.peer))


def bound_of_loss(cut: Cut, last_heard: Mapping[int, int]) -> dict[int, int]:
    """Of a region that does not return: by its shard, at most so many groups of changes are lost. last_heard: its last positions
    that this region has been told of."""
    return {shard: max(0, position - cut.positions.get(shard, 0)) for shard, position in last_heard.items()}


def summary_of(lines: list[LedgerLine]) -> Summary:
    by_outcome: dict[str, int] = {}
    for line in lines:
        by_outcome[str(line.outcome)] = by_outcome.get(str(line.outcome), 0) + 1
    return Summary(
        lines=len(lines),
        by_outcome=dict(sorted(by_outcome.items())),
        past_cut=sum(line.is_past_cut for line in lines),
        workflows=len({(line.namespace_id, line.workflow_id) for line in lines}),
        waiting=sum(line.outcome is Outcome.INBOX and not line.winner_run_id for line in lines),
        unexplained=sum(not line.reason for line in lines),
    )
