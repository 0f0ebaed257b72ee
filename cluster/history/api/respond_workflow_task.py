"""RespondWorkflowTaskCompleted and RespondWorkflowTaskFailed."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueResponse,
    RespondWorkflowTaskCompletedResponse,
    RespondWorkflowTaskFailedResponse,
)

from cluster.core.errors import not_found
from cluster.core.machines import lifecycle
from cluster.core.machines.completion import decide_completed, decide_failed
from cluster.core.state import RunState
from cluster.history import polls
from cluster.history.queries import release, resend, take_results
from cluster.history.shard import Shard
from cluster.matching.tasks import TaskGone
from cluster.tokens import TaskToken

TASK_NOT_FOUND = "Workflow task not found."


def _require_task(state: RunState, token: TaskToken) -> None:
    """The token names the task that is started now, in this very attempt. (A closed run has none.)

    Two regions may each start the same task, on branches of their own: then all numbers are alike, and only the time differs.
    An answer to the one may not be what the program would say to the history of the other.
    """
    task = state.task
    if (
        task is None
        or not task.is_started
        or task.scheduled_event_id != token.scheduled_event_id
        or task.started_event_id != token.started_event_id
        or task.attempt != token.attempt
        or task.stamp != token.stamp
        or task.started_at != token.started_at
    ):
        raise not_found(TASK_NOT_FOUND)


async def completed(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: TaskToken) -> Any:
    run = await shard.find(namespace.id, token.workflow_id, token.run_id)
    _require_task(run.state, token)
    done = decide_completed(
        lambda: shard.begin(run),
        request,
        resolve_namespace=service.resolve_namespace,
        check_search_attributes=service.check_search_attributes(namespace),
        may_be_eager=True,
    )
    changes = [(run, done.t)]
    successor = done.completion.successor if done.completion is not None else None
    durable = shard.commit(*changes, *([(None, successor)] if successor is not None else []))
    state, branch = done.t.state, run.branch
    await durable
    if done.refusal is not None:
        resend(run)
        raise done.refusal
    take_results(run, request.query_results)
    release(run, with_sent=True)
    response = RespondWorkflowTaskCompletedResponse(reset_history_event_id=done.reset_history_event_id)
    eager_ids = done.completion.eager_activity_ids if done.completion is not None else []
    with suppress(TaskGone):  # another region's branch is the run now: there is nothing further to do for this one
        await _add_eager_activities(service, shard, run, state, branch, response, eager_ids)
        if done.next_is_started and state.task is not None:  # None: the history had grown too long, and the run was ended
            answer = await polls.workflow_task_answer(shard, run, state, branch, service.tokens, is_sticky=True)
            response.workflow_task.CopyFrom(PollWorkflowTaskQueueResponse.FromString(answer))
    return response


async def _add_eager_activities(
    service: Any,
    shard: Shard,
    run: Any,
    state: RunState,
    branch: int,
    response: RespondWorkflowTaskCompletedResponse,
    ids: list[int],
) -> None:
    """Raises TaskGone."""
    for scheduled_event_id in ids:
        if scheduled_event_id in state.activities:
            scheduled = await polls.events_of_branch(shard, run, branch, scheduled_event_id, scheduled_event_id)
            response.activity_tasks.append(
                polls.activity_answer(shard, state, scheduled[0], scheduled_event_id, service.tokens)
            )


async def failed(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: TaskToken) -> Any:
    run = await shard.find(namespace.id, token.workflow_id, token.run_id)
    lifecycle.require_open(run.state)
    _require_task(run.state, token)
    t = shard.begin(run)
    decide_failed(t, request)
    await shard.commit((run, t))
    resend(run)
    return RespondWorkflowTaskFailedResponse()
