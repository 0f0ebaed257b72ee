"""A Nexus request to whoever serves a task queue: the one way to workers, for the drivers here and for the HTTP gateway.

    answer = await dispatch.dispatch(namespace_id, "their-queue", request, timeout_s)

A request is synchronous: it waits for a poller (on whatever node that polls) and for its answer until the time is over, and is
kept nowhere. Its id (`request.start_operation.request_id`) makes it safe to send again.

`Response` is what a worker said of the operation: start_operation.sync_success, .async_success, .operation_error (the older form:
state and Nexus failure) or .failure (a Temporal failure; canceled_failure_info = it was cancelled), or cancel_operation.
`HandlerError` is what it, or this cluster, said of the request.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import msgspec
import structlog
from temporalio.api.enums.v1 import NexusHandlerErrorRetryBehavior
from temporalio.api.failure.v1 import Failure, NexusHandlerFailureInfo
from temporalio.api.nexus.v1 import Request, Response
from temporalio.api.workflowservice.v1 import (
    PollNexusTaskQueueResponse,
    RespondNexusTaskCompletedRequest,
    RespondNexusTaskFailedRequest,
)

from cluster.core.errors import CallerError, Code
from cluster.matching.queries import BuildQueryTask
from cluster.matching.tasks import TaskKind
from cluster.nexus.failures import handler_failure_of_older_form
from cluster.tokens import Purpose, Tokens

# Of the protocol's types these are not tried again; every other one, known or not, is.
FINAL_TYPES = frozenset({"BAD_REQUEST", "UNAUTHENTICATED", "UNAUTHORIZED", "NOT_FOUND", "CONFLICT", "NOT_IMPLEMENTED"})
LATE_SHARE = 0.8
_RETRYABLE = NexusHandlerErrorRetryBehavior.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE
_NON_RETRYABLE = NexusHandlerErrorRetryBehavior.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE


log = structlog.get_logger("nexus")


class HandlerError(msgspec.Struct, frozen=True):
    """The request was refused or came to nothing.

    failure: as a workflow sees it, with nexus_handler_failure_info, whose `type` is the protocol's ("NOT_FOUND").
    is_ours: no handler said this, but the cluster: nobody served the queue in time, or a node was busy.
    """

    failure: Failure
    is_ours: bool = False

    @property
    def type(self) -> str:
        return self.failure.nexus_handler_failure_info.type

    @property
    def is_retryable(self) -> bool:
        behavior = self.failure.nexus_handler_failure_info.retry_behavior
        if behavior in (_RETRYABLE, _NON_RETRYABLE):
            return behavior == _RETRYABLE
        return self.type not in FINAL_TYPES


def handler_error(type: str, message: str, is_ours: bool = True) -> HandlerError:
    return HandlerError(Failure(message=message, nexus_handler_failure_info=NexusHandlerFailureInfo(type=type)), is_ours)


class NexusDispatch(Protocol):
    async def dispatch(
        self, namespace_id: str, task_queue: str, request: Request, timeout_s: float
    ) -> Response | HandlerError: ...


class Questions(Protocol):
    """Matching, as far as it brings a question to a poller."""

    async def query(
        self,
        namespace_id: str,
        task_queue: str,
        is_sticky: bool,
        build_task: BuildQueryTask,
        deadline: float | None = None,
        kind: TaskKind = TaskKind.WORKFLOW,
    ) -> Any: ...


class MatchingDispatch:
    """Through the task queues of this cluster."""

    def __init__(self, matching: Questions, tokens: Tokens) -> None:
        self._matching, self._tokens = matching, tokens
        self.late_count = 0  # answers that came in the last fifth of their time

    async def dispatch(
        self, namespace_id: str, task_queue: str, request: Request, timeout_s: float
    ) -> Response | HandlerError:
        """Never raises CallerError: what matching says becomes what a handler might have said."""

        def build(payload: bytes) -> bytes:
            token = self._tokens.seal_payload(Purpose.NEXUS_TASK, payload)
            return PollNexusTaskQueueResponse(task_token=token, request=request).SerializeToString()

        loop = asyncio.get_running_loop()
        began, until = loop.time(), loop.time() + timeout_s
        try:
            answer = await self._matching.query(namespace_id, task_queue, False, build, until, TaskKind.NEXUS)
        except CallerError as error:
            return refused_by(error)
        if loop.time() - began > LATE_SHARE * timeout_s:
            self.late_count += 1
            asked = request.start_operation if request.HasField("start_operation") else request.cancel_operation
            log.warning(
                "a Nexus request was answered just before its time was over: is the handler slow, or are there too few?",
                task_queue=task_queue, service=asked.service, operation=asked.operation, seconds=timeout_s,
            )  # fmt: skip
        if isinstance(answer, RespondNexusTaskCompletedRequest):
            return answer.response
        assert isinstance(answer, RespondNexusTaskFailedRequest)
        return HandlerError(_failure_of(answer))


def _failure_of(answer: RespondNexusTaskFailedRequest) -> Failure:
    """In the newer form, whichever the worker's SDK speaks."""
    if answer.HasField("failure"):
        failure = answer.failure
        if failure.HasField("nexus_handler_failure_info"):
            return failure
        wrapped = Failure(message="", nexus_handler_failure_info=NexusHandlerFailureInfo(type="INTERNAL"))
        wrapped.cause.CopyFrom(failure)
        return wrapped
    return handler_failure_of_older_form(answer.error)


# What matching may say. A poller that never came and one that never answered are the same to the caller.
_TYPES = {
    Code.DEADLINE_EXCEEDED: ("UPSTREAM_TIMEOUT", "upstream timeout"),
    Code.FAILED_PRECONDITION: ("UPSTREAM_TIMEOUT", "upstream timeout"),
    Code.RESOURCE_EXHAUSTED: ("RESOURCE_EXHAUSTED", ""),
    Code.UNAVAILABLE: ("UNAVAILABLE", ""),
}


def refused_by(error: CallerError) -> HandlerError:
    type, message = _TYPES.get(error.code, ("INTERNAL", ""))
    return handler_error(type, message or error.message)
