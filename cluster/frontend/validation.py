"""Which rules a request must keep, per call: the public server's, in its order and its words (release 1.32.1), since official
SDKs and people's scripts branch on them. Defaults are filled in here too, so that nothing behind has to ask what an unset
field means. `tests/frontend/bad_requests_expected.json` holds what the public server answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from temporalio.api.enums.v1 import (
    DescribeTaskQueueMode,
    HistoryEventFilterType,
    QueryRejectCondition,
    ResetReapplyType,
    TaskQueueKind,
    TaskQueueType,
    UpdateWorkflowExecutionLifecycleStage,
    WorkflowIdConflictPolicy,
)

from cluster.config import Limits
from cluster.core.errors import failed_precondition, invalid_argument
from cluster.failures import permission_denied
from cluster.frontend.call import Call, Handler, Interceptor
from cluster.frontend.methods import Method
from cluster.frontend.multi_operation import validate_multi_operation
from cluster.frontend.request_checks import (
    check_activity_failure,
    check_execution,
    check_id_policies,
    check_identity,
    check_links,
    check_payload_bytes,
    check_post_reset_operations,
    check_priority,
    check_retry_policy,
    check_start_delay,
    check_task_queue,
    check_workflow_id,
    check_workflow_timeouts,
    default_id_policies,
    is_longer,
    no_such_activity,
)
from cluster.frontend.start_checks import StartChecks
from cluster.seams import Ids

LONG_POLL_MIN_S = 2.0  # common.MinLongPollTimeout
REASON_BYTES_MAX = 1000
FAIRNESS_OVERRIDES_MAX = 1000  # matching.maxFairnessKeyWeightOverrides
_TERMINATE_REASON = "terminated by user via frontend"
_TERMINATE_IDENTITY = "frontend-service"

Rule = Callable[["Validation", Call, Any], None]


class Validation:
    """The rules' surroundings."""

    def __init__(self, limits: Limits, ids: Ids, start_checks: StartChecks, now_s: Callable[[], float]) -> None:
        """now_s: the clock that `Call.deadline` is told in (loop.time)."""
        self.limits = limits
        self.ids = ids
        self.start_checks = start_checks
        self.now_s = now_s


def validation(rules: Validation) -> Interceptor:
    """The interceptor."""

    def wrap(method: Method, following: Handler) -> Handler:
        rule = RULES.get(method.name)
        if rule is None:
            return following

        async def validated(call: Call, request: Any) -> Message | bytes:
            rule(rules, call, request)
            return await following(call, request)

        return validated

    return wrap


# --- starting -----------------------------------------------------------------------------------------------------------
def _start(v: Validation, call: Call, request: Any) -> None:
    default_id_policies(request, WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_FAIL)
    check_workflow_id(request.workflow_id, v.limits)
    check_retry_policy(request)
    check_start_delay(request)
    v.start_checks.check_cron(request.cron_schedule)
    if not request.workflow_type.name:
        raise invalid_argument("WorkflowType is not set on request.")
    if is_longer(request.workflow_type.name, v.limits.id_bytes_max):
        raise invalid_argument("WorkflowType length exceeds limit.")
    check_task_queue(request, v.limits, is_users=True)
    check_workflow_timeouts(request)
    if not request.request_id:
        request.request_id = v.ids.uuid()
    elif is_longer(request.request_id, v.limits.id_bytes_max):
        raise invalid_argument("RequestId length exceeds limit.")
    check_id_policies(request)
    if request.HasField("on_conflict_options"):
        options = request.on_conflict_options
        if options.attach_completion_callbacks and not options.attach_request_id:
            raise invalid_argument("attaching request ID is required for attaching completion callbacks")
    v.start_checks.check_search_attributes(call, request)
    check_priority(request)
    v.start_checks.check_callbacks(request.completion_callbacks)
    check_links([*request.links, *(link for cb in request.completion_callbacks for link in cb.links)], v.limits)
    v.start_checks.refuse_what_is_not_built(request)
    check_identity(request, v.limits)
    v.start_checks.check_sizes(request, request.input)


