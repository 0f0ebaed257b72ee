"""Starting a run: the events every run begins with, and who may have a workflow id.

At most one run of a workflow id is open. What a start finds decides:

    current run            policy                                outcome
    none                   any                                   started
    same request id        any                                   deduplicated (the run it started)
    open                   conflict: fail                        AlreadyStarted
    open                   conflict: use existing                attached
    open                   conflict: terminate existing          terminated and started, one append
    closed                 reuse: allow duplicate                started
    closed, not completed  reuse: failed only                    started
    closed, completed      reuse: failed only                    AlreadyStarted
    closed                 reuse: reject                         AlreadyStarted
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from typing import Any

from temporalio.api.common.v1 import Callback, Link, Payloads, WorkflowExecution
from temporalio.api.enums.v1 import (
    ContinueAsNewInitiator,
    EventType,
    TaskQueueKind,
    WorkflowIdConflictPolicy,
    WorkflowIdReusePolicy,
)
from temporalio.api.errordetails.v1 import WorkflowExecutionAlreadyStartedFailure
from temporalio.api.history.v1 import (
    WorkflowExecutionOptionsUpdatedEventAttributes,
    WorkflowExecutionStartedEventAttributes,
)
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import StartWorkflowExecutionRequest

from cluster.config import Limits
from cluster.core.cron import next_cron_backoff
from cluster.core.entry import RequestIdNote
from cluster.core.errors import CallerError, Code
from cluster.core.events import duration, duration_ns, timestamp
from cluster.core.machines import callback, lifecycle, workflow_task
from cluster.core.retry import with_defaults
from cluster.core.state import ParentLink, RunState, Status
from cluster.core.transition import Context, Transition


class Outcome(Enum):
    """What a start may do about a workflow id."""

    START = "started"
    DEDUPLICATED = "deduplicated"
    ATTACH = "attached"
    TERMINATE_AND_START = "terminated and started"


def decide_id(
    current: RunState | None,
    request_id: str,
    reuse: int,
    conflict: int,
    now: int,
) -> Outcome:
    """The table above. Raises AlreadyStarted (ALREADY_EXISTS, with the run in its details)."""
    if current is None:
        return Outcome.START
    if request_id and (current.start_request_id == request_id or request_id in current.request_ids):
        return Outcome.DEDUPLICATED
    if current.is_open:
        if reuse == WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING:
            conflict = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
        if conflict == WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING:
            return Outcome.ATTACH
        if conflict == WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING:
            return Outcome.TERMINATE_AND_START
        raise already_started(
            current, f"Workflow execution is already running. WorkflowId: {current.workflow_id}, RunId: {current.run_id}."
        )
    where = f"WorkflowId: {current.workflow_id}, RunId: {current.run_id}."
    if reuse == WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE:
        raise already_started(
            current,
            f"Workflow execution already finished. {where} Workflow Id reuse policy: reject duplicate workflow Id.",
        )
    if reuse == WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY and current.status == Status.COMPLETED:
        raise already_started(
            current,
            f"Workflow execution already finished successfully. {where} "
            "Workflow Id reuse policy: allow duplicate workflow Id if last run failed.",
        )
    return Outcome.START


def already_started(current: RunState, message: str) -> CallerError:
    detail = WorkflowExecutionAlreadyStartedFailure(
        start_request_id=current.start_request_id, run_id=current.run_id, first_execution_run_id=current.first_run_id
    )
    return CallerError(Code.ALREADY_EXISTS, message, detail)


def begin_run(
    context: Context,
    namespace_id: str,
    request: StartWorkflowExecutionRequest,
    run_id: str,
    *,
    parent: ParentLink | None = None,
    root: WorkflowExecution | None = None,
    schedules_task: bool = True,
    eager_identity: str = "",
) -> Transition:
    """A new run's first events. The caller may add a signal before it schedules the first task itself (schedules_task=False).

    eager_identity: whom the first task goes to with the reply; empty = it is offered on the task queue.
    """
    t = Transition.of_new_run(namespace_id, request.workflow_id, run_id, context)
    callback.check(request.completion_callbacks, context.limits)
    attributes = started_attributes(request, run_id, context.limits)
    if parent is not None:
        attributes.parent_workflow_namespace = parent.namespace
        attributes.parent_workflow_namespace_id = parent.namespace_id
        attributes.parent_workflow_execution.workflow_id = parent.workflow_id
        attributes.parent_workflow_execution.run_id = parent.run_id
        attributes.parent_initiated_event_id = parent.initiated_event_id
        attributes.parent_initiated_event_version = parent.initiated_version
    if root is not None:
        attributes.root_workflow_execution.CopyFrom(root)
    if request.cron_schedule:
        backoff_ns = next_cron_backoff(request.cron_schedule, context.now, context.now)
        assert backoff_ns is not None, "validated at the edge"
        attributes.first_workflow_task_backoff.CopyFrom(duration(backoff_ns))
        attributes.initiator = ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
    if execution_ns := duration_ns(attributes.workflow_execution_timeout):  # counted from now on, whatever the first wait
        attributes.workflow_execution_expiration_time.CopyFrom(timestamp(context.now + execution_ns))
    if eager_identity and not duration_ns(attributes.first_workflow_task_backoff):
        attributes.eager_execution_accepted = True
    metadata: UserMetadata | None = request.user_metadata if request.HasField("user_metadata") else None
    links = own_links(request.links, request.completion_callbacks)
    add_started(t, attributes, request.request_id, user_metadata=metadata, links=links)
    if schedules_task:
        first_task(t)
        if attributes.eager_execution_accepted:
            workflow_task.start(t, request_id=request.request_id, identity=eager_identity)
    return t


def first_task(t: Transition) -> None:
    """Schedules the first workflow task unless the run has to wait for it."""
    if not lifecycle.is_waiting_for_first_task(t.state):
        workflow_task.schedule(t)


def own_links(links: Sequence[Link], callbacks: Sequence[Callback]) -> list[Link]:
    """The links that no callback of the same request carries already: they are shown once."""
    return [link for link in links if not any(link in one.links for one in callbacks)]


def add_started(
    t: Transition,
    attributes: WorkflowExecutionStartedEventAttributes,
    request_id: str,
    *,
    user_metadata: UserMetadata | None = None,
    links: Sequence[Link] = (),
) -> None:
    """The first event, and the request id by which a repeated start is recognised."""
    t.add(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, attributes, user_metadata=user_metadata, links=links)
    if request_id:
        t.note(RequestIdNote(request_id, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, 1, is_start=True))


def attach(
    t: Transition,
    request_id: str,
    *,
    callbacks: Sequence[Callback] = (),
    links: Sequence[Link] = (),
    attach_request_id: bool = False,
    identity: str = "",
) -> None:
    """A start that uses the existing run leaves on it what its on_conflict_options say."""
    lifecycle.require_open(t.state)
    callback.check_room(t.state, len(callbacks), t.context.limits)
    callback.check(callbacks, t.context.limits)
    if not (attach_request_id or callbacks or links):
        return
    t.add(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED,
        WorkflowExecutionOptionsUpdatedEventAttributes(
            attached_request_id=request_id if attach_request_id else "",
            attached_completion_callbacks=callback.as_kept(callbacks),
            identity=identity,
        ),
        links=own_links(links, callbacks),
        worker_may_ignore=True,
    )


def started_attributes(
    request: StartWorkflowExecutionRequest, run_id: str, limits: Limits
) -> WorkflowExecutionStartedEventAttributes:
    """What the started event says of a client's (or parent's) request, with the server's defaults filled in."""
    execution_ns = duration_ns(request.workflow_execution_timeout)
    run_ns = duration_ns(request.workflow_run_timeout) or execution_ns
    if execution_ns:
        run_ns = min(run_ns, execution_ns)
    attributes = WorkflowExecutionStartedEventAttributes(
        workflow_type=request.workflow_type,
        task_queue=TaskQueue(name=request.task_queue.name, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL),
        workflow_execution_timeout=request.workflow_execution_timeout if request.HasField("workflow_execution_timeout") else None,
        workflow_run_timeout=duration(run_ns) if run_ns or request.HasField("workflow_run_timeout") else None,
        workflow_task_timeout=duration(task_timeout_ns(duration_ns(request.workflow_task_timeout), run_ns, limits)),
        original_execution_run_id=run_id,
        first_execution_run_id=run_id,
        identity=request.identity,
        attempt=1,
        cron_schedule=request.cron_schedule,
        first_workflow_task_backoff=request.workflow_start_delay if request.HasField("workflow_start_delay") else duration(0),
        workflow_id=request.workflow_id,
        completion_callbacks=callback.as_kept(request.completion_callbacks),
        header=request.header if request.HasField("header") else None,
    )
    for field in ("input", "memo", "search_attributes", "versioning_override", "priority"):
        if request.HasField(field):
            getattr(attributes, field).CopyFrom(getattr(request, field))
    if request.HasField("retry_policy"):
        attributes.retry_policy.CopyFrom(with_defaults(request.retry_policy, limits))
    for field in ("last_completion_result", "continued_failure"):
        if request.HasField(field):  # type: ignore[arg-type]
            getattr(attributes, field).CopyFrom(getattr(request, field))
    return attributes


