"""The answer to a workflow task: its events, its commands one by one, what was buffered, and the next task.

All of it is one transition. A bad command throws that transition away; another one, in which the task fails with the
command's cause, takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from temporalio.api.enums.v1 import CommandType, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure, ServerFailureInfo
from temporalio.api.history.v1 import WorkflowTaskCompletedEventAttributes
from temporalio.api.workflowservice.v1 import RespondWorkflowTaskCompletedRequest

from cluster.core.entry import StickyNote
from cluster.core.errors import CallerError, Code
from cluster.core.events import duration_ns
from cluster.core.machines import update, workflow_task
from cluster.core.machines.commands import COMMANDS, BadCommand, Completion
from cluster.core.state import TaskType, UpdateStage
from cluster.core.transition import Transition

HEARTBEAT_CHAIN_NS_MAX = 30 * 60 * 1_000_000_000  # history.workflowTaskHeartbeatTimeout


class Completed:
    """What became of an answer.

    completion: None if the task was dropped without a trace (a speculative task whose updates were all rejected).
    next_is_started: the next task goes back with the reply.
    refusal: the error for the worker whose commands were bad (the transition then holds the failed task).
    """

    __slots__ = ("completion", "next_is_started", "refusal", "reset_history_event_id", "t")

    def __init__(self, t: Transition, completion: Completion | None, refusal: CallerError | None = None) -> None:
        self.t = t
        self.completion = completion
        self.refusal = refusal
        self.next_is_started = False
        self.reset_history_event_id = 0


def decide_completed(
    make_transition: Callable[[], Transition],
    request: RespondWorkflowTaskCompletedRequest,
    *,
    resolve_namespace: Callable[[str], tuple[str, str] | None],
    check_search_attributes: Callable[[Any], None],
    may_be_eager: bool,
) -> Completed:
    """The caller has checked that the token names the task that is started now."""
    t = make_transition()
    if _is_without_trace(t, request):
        return _drop(t, request)
    try:
        completion = _commands(t, request, resolve_namespace, check_search_attributes, may_be_eager)
    except BadCommand as bad:
        return _refuse(make_transition(), request, bad)
    done = Completed(t, completion)
    if t.state.is_open:
        _next_task(done, request, completion)
    return done


def _commands(
    t: Transition,
    request: RespondWorkflowTaskCompletedRequest,
    resolve_namespace: Callable[[str], tuple[str, str] | None],
    check_search_attributes: Callable[[Any], None],
    may_be_eager: bool,
) -> Completion:
    _take_sticky(t, request)
    task = t.state.task
    assert task is not None
    event = workflow_task.complete(t, _completed_attributes(request))
    completion = Completion(
        t,
        event.event_id,
        request.identity,
        messages={message.id: message for message in request.messages},
        resolve_namespace=resolve_namespace,
        check_search_attributes=check_search_attributes,
        may_be_eager=may_be_eager,
    )
    completion.original_scheduled_at = task.original_scheduled_at
    for one in request.commands:
        if completion.close_command_seen and one.command_type != CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE:
            continue  # a run ends once; what its worker wished after that has no meaning
        handler = COMMANDS.get(one.command_type)
        if handler is None:
            raise BadCommand(
                WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND,
                f"Unknown command type: {one.command_type}: this server does not serve it.",
            )
        handler(completion, one)
    for message in list(completion.messages.values()):
        update.take_message(completion, message)
    if t.state.is_open:
        update.reject_unprocessed(t)
    return completion


def _next_task(done: Completed, request: RespondWorkflowTaskCompletedRequest, completion: Completion) -> None:
    t = done.t
    has_only_completed = t.state.next_event_id == completion.completed_event_id + 1
    had_buffered = t.flush()
    waiting_updates = any(one.stage == UpdateStage.ADMITTED for one in t.state.updates.values())
    if had_buffered or completion.needs_task:
        workflow_task.schedule(t)
    elif request.force_create_new_workflow_task:
        workflow_task.schedule(t, original_scheduled_at=completion.original_scheduled_at)
    elif waiting_updates:
        workflow_task.schedule(t, speculative=has_only_completed)
    else:
        return
    if request.return_new_workflow_task:
        workflow_task.start(t, request_id="request-from-RespondWorkflowTaskCompleted", identity=request.identity)
        update.send(t)
        done.next_is_started = True


def _is_without_trace(t: Transition, request: RespondWorkflowTaskCompletedRequest) -> bool:
    """A speculative task that only rejected its updates leaves nothing behind."""
    task = t.state.task
    return (
        task is not None
        and task.type == TaskType.SPECULATIVE
        and not task.events_written
        and not request.commands
        and not request.force_create_new_workflow_task
        and not t.state.buffered
        and update.only_rejects(list(request.messages))
        and request.capabilities.discard_speculative_workflow_task_with_events
    )


def _drop(t: Transition, request: RespondWorkflowTaskCompletedRequest) -> Completed:
    workflow_task.drop(t)
    completion = Completion(
        t,
        0,
        request.identity,
        messages={},
        resolve_namespace=lambda name: None,
        check_search_attributes=lambda attributes: None,
        may_be_eager=False,
    )
    for message in request.messages:
        update.take_message(completion, message)
    update.reject_unprocessed(t)
    done = Completed(t, None)
    done.reset_history_event_id = t.state.last_completed_started_id
    if any(one.stage == UpdateStage.ADMITTED for one in t.state.updates.values()):
        workflow_task.schedule(t, speculative=True)
    return done


def _refuse(t: Transition, request: RespondWorkflowTaskCompletedRequest, bad: BadCommand) -> Completed:
    """The task fails with the cause; the worker hears it, and the run's next task shows it in the history."""
    name = WorkflowTaskFailedCause.Name(bad.cause).removeprefix("WORKFLOW_TASK_FAILED_CAUSE_")
    label = "".join(part.capitalize() for part in name.split("_"))
    is_unhandled = bad.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND
    text = label if is_unhandled and bad.message == label else f"{label}: {bad.message}"
    failure = Failure(message=text, server_failure_info=ServerFailureInfo(non_retryable=False), source="Server")
    workflow_task.fail(t, bad.cause, failure, identity=request.identity)
    workflow_task.schedule(t)
    return Completed(t, None, CallerError(Code.INVALID_ARGUMENT, text))


