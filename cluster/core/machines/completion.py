"""The answer to a workflow task: its events, its commands one by one, what was buffered, and the next task.

All of it is one transition. A bad command throws that transition away; another one, in which the task fails with the
command's cause, takes its place. What is wrong with the call as a whole changes nothing: the task stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType, VersioningBehavior, WorkerVersioningMode, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure, ServerFailureInfo
from temporalio.api.history.v1 import WorkflowTaskCompletedEventAttributes
from temporalio.api.workflowservice.v1 import RespondWorkflowTaskCompletedRequest, RespondWorkflowTaskFailedRequest

from cluster.core.entry import StickyNote
from cluster.core.errors import CallerError, failed_precondition, invalid_argument, not_found
from cluster.core.events import duration_ns
from cluster.core.machines import lifecycle, update, workflow_task
from cluster.core.machines.commands import COMMANDS, BadCommand, Completion, is_served
from cluster.core.state import RunState, Status, TaskType, UpdateStage
from cluster.core.transition import Transition

HEARTBEAT_CHAIN_NS_MAX = 30 * 60 * 1_000_000_000  # history.workflowTaskHeartbeatTimeout
DISCARDED_EVENTS_MAX = 10  # history.discardSpeculativeWorkflowTaskMaximumEventsCount
INLINE_REQUEST_ID = "request-from-RespondWorkflowTaskCompleted"
CLOSING = frozenset(
    (
        CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
        CommandType.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION,
        CommandType.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION,
        CommandType.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
    )
)


class Completed:
    """What became of an answer.

    completion: None if the task was dropped without a trace (a speculative task whose updates were all rejected).
    next_is_started: the next task goes back with the reply.
    refusal: the error for the worker whose answer was not taken (the transition then holds what became of the task).
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
    """The caller has checked that the token names the task that is started now. Raises CallerError."""
    t = make_transition()
    if t.state.status == Status.PAUSED and request.force_create_new_workflow_task:
        raise failed_precondition("Workflow is paused and force create new workflow task is not allowed.")
    check_sequence(list(request.commands))
    if _is_heartbeat(request) and _has_beaten_long_enough(t):
        return _time_out_chain(t)
    try:
        if _is_without_trace(t.state, request):
            return _drop(t, request)
        completion = _take(t, request, resolve_namespace, check_search_attributes, may_be_eager)
    except BadCommand as bad:
        return _refuse(make_transition(), request, bad)
    done = Completed(t, completion)
    _next_task(done, request, completion)
    return done


def decide_failed(t: Transition, request: RespondWorkflowTaskFailedRequest) -> None:
    """The worker could not do the task. An answer too large for the wire will never be smaller: the run is terminated."""
    if request.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_GRPC_MESSAGE_TOO_LARGE:
        lifecycle.terminate(t, reason="GrpcMessageTooLarge", details=None, identity=lifecycle.HISTORY_SERVICE)
        return
    workflow_task.fail(
        t,
        request.cause,
        request.failure if request.HasField("failure") else None,
        identity=request.identity,
        worker_version=request.worker_version if request.HasField("worker_version") else None,
        binary_checksum=request.binary_checksum,
    )
    workflow_task.schedule(t)


def check_sequence(commands: list[Command]) -> None:
    """Raises CallerError: a command nobody knows, or one behind the end of the run."""
    for one in commands:
        if not is_served(one.command_type):
            raise invalid_argument(f"unknown command type: {_name(one)}")
    for one in commands[:-1]:
        if one.command_type in CLOSING:
            names = ", ".join(map(_name, commands))
            raise invalid_argument(f"invalid command sequence: [{names}], command {_name(one)} must be the last command.")


def _name(command: Command) -> str:
    """As the public server's language prints it: an unknown number stays a number."""
    if command.command_type not in CommandType.values():
        return str(command.command_type)
    name = CommandType.Name(command.command_type).removeprefix("COMMAND_TYPE_")
    return "".join(part.capitalize() for part in name.split("_"))


def _take(
    t: Transition,
    request: RespondWorkflowTaskCompletedRequest,
    resolve_namespace: Callable[[str], tuple[str, str] | None],
    check_search_attributes: Callable[[Any], None],
    may_be_eager: bool,
) -> Completion:
    task = t.state.task
    assert task is not None
    event = workflow_task.complete(t, _completed_attributes(request))
    _take_sticky(t, request)
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
        COMMANDS[one.command_type](completion, one)
    # Commands say where among them a message takes effect; what no command names comes behind all of them.
    for message in list(completion.messages.values()):
        update.take_message(completion, message)
    if t.state.is_open and not request.force_create_new_workflow_task:
        update.reject_unprocessed(t)
    return completion


def _next_task(done: Completed, request: RespondWorkflowTaskCompletedRequest, completion: Completion) -> None:
    t = done.t
    if not t.state.is_open:
        return
    had_buffered = t.flush()
    if t.state.status == Status.PAUSED:
        return
    if request.force_create_new_workflow_task or had_buffered or completion.needs_task:
        workflow_task.schedule(
            t, original_scheduled_at=completion.original_scheduled_at if _is_heartbeat(request) else 0
        )
    elif any(one.stage == UpdateStage.ADMITTED for one in t.state.updates.values()):
        # Only a task that goes back with the reply can be without events: an offered one must be found in the history.
        workflow_task.schedule(t, speculative=request.return_new_workflow_task)
    else:
        return
    if request.return_new_workflow_task:
        workflow_task.start(
            t,
            request_id=INLINE_REQUEST_ID,
            identity=request.identity,
            worker_version=request.worker_version_stamp if request.HasField("worker_version_stamp") else None,
        )
        update.send(t, is_heartbeat=request.force_create_new_workflow_task)
        done.next_is_started = True


