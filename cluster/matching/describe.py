"""DescribeTaskQueue: who polls, what waits, how fast it goes. Reads shares, changes nothing; `merge` makes shares a queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf.message import Message
from temporalio.api.enums.v1 import BuildIdTaskReachability, DescribeTaskQueueMode, RateLimitSource, TaskQueueKind, TaskQueueType
from temporalio.api.enums.v1 import WorkerVersioningMode as VersioningMode
from temporalio.api.taskqueue.v1 import PollerInfo, TaskQueueConfig, TaskQueueStats
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, DescribeTaskQueueResponse

from cluster.core.errors import invalid_argument
from cluster.matching.partition import Partition
from cluster.matching.tasks import QueueKey, TaskKind
from cluster.matching.window import PRIORITY_DEFAULT

SECOND_NS = 1_000_000_000
RATE_UNLIMITED = 100_000.0  # what the real server reports where no limit is set (defaultTaskDispatchRPS)
UNVERSIONED = "__unversioned__"


def pollers_of(partition: Partition | None, now_ns: int, unversioned_only: bool = False) -> list[PollerInfo]:
    """Who polled within the last minutes, the latest first."""
    if partition is None:
        return []
    oldest_ns = now_ns - int(partition.limits.poller_history_s * SECOND_NS)
    result: list[PollerInfo] = []
    for identity, (polled_at, request) in reversed(partition.last_polls.items()):
        if polled_at < oldest_ns:
            break
        if not (unversioned_only and _is_versioned(request)):
            result.append(_poller(identity, polled_at, request))
    return result


def stats_of(partition: Partition | None, now: float, now_ns: int) -> tuple[TaskQueueStats, dict[int, TaskQueueStats]]:
    """The whole queue's figures, and the same by priority. Rates are measured for the queue and reported at its default
    priority: the sum over the priorities is the whole, as in the real server."""
    total = TaskQueueStats()
    total.approximate_backlog_age.SetInParent()
    if partition is None:
        return total, {PRIORITY_DEFAULT: total}
    window = partition.window
    total.approximate_backlog_count = partition.backlog_count()
    total.tasks_add_rate = partition.add_rate.rate(now)
    total.tasks_dispatch_rate = partition.dispatch_rate.rate(now)
    total.rate_limiting_active = window.waiting_count > 0 and window.next_at(now) > now
    _set_age(total, window.oldest_created_at(), now_ns)
    waiting = window.waiting_by_priority()
    for priority, off in partition.lent_and_borrowed().items():
        waiting[priority] = max(0, waiting.get(priority, 0) + off)
    elsewhere = total.approximate_backlog_count - sum(waiting.values())
    by_priority: dict[int, TaskQueueStats] = {}
    for priority in sorted({PRIORITY_DEFAULT, *waiting}):
        stats = by_priority[priority] = TaskQueueStats(approximate_backlog_count=waiting.get(priority, 0))
        _set_age(stats, window.oldest_created_at(priority), now_ns)
    default = by_priority[PRIORITY_DEFAULT]
    default.approximate_backlog_count += elsewhere
    default.tasks_add_rate = total.tasks_add_rate
    default.tasks_dispatch_rate = total.tasks_dispatch_rate
    return total, by_priority


def describe(
    partition: Partition | None, request: DescribeTaskQueueRequest, config: TaskQueueConfig | None, now: float, now_ns: int
) -> DescribeTaskQueueResponse:
    """The default mode: one queue of one kind."""
    response = DescribeTaskQueueResponse(pollers=pollers_of(partition, now_ns))
    is_sticky = request.task_queue.kind == TaskQueueKind.TASK_QUEUE_KIND_STICKY
    rate = partition.rate() if partition is not None else None
    if request.include_task_queue_status:
        status = response.task_queue_status
        status.backlog_count_hint = partition.backlog_count() if partition is not None else 0
        status.rate_per_second = RATE_UNLIMITED if rate is None else rate
        status.task_id_block.SetInParent()  # tasks have no ids of a block here; clients print the two numbers
    if not is_sticky:
        response.versioning_info.current_version = UNVERSIONED
    if request.report_stats:
        if is_sticky:
            raise invalid_argument("DescribeTaskQueue stats are only supported for the root partition")
        total, by_priority = stats_of(partition, now, now_ns)
        response.stats.CopyFrom(total)
        for priority, stats in by_priority.items():
            response.stats_by_priority_key[priority].CopyFrom(stats)
    if request.report_config and config is not None:
        response.config.CopyFrom(config)
    response.effective_rate_limit.requests_per_second = RATE_UNLIMITED if rate is None else rate
    if rate is None:
        source = RateLimitSource.RATE_LIMIT_SOURCE_SYSTEM
    elif partition is not None and partition.api_rate is not None:
        source = RateLimitSource.RATE_LIMIT_SOURCE_API
    else:
        source = RateLimitSource.RATE_LIMIT_SOURCE_WORKER
    response.effective_rate_limit.rate_limit_source = source
    return response


def describe_enhanced(
    find: Callable[[QueueKey], Partition | None], namespace_id: str, request: DescribeTaskQueueRequest, now: float, now_ns: int
) -> DescribeTaskQueueResponse:
    """The deprecated ENHANCED mode: several kinds at once, per build id. Only the unversioned build "" has tasks here; a named
    build id is answered with its empty figures. `find(QueueKey)` gives the partition or None."""
    if request.task_queue.kind == TaskQueueKind.TASK_QUEUE_KIND_STICKY:
        raise invalid_argument("enhanced describe is not supported for sticky task queues")
    versions = request.versions
    builds = set(versions.build_ids)
    if not request.HasField("versions") or versions.unversioned or versions.all_active:
        builds.add("")
    kinds = list(request.task_queue_types) or [TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY]
    response = DescribeTaskQueueResponse()
    for build in sorted(builds):
        info = response.versions_info[build]
        for kind in kinds:
            types_info = info.types_info[kind]
            partition = None
            if build == "" and (task_kind := kind_of(kind)) is not None:
                partition = find(QueueKey(namespace_id, request.task_queue.name, task_kind))
            if request.report_pollers:
                types_info.pollers.extend(pollers_of(partition, now_ns, unversioned_only=True))
            if request.report_stats:
                types_info.stats.CopyFrom(stats_of(partition, now, now_ns)[0])
        if request.report_task_reachability:
            info.task_reachability = (
                BuildIdTaskReachability.BUILD_ID_TASK_REACHABILITY_REACHABLE
                if build == ""
                else BuildIdTaskReachability.BUILD_ID_TASK_REACHABILITY_UNREACHABLE
            )
    return response


def merge(described: Sequence[DescribeTaskQueueResponse]) -> DescribeTaskQueueResponse:
    """The shares of one queue as one queue; the root's first: it has the rate."""
    response = DescribeTaskQueueResponse()
    response.CopyFrom(described[0])
    for other in described[1:]:
        _merge_pollers(response.pollers, other.pollers)
        if other.HasField("stats"):
            _merge_stats(response.stats, other.stats)
        for priority, stats in other.stats_by_priority_key.items():
            _merge_stats(response.stats_by_priority_key[priority], stats)
        response.task_queue_status.backlog_count_hint += other.task_queue_status.backlog_count_hint
        if response.effective_rate_limit.rate_limit_source == RateLimitSource.RATE_LIMIT_SOURCE_SYSTEM:
            response.effective_rate_limit.CopyFrom(other.effective_rate_limit)
            if response.HasField("task_queue_status"):
                response.task_queue_status.rate_per_second = other.task_queue_status.rate_per_second
        for build, info in other.versions_info.items():
            merged = response.versions_info[build]
            for kind, types_info in info.types_info.items():
                _merge_pollers(merged.types_info[kind].pollers, types_info.pollers)
                if types_info.HasField("stats"):
                    _merge_stats(merged.types_info[kind].stats, types_info.stats)
    if not described[0].HasField("task_queue_status"):
        response.ClearField("task_queue_status")
    return response


