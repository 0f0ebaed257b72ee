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
    # Only where several nodes share the queues.
    partitions_count: int = 4  # matching.numTaskqueueReadPartitions; more would not spread a queue over more than 4 nodes
    forward_hints_max: int = 200  # of a queue's share at its root; a round trip of 3 ms makes that 60,000 tasks/s
    forward_wait_s: float = 0.01  # a share that was polled within this time keeps its tasks for its own polls
    forward_wait_max_s: float = 0.05  # but no longer than this
    lend_lease_s: float = 10.0  # a hint that was lent and not heard of again is offered again
    interest_s: float = 90.0  # how long a child's word about its polls holds
    interest_refresh_s: float = 30.0
    polled_told_s: float = 10.0  # at most so often a child says again that it is polled, for queries
    lease_check_s: float = 5.0
    message_hints_max: int = 500  # of one message between nodes: 100 KB, 2 MB with the longest ids; one per node is under way
    unsent_hints_max: int = 10_000  # per node; what does not fit is remembered as "this shard has more"
    message_timeout_s: float = 10.0
    message_retry_s: float = 0.05  # first wait after a message that did not arrive; doubles
    message_retry_max_s: float = 2.0
    refused_hints_max: int = 1_000  # sticky hints on their way back; a lost one waits for the run's own time-out
    hop_retry_s: float = 0.1  # before a poll or a query is sent again to a queue whose owner did not take it
