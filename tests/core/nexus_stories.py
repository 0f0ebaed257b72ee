"""Words for telling what happens to Nexus operations and callbacks: each makes or moves a run by real decisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import (
    Command,
    RequestCancelNexusOperationCommandAttributes,
    ScheduleNexusOperationCommandAttributes,
)
from temporalio.api.common.v1 import Callback, Link, Payload
from temporalio.api.enums.v1 import CommandType
from temporalio.api.failure.v1 import ApplicationFailureInfo, CanceledFailureInfo, Failure, NexusHandlerFailureInfo
from temporalio.api.sdk.v1 import UserMetadata

from cluster.core.events import SECOND_NS
from cluster.core.machines import callback, nexus_results, start
from cluster.core.nexus_state import NexusOperation
from cluster.core.transition import Transition
from tests.core.build import Run

O = 5  # scheduled event id of the first operation of the first task  # noqa: E741
RESULT = Payload(metadata={"encoding": b"json/plain"}, data=b'"done"')
AWAY = Failure(message="later", nexus_handler_failure_info=NexusHandlerFailureInfo(type="UNAVAILABLE"))
WRONG = Failure(message="wrong", application_failure_info=ApplicationFailureInfo(type="Wrong"))
STOPPED = Failure(message="stopped", canceled_failure_info=CanceledFailureInfo())
LINK = Link(workflow_event=Link.WorkflowEvent(namespace="other", workflow_id="handler"))


def seconds(count: float) -> Duration:
    return Duration(seconds=int(count), nanos=int(count % 1 * SECOND_NS))


def schedule(operation: str = "op", *, user_metadata: UserMetadata | None = None, **fields: Any) -> Command:
    wish: dict[str, Any] = {"endpoint": "ep", "service": "svc", "operation": operation}
    return Command(
        command_type=CommandType.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION,
        schedule_nexus_operation_command_attributes=ScheduleNexusOperationCommandAttributes(**(wish | fields)),
        user_metadata=user_metadata,
    )


def request_cancel(scheduled_event_id: int = O) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_REQUEST_CANCEL_NEXUS_OPERATION,
        request_cancel_nexus_operation_command_attributes=RequestCancelNexusOperationCommandAttributes(
            scheduled_event_id=scheduled_event_id
        ),
    )


def callback_to(name: str) -> Callback:
    return Callback(nexus=Callback.Nexus(url=f"http://{name}/back"))


def attach(run: Run, name: str, request_id: str = "") -> None:
    run.do(
        lambda t: start.attach(t, request_id or f"by {name}", callbacks=[callback_to(name)], attach_request_id=True)
    )


# --- runs at a place of the machine -------------------------------------------------------------------------------------


def scheduled(**fields: Any) -> Run:
    run = Run()
    run.task(schedule(**fields))
    return run


def pending(run: Run, scheduled_event_id: int = O) -> NexusOperation:
    return run.state.operations[scheduled_event_id]


def started(**fields: Any) -> Run:
    run = scheduled(**fields)
    assert tell_operation(run, O, "starts")
    return run


def backing_off(**fields: Any) -> Run:
    run = scheduled(**fields)
    assert tell_operation(run, O, "is away")
    return run


def blocked(**fields: Any) -> Run:
    run = scheduled(**fields)
    assert tell_operation(run, O, "is blocked")
    return run


PLACES: dict[str, Callable[..., Run]] = {
    "scheduled": scheduled,
    "started": started,
    "backing off": backing_off,
    "blocked": blocked,
}


# --- what handlers and those who deliver say ------------------------------------------------------------------------------


def tell_operation(run: Run, event_id: int, what: str, *, at: int = 0) -> bool:
    """One answer, as whoever delivers tells it to the run. Returns whether it changed anything."""
    operation = run.state.operations.get(event_id)
    request_id = operation.request_id if operation is not None else "gone"
    attempt = operation.attempt if operation is not None else 0
    asked = operation.cancellation.attempt if operation is not None and operation.cancellation is not None else 0
    ends: dict[str, Any] = {"calls back with a result": {"result": RESULT}, "calls back with a failure": {"failure": WRONG}}
    ends["calls back cancelled"] = {"failure": STOPPED, "is_canceled": True}
    words: dict[str, Callable[[Transition], bool]] = {
        "starts": lambda t: nexus_results.record_started(t, event_id, request_id, "token", [LINK]),
        "completes": lambda t: nexus_results.record_completed(t, event_id, request_id, RESULT, [LINK]),
        "fails": lambda t: nexus_results.record_failed(t, event_id, request_id, WRONG),
        "is cancelled": lambda t: nexus_results.record_canceled(t, event_id, request_id, STOPPED),
        "is away": lambda t: nexus_results.record_attempt_failed(t, event_id, attempt, AWAY),
        "is refused": lambda t: nexus_results.record_attempt_failed(t, event_id, attempt, WRONG, is_retryable=False),
        "is blocked": lambda t: nexus_results.record_blocked(t, event_id, "The circuit breaker is open."),
        "is let through": lambda t: nexus_results.record_blocked(t, event_id, ""),
        "hears the cancel": lambda t: nexus_results.record_cancel_answer(t, event_id, asked, None),
        "refuses the cancel": lambda t: nexus_results.record_cancel_answer(t, event_id, asked, WRONG),
        "is away for the cancel": lambda t: nexus_results.record_cancel_answer(t, event_id, asked, AWAY, is_retryable=True),
        "is blocked for the cancel": lambda t: nexus_results.record_cancel_blocked(t, event_id, "open"),
        "is let through for the cancel": lambda t: nexus_results.record_cancel_blocked(t, event_id, ""),
    }
    if what in ends:
        end = ends[what]
        return run.do(
            lambda t: nexus_results.record_callback(
                t, event_id, request_id, token="token", started_at=at, links=[LINK], **end
            )
        )
    return run.do(words[what])


def tell_callback(run: Run, index: int, what: str) -> bool:
    attempt = run.state.callbacks[index].attempt
    words: dict[str, Callable[[Transition], bool]] = {
        "is heard": lambda t: callback.record_delivered(t, index),
        "is refused": lambda t: callback.record_attempt_failed(t, index, attempt, "never", is_retryable=False),
        "is not reached": lambda t: callback.record_attempt_failed(t, index, attempt, "later"),
        "is blocked": lambda t: callback.record_blocked(t, index, "The circuit breaker is open."),
        "is let through": lambda t: callback.record_blocked(t, index, ""),
    }
    return run.do(words[what])
