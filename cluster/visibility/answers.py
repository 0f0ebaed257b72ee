"""Visibility rows as the messages that callers get, and the open and closed lists of the older calls as queries."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Memo
from temporalio.api.workflow.v1 import WorkflowExecutionInfo
from temporalio.api.workflowservice.v1 import (
    CountWorkflowExecutionsResponse,
    ListClosedWorkflowExecutionsRequest,
    ListOpenWorkflowExecutionsRequest,
)

from cluster.core.errors import invalid_argument
from cluster.visibility.base import VisibilityCount, VisibilityRow, execution_time_of
from cluster.visibility.expressions import And, Attribute, Condition, Expression, Operator, Query
from cluster.visibility.moments import clamp_int64
from cluster.visibility.operands import STATUS_NAME
from cluster.visibility.search_attributes import (
    INT64_MAX,
    INT64_MIN,
    SYSTEM,
    AttributeType,
    Schema,
    as_message,
    encode_value,
)

_NS = 1_000_000_000
_RUNNING = 1


def _set_time(field: Timestamp, at_ns: int) -> None:
    field.seconds, field.nanos = divmod(at_ns, _NS)


def _moment(field: Timestamp) -> int:
    return clamp_int64(field.seconds * _NS + field.nanos)


def execution_info(row: VisibilityRow, schema: Schema) -> WorkflowExecutionInfo:
    """One entry of a list. Attributes that the namespace does not define any more are left out."""
    info = WorkflowExecutionInfo(
        status=row.status,  # type: ignore[arg-type]  # a plain number at run time
        history_length=row.history_length,
        history_size_bytes=row.history_size_bytes,
        state_transition_count=row.state_transition_count,
        task_queue=row.task_queue,
        memo=Memo.FromString(row.memo),
    )
    info.execution.workflow_id, info.execution.run_id = row.workflow_id, row.run_id
    info.type.name = row.workflow_type
    _set_time(info.start_time, row.start_time)
    _set_time(info.execution_time, execution_time_of(row))
    if row.close_time is not None:
        _set_time(info.close_time, row.close_time)
        info.execution_duration.FromNanoseconds(row.close_time - execution_time_of(row))
    if row.parent_workflow_id:
        info.parent_namespace_id = row.namespace_id
        info.parent_execution.workflow_id = row.parent_workflow_id
        info.parent_execution.run_id = row.parent_run_id or ""
    info.root_execution.workflow_id = row.root_workflow_id or row.workflow_id
    info.root_execution.run_id = row.root_run_id or row.run_id
    if row.search_attributes:
        info.search_attributes.CopyFrom(as_message(row.search_attributes, schema))
    return info


def count_answer(counted: VisibilityCount, query: Query) -> CountWorkflowExecutionsResponse:
    """Group values are payloads of the attribute's type; ExecutionStatus goes by name."""
    answer = CountWorkflowExecutionsResponse(count=counted.total)
    for group in counted.groups if query.group_by is not None else ():
        value = group.value
        if query.group_by is not None and query.group_by.name == "ExecutionStatus" and isinstance(value, int):
            value = STATUS_NAME.get(value, str(value))
        entry = answer.groups.add(count=group.count)
        entry.group_values.append(encode_value(value, AttributeType.KEYWORD))
    return answer


# --- ListOpenWorkflowExecutions, ListClosedWorkflowExecutions -------------------------------------------------------------
_LegacyRequest = ListOpenWorkflowExecutionsRequest | ListClosedWorkflowExecutionsRequest


def _condition(name: str, test: Operator, *operands: str | int, negated: bool = False) -> Condition:
    return Condition(Attribute(name, SYSTEM[name], name), test, operands, negated)


def _filters(request: _LegacyRequest) -> list[Expression]:
    filters: list[Expression] = []
    if request.HasField("execution_filter"):
        if request.execution_filter.workflow_id:
            filters.append(_condition("WorkflowId", Operator.EQUAL, request.execution_filter.workflow_id))
        if request.execution_filter.run_id:
            filters.append(_condition("RunId", Operator.EQUAL, request.execution_filter.run_id))
    if request.HasField("type_filter"):
        filters.append(_condition("WorkflowType", Operator.EQUAL, request.type_filter.name))
    return filters


def _between(request: _LegacyRequest, attribute: str) -> Expression | None:
    """The start time filter; its ends may each be missing."""
    if not request.HasField("start_time_filter"):
        return None
    window = request.start_time_filter
    earliest = _moment(window.earliest_time) if window.HasField("earliest_time") else INT64_MIN
    latest = _moment(window.latest_time) if window.HasField("latest_time") else INT64_MAX
    if earliest > latest:
        raise invalid_argument("EarliestTime in StartTimeFilter should not be larger than LatestTime.")
    return _condition(attribute, Operator.BETWEEN, earliest, latest)


def _query(name: str, filters: list[Expression], encoded: bytes) -> Query:
    where = filters[0] if len(filters) == 1 else And(tuple(filters))
    return Query(f"{name} {encoded.hex()}", where)


def _without_paging(request: _LegacyRequest) -> bytes:
    kept = type(request)()
    kept.CopyFrom(request)  # type: ignore[arg-type]
    kept.ClearField("next_page_token")
    kept.ClearField("maximum_page_size")
    return kept.SerializeToString(deterministic=True)


def open_list_query(request: ListOpenWorkflowExecutionsRequest) -> Query:
    """Running workflows; the window is of their start."""
    filters = [_condition("ExecutionStatus", Operator.EQUAL, _RUNNING), *_filters(request)]
    if (window := _between(request, "StartTime")) is not None:
        filters.append(window)
    return _query("open", filters, _without_paging(request))


def closed_list_query(request: ListClosedWorkflowExecutionsRequest) -> Query:
    """Workflows that are not running; the window is of their close, as on the real server."""
    filters = [_condition("ExecutionStatus", Operator.EQUAL, _RUNNING, negated=True), *_filters(request)]
    if request.HasField("status_filter"):
        if request.status_filter.status in (0, _RUNNING):
            raise invalid_argument("StatusFilter must be specified and must be not Running.")
        filters.append(_condition("ExecutionStatus", Operator.EQUAL, request.status_filter.status))
    if (window := _between(request, "CloseTime")) is not None:
        filters.append(window)
    return _query("closed", filters, _without_paging(request))
