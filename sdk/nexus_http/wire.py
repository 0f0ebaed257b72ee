"""The protocol's words (nexus-rpc/api SPEC.md) in terms of the `nexusrpc` package: headers, failures, errors, links. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from nexusrpc import Failure, HandlerError, HandlerErrorType, Link, OperationError, OperationErrorState

OPERATION_TOKEN = "Nexus-Operation-Token"
OPERATION_STATE = "Nexus-Operation-State"
START_TIME = "Nexus-Operation-Start-Time"
CLOSE_TIME = "Nexus-Operation-Close-Time"
REQUEST_ID = "Nexus-Request-Id"
LINK = "Nexus-Link"
REQUEST_TIMEOUT = "Request-Timeout"
OPERATION_TIMEOUT = "Operation-Timeout"
CALLBACK_PREFIX = "nexus-callback-"
BODY_BYTES_MAX = 2 * 1024 * 1024
FAILURE_DEPTH_MAX = 20

STATUS_OF: dict[HandlerErrorType, int] = {
    HandlerErrorType.BAD_REQUEST: 400,
    HandlerErrorType.UNAUTHENTICATED: 401,
    HandlerErrorType.UNAUTHORIZED: 403,
    HandlerErrorType.NOT_FOUND: 404,
    HandlerErrorType.REQUEST_TIMEOUT: 408,
    HandlerErrorType.CONFLICT: 409,
    HandlerErrorType.RESOURCE_EXHAUSTED: 429,
    HandlerErrorType.INTERNAL: 500,
    HandlerErrorType.NOT_IMPLEMENTED: 501,
    HandlerErrorType.UNAVAILABLE: 503,
    HandlerErrorType.UPSTREAM_TIMEOUT: 520,
}
TYPE_OF = {status: type for type, status in STATUS_OF.items()}
E = TypeVar("E", bound=Exception)
_HANDLER_ERROR, _OPERATION_ERROR = "nexus.HandlerError", "nexus.OperationError"
_DURATION = re.compile(r"(\d{1,18}(?:\.\d{0,9})?)(ms|s|m)", re.ASCII)
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0}
_LINK = re.compile(r'\s*<([^<>\s]*)>\s*;\s*type\s*=\s*(?:"([\w./]+)"|([\w./]+))\s*(?:,|$)', re.ASCII)


def duration_text(duration: timedelta) -> str:
    return f"{max(1, round(duration.total_seconds() * 1000))}ms"


def duration(text: str) -> timedelta:
    """Raises ValueError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a duration with ms, s or m: {text[:50]!r}")
    return timedelta(seconds=min(float(match.group(1)) * _UNIT_S[match.group(2)], 1e9))


def link_header(link: Link) -> str:
    return f'<{link.url}>; type="{link.type}"'


def links_of(values: Iterable[str]) -> list[Link]:
    """Raises ValueError."""
    found = []
    for value in values:
        at = 0
        while at < len(value):
            match = _LINK.match(value, at)
            if match is None:
                raise ValueError("not a list of links")
            found.append(Link(url=match.group(1), type=match.group(2) or match.group(3)))
            at = match.end()
    return found


# --- failures ----------------------------------------------------------------------------------------------------------


def failure_json(failure: Failure) -> dict[str, Any]:
    made: dict[str, Any] = {"message": failure.message}
    if failure.stack_trace:
        made["stackTrace"] = failure.stack_trace
    if failure.metadata:
        made["metadata"] = dict(failure.metadata)
    if failure.details is not None:
        made["details"] = failure.details
    if failure.cause is not None:
        made["cause"] = failure_json(failure.cause)
    return made


def read_failure(body: bytes) -> Failure | None:
    """None: not a Failure."""
    try:
        return _read(json.loads(body), FAILURE_DEPTH_MAX)
    except (ValueError, RecursionError):
        return None


def _read(parsed: Any, depth: int) -> Failure:
    if not isinstance(parsed, dict) or not isinstance(parsed.get("message", ""), str):
        raise ValueError("not a Failure")
    cause, metadata, trace = parsed.get("cause"), parsed.get("metadata"), parsed.get("stackTrace")
    return Failure(
        message=parsed.get("message", ""),
        stack_trace=trace if isinstance(trace, str) else None,
        metadata={str(key): str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else None,
        details=parsed.get("details"),
        cause=_read(cause, depth - 1) if isinstance(cause, dict) and depth > 0 else None,
    )


def _details(failure: Failure) -> Mapping[str, Any]:
    return failure.details if isinstance(failure.details, Mapping) else {}


def _type(failure: Failure) -> str:
    return (failure.metadata or {}).get("type", "")


def handler_error_of(status: int, reason: str, body: bytes, retryable: str = "") -> HandlerError:
    """What a status that is neither success nor 424 means. The Failure in the body wins over the status.

    retryable: the value of Nexus-Request-Retryable, which older handlers send."""
    failure = read_failure(body)
    by_status = TYPE_OF.get(status, HandlerErrorType.UNKNOWN)
    if failure is not None and _type(failure) == _HANDLER_ERROR:
        details = _details(failure)
        named, override = details.get("type"), details.get("retryableOverride")
        return _caused(
            HandlerError(
                failure.message or reason,
                type=named if isinstance(named, str) and named in HandlerErrorType.__members__ else by_status,
                retryable_override=override if isinstance(override, bool) else None,
                stack_trace=failure.stack_trace,
                original_failure=failure,
            ),
            failure.cause,
        )
    override = {"true": True, "false": False}.get(retryable.lower())
    message = failure.message if failure is not None and failure.message else reason or f"status {status}"
    return _caused(
        HandlerError(message, type=by_status, retryable_override=override, original_failure=failure), failure
    )


def operation_error_of(state: str, body: bytes) -> OperationError:
    """424, or a callback: failed or canceled."""
    failure = read_failure(body) or Failure(message="")
    details = _details(failure)
    if _type(failure) == _OPERATION_ERROR and details.get("state") in ("failed", "canceled"):
        state = details["state"]
    kind = OperationErrorState.CANCELED if state == "canceled" else OperationErrorState.FAILED
    return _caused(
        OperationError(
            failure.message or "operation " + kind.value,
            state=kind,
            stack_trace=failure.stack_trace,
            original_failure=failure,
        ),
        failure.cause,
    )


class RemoteFailure(Exception):
    """The cause of an error that another process told."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _caused(error: E, cause: Failure | None) -> E:
    if cause is not None:
        error.__cause__ = _caused(RemoteFailure(cause), cause.cause)
    return error


def handler_error_json(error: HandlerError) -> dict[str, Any]:
    """Without stack traces: what happened inside stays inside."""
    details: dict[str, Any] = {"type": error.type.value}
    if error.retryable_override is not None:
        details["retryableOverride"] = error.retryable_override
    return {**_caused_json(error), "metadata": {"type": _HANDLER_ERROR}, "details": details}


def operation_error_json(error: OperationError) -> dict[str, Any]:
    return {**_caused_json(error), "metadata": {"type": _OPERATION_ERROR}, "details": {"state": error.state.value}}


def _caused_json(error: BaseException, depth: int = FAILURE_DEPTH_MAX) -> dict[str, Any]:
    made: dict[str, Any] = {"message": str(error)}
    cause = error.__cause__
    if cause is not None and depth:
        made["cause"] = {**_caused_json(cause, depth - 1), "metadata": {"type": type(cause).__name__}}
    return made
