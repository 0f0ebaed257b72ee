"""StartWorkflowExecution, SignalWithStartWorkflowExecution, and the start of children.

The decision is made in the actor after the read of the current run, so two starts of one id race only for the read.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from temporalio.api.common.v1 import Link, WorkflowExecution
from temporalio.api.enums.v1 import EventType, WorkflowExecutionStatus, WorkflowIdConflictPolicy, WorkflowIdReusePolicy
from temporalio.api.history.v1 import WorkflowExecutionSignaledEventAttributes
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueResponse,
    SignalWithStartWorkflowExecutionResponse,
    StartWorkflowExecutionRequest,
    StartWorkflowExecutionResponse,
)

from cluster.core.machines import lifecycle
from cluster.core.machines import start as machine
from cluster.core.machines.start import Outcome
from cluster.core.state import ParentLink, RunState
from cluster.core.transition import Transition
from cluster.history import polls
from cluster.history.events import BLOB_BRANCH
from cluster.history.run import Run
from cluster.history.shard import Shard
from cluster.matching.tasks import TaskGone
from cluster.stores.base import RunKey


class Started(msgspec.Struct, frozen=True):
    """run is the run that holds the workflow id now; run_id the one this request started (first of its chain)."""

    outcome: Outcome
    run_id: str
    run: Run
    state: RunState  # of that run, as it was decided upon, and durable
    is_eager: bool = False


async def start_or_find(
    shard: Shard,
    namespace_id: str,
    request: StartWorkflowExecutionRequest,
    *,
    parent: ParentLink | None = None,
    root: WorkflowExecution | None = None,
    eager_identity: str = "",
    signal: WorkflowExecutionSignaledEventAttributes | None = None,
    signal_links: list[Link] | None = None,
) -> Started:
    """Returns when the outcome is durable. Raises CallerError."""
    current = await shard.current(namespace_id, request.workflow_id)
    shard.require_open()
    context = shard.context(namespace_id)
    context.now = shard.current_runs.begins_at((namespace_id, request.workflow_id), context)
    state = current.state if current is not None else None
    outcome = machine.decide_id(
        state, request.request_id, request.workflow_id_reuse_policy, request.workflow_id_conflict_policy, context.now
    )
    if outcome is Outcome.DEDUPLICATED:
        assert current is not None
        found = await shard.read(current)
        is_first = found.start_request_id == request.request_id
        return Started(outcome, found.first_run_id if is_first else current.key.run_id, current, found)
    if outcome is Outcome.ATTACH:
        assert current is not None
        if signal is not None:  # somebody else started it during the read
            attached = await _signal(shard, current, signal, signal_links or [])
        else:
            attached = await _attach(shard, current, request)
        return Started(outcome, current.key.run_id, current, attached)
    run_id = shard.ids.uuid()
    t = machine.begin_run(
        context,
        namespace_id,
        request,
        run_id,
        parent=parent,
        root=root,
        schedules_task=signal is None,
        eager_identity=eager_identity,
    )
    if signal is not None:
        lifecycle.signal(t, signal, signal_links, schedules_task=False)
        machine.first_task(t)
    changes: list[tuple[Run | None, Transition]] = [(None, t)]
    if outcome is Outcome.TERMINATE_AND_START:
        assert current is not None
        old = shard.begin(current, context)  # the same moment: the one's end is the other's beginning
        machine.terminate_for_start(old, run_id, request.workflow_id_reuse_policy)
        changes.insert(0, (current, old))
    done = shard.commit(*changes)
    run = shard.runs[_key(t)]
    await done
    return Started(outcome, run_id, run, t.state, t.state.has_started_task)


async def _signal(
    shard: Shard, run: Run, signal: WorkflowExecutionSignaledEventAttributes, links: list[Link]
) -> RunState:
    t = shard.begin(run)
    lifecycle.signal(t, signal, links)
    await shard.commit((run, t))
    return t.state


async def _attach(shard: Shard, run: Run, request: StartWorkflowExecutionRequest) -> RunState:
    options = request.on_conflict_options
    t = shard.begin(run)
    machine.attach(
        t,
        request.request_id,
        callbacks=request.completion_callbacks if options.attach_completion_callbacks else (),
        links=request.links if options.attach_links else (),
        attach_request_id=options.attach_request_id,
    )
    await shard.commit((run, t))
    return t.state


async def start_workflow(service: Any, shard: Shard, namespace: Any, request: Any) -> StartWorkflowExecutionResponse:
    """The public call's answer. Raises CallerError."""
    eager_identity = request.identity if request.request_eager_execution else ""
    started = await start_or_find(shard, namespace.id, request, eager_identity=eager_identity)
    state = started.state
    is_new = started.outcome in (Outcome.START, Outcome.TERMINATE_AND_START)
    response = StartWorkflowExecutionResponse(
        run_id=started.run_id,
        first_execution_run_id=state.first_run_id,
        started=is_new or started.outcome is Outcome.DEDUPLICATED,
        status=WorkflowExecutionStatus.ValueType(state.status),
        link=link_to_start(namespace.name, request.workflow_id, started.run_id, request.request_id),
    )
    if started.outcome is Outcome.DEDUPLICATED and state.start_request_id != request.request_id:
        response.started = False  # it had attached to this run
    seen = state.request_ids.get(request.request_id)
    if not response.started and seen is not None:
        response.link.workflow_event.request_id_ref.request_id = request.request_id
        response.link.workflow_event.request_id_ref.event_type = EventType.ValueType(seen.event_type)
    if started.is_eager and is_new:
        with suppress(TaskGone):  # another region's branch is the run already
            answer = await polls.workflow_task_answer(shard, started.run, state, BLOB_BRANCH, service.tokens, is_sticky=False)
            response.eager_workflow_task.CopyFrom(PollWorkflowTaskQueueResponse.FromString(answer))
    return response


