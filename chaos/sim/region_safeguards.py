"""The safeguards that only several regions need, each removed in turn in seeds of two regions (removal.py).

Some are doubled by another: removed alone they change nothing, and both together are found (TOGETHER).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from chaos.sim.removal import TOGETHER, Put, region_safeguard
from cluster.core import merge as merging
from cluster.core.ledger import LedgerLine
from cluster.core.merge import Extends, Gap
from cluster.frontend import forwarding
from cluster.frontend.forwarding import Forwarding
from cluster.history import activation, foreign_entries, forks, replicate, salvaging, service, visibility_feed
from cluster.history import run as run_of_history
from cluster.history.current_runs import CurrentRuns
from cluster.history.loss_rows import LossRows
from cluster.history.replicas import Replicas
from cluster.history.shard import Shard
from cluster.tokens import Tokens
from replication import failover, run_news
from replication.catch_up import CatchUp
from replication.feed import Feed
from replication.outbox import Outbox
from replication.records import Records

# Found together only: the one stands in for the other.
TOGETHER["offers_are_sent_again_over_a_new_link"] = "offers_without_an_answer_are_sent_again"
TOGETHER["offers_without_an_answer_are_sent_again"] = "offers_are_sent_again_over_a_new_link"
TOGETHER["what_lost_is_looked_at_when_active_again"] = "kept_branches_are_told_with_the_run"


async def _nothing(*_: Any, **__: Any) -> list[Any]:
    return []


# --- who writes ---------------------------------------------------------------------------------------------------------------
@region_safeguard
def what_is_decided_late_is_not_written(put: Put) -> None:
    """A call that was placed here before the namespace moved away, and decided after, writes nothing."""
    put(Shard, "_require_active", lambda self, entries: None)


@region_safeguard
def passive_runs_owe_nothing(put: Put) -> None:
    """A region offers, delivers and wakes nothing of a namespace that is active elsewhere."""
    put(service, "acts_for", lambda regions, state: True)


@region_safeguard
def higher_versions_of_a_record_win(put: Put) -> None:
    """What another region says of a namespace is merged, not believed."""
    put(failover, "merge", lambda ours, theirs: theirs)


@region_safeguard
def records_are_compared_now_and_then(put: Put) -> None:
    """A record whose news were lost reaches the other region all the same."""

    async def never(self: Records) -> None:
        await asyncio.Event().wait()

    put(Records, "_look_around", never)
    put(Records, "changed", lambda self: None)


# --- the stream -----------------------------------------------------------------------------------------------------------------
@region_safeguard
def a_restarted_sender_catches_up(put: Put) -> None:
    """What changed behind the cursor before the feed began is told by the runs' states."""
    put(Feed, "_begin_catch_up", lambda self, target: None)


@region_safeguard
def runs_in_memory_are_caught_up_too(put: Put) -> None:
    """A catch-up does not rest on rows alone, which are older than memory."""
    real = CatchUp.extend

    def extend(self: CatchUp, target: int) -> None:
        runs, self._shard.runs = self._shard.runs, {}
        try:
            real(self, target)
        finally:
            self._shard.runs = runs

    put(CatchUp, "extend", extend)


@region_safeguard
def cursors_wait_for_acks(put: Put) -> None:
    """What was sent may be lost with its link."""
    real = Feed.offer

    async def offer(self: Feed, item: Any, now_s: float) -> Any:
        made = await real(self, item, now_s)
        self.acked(item.number)
        return made

    put(Feed, "offer", offer)


@region_safeguard
def acks_wait_until_it_is_durable(put: Put) -> None:
    """A peer's delta is acknowledged when a crash does not forget it."""

    def hasty(shard: Shard, *changes: Any) -> asyncio.Future[None]:
        real_append(shard, *changes).add_done_callback(lambda done: done.cancelled() or done.exception())
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    real_append = foreign_entries.append
    put(replicate, "append", hasty)

    async def at_once(self: Shard, run: Any) -> None:
        return None

    put(Shard, "durable", at_once)


@region_safeguard
def offers_are_sent_again_over_a_new_link(put: Put) -> None:
    """What was under way when a link ended is not thought to have arrived."""
    put(Feed, "send_again", lambda self: None)


@region_safeguard
def offers_without_an_answer_are_sent_again(put: Put) -> None:
    """An offer that nobody has answered for a while may be lost, though its link goes on."""
    put(Feed, "overdue", lambda self, now_s: False)


