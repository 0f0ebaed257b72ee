"""Failures of the Nexus protocol and failures of workflows, each as the other: what the public server makes of them (1.32.1).

    Nexus failure, by metadata["type"]   | as a workflow sees it
    -------------------------------------+---------------------------------------------------------------------------
    temporal.api.failure.v1.Failure      | itself: its details are that failure in JSON, but for message and stack trace
    nexus.OperationError                 | cancelled, or an application failure of type "OperationError", not retryable
    nexus.HandlerError                   | nexus_handler_failure_info, from details {type, retryableOverride, encodedAttributes}
    anything else, or details alone      | an application failure of type "NexusFailure" that keeps metadata and details as JSON
    neither metadata nor details         | its message alone

Details that cannot be read are kept as those of a type nobody knows: what a handler says must not stop the delivery.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from google.protobuf import json_format
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import NexusHandlerErrorRetryBehavior
from temporalio.api.failure.v1 import ApplicationFailureInfo, CanceledFailureInfo, Failure, NexusHandlerFailureInfo
from temporalio.api.nexus.v1 import Failure as NexusFailure
from temporalio.api.nexus.v1 import HandlerError as OlderHandlerError

TEMPORAL_FAILURE = "temporal.api.failure.v1.Failure"
OPERATION_ERROR = "nexus.OperationError"
HANDLER_ERROR = "nexus.HandlerError"
CAUSES_MAX = 100  # deeper chains are cut: each is walked by recursion

_RETRY = NexusHandlerErrorRetryBehavior
_BEHAVIORS = {
    True: _RETRY.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE,
    False: _RETRY.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE,
}


def temporal_failure(failure: NexusFailure, depth: int = 0) -> Failure:
    """A Nexus failure as a workflow sees it."""
    made = Failure(message=failure.message, stack_trace=failure.stack_trace)
    if failure.metadata or failure.details:
        known = _KNOWN.get(failure.metadata.get("type", ""))
        try:
            if known is None:
                raise ValueError("a type nobody knows")
            known(made, failure)
        except (ValueError, json_format.ParseError, binascii.Error):
            made.Clear()
            made.message, made.stack_trace = failure.message, failure.stack_trace
            made.application_failure_info.CopyFrom(_kept(failure))
    if failure.HasField("cause") and depth < CAUSES_MAX:
        made.cause.CopyFrom(temporal_failure(failure.cause, depth + 1))
    return made


def _of_temporal(made: Failure, failure: NexusFailure) -> None:
    json_format.Parse(failure.details, made, ignore_unknown_fields=True)
    made.message, made.stack_trace = failure.message, failure.stack_trace


def _of_operation_error(made: Failure, failure: NexusFailure) -> None:
    if _object(failure.details).get("state") == "canceled":
        made.canceled_failure_info.SetInParent()
    else:
        made.application_failure_info.CopyFrom(ApplicationFailureInfo(type="OperationError", non_retryable=True))


def _of_handler_error(made: Failure, failure: NexusFailure) -> None:
    details = _object(failure.details)
    info = NexusHandlerFailureInfo(type=_text(details.get("type")))
    override = details.get("retryableOverride")
    if isinstance(override, bool):
        info.retry_behavior = _BEHAVIORS[override]
    made.nexus_handler_failure_info.CopyFrom(info)
    if encoded := _text(details.get("encodedAttributes")):
        decoded = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        json_format.Parse(decoded, made.encoded_attributes, ignore_unknown_fields=True)


_KNOWN = {TEMPORAL_FAILURE: _of_temporal, OPERATION_ERROR: _of_operation_error, HANDLER_ERROR: _of_handler_error}


def _object(details: bytes) -> dict[str, Any]:
    parsed = json.loads(details or b"{}")
    if not isinstance(parsed, dict):
        raise ValueError("not an object")
    return parsed


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _kept(failure: NexusFailure) -> ApplicationFailureInfo:
    kept: dict[str, Any] = {}
    if failure.metadata:
        kept["metadata"] = dict(sorted(failure.metadata.items()))
    if failure.details:
        try:
            kept["details"] = json.loads(failure.details)
        except ValueError:
            kept["details"] = base64.b64encode(failure.details).decode()
    data = json.dumps(kept, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    info = ApplicationFailureInfo(type="NexusFailure")
    info.details.payloads.append(Payload(metadata={"encoding": b"json/plain"}, data=data))
    return info


def nexus_failure(failure: Failure, depth: int = 0) -> NexusFailure:
    """A failure of a workflow as the protocol carries it."""
    made = NexusFailure(message=failure.message, stack_trace=failure.stack_trace)
    if failure.HasField("nexus_handler_failure_info"):
        made.metadata["type"] = HANDLER_ERROR
        made.details = _handler_details(failure)
    else:
        made.metadata["type"] = TEMPORAL_FAILURE
        rest = Failure()
        rest.CopyFrom(failure)
        for field in ("message", "stack_trace", "cause"):
            rest.ClearField(field)
        made.details = json.dumps(json_format.MessageToDict(rest), separators=(",", ":")).encode()
    if failure.HasField("cause") and depth < CAUSES_MAX:
        made.cause.CopyFrom(nexus_failure(failure.cause, depth + 1))
    return made


def _handler_details(failure: Failure) -> bytes:
    info = failure.nexus_handler_failure_info
    details: dict[str, Any] = {"type": info.type}
    for override, behavior in _BEHAVIORS.items():
        if info.retry_behavior == behavior:
            details["retryableOverride"] = override
    if failure.HasField("encoded_attributes"):
        encoded = json.dumps(json_format.MessageToDict(failure.encoded_attributes)).encode()
        details["encodedAttributes"] = base64.urlsafe_b64encode(encoded).decode().rstrip("=")
    return json.dumps(details, separators=(",", ":")).encode()


def handler_failure_of_older_form(error: OlderHandlerError) -> Failure:
    """RespondNexusTaskFailed.error: what its type says, caused by what the handler said."""
    info = NexusHandlerFailureInfo(type=error.error_type, retry_behavior=error.retry_behavior)
    made = Failure(nexus_handler_failure_info=info)
    if error.HasField("failure"):
        made.cause.CopyFrom(temporal_failure(error.failure))
    return made


def operation_failure(state: str, failure: NexusFailure) -> Failure:
    """The older form of an unsuccessful start, or a callback: state and failure, as one failure of a workflow."""
    made = temporal_failure(failure)
    if failure.metadata.get("type") == OPERATION_ERROR and made.HasField("cause"):
        inner = Failure()  # it only wraps the real one
        inner.CopyFrom(made.cause)
        made = inner
    if state == "canceled" and not made.HasField("canceled_failure_info"):
        cancelled = Failure(message=made.message, stack_trace=made.stack_trace, canceled_failure_info=CanceledFailureInfo())
        if made.HasField("cause"):
            cancelled.cause.CopyFrom(made.cause)
        return cancelled
    return made