def task_timeout_ns(asked_ns: int, run_ns: int, limits: Limits) -> int:
    """Start-to-close of workflow tasks: ten seconds if nothing is asked, at most two minutes, at most the run's time."""
    timeout_ns = min(asked_ns or limits.workflow_task_timeout_default_ns, limits.workflow_task_timeout_max_ns)
    return min(timeout_ns, run_ns) if run_ns else timeout_ns


def terminate_for_start(t: Transition, new_run_id: str, reuse: int) -> None:
    """The old run makes place for a new one of the same id. The public server names the older of the two policies for both."""
    lifecycle.terminate(
        t,
        reason="TerminateIfRunning WorkflowIdReusePolicy",
        details=_text_details(f"terminated by new runID: {new_run_id}"),
        identity=lifecycle.HISTORY_SERVICE,
    )


def _text_details(text: str) -> Payloads:
    details = Payloads()
    details.payloads.add(metadata={"encoding": b"json/plain"}, data=json.dumps(text).encode())
    return details


def signal_with_start_as_start(request: Any) -> StartWorkflowExecutionRequest:
    """SignalWithStartWorkflowExecutionRequest has the start's fields under the same names."""
    start = StartWorkflowExecutionRequest(
        namespace=request.namespace,
        workflow_id=request.workflow_id,
        identity=request.identity,
        request_id=request.request_id,
        workflow_id_reuse_policy=request.workflow_id_reuse_policy,
        workflow_id_conflict_policy=request.workflow_id_conflict_policy,
        cron_schedule=request.cron_schedule,
        links=request.links,
    )
    for field in (
        "workflow_type",
        "task_queue",
        "input",
        "workflow_execution_timeout",
        "workflow_run_timeout",
        "workflow_task_timeout",
        "retry_policy",
        "memo",
        "search_attributes",
        "header",
        "workflow_start_delay",
        "user_metadata",
        "versioning_override",
        "priority",
    ):
        if request.HasField(field):
            getattr(start, field).CopyFrom(getattr(request, field))
    return start

