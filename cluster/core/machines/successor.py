"""The run after a run: continue as new, workflow retry, next cron run. Its first events and the close are one append.

    what the next run has            continue as new     retry               cron
    input, header, memo, retries     the command's       the start's         the start's
    attempt                          1                   one more            1
    last completion result           the command's       the start's         the result, or after a failure the start's
    callbacks                        yes                 yes                 no: each run calls back for itself
    links of the start               yes                 yes                 yes

A chain of runs keeps its first run id, its parent, its root, and the request id of its first start, so that a start that
is repeated long after still finds what it started.
"""

from __future__ import annotations

import msgspec
from temporalio.api.command.v1 import ContinueAsNewWorkflowExecutionCommandAttributes
from temporalio.api.common.v1 import Link, Payloads, Priority, RetryPolicy, WorkflowType
from temporalio.api.enums.v1 import ContinueAsNewInitiator, RetryState, TaskQueueKind
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import WorkflowExecutionStartedEventAttributes
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflow.v1 import ResetPointInfo, ResetPoints

from cluster.core.cron import CronError, next_cron_backoff
from cluster.core.events import SECOND_NS, duration, duration_ns, timestamp, timestamp_or_none
from cluster.core.machines.start import add_started, first_task, task_timeout_ns
from cluster.core.retry import next_backoff, next_retry_delay_of, with_defaults
from cluster.core.state import RunState
from cluster.core.transition import Transition

RUN_INTERVAL_NS_MIN = SECOND_NS  # history.workflowIdReuseMinimalInterval: no chain starts runs faster than this


class Next(msgspec.Struct, frozen=True):
    """Why and when there is another run. retry_state is what the close event says: a cron run does not change it."""

    retry_state: RetryState.ValueType
    backoff_ns: int | None = None  # None = there is no next run
    initiator: ContinueAsNewInitiator.ValueType = ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_UNSPECIFIED


def next_after(state: RunState, now: int, failure: Failure | None) -> Next:
    """What follows a run that completes (failure None), fails or times out: a retry first, else the cron schedule."""
    retry_state = RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET
    if failure is not None and state.retry_policy:
        backoff_ns, retry_state = next_backoff(
            RetryPolicy.FromString(state.retry_policy),
            state.attempt,
            now,
            state.execution_expires_at,
            failure,
            next_retry_delay_of(failure),
            delay_is_capped=True,
        )
        if backoff_ns is not None:
            return Next(retry_state, backoff_ns, ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_RETRY)
    if state.cron_schedule:
        backoff_ns = _cron_backoff(state, now)
        if backoff_ns is not None:
            return Next(retry_state, backoff_ns, ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE)
    return Next(retry_state)


def _cron_backoff(state: RunState, now: int) -> int | None:
    try:
        return next_cron_backoff(state.cron_schedule, state.first_task_at or state.started_at, now)
    except CronError:
        return None  # a continue-as-new may name a schedule nobody can read: as in the public server, it is the last run


def repeat(t: Transition, run_id: str, after: Next, failure: Failure | None, result: Payloads | None) -> Transition:
    """A retry's or cron schedule's run: the same start attributes, another attempt."""
    state = t.state
    assert state.start_attributes and after.backoff_ns is not None
    attributes = WorkflowExecutionStartedEventAttributes.FromString(state.start_attributes)
    is_retry = after.initiator == ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_RETRY
    attributes.attempt = state.attempt + 1 if is_retry else 1
    attributes.initiator = after.initiator
    attributes.first_workflow_task_backoff.CopyFrom(duration(_slow_enough(state, t.now, after.backoff_ns)))
    attributes.identity = ""
    attributes.eager_execution_accepted = False
    attributes.ClearField("versioning_override")
    attributes.ClearField("continued_failure")
    if failure is not None:
        attributes.continued_failure.CopyFrom(failure)
    else:
        attributes.ClearField("last_completion_result")
        if result is not None:
            attributes.last_completion_result.CopyFrom(result)
    return _begin(t, attributes, run_id, has_callbacks=is_retry)


