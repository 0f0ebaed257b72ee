"""Words for telling what happens to one activity: each makes or moves a run by real decisions."""

from __future__ import annotations

from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import (
    Command,
    CompleteWorkflowExecutionCommandAttributes,
    RequestCancelActivityTaskCommandAttributes,
    ScheduleActivityTaskCommandAttributes,
)
from temporalio.api.common.v1 import ActivityType
from temporalio.api.enums.v1 import CommandType
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.taskqueue.v1 import TaskQueue

from cluster.core.events import SECOND_NS
from cluster.core.machines import activity_calls, activity_commands, activity_options
from cluster.core.machines.activity_calls import Heartbeat
from cluster.core.state import Activity
from tests.core.build import QUEUE, Run, payloads

assert activity_commands  # imported for the commands it registers

A = 5  # scheduled event id of the first activity of the first task
OOPS = Failure(message="oops", application_failure_info=ApplicationFailureInfo(type="Oops"))
FINAL = Failure(message="final", application_failure_info=ApplicationFailureInfo(type="Final", non_retryable=True))


def seconds(count: float) -> Duration:
    return Duration(seconds=int(count), nanos=int(count % 1 * SECOND_NS))


def schedule(activity_id: str = "a", *, user_metadata: UserMetadata | None = None, **fields: Any) -> Command:
    wish = ScheduleActivityTaskCommandAttributes(
        activity_id=activity_id, activity_type=ActivityType(name="T"), task_queue=TaskQueue(name=QUEUE)
    )
    if "start_to_close_timeout" not in fields and "schedule_to_close_timeout" not in fields:
        fields["start_to_close_timeout"] = seconds(60)
    wish.MergeFrom(ScheduleActivityTaskCommandAttributes(**fields))
    return Command(
        command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK,
        schedule_activity_task_command_attributes=wish,
        user_metadata=user_metadata,
    )


def request_cancel(scheduled_event_id: int = A) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK,
        request_cancel_activity_task_command_attributes=RequestCancelActivityTaskCommandAttributes(
            scheduled_event_id=scheduled_event_id
        ),
    )


def complete_workflow() -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
        complete_workflow_execution_command_attributes=CompleteWorkflowExecutionCommandAttributes(),
    )


def scheduled(**fields: Any) -> Run:
    run = Run()
    run.task(schedule(**fields))
    return run


def pending(run: Run) -> Activity:
    return run.state.activities[A]


def start(run: Run, request_id: str = "poll", stamp: int | None = None, **fields: Any) -> bool:
    stamp = pending(run).stamp if stamp is None else stamp
    return run.do(lambda t: activity_calls.start(t, A, request_id=request_id, identity="w1", stamp=stamp, **fields))


def fail(run: Run, failure: Failure = OOPS, **fields: Any) -> bool:
    attempt = pending(run).attempt
    return run.do(lambda t: activity_calls.fail(t, A, attempt, failure, identity="w1", **fields))


def complete(run: Run, result: str = "done") -> bool:
    attempt = pending(run).attempt
    return run.do(lambda t: activity_calls.complete(t, A, attempt, payloads(result), identity="w1"))


def beat(run: Run, details: str = "50%") -> Heartbeat:
    attempt = pending(run).attempt
    return run.do(lambda t: activity_calls.heartbeat(t, A, attempt, payloads(details), identity="w2"))


def started(**fields: Any) -> Run:
    run = scheduled(**fields)
    start(run)
    return run


def backing_off(**fields: Any) -> Run:
    run = started(**fields)
    assert fail(run) is False
    return run


def pause(run: Run, request_id: str = "p1") -> None:
    run.do(lambda t: activity_options.pause(t, [A], identity="op", reason="why", request_id=request_id))


def paused() -> Run:
    run = scheduled()
    pause(run)
    return run