def _take_sticky(t: Transition, request: RespondWorkflowTaskCompletedRequest) -> None:
    sticky = request.sticky_attributes
    queue = sticky.worker_task_queue.name if request.HasField("sticky_attributes") else ""
    timeout_ns = 0
    if queue:
        timeout_ns = duration_ns(sticky.schedule_to_start_timeout) or t.context.limits.sticky_schedule_to_start_default_ns
    if (queue, timeout_ns) != (t.state.sticky_queue, t.state.sticky_timeout_ns):
        t.note(StickyNote(queue, timeout_ns))


def _completed_attributes(request: RespondWorkflowTaskCompletedRequest) -> WorkflowTaskCompletedEventAttributes:
    attributes = WorkflowTaskCompletedEventAttributes(
        identity=request.identity,
        binary_checksum="" if request.worker_version_stamp.build_id else request.binary_checksum,
        versioning_behavior=request.versioning_behavior,
    )
    if request.HasField("worker_version_stamp"):
        attributes.worker_version.CopyFrom(request.worker_version_stamp)
    if request.HasField("sdk_metadata"):
        attributes.sdk_metadata.CopyFrom(request.sdk_metadata)
    if request.HasField("metering_metadata"):
        attributes.metering_metadata.CopyFrom(request.metering_metadata)
    if request.HasField("deployment"):
        attributes.deployment.CopyFrom(request.deployment)
    return attributes

