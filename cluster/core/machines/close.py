"""Commands that end a run: complete, fail, cancel, continue as new.

A run may not end while something has come that its worker has not seen: then the task fails with UNHANDLED_COMMAND and
the worker is asked again, with the news. (Updates that have not been sent do not count: they end with the run.)
"""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command, ContinueAsNewWorkflowExecutionCommandAttributes
from temporalio.api.common.v1 import WorkflowType
from temporalio.api.enums.v1 import CommandType, EventType, TaskQueueKind, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    WorkflowExecutionCanceledEventAttributes,
    WorkflowExecutionCompletedEventAttributes,
    WorkflowExecutionContinuedAsNewEventAttributes,
    WorkflowExecutionFailedEventAttributes,
)
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.taskqueue.v1 import TaskQueue

from cluster.core.errors import CallerError
from cluster.core.events import duration
from cluster.core.machines.commands import (
    BadCommand,
    Completion,
    check_queue,
    check_search_attributes,
    check_size,
    command,
)
from cluster.core.machines.successor import continue_as_new, next_after, repeat
from cluster.core.retry import check_duration, validate, with_defaults

_BAD_COMPLETE = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_COMPLETE_WORKFLOW_EXECUTION_ATTRIBUTES
_BAD_FAIL = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_FAIL_WORKFLOW_EXECUTION_ATTRIBUTES
_BAD_CANCEL = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_WORKFLOW_EXECUTION_ATTRIBUTES
_BAD_CONTINUE = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_CONTINUE_AS_NEW_ATTRIBUTES


def _require_no_news(c: Completion) -> None:
    """A timer that fired unseen and is cancelled in the same answer is news no more."""
    if c.has_news and c.t.state.buffered:
        raise BadCommand(WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND, "")


def _metadata(command: Command) -> UserMetadata | None:
    return command.user_metadata if command.HasField("user_metadata") else None