def _signal_with_start(v: Validation, call: Call, request: Any) -> None:
    limit = v.limits.id_bytes_max
    v.start_checks.check_cron(request.cron_schedule)
    check_workflow_id(request.workflow_id, v.limits)
    for name, value, spoken in (
        ("signal", request.signal_name, "signal name"),
        ("workflow type", request.workflow_type.name, "workflow type name"),
    ):
        if not value:
            raise invalid_argument(f"{name} not set")
        if is_longer(value, limit):
            raise invalid_argument(f"{spoken} exceeds maximum allowed length ({len(value.encode())}/{limit})")
    check_task_queue(request, v.limits, is_users=True)
    if not request.request_id:
        request.request_id = v.ids.uuid()
    elif is_longer(request.request_id, limit):
        raise invalid_argument(f"Request ID exceeds maximum allowed length ({len(request.request_id.encode())}/{limit})")
    check_workflow_timeouts(request)
    check_retry_policy(request)
    check_start_delay(request)
    check_id_policies(request)
    if request.workflow_id_conflict_policy == WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_FAIL:
        raise invalid_argument(
            "Invalid WorkflowIDConflictPolicy: WORKFLOW_ID_CONFLICT_POLICY_FAIL is not supported for this operation."
        )
    default_id_policies(request, WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING)
    v.start_checks.check_search_attributes(call, request)
    check_priority(request)
    check_links(request.links, v.limits)
    v.start_checks.refuse_what_is_not_built(request)
    check_identity(request, v.limits)
    v.start_checks.check_sizes(request, request.input)
    check_payload_bytes(request.signal_input, v.limits)


def _multi_operation(v: Validation, call: Call, request: Any) -> None:
    validate_multi_operation(
        request,
        lambda start: _start(v, call, start),
        lambda update: _update(v, call, update),
    )


# --- one run --------------------------------------------------------------------------------------------------------------
def _execution(field: str) -> Rule:
    def rule(v: Validation, call: Call, request: Any) -> None:
        check_execution(request, field)

    return rule


def _signal(v: Validation, call: Call, request: Any) -> None:
    check_execution(request, "workflow_execution")
    if not request.signal_name:
        raise invalid_argument("SignalName is not set on request.")
    if is_longer(request.signal_name, v.limits.id_bytes_max):
        raise invalid_argument("SignalName length exceeds limit.")
    if is_longer(request.request_id, v.limits.id_bytes_max):
        raise invalid_argument("RequestId length exceeds limit.")
    check_links(request.links, v.limits)
    check_payload_bytes(request.input, v.limits)


def _cancel(v: Validation, call: Call, request: Any) -> None:
    check_execution(request, "workflow_execution")
    check_links(request.links, v.limits)


def _terminate(v: Validation, call: Call, request: Any) -> None:
    check_execution(request, "workflow_execution")
    check_links(request.links, v.limits)
    check_payload_bytes(request.details, v.limits)
    request.reason = request.reason or _TERMINATE_REASON
    request.identity = request.identity or _TERMINATE_IDENTITY


def _reset(v: Validation, call: Call, request: Any) -> None:
    if not request.request_id:
        raise invalid_argument("RequestId is not set on request.")
    if is_longer(request.request_id, v.limits.id_bytes_max):
        raise invalid_argument("RequestId length exceeds limit.")
    check_execution(request, "workflow_execution")
    if not request.reset_reapply_type:
        request.reset_reapply_type = ResetReapplyType.RESET_REAPPLY_TYPE_ALL_ELIGIBLE
    if request.reset_reapply_type not in ResetReapplyType.values():
        raise invalid_argument(f"unknown reset reapply type: {request.reset_reapply_type}")
    check_post_reset_operations(request.post_reset_operations)


def _history_page(v: Validation, call: Call, request: Any) -> None:
    check_execution(request, "execution")
    if "history_event_filter_type" in request.DESCRIPTOR.fields_by_name and not request.history_event_filter_type:
        request.history_event_filter_type = HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT
    if not 0 < request.maximum_page_size <= v.limits.history_page_events_max:
        request.maximum_page_size = v.limits.history_page_events_max


def _query(v: Validation, call: Call, request: Any) -> None:
    check_execution(request, "execution")
    if not request.HasField("query"):
        raise invalid_argument("WorkflowQuery is not set on request.")
    if not request.query.query_type:
        raise invalid_argument("QueryType is not set on request.")
    if is_longer(request.query.query_type, v.limits.id_bytes_max):
        raise invalid_argument("QueryType length exceeds limit.")
    if not request.query_reject_condition:
        request.query_reject_condition = QueryRejectCondition.QUERY_REJECT_CONDITION_NONE
    check_payload_bytes(request.query.query_args, v.limits)


