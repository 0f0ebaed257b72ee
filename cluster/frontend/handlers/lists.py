"""Lists and counts of runs, from visibility."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message
from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.workflow.v1 import WorkflowExecutionInfo
from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import invalid_argument
from cluster.frontend.call import Call, Handler
from cluster.frontend.handlers.services import Services
from cluster.visibility.base import CountGroup, VisibilityRow, execution_time_of
from cluster.visibility.expressions import Query
from cluster.visibility.query import parse_query
from cluster.visibility.search_attributes import AttributeType, Schema, as_message, encode_value

_SECOND_NS = 1_000_000_000
_GROUPED = frozenset({"ExecutionStatus"})  # as in the public server; the stores could group by any keyword
_OPEN = frozenset(
    {
        WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING,
        WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_PAUSED,
    }
)


def list_handlers(services: Services) -> dict[str, Handler]:
    return {
        "ListWorkflowExecutions": _by_query(services, "ListWorkflowExecutions", api.ListWorkflowExecutionsResponse),
        "ScanWorkflowExecutions": _by_query(services, "ScanWorkflowExecutions", api.ScanWorkflowExecutionsResponse),
        "ListOpenWorkflowExecutions": _by_filter(services, is_open=True),
        "ListClosedWorkflowExecutions": _by_filter(services, is_open=False),
        "ListArchivedWorkflowExecutions": _archived,
        "CountWorkflowExecutions": _count(services),
    }


def _by_query(services: Services, name: str, form: type[Any]) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        infos, token = await _page(services, call, name, request.query, request.page_size, request.next_page_token)
        answer: Message = form(executions=infos, next_page_token=token)
        return answer

    return handle


async def _page(
    services: Services, call: Call, name: str, text: str, page_size: int, page_token: bytes
) -> tuple[list[WorkflowExecutionInfo], bytes]:
    assert call.record is not None
    namespace_id, rows_max = call.record.id, services.limits.visibility_page_rows_max
    size = page_size if 0 < page_size <= rows_max else rows_max
    schema = services.schema_of(call.record)
    place = services.tokens.open_page(namespace_id, name, page_token)
    rows, following = await services.visibility.list(namespace_id, parse_query(text, schema), size, place)
    return [run_info(row, schema) for row in rows], services.tokens.seal_page(namespace_id, name, following)


def run_info(row: VisibilityRow, schema: Schema) -> WorkflowExecutionInfo:
    """As the public server lists a run: lengths and durations belong to closed runs only."""
    info = WorkflowExecutionInfo(status=WorkflowExecutionStatus.ValueType(row.status), task_queue=row.task_queue)
    info.execution.workflow_id, info.execution.run_id = row.workflow_id, row.run_id
    info.type.name = row.workflow_type
    info.start_time.FromNanoseconds(row.start_time)
    info.execution_time.FromNanoseconds(execution_time_of(row))
    info.memo.ParseFromString(row.memo)
    if row.search_attributes:
        info.search_attributes.CopyFrom(as_message(row.search_attributes, schema))
    if row.parent_workflow_id:
        info.parent_execution.workflow_id = row.parent_workflow_id
        info.parent_execution.run_id = row.parent_run_id or ""
    info.root_execution.workflow_id = row.root_workflow_id or row.workflow_id
    info.root_execution.run_id = row.root_run_id or row.run_id
    if row.status not in _OPEN and row.close_time is not None:
        info.close_time.FromNanoseconds(row.close_time)
        info.execution_duration.FromNanoseconds(row.close_time - execution_time_of(row))
        info.history_length = row.history_length
        info.history_size_bytes = row.history_size_bytes
        info.state_transition_count = row.state_transition_count
    return info


# --- the older calls: filters instead of a query ------------------------------------------------------------------------
def _by_filter(services: Services, *, is_open: bool) -> Handler:
    name = "ListOpenWorkflowExecutions" if is_open else "ListClosedWorkflowExecutions"
    form: type[Any] = api.ListOpenWorkflowExecutionsResponse if is_open else api.ListClosedWorkflowExecutionsResponse

    async def handle(call: Call, request: Any) -> Message | bytes:
        text = filter_query(request, is_open=is_open)
        infos, token = await _page(services, call, name, text, request.maximum_page_size, request.next_page_token)
        answer: Message = form(executions=infos, next_page_token=token)
        return answer

    return handle


def filter_query(request: Any, *, is_open: bool) -> str:
    """The query that means the same as the filters of a ListOpen or ListClosed request."""
    conditions = [f"ExecutionStatus {'=' if is_open else '!='} 'Running'"]
    conditions += _time_conditions(request.start_time_filter, "StartTime" if is_open else "CloseTime")
    chosen = request.WhichOneof("filters")
    if chosen == "execution_filter":
        conditions.append(f"WorkflowId = {_quoted(request.execution_filter.workflow_id)}")
    elif chosen == "type_filter":
        conditions.append(f"WorkflowType = {_quoted(request.type_filter.name)}")
    elif chosen == "status_filter":
        status = request.status_filter.status
        if status in (0, WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING):
            raise invalid_argument("StatusFilter must be specified and must be not Running.")
        if status not in WorkflowExecutionStatus.values():
            raise invalid_argument(f"invalid execution status: {status}")
        conditions.append(f"ExecutionStatus = '{status_name(status)}'")
    return " AND ".join(conditions)


def _time_conditions(times: Any, attribute: str) -> list[str]:
    earliest = _nanoseconds(times.earliest_time) if times.HasField("earliest_time") else None
    latest = _nanoseconds(times.latest_time) if times.HasField("latest_time") else None
    if earliest is not None and latest is not None and earliest > latest:
        raise invalid_argument("EarliestTime in StartTimeFilter should not be larger than LatestTime.")
    conditions = []
    if earliest is not None:
        conditions.append(f"{attribute} >= '{_rfc3339(earliest)}'")
    if latest is not None:
        conditions.append(f"{attribute} <= '{_rfc3339(latest)}'")
    return conditions


def _nanoseconds(timestamp: Any) -> int:
    return int(timestamp.seconds) * _SECOND_NS + int(timestamp.nanos)


def _rfc3339(moment_ns: int) -> str:
    seconds, nanos = divmod(moment_ns, _SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def status_name(status: int) -> str:
    """WORKFLOW_EXECUTION_STATUS_TIMED_OUT -> TimedOut."""
    name = WorkflowExecutionStatus.Name(WorkflowExecutionStatus.ValueType(status))
    return "".join(part.capitalize() for part in name.removeprefix("WORKFLOW_EXECUTION_STATUS_").split("_"))


async def _archived(call: Call, request: Any) -> Message | bytes:
    """There is no archive; the public server without one says the same."""
    raise invalid_argument("Cluster is not configured for visibility archival.")


# --- count ----------------------------------------------------------------------------------------------------------------
def _count(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        assert call.record is not None
        query = parse_query(request.query, services.schema_of(call.record))
        if query.group_by is not None and query.group_by.name not in _GROUPED:
            raise invalid_argument(
                "invalid query: operation is not supported: 'GROUP BY' clause is not supported for search attribute "
                + query.group_by.alias
            )
        found = await services.visibility.count(call.record.id, query)
        response = api.CountWorkflowExecutionsResponse(count=found.total)
        for group in found.groups:
            added = response.groups.add(count=group.count)
            added.group_values.append(_group_payload(query, group))
        return response

    return handle


def _group_payload(query: Query, group: CountGroup) -> Any:
    assert query.group_by is not None
    if query.group_by.name == "ExecutionStatus" and isinstance(group.value, int):
        return encode_value(status_name(group.value), AttributeType.KEYWORD)
    return encode_value(group.value, query.group_by.kind)
