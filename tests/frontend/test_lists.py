"""Lists and counts show what visibility holds, in the public server's form."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Memo, Payload
from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.filter.v1 import StartTimeFilter, StatusFilter, WorkflowExecutionFilter, WorkflowTypeFilter
from temporalio.api.workflowservice import v1 as w

from cluster.frontend.handlers.lists import filter_query, status_name
from cluster.visibility.base import VisibilityRow
from tests.frontend.world import World, world

SECOND_NS = 10**9
RUNNING, COMPLETED, TIMED_OUT = 1, 2, 7


def row(number: int, status: int, **changes: Any) -> VisibilityRow:
    fields: dict[str, Any] = {
        "namespace_id": "",
        "workflow_id": f"w'{number}",
        "run_id": f"r{number}",
        "workflow_type": "Transfer",
        "status": status,
        "start_time": number * SECOND_NS,
        "position": 1,
        "close_time": None if status == RUNNING else (number + 5) * SECOND_NS,
        "history_length": 11,
        "task_queue": "payments",
    }
    return VisibilityRow(**{**fields, **changes})


@pytest_asyncio.fixture
async def served() -> AsyncIterator[World]:
    async with world() as made:
        memo = Memo(fields={"m": Payload(data=b"1")}).SerializeToString()
        rows = [row(1, RUNNING, memo=memo, parent_workflow_id="p", parent_run_id="pr"), row(2, COMPLETED), row(3, TIMED_OUT)]
        rows = [msgspec.structs.replace(one, namespace_id=made.record().id) for one in rows]
        rows.append(row(4, RUNNING, namespace_id=made.record("other").id))
        await made.visibility.upsert(rows)
        yield made


async def test_an_open_run_is_listed_without_close_figures(served: World) -> None:
    request = w.ListWorkflowExecutionsRequest(namespace="default", query="ExecutionStatus = 'Running'")
    (info,) = (await served.stub.ListWorkflowExecutions(request, timeout=5)).executions
    assert (info.execution.workflow_id, info.execution.run_id, info.type.name) == ("w'1", "r1", "Transfer")
    assert (info.parent_execution.workflow_id, info.root_execution.run_id) == ("p", "r1")
    assert info.memo.fields["m"].data == b"1" and info.task_queue == "payments"
    assert info.start_time == info.execution_time == Timestamp(seconds=1)
    assert not info.HasField("close_time") and info.history_length == 0


async def test_a_closed_run_is_listed_with_its_duration(served: World) -> None:
    request = w.ListWorkflowExecutionsRequest(namespace="default", query="ExecutionStatus = 'Completed'")
    (info,) = (await served.stub.ListWorkflowExecutions(request, timeout=5)).executions
    assert info.status == WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED
    assert (info.close_time.seconds, info.execution_duration.seconds, info.history_length) == (7, 5, 11)


async def test_pages_follow_each_other_and_end(served: World) -> None:
    seen, token = [], b""
    for _ in range(3):
        request = w.ScanWorkflowExecutionsRequest(namespace="default", page_size=1, next_page_token=token)
        page = await served.stub.ScanWorkflowExecutions(request, timeout=5)
        seen += [info.execution.run_id for info in page.executions]
        token = page.next_page_token
    if token:
        page = await served.stub.ScanWorkflowExecutions(
            w.ScanWorkflowExecutionsRequest(namespace="default", page_size=1, next_page_token=token), timeout=5
        )
        assert not page.executions and not page.next_page_token
    assert sorted(seen) == ["r1", "r2", "r3"]


async def test_a_page_token_of_another_call_or_namespace_is_refused(served: World) -> None:
    request = w.ListWorkflowExecutionsRequest(namespace="default", page_size=1)
    token = (await served.stub.ListWorkflowExecutions(request, timeout=5)).next_page_token
    assert token
    for call in (
        served.stub.ScanWorkflowExecutions(
            w.ScanWorkflowExecutionsRequest(namespace="default", page_size=1, next_page_token=token), timeout=5
        ),
        served.stub.ListWorkflowExecutions(
            w.ListWorkflowExecutionsRequest(namespace="other", page_size=1, next_page_token=token), timeout=5
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call
        assert refusal.value.details() == "Invalid NextPageToken."


async def test_a_count_by_status_names_the_statuses(served: World) -> None:
    request = w.CountWorkflowExecutionsRequest(namespace="default", query="GROUP BY ExecutionStatus")
    answer = await served.stub.CountWorkflowExecutions(request, timeout=5)
    groups = {group.group_values[0].data: group.count for group in answer.groups}
    assert (answer.count, groups) == (3, {b'"Running"': 1, b'"Completed"': 1, b'"TimedOut"': 1})


async def test_a_bad_query_is_the_callers_fault(served: World) -> None:
    request = w.ListWorkflowExecutionsRequest(namespace="default", query="NoSuchAttribute = 1")
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await served.stub.ListWorkflowExecutions(request, timeout=5)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["r1"]),
        ({"execution_filter": WorkflowExecutionFilter(workflow_id="w'1")}, ["r1"]),
        ({"execution_filter": WorkflowExecutionFilter(workflow_id="w' OR 1=1")}, []),
        ({"type_filter": WorkflowTypeFilter(name="Other")}, []),
        ({"start_time_filter": StartTimeFilter(earliest_time=Timestamp(seconds=2))}, []),
        ({"start_time_filter": StartTimeFilter(latest_time=Timestamp(seconds=1))}, ["r1"]),
    ],
)
async def test_the_open_list_keeps_its_filters(served: World, filters: dict[str, Any], expected: list[str]) -> None:
    request = w.ListOpenWorkflowExecutionsRequest(namespace="default", **filters)
    answer = await served.stub.ListOpenWorkflowExecutions(request, timeout=5)
    assert [info.execution.run_id for info in answer.executions] == expected


async def test_the_closed_list_counts_time_from_the_close(served: World) -> None:
    times = StartTimeFilter(earliest_time=Timestamp(seconds=8))
    request = w.ListClosedWorkflowExecutionsRequest(namespace="default", start_time_filter=times)
    answer = await served.stub.ListClosedWorkflowExecutions(request, timeout=5)
    assert [info.execution.run_id for info in answer.executions] == ["r3"]
    status = StatusFilter(status=WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED)
    request = w.ListClosedWorkflowExecutionsRequest(namespace="default", status_filter=status)
    answer = await served.stub.ListClosedWorkflowExecutions(request, timeout=5)
    assert [info.execution.run_id for info in answer.executions] == ["r2"]


def test_a_status_is_spelled_as_queries_spell_it() -> None:
    assert [status_name(status) for status in (1, 6, 7)] == ["Running", "ContinuedAsNew", "TimedOut"]


def test_a_quote_in_a_filter_cannot_end_its_string() -> None:
    request = w.ListOpenWorkflowExecutionsRequest(type_filter=WorkflowTypeFilter(name="a' OR 'b\\"))
    assert filter_query(request, is_open=True) == "ExecutionStatus = 'Running' AND WorkflowType = 'a\\' OR \\'b\\\\'"