def _update(v: Validation, call: Call, request: Any) -> None:
    check_execution(request, "workflow_execution")
    update = request.request
    if not update.HasField("meta"):
        raise invalid_argument("Update meta is not set on request.")
    if is_longer(update.meta.update_id, v.limits.id_bytes_max):
        raise invalid_argument("UpdateId length exceeds limit.")
    if not update.meta.update_id:
        update.meta.update_id = v.ids.uuid()
    if not update.HasField("input"):
        raise invalid_argument("Update input is not set on request.")
    if not update.input.name:
        raise invalid_argument("Update name is not set on request.")
    if is_longer(update.input.name, v.limits.id_bytes_max):
        raise invalid_argument("Update name length exceeds limit.")
    check_payload_bytes(update.input.args, v.limits)
    stages = UpdateWorkflowExecutionLifecycleStage
    if not request.wait_policy.lifecycle_stage:
        request.wait_policy.lifecycle_stage = stages.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED
    if request.wait_policy.lifecycle_stage == stages.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ADMITTED:
        raise permission_denied("UpdateWorkflowExecution issued asynchronously and waiting on update admitted is not supported.")


def _poll_update(v: Validation, call: Call, request: Any) -> None:
    if not request.HasField("update_ref"):
        raise invalid_argument("UpdateRef is not set on request.")
    if not request.update_ref.workflow_execution.workflow_id:
        raise invalid_argument("Can't load workflow execution.  WorkflowId not set.")


def _options(v: Validation, call: Call, request: Any) -> None:
    if not request.workflow_execution.workflow_id:
        raise invalid_argument("WorkflowId is not set on request.")
    if not request.HasField("update_mask"):
        raise invalid_argument("UpdateMask is required")
    if not request.HasField("workflow_execution_options"):
        raise invalid_argument("WorkflowExecutionOptions is required")
    if not request.update_mask.IsValidForDescriptor(request.workflow_execution_options.DESCRIPTOR):
        raise invalid_argument("error parsing UpdateMask: a path is not a field of WorkflowExecutionOptions")
    check_priority(request.workflow_execution_options)


def _activity(v: Validation, call: Call, request: Any) -> None:
    if not request.execution.workflow_id:
        raise invalid_argument("WorkflowId is not set on request.")
    if request.WhichOneof("activity") is None:
        raise invalid_argument("Either Activity.Id or Activity.Type should be set on request.")
    if "activity_options" in request.DESCRIPTOR.fields_by_name:
        check_priority(request.activity_options)


def _unpause(v: Validation, call: Call, request: Any) -> None:
    for name, spoken in (("reason", "reason"), ("request_id", "request id"), ("identity", "identity")):
        if is_longer(getattr(request, name), v.limits.id_bytes_max):
            raise invalid_argument(f"{spoken} is too long.")
    if not request.workflow_id:
        raise invalid_argument("WorkflowId is not set on request.")


# --- workers --------------------------------------------------------------------------------------------------------------
def _poll(v: Validation, call: Call, request: Any) -> None:
    if call.deadline is None:
        raise invalid_argument("Context timeout is not set.")
    if call.deadline - v.now_s() < LONG_POLL_MIN_S:
        raise failed_precondition("Context timeout is too short.")
    check_identity(request, v.limits)
    check_task_queue(request, v.limits)


def _identity(v: Validation, call: Call, request: Any) -> None:
    check_identity(request, v.limits)


def _by_id(v: Validation, call: Call, request: Any) -> None:
    if not request.activity_id:
        raise invalid_argument("ActivityId is not set on request.")
    check_identity(request, v.limits)
    if not request.workflow_id:
        raise no_such_activity(request.activity_id)


def _activity_failed(v: Validation, call: Call, request: Any) -> None:
    (_by_id if request.DESCRIPTOR.name.endswith("ByIdRequest") else _identity)(v, call, request)
    check_activity_failure(request)


