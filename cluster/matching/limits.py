"""Bounds and waits of matching, each with its precedent (Temporal's dynamic config) or its reason."""

from __future__ import annotations

import msgspec


class MatchingLimits(msgspec.Struct, frozen=True):
    """Monotonic durations are seconds of `loop.time()`."""

    long_poll_s: float = 60.0  # matching.longPollExpirationInterval
    poll_margin_s: float = 1.0  # returnEmptyTaskTimeBudget: an empty answer must arrive before the client gives up
    window_hints_max: int = 10_000  # hints in memory per queue, about 400 bytes each
    window_hints_low: int = 2_500  # below this the window asks the shards for more; 1/4 keeps a re-read of held hints cheap
    idle_queue_s: float = 300.0  # matching.maxTaskQueueIdleTime
    queues_max: int = 100_000  # queues in memory; further ones are remembered by their shards alone
    sticky_poller_s: float = 10.0  # stickyPollerUnavailableWindow
    sticky_grace_s: float = 2.0  # a sticky queue just made (this node has just started) waits so long for its worker to come back
    query_poller_s: float = 20.0  # matching.queryPollerUnavailableWindow
    query_timeout_s: float = 10.0  # for a caller without a deadline
    queries_per_queue_max: int = 1_000  # direct queries that wait for a poller
    queries_total_max: int = 20_000  # direct queries that wait for a poller or an answer
    poller_history_s: float = 300.0  # matching.PollerHistoryTTL
    pollers_per_queue_max: int = 1_000  # identities remembered per queue
    transient_backoff_s: float = 0.05  # first wait after history said UNAVAILABLE; doubles
    transient_backoff_max_s: float = 1.0  # a shard moves within seconds
    poison_backoff_s: float = 1.0  # first wait after any other refusal of one task; doubles
    poison_backoff_max_s: float = 60.0
    backlog_retry_s: float = 1.0  # wait before a shard that did not answer is asked again
    fairness_keys_retained_max: int = 1_000  # empty fairness keys per priority whose debt is remembered
    fairness_overrides_max: int = 1_000  # matching.maxFairnessKeyWeightOverrides
    queue_configs_max: int = 10_000  # queues with a configuration of their own
    workers_max: int = 100_000  # worker heartbeats in memory (about 1 KB each)
    worker_expiry_s: float = 300.0  # matching.workerRegistryEntryTTL
    workers_page_max: int = 1_000
    shut_down_workers_max: int = 10_000  # worker instances whose late polls are turned away
    shut_down_worker_s: float = 300.0
