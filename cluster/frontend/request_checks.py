"""Checks that several requests share, in the words of the public server (1.32.1). Each raises CallerError or returns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import structlog
from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.enums.v1 import (
    EventType,
    TaskQueueKind,
    TimeoutType,
    WorkflowIdConflictPolicy,
    WorkflowIdReusePolicy,
)
from temporalio.api.errordetails.v1 import NotFoundFailure

from cluster.config import Limits
from cluster.core.errors import CallerError, invalid_argument, not_found

log = structlog.get_logger("outlast.frontend")

_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_RESERVED_QUEUE_PREFIX = "/_sys/"
_INTERNAL_QUEUE = "temporal-sys-per-ns-tq"
_TIMEOUT_FAILURE_PREFIX = "TemporalTimeout:"
FAIRNESS_KEY_BYTES_MAX = 64

# Defaults of a workflow's retry policy (history.defaultWorkflowRetryPolicy).
_RETRY_INITIAL_S = 1
_RETRY_COEFFICIENT = 2.0
_RETRY_MAX_INTERVAL_FACTOR = 100

TERMINATE_IF_RUNNING = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING


def is_longer(text: str, bytes_max: int) -> bool:
    return len(text) > bytes_max // 4 and len(text.encode()) > bytes_max


def check_activity_failure(request: Any) -> None:
    """An activity that nobody asked to cancel cannot have been cancelled: what it says then is no failure."""
    if request.HasField("failure") and not request.failure.HasField("application_failure_info"):
        raise invalid_argument("Failure must have ApplicationFailureInfo.")


def no_such_activity(activity_id: str) -> CallerError:
    """Without a workflow id the request means a standalone activity, of which there are none here."""
    return not_found(f"activity not found for ID: {activity_id}", NotFoundFailure())


def check_execution(request: Any, field: str) -> None:
    if not request.HasField(field):
        raise invalid_argument("Execution is not set on request.")
    execution = getattr(request, field)
    if not execution.workflow_id:
        raise invalid_argument("WorkflowId is not set on request.")
    if execution.run_id and not _UUID.fullmatch(execution.run_id):
        raise invalid_argument("Invalid RunId.")


def check_workflow_id(workflow_id: str, limits: Limits) -> None:
    if not workflow_id:
        raise invalid_argument("WorkflowId is not set on request.")
    if is_longer(workflow_id, limits.id_bytes_max):
        raise invalid_argument(f"WorkflowId exceeds maximum allowed length ({len(workflow_id.encode())}/{limits.id_bytes_max})")


def check_identity(request: Any, limits: Limits) -> None:
    if is_longer(request.identity, limits.id_bytes_max):
        raise invalid_argument("Identity length exceeds limit.")


def check_task_queue(request: Any, limits: Limits, *, is_users: bool = False, may_be_partition: bool = False) -> None:
    """Also fills in the kind. `is_users`: a queue that a workflow is to run on."""
    if not request.HasField("task_queue"):
        raise invalid_argument("taskQueue is not set")
    queue = request.task_queue
    if queue.kind == TaskQueueKind.TASK_QUEUE_KIND_UNSPECIFIED:
        queue.kind = TaskQueueKind.TASK_QUEUE_KIND_NORMAL
    name = queue.name
    if not name:
        raise invalid_argument("missing task queue name")
    if is_longer(name, limits.id_bytes_max):
        raise invalid_argument("taskQueue length exceeds limit")
    if name.startswith(_RESERVED_QUEUE_PREFIX) and not may_be_partition:
        raise invalid_argument(f"task queue name cannot start with reserved prefix {_RESERVED_QUEUE_PREFIX}")
    if queue.kind == TaskQueueKind.TASK_QUEUE_KIND_STICKY and is_longer(queue.normal_name, limits.id_bytes_max):
        raise invalid_argument("taskQueue length exceeds limit")
    if is_users and name == _INTERNAL_QUEUE:
        raise invalid_argument(f"cannot use internal per-namespace task queue:{name}")


def duration_fault(duration: Any) -> str:
    """What is wrong with a duration, "" if nothing. Huge ones have been capped before (clamps.py)."""
    seconds, nanos = duration.seconds, duration.nanos
    if (seconds > 0 > nanos) or (seconds < 0 < nanos):
        return "duration has seconds and nanos with different signs"
    if seconds < 0 or nanos < 0:
        return "negative duration"
    return ""


def check_duration(request: Any, field: str, message: str) -> None:
    if request.HasField(field) and (fault := duration_fault(getattr(request, field))):
        raise invalid_argument(f"{message} cause: {fault}")


def check_workflow_timeouts(request: Any) -> None:
    check_duration(request, "workflow_execution_timeout", "An invalid WorkflowExecutionTimeoutSeconds is set on request.")
    check_duration(request, "workflow_run_timeout", "An invalid WorkflowRunTimeoutSeconds is set on request.")
    check_duration(request, "workflow_task_timeout", "An invalid WorkflowTaskTimeoutSeconds is set on request.")


def check_start_delay(request: Any) -> None:
    if request.cron_schedule and request.HasField("workflow_start_delay"):
        raise invalid_argument("CronSchedule and WorkflowStartDelay may not be used together.")
    check_duration(request, "workflow_start_delay", "An invalid WorkflowStartDelaySeconds is set on request.")


def check_retry_policy(request: Any) -> None:
    """Fills in the defaults first, as the public server does."""
    if not request.HasField("retry_policy"):
        return
    policy = request.retry_policy
    if not policy.initial_interval.seconds and not policy.initial_interval.nanos:
        policy.initial_interval.seconds = _RETRY_INITIAL_S
    if not policy.maximum_interval.seconds and not policy.maximum_interval.nanos:
        ns = (policy.initial_interval.seconds * 1_000_000_000 + policy.initial_interval.nanos) * _RETRY_MAX_INTERVAL_FACTOR
        policy.maximum_interval.FromNanoseconds(max(-(2**62), min(ns, 2**62)))
    if not policy.backoff_coefficient:
        policy.backoff_coefficient = _RETRY_COEFFICIENT
    _check_retry_policy_fields(policy)


def _check_retry_policy_fields(policy: Any) -> None:
    if policy.maximum_attempts == 1:
        return  # never retried: the rest does not matter
    if fault := duration_fault(policy.initial_interval):
        raise invalid_argument(f"invalid InitialInterval set on retry policy: {fault}")
    if not policy.backoff_coefficient >= 1:  # also false for NaN
        raise invalid_argument("BackoffCoefficient cannot be less than 1 on retry policy.")
    if fault := duration_fault(policy.maximum_interval):
        raise invalid_argument(f"invalid MaximumInterval set on retry policy: {fault}")
    if _nanoseconds(policy.maximum_interval) < _nanoseconds(policy.initial_interval):
        raise invalid_argument("MaximumInterval cannot be less than InitialInterval on retry policy.")
    if policy.maximum_attempts < 0:
        raise invalid_argument("MaximumAttempts cannot be negative on retry policy.")
    for name in policy.non_retryable_error_types:
        if name.startswith(_TIMEOUT_FAILURE_PREFIX) and not _is_timeout_type(name[len(_TIMEOUT_FAILURE_PREFIX) :]):
            raise invalid_argument(f"Invalid timeout type value: {name[len(_TIMEOUT_FAILURE_PREFIX) :]}.")


def _nanoseconds(duration: Any) -> int:
    return int(duration.seconds) * 1_000_000_000 + int(duration.nanos)


def _is_timeout_type(name: str) -> bool:
    """StartToClose, or TIMEOUT_TYPE_START_TO_CLOSE."""
    known = {key for key, value in TimeoutType.items() if value}
    return name in known or name in {"".join(part.capitalize() for part in key.split("_")[2:]) for key in known}


def default_id_policies(request: Any, conflict_default: WorkflowIdConflictPolicy.ValueType) -> None:
    """Also turns the deprecated terminate-if-running into what replaced it."""
    if not request.workflow_id_conflict_policy:
        if request.workflow_id_reuse_policy == TERMINATE_IF_RUNNING:
            request.workflow_id_conflict_policy = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
            request.workflow_id_reuse_policy = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
        else:
            request.workflow_id_conflict_policy = conflict_default
    if not request.workflow_id_reuse_policy:
        request.workflow_id_reuse_policy = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE


def check_id_policies(request: Any) -> None:
    reuse, conflict = request.workflow_id_reuse_policy, request.workflow_id_conflict_policy
    if conflict and reuse == TERMINATE_IF_RUNNING:
        raise invalid_argument(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING cannot be used together with a "
            "WorkflowIDConflictPolicy"
        )
    if (
        conflict == WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
        and reuse == WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
    ):
        raise invalid_argument(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE cannot be used together with "
            "WorkflowIdConflictPolicy WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING"
        )


def check_priority(message: Any) -> None:
    if not message.HasField("priority"):
        return
    priority = message.priority
    if priority.priority_key < 0:
        raise invalid_argument("priority key can't be negative")
    if is_longer(priority.fairness_key, FAIRNESS_KEY_BYTES_MAX):
        raise invalid_argument("fairness key length exceeds limit")
    if not priority.fairness_weight >= 0:  # also false for NaN
        raise invalid_argument("must be greater than zero")


_NAMES_AFTER_RESET = {"signal_workflow": "*workflow.PostResetOperation_SignalWorkflow_"}


def check_post_reset_operations(operations: Iterable[Any]) -> None:
    """As the public server: of the operations that its API names, it carries out the change of options alone."""
    for operation in operations:
        variant = operation.WhichOneof("variant")
        if variant != "update_workflow_options":
            raise invalid_argument(f"unsupported post reset operation: {_NAMES_AFTER_RESET.get(variant, '<nil>')}")
        wanted = operation.update_workflow_options
        descriptor = wanted.workflow_execution_options.DESCRIPTOR
        for path in wanted.update_mask.paths:
            if not FieldMask(paths=[path]).IsValidForDescriptor(descriptor):
                fault = f'invalid path "{path}" for message "{descriptor.full_name}"'
                raise invalid_argument(f"error applying update_options: proto: {fault}")
        check_priority(wanted.workflow_execution_options)


def check_payload_bytes(message: Any, limits: Limits) -> None:
    size_bytes = message.ByteSize()
    if size_bytes > limits.payload_bytes_max:
        raise blob_too_large()
    if size_bytes > limits.payload_bytes_warn:
        log.warning("a payload is large", size_bytes=size_bytes, limit_bytes=limits.payload_bytes_max)


def blob_too_large() -> CallerError:
    return invalid_argument("Blob data size exceeds limit.")


# Per kind of link: what it is called, and the fields that must be set with the words for them.
_LINK_FIELDS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "workflow_event": (
        "workflow event link",
        (("namespace", "namespace field"), ("workflow_id", "workflow ID field"), ("run_id", "run ID field")),
    ),
    "batch_job": ("batch job link", (("job_id", "job ID"),)),
    "nexus_operation": (
        "nexus operation link",
        (("namespace", "namespace field"), ("operation_id", "operation ID field"), ("run_id", "run ID field")),
    ),
    "activity": (
        "activity link",
        (("namespace", "namespace field"), ("activity_id", "activity ID field"), ("run_id", "run ID field")),
    ),
}


def check_links(links: Iterable[Any], limits: Limits) -> None:
    links = list(links)
    if len(links) > limits.links_per_request_max:
        raise invalid_argument(f"cannot attach more than {limits.links_per_request_max} links per request, got {len(links)}")
    for link in links:
        size = link.ByteSize()
        if size > limits.link_bytes_max:
            raise invalid_argument(f"link exceeds allowed size of {limits.link_bytes_max}, got {size}")
        variant = link.WhichOneof("variant")
        if variant not in _LINK_FIELDS:
            raise invalid_argument("unsupported link variant")
        spoken, fields = _LINK_FIELDS[variant]
        for field, words in fields:
            if not getattr(getattr(link, variant), field):
                raise invalid_argument(f"{spoken} must not have an empty {words}")
        if variant == "workflow_event":
            reference = link.workflow_event.event_ref
            if reference.event_type == EventType.EVENT_TYPE_UNSPECIFIED and reference.event_id:
                raise invalid_argument("workflow event link ref cannot have an unspecified event type and a non-zero event ID")
