"""What a peer does not have yet, asked of this node's senders: for a handover (exactly), and for the heartbeat (roughly)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from cluster.namespaces.record import NamespaceRecord
from cluster.namespaces.regions import is_active_here
from replication.failover_report import Backlog, ShardBacklog
from replication.region import Region
from replication.witness import LAGGING_NAMESPACES_MAX, LagNote


def backlog_here(region: Region, record: NamespaceRecord, here: str, peer: str, shards_count: int) -> Backlog:
    """Of this node's open shards. A shard whose feed has not begun is left out: nothing is known of it."""
    sender = region.senders.get(peer)
    if sender is None:
        return Backlog(shards_count)
    is_frozen = not is_active_here(record, here)
    shards: dict[int, ShardBacklog] = {}
    oldest_at = 0
    for number, feed in sender.feeds.items():
        if not feed.shard.is_open or feed.outbox is None:
            continue
        lag = feed.lag()
        shards[number] = ShardBacklog(
            last_position=feed.shard.journal.last_position,
            cursor=feed.outbox.cursor,
            events=lag.entries.get(record.id, 0),
            is_catching_up=lag.is_catching_up,
            is_frozen=is_frozen,
        )
        if at := lag.oldest_at.get(record.id, 0):
            oldest_at = min(oldest_at or at, at)
    return Backlog(shards_count, shards, oldest_at)


def lag_notes_here(region: Region, now_ns: int) -> dict[str, LagNote]:
    """By peer, of this node's shards."""
    notes: dict[str, LagNote] = {}
    for peer, sender in region.senders.items():
        events: Counter[str] = Counter()
        oldest_at, is_catching_up = 0, False
        for lag in sender.lag().values():
            events.update(lag.entries)
            is_catching_up = is_catching_up or lag.is_catching_up
            oldest_at = min(filter(None, (oldest_at, *lag.oldest_at.values())), default=0)
        worst = dict(events.most_common(LAGGING_NAMESPACES_MAX))
        notes[peer] = LagNote(events.total(), max(0, now_ns - oldest_at) if oldest_at else 0, is_catching_up, worst)
    return notes


def united_notes(nodes: Iterable[dict[str, LagNote]]) -> dict[str, LagNote]:
    """Of all nodes of a region. A peer that one of them does not name is not known to be told of everything: it is left out."""
    notes = list(nodes)
    named = set.intersection(*(set(one) for one in notes)) if notes else set()
    united: dict[str, LagNote] = {}
    for peer in sorted(named):
        events: Counter[str] = Counter()
        for one in notes:
            events.update(one[peer].by_namespace)
        united[peer] = LagNote(
            sum(one[peer].events for one in notes),
            max(one[peer].oldest_ns for one in notes),
            any(one[peer].is_catching_up for one in notes),
            dict(events.most_common(LAGGING_NAMESPACES_MAX)),
        )
    return united
