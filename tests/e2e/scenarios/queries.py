"""Queries: direct, with a pending task, on closed runs, and every way to fail."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from temporalio import workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import QueryRejectCondition, QueryResultType
from temporalio.api.query.v1 import WorkflowQuery, WorkflowQueryResult
from temporalio.api.workflowservice.v1 import QueryWorkflowRequest, QueryWorkflowResponse
from temporalio.client import WorkflowQueryFailedError

from tests.e2e import commands
from tests.e2e.environment import Env, payloads, run_of, seconds
from tests.e2e.registry import Run, scenario
from tests.e2e.scenarios.workflow_task import view

ANSWERED = QueryResultType.QUERY_RESULT_TYPE_ANSWERED
FAILED = QueryResultType.QUERY_RESULT_TYPE_FAILED


@workflow.defn
class Asked:
    def __init__(self) -> None:
        self.state = "new"
        self.done = False

    @workflow.signal
    def finish(self) -> None:
        self.done = True

    @workflow.query
    def status(self, prefix: str) -> str:
        return prefix + self.state

    @workflow.query
    def broken(self) -> str:
        raise ValueError("the query failed")

    @workflow.run
    async def run(self) -> str:
        self.state = "waiting"
        await workflow.wait_condition(lambda: self.done)
        self.state = "done"
        return "over"


@scenario("query_running_and_closed", items=["query: running", "query: closed"])
async def query_running_and_closed(env: Env) -> list[Run]:
    async with env.worker([Asked]):
        handle = await env.start(Asked.run)
        assert await handle.query(Asked.status, "it is ") == "it is waiting"
        await handle.signal(Asked.finish)
        await handle.result()
        assert await handle.query(Asked.status, "it is ") == "it is done"
    return [run_of(handle)]


@scenario("query_without_cache", items=["query: running"])
async def query_without_cache(env: Env) -> list[Run]:
    async with env.worker([Asked], max_cached_workflows=0):
        handle = await env.start(Asked.run)
        assert await handle.query(Asked.status, "") == "waiting"
        assert await handle.query(Asked.status, "") == "waiting"
        await handle.signal(Asked.finish)
        await handle.result()
    return [run_of(handle)]


@scenario("query_fails", items=["query: failed", "query: unknown type"])
async def query_fails(env: Env) -> list[Run]:
    async with env.worker([Asked]):
        handle = await env.start(Asked.run)
        await env.seen(run_of(handle), "WORKFLOW_TASK_COMPLETED")
        for query in ("broken", "nobody"):
            try:
                await handle.query(query)
            except WorkflowQueryFailedError as error:
                env.observe(query, str(error.message))
            else:
                raise AssertionError(f"query {query} should have failed")
        await handle.signal(Asked.finish)
        await handle.result()
    return [run_of(handle)]


def ask(env: Env, run: Run, kind: str = "status", **fields: Any) -> Coroutine[Any, Any, QueryWorkflowResponse]:
    return env.service.query_workflow(
        QueryWorkflowRequest(
            namespace=env.namespace,
            execution=WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id),
            query=WorkflowQuery(query_type=kind, query_args=payloads("argument")),
            **fields,
        ),
        timeout=seconds(10),
    )


@scenario("query_is_a_task_of_its_own", items=["query: running"])
async def query_is_a_task_of_its_own(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step()
    asking = asyncio.create_task(ask(env, run))
    task = await env.raw.poll()
    env.observe("task", view(task))
    env.observe("query", task.query)
    await env.raw.answer_query(task, completed_type=ANSWERED, query_result=payloads("fine"))
    env.observe("answer", await asking)
    return [run]


@scenario("query_on_the_sticky_queue", items=["query: running", "workflow task: sticky"])
async def query_on_the_sticky_queue(env: Env) -> list[Run]:
    run, sticky = await env.start_raw(), env.id("sticky")
    polling = await env.raw.poll_sticky(sticky)
    await env.raw.step(sticky=sticky)
    asking = asyncio.create_task(ask(env, run))
    task = await polling
    env.observe("task", view(task))
    await env.raw.answer_query(task, completed_type=ANSWERED, query_result=payloads("fine"))
    env.observe("answer", await asking)
    return [run]


@scenario("query_rides_on_a_buffered_task", items=["query: buffered task"])
async def query_rides_on_a_buffered_task(env: Env) -> list[Run]:
    """While a task runs a query waits; it goes to the worker with the next task and comes back with its answer."""
    run = await env.start_raw()
    first = await env.raw.poll()
    asking = asyncio.create_task(ask(env, run))
    await env.signal(run)
    # The query is registered at the server before the task is answered: there is no sign of it to wait for.
    await asyncio.sleep(0.3)
    await env.raw.complete(first)
    second = await env.raw.poll()
    env.observe("second", view(second))
    assert len(second.queries) == 1
    (query_id, query) = next(iter(second.queries.items()))
    env.observe("query type", query.query_type)
    result = WorkflowQueryResult(result_type=ANSWERED, answer=payloads("seen the signal"))
    await env.raw.complete(second, commands.complete(), query_results={query_id: result})
    env.observe("answer", await asking)
    return [run]


@scenario("query_waits_for_a_running_task", items=["query: buffered task"])
async def query_waits_for_a_running_task(env: Env) -> list[Run]:
    """No new event needs a task, so after the answer the query is sent as a task of its own."""
    run = await env.start_raw()
    first = await env.raw.poll()
    asking = asyncio.create_task(ask(env, run))
    await asyncio.sleep(0.3)  # As above.
    await env.raw.complete(first)
    task = await env.raw.poll()
    env.observe("task", view(task))
    env.observe("is a query task", bool(task.query.query_type))
    if task.query.query_type:
        await env.raw.answer_query(task, completed_type=ANSWERED, query_result=payloads("later"))
    else:
        (query_id,) = task.queries
        result = WorkflowQueryResult(result_type=ANSWERED, answer=payloads("later"))
        await env.raw.complete(task, query_results={query_id: result})
    env.observe("answer", await asking)
    return [run]


@scenario("query_fails_on_a_buffered_task", items=["query: failed", "query: buffered task"])
async def query_fails_on_a_buffered_task(env: Env) -> list[Run]:
    run = await env.start_raw()
    first = await env.raw.poll()
    asking = asyncio.create_task(ask(env, run))
    await env.signal(run)
    await asyncio.sleep(0.3)  # As above.
    await env.raw.complete(first)
    second = await env.raw.poll()
    (query_id,) = second.queries
    result = WorkflowQueryResult(result_type=FAILED, error_message="cannot say")
    await env.raw.complete(second, commands.complete(), query_results={query_id: result})
    await env.observe_error("answer", asking)
    return [run]


@scenario("query_answer_failed", items=["query: failed"])
async def query_answer_failed(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step()
    asking = asyncio.create_task(ask(env, run))
    task = await env.raw.poll()
    await env.raw.answer_query(task, completed_type=FAILED, error_message="cannot say")
    await env.observe_error("answer", asking)
    await env.observe_error("answering it again", env.raw.answer_query(task, completed_type=ANSWERED))
    return [run]


@scenario("query_rejected_by_condition", items=["query: rejected", "query: closed"])
async def query_rejected_by_condition(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step(commands.complete())
    condition = QueryRejectCondition.QUERY_REJECT_CONDITION_NOT_OPEN
    env.observe("not open", await ask(env, run, query_reject_condition=condition))
    condition = QueryRejectCondition.QUERY_REJECT_CONDITION_NOT_COMPLETED_CLEANLY
    asking = asyncio.create_task(ask(env, run, query_reject_condition=condition))
    task = await env.raw.poll()
    env.observe("task", view(task))
    await env.raw.answer_query(task, completed_type=ANSWERED, query_result=payloads("clean"))
    env.observe("completed cleanly", await asking)
    return [run]


@scenario("query_of_nobody", items=["query: failed"])
async def query_of_nobody(env: Env) -> list[Run]:
    await env.observe_error("unknown workflow", ask(env, Run(env.id("nobody"), "")))
    run = await env.start_raw()
    await env.observe_error("no query type", ask(env, run, ""))
    await env.observe_error("bad run id", ask(env, Run(run.workflow_id, "not-a-run-id")))
    return []


@scenario("query_before_the_first_task", items=["query: buffered task"])
async def query_before_the_first_task(env: Env) -> list[Run]:
    """The query is asked before any worker polled: it rides on the first task or comes right after it."""
    run = await env.start_raw()
    asking = asyncio.create_task(ask(env, run))
    await asyncio.sleep(0.3)  # As above.
    first = await env.raw.poll()
    env.observe("first", view(first))
    results = {key: WorkflowQueryResult(result_type=ANSWERED, answer=payloads("early")) for key in first.queries}
    await env.raw.complete(first, query_results=results)
    if not results:
        task = await env.raw.poll()
        env.observe("second", view(task))
        await env.raw.answer_query(task, completed_type=ANSWERED, query_result=payloads("early"))
    env.observe("answer", await asking)
    return [run]
