"""Commands about activities: schedule one, ask one to stop. The machine is in activity.py."""

from __future__ import annotations

from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.command.v1 import Command, ScheduleActivityTaskCommandAttributes
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    ActivityTaskCancelRequestedEventAttributes,
    ActivityTaskScheduledEventAttributes,
)
from temporalio.api.sdk.v1 import UserMetadata

from cluster.core.errors import CallerError
from cluster.core.events import attributes_of, parse_event
from cluster.core.machines.activity_calls import end_canceled, start, withdraw_eager_start
from cluster.core.machines.activity_options import check_options
from cluster.core.machines.commands import BadCommand, Completion, check_size, command
from cluster.core.state import Status
from cluster.core.transition import Transition

_BAD_SCHEDULE = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES
_BAD_CANCEL = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES
_NOT_STARTED = Payloads(
    payloads=[Payload(metadata={"encoding": b"json/plain"}, data=b'"ACTIVITY_ID_NOT_STARTED"')]
)  # details of an activity that was cancelled before anybody had it
_ENDS = (
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
    EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED,
)


@command(CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
def _schedule(c: Completion, command: Command) -> None:
    t, state, limits = c.t, c.t.state, c.t.context.limits
    if not command.HasField("schedule_activity_task_command_attributes"):
        text = "ScheduleActivityTaskCommandAttributes is not set on ScheduleActivityTaskCommand."
        raise BadCommand(_BAD_SCHEDULE, text)
    wish = command.schedule_activity_task_command_attributes
    options = _options(wish)
    try:
        check_options(
            wish.activity_id,
            wish.activity_type.name,
            options,
            run_timeout_ns=state.run_timeout_ns,
            run_queue=state.task_queue,
            limits=limits,
        )
    except CallerError as error:
        raise BadCommand(_BAD_SCHEDULE, error.message) from error
    if wish.use_workflow_build_id and options.task_queue.name != state.task_queue:
        raise BadCommand(_BAD_SCHEDULE, "Activity with UseCompatibleVersion cannot run on different task queue.")
    check_size(c, wish.input.ByteSize(), _BAD_SCHEDULE, "ScheduleActivityTaskCommandAttributes.Input exceeds size limit.")
    if len(state.activities) >= limits.pending_activities_max:
        raise BadCommand(
            WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_PENDING_ACTIVITIES_LIMIT_EXCEEDED,
            f"the number of pending activities, {len(state.activities)}, has reached the per-workflow limit of"
            f" {limits.pending_activities_max}",
        )
    if wish.activity_id in state.activity_ids:
        raise BadCommand(
            WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_SCHEDULE_ACTIVITY_DUPLICATE_ID,
            "invalid history builder state for action: add-activitytask-scheduled-event,"
            f" ActivityID: {wish.activity_id}",
        )
    event = t.add(
        EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED,
        _scheduled_attributes(wish, options, c.completed_event_id),
        user_metadata=_metadata(command),
    )
    if wish.request_eager_execution and c.may_be_eager and options.task_queue.name == state.task_queue:
        _start_eagerly(c, event.event_id)


def _start_eagerly(c: Completion, scheduled_event_id: int) -> None:
    """The worker that scheduled the activity takes it with the reply. A paused run starts nothing."""
    if c.t.state.status == Status.PAUSED:
        return
    request_id = c.t.context.ids.uuid()
    start(c.t, scheduled_event_id, request_id=request_id, identity=c.identity, stamp=0)
    c.eager_activity_ids.append(scheduled_event_id)


def _options(wish: ScheduleActivityTaskCommandAttributes) -> ActivityOptions:
    return ActivityOptions(
        schedule_to_close_timeout=wish.schedule_to_close_timeout,
        schedule_to_start_timeout=wish.schedule_to_start_timeout,
        start_to_close_timeout=wish.start_to_close_timeout,
        heartbeat_timeout=wish.heartbeat_timeout,
        retry_policy=wish.retry_policy,
        task_queue=wish.task_queue if wish.HasField("task_queue") else None,
        priority=wish.priority if wish.HasField("priority") else None,
    )


def _scheduled_attributes(
    wish: ScheduleActivityTaskCommandAttributes, options: ActivityOptions, completed_event_id: int
) -> ActivityTaskScheduledEventAttributes:
    return ActivityTaskScheduledEventAttributes(
        activity_id=wish.activity_id,
        activity_type=wish.activity_type,
        task_queue=options.task_queue,
        header=wish.header if wish.HasField("header") else None,
        input=wish.input if wish.HasField("input") else None,
        schedule_to_close_timeout=options.schedule_to_close_timeout,
        schedule_to_start_timeout=options.schedule_to_start_timeout,
        start_to_close_timeout=options.start_to_close_timeout,
        heartbeat_timeout=options.heartbeat_timeout,
        workflow_task_completed_event_id=completed_event_id,
        retry_policy=options.retry_policy,
        use_workflow_build_id=wish.use_workflow_build_id,
        priority=options.priority if options.HasField("priority") else None,
    )


@command(CommandType.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK)
def _request_cancel(c: Completion, command: Command) -> None:
    t = c.t
    if not command.HasField("request_cancel_activity_task_command_attributes"):
        text = "RequestCancelActivityTaskCommandAttributes is not set on RequestCancelActivityTaskCommand."
        raise BadCommand(_BAD_CANCEL, text)
    scheduled_event_id = command.request_cancel_activity_task_command_attributes.scheduled_event_id
    if scheduled_event_id <= 0:
        raise BadCommand(_BAD_CANCEL, "ScheduledEventId is not set on RequestCancelActivityTaskCommand.")
    activity = t.state.activities.get(scheduled_event_id)
    if activity.cancel_requested if activity is not None else not _has_just_ended(t, scheduled_event_id):
        raise BadCommand(
            _BAD_CANCEL,
            "invalid history builder state for action: add-activitytask-cancel-requested-event,"
            f" ScheduledEventID: {scheduled_event_id}",
        )
    if scheduled_event_id in c.eager_activity_ids:
        c.eager_activity_ids.remove(scheduled_event_id)
        withdraw_eager_start(t, scheduled_event_id)
    t.add(
        EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED,
        ActivityTaskCancelRequestedEventAttributes(
            scheduled_event_id=scheduled_event_id, workflow_task_completed_event_id=c.completed_event_id
        ),
        user_metadata=_metadata(command),
    )
    activity = t.state.activities.get(scheduled_event_id)
    if activity is not None and not activity.is_started:
        end_canceled(t, activity, _NOT_STARTED, c.identity, is_behind=True)
        c.needs_task = True


def _has_just_ended(t: Transition, scheduled_event_id: int) -> bool:
    """Whether the activity's end is one that the worker could not have seen: buffered, or of this very answer."""
    unseen = [*t.state.buffered, *(item for item in t.items if isinstance(item, bytes))]
    for event in map(parse_event, unseen):
        if event.event_type in _ENDS and getattr(attributes_of(event), "scheduled_event_id", 0) == scheduled_event_id:
            return True
    return False


def _metadata(command: Command) -> UserMetadata | None:
    return command.user_metadata if command.HasField("user_metadata") else None
