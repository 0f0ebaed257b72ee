"""Reading: histories page by page, backwards, by long poll, only the end; describe, list and count."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio.api.common.v1 import Memo, RetryPolicy, SearchAttributes, WorkflowExecution
from temporalio.api.enums.v1 import HistoryEventFilterType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    CountWorkflowExecutionsRequest,
    CountWorkflowExecutionsResponse,
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryResponse,
    GetWorkflowExecutionHistoryReverseRequest,
    ListWorkflowExecutionsRequest,
    ListWorkflowExecutionsResponse,
    TerminateWorkflowExecutionRequest,
)

from tests.e2e import commands
from tests.e2e.environment import Env, event_name, payload, payloads, seconds
from tests.e2e.raw_worker import failure
from tests.e2e.registry import Run, scenario

CLOSE_EVENT = HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT


async def page(env: Env, run: Run, timeout_s: float = 15, **fields: Any) -> GetWorkflowExecutionHistoryResponse:
    return await env.service.get_workflow_execution_history(
        GetWorkflowExecutionHistoryRequest(
            namespace=env.namespace,
            execution=WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id),
            **fields,
        ),
        timeout=seconds(timeout_s),
    )


def names(response: Any) -> list[str]:
    return [f"{event.event_id} {event_name(event)}" for event in response.history.events]


@scenario("history_by_long_poll", items=["history: long poll"])
async def history_by_long_poll(env: Env) -> list[Run]:
    run = await env.start_raw()
    now = await page(env, run, wait_new_event=True)
    env.observe("at once", names(now))
    waiting = asyncio.create_task(page(env, run, wait_new_event=True, next_page_token=now.next_page_token))
    await env.signal(run)
    first = await waiting
    env.observe("after a signal", names(first))
    waiting = asyncio.create_task(page(env, run, wait_new_event=True, next_page_token=first.next_page_token))
    await env.service.terminate_workflow_execution(terminate(env, run))
    last = await waiting
    env.observe("after the end", names(last))
    env.observe("no further page", last.next_page_token == b"")
    return [run]


def terminate(env: Env, run: Run) -> TerminateWorkflowExecutionRequest:
    execution = WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id)
    return TerminateWorkflowExecutionRequest(namespace=env.namespace, workflow_execution=execution, identity="e2e", reason="over")


@scenario("history_close_event", items=["history: close event", "history: long poll"])
async def history_close_event(env: Env) -> list[Run]:
    run = await env.start_raw()
    # The real server waits even when it is not asked to, and then answers with nothing; an answer at once is as good.
    env.observe("of an open run", names(await page(env, run, timeout_s=2, history_event_filter_type=CLOSE_EVENT)))
    waiting = asyncio.create_task(page(env, run, wait_new_event=True, history_event_filter_type=CLOSE_EVENT))
    await env.raw.step(commands.complete(payloads("result")))
    env.observe("waited for", names(await waiting))
    closed = await page(env, run, history_event_filter_type=CLOSE_EVENT)
    env.observe("of a closed run", names(closed))
    env.observe("no further page", closed.next_page_token == b"")
    return [run]


async def with_markers(env: Env) -> Run:
    run = await env.start_raw()
    await env.raw.step(*[commands.marker(f"m{number}") for number in range(5)])
    await env.signal(run)
    await env.raw.step(commands.complete())
    return run


@scenario("history_in_pages", items=["history: paging"])
async def history_in_pages(env: Env) -> list[Run]:
    """A page holds whole batches of events, at least as many as asked for."""
    run = await with_markers(env)
    seen: list[str] = []
    token = b""
    while True:
        response = await page(env, run, maximum_page_size=2, next_page_token=token)
        seen += names(response)
        token = response.next_page_token
        if not token:
            break
    env.observe("all events", seen)
    await env.observe_error("bad token", page(env, run, next_page_token=b"no token"))
    return [run]


@scenario("history_reversed", items=["history: reverse"])
async def history_reversed(env: Env) -> list[Run]:
    run = await with_markers(env)
    seen: list[str] = []
    token = b""
    while True:
        response = await env.service.get_workflow_execution_history_reverse(
            GetWorkflowExecutionHistoryReverseRequest(
                namespace=env.namespace,
                execution=WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id),
                maximum_page_size=4,
                next_page_token=token,
            )
        )
        seen += names(response)
        token = response.next_page_token
        if not token:
            break
    env.observe("backwards", seen)
    return [run]


@scenario("history_of_the_current_run", items=["history: paging"])
async def history_of_the_current_run(env: Env) -> list[Run]:
    """Without a run id the current run is read."""
    first = await env.start_raw()
    await env.raw.step(commands.complete())
    second = await env.start_raw(input=payloads("second"))
    response = await page(env, Run(first.workflow_id, ""))
    env.observe("input", response.history.events[0].workflow_execution_started_event_attributes.input)
    return [first, second]


@scenario("describe_open_and_closed", items=["visibility: describe", "workflow: versioning untouched"])
async def describe_open_and_closed(env: Env) -> list[Run]:
    run = await env.start_raw(
        memo=Memo(fields={"m": payload(1)}),
        search_attributes=SearchAttributes(indexed_fields={"E2eKeyword": payload("k")}),
        workflow_execution_timeout=seconds(60),
        workflow_run_timeout=seconds(30),
        workflow_task_timeout=seconds(5),
        retry_policy=RetryPolicy(maximum_attempts=1),
    )
    env.observe("task scheduled", await env.describe(run))
    task = await env.raw.poll()
    env.observe("task started", (await env.describe(run)).pending_workflow_task)
    await env.raw.complete(
        task, commands.start_timer("t"), commands.start_child(env.id("child"), task_queue=TaskQueue(name=env.id("nobody")))
    )
    await env.seen(run, "CHILD_WORKFLOW_EXECUTION_STARTED")
    env.observe("with a child", list((await env.describe(run)).pending_children))
    await env.raw.step(commands.complete())
    env.observe("closed", await env.describe(run))
    return [run]


# By default the real server allows few visibility calls per second: `retry=True` waits until it takes the call.


def query(env: Env, text: str) -> str:
    if not text or text.startswith("GROUP BY"):
        return f"E2eKeyword = '{env.token}' {text}"
    return f"E2eKeyword = '{env.token}' AND ({text})"


async def listed(env: Env, text: str = "", **fields: Any) -> ListWorkflowExecutionsResponse:
    return await env.service.list_workflow_executions(
        ListWorkflowExecutionsRequest(namespace=env.namespace, query=query(env, text), **fields), retry=True
    )


async def counted(env: Env, text: str = "") -> CountWorkflowExecutionsResponse:
    return await env.service.count_workflow_executions(
        CountWorkflowExecutionsRequest(namespace=env.namespace, query=query(env, text)), retry=True
    )


@scenario("list_and_count", items=["visibility: list", "visibility: count"])
async def list_and_count(env: Env) -> list[Run]:
    """Five runs, found by attribute, status, type, id, and in order; counted in groups."""
    runs = []
    for number in range(5):
        fields = {"E2eKeyword": payload(env.token), "E2eInt": payload(number), "E2eText": payload(f"some words {number}")}
        attributes = SearchAttributes(indexed_fields=fields)
        runs.append(await env.start_raw(f"wf{number}", search_attributes=attributes, memo=Memo(fields={"n": payload(number)})))
        if number < 3:
            await env.raw.step(commands.fail(failure("x")) if number == 2 else commands.complete())

    async def three_closed() -> bool:
        return (await counted(env, "ExecutionStatus != 'Running'")).count == 3 and (await counted(env)).count == 5

    await env.until(three_closed, "visibility of five runs, three of them closed")
    for text in (
        "ExecutionStatus = 'Running'",
        "E2eInt >= 3",
        "E2eInt BETWEEN 1 AND 2",
        f"WorkflowId = '{runs[2].workflow_id}'",
        "WorkflowId STARTS_WITH 'wf3'",
        "WorkflowType = 'Raw' AND ExecutionStatus IN ('Completed', 'Failed')",
        "E2eInt = 0 OR E2eInt = 4",
        "NOT E2eInt = 0",
        "E2eText = 'words'",
        "E2eDouble IS NULL",
        "CloseTime IS NOT NULL",
        f"TaskQueue = '{env.task_queue}'",
    ):
        found = sorted(info.execution.workflow_id for info in (await listed(env, text)).executions)
        env.observe(text, {"ids": found, "count": (await counted(env, text)).count})
    groups = await counted(env, "GROUP BY ExecutionStatus")
    env.observe("groups", sorted(f"{group.group_values[0].data.decode()} {group.count}" for group in groups.groups))
    env.observe("sum of groups", groups.count)
    (one,) = (await listed(env, "E2eInt = 3")).executions
    env.observe("a row", one)
    return runs


@scenario("list_in_pages", items=["visibility: list"])
async def list_in_pages(env: Env) -> list[Run]:
    """Without an order: running first, then by start time, newest first."""
    for number in range(5):
        attributes = SearchAttributes(indexed_fields={"E2eKeyword": payload(env.token), "E2eInt": payload(number)})
        await env.start_raw(f"wf{number}", search_attributes=attributes, task_queue=TaskQueue(name=env.id("nobody")))
        await asyncio.sleep(0.01)  # So that no two start in the same millisecond.

    async def all_there() -> bool:
        return (await counted(env)).count == 5

    await env.until(all_there, "visibility of five runs")
    token, pages = b"", []
    while True:
        response = await listed(env, page_size=2, next_page_token=token)
        pages.append([info.execution.workflow_id for info in response.executions])
        token = response.next_page_token
        if not token:
            break
    env.observe("ids", [workflow_id for found in pages for workflow_id in found])
    env.observe("page sizes are kept", all(len(found) <= 2 for found in pages))
    return []


@scenario("list_bad_queries", items=["visibility: list", "visibility: count"])
async def list_bad_queries(env: Env) -> list[Run]:
    for text in (
        "nonsense",
        "Nobody = 'x'",
        "ExecutionStatus = 'Sleeping'",
        "E2eInt = 'x'",
        "WorkflowId = ",
        "E2eInt LIKE 'x'",
        "StartTime > 'yesterday'",
    ):
        request = ListWorkflowExecutionsRequest(namespace=env.namespace, query=text)
        await env.observe_error(f"list {text}", env.service.list_workflow_executions(request, retry=True))
    for text in ("GROUP BY WorkflowType", "GROUP BY ExecutionStatus, WorkflowType", "E2eInt = 1 GROUP BY E2eInt"):
        count = CountWorkflowExecutionsRequest(namespace=env.namespace, query=text)
        await env.observe_error(f"count {text}", env.service.count_workflow_executions(count, retry=True))
    return []
