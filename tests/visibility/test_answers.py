"""Rows as messages, and the older list calls as queries."""

from __future__ import annotations

import pytest
from temporalio.api.common.v1 import Memo, Payload
from temporalio.api.workflowservice.v1 import ListClosedWorkflowExecutionsRequest, ListOpenWorkflowExecutionsRequest

from cluster.core.errors import CallerError
from cluster.visibility.answers import closed_list_query, count_answer, execution_info, open_list_query
from cluster.visibility.memory import MemoryVisibility
from cluster.visibility.query import parse_query
from tests.visibility.rows import DAY_ONE, NAMESPACE, SCHEMA, SECOND_NS, attributes, row


def test_a_row_becomes_an_execution_info() -> None:
    memo = Memo(fields={"k": Payload(data=b"v")})
    info = execution_info(
        row(
            "w",
            status=2,
            execution_time=DAY_ONE + SECOND_NS,
            close_time=DAY_ONE + 3 * SECOND_NS,
            parent_workflow_id="p",
            parent_run_id="pr",
            memo=memo.SerializeToString(),
            search_attributes=attributes(CustomerId="c"),
        ),
        SCHEMA,
    )
    assert (info.execution.workflow_id, info.type.name, info.task_queue, info.status) == ("w", "Transfer", "payments", 2)
    assert info.execution_duration.ToNanoseconds() == 2 * SECOND_NS
    assert info.close_time.ToNanoseconds() == DAY_ONE + 3 * SECOND_NS
    assert info.parent_execution.run_id == "pr" and info.root_execution.workflow_id == "w"
    assert info.memo == memo
    assert info.search_attributes.indexed_fields["CustomerId"].metadata["type"] == b"Keyword"


def test_an_open_run_has_no_close_time() -> None:
    info = execution_info(row("w"), SCHEMA)
    assert not info.HasField("close_time") and not info.HasField("execution_duration")


async def test_groups_name_the_status_and_keep_the_missing_value() -> None:
    store = MemoryVisibility()
    await store.upsert([row("a", status=7), row("b", status=7, search_attributes=attributes(CustomerId="c"))])
    query = parse_query("GROUP BY ExecutionStatus", SCHEMA)
    answer = count_answer(await store.count(NAMESPACE, query), query)
    assert answer.count == 2 and answer.groups[0].group_values[0].data == b'"TimedOut"'
    assert answer.groups[0].group_values[0].metadata["type"] == b"Keyword"
    query = parse_query("GROUP BY CustomerId", SCHEMA)
    answer = count_answer(await store.count(NAMESPACE, query), query)
    assert [group.group_values[0].metadata["encoding"] for group in answer.groups] == [b"json/plain", b"binary/null"]


async def test_the_open_and_closed_lists_filter_by_id_type_status_and_time() -> None:
    store = MemoryVisibility()
    await store.upsert(
        [
            row("open"),
            row("open-late", start_time=DAY_ONE + 9 * SECOND_NS, workflow_type="Refund"),
            row("failed", status=3, close_time=DAY_ONE + SECOND_NS),
            row("done", status=2, close_time=DAY_ONE + 9 * SECOND_NS),
        ]
    )

    async def listed(request: ListOpenWorkflowExecutionsRequest | ListClosedWorkflowExecutionsRequest) -> list[str]:
        is_open = isinstance(request, ListOpenWorkflowExecutionsRequest)
        query = open_list_query(request) if is_open else closed_list_query(request)  # type: ignore[arg-type]
        return [one.workflow_id for one in (await store.list(NAMESPACE, query, 10, b""))[0]]

    request = ListOpenWorkflowExecutionsRequest()
    assert await listed(request) == ["open-late", "open"]
    request.start_time_filter.latest_time.FromNanoseconds(DAY_ONE)
    assert await listed(request) == ["open"]
    request.type_filter.name = "Refund"
    assert await listed(request) == []
    closed = ListClosedWorkflowExecutionsRequest()
    assert await listed(closed) == ["done", "failed"]
    closed.start_time_filter.earliest_time.FromNanoseconds(DAY_ONE + 2 * SECOND_NS)
    assert await listed(closed) == ["done"]
    closed = ListClosedWorkflowExecutionsRequest()
    closed.status_filter.status = 3  # type: ignore[assignment]
    assert await listed(closed) == ["failed"]
    closed = ListClosedWorkflowExecutionsRequest()
    closed.execution_filter.workflow_id = "done' OR '1'='1"
    assert await listed(closed) == []


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    request = ListOpenWorkflowExecutionsRequest()
    request.start_time_filter.earliest_time.seconds = 2
    request.start_time_filter.latest_time.seconds = 1
    with pytest.raises(CallerError, match="EarliestTime in StartTimeFilter should not be larger than LatestTime"):
        open_list_query(request)


def test_the_page_token_of_one_older_list_does_not_fit_another() -> None:
    one, other = ListOpenWorkflowExecutionsRequest(), ListOpenWorkflowExecutionsRequest(next_page_token=b"x", maximum_page_size=3)
    assert open_list_query(one).text == open_list_query(other).text
    other.type_filter.name = "Refund"
    assert open_list_query(one).text != open_list_query(other).text
