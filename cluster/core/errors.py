"""What a caller can be told: one exception type with a status code, a message that says what to do, and typed details.

The codes are gRPC's canonical ones (google/rpc/code.proto), kept as plain integers so that no layer below the
transport knows gRPC. Details are `temporal.api.errordetails.v1` messages, on which official SDKs branch.
"""

from __future__ import annotations

from enum import IntEnum

from google.protobuf.message import Message


class Code(IntEnum):
    """Canonical status codes, google/rpc/code.proto."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class CallerError(Exception):
    """A refusal: nothing changed. `details` are packed into google.rpc.Status for the client."""

    def __init__(self, code: Code, message: str, *details: Message) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


def invalid_argument(message: str, *details: Message) -> CallerError:
    return CallerError(Code.INVALID_ARGUMENT, message, *details)


def not_found(message: str, *details: Message) -> CallerError:
    return CallerError(Code.NOT_FOUND, message, *details)


def failed_precondition(message: str, *details: Message) -> CallerError:
    return CallerError(Code.FAILED_PRECONDITION, message, *details)


def resource_exhausted(message: str, *details: Message) -> CallerError:
    return CallerError(Code.RESOURCE_EXHAUSTED, message, *details)


def unavailable(message: str, *details: Message) -> CallerError:
    """The caller may retry at once with the same request id; nothing acknowledged is lost."""
    return CallerError(Code.UNAVAILABLE, message, *details)


def unimplemented(message: str, *details: Message) -> CallerError:
    return CallerError(Code.UNIMPLEMENTED, message, *details)