@region_safeguard
def what_lacks_its_base_comes_as_a_snapshot(put: Put) -> None:
    """A Have is answered."""
    put(Outbox, "wanted", lambda self, number, events_from: None)


@region_safeguard
def gaps_are_seen(put: Put) -> None:
    """A delta that builds on what is not here is not applied."""
    real = merging.merge

    def merge(*args: Any, **kwargs: Any) -> Any:
        verdict = real(*args, **kwargs)
        return Extends(0) if isinstance(verdict, Gap) else verdict

    put(replicate, "merge", merge)


@region_safeguard
def entries_with_a_base_are_told_as_snapshots(put: Put) -> None:
    """Another region's journal has not the events that such an entry stands on."""
    put(run_news, "needs_snapshot", lambda entries: False)


# --- forks ----------------------------------------------------------------------------------------------------------------------
@region_safeguard
def a_replaced_branch_is_salvaged(put: Put) -> None:
    """What was told to our branch is given to theirs, which wins."""
    put(forks, "settle_loss", _nothing)


@region_safeguard
def a_branch_that_loses_here_is_kept(put: Put) -> None:
    """What was told to their branch is given to ours."""
    put(forks, "keep_loser", _nothing)
    put(replicate, "keep_loser", _nothing)


@region_safeguard
def what_lost_is_looked_at_when_active_again(put: Put) -> None:
    """Branches that lost while this region was passive are salvaged by it once it is active."""
    put(activation, "salvage_kept", _nothing)


@region_safeguard
def branches_have_stores_of_their_own(put: Put) -> None:
    """A fork's winner is not written over the events of the loser."""
    put(Replicas, "branch_of", lambda self, key, state: 0)


@region_safeguard
def the_ledger_is_written(put: Put) -> None:
    """What became of each thing that only the losing branch had is a row."""
    async def write(self: LossRows, lines: list[LedgerLine]) -> list[LedgerLine]:
        return lines

    put(LossRows, "write", write)


@region_safeguard
def what_is_salvaged_is_appended(put: Put) -> None:
    """A line that says so is not enough."""
    put(salvaging, "append_lines", lambda t, lines, **kwargs: lines)


@region_safeguard
def kept_branches_are_told_with_the_run(put: Put) -> None:
    """The region that is active may be one that never saw the fork."""
    put(run_news, "losing_branch", _nothing)

    def losers(self: Replicas, key: Any, state: Any) -> Sequence[Any]:
        return []

    put(Replicas, "losers", losers)


# --- runs of one workflow id ----------------------------------------------------------------------------------------------------
@region_safeguard
def the_better_claim_is_current(put: Put) -> None:
    """Of two regions' runs of one id both regions take the same."""

    def claims(self: CurrentRuns, run: Any) -> Any:
        if self.get((run.key.namespace_id, run.key.workflow_id)) is not None:
            return None
        self.begins(run)
        return run

    put(CurrentRuns, "claims", claims)


@region_safeguard
def runs_that_lost_their_id_are_ended(put: Put) -> None:
    """Two open runs of one id do not stay."""
    put(replicate, "_look_at_others", _nothing)
    put(Replicas, "claim_later", lambda self, run: None)


@region_safeguard
def deleted_runs_stay_dead(put: Put) -> None:
    """What another region still tells of a deleted run does not bring it back."""
    put(Replicas, "is_dead", lambda self, key: False)


# --- the front ------------------------------------------------------------------------------------------------------------------
@region_safeguard
def calls_go_where_the_namespace_is_active(put: Put) -> None:
    """Every region serves every call, by one hop."""
    put(Forwarding, "interceptor", lambda self, method, following: following)


@region_safeguard
def a_disagreement_of_regions_passes(put: Put) -> None:
    """A worker is told to try again, not that its namespace is elsewhere."""
    put(forwarding, "_says_not_active", lambda refusal: False)


@region_safeguard
def polls_that_are_almost_over_end_empty(put: Put) -> None:
    """A poll that is placed anew with little time left is not refused for it."""
    put(forwarding, "_is_almost_over", lambda call, now_s: False)


@region_safeguard
def tokens_open_in_the_other_region(put: Put) -> None:
    """A worker goes on with its token after a failover."""
    put(Tokens, "use_links", lambda self, links: setattr(self, "_linked", None))


@region_safeguard
def rows_of_replaced_branches_are_written_again(put: Put) -> None:
    """The list shows the branch that won, though both ended in the same way."""
    real = run_of_history.feed_signature
    put(visibility_feed, "feed_signature", lambda state: real(state)[:-1])
