"""Child workflows: wished for by a command, started by an effect, and heard of once more when they end.

The start is keyed by (parent run, initiated event): repeated after a crash it finds the child it started. A child's end
may be heard before the answer to its start: then the started event is written first.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from msgspec.structs import replace
from temporalio.api.command.v1 import Command, StartChildWorkflowExecutionCommandAttributes
from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import (
    CommandType,
    EventType,
    ParentClosePolicy,
    RetryState,
    StartChildWorkflowExecutionFailedCause,
    TaskQueueKind,
    WorkflowIdReusePolicy,
    WorkflowTaskFailedCause,
)
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import (
    ChildWorkflowExecutionCanceledEventAttributes,
    ChildWorkflowExecutionCompletedEventAttributes,
    ChildWorkflowExecutionFailedEventAttributes,
    ChildWorkflowExecutionStartedEventAttributes,
    ChildWorkflowExecutionTerminatedEventAttributes,
    ChildWorkflowExecutionTimedOutEventAttributes,
    HistoryEvent,
    StartChildWorkflowExecutionFailedEventAttributes,
    StartChildWorkflowExecutionInitiatedEventAttributes,
)
from temporalio.api.taskqueue.v1 import TaskQueue

from cluster.core.cron import CronError, parse_cron
from cluster.core.entry import ChildDoneNote, OutboxNote
from cluster.core.errors import CallerError, not_found
from cluster.core.events import duration, duration_ns
from cluster.core.machines import workflow_task
from cluster.core.machines.commands import (
    BadCommand,
    Completion,
    check_queue,
    check_search_attributes,
    check_size,
    command,
)
from cluster.core.machines.start import task_timeout_ns
from cluster.core.retry import check_duration, validate, with_defaults
from cluster.core.state import Child, RunState, Status
from cluster.core.table import Table, applies, on_flush
from cluster.core.transition import Transition

TABLE = Table(
    "child workflow",
    [
        ("none", "StartChildWorkflowExecutionInitiated", "initiated"),
        ("initiated", "ChildWorkflowExecutionStarted", "started"),
        ("initiated", "StartChildWorkflowExecutionFailed", "none"),
        ("started", "ChildWorkflowExecutionCompleted", "none"),
        ("started", "ChildWorkflowExecutionFailed", "none"),
        ("started", "ChildWorkflowExecutionCanceled", "none"),
        ("started", "ChildWorkflowExecutionTimedOut", "none"),
        ("started", "ChildWorkflowExecutionTerminated", "none"),
        # The parent has closed: its policy is carried out, then the child is no longer its business.
        ("initiated", "policy done", "none"),
        ("started", "policy done", "none"),
    ],
)

_BAD = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_CHILD_EXECUTION_ATTRIBUTES


def position(state: RunState, initiated_event_id: int) -> str:
    child = state.children.get(initiated_event_id)
    if child is None or child.is_policy_done:
        return "none"
    return "started" if child.is_started else "initiated"


# --- fold --------------------------------------------------------------------------------------------------------------


@applies(EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED)
def _initiated(state: RunState, event: HistoryEvent, attributes: StartChildWorkflowExecutionInitiatedEventAttributes) -> None:
    TABLE.step(position(state, event.event_id), "StartChildWorkflowExecutionInitiated")
    state.children[event.event_id] = Child(
        initiated_event_id=event.event_id,
        namespace=attributes.namespace,
        namespace_id=attributes.namespace_id,
        workflow_id=attributes.workflow_id,
        workflow_type=attributes.workflow_type.name,
        parent_close_policy=attributes.parent_close_policy,
        request_id="",
        initiated_version=event.version,
    )


@applies(EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED)
def _started(state: RunState, event: HistoryEvent, attributes: ChildWorkflowExecutionStartedEventAttributes) -> None:
    initiated_id = attributes.initiated_event_id
    TABLE.step(position(state, initiated_id), "ChildWorkflowExecutionStarted")
    state.children[initiated_id] = replace(
        state.children[initiated_id],
        run_id=attributes.workflow_execution.run_id,
        started_event_id=event.event_id,
        is_started=True,
    )


@on_flush(EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED)
def _started_flushed(state: RunState, event: HistoryEvent) -> None:
    initiated_id = event.child_workflow_execution_started_event_attributes.initiated_event_id
    if (child := state.children.get(initiated_id)) is not None:
        state.children[initiated_id] = replace(child, started_event_id=event.event_id)


def _ends(event_type: EventType.ValueType, trigger: str) -> None:
    @applies(event_type)
    def _ended(state: RunState, event: HistoryEvent, attributes: Any) -> None:
        TABLE.step(position(state, attributes.initiated_event_id), trigger)
        del state.children[attributes.initiated_event_id]


for _type, _trigger in (
    (EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED, "StartChildWorkflowExecutionFailed"),
    (EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED, "ChildWorkflowExecutionCompleted"),
    (EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED, "ChildWorkflowExecutionFailed"),
    (EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED, "ChildWorkflowExecutionCanceled"),
    (EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT, "ChildWorkflowExecutionTimedOut"),
    (EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED, "ChildWorkflowExecutionTerminated"),
):
    _ends(_type, _trigger)


# --- decide ------------------------------------------------------------------------------------------------------------


@command(CommandType.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION)
def _start_child(c: Completion, command: Command) -> None:
    what = "StartChildWorkflowExecutionCommand"
    wish = command.start_child_workflow_execution_command_attributes
    if not command.HasField("start_child_workflow_execution_command_attributes"):
        raise BadCommand(_BAD, f"StartChildWorkflowExecutionCommandAttributes is not set on {what}.")
    t, state, limits = c.t, c.t.state, c.t.context.limits
    namespace_id, namespace = resolve(c, wish.namespace)
    _validate(c, wish, namespace)
    if len(state.children) >= limits.pending_children_max:
        raise BadCommand(
            WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_PENDING_CHILD_WORKFLOWS_LIMIT_EXCEEDED,
            f"the number of pending child workflow executions, {len(state.children)}, "
            f"has reached the per-workflow limit of {limits.pending_children_max}",
        )
    execution_ns = duration_ns(wish.workflow_execution_timeout)
    run_ns = duration_ns(wish.workflow_run_timeout) or execution_ns
    if execution_ns:
        run_ns = min(run_ns, execution_ns)
    task_ns = task_timeout_ns(duration_ns(wish.workflow_task_timeout), run_ns, limits)
    attributes = StartChildWorkflowExecutionInitiatedEventAttributes(
        namespace=namespace,
        namespace_id=namespace_id,
        workflow_id=wish.workflow_id,
        workflow_type=wish.workflow_type,
        task_queue=TaskQueue(name=wish.task_queue.name or state.task_queue, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL),
        workflow_run_timeout=duration(run_ns),
        workflow_task_timeout=duration(task_ns),
        parent_close_policy=wish.parent_close_policy or ParentClosePolicy.PARENT_CLOSE_POLICY_TERMINATE,
        control=wish.control,
        workflow_task_completed_event_id=c.completed_event_id,
        workflow_id_reuse_policy=wish.workflow_id_reuse_policy
        or WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
        cron_schedule=wish.cron_schedule,
        inherit_build_id=wish.inherit_build_id,
    )
    for field in ("workflow_execution_timeout", "input", "header", "memo", "search_attributes", "priority"):
        if wish.HasField(field):
            getattr(attributes, field).CopyFrom(getattr(wish, field))
    if wish.HasField("retry_policy"):
        attributes.retry_policy.CopyFrom(with_defaults(wish.retry_policy, limits))
    metadata = command.user_metadata if command.HasField("user_metadata") else None
    event = t.add(EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED, attributes, user_metadata=metadata)
    t.note(OutboxNote(event.event_id, t.context.ids.uuid()))
    c.initiated_child_ids.add(wish.workflow_id)


def _validate(c: Completion, wish: StartChildWorkflowExecutionCommandAttributes, namespace: str) -> None:
    """Raises BadCommand in the public server's words."""
    what, limits = "StartChildWorkflowExecutionCommand", c.t.context.limits
    workflow_id, workflow_type = wish.workflow_id, wish.workflow_type.name
    if not workflow_id:
        text = f"Required field WorkflowId is not set on {what}. WorkflowType={workflow_type} Namespace={namespace}"
        raise BadCommand(_BAD, text)
    if not workflow_type:
        text = f"Required field WorkflowType is not set on {what}. WorkflowId={workflow_id} Namespace={namespace}"
        raise BadCommand(_BAD, text)
    where = f"WorkflowId={workflow_id} WorkflowType={workflow_type} Namespace={namespace}"
    size_max = limits.id_bytes_max
    for name, value in (("WorkflowId", workflow_id), ("WorkflowType", workflow_type)):
        size = len(value.encode())
        if size > size_max:
            shown = where.replace(f"{name}={value}", f"{name}={value} Length={size} Limit={size_max}")
            raise BadCommand(_BAD, f"{name} on {what} exceeds length limit. {shown}")
    try:
        for name, span in (
            ("WorkflowExecutionTimeout", wish.workflow_execution_timeout),
            ("WorkflowRunTimeout", wish.workflow_run_timeout),
            ("WorkflowTaskTimeout", wish.workflow_task_timeout),
        ):
            check_duration(span, f"Invalid {name} on {what}", f". {where}")
    except CallerError as error:
        raise BadCommand(_BAD, error.message) from error
    if wish.HasField("retry_policy"):
        try:
            validate(with_defaults(wish.retry_policy, limits))
        except CallerError as error:
            raise BadCommand(_BAD, f"invalid WorkflowRetryPolicy on {what}: {error.message}. {where}") from error
    if wish.cron_schedule:
        try:
            parse_cron(wish.cron_schedule)
        except CronError as error:
            raise BadCommand(_BAD, f"invalid CronSchedule on {what}: invalid CronSchedule.. {where}") from error
    check_search_attributes(c, wish.search_attributes)
    queue = wish.task_queue.name or c.t.state.task_queue
    try:
        check_queue(queue, size_max)
    except ValueError as error:
        text = f"invalid TaskQueue on {what}: {error}. {where} TaskQueue=name:\"{queue}\" kind:TASK_QUEUE_KIND_NORMAL"
        raise BadCommand(_BAD, text) from error
    check_size(
        c, wish.input.ByteSize(), _BAD, "StartChildWorkflowExecutionCommandAttributes. Input exceeds size limit."
    )
    memo_text = "StartChildWorkflowExecutionCommandAttributes.Memo exceeds size limit."
    check_size(c, wish.memo.ByteSize(), _BAD, memo_text, limit=limits.memo_bytes_max)


