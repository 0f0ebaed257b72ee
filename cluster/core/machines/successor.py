"""The run after a run: continue as new, workflow retry, next cron run. Its first events and the close are one append.

A chain of runs keeps its first run id, its parent, its root, its callbacks, and the request id of its first start, so
that a start that is repeated long after still finds what it started.
"""

from __future__ import annotations

import msgspec
from temporalio.api.command.v1 import ContinueAsNewWorkflowExecutionCommandAttributes
from temporalio.api.common.v1 import Payloads, RetryPolicy, WorkflowType
from temporalio.api.enums.v1 import ContinueAsNewInitiator, RetryState, TaskQueueKind
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import WorkflowExecutionStartedEventAttributes
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.taskqueue.v1 import TaskQueue

from cluster.core.cron import next_cron_backoff
from cluster.core.entry import CallbackNote
from cluster.core.events import duration, duration_ns, timestamp
from cluster.core.machines.start import add_started, first_task, task_timeout_ns
from cluster.core.retry import next_backoff
from cluster.core.state import RunState
from cluster.core.transition import Transition


class Next(msgspec.Struct, frozen=True):
    """Why and when there is another run. retry_state is what the close event says."""

    retry_state: RetryState.ValueType
    backoff_ns: int | None = None  # None = there is no next run
    initiator: ContinueAsNewInitiator.ValueType = ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_UNSPECIFIED


def next_after(state: RunState, now: int, failure: Failure | None) -> Next:
    """What follows a run that completes (failure None), fails or times out: a retry first, else the cron schedule."""
    retry_state = RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET
    if failure is not None and state.retry_policy:
        policy = RetryPolicy.FromString(state.retry_policy)
        backoff_ns, retry_state = next_backoff(
            policy, state.attempt, now, state.execution_expires_at, failure, _asked_delay_ns(failure), delay_is_capped=True
        )
        if backoff_ns is not None:
            return Next(retry_state, backoff_ns, ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_RETRY)
    if state.cron_schedule:
        backoff_ns = next_cron_backoff(state.cron_schedule, state.first_task_at or state.started_at, now)
        if backoff_ns is not None and not (state.execution_expires_at and now + backoff_ns > state.execution_expires_at):
            initiator = ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
            return Next(RetryState.RETRY_STATE_IN_PROGRESS if failure is not None else retry_state, backoff_ns, initiator)
    return Next(retry_state)


def repeat(t: Transition, run_id: str, after: Next, failure: Failure | None, result: Payloads | None) -> Transition:
    """A retry's or cron schedule's run: the same start attributes, another attempt."""
    state = t.state
    assert state.start_attributes and after.backoff_ns is not None
    attributes = WorkflowExecutionStartedEventAttributes.FromString(state.start_attributes)
    is_retry = after.initiator == ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_RETRY
    attributes.attempt = state.attempt + 1 if is_retry else 1
    attributes.initiator = after.initiator
    attributes.first_workflow_task_backoff.CopyFrom(duration(after.backoff_ns))
    attributes.ClearField("continued_failure")
    if failure is not None:
        attributes.continued_failure.CopyFrom(failure)
    if result is not None and not is_retry:
        attributes.last_completion_result.CopyFrom(result)
    _carry(attributes, state, run_id)
    return _begin(t, attributes, run_id)


def continue_as_new(t: Transition, run_id: str, command: ContinueAsNewWorkflowExecutionCommandAttributes) -> Transition:
    """The run a workflow asked for. What the command leaves out is taken from the run that ends."""
    state = t.state
    run_ns = duration_ns(command.workflow_run_timeout) if command.HasField("workflow_run_timeout") else state.run_timeout_ns
    task_ns = duration_ns(command.workflow_task_timeout) or state.task_timeout_ns
    attributes = WorkflowExecutionStartedEventAttributes(
        workflow_type=WorkflowType(name=command.workflow_type.name or state.workflow_type),
        task_queue=TaskQueue(name=command.task_queue.name or state.task_queue, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL),
        workflow_execution_timeout=duration(state.execution_timeout_ns),
        workflow_run_timeout=duration(run_ns),
        workflow_task_timeout=duration(task_timeout_ns(task_ns, run_ns, t.context.limits)),
        attempt=1,
        cron_schedule=command.cron_schedule,
        initiator=command.initiator or ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_WORKFLOW,
        first_workflow_task_backoff=command.backoff_start_interval,
        header=command.header,
        workflow_id=state.workflow_id,
    )
    for source, target in (
        ("input", "input"),
        ("retry_policy", "retry_policy"),
        ("last_completion_result", "last_completion_result"),
        ("failure", "continued_failure"),
        ("memo", "memo"),
        ("search_attributes", "search_attributes"),
    ):
        if command.HasField(source):  # type: ignore[arg-type]
            getattr(attributes, target).CopyFrom(getattr(command, source))
    if state.priority:
        attributes.priority.MergeFromString(state.priority)
    if state.versioning_override:
        attributes.versioning_override.MergeFromString(state.versioning_override)
    _carry(attributes, state, run_id)
    return _begin(t, attributes, run_id)


def _carry(attributes: WorkflowExecutionStartedEventAttributes, state: RunState, run_id: str) -> None:
    attributes.continued_execution_run_id = state.run_id
    attributes.original_execution_run_id = run_id
    attributes.first_execution_run_id = state.first_run_id
    attributes.root_workflow_execution.workflow_id = state.root_workflow_id
    attributes.root_workflow_execution.run_id = state.root_run_id
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
    del attributes.completion_callbacks[:]
    for callback in state.callbacks:
        attributes.completion_callbacks.add().MergeFromString(callback.callback)


def _begin(t: Transition, attributes: WorkflowExecutionStartedEventAttributes, run_id: str) -> Transition:
    state = t.state
    successor = Transition.of_new_run(state.namespace_id, state.workflow_id, run_id, t.context)
    metadata = UserMetadata.FromString(state.user_metadata) if state.user_metadata else None
    add_started(successor, attributes, state.start_request_id, user_metadata=metadata)
    for index, callback in enumerate(state.callbacks):  # request ids and registration times outlive the run
        successor.note(CallbackNote(index, callback))
    first_task(successor)
    return successor


def _asked_delay_ns(failure: Failure) -> int:
    if failure.HasField("application_failure_info"):
        return duration_ns(failure.application_failure_info.next_retry_delay)
    return 0
