"""Calls of workers: polls, and the answers to tasks by token or by id.

A result larger than the limit does not lose the task: it fails the activity with the public server's words, which the
workflow then sees.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message
from temporalio.api.enums.v1 import QueryResultType
from temporalio.api.failure.v1 import Failure, ServerFailureInfo
from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import invalid_argument
from cluster.frontend.call import Call, Handler
from cluster.frontend.handlers.services import Services
from cluster.frontend.methods import METHODS
from cluster.matching.queries import QueryToken
from cluster.tokens import TaskToken

POLL_TAIL_S = 1.0  # a poll this near its deadline comes home empty at once

# Per call: the field whose size counts, and what the activity fails with when it is too large.
_OVERSIZED: dict[str, tuple[str, str]] = {
    "RespondActivityTaskCompleted": ("result", "Complete result exceeds size limit."),
    "RespondActivityTaskCanceled": ("details", "Cancel details exceed size limit."),
    "RecordActivityTaskHeartbeat": ("details", "Heartbeat details exceed size limit."),
    "RespondActivityTaskFailed": ("failure", "Failure exceeds size limit."),
}
_HEARTBEATS = frozenset({"RecordActivityTaskHeartbeat", "RecordActivityTaskHeartbeatById"})
_BY_TOKEN = (
    "RespondActivityTaskCompleted",
    "RespondActivityTaskCanceled",
    "RespondActivityTaskFailed",
    "RecordActivityTaskHeartbeat",
)

Invoke = Callable[[str, Call, Any], Awaitable[Message | bytes]]


def task_handlers(services: Services) -> dict[str, Handler]:
    handlers: dict[str, Handler] = {
        "PollWorkflowTaskQueue": _poll(services.matching.poll_workflow_task_queue, api.PollWorkflowTaskQueueResponse),
        "PollActivityTaskQueue": _poll(services.matching.poll_activity_task_queue, api.PollActivityTaskQueueResponse),
        "RespondWorkflowTaskCompleted": _by_token(services, "RespondWorkflowTaskCompleted"),
        "RespondWorkflowTaskFailed": _workflow_task_failed(services),
        "RespondQueryTaskCompleted": _query_completed(services),
    }
    for name in _BY_TOKEN:
        handlers[name] = _activity(services, name, _by_token_invoke(services), api.RespondActivityTaskFailedRequest)
        by_id = name + "ById"
        handlers[by_id] = _activity(services, by_id, _by_id_invoke(services), api.RespondActivityTaskFailedByIdRequest)
    return handlers


def _poll(poll: Callable[[Any, Any, Call], Awaitable[Message | bytes]], empty: type[Message]) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        if call.deadline is not None and call.deadline - asyncio.get_running_loop().time() < POLL_TAIL_S:
            return empty()
        return await poll(call.record, request, call)

    return handle


def _by_token(services: Services, name: str) -> Handler:
    verb, invoke = METHODS[name].verb, _by_token_invoke(services)

    async def handle(call: Call, request: Any) -> Message | bytes:
        return await invoke(verb, call, request)

    return handle


def _by_token_invoke(services: Services) -> Invoke:
    invoke = services.history.invoke

    def run(verb: str, call: Call, request: Any) -> Awaitable[Message | bytes]:
        token, record = call.token, call.record
        assert isinstance(token, TaskToken) and record is not None
        return invoke(verb, record, token.workflow_id, request, call=call, token=token)

    return run


def _by_id_invoke(services: Services) -> Invoke:
    invoke = services.history.invoke

    def run(verb: str, call: Call, request: Any) -> Awaitable[Message | bytes]:
        assert call.record is not None
        return invoke(verb, call.record, request.workflow_id, request, call=call)

    return run


def _server_failure(message: str) -> Failure:
    return Failure(message=message, server_failure_info=ServerFailureInfo(non_retryable=True))


def _activity(services: Services, name: str, invoke: Invoke, failed_form: type[Any]) -> Handler:
    method = METHODS[name]
    bytes_max = services.limits.payload_bytes_max
    field, excuse = _OVERSIZED[name.removesuffix("ById")]
    failed_verb = METHODS["RespondActivityTaskFailed" + ("ById" if name.endswith("ById") else "")].verb
    kept = [
        key
        for key in ("namespace", "task_token", "identity", "workflow_id", "run_id", "activity_id")
        if key in method.request.DESCRIPTOR.fields_by_name
    ]

    async def handle(call: Call, request: Any) -> Message | bytes:
        if getattr(request, field).ByteSize() <= bytes_max:
            return await invoke(method.verb, call, request)
        failed = failed_form(failure=_server_failure(excuse), **{key: getattr(request, key) for key in kept})
        await invoke(failed_verb, call, failed)
        answer: Message = method.response(cancel_requested=True) if name in _HEARTBEATS else method.response()
        return answer

    return handle


def _workflow_task_failed(services: Services) -> Handler:
    invoke, bytes_max = _by_token_invoke(services), services.limits.payload_bytes_max

    async def handle(call: Call, request: Any) -> Message | bytes:
        if request.failure.ByteSize() > bytes_max:
            cut = Failure(message=request.failure.message[:1000], source=request.failure.source[:1000])
            request.failure.CopyFrom(_server_failure("Failure exceeds size limit."))
            request.failure.cause.CopyFrom(cut)
        return await invoke("respond_workflow_task_failed", call, request)

    return handle


def _query_completed(services: Services) -> Handler:
    bytes_max = services.limits.payload_bytes_max

    async def handle(call: Call, request: Any) -> Message | bytes:
        token = call.token
        assert isinstance(token, QueryToken) and call.record is not None
        if not token.task_queue or not token.query_id:
            raise invalid_argument("Invalid TaskToken.")
        if request.query_result.ByteSize() > bytes_max:
            request.ClearField("query_result")
            request.completed_type = QueryResultType.QUERY_RESULT_TYPE_FAILED
            request.error_message = "Blob data size exceeds limit."
        return await services.matching.respond_query_task_completed(call.record, token.encode(), request)

    return handle
