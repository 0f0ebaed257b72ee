"""What waits for the next run of a workflow id, since the run it was meant for has closed: given to that run, once.

It lies in the closed run's state (InboxNote), so other regions have it, too, and whichever is active gives it away: one append
adds it to the new run and notes on the closed one that it was given. A small row says which closed runs have something to give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.core.entry import InboxNote
from cluster.core.ledger import decode_line
from cluster.core.state import InboxItem, RunState
from cluster.history.current_runs import Name
from cluster.history.foreign_entries import at_hand
from cluster.history.loss_rows import LossRows
from cluster.history.noted_runs import NotedRuns
from cluster.history.regions import may_write
from cluster.history.salvaging import append_lines, taker_of

if TYPE_CHECKING:
    from cluster.history.shard import Shard

INBOXES_KIND = "replication-inboxes"


def has_waiting(state: RunState) -> bool:
    return any(not item.given_to for item in state.inbox.values())


class Inboxes:
    """One shard's."""

    def __init__(self, shard: Shard, losses: LossRows) -> None:
        self._shard, self._losses = shard, losses
        self.holders = NotedRuns(shard.store, f"{INBOXES_KIND}/{shard.id}")

    async def deliver(self, name: Name) -> None:
        """If a run has the workflow id now. Raises CallerError, StoreError."""
        shard = self._shard
        for key in self.holders.of(name):
            while True:
                holder = await at_hand(shard, key)
                if holder is None or holder.state.is_deleted or not has_waiting(holder.state):
                    await self.holders.forget(key)
                    break
                taker = taker_of(shard, holder)
                if taker is None or not may_write(shard.regions, holder.state):
                    return
                lines = [decode_line(item.line) for item in holder.state.inbox.values() if not item.given_to]
                t, t_holder = shard.begin(taker), shard.begin(holder)
                given = append_lines(t, lines)
                for line in lines:
                    t_holder.note(InboxNote(line.key, InboxItem(given_to=taker.key.run_id)))
                await shard.commit((taker, t), (holder, t_holder))
                await self._losses.say_where(given)
