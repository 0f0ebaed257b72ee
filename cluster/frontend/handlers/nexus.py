"""Nexus: the registry of endpoints, and the calls of workers that serve them. cluster/nexus does the work."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from google.protobuf.message import Message
from temporalio.api.operatorservice import v1 as operator_api
from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import invalid_argument
from cluster.core.machines.nexus_results import TOKEN_BYTES_MAX
from cluster.frontend.call import Call, Handler
from cluster.frontend.handlers.services import Services
from cluster.frontend.handlers.tasks import POLL_TAIL_S
from cluster.matching.queries import QueryToken


def nexus_handlers(services: Services) -> dict[str, Handler]:
    return {
        "CreateNexusEndpoint": _create(services),
        "UpdateNexusEndpoint": _update(services),
        "DeleteNexusEndpoint": _delete(services),
        "GetNexusEndpoint": _get(services),
        "ListNexusEndpoints": _list(services),
        "PollNexusTaskQueue": _poll(services),
        "RespondNexusTaskCompleted": _completed(services),
        "RespondNexusTaskFailed": _failed(services),
    }


# --- endpoints ------------------------------------------------------------------------------------------------------------
def _create(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        return operator_api.CreateNexusEndpointResponse(endpoint=await services.endpoints.create(request.spec))

    return handle


def _update(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        endpoint = await services.endpoints.update(request.id, request.version, request.spec)
        return operator_api.UpdateNexusEndpointResponse(endpoint=endpoint)

    return handle


def _delete(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        await services.endpoints.delete(request.id, request.version)
        return operator_api.DeleteNexusEndpointResponse()

    return handle


def _get(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        return operator_api.GetNexusEndpointResponse(endpoint=await services.endpoints.get(request.id))

    return handle


def _list(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        after = services.tokens.open_page("", "ListNexusEndpoints", request.next_page_token).decode()
        page, last = await services.endpoints.list(request.page_size, after, request.name)
        return operator_api.ListNexusEndpointsResponse(
            endpoints=page, next_page_token=services.tokens.seal_page("", "ListNexusEndpoints", last.encode())
        )

    return handle


# --- workers --------------------------------------------------------------------------------------------------------------
def _poll(services: Services) -> Handler:
    matching = services.matching

    async def handle(call: Call, request: Any) -> Message | bytes:
        assert call.record is not None
        if request.worker_heartbeat:
            heartbeats = api.RecordWorkerHeartbeatRequest(identity=request.identity, worker_heartbeat=request.worker_heartbeat)
            await matching.record_worker_heartbeat(call.record, heartbeats)
        if call.deadline is not None and call.deadline - asyncio.get_running_loop().time() < POLL_TAIL_S:
            return api.PollNexusTaskQueueResponse()
        return await matching.poll_nexus_task_queue(call.record, request, call)

    return handle


def _completed(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        start = request.response.start_operation
        if start.HasField("async_success"):
            answer = start.async_success
            answer.operation_token = answer.operation_token or answer.operation_id
            size = len(answer.operation_token.encode())
            if not size:
                raise invalid_argument("missing opration token in response")  # the public server's spelling
            if size > TOKEN_BYTES_MAX:
                raise invalid_argument(f"operation token length exceeds allowed limit ({size}/{TOKEN_BYTES_MAX})")
        if start.HasField("operation_error"):
            _check_details(start.operation_error.failure.details)
        await _answer(services, call, request)
        return api.RespondNexusTaskCompletedResponse()

    return handle


def _failed(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        if not request.HasField("error") and not request.HasField("failure"):
            raise invalid_argument("request must contain error or failure")
        if request.HasField("error"):
            _check_details(request.error.failure.details)
        if request.HasField("failure") and not request.failure.HasField("nexus_handler_failure_info"):
            raise invalid_argument("request Failure must contain error or failure with NexusHandlerFailureInfo")
        await _answer(services, call, request)
        return api.RespondNexusTaskFailedResponse()

    return handle


def _check_details(details: bytes) -> None:
    if details:
        try:
            json.loads(details)
        except (ValueError, RecursionError):
            raise invalid_argument("failure details must be JSON serializable") from None


async def _answer(services: Services, call: Call, request: Any) -> None:
    token = call.token
    assert isinstance(token, QueryToken) and call.record is not None
    await services.matching.respond_nexus_task(call.record, token.encode(), request)