@command(CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
def _complete(c: Completion, command: Command) -> None:
    _require_no_news(c)
    if not command.HasField("complete_workflow_execution_command_attributes"):
        raise BadCommand(
            _BAD_COMPLETE, "CompleteWorkflowExecutionCommandAttributes is not set on CompleteWorkflowExecutionCommand."
        )
    wish = command.complete_workflow_execution_command_attributes
    check_size(
        c, wish.result.ByteSize(), _BAD_COMPLETE, "CompleteWorkflowExecutionCommandAttributes.Result exceeds size limit."
    )
    result = wish.result if wish.HasField("result") else None
    after = next_after(c.t.state, c.t.now, None)
    run_id = c.t.context.ids.uuid() if after.backoff_ns is not None else ""
    if run_id:
        c.successor = repeat(c.t, run_id, after, None, result)
    c.t.add(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
        WorkflowExecutionCompletedEventAttributes(
            result=result, workflow_task_completed_event_id=c.completed_event_id, new_execution_run_id=run_id
        ),
        user_metadata=_metadata(command),
    )


@command(CommandType.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION)
def _fail(c: Completion, command: Command) -> None:
    _require_no_news(c)
    if not command.HasField("fail_workflow_execution_command_attributes"):
        raise BadCommand(_BAD_FAIL, "FailWorkflowExecutionCommandAttributes is not set on FailWorkflowExecutionCommand.")
    wish = command.fail_workflow_execution_command_attributes
    if not wish.HasField("failure"):
        raise BadCommand(_BAD_FAIL, "Failure is not set on FailWorkflowExecutionCommand.")
    check_size(c, wish.failure.ByteSize(), _BAD_FAIL, "FailWorkflowExecutionCommandAttributes.Failure exceeds size limit.")
    after = next_after(c.t.state, c.t.now, wish.failure)
    run_id = c.t.context.ids.uuid() if after.backoff_ns is not None else ""
    if run_id:
        c.successor = repeat(c.t, run_id, after, wish.failure, None)
    c.t.add(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
        WorkflowExecutionFailedEventAttributes(
            failure=wish.failure,
            retry_state=after.retry_state,
            workflow_task_completed_event_id=c.completed_event_id,
            new_execution_run_id=run_id,
        ),
        user_metadata=_metadata(command),
    )


@command(CommandType.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION)
def _cancel(c: Completion, command: Command) -> None:
    """A run that obeys a cancel request has no successor, whatever its schedule."""
    _require_no_news(c)
    if not command.HasField("cancel_workflow_execution_command_attributes"):
        raise BadCommand(
            _BAD_CANCEL, "CancelWorkflowExecutionCommandAttributes is not set on CancelWorkflowExecutionCommand."
        )
    wish = command.cancel_workflow_execution_command_attributes
    c.t.add(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
        WorkflowExecutionCanceledEventAttributes(
            details=wish.details if wish.HasField("details") else None,
            workflow_task_completed_event_id=c.completed_event_id,
        ),
        user_metadata=_metadata(command),
    )


@command(CommandType.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION)
def _continue_as_new(c: Completion, command: Command) -> None:
    _require_no_news(c)
    if not command.HasField("continue_as_new_workflow_execution_command_attributes"):
        raise BadCommand(
            _BAD_CONTINUE,
            "ContinueAsNewWorkflowExecutionCommandAttributes is not set on ContinueAsNewWorkflowExecutionCommand.",
        )
    wish = command.continue_as_new_workflow_execution_command_attributes
    _check_continue(c, wish)
    t = c.t
    run_id = t.context.ids.uuid()
    c.successor = continue_as_new(t, run_id, wish)
    started = c.successor.state
    t.add(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
        WorkflowExecutionContinuedAsNewEventAttributes(
            new_execution_run_id=run_id,
            workflow_type=WorkflowType(name=started.workflow_type),
            task_queue=TaskQueue(name=started.task_queue, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL),
            input=wish.input if wish.HasField("input") else None,
            workflow_run_timeout=duration(started.run_timeout_ns),
            workflow_task_timeout=duration(started.task_timeout_ns),
            workflow_task_completed_event_id=c.completed_event_id,
            backoff_start_interval=wish.backoff_start_interval if wish.HasField("backoff_start_interval") else None,
            initiator=wish.initiator,
            failure=wish.failure if wish.HasField("failure") else None,
            last_completion_result=wish.last_completion_result if wish.HasField("last_completion_result") else None,
            header=wish.header if wish.HasField("header") else None,
            memo=wish.memo if wish.HasField("memo") else None,
            search_attributes=wish.search_attributes if wish.HasField("search_attributes") else None,
            inherit_build_id=wish.inherit_build_id,
            initial_versioning_behavior=wish.initial_versioning_behavior,
        ),
        user_metadata=_metadata(command),
    )


def _check_continue(c: Completion, wish: ContinueAsNewWorkflowExecutionCommandAttributes) -> None:
    """Raises BadCommand in the public server's words. The cron schedule is not looked at, as there."""
    state, limits = c.t.state, c.t.context.limits
    what = "ContinueAsNewWorkflowExecutionCommand"
    check_search_attributes(c, wish.search_attributes)
    workflow_type, queue = wish.workflow_type.name or state.workflow_type, wish.task_queue.name or state.task_queue
    size, size_max = len(workflow_type.encode()), limits.id_bytes_max
    if size > size_max:
        raise BadCommand(
            _BAD_CONTINUE,
            f"WorkflowType on {what} exceeds length limit. WorkflowType={workflow_type} Length={size} Limit={size_max}",
        )
    where = f"WorkflowType={workflow_type} TaskQueue=name:\"{queue}\" kind:TASK_QUEUE_KIND_NORMAL"
    try:
        check_queue(queue, size_max)
    except ValueError as error:
        raise BadCommand(_BAD_CONTINUE, f"error validating {what} TaskQueue: {error}. {where}") from error
    spans: tuple[tuple[str, Duration], ...] = (
        ("WorkflowRunTimeout", wish.workflow_run_timeout),
        ("WorkflowTaskTimeout", wish.workflow_task_timeout),
        ("BackoffStartInterval", wish.backoff_start_interval),
    )
    try:
        for name, span in spans:
            check_duration(span, f"Invalid {name} on {what}", f". {where}")
    except CallerError as error:
        raise BadCommand(_BAD_CONTINUE, error.message) from error
    if wish.HasField("retry_policy"):
        try:
            validate(with_defaults(wish.retry_policy, limits))
        except CallerError as error:
            text = f"invalid WorkflowRetryPolicy on {what}: {error.message}. {where}"
            raise BadCommand(_BAD_CONTINUE, text) from error
    check_size(
        c, wish.input.ByteSize(), _BAD_CONTINUE, "ContinueAsNewWorkflowExecutionCommandAttributes. Input exceeds size limit."
    )
    check_size(
        c,
        wish.memo.ByteSize(),
        _BAD_CONTINUE,
        "ContinueAsNewWorkflowExecutionCommandAttributes. Memo exceeds size limit.",
        limit=limits.memo_bytes_max,
    )
