"""PauseActivity, UnpauseActivity, ResetActivity, UpdateActivityOptions: an operator's hand on pending activities."""

from __future__ import annotations

from typing import Any

from temporalio.api.workflowservice.v1 import (
    PauseActivityResponse,
    ResetActivityResponse,
    UnpauseActivityResponse,
    UpdateActivityOptionsResponse,
)

from cluster.core.events import duration_ns, parse_event
from cluster.core.machines import activity_options
from cluster.history.run import Run
from cluster.history.shard import Shard


async def _load(shard: Shard, namespace: Any, request: Any) -> tuple[Run, list[int]]:
    run = await shard.find(namespace.id, request.execution.workflow_id, request.execution.run_id)
    return run, _chosen(run, request)


def _chosen(run: Run, request: Any) -> list[int]:
    kind = request.WhichOneof("activity")
    return activity_options.select(
        run.state,
        request.id if kind == "id" else None,
        request.type if kind == "type" else None,
        match_all=kind in ("unpause_all", "match_all"),
    )


async def _originals(shard: Shard, run: Run, chosen: list[int]) -> dict[int, Any]:
    """Attributes of the scheduled events."""
    found = {}
    for event_id in chosen:
        event = parse_event((await shard.events(run, event_id, event_id))[0])
        found[event_id] = event.activity_task_scheduled_event_attributes
    return found


async def pause(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    run, chosen = await _load(shard, namespace, request)
    t = shard.begin(run)
    activity_options.pause(t, chosen, identity=request.identity, reason=request.reason, request_id=request.request_id)
    await shard.commit((run, t))
    return PauseActivityResponse()


async def unpause(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    run, chosen = await _load(shard, namespace, request)
    t = shard.begin(run)
    activity_options.unpause(
        t,
        chosen,
        reset_attempts=request.reset_attempts,
        reset_heartbeat=request.reset_heartbeat,
        jitter_ns=duration_ns(request.jitter),
    )
    await shard.commit((run, t))
    return UnpauseActivityResponse()


async def reset(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    run, chosen = await _load(shard, namespace, request)
    originals = await _originals(shard, run, chosen) if request.restore_original_options else None
    t = shard.begin(run)
    activity_options.reset(
        t,
        _chosen(run, request),
        reset_heartbeat=request.reset_heartbeat,
        keep_paused=request.keep_paused,
        jitter_ns=duration_ns(request.jitter),
        originals=originals,
    )
    await shard.commit((run, t))
    return ResetActivityResponse()


async def update_options(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    run, chosen = await _load(shard, namespace, request)
    if request.restore_original:
        originals = await _originals(shard, run, chosen)
        t = shard.begin(run)
        options = activity_options.restore_options(t, _chosen(run, request), originals)
    else:
        t = shard.begin(run)
        options = activity_options.update_options(
            t,
            chosen,
            request.activity_options if request.HasField("activity_options") else None,
            list(request.update_mask.paths) if request.HasField("update_mask") else None,
        )
    await shard.commit((run, t))
    return UpdateActivityOptionsResponse(activity_options=options)
