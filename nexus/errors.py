"""The protocol's handler errors: their types, the statuses they travel with, and which of them are worth another try."""

from __future__ import annotations

from enum import Enum

from cluster.core.errors import CallerError, Code


class ErrorType(Enum):
    """nexus-rpc/api SPEC.md, "Predefined Handler Errors"."""

    BAD_REQUEST = "BAD_REQUEST"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    UNAUTHORIZED = "UNAUTHORIZED"
    NOT_FOUND = "NOT_FOUND"
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT"
    CONFLICT = "CONFLICT"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    INTERNAL = "INTERNAL"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"
    UNAVAILABLE = "UNAVAILABLE"
    UPSTREAM_TIMEOUT = "UPSTREAM_TIMEOUT"


STATUS_OF: dict[str, int] = {
    "BAD_REQUEST": 400,
    "UNAUTHENTICATED": 401,
    "UNAUTHORIZED": 403,
    "NOT_FOUND": 404,
    "REQUEST_TIMEOUT": 408,
    "CONFLICT": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "NOT_IMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "UPSTREAM_TIMEOUT": 520,
}
TYPE_OF: dict[int, str] = {status: type for type, status in STATUS_OF.items()}
STATUS_OF_UNKNOWN = 500  # a handler's own word; the protocol lets callers try again
FINAL = frozenset({"BAD_REQUEST", "UNAUTHENTICATED", "UNAUTHORIZED", "NOT_FOUND", "CONFLICT", "NOT_IMPLEMENTED"})


def is_retryable(type: str, override: bool | None = None) -> bool:
    """Unknown types are retried; what the handler says itself wins."""
    return override if override is not None else type not in FINAL


class Refused(Exception):
    """The gateway's own answer: nothing has happened, or nothing more will."""

    def __init__(
        self, type: ErrorType, message: str, *, is_retryable: bool | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.type, self.message = type, message
        self.is_retryable = is_retryable
        self.retry_after_s = retry_after_s


def bad_request(message: str) -> Refused:
    return Refused(ErrorType.BAD_REQUEST, message)


def not_found(message: str) -> Refused:
    return Refused(ErrorType.NOT_FOUND, message)


def unauthorized(message: str) -> Refused:
    return Refused(ErrorType.UNAUTHORIZED, message)


_TYPES_OF_CODES = {
    Code.INVALID_ARGUMENT: ErrorType.BAD_REQUEST,
    Code.OUT_OF_RANGE: ErrorType.BAD_REQUEST,
    Code.UNAUTHENTICATED: ErrorType.UNAUTHENTICATED,
    Code.PERMISSION_DENIED: ErrorType.UNAUTHORIZED,
    Code.NOT_FOUND: ErrorType.NOT_FOUND,
    Code.DEADLINE_EXCEEDED: ErrorType.REQUEST_TIMEOUT,
    Code.ALREADY_EXISTS: ErrorType.CONFLICT,
    Code.ABORTED: ErrorType.UNAVAILABLE,
    Code.CANCELLED: ErrorType.UNAVAILABLE,
    Code.FAILED_PRECONDITION: ErrorType.BAD_REQUEST,
    Code.RESOURCE_EXHAUSTED: ErrorType.RESOURCE_EXHAUSTED,
    Code.UNIMPLEMENTED: ErrorType.NOT_IMPLEMENTED,
    Code.UNAVAILABLE: ErrorType.UNAVAILABLE,
}


def refused_by(error: CallerError) -> Refused:
    """What another part of the server said, in this protocol's words."""
    type = _TYPES_OF_CODES.get(error.code, ErrorType.INTERNAL)
    retry_after_s = 1.0 if type in (ErrorType.RESOURCE_EXHAUSTED, ErrorType.UNAVAILABLE) else None
    return Refused(type, error.message, retry_after_s=retry_after_s)
