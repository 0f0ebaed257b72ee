"""The answers of activity workers, by task token or by activity id, and their heartbeats."""

from __future__ import annotations

from typing import Any

from temporalio.api.workflowservice.v1 import (
    RecordActivityTaskHeartbeatByIdResponse,
    RecordActivityTaskHeartbeatResponse,
    RespondActivityTaskCanceledResponse,
    RespondActivityTaskCompletedResponse,
    RespondActivityTaskFailedResponse,
)

from cluster.core.machines import activity_calls, lifecycle, workflow_task
from cluster.core.transition import Transition
from cluster.history.run import Run
from cluster.history.shard import Shard
from cluster.tokens import TaskToken


async def _load(shard: Shard, namespace: Any, request: Any, token: TaskToken | None) -> tuple[Run, int, int, str]:
    """The run, and (scheduled event id, attempt, activity id) as the activity machine wants them."""
    if token is not None and token.scheduled_event_id:
        run = await shard.find(namespace.id, token.workflow_id, token.run_id)
        return run, token.scheduled_event_id, token.attempt, ""
    workflow_id = token.workflow_id if token is not None else request.workflow_id
    run_id = token.run_id if token is not None else request.run_id
    activity_id = token.activity_id if token is not None else request.activity_id
    return await shard.find(namespace.id, workflow_id, run_id), 0, 0, activity_id


def _tell(t: Transition, must_tell: bool) -> None:
    if must_tell and not lifecycle.is_waiting_for_first_task(t.state):
        workflow_task.schedule(t)


async def completed(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    run, scheduled_event_id, attempt, activity_id = await _load(shard, namespace, request, token)
    t = shard.begin(run)
    result = request.result if request.HasField("result") else None
    _tell(
        t,
        activity_calls.complete(
            t, scheduled_event_id, attempt, result, identity=request.identity, activity_id=activity_id
        ),
    )
    await shard.commit((run, t))
    return RespondActivityTaskCompletedResponse()


async def failed(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    run, scheduled_event_id, attempt, activity_id = await _load(shard, namespace, request, token)
    t = shard.begin(run)
    _tell(
        t,
        activity_calls.fail(
            t,
            scheduled_event_id,
            attempt,
            request.failure if request.HasField("failure") else None,
            identity=request.identity,
            last_heartbeat_details=(
                request.last_heartbeat_details if request.HasField("last_heartbeat_details") else None
            ),
            activity_id=activity_id,
        ),
    )
    await shard.commit((run, t))
    return RespondActivityTaskFailedResponse()


async def canceled(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    run, scheduled_event_id, attempt, activity_id = await _load(shard, namespace, request, token)
    t = shard.begin(run)
    details = request.details if request.HasField("details") else None
    _tell(
        t,
        activity_calls.cancel(
            t, scheduled_event_id, attempt, details, identity=request.identity, activity_id=activity_id
        ),
    )
    await shard.commit((run, t))
    return RespondActivityTaskCanceledResponse()


async def _heartbeat(shard: Shard, namespace: Any, request: Any, token: Any) -> activity_calls.Heartbeat:
    run, scheduled_event_id, attempt, activity_id = await _load(shard, namespace, request, token)
    t = shard.begin(run)
    details = request.details if request.HasField("details") else None
    answer = activity_calls.heartbeat(
        t, scheduled_event_id, attempt, details, identity=request.identity, activity_id=activity_id
    )
    await shard.commit((run, t))
    return answer


async def heartbeat(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    answer = await _heartbeat(shard, namespace, request, token)
    return RecordActivityTaskHeartbeatResponse(
        cancel_requested=answer.cancel_requested,
        activity_paused=answer.activity_paused,
        activity_reset=answer.activity_reset,
    )


async def heartbeat_by_id(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    answer = await _heartbeat(shard, namespace, request, token)
    return RecordActivityTaskHeartbeatByIdResponse(
        cancel_requested=answer.cancel_requested,
        activity_paused=answer.activity_paused,
        activity_reset=answer.activity_reset,
    )
