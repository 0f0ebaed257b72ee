"""UpdateWorkflowExecution and PollWorkflowExecutionUpdate.

An update is admitted by a note (so it survives a crash of this node), rides with a workflow task, and its caller waits
in memory for the stage it asked for. A caller whose wait is over, or whose shard moved, comes again with the same id.
"""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio.api.common.v1 import Link, WorkflowExecution
from temporalio.api.enums.v1 import EventType, UpdateWorkflowExecutionLifecycleStage
from temporalio.api.failure.v1 import Failure
from temporalio.api.update.v1 import Outcome, UpdateRef
from temporalio.api.workflowservice.v1 import (
    PollWorkflowExecutionUpdateResponse,
    UpdateWorkflowExecutionResponse,
)

from cluster.core.errors import not_found, unavailable
from cluster.core.events import parse_event
from cluster.core.machines import lifecycle
from cluster.core.machines import update as machine
from cluster.core.state import RunState, UpdateStage
from cluster.history.run import Run, long_poll_until
from cluster.history.shard import Shard

STAGES = UpdateWorkflowExecutionLifecycleStage
ADMITTED = STAGES.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ADMITTED
ACCEPTED = STAGES.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED
COMPLETED = STAGES.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED
REJECTED_KEPT_MAX = 100


async def update(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    execution = request.workflow_execution
    run = await shard.find(namespace.id, execution.workflow_id, execution.run_id)
    if request.first_execution_run_id and run.state.first_run_id != request.first_execution_run_id:
        raise lifecycle.unknown_run(execution.workflow_id, execution.run_id)
    t = shard.begin(run)
    update_id = request.request.meta.update_id
    known = run.state.updates.get(update_id)
    if known is not None and known.stage < UpdateStage.ACCEPTED:
        lifecycle.require_open(run.state)  # cut off by the close: who waited was told to retry, and this is the retry
    if update_id not in run.state.updates:
        run.rejected.pop(update_id, None)  # the id was refused before and is tried anew
    machine.admit(t, request.request)
    await shard.commit((run, t))
    return await answer_of(service, shard, run, namespace.name, update_id, request.wait_policy.lifecycle_stage, call)


async def answer_of(
    service: Any, shard: Shard, run: Run, namespace: str, update_id: str, wanted: int, call: Any
) -> UpdateWorkflowExecutionResponse:
    """Waits for the wanted stage, at most until the caller's time is over; then tells how far it is."""
    stage, outcome = await wait_for(shard, run, update_id, wanted or ACCEPTED, long_poll_until(service.limits, call))
    response = UpdateWorkflowExecutionResponse(
        update_ref=UpdateRef(
            workflow_execution=WorkflowExecution(workflow_id=run.key.workflow_id, run_id=run.key.run_id),
            update_id=update_id,
        ),
        stage=stage,
        outcome=outcome,
    )
    if stage >= ACCEPTED:
        response.link.CopyFrom(_link(run, namespace, update_id))
    return response


async def poll(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    execution = request.update_ref.workflow_execution
    update_id = request.update_ref.update_id
    run = await shard.find(namespace.id, execution.workflow_id, execution.run_id)
    if update_id not in (await shard.read(run)).updates and update_id not in run.rejected:
        raise not_found(f'update "{update_id}" not found')
    wanted = request.wait_policy.lifecycle_stage
    stage, outcome = await wait_for(shard, run, update_id, wanted, long_poll_until(service.limits, call))
    return PollWorkflowExecutionUpdateResponse(
        outcome=outcome,
        stage=stage,
        update_ref=UpdateRef(
            workflow_execution=WorkflowExecution(workflow_id=run.key.workflow_id, run_id=run.key.run_id),
            update_id=update_id,
        ),
    )


async def wait_for(
    shard: Shard, run: Run, update_id: str, wanted: int, until: float
) -> tuple[UpdateWorkflowExecutionLifecycleStage.ValueType, Outcome | None]:
    """(stage reached, outcome if completed). Raises CallerError if the update was lost with the run's close."""
    loop = asyncio.get_running_loop()
    while True:
        rejection = run.rejected.get(update_id)
        state = await shard.read(run)
        reached = await _reached(shard, run, state, update_id, rejection)
        if reached[0] >= wanted or loop.time() >= until:
            return reached
        if run.state is not state:
            continue  # it went on during the read
        await run.changed_until(until)


async def _reached(
    shard: Shard, run: Run, state: RunState, update_id: str, rejection: bytes | None
) -> tuple[UpdateWorkflowExecutionLifecycleStage.ValueType, Outcome | None]:
    if rejection is not None:
        while len(run.rejected) > REJECTED_KEPT_MAX:
            run.rejected.pop(next(iter(run.rejected)))
        return COMPLETED, Outcome(failure=Failure.FromString(rejection))
    one = state.updates.get(update_id)
    if one is None:
        raise not_found(f'update "{update_id}" not found')
    if one.stage == UpdateStage.COMPLETED:
        event = parse_event((await shard.events(run, one.completed_event_id, one.completed_event_id))[0])
        return COMPLETED, event.workflow_execution_update_completed_event_attributes.outcome
    if not state.is_open:
        lost = machine.outcome_of_close(one)
        if lost is not None:
            return COMPLETED, lost
        if state.new_run_id:
            raise unavailable("workflow operation can not be applied because workflow is closing")
        raise not_found("workflow update was aborted by closing workflow")
    return (ACCEPTED if one.stage == UpdateStage.ACCEPTED else ADMITTED), None


def _link(run: Run, namespace: str, update_id: str) -> Link:
    """Where the update can be seen; one that was rejected, or cut off by the close, has left no outcome to point to."""
    link = Link()
    one = run.state.updates.get(update_id)
    if update_id in run.rejected or (not run.state.is_open and one is not None and one.stage != UpdateStage.COMPLETED):
        link.workflow.namespace, link.workflow.workflow_id = namespace, run.key.workflow_id
        link.workflow.run_id, link.workflow.reason = run.key.run_id, "Update rejected"
        return link
    event = link.workflow_event
    event.namespace, event.workflow_id, event.run_id = namespace, run.key.workflow_id, run.key.run_id
    event.request_id_ref.event_type = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED
    return link

