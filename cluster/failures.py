"""From what a handler raises to what a client sees, without knowing the transport.

A `CallerError` is passed on with its details. Anything else is our fault: the client gets INTERNAL with a correlation id and
nothing of the inside, the log gets the id and the whole trace.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from temporalio.api.errordetails.v1 import (
    MultiOperationExecutionFailure,
    NotFoundFailure,
    PermissionDeniedFailure,
    ResourceExhaustedFailure,
)
from temporalio.api.failure.v1 import MultiOperationExecutionAborted

from cluster.core.errors import CallerError, Code, unavailable
from cluster.seams import Ids
from cluster.stores.base import StoreError
from cluster.visibility.base import VisibilityUnavailable

log = structlog.get_logger("outlast.frontend")

STATUS_DETAILS_HEADER = "grpc-status-details-bin"
# Trailers have room for about 8 KB; a message that quotes its input must not break the connection.
MESSAGE_CHARS_MAX = 1_200
STATUS_BYTES_MAX = 6_000


_USUAL_DETAILS: dict[Code, Message] = {
    Code.NOT_FOUND: NotFoundFailure(),
    Code.PERMISSION_DENIED: PermissionDeniedFailure(),
    Code.RESOURCE_EXHAUSTED: ResourceExhaustedFailure(),
}


class PassedOn(CallerError):
    """A refusal of another server, which the client sees as if it had asked there: its details are Any, and exactly those."""

    details: tuple[PackedAny, ...]


def passed_on(code: Code, message: str, status: bytes) -> PassedOn:
    """status: the value of `grpc-status-details-bin`. Raises google.protobuf.message.DecodeError."""
    parsed = Status.FromString(status)
    return PassedOn(code, parsed.message or message, *parsed.details)


def permission_denied(message: str, reason: str = "") -> CallerError:
    return CallerError(Code.PERMISSION_DENIED, message, PermissionDeniedFailure(reason=reason))


def shown_message(error: CallerError) -> str:
    """Never longer than a trailer can carry."""
    message = error.message
    return message if len(message) <= MESSAGE_CHARS_MAX else message[:MESSAGE_CHARS_MAX] + "..."


def packed_details(error: CallerError) -> list[PackedAny]:
    """What the error carries; the public server's errors of some codes carry a detail always, and Go's client asks for it."""
    usual = None if isinstance(error, PassedOn) else _USUAL_DETAILS.get(error.code)
    details = error.details or (() if usual is None else (usual,))
    packed = []
    for detail in details:
        if isinstance(detail, PackedAny):  # by another server, of a type that this one may not know
            packed.append(detail)
            continue
        one = PackedAny()
        one.Pack(detail)
        packed.append(one)
    return packed


def status_bytes(error: CallerError) -> bytes:
    """google.rpc.Status, encoded: the value of `grpc-status-details-bin`. Details too large for a trailer are left out."""
    status = Status(code=int(error.code), message=shown_message(error), details=packed_details(error))
    if status.ByteSize() > STATUS_BYTES_MAX:
        log.warning("error details left out, too large", message=status.message[:100], bytes=status.ByteSize())
        del status.details[:]
    encoded: bytes = status.SerializeToString()
    return encoded


def as_caller_error(failure: Exception, method: str, ids: Ids) -> CallerError:
    """The answer for any exception of a handler; logs what it hides."""
    if isinstance(failure, CallerError):
        return failure
    correlation_id = ids.token_bytes(8).hex()
    if isinstance(failure, (StoreError, VisibilityUnavailable)):
        log.warning("store failed", method=method, correlation_id=correlation_id, exc_info=failure)
        return unavailable(f"the store did not answer, please retry ({correlation_id})")
    log.error("unexpected failure", method=method, correlation_id=correlation_id, exc_info=failure)
    return CallerError(Code.INTERNAL, f"something went wrong, please retry ({correlation_id})")


def aborted() -> CallerError:
    """What an operation gets that was fine itself, when the other one was not."""
    return CallerError(Code.ABORTED, "Operation was aborted.", MultiOperationExecutionAborted())


def multi_operation_failure(errors: Sequence[CallerError]) -> CallerError:
    """The whole call's error; its code is that of the first operation that is at fault itself."""
    statuses = [
        MultiOperationExecutionFailure.OperationStatus(
            code=int(error.code), message=shown_message(error), details=packed_details(error)
        )
        for error in errors
    ]
    at_fault = next((error for error in errors if error.code is not Code.ABORTED), errors[0])
    return CallerError(
        at_fault.code, "Update-with-Start could not be executed.", MultiOperationExecutionFailure(statuses=statuses)
    )