async def start(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    return await start_workflow(service, shard, namespace, request)


async def signal_with_start(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    attributes = WorkflowExecutionSignaledEventAttributes(
        signal_name=request.signal_name,
        input=request.signal_input if request.HasField("signal_input") else None,
        identity=request.identity,
        header=request.header if request.HasField("header") else None,
        request_id=request.request_id,
    )
    current = await shard.current(namespace.id, request.workflow_id)
    terminates = (
        request.workflow_id_conflict_policy == WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
        or request.workflow_id_reuse_policy == WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
    )
    if current is not None and current.state.is_open and not terminates:
        await _signal(shard, current, attributes, list(request.links))
        return SignalWithStartWorkflowExecutionResponse(
            run_id=current.key.run_id,
            first_execution_run_id=current.state.first_run_id,
            started=False,
            signal_link=link_to_signal(namespace.name, request.workflow_id, current.key.run_id, request.request_id),
        )
    wanted = machine.signal_with_start_as_start(request)
    started = await start_or_find(
        shard, namespace.id, wanted, signal=attributes, signal_links=list(request.links)
    )
    return SignalWithStartWorkflowExecutionResponse(
        run_id=started.run_id,
        first_execution_run_id=started.state.first_run_id,
        started=_has_started(started, request.request_id),
        signal_link=link_to_signal(namespace.name, request.workflow_id, started.run_id, request.request_id),
    )


def _has_started(started: Started, request_id: str) -> bool:
    """A repeated request has started its run, unless the first one found a run to signal."""
    if started.outcome is Outcome.DEDUPLICATED:
        return started.state.start_request_id == request_id
    return started.outcome in (Outcome.START, Outcome.TERMINATE_AND_START)


def link_to_start(namespace: str, workflow_id: str, run_id: str, request_id: str) -> Link:
    """Where the start can be seen."""
    link = Link()
    event = link.workflow_event
    event.namespace, event.workflow_id, event.run_id = namespace, workflow_id, run_id
    event.event_ref.event_id = 1
    event.event_ref.event_type = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    return link


def link_to_signal(namespace: str, workflow_id: str, run_id: str, request_id: str) -> Link:
    """Where the signal can be seen: by request id, since it may still be without an event id."""
    link = Link()
    event = link.workflow_event
    event.namespace, event.workflow_id, event.run_id = namespace, workflow_id, run_id
    event.request_id_ref.request_id = request_id
    event.request_id_ref.event_type = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    return link


def _key(t: Transition) -> RunKey:
    return RunKey(t.state.namespace_id, t.state.workflow_id, t.state.run_id)