def resolve(c: Completion, name: str) -> tuple[str, str]:
    """(id, name) of the namespace a command names; its own where it names none. Raises CallerError NOT_FOUND."""
    if not name or name == c.t.context.namespace:
        return c.t.state.namespace_id, c.t.context.namespace
    found = c.resolve_namespace(name)
    if found is None:
        raise not_found(f"Namespace {name} is not found.", NamespaceNotFoundFailure(namespace=name))
    return found


def record_started(t: Transition, initiated: HistoryEvent, run_id: str) -> bool:
    """The child was started (or found started by this very wish). Returns False if that is recorded already."""
    state = t.state
    child = state.children.get(initiated.event_id)
    if not state.is_open or child is None or child.is_started:
        return False
    attributes = initiated.start_child_workflow_execution_initiated_event_attributes
    t.add(
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED,
        ChildWorkflowExecutionStartedEventAttributes(
            namespace=child.namespace,
            namespace_id=child.namespace_id,
            initiated_event_id=child.initiated_event_id,
            workflow_execution=WorkflowExecution(workflow_id=child.workflow_id, run_id=run_id),
            workflow_type=WorkflowType(name=child.workflow_type),
            header=attributes.header if attributes.HasField("header") else None,
        ),
    )
    workflow_task.schedule(t)
    return True


