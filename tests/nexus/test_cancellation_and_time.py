"""Cancellation of the four types, the three time-outs, retries, and what operators see of an operation meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import (
    CallbackState,
    EventType,
    NexusOperationCancellationState,
    PendingNexusOperationState,
    TimeoutType,
)
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import NexusOperationError, TimeoutError

from tests.nexus.services import Backing, Call, Cancels, Handler
from tests.nexus.stage import events, of_nexus, result, stage

KINDS = workflow.NexusOperationCancellationType
STATES = PendingNexusOperationState


@pytest.mark.parametrize(
    ("kind", "history"),
    [
        (KINDS.ABANDON, []),
        (KINDS.TRY_CANCEL, ["CANCEL_REQUESTED"]),
        (KINDS.WAIT_REQUESTED, ["CANCEL_REQUESTED", "CANCEL_REQUEST_COMPLETED"]),
        (KINDS.WAIT_COMPLETED, ["CANCEL_REQUESTED", "CANCEL_REQUEST_COMPLETED", "CANCELED"]),
    ],
)
async def test_a_cancellation_waits_for_what_its_type_says(kind: KINDS, history: list[str]) -> None:
    """N10: the handler hears of it, and the end of its run is recorded where the caller waits for it."""
    async with stage() as s, s.handlers(Handler(), workflows=[Backing]), s.callers(Cancels):
        handle = await s.begin(Cancels.run, "run", "wait", int(kind))
        assert await result(handle) == "CancelledError"
        seen = of_nexus(await events(s.caller, handle.id))
        assert seen[:2] == ["SCHEDULED", "STARTED"]
        # What the run need not wait for may have come all the same.
        assert set(history) <= set(seen[2:]) <= {"CANCEL_REQUESTED", "CANCEL_REQUEST_COMPLETED", "CANCELED"}
        assert history or "CANCEL_REQUESTED" not in seen


async def test_a_cancel_request_that_the_handler_refuses_leaves_the_operation() -> None:
    handler = Handler()
    async with stage() as s, s.handlers(handler), s.callers(Cancels):
        handle = await s.begin(Cancels.run, "manual", "refuses", int(KINDS.WAIT_COMPLETED))
        refused = await s.seen(handle, "NEXUS_OPERATION_CANCEL_REQUEST_FAILED")
        described = await s.described(handle.id, lambda one: one.pending_nexus_operations)
    failure = refused.nexus_operation_cancel_request_failed_event_attributes.failure
    assert failure.nexus_handler_failure_info.type == "BAD_REQUEST"
    (pending,) = described.pending_nexus_operations
    assert (pending.state, pending.operation_token) == (STATES.PENDING_NEXUS_OPERATION_STATE_STARTED, "token-refuses")
    failed = NexusOperationCancellationState.NEXUS_OPERATION_CANCELLATION_STATE_FAILED
    assert pending.cancellation_info.state == failed
    assert handler.cancelled == ["token-refuses"]


async def test_a_cancel_request_reaches_a_handler_that_was_away() -> None:
    """N10: it is repeated until a worker hears it."""
    handler = Handler()
    async with stage() as s, s.callers(Cancels):
        async with s.handlers(handler):
            handle = await s.begin(Cancels.run, "manual", "late", int(KINDS.WAIT_COMPLETED))
            await s.seen(handle, "NEXUS_OPERATION_STARTED")
            await s.seen(handle, "NEXUS_OPERATION_CANCEL_REQUESTED")
        handler = Handler()
        async with s.handlers(handler):
            if not handler.cancelled:
                await s.seen(handle, "NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED")


@pytest.mark.parametrize(
    ("operation", "times", "timeout_type"),
    [
        ("echo", [2.0, 0, 0], TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE),  # nobody serves the queue
        ("echo", [0, 2.0, 0], TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START),
        ("manual", [0, 0, 1.0], TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE),
        ("echo", [1.0, 0, 0], TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE),  # too short for any call
    ],
)
async def test_an_operation_times_out_as_its_caller_said(
    operation: str, times: list[float], timeout_type: TimeoutType.ValueType
) -> None:
    async with stage() as s, s.callers(Call), s.handlers(Handler()):
        target = "nobody-serves" if operation == "echo" else "their-endpoint"
        await s.endpoint("nobody-serves", task_queue="nobody")
        handle = await s.begin(Call.run, operation, "x", target, times)
        with pytest.raises(WorkflowFailureError) as caught:
            await result(handle)
        ended = await s.seen(handle, "NEXUS_OPERATION_TIMED_OUT")
    error = caught.value.cause
    assert isinstance(error, NexusOperationError) and isinstance(error.cause, TimeoutError)
    cause = ended.nexus_operation_timed_out_event_attributes.failure.cause
    assert cause.timeout_failure_info.timeout_type == timeout_type


async def test_a_handler_that_is_unavailable_is_called_again_and_the_caller_sees_one_outcome() -> None:
    """N12."""
    handler = Handler(fails_first=1)
    async with stage() as s, s.handlers(handler), s.callers(Call):
        handle = await s.begin(Call.run, "refuse", "done")
        described = await s.described(
            handle.id, lambda one: one.pending_nexus_operations and one.pending_nexus_operations[0].attempt
        )
        assert await result(handle) == "at last done"
        assert of_nexus(await events(s.caller, handle.id)) == ["SCHEDULED", "COMPLETED"]
    (pending,) = described.pending_nexus_operations
    assert (pending.attempt, pending.state) == (1, STATES.PENDING_NEXUS_OPERATION_STATE_BACKING_OFF)
    assert pending.last_attempt_failure.nexus_handler_failure_info.type == "UNAVAILABLE"
    assert handler.calls["refuse"] == 2


async def test_operators_see_an_operation_and_the_callback_it_waits_for() -> None:
    """N20."""
    async with stage() as s, s.handlers(Handler(), workflows=[Backing]), s.callers(Call):
        handle = await s.begin(Call.run, "run", "wait")
        started = await s.seen(handle, "NEXUS_OPERATION_STARTED")
        backing_id = started.links[0].workflow_event.workflow_id
        mine = (await s.described(handle.id, lambda one: one.pending_nexus_operations)).pending_nexus_operations[0]
        theirs = (await s.described(backing_id, lambda one: one.callbacks, s.handler)).callbacks[0]
        assert (mine.endpoint, mine.service, mine.operation) == ("their-endpoint", "Work", "run")
        assert mine.operation_token == started.nexus_operation_started_event_attributes.operation_token
        assert theirs.state == CallbackState.CALLBACK_STATE_STANDBY and theirs.callback.nexus.url == "temporal://system"
        await s.handler.get_workflow_handle(backing_id).signal("tell", "enough")
        assert await result(handle) == "told enough"
        ended = await s.described(backing_id, lambda one: one.callbacks[0].attempt, s.handler)
        assert ended.callbacks[0].state == CallbackState.CALLBACK_STATE_SUCCEEDED


async def test_a_worker_is_told_how_much_time_is_left() -> None:
    handler = Handler()
    async with stage() as s, s.callers(Call):
        handle = await s.begin(Call.run, "echo", "x", "their-endpoint", [30.0, 0, 0])
        await s.seen(handle, "NEXUS_OPERATION_SCHEDULED")
        await asyncio.sleep(1.0)  # the request waits for its worker
        async with s.handlers(handler):
            assert await result(handle) == "hello x"
    headers = handler.contexts[0].headers
    assert 1.0 < float(headers["request-timeout"].removesuffix("s")) < 8.1
    assert headers["operation-timeout"].endswith("ms") and 25_000 < int(headers["operation-timeout"][:-2]) <= 30_000


async def test_events_that_came_while_a_task_was_started_come_after_it() -> None:
    """Answers of handlers are buffered as any news."""
    async with stage() as s, s.handlers(Handler()), s.callers(Call):
        handle = await s.begin(Call.run, "echo", "x")
        await result(handle)
        history = await events(s.caller, handle.id)
    completed = next(one for one in history if one.event_type == EventType.EVENT_TYPE_NEXUS_OPERATION_COMPLETED)
    after = history[completed.event_id]
    assert after.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED
