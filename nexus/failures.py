"""The protocol's Failure objects as JSON: read from callers and handlers, written for callers.

    {"message", "stackTrace"?, "metadata"?: {"type", ...}, "details"?: any JSON, "cause"?: Failure}

What a Failure means to a workflow is cluster/nexus/failures.py's. Stack traces stay inside unless the endpoint shows them.
"""

from __future__ import annotations

import json
from typing import Any

from temporalio.api.nexus.v1 import Failure

from cluster.nexus.failures import HANDLER_ERROR, OPERATION_ERROR
from nexus.errors import bad_request

JSON_TYPE = "application/json"
UNREADABLE = "failed to decode Failure from request body"


def failure_json(failure: Failure, shows_traces: bool, depth_max: int) -> dict[str, Any]:
    """Deeper causes are left out."""
    made: dict[str, Any] = {"message": failure.message}
    if failure.stack_trace and shows_traces:
        made["stackTrace"] = failure.stack_trace
    if failure.metadata:
        made["metadata"] = dict(sorted(failure.metadata.items()))
    if failure.details:
        made["details"] = _details(failure.details, shows_traces)
    if failure.HasField("cause") and depth_max > 1:
        made["cause"] = failure_json(failure.cause, shows_traces, depth_max - 1)
    return made


def _details(details: bytes, shows_traces: bool) -> Any:
    try:
        parsed = json.loads(details)
    except (ValueError, RecursionError):
        return details.decode("utf-8", "replace")
    return parsed if shows_traces else _without_traces(parsed)


def _without_traces(value: Any) -> Any:
    """A failure inside the details (a Temporal failure's JSON) has traces of its own."""
    if isinstance(value, dict):
        return {key: _without_traces(one) for key, one in value.items() if key not in ("stackTrace", "stack_trace")}
    if isinstance(value, list):
        return [_without_traces(one) for one in value]
    return value


def read_failure(body: bytes, depth_max: int) -> Failure:
    """Raises Refused: not JSON, not an object of that form, or too deep."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        raise bad_request(UNREADABLE) from None
    return _read(parsed, depth_max)


def _read(parsed: Any, depth_max: int) -> Failure:
    if not isinstance(parsed, dict) or depth_max == 0:
        raise bad_request(UNREADABLE)
    message, trace = parsed.get("message", ""), parsed.get("stackTrace", "")
    metadata, cause = parsed.get("metadata") or {}, parsed.get("cause")
    if not isinstance(message, str) or not isinstance(trace, str) or not isinstance(metadata, dict):
        raise bad_request(UNREADABLE)
    if not all(isinstance(value, str) for value in metadata.values()):
        raise bad_request(UNREADABLE)
    made = Failure(message=_text(message), stack_trace=_text(trace))
    for key, value in metadata.items():
        made.metadata[_text(key)] = _text(value)
    if parsed.get("details") is not None:
        made.details = json.dumps(parsed["details"], separators=(",", ":")).encode()
    if cause is not None:
        made.cause.CopyFrom(_read(cause, depth_max - 1))
    return made


def _text(value: str) -> str:
    """JSON can name half a character (a lone surrogate); nothing else can."""
    return value.encode("utf-8", "replace").decode()


def handler_error_json(
    type: str, message: str, is_retryable: bool | None = None, cause: dict[str, Any] | None = None
) -> dict[str, Any]:
    """is_retryable: only if it departs from the type's own rule, or the handler said so."""
    details: dict[str, Any] = {"type": type}
    if is_retryable is not None:
        details["retryableOverride"] = is_retryable
    made: dict[str, Any] = {"message": message, "metadata": {"type": HANDLER_ERROR}, "details": details}
    if cause is not None:
        made["cause"] = cause
    return made


def operation_error_json(state: str, inner: dict[str, Any]) -> dict[str, Any]:
    """The operation ended as failed or canceled. A failure with a form of its own becomes the cause of the protocol's."""
    metadata, details = inner.get("metadata") or {}, inner.get("details")
    if metadata.get("type") == OPERATION_ERROR and isinstance(details, dict):
        return {**inner, "details": {**details, "state": state}}
    outer = {"message": inner["message"], "metadata": {"type": OPERATION_ERROR}, "details": {"state": state}}
    if metadata or details is not None:
        return {**outer, "cause": inner}
    return {**inner, **outer}
