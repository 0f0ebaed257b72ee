"""Operations between namespaces with the official Python SDK on both sides."""

from __future__ import annotations

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.operatorservice.v1 import DeleteNamespaceRequest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError, NexusOperationError
from temporalio.service import RPCError

from tests.nexus.services import Backing, Call, Handler
from tests.nexus.stage import CALLERS, HANDLERS, events, names, of_nexus, stage


async def test_a_synchronous_operation_crosses_namespaces_without_a_shared_queue() -> None:
    """N02, N06: the caller's code does not show that the result came with the answer."""
    handler = Handler()
    async with stage() as s, s.handlers(handler), s.callers(Call):
        handle = await s.begin(Call.run, "echo", "bob", id="caller")
        assert await handle.result() == "hello bob"
        history = await events(s.caller, "caller")
    assert names(history)[3:8] == [
        "WORKFLOW_TASK_COMPLETED",
        "NEXUS_OPERATION_SCHEDULED",
        "NEXUS_OPERATION_COMPLETED",
        "WORKFLOW_TASK_SCHEDULED",
        "WORKFLOW_TASK_STARTED",
    ]
    scheduled = history[4].nexus_operation_scheduled_event_attributes
    assert (scheduled.service, scheduled.operation, dict(scheduled.nexus_header)) == ("Work", "echo", {"my-header": "mine"})
    (context,) = handler.contexts
    assert context.headers["my-header"] == "mine" and context.request_id == scheduled.request_id
    (link,) = context.inbound_links
    assert f"/namespaces/{CALLERS}/workflows/caller/" in link.url and "eventID=5" in link.url


async def test_a_workflow_stands_for_an_operation_and_both_histories_are_linked() -> None:
    """N05, N20: links lead both ways."""
    handler = Handler()
    async with stage() as s, s.handlers(handler, workflows=[Backing]), s.callers(Call):
        handle = await s.begin(Call.run, "run", "papers", id="caller")
        assert await handle.result() == "worked on papers"
        history = await events(s.caller, "caller")
        assert of_nexus(history) == ["SCHEDULED", "STARTED", "COMPLETED"]
        (started,) = [one for one in history if one.event_type == EventType.EVENT_TYPE_NEXUS_OPERATION_STARTED]
        there = started.links[0].workflow_event
        assert (there.namespace, there.event_ref.event_type) == (HANDLERS, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
        begun = (await events(s.handler, there.workflow_id))[0]
        back = [link.workflow_event for link in begun.links] or [
            link.workflow_event
            for one in begun.workflow_execution_started_event_attributes.completion_callbacks
            for link in one.links
        ]
        assert (back[0].namespace, back[0].workflow_id, back[0].event_ref.event_id) == (CALLERS, "caller", 5)
        told = await s.described(there.workflow_id, lambda one: one.callbacks and one.callbacks[0].attempt, s.handler)
        assert told.callbacks[0].state == 5  # succeeded
    assert handler.calls == {"run": 1}


@pytest.mark.parametrize(
    ("operation", "input", "form", "words"),
    [
        ("refuse", "failed", ApplicationError, "bad luck"),
        ("refuse", "canceled", CancelledError, "stopped"),
        ("run", "fail", ApplicationError, "it broke"),
    ],
)
async def test_an_operation_that_fails_is_a_typed_error_in_its_caller(
    operation: str, input: str, form: type[Exception], words: str
) -> None:
    async with stage() as s, s.handlers(Handler(), workflows=[Backing]), s.callers(Call):
        with pytest.raises(WorkflowFailureError) as caught:
            await s.call(Call.run, operation, input)
    operation_error = caught.value.cause
    assert isinstance(operation_error, NexusOperationError)
    assert isinstance(operation_error.cause, form) and words in str(operation_error.cause)


@pytest.mark.parametrize(("end", "words"), [("terminate", "operation terminated"), ("cancel", "operation canceled")])
async def test_a_handlers_run_that_is_ended_from_outside_ends_the_operation(end: str, words: str) -> None:
    async with stage() as s, s.handlers(Handler(), workflows=[Backing]), s.callers(Call):
        handle = await s.begin(Call.run, "run", "wait")
        started = await s.seen(handle, "NEXUS_OPERATION_STARTED")
        backing = s.handler.get_workflow_handle(started.links[0].workflow_event.workflow_id)
        await (backing.terminate() if end == "terminate" else backing.cancel())
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
        ended = of_nexus(await events(s.caller, handle.id))[-1]
    error = caught.value.cause
    assert isinstance(error, NexusOperationError) and error.cause is not None and words in str(error.cause).lower()
    assert ended == ("FAILED" if end == "terminate" else "CANCELED")


async def test_an_unknown_operation_service_or_endpoint_is_refused_for_good() -> None:
    """N03: a typed error, not a retry for ever; an endpoint that never was fails the workflow task."""
    async with stage() as s, s.handlers(Handler()), s.callers(Call):
        other = await s.endpoint("nobody-serves", task_queue="other")
        assert other.version == 1
        with pytest.raises(WorkflowFailureError) as caught:
            await s.call(Call.run, "refuse", "never")
        handle = await s.begin(Call.run, "echo", "x", "no-such-endpoint")
        failed = await s.seen(handle, "WORKFLOW_TASK_FAILED")
    error = caught.value.cause
    assert isinstance(error, NexusOperationError) and "wrong" in str(error.cause)
    assert 'endpoint "no-such-endpoint" not found' in failed.workflow_task_failed_event_attributes.failure.message


async def test_a_namespace_that_an_endpoint_leads_to_cannot_be_deleted() -> None:
    async with stage() as s:
        with pytest.raises(RPCError, match="cannot delete a namespace that is a target of a Nexus endpoint their-endpoint"):
            await s.caller.operator_service.delete_namespace(DeleteNamespaceRequest(namespace=HANDLERS))
        await s.caller.operator_service.delete_namespace(DeleteNamespaceRequest(namespace=CALLERS))