def _describe_queue(v: Validation, call: Call, request: Any) -> None:
    is_enhanced = request.api_mode == DescribeTaskQueueMode.DESCRIBE_TASK_QUEUE_MODE_ENHANCED
    check_task_queue(request, v.limits, may_be_partition=not is_enhanced)
    if not request.task_queue_type or is_enhanced:
        request.task_queue_type = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
    if not request.task_queue_types:
        request.task_queue_types.extend((TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY))
    if is_enhanced and request.task_queue.kind == TaskQueueKind.TASK_QUEUE_KIND_STICKY:
        raise invalid_argument(
            "Enhanced DescribeTaskQueue is not valid for a sticky queue, use api_mode=UNSPECIFIED or a normal queue."
        )


def _partitions(v: Validation, call: Call, request: Any) -> None:
    check_task_queue(request, v.limits)


def _queue_config(v: Validation, call: Call, request: Any) -> None:
    is_workflow = request.task_queue_type == TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
    for field, label, words in (
        ("update_queue_rate_limit", "UpdateQueueRateLimit", "rate limit"),
        ("update_fairness_key_rate_limit_default", "UpdateFairnessKeyRateLimitDefault", "fairness key rate limit"),
    ):
        update = getattr(request, field)
        if not update.HasField("rate_limit"):
            continue
        if is_workflow:
            raise invalid_argument(f"Setting {words} on workflow task queues is not allowed.")
        if not update.rate_limit.requests_per_second >= 0:
            raise invalid_argument(f"RequestsPerSecond for {label} rate limit must be non-negative.")
        if is_longer(update.reason, REASON_BYTES_MAX):
            raise invalid_argument(f"{label}.Reason field too long (max {REASON_BYTES_MAX} characters).")
    weights = request.set_fairness_weight_overrides
    if (count := len(weights) + len(request.unset_fairness_weight_overrides)) > FAIRNESS_OVERRIDES_MAX:
        raise invalid_argument(f"too many fairness weight overrides in request: got {count}, maximum {FAIRNESS_OVERRIDES_MAX}")
    for key in (*weights, *request.unset_fairness_weight_overrides):
        if not key:
            raise invalid_argument("fairness weight override key must not be empty")
        if is_longer(key, 64):
            raise invalid_argument("fairness key length exceeds limit")
    for key, weight in weights.items():
        if not weight > 0:
            raise invalid_argument(f'invalid fairness weight weight for key "{key}": must be greater than zero')
        if key in request.unset_fairness_weight_overrides:
            raise invalid_argument(f'fairness weight override key "{key}" present in both set and unset lists')


# --- the table --------------------------------------------------------------------------------------------------------------
RULES: dict[str, Rule] = {
    "StartWorkflowExecution": _start,
    "SignalWithStartWorkflowExecution": _signal_with_start,
    "ExecuteMultiOperation": _multi_operation,
    "SignalWorkflowExecution": _signal,
    "RequestCancelWorkflowExecution": _cancel,
    "TerminateWorkflowExecution": _terminate,
    "DeleteWorkflowExecution": _execution("workflow_execution"),
    "ResetWorkflowExecution": _reset,
    "DescribeWorkflowExecution": _execution("execution"),
    "GetWorkflowExecutionHistory": _history_page,
    "GetWorkflowExecutionHistoryReverse": _history_page,
    "QueryWorkflow": _query,
    "ResetStickyTaskQueue": _execution("execution"),
    "UpdateWorkflowExecution": _update,
    "PollWorkflowExecutionUpdate": _poll_update,
    "UpdateWorkflowExecutionOptions": _options,
    "PauseActivity": _activity,
    "UnpauseActivity": _activity,
    "ResetActivity": _activity,
    "UpdateActivityOptions": _activity,
    "PauseWorkflowExecution": _unpause,
    "UnpauseWorkflowExecution": _unpause,
    "PollWorkflowTaskQueue": _poll,
    "PollActivityTaskQueue": _poll,
    "PollNexusTaskQueue": _poll,
    "RespondWorkflowTaskCompleted": _identity,
    "RespondWorkflowTaskFailed": _identity,
    "RespondActivityTaskCompleted": _identity,
    "RespondActivityTaskFailed": _activity_failed,
    "RespondActivityTaskCanceled": _identity,
    "RespondActivityTaskCompletedById": _by_id,
    "RespondActivityTaskFailedById": _activity_failed,
    "RespondActivityTaskCanceledById": _by_id,
    "RecordActivityTaskHeartbeatById": _by_id,
    "DescribeTaskQueue": _describe_queue,
    "ListTaskQueuePartitions": _partitions,
    "UpdateTaskQueueConfig": _queue_config,
}