def record_start_failed(
    t: Transition, initiated: HistoryEvent, cause: StartChildWorkflowExecutionFailedCause.ValueType
) -> bool:
    state = t.state
    child = state.children.get(initiated.event_id)
    if not state.is_open or child is None or child.is_started:
        return False
    attributes = initiated.start_child_workflow_execution_initiated_event_attributes
    t.add(
        EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED,
        StartChildWorkflowExecutionFailedEventAttributes(
            namespace=child.namespace,
            namespace_id=child.namespace_id,
            workflow_id=child.workflow_id,
            workflow_type=WorkflowType(name=child.workflow_type),
            cause=cause,
            control=attributes.control,
            initiated_event_id=child.initiated_event_id,
        ),
    )
    workflow_task.schedule(t)
    return True


def record_ended(t: Transition, initiated: HistoryEvent, execution: WorkflowExecution, close: HistoryEvent) -> bool:
    """The child's close event, as its parent's history tells it. Returns False if it is known or of no interest any more."""
    state = t.state
    child = state.children.get(initiated.event_id)
    if not state.is_open or child is None:
        return False
    if not child.is_started:
        record_started(t, initiated, execution.run_id)
        child = state.children[initiated.event_id]
    told: dict[str, Any] = {
        "namespace": child.namespace,
        "namespace_id": child.namespace_id,
        "workflow_execution": execution,
        "workflow_type": WorkflowType(name=child.workflow_type),
        "initiated_event_id": child.initiated_event_id,
        "started_event_id": child.started_event_id,
    }
    event_type, attributes = _told_by_parent(close, told)
    t.add(event_type, attributes)
    workflow_task.schedule(t)
    return True


