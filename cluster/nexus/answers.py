"""What came of one call to a handler, whichever way it was called: what the drivers record, and what a circuit breaker counts."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from temporalio.api.common.v1 import Link, Payload
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.nexus.v1 import Response

from cluster.nexus.dispatch import HandlerError, handler_error
from cluster.nexus.failures import operation_failure
from cluster.nexus.links import common_links


class Started(msgspec.Struct, frozen=True):
    token: str
    links: Sequence[Link] = ()


class Succeeded(msgspec.Struct, frozen=True):
    result: Payload | None
    links: Sequence[Link] = ()


class Unsuccessful(msgspec.Struct, frozen=True):
    """The operation failed or was cancelled."""

    failure: Failure
    is_canceled: bool


class Heard(msgspec.Struct, frozen=True):
    """A cancel request, or a callback, arrived."""


class CallFailed(msgspec.Struct, frozen=True):
    """No handler said anything."""

    message: str
    is_final: bool = False

    @property
    def failure(self) -> Failure:
        info = ApplicationFailureInfo(type="CallError", non_retryable=self.is_final)
        return Failure(message=self.message, application_failure_info=info)

    @property
    def is_retryable(self) -> bool:
        return not self.is_final


StartAnswer = Started | Succeeded | Unsuccessful | HandlerError | CallFailed
CancelAnswer = Heard | HandlerError | CallFailed


def counts_against(answer: StartAnswer | CancelAnswer) -> bool:
    """Whether a circuit breaker takes it as a sign that the other side is not well."""
    return isinstance(answer, HandlerError | CallFailed) and answer.is_retryable


def start_answer(response: Response | HandlerError) -> StartAnswer:
    """Of a worker."""
    if isinstance(response, HandlerError):
        return response
    start = response.start_operation
    variant = start.WhichOneof("variant")
    if variant == "sync_success":
        sync = start.sync_success
        return Succeeded(sync.payload if sync.HasField("payload") else None, common_links(sync.links))
    if variant == "async_success":
        began = start.async_success
        return Started(began.operation_token or began.operation_id, common_links(began.links))
    if variant == "failure":
        return Unsuccessful(start.failure, start.failure.HasField("canceled_failure_info"))
    if variant == "operation_error" and start.operation_error.operation_state in ("failed", "canceled"):
        state = start.operation_error.operation_state
        return Unsuccessful(operation_failure(state, start.operation_error.failure), state == "canceled")
    return handler_error("INTERNAL", "empty or unknown start operation response variant")


def cancel_answer(response: Response | HandlerError) -> CancelAnswer:
    """Of a worker: that it answered says that it heard."""
    return response if isinstance(response, HandlerError) else Heard()
