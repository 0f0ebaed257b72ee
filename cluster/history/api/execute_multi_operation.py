"""ExecuteMultiOperation: update-with-start. The start and the admission of its update are one append."""

from __future__ import annotations

from typing import Any

from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.workflowservice.v1 import ExecuteMultiOperationResponse, StartWorkflowExecutionResponse

from cluster.core.errors import CallerError
from cluster.core.machines import start as machine
from cluster.core.machines import update as update_machine
from cluster.core.machines.start import Outcome
from cluster.core.transition import Transition
from cluster.failures import aborted, multi_operation_failure
from cluster.history.api.start_workflow_execution import link_to_start
from cluster.history.api.update_workflow_execution import answer_of
from cluster.history.run import Run
from cluster.history.shard import Shard
from cluster.stores.base import RunKey


async def execute(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    start, update = request.operations[0].start_workflow, request.operations[1].update_workflow
    update_id = update.request.meta.update_id
    current = await shard.current(namespace.id, start.workflow_id)
    shard.require_open()
    try:
        run, is_new, done = _decide(shard, namespace.id, start, update, current)
    except CallerError as error:
        raise multi_operation_failure([error, aborted()]) from error
    await done
    wanted = update.wait_policy.lifecycle_stage
    try:
        update_answer = await answer_of(service, shard, run, namespace.name, update_id, wanted, call)
    except CallerError as error:
        raise multi_operation_failure([aborted(), error]) from error
    response = ExecuteMultiOperationResponse()
    response.responses.add().start_workflow.CopyFrom(
        StartWorkflowExecutionResponse(
            run_id=run.key.run_id,
            first_execution_run_id=run.state.first_run_id,
            started=is_new,
            status=WorkflowExecutionStatus.ValueType((await shard.read(run)).status),
            link=link_to_start(namespace.name, start.workflow_id, run.key.run_id, start.request_id),
        )
    )
    response.responses.add().update_workflow.CopyFrom(update_answer)
    return response


def _decide(shard: Shard, namespace_id: str, start: Any, update: Any, current: Run | None) -> tuple[Run, bool, Any]:
    """(run, was it started now, when durable)"""
    update_id = update.request.meta.update_id
    context = shard.context(namespace_id)
    context.now = shard.current_runs.begins_at((namespace_id, start.workflow_id), context)
    if current is not None and update_id in current.state.updates:
        return current, current.state.start_request_id == start.request_id, shard.durable(current)
    outcome = machine.decide_id(
        current.state if current is not None else None,
        start.request_id,
        start.workflow_id_reuse_policy,
        start.workflow_id_conflict_policy,
        context.now,
    )
    if outcome in (Outcome.ATTACH, Outcome.DEDUPLICATED):
        assert current is not None
        t = shard.begin(current)
        current.rejected.pop(update_id, None)
        try:
            update_machine.admit(t, update.request)
        except CallerError as error:
            raise multi_operation_failure([aborted(), error]) from error
        return current, outcome is Outcome.DEDUPLICATED, shard.commit((current, t))
    run_id = shard.ids.uuid()
    changes: list[tuple[Run | None, Transition]] = []
    t = machine.begin_run(context, namespace_id, start, run_id)
    update_machine.admit(t, update.request)
    if outcome is Outcome.TERMINATE_AND_START:
        assert current is not None
        old = shard.begin(current, context)
        machine.terminate_for_start(old, run_id, start.workflow_id_reuse_policy)
        changes.append((current, old))
    done = shard.commit(*changes, (None, t))
    return shard.runs[RunKey(namespace_id, start.workflow_id, run_id)], True, done