def _told_by_parent(close: HistoryEvent, told: dict[str, Any]) -> tuple[EventType.ValueType, Message]:
    kind = close.event_type
    if kind == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
        completed = close.workflow_execution_completed_event_attributes
        result = completed.result if completed.HasField("result") else None
        return (
            EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
            ChildWorkflowExecutionCompletedEventAttributes(result=result, **told),
        )
    if kind == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
        failed = close.workflow_execution_failed_event_attributes
        failure: Failure = failed.failure
        return (
            EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
            ChildWorkflowExecutionFailedEventAttributes(failure=failure, retry_state=failed.retry_state, **told),
        )
    if kind == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
        canceled = close.workflow_execution_canceled_event_attributes
        details = canceled.details if canceled.HasField("details") else None
        return (
            EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
            ChildWorkflowExecutionCanceledEventAttributes(details=details, **told),
        )
    if kind == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT:
        state: RetryState.ValueType = close.workflow_execution_timed_out_event_attributes.retry_state
        return (
            EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT,
            ChildWorkflowExecutionTimedOutEventAttributes(retry_state=state, **told),
        )
    assert kind == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED, f"event type {kind} closes no run for its parent"
    return (
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED,
        ChildWorkflowExecutionTerminatedEventAttributes(**told),
    )


def close_policy_done(t: Transition, initiated_event_id: int) -> None:
    """The closed parent's policy was carried out for this child."""
    if position(t.state, initiated_event_id) == "none":
        return
    TABLE.step(position(t.state, initiated_event_id), "policy done")
    t.note(ChildDoneNote(initiated_event_id))


def is_wanted_after_close(state: RunState, child: Child) -> bool:
    """Whether a child that is to outlive its parent, and that nobody has started yet, is started all the same.

    Not if it was wished for in the very answer that ended the parent: the public server never gets to it either.
    """
    if child.parent_close_policy != ParentClosePolicy.PARENT_CLOSE_POLICY_ABANDON:
        return False
    ended_by_itself = state.status in (Status.COMPLETED, Status.FAILED, Status.CANCELED, Status.CONTINUED_AS_NEW)
    return not (ended_by_itself and child.initiated_event_id > state.last_completed_id)


def owes_close_policy(state: RunState) -> list[Child]:
    """Children that a closed run still has to terminate or cancel. A continued run hands nothing on: the policy applies.

    Not those of a run that was closed by a reset: they are the new run's, or nobody's.
    """
    if state.is_open or state.status == Status.NONE or state.is_reset_away:
        return []
    return [one for one in state.children.values() if not one.is_policy_done]

