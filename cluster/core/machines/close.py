"""Commands that end a run: complete, fail, cancel, continue as new.

A run may not end while something has come that its worker has not seen: then the task fails with UNHANDLED_COMMAND and
the worker is asked again, with the news.
"""

from __future__ import annotations

from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import WorkflowType
from temporalio.api.enums.v1 import CommandType, ContinueAsNewInitiator, EventType, TaskQueueKind, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    WorkflowExecutionCanceledEventAttributes,
    WorkflowExecutionCompletedEventAttributes,
    WorkflowExecutionContinuedAsNewEventAttributes,
    WorkflowExecutionFailedEventAttributes,
)
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.taskqueue.v1 import TaskQueue

from cluster.core.events import duration, duration_ns
from cluster.core.machines.commands import BadCommand, Completion, command
from cluster.core.machines.successor import continue_as_new, next_after, repeat
from cluster.core.state import UpdateStage


def _may_close(c: Completion) -> bool:
    """False for a second closing command: the first one counts, as in the public server."""
    if c.close_command_seen:
        return False
    waiting = any(update.stage == UpdateStage.ADMITTED for update in c.t.state.updates.values())
    if c.t.state.buffered or waiting:
        raise BadCommand(WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND, "UnhandledCommand")
    c.close_command_seen = True
    return True


def _metadata(command: Command) -> UserMetadata | None:
    return command.user_metadata if command.HasField("user_metadata") else None


@command(CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
def _complete(c: Completion, command: Command) -> None:
    if not command.HasField("complete_workflow_execution_command_attributes"):
        raise BadCommand(
            WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_COMPLETE_WORKFLOW_EXECUTION_ATTRIBUTES,
            "CompleteWorkflowExecutionCommandAttributes is not set on CompleteWorkflowExecutionCommand.",
        )
    if not _may_close(c):
        return
    wish = command.complete_workflow_execution_command_attributes
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
    wish = command.fail_workflow_execution_command_attributes
    if not command.HasField("fail_workflow_execution_command_attributes") or not wish.HasField("failure"):
        raise BadCommand(
            WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_FAIL_WORKFLOW_EXECUTION_ATTRIBUTES,
            "Failure is not set on FailWorkflowExecutionCommand.",
        )
    if not _may_close(c):
        return
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
    if not command.HasField("cancel_workflow_execution_command_attributes"):
        raise BadCommand(
            WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_WORKFLOW_EXECUTION_ATTRIBUTES,
            "CancelWorkflowExecutionCommandAttributes is not set on CancelWorkflowExecutionCommand.",
        )
    if not _may_close(c):
        return
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
    bad = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_CONTINUE_AS_NEW_ATTRIBUTES
    if not command.HasField("continue_as_new_workflow_execution_command_attributes"):
        raise BadCommand(
            bad,
            "ContinueAsNewWorkflowExecutionCommandAttributes is not set on ContinueAsNewWorkflowExecutionCommand.",
        )
    wish = command.continue_as_new_workflow_execution_command_attributes
    limit = c.t.context.limits.id_bytes_max
    for what, text in (("WorkflowType", wish.workflow_type.name), ("TaskQueue", wish.task_queue.name)):
        if len(text.encode()) > limit:
            raise BadCommand(bad, f"{what} on ContinueAsNewWorkflowExecutionCommand exceeds length limit.")
    for what, span in (
        ("WorkflowRunTimeout", wish.workflow_run_timeout),
        ("WorkflowTaskTimeout", wish.workflow_task_timeout),
        ("BackoffStartInterval", wish.backoff_start_interval),
    ):
        if duration_ns(span) < 0:
            raise BadCommand(bad, f"Invalid {what} on ContinueAsNewWorkflowExecutionCommand: it is negative.")
    try:
        c.check_search_attributes(wish.search_attributes)
    except ValueError as error:
        raise BadCommand(bad, str(error)) from error
    if not _may_close(c):
        return
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
            initiator=wish.initiator or ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_WORKFLOW,
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
