"""What UpdateTaskQueueConfig may say, and the configuration that results. Pure."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import RateLimitConfig, TaskQueueConfig
from temporalio.api.workflowservice.v1 import UpdateTaskQueueConfigRequest

from cluster.core.errors import invalid_argument
from cluster.matching.fairness import WEIGHT_MAX, WEIGHT_MIN
from cluster.matching.limits import MatchingLimits
from cluster.matching.partition import Partition

FAIRNESS_KEY_BYTES_MAX = 64  # temporal.api.common.v1.Priority.fairness_key
REASON_BYTES_MAX = 1_000


def next_config(
    config: TaskQueueConfig | None, request: UpdateTaskQueueConfigRequest, now_ns: int, limits: MatchingLimits
) -> TaskQueueConfig:
    """The configuration after the request; the given one is not changed. Raises INVALID_ARGUMENT."""
    result = TaskQueueConfig()
    if config is not None:
        result.CopyFrom(config)
    is_workflow = request.task_queue_type == TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
    if request.HasField("update_queue_rate_limit"):
        update = request.update_queue_rate_limit
        if is_workflow and update.HasField("rate_limit"):
            raise invalid_argument("Setting rate limit on workflow task queues is not allowed.")
        _set_rate(result.queue_rate_limit, update, "UpdateQueueRateLimit", request.identity, now_ns)
    if request.HasField("update_fairness_key_rate_limit_default"):
        update = request.update_fairness_key_rate_limit_default
        if is_workflow and update.HasField("rate_limit"):
            raise invalid_argument("Setting fairness key rate limit on workflow task queues is not allowed.")
        _set_rate(result.fairness_keys_rate_limit_default, update, "UpdateFairnessKeyRateLimitDefault", request.identity, now_ns)
    _set_weights(result, request, limits)
    return result


def apply_config(partition: Partition, config: TaskQueueConfig | None) -> None:
    """Makes a queue behave as configured."""
    if config is None:
        config = TaskQueueConfig()
    limit, fairness_limit = config.queue_rate_limit, config.fairness_keys_rate_limit_default
    partition.api_rate = limit.rate_limit.requests_per_second if limit.HasField("rate_limit") else None
    partition.fairness_rate = (
        fairness_limit.rate_limit.requests_per_second if fairness_limit.HasField("rate_limit") else None
    )
    partition.weights = dict(config.fairness_weight_overrides)
    partition.configure()


def _set_rate(
    target: RateLimitConfig, update: UpdateTaskQueueConfigRequest.RateLimitUpdate, label: str, identity: str, now_ns: int
) -> None:
    """An update without a rate limit removes the limit, and keeps who did it and why."""
    if update.HasField("rate_limit"):
        if not update.rate_limit.requests_per_second >= 0:
            raise invalid_argument(f"RequestsPerSecond for {label} rate limit must be non-negative.")
        if len(update.reason.encode()) > REASON_BYTES_MAX:
            raise invalid_argument(f"{label}.Reason exceeds length limit of {REASON_BYTES_MAX} bytes.")
    target.Clear()
    if update.HasField("rate_limit"):
        target.rate_limit.CopyFrom(update.rate_limit)
    target.metadata.reason = update.reason
    target.metadata.update_identity = identity
    target.metadata.update_time.CopyFrom(Timestamp(seconds=now_ns // 1_000_000_000, nanos=now_ns % 1_000_000_000))


def _set_weights(result: TaskQueueConfig, request: UpdateTaskQueueConfigRequest, limits: MatchingLimits) -> None:
    changes, removals = request.set_fairness_weight_overrides, request.unset_fairness_weight_overrides
    total = len(changes) + len(removals)
    if total > limits.fairness_overrides_max:
        raise invalid_argument(
            f"too many fairness weight overrides in request: got {total}, maximum {limits.fairness_overrides_max}"
        )
    for key in (*changes, *removals):
        if not key:
            raise invalid_argument("fairness weight override key must not be empty")
        if len(key.encode()) > FAIRNESS_KEY_BYTES_MAX:
            raise invalid_argument(f"fairness key exceeds length limit of {FAIRNESS_KEY_BYTES_MAX} bytes")
    for key, weight in changes.items():
        if not WEIGHT_MIN <= weight <= WEIGHT_MAX:
            raise invalid_argument(f"invalid fairness weight for key {key!r}: must be from {WEIGHT_MIN} to {WEIGHT_MAX:g}")
    for key in removals:
        if key in changes:
            raise invalid_argument(f"fairness weight override key {key!r} present in both set and unset lists")
        result.fairness_weight_overrides.pop(key, None)
    for key, weight in changes.items():
        result.fairness_weight_overrides[key] = weight
    if len(result.fairness_weight_overrides) > limits.fairness_overrides_max:
        raise invalid_argument("fairness weight overrides update rejected: exceeding maximum key size")
