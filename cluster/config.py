"""Every limit and default of a node, each with its unit and its reason. Tests try each limit at -1, exactly, and +1."""

from __future__ import annotations

import msgspec

KIB = 1024
MIB = 1024 * KIB
SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS


class Limits(msgspec.Struct, frozen=True):
    """Architecture section 9. Names end in their unit; the precedents are Temporal's dynamic config defaults."""

    payload_bytes_max: int = 2 * MIB  # limit.blobSize.error
    payload_bytes_warn: int = 512 * KIB  # limit.blobSize.warn
    memo_bytes_max: int = 2 * MIB  # limit.memoSize.error
    history_bytes_max: int = 50 * MIB  # limit.historySize.error
    history_events_max: int = 51_200  # limit.historyCount.error
    history_bytes_suggest: int = 4 * MIB  # limit.historySize.suggestContinueAsNew
    history_events_suggest: int = 4_096  # limit.historyCount.suggestContinueAsNew
    id_bytes_max: int = 1_000  # limit.maxIDLength
    pending_activities_max: int = 2_000  # limit.numPendingActivities.error
    pending_children_max: int = 2_000  # limit.numPendingChildExecutions.error
    pending_signals_max: int = 2_000  # limit.numPendingSignals.error
    pending_cancels_max: int = 2_000  # limit.numPendingCancelRequests.error
    signals_per_run_max: int = 10_000  # history.maximumSignalsPerExecution
    updates_in_flight_max: int = 10  # history.maxInFlightUpdates
    updates_total_max: int = 2_000  # history.maxTotalUpdates
    callbacks_per_run_max: int = 32  # component.callbacks.maxPerExecution
    links_per_request_max: int = 10  # frontend.maxLinksPerRequest
    link_bytes_max: int = 4_000  # frontend.linkMaxSize
    grpc_message_bytes_max: int = 4 * MIB  # never unlimited
    search_attributes_count_max: int = 100  # frontend.searchAttributesNumberOfKeysLimit
    search_attribute_bytes_max: int = 2 * KIB  # frontend.searchAttributesSizeOfValueLimit
    search_attributes_bytes_max: int = 40 * KIB  # frontend.searchAttributesTotalSizeLimit
    history_page_events_max: int = 256  # frontend.historyMaxPageSize
    history_page_bytes_max: int = 4 * MIB  # a page ends before the event that would go beyond; one event is always a page
    visibility_page_rows_max: int = 1_000  # frontend.visibilityMaxPageSize
    history_long_poll_ns: int = 20 * SECOND_NS  # history.longPollExpirationInterval
    workflow_task_timeout_default_ns: int = 10 * SECOND_NS
    workflow_task_timeout_max_ns: int = 120 * SECOND_NS
    sticky_schedule_to_start_default_ns: int = 5 * SECOND_NS
    activity_retry_initial_ns: int = 1 * SECOND_NS  # history.defaultActivityRetryPolicy
    activity_retry_coefficient: float = 2.0
    activity_retry_max_interval_factor: int = 100
    retention_default_ns: int = 1 * DAY_NS
    retention_min_ns: int = 3_600 * SECOND_NS
    retention_max_ns: int = 90 * DAY_NS


class ShardConfig(msgspec.Struct, frozen=True):
    """When a shard writes what. A checkpoint bounds recovery; a group bounds one append."""

    group_bytes_max: int = 2 * MIB
    group_entries_max: int = 2_000
    checkpoint_interval_ns: int = 5 * SECOND_NS
    checkpoint_entries_max: int = 20_000
    checkpoint_journal_bytes_max: int = 64 * MIB
    idle_runs_in_memory_max: int = 2_000  # clean and idle runs above this leave memory
    timer_horizon_ns: int = 60 * SECOND_NS  # nearer wake-ups sit in the heap, farther ones only in the store's index
    verified_loads_share: float = 0.001  # of the runs read from the store, how many are compared with the fold of their history
