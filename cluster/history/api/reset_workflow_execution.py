"""ResetWorkflowExecution: a new run that shares the base run's history up to a workflow task, and goes on from there.

The prefix is copied to the new run in the store first (harmless if the rest never happens); then one append closes the
current run and begins the new one: the shared state, a failed workflow task that says why, what came after the reset
point and is to be reapplied, and a new task.
"""

from __future__ import annotations

from typing import Any

from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionResponse

from cluster.core.apply import fold_events
from cluster.core.entry import CloseNote
from cluster.core.errors import invalid_argument
from cluster.core.events import join_framed, parse_events
from cluster.core.machines import lifecycle
from cluster.core.machines import reset as machine
from cluster.core.transition import Transition
from cluster.history.api.workflow_options import change_options
from cluster.history.events import BLOB_BRANCH
from cluster.history.journal import shard_is_moving
from cluster.history.run import Run
from cluster.history.shard import Shard
from cluster.stores.base import HistoryBlob, RunKey, StoreError


async def reset(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    execution = request.workflow_execution
    if request.request_id and (done := await _found_by_request(shard, namespace.id, request)):
        return ResetWorkflowExecutionResponse(run_id=done)
    base = await shard.find(namespace.id, execution.workflow_id, execution.run_id)
    await shard.durable(base)
    events = await shard.events(base, 1, base.last_event_id)
    finish_id = request.workflow_task_finish_event_id
    if not 1 < finish_id <= base.last_event_id:
        raise invalid_argument(f"WorkflowTaskFinishEventId must be > 1 && <= workflow last event ID ({base.last_event_id}).")
    run_id = shard.ids.uuid()
    key = RunKey(namespace.id, execution.workflow_id, run_id)
    prefix = events[: finish_id - 1]
    state = machine.base_state(fold_events(key.namespace_id, key.workflow_id, key.run_id, prefix))
    blob = HistoryBlob(key, BLOB_BRANCH, 1, len(prefix), join_framed(prefix))
    try:
        await shard.store.checkpoint(shard.lease, [], [blob], [], 0)
    except StoreError as error:
        shard.fail(error)
        raise shard_is_moving() from error
    base, current, later = await _later_events(shard, base.key, finish_id)
    if current is not None and request.request_id and current.state.start_request_id == request.request_id:
        await shard.durable(current)  # a copy of this request came first
        return ResetWorkflowExecutionResponse(run_id=current.key.run_id)
    context = shard.context(namespace.id)
    context.now = shard.current_runs.begins_at((namespace.id, execution.workflow_id), context)
    before = shard.begin(base, context)  # raises where another region has written it under a higher version
    t = Transition.from_base(machine.encoded(state), context)
    machine.begin_reset_run(
        t,
        base=base.state,
        request=request,
        later=parse_events(later),
        start_request_id=request.request_id or shard.ids.uuid(),
        post_reset=lambda t: _post_reset(t, request.post_reset_operations),
    )
    changes: list[tuple[Run | None, Transition]] = []
    if current is not None:
        old = shard.begin(current, context)
        if current.state.is_open:
            lifecycle.terminate(old, reason=request.reason, details=None, identity=lifecycle.RESETTER)
        if current.key == base.key:
            old.note(CloseNote(old.state.parent_told, run_id))
        if not old.is_empty:
            changes.append((current, old))
    if current is None or current.key != base.key:
        before.note(CloseNote(before.state.parent_told, run_id))
        changes.append((base, before))
    await shard.commit(*changes, (None, t))
    return ResetWorkflowExecutionResponse(run_id=run_id)


def _post_reset(t: Transition, operations: Any) -> None:
    """The public server names no identity in these events, and the frontend lets no other operation through."""
    for operation in operations:
        wanted = operation.update_workflow_options
        change_options(t, wanted.workflow_execution_options, wanted.update_mask.paths, identity="")


async def _found_by_request(shard: Shard, namespace_id: str, request: Any) -> str:
    """A repeated reset finds the run that it made."""
    current = await shard.current(namespace_id, request.workflow_execution.workflow_id)
    if current is not None and current.state.start_request_id == request.request_id:
        await shard.durable(current)
        return current.key.run_id
    return ""


async def _later_events(shard: Shard, base: RunKey, first: int) -> tuple[Run, Run | None, list[bytes]]:
    """The base run, the current run, and what came after the reset point in the base run and in the runs that continued it: its
    events, and those that wait for the end of a workflow task. Nothing is missing when it returns: decide at once."""
    while True:
        found: list[bytes] = []
        seen: list[tuple[Run, int]] = []
        run: Run | None = await shard.find(base.namespace_id, base.workflow_id, base.run_id)
        while run is not None:
            state = run.state
            found.extend(await shard.events(run, 1 if seen else first, state.next_event_id - 1))
            found.extend(state.buffered)
            seen.append((run, state.transition_count))
            following = RunKey(base.namespace_id, base.workflow_id, state.new_run_id)
            run = await shard.run(following) if state.new_run_id else None
        current = await shard.current(base.namespace_id, base.workflow_id)
        shard.require_open()
        if all(not one.is_evicted and one.state.transition_count == count for one, count in seen):
            return seen[0][0], current, found
