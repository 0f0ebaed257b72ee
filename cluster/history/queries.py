"""Queries: read a workflow's state through its worker, without a trace in its history.

A run that has no task under way is asked directly, through matching. Otherwise the query rides with the next workflow
task, so that its answer reflects everything that was accepted before it. Both live in memory only: a query may be
repeated at will.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import QueryRejectCondition, QueryResultType, WorkflowExecutionStatus
from temporalio.api.errordetails.v1 import QueryFailedFailure
from temporalio.api.query.v1 import QueryRejected, WorkflowQuery
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueResponse,
    QueryWorkflowRequest,
    QueryWorkflowResponse,
)

from cluster.core.errors import CallerError, Code, failed_precondition
from cluster.core.state import RunState, Status, TaskType
from cluster.history.run import Run

if TYPE_CHECKING:
    from cluster.history.service import HistoryService
    from cluster.history.shard import Shard
    from cluster.namespaces.record import NamespaceRecord

BUFFERED_MAX = 100  # per run; the public server allows one
WAIT_S_DEFAULT = 10.0


class BufferedQuery:
    """Waits to ride with a workflow task."""

    __slots__ = ("asked_at", "future", "is_sent", "query")

    def __init__(self, query: WorkflowQuery, asked_at: int) -> None:
        self.query = query
        self.asked_at = asked_at  # the run's transition_count
        self.is_sent = False
        # None: no task is coming to ride with, ask directly.
        self.future: asyncio.Future[QueryWorkflowResponse | None] = asyncio.get_running_loop().create_future()

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def send_buffered(run: Run, state: RunState, answer: PollWorkflowTaskQueueResponse) -> None:
    """The workflow task that `state` shows as started carries the queries that waited for it. One that came after the start does
    not ride: what was accepted meanwhile is buffered, and this task's worker will not see it."""
    for query_id, waiting in run.queries.items():
        if waiting.asked_at >= state.transition_count:
            continue
        waiting.is_sent = True
        answer.queries[query_id].CopyFrom(waiting.query)


def take_results(run: Run, results: Any) -> None:
    """Answers that came with a completed workflow task. Sent queries without an answer are told so."""
    for query_id, result in results.items():
        waiting = run.queries.pop(query_id, None)
        if waiting is None or waiting.future.done():
            continue
        if result.result_type == QueryResultType.QUERY_RESULT_TYPE_ANSWERED:
            waiting.future.set_result(QueryWorkflowResponse(query_result=result.answer))
        else:
            waiting.future.set_exception(query_failed(result.error_message, result.failure))


def release(run: Run, *, with_sent: bool = False) -> None:
    """No task is under way any more: queries that were to ride with one are asked directly. Those that did ride get their
    results from the answer's handler first (with_sent: it has given them)."""
    if run.state.is_open and run.state.task is not None:
        return
    for waiting in run.queries.values():
        if (with_sent or not waiting.is_sent) and not waiting.future.done():
            waiting.future.set_result(None)


def resend(run: Run) -> None:
    """The task that carried them is lost: they ride with the next one."""
    for waiting in run.queries.values():
        waiting.is_sent = False


def query_failed(message: str, failure: Any) -> CallerError:
    return CallerError(Code.INVALID_ARGUMENT, message, QueryFailedFailure(failure=failure))


async def query_workflow(
    service: HistoryService, shard: Shard, namespace: NamespaceRecord, request: QueryWorkflowRequest, deadline: float | None
) -> QueryWorkflowResponse:
    """deadline: loop.time() seconds. Raises CallerError."""
    run = await shard.find(namespace.id, request.execution.workflow_id, request.execution.run_id)
    rejected = _reject(await shard.read(run), request.query_reject_condition)
    if rejected is not None:
        return rejected
    loop = asyncio.get_running_loop()
    until = deadline if deadline is not None else loop.time() + WAIT_S_DEFAULT
    if not _waits_for_first_task(run):
        await _first_task_completed(run, until)
    while _is_under_way(run.state):
        _refuse_failing(run.state)
        answer = await _ride(shard, run, request.query, until)
        if answer is not None:
            return answer
    return await service.query_directly(shard, run, request.query, until)


def _reject(state: RunState, condition: int) -> QueryWorkflowResponse | None:
    status = state.status
    conditions = QueryRejectCondition
    if condition == conditions.QUERY_REJECT_CONDITION_NOT_OPEN:
        is_rejected = not state.is_open
    elif condition == conditions.QUERY_REJECT_CONDITION_NOT_COMPLETED_CLEANLY:
        is_rejected = not state.is_open and status not in (Status.COMPLETED, Status.CONTINUED_AS_NEW)
    else:
        is_rejected = False
    if not is_rejected:
        return None
    return QueryWorkflowResponse(query_rejected=QueryRejected(status=WorkflowExecutionStatus.ValueType(status)))


def _is_under_way(state: RunState) -> bool:
    """A worker has yet to see what the run has accepted, or is just being told: attempts after a time-out, too."""
    return state.is_open and state.task is not None and state.task.type == TaskType.NORMAL and not state.paused_at


def _refuse_failing(state: RunState) -> None:
    if state.last_task_failed_cause and state.task is not None and state.task.attempt > 1:
        raise failed_precondition(
            "Unable to query workflow due to Workflow Task in failed state: fix the workflow's code or its worker first."
        )


def _waits_for_first_task(run: Run) -> bool:
    """Nobody has taken the first task yet: the query rides with it."""
    task = run.state.task
    return run.state.last_completed_id == 0 and task is not None and not task.is_started and task.events_written


async def _first_task_completed(run: Run, until: float) -> None:
    """Before its first task a workflow has no state to be asked for."""
    loop = asyncio.get_running_loop()
    while run.state.last_completed_id == 0:
        if not run.state.is_open:
            raise failed_precondition("The workflow closed before its first workflow task completed: there is nothing to query.")
        changed = run.changed()
        timer = loop.call_at(until, _expire, changed)
        try:
            await changed
        finally:
            timer.cancel()


async def _ride(shard: Shard, run: Run, query: WorkflowQuery, until: float) -> QueryWorkflowResponse | None:
    if len(run.queries) >= BUFFERED_MAX:
        raise CallerError(Code.RESOURCE_EXHAUSTED, "consistent query buffer is full, cannot accept new consistent queries")
    query_id = shard.ids.uuid()
    waiting = BufferedQuery(query, run.state.transition_count)
    run.queries[query_id] = waiting
    timer = asyncio.get_running_loop().call_at(until, _expire, waiting.future)
    try:
        return await waiting.future
    finally:
        timer.cancel()
        run.queries.pop(query_id, None)


def _expire(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(
            CallerError(
                Code.DEADLINE_EXCEEDED, "query timed out: no worker answered in time; is a worker polling this task queue?"
            )
        )