def continue_as_new(t: Transition, run_id: str, command: ContinueAsNewWorkflowExecutionCommandAttributes) -> Transition:
    """The run a workflow asked for. What the command leaves out is taken from the run that ends, as far as that is usual."""
    state, limits = t.state, t.context.limits
    run_ns = duration_ns(command.workflow_run_timeout) or state.run_timeout_ns
    if state.execution_timeout_ns:
        run_ns = min(run_ns or state.execution_timeout_ns, state.execution_timeout_ns)
    task_ns = duration_ns(command.workflow_task_timeout) or state.task_timeout_ns
    attributes = WorkflowExecutionStartedEventAttributes(
        workflow_type=WorkflowType(name=command.workflow_type.name or state.workflow_type),
        task_queue=TaskQueue(name=command.task_queue.name or state.task_queue, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL),
        workflow_execution_timeout=duration(state.execution_timeout_ns) if state.execution_timeout_ns else None,
        workflow_run_timeout=duration(run_ns),
        workflow_task_timeout=duration(task_timeout_ns(task_ns, run_ns, limits)),
        attempt=1,
        cron_schedule=command.cron_schedule,
        initiator=command.initiator or ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_WORKFLOW,
        workflow_id=state.workflow_id,
    )
    if attributes.initiator == ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_RETRY:
        attributes.attempt = state.attempt + 1
    wished_ns = duration_ns(command.backoff_start_interval)
    backoff_ns = _slow_enough(state, t.now, wished_ns)
    if backoff_ns or command.HasField("backoff_start_interval"):
        attributes.first_workflow_task_backoff.CopyFrom(duration(backoff_ns))
    for source, target in (
        ("input", "input"),
        ("header", "header"),
        ("last_completion_result", "last_completion_result"),
        ("failure", "continued_failure"),
        ("memo", "memo"),
        ("search_attributes", "search_attributes"),
    ):
        if command.HasField(source):  # type: ignore[arg-type]
            getattr(attributes, target).CopyFrom(getattr(command, source))
    if command.HasField("retry_policy"):
        attributes.retry_policy.CopyFrom(with_defaults(command.retry_policy, limits))
    if state.has_priority:
        attributes.priority.CopyFrom(Priority.FromString(state.priority))
    return _begin(t, attributes, run_id, has_callbacks=True)


def _slow_enough(state: RunState, now: int, backoff_ns: int) -> int:
    """A chain that would start its next run within a second of this one's first task waits for the rest of the second."""
    began_at = state.first_task_at or state.started_at
    lifetime_ns = now - (began_at if now >= began_at else state.started_at)
    if lifetime_ns + backoff_ns < RUN_INTERVAL_NS_MIN:
        return RUN_INTERVAL_NS_MIN - lifetime_ns
    return backoff_ns


def _begin(
    t: Transition, attributes: WorkflowExecutionStartedEventAttributes, run_id: str, *, has_callbacks: bool
) -> Transition:
    """What every next run has, whatever made it; and its first events."""
    state = t.state
    attributes.continued_execution_run_id = state.run_id
    attributes.original_execution_run_id = run_id
    attributes.first_execution_run_id = state.first_run_id
    if state.execution_expires_at:
        attributes.workflow_execution_expiration_time.CopyFrom(timestamp(state.execution_expires_at))
    parent = state.parent
    if parent is not None:
        attributes.parent_workflow_namespace = parent.namespace
        attributes.parent_workflow_namespace_id = parent.namespace_id
        attributes.parent_workflow_execution.workflow_id = parent.workflow_id
        attributes.parent_workflow_execution.run_id = parent.run_id
        attributes.parent_initiated_event_id = parent.initiated_event_id
        attributes.parent_initiated_event_version = parent.initiated_version
        attributes.root_workflow_execution.workflow_id = state.root_workflow_id
        attributes.root_workflow_execution.run_id = state.root_run_id
    if state.versioning_override:
        attributes.versioning_override.MergeFromString(state.versioning_override)
        if not (attributes.versioning_override.HasField("pinned") or attributes.versioning_override.pinned_version):
            attributes.ClearField("versioning_override")  # only a pin outlives the run
    attributes.prev_auto_reset_points.CopyFrom(_reset_points(t))
    callbacks = state.callbacks if has_callbacks else []
    del attributes.completion_callbacks[:]
    for callback in callbacks:
        attributes.completion_callbacks.add().MergeFromString(callback.callback)
    successor = Transition.of_new_run(state.namespace_id, state.workflow_id, run_id, t.context)
    if t.context.version:  # other regions tell by it which run of the workflow id came last
        successor.now = max(successor.now, state.took_id_at + 1)
    links = [Link.FromString(link) for link in state.links[: state.start_link_count]]
    add_started(successor, attributes, state.start_request_id, links=links)
    first_task(successor)
    return successor


def _reset_points(t: Transition) -> ResetPoints:
    """Where the former runs of the chain can be reset, as long as they are kept."""
    points = ResetPoints()
    for one in t.state.reset_points:
        expires_at = t.now + t.context.retention_ns if one.run_id == t.state.run_id else one.expires_at
        if expires_at and expires_at < t.now:
            continue
        points.points.append(
            ResetPointInfo(
                build_id=one.build_id,
                binary_checksum=one.binary_checksum,
                run_id=one.run_id,
                first_workflow_task_completed_id=one.first_workflow_task_completed_id,
                create_time=timestamp(one.created_at),
                expire_time=timestamp_or_none(expires_at),
                resettable=one.resettable,
            )
        )
    return points
