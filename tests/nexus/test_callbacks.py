"""The way back: callbacks of runs that handle operations, and what else may come from there."""

from __future__ import annotations

import asyncio
import base64

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import CallbackState, ResetReapplyType
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowFailureError

from cluster.core.errors import CallerError, Code
from nexus.protocol import Completion
from tests.nexus.services import Backing, Call, Handler
from tests.nexus.stage import CALLERS, HANDLERS, Stage, events, of_nexus, result, stage

RESULT = Payload(metadata={"encoding": b"json/plain"}, data=b'"from outside"')


async def test_several_callers_wait_for_one_run() -> None:
    """Attached by conflict policy use-existing: each is called back."""
    async with stage() as s, s.handlers(Handler(), workflows=[Backing]), s.callers(Call):
        handles = [await s.begin(Call.run, "shared", "wait", id=f"caller-{number}") for number in range(3)]
        for handle in handles:
            await s.seen(handle, "NEXUS_OPERATION_STARTED")
        await s.handler.get_workflow_handle("shared").signal("tell", "all")
        assert [await result(handle) for handle in handles] == ["told all"] * 3
        told = await s.described("shared", lambda one: all(cb.attempt for cb in one.callbacks), s.handler)
        assert [cb.state for cb in told.callbacks] == [CallbackState.CALLBACK_STATE_SUCCEEDED] * 3


async def test_a_callback_is_carried_over_continue_as_new() -> None:
    async with stage() as s, s.handlers(Handler(), workflows=[Backing]), s.callers(Call):
        assert await s.call(Call.run, "run", "again") == "worked on once more"


async def test_a_callback_is_carried_over_a_reset_of_the_handlers_run() -> None:
    async with stage() as s, s.handlers(Handler(), workflows=[Backing]), s.callers(Call):
        handle = await s.begin(Call.run, "run", "wait")
        started = await s.seen(handle, "NEXUS_OPERATION_STARTED")
        backing = started.links[0].workflow_event
        await s.seen(s.handler.get_workflow_handle(backing.workflow_id), "WORKFLOW_TASK_COMPLETED", s.handler)
        request = ResetWorkflowExecutionRequest(namespace=HANDLERS, workflow_task_finish_event_id=4, request_id="again")
        request.workflow_execution.workflow_id, request.workflow_execution.run_id = backing.workflow_id, backing.run_id
        request.reset_reapply_type = ResetReapplyType.RESET_REAPPLY_TYPE_ALL_ELIGIBLE
        await s.handler.workflow_service.reset_workflow_execution(request)
        await s.handler.get_workflow_handle(backing.workflow_id).signal("tell", "after the reset")
        assert await result(handle) == "told after the reset"


# --- manual tokens, and what comes from outside ------------------------------------------------------------------------------


async def begun(s: Stage, handler: Handler) -> tuple[object, str]:
    handle = await s.begin(Call.run, "manual", "m", id="caller")
    await s.seen(handle, "NEXUS_OPERATION_STARTED")
    return handle, handler.contexts[-1].callback_headers["temporal-callback-token"]


def told(token: str, state: str = "succeeded", namespace: str = "") -> Completion:
    failure = Failure(message="broken") if state != "succeeded" else None
    return Completion(
        token=token,
        state=state,
        operation_token="token-m",
        namespace=namespace,
        result=RESULT if failure is None else None,
        failure=failure,
    )


async def refused(s: Stage, completion: Completion) -> CallerError:
    with pytest.raises(CallerError) as caught:
        await s.node.assembly.nexus.completions.complete(completion)
    return caught.value


async def test_whoever_has_the_callback_token_ends_the_operation_once() -> None:
    """N08: a duplicate is harmless, a late one is told so."""
    handler = Handler()
    async with stage() as s, s.handlers(handler), s.callers(Call):
        handle, token = await begun(s, handler)
        completions = s.node.assembly.nexus.completions
        await completions.complete(told(token, namespace=CALLERS))
        await completions.complete(told(token, "failed"))  # the first one won, and this one knows it
        assert await result(handle) == "from outside"  # type: ignore[arg-type]
        assert of_nexus(await events(s.caller, "caller")) == ["SCHEDULED", "STARTED", "COMPLETED"]
        await completions.complete(told(token))


