"""What this node's page of metrics says of other regions: how far behind each is, what is under way, what verification found.

Names that the public server has are used where the meaning is the same, so that dashboards and alarms find them:

| metric                         | value, by its labels                                                                         |
|--------------------------------|----------------------------------------------------------------------------------------------|
| replication_tasks_lag          | durable groups of a shard's journal that a region has not acknowledged                       |
| replication_latency            | seconds since the oldest change that it has not acknowledged was written; at least that much |
|                                | while it is caught up                                                                        |
| replication_task_send_backlog  | deltas under way to it, or to be sent again                                                  |
| replication_lag_events         | entries of a namespace that wait for it: 0 says that it has all, unless runs are left        |
| replication_runs_left          | runs of a namespace that a catch-up has still to tell                                        |
| replication_is_catching_up     | 1 while a shard's changes are told by the runs' states                                       |
| replication_verify_*           | of the last verification of a namespace: how long it took, when, runs that differ, by kind   |
| replication_verifications      | how many there were, by outcome                                                              |

All are counted from journal positions and rows, none from clocks of another region.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from replication.region import Region
from replication.verification import Kind
from replication.verify import VerifyService

Labels = dict[str, str]


class Family(NamedTuple):
    """One metric with all its samples."""

    name: str
    meaning: str
    samples: list[tuple[Labels, float]]


class RegionFigures:
    """One node's, for the shards that it has. name_of: a namespace's name by its id."""

    def __init__(
        self, region: Region, verification: VerifyService, name_of: Callable[[str], str], now_ns: Callable[[], int]
    ) -> None:
        self._region, self._verification, self._name_of, self._now_ns = region, verification, name_of, now_ns

    def families(self) -> list[Family]:
        return [*self._lags(), *self._verifications()]

    def _lags(self) -> list[Family]:
        now_ns = self._now_ns()
        positions: list[tuple[Labels, float]] = []
        catching_up: list[tuple[Labels, float]] = []
        backlog: list[tuple[Labels, float]] = []
        events: Counter[tuple[str, str]] = Counter()
        runs_left: Counter[tuple[str, str]] = Counter()
        seconds: dict[tuple[str, str], float] = {}
        for peer, sender in self._region.senders.items():
            under_way = sum(len(feed.outbox.under_way) for feed in sender.feeds.values() if feed.outbox is not None)
            backlog.append(({"target_cluster": peer}, under_way))
            for namespace_id in self._verification.shared_with(peer):  # one that has nothing to tell is shown as 0
                events[peer, namespace_id] += 0
                runs_left[peer, namespace_id] += 0
                seconds.setdefault((peer, namespace_id), 0.0)
            for shard, lag in sender.lag().items():
                labels = {"target_cluster": peer, "shard": str(shard)}
                positions.append((labels, lag.positions))
                catching_up.append((labels, lag.is_catching_up))
                for namespace_id, count in lag.entries.items():
                    events[peer, namespace_id] += count
                for namespace_id, count in lag.runs_left.items():
                    runs_left[peer, namespace_id] += count
                for namespace_id, at in lag.oldest_at.items():
                    age_s = max(0, now_ns - at) / 1e9
                    seconds[peer, namespace_id] = max(age_s, seconds.get((peer, namespace_id), 0.0))
        return [
            Family("replication_tasks_lag", "Groups of a shard that a region has not acknowledged", positions),
            Family("replication_is_catching_up", "Whether a shard is told by its runs' states", catching_up),
            Family("replication_task_send_backlog", "Deltas under way to a region", backlog),
            Family("replication_lag_events", "Entries that wait for a region", self._by_namespace(events)),
            Family("replication_runs_left", "Runs that a catch-up has still to tell", self._by_namespace(runs_left)),
            Family("replication_latency", "Seconds by which a region is behind", self._by_namespace(seconds)),
        ]

    def _by_namespace(self, values: Counter[tuple[str, str]] | dict[tuple[str, str], float]) -> list[tuple[Labels, float]]:
        return [
            ({"target_cluster": peer, "namespace": self._name_of(namespace_id)}, float(value))
            for (peer, namespace_id), value in sorted(values.items())
        ]

    def _verifications(self) -> list[Family]:
        took: list[tuple[Labels, float]] = []
        ages: list[tuple[Labels, float]] = []
        differing: list[tuple[Labels, float]] = []
        now_ns = self._now_ns()
        for (peer, namespace_id), report in sorted(self._verification.reports.items()):
            labels = {"target_cluster": peer, "namespace": self._name_of(namespace_id)}
            took.append((labels, report.seconds))
            ages.append((labels, max(0, now_ns - report.at) / 1e9))
            differing += [({**labels, "kind": kind.value}, report.count_of(kind)) for kind in Kind]
        counts = [({"outcome": outcome}, float(count)) for outcome, count in sorted(self._verification.counts.items())]
        return [
            Family("replication_verify_seconds", "How long the last verification took", took),
            Family("replication_verify_age_seconds", "How long ago it began", ages),
            Family("replication_verify_differences", "Runs that differed in it", differing),
            Family("replication_verifications", "Verifications, by outcome; and runs that were healed", counts),
        ]