def _merge_pollers(into: Any, pollers: Iterable[PollerInfo]) -> None:
    """One line per identity, the latest first; workers poll more than one share."""
    latest: dict[str, PollerInfo] = {}
    for poller in (*into, *pollers):
        known = latest.get(poller.identity)
        if known is None or known.last_access_time.ToNanoseconds() < poller.last_access_time.ToNanoseconds():
            latest[poller.identity] = poller
    ordered = sorted(latest.values(), key=lambda poller: -poller.last_access_time.ToNanoseconds())
    del into[:]
    into.extend(ordered)


def _merge_stats(into: TaskQueueStats, stats: TaskQueueStats) -> None:
    into.approximate_backlog_count += stats.approximate_backlog_count
    into.tasks_add_rate += stats.tasks_add_rate
    into.tasks_dispatch_rate += stats.tasks_dispatch_rate
    into.rate_limiting_active = into.rate_limiting_active or stats.rate_limiting_active
    if stats.approximate_backlog_age.ToNanoseconds() > into.approximate_backlog_age.ToNanoseconds():
        into.approximate_backlog_age.CopyFrom(stats.approximate_backlog_age)
    into.approximate_backlog_age.SetInParent()


def is_enhanced(request: DescribeTaskQueueRequest) -> bool:
    return request.api_mode == DescribeTaskQueueMode.DESCRIBE_TASK_QUEUE_MODE_ENHANCED


def kind_of(task_queue_type: int) -> TaskKind | None:
    """Unspecified means workflow; None for a kind that this release does not know, which is reported as empty."""
    if task_queue_type == TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY:
        return TaskKind.ACTIVITY
    if task_queue_type == TaskQueueType.TASK_QUEUE_TYPE_NEXUS:
        return TaskKind.NEXUS
    if task_queue_type in (TaskQueueType.TASK_QUEUE_TYPE_UNSPECIFIED, TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW):
        return TaskKind.WORKFLOW
    return None


def _is_versioned(request: Any) -> bool:
    return bool(
        request.worker_version_capabilities.use_versioning
        or request.deployment_options.worker_versioning_mode == VersioningMode.WORKER_VERSIONING_MODE_VERSIONED
    )


def _poller(identity: str, polled_at: int, request: Any) -> PollerInfo:
    info = PollerInfo(identity=identity, rate_per_second=RATE_UNLIMITED)
    info.last_access_time.seconds, info.last_access_time.nanos = divmod(polled_at, SECOND_NS)
    if (rate := rate_asked(request)) is not None:
        info.rate_per_second = rate
    if request.HasField("worker_version_capabilities"):
        info.worker_version_capabilities.CopyFrom(request.worker_version_capabilities)
    if request.HasField("deployment_options"):
        info.deployment_options.CopyFrom(request.deployment_options)
    return info


def rate_asked(request: Message) -> float | None:
    """max_tasks_per_second of an activity poll, None without one."""
    metadata = getattr(request, "task_queue_metadata", None)
    if metadata is None or not metadata.HasField("max_tasks_per_second"):
        return None
    return float(metadata.max_tasks_per_second.value)


def _set_age(stats: TaskQueueStats, oldest_created_at: int | None, now_ns: int) -> None:
    age_ns = 0 if oldest_created_at is None else max(0, now_ns - oldest_created_at)
    stats.approximate_backlog_age.seconds, stats.approximate_backlog_age.nanos = divmod(age_ns, SECOND_NS)
    stats.approximate_backlog_age.SetInParent()