def _is_heartbeat(request: RespondWorkflowTaskCompletedRequest) -> bool:
    """An answer that only asks for more time (a local activity is running): the next task continues the chain."""
    return request.force_create_new_workflow_task and not request.commands and not request.messages


def _has_beaten_long_enough(t: Transition) -> bool:
    task = t.state.task
    assert task is not None
    return bool(task.original_scheduled_at) and t.now > task.original_scheduled_at + HEARTBEAT_CHAIN_NS_MAX


def _time_out_chain(t: Transition) -> Completed:
    """A workflow that makes no progress for so long may have lost its worker: it is asked anew, on the normal queue."""
    workflow_task.time_out(t)
    if t.state.sticky_queue:
        t.note(StickyNote("", 0))
    workflow_task.schedule(t)
    return Completed(t, None, not_found("workflow task heartbeat timeout"))


def _is_without_trace(state: RunState, request: RespondWorkflowTaskCompletedRequest) -> bool:
    """A speculative task that only rejected its updates leaves nothing behind.

    Its worker forgets what the task showed it, so it must be one that can see events twice, or there were none but the
    completion of the task before; and they must not be many, lest they are sent over and over.
    """
    task = state.task
    assert task is not None
    if task.type != TaskType.SPECULATIVE or task.events_written:
        return False
    if request.commands or request.force_create_new_workflow_task:
        return False
    shown = state.next_event_id - (state.last_completed_started_id + 2)
    if shown > (DISCARDED_EVENTS_MAX if request.capabilities.discard_speculative_workflow_task_with_events else 0):
        return False
    return update.only_rejects(list(request.messages))


def _drop(t: Transition, request: RespondWorkflowTaskCompletedRequest) -> Completed:
    workflow_task.drop(t)
    _take_sticky(t, request)
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
    _next_task(done, request, completion)
    return done


def _refuse(t: Transition, request: RespondWorkflowTaskCompletedRequest, bad: BadCommand) -> Completed:
    """The task fails with the cause; the worker hears it, and the run's next task shows it in the history.

    A repetition that is as bad as the first attempt is not taken at all: its time-out is what slows such a run down.
    """
    text = bad.text
    refusal = invalid_argument(text)
    task = t.state.task
    assert task is not None
    if task.is_transient and bad.cause != WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND:
        raise refusal
    failure = Failure(message=text, server_failure_info=ServerFailureInfo(non_retryable=False))
    workflow_task.fail(
        t,
        bad.cause,
        failure,
        identity=request.identity,
        worker_version=request.worker_version_stamp if request.HasField("worker_version_stamp") else None,
        binary_checksum=_checksum_of(request),
    )
    if bad.terminates:
        lifecycle.terminate(t, reason=text, details=None, identity=lifecycle.HISTORY_SERVICE)
    else:
        workflow_task.schedule(t)
    return Completed(t, None, refusal)


def _take_sticky(t: Transition, request: RespondWorkflowTaskCompletedRequest) -> None:
    sticky = request.sticky_attributes
    queue = sticky.worker_task_queue.name if request.HasField("sticky_attributes") else ""
    timeout_ns = 0
    if queue:
        timeout_ns = duration_ns(sticky.schedule_to_start_timeout) or t.context.limits.sticky_schedule_to_start_default_ns
    if (queue, timeout_ns) != (t.state.sticky_queue, t.state.sticky_timeout_ns):
        t.note(StickyNote(queue, timeout_ns))


def _checksum_of(request: RespondWorkflowTaskCompletedRequest) -> str:
    """SDKs that send a build id repeat it as the older checksum."""
    return "" if request.worker_version_stamp.build_id else request.binary_checksum


def _completed_attributes(request: RespondWorkflowTaskCompletedRequest) -> WorkflowTaskCompletedEventAttributes:
    options = request.deployment_options
    is_versioned = options.worker_versioning_mode == WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED
    behavior = request.versioning_behavior
    if request.HasField("deployment_options") and not is_versioned:
        behavior = VersioningBehavior.VERSIONING_BEHAVIOR_UNSPECIFIED  # a default that the worker has not switched on
    attributes = WorkflowTaskCompletedEventAttributes(
        identity=request.identity,
        binary_checksum=_checksum_of(request),
        versioning_behavior=behavior,
        worker_deployment_name=options.deployment_name or request.deployment.series_name,
    )
    if request.HasField("worker_version_stamp"):
        attributes.worker_version.CopyFrom(request.worker_version_stamp)
    if request.HasField("sdk_metadata"):
        attributes.sdk_metadata.CopyFrom(request.sdk_metadata)
    if request.HasField("metering_metadata"):
        attributes.metering_metadata.CopyFrom(request.metering_metadata)
    if is_versioned:
        attributes.deployment_version.deployment_name = options.deployment_name
        attributes.deployment_version.build_id = options.build_id
    return attributes
