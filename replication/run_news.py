"""What a sender has to tell of one run, and how it becomes a delta: the entries of a group, or the run as it is now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.core.branches import head_of, owner_of
from cluster.core.entry import Entry
from cluster.core.errors import CallerError, Code
from cluster.core.events import join_framed
from cluster.core.merge import RunClaim, claim_of
from cluster.core.state import RunState, checksum, encode_state
from cluster.history.events import HistoryIsGone, read_events
from cluster.history.forks import losing_branch
from cluster.history.run import Run, run_of
from cluster.history.run_delta import RETENTION, RunDelta, deletion_of, encode_delta, head_before, needs_snapshot
from cluster.history.shard import Shard
from cluster.stores.base import RunKey

DELETED = "deleted"


@dataclass
class RunNews:
    """entries [] = the run as it is when the news are sent. row: it, if it was read from the store for that."""

    key: RunKey
    entries: list[bytes]
    state: RunState | None = None
    decoded: Sequence[Entry] = ()
    tombstone: str = ""
    claim: RunClaim | None = None  # of the deleted run
    row: Run | None = None
    successor: RunNews | None = None

    @property
    def entries_count(self) -> int:
        return max(1, len(self.entries)) + (self.successor.entries_count if self.successor is not None else 0)

    @property
    def size(self) -> int:
        return sum(map(len, self.entries)) + (self.successor.size if self.successor is not None else 0)

    @property
    def at(self) -> int:
        """When the oldest of the entries was written, ns since the epoch; 0 = not known."""
        return self.decoded[0].at if self.decoded else 0


def news_of_group(
    shard: Shard, group: Sequence[tuple[bytes, Entry]], states: dict[RunKey, RunState], peer_initial_version: int
) -> list[RunNews]:
    """What a durable group says to this peer, in the order in which the runs came. The peer wrote some of it itself.

    states: of the runs after the group.
    """
    replicas = shard.replicas
    assert replicas is not None
    by_run: dict[RunKey, list[tuple[bytes, Entry]]] = {}
    for data, entry in group:
        by_run.setdefault(RunKey(entry.namespace_id, entry.workflow_id, entry.run_id), []).append((data, entry))
    found: dict[RunKey, RunNews] = {}
    for key, pairs in by_run.items():
        entries = [entry for _, entry in pairs]
        reason = deletion_of(entries)
        if reason == RETENTION or key in replicas.expired:
            continue  # each region removes it by itself
        is_the_peers = all(entry.version and owner_of(entry.version) == peer_initial_version for entry in entries)
        if reason:
            found[key] = RunNews(key, [], tombstone=reason, decoded=entries, claim=claim_of(states[key]))
        elif needs_snapshot(entries):
            if not is_the_peers or replicas.losers(key, states[key]):  # else the peer has the state, and no branch of ours lost
                found[key] = RunNews(key, [], decoded=entries)
        elif not is_the_peers:
            found[key] = RunNews(key, [data for data, _ in pairs], states[key], entries)
    for key, news in list(found.items()):  # of a chain of three the middle one is a successor, and has one
        state = states.get(key)
        following = found.get(RunKey(key.namespace_id, key.workflow_id, state.new_run_id)) if state is not None else None
        if state is not None and state.new_run_id and news.entries and following is not None and following.entries:
            news.successor = following
            del found[following.key]
    return list(found.values())


def extension(news: RunNews) -> RunDelta:
    assert news.state is not None and news.entries
    head = head_of(news.state)
    return RunDelta(
        *_name(news.key),
        head=head,
        base=head_before(head, news.decoded),
        entries=news.entries,
        checksum=checksum(news.state),
        successor=None if news.successor is None else extension(news.successor),
    )


async def delta_of(shard: Shard, news: RunNews, wants_from: int) -> bytes:
    """Encoded. wants_from: the peer lacks the base, and wants the run with its events from here on. Raises CallerError,
    StoreError, CorruptRecord."""
    if news.tombstone:
        return encode_delta(RunDelta(*_name(news.key), tombstone=news.tombstone, claim=news.claim))
    if news.entries and not wants_from:
        return encode_delta(extension(news))
    return encode_delta(await _snapshot(shard, news, wants_from or 1))


async def _snapshot(shard: Shard, news: RunNews, events_from: int) -> RunDelta:
    """Of a durable state: what a crash would forget must not be known elsewhere."""
    key = news.key
    assert shard.replicas is not None
    successor = None if news.successor is None else await _snapshot(shard, news.successor, 1)
    row = news.row
    while True:
        in_memory = shard.runs.get(key)
        run = in_memory or row or await _stored(shard, key)
        if run is None or (run is row and shard.replicas.is_dead(key)):
            reason = DELETED if shard.replicas.is_dead(key) else ""
            return RunDelta(*_name(key), tombstone=reason, claim=shard.replicas.claim_of_dead(key), successor=successor)
        state, branch = run.state, run.branch
        if run is in_memory:  # a row is durable, and may be of a later owner's journal, which this shard's does not reach
            await shard.durable(run)
        if state.is_deleted:
            is_retired = key in shard.replicas.expired
            reason = "" if is_retired else DELETED
            return RunDelta(*_name(key), tombstone=reason, claim=claim_of(state), successor=successor)
        try:
            events = await read_events(shard.store, shard.id, run, events_from, state.next_event_id - 1)
            losers = [await losing_branch(shard, run, one) for one in shard.replicas.losers(key, state)]
        except HistoryIsGone:
            row = None
            continue
        except CallerError as error:
            if error.code is not Code.DATA_LOSS or not (shard.replicas.is_dead(key) or run.state.is_deleted):
                raise
            row = None  # it was deleted while it was read
            continue
        if run.branch == branch:
            break
    return RunDelta(
        *_name(key),
        head=head_of(state),
        state=encode_state(state),
        events_from=min(events_from, state.next_event_id),
        events=join_framed(events),
        checksum=checksum(state),
        losers=losers,
        successor=successor,
    )


async def _stored(shard: Shard, key: RunKey) -> Run | None:
    """The run of a row, which need not be in memory for being told of."""
    row = await shard.store.load(shard.id, key)
    if row is None:
        return None
    run = run_of(row)
    run.branch = shard.branch_of(run)
    return run


def _name(key: RunKey) -> tuple[str, str, str]:
    return key.namespace_id, key.workflow_id, key.run_id