async def test_a_failed_operation_is_told_from_outside() -> None:
    handler = Handler()
    async with stage() as s, s.handlers(handler), s.callers(Call):
        handle, token = await begun(s, handler)
        await s.node.assembly.nexus.completions.complete(told(token, "failed"))
        with pytest.raises(WorkflowFailureError):
            await result(handle)  # type: ignore[arg-type]
        assert of_nexus(await events(s.caller, "caller"))[-1] == "FAILED"


async def test_forged_and_foreign_tokens_have_no_effect() -> None:
    """N11: a token of another tenant is refused."""
    handler = Handler()
    async with stage() as s, s.handlers(handler), s.callers(Call):
        handle, token = await begun(s, handler)
        data = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        for at in range(0, len(data), 7):
            forged = bytes(data[:at]) + bytes([data[at] ^ 1]) + bytes(data[at + 1 :])
            error = await refused(s, told(base64.urlsafe_b64encode(forged).decode()))
            assert (error.code, error.message) == (Code.INVALID_ARGUMENT, "invalid callback token")
        for text in ("", "not a token", "\udcff", token[:-5], token + "AAAA"):
            assert (await refused(s, told(text))).code is Code.INVALID_ARGUMENT
        assert (await refused(s, told(token, namespace=HANDLERS))).code is Code.INVALID_ARGUMENT
        assert of_nexus(await events(s.caller, "caller")) == ["SCHEDULED", "STARTED"]
        await s.node.assembly.nexus.completions.complete(told(token))
        assert await result(handle) == "from outside"  # type: ignore[arg-type]


async def test_a_callback_to_a_run_that_has_closed_is_not_found() -> None:
    handler = Handler()
    async with stage() as s, s.handlers(handler), s.callers(Call):
        _, token = await begun(s, handler)
        await s.caller.get_workflow_handle("caller").terminate()
        error = await refused(s, told(token))
        assert (error.code, error.message) == (Code.NOT_FOUND, "workflow execution already completed")


async def test_a_handlers_run_whose_caller_is_gone_shows_that_nobody_heard_it() -> None:
    async with stage() as s, s.handlers(Handler(), workflows=[Backing]), s.callers(Call):
        handle = await s.begin(Call.run, "run", "wait")
        started = await s.seen(handle, "NEXUS_OPERATION_STARTED")
        backing_id = started.links[0].workflow_event.workflow_id
        await handle.terminate()
        await s.handler.get_workflow_handle(backing_id).signal("tell", "nobody")
        ended = await s.described(backing_id, lambda one: one.callbacks[0].attempt, s.handler)
        assert ended.callbacks[0].state == CallbackState.CALLBACK_STATE_FAILED
        assert ended.callbacks[0].last_attempt_failure.message == "handler error (NOT_FOUND)"


async def test_the_operation_of_a_run_that_was_reset_is_ended_by_the_token_of_the_old_run() -> None:
    handler = Handler()
    async with stage() as s, s.handlers(handler), s.callers(Call):
        handle, token = await begun(s, handler)
        first_run = (await s.caller.get_workflow_handle("caller").describe()).run_id
        async with asyncio.timeout(10):
            last: list[int] = []
            while len(last) < 2:  # the second one has seen that the operation has started
                await asyncio.sleep(0.05)
                listed = await events(s.caller, "caller")
                last = [one.event_id for one in listed if one.HasField("workflow_task_completed_event_attributes")]
        request = ResetWorkflowExecutionRequest(namespace=CALLERS, workflow_task_finish_event_id=last[-1], request_id="r")
        request.workflow_execution.workflow_id, request.workflow_execution.run_id = "caller", first_run
        await s.caller.workflow_service.reset_workflow_execution(request)
        await s.node.assembly.nexus.completions.complete(told(token))
        new = s.caller.get_workflow_handle("caller")
        assert await result(new) == "from outside"
    assert handle is not None
