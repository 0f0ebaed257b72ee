"""Errors across the wire: a CallerError goes as code, message and packed details, and comes out as the same.

Two kinds of UNAVAILABLE are told apart, because only one of them may be retried without a request id.
"""

from __future__ import annotations

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.message import DecodeError, Message

from cluster.core.errors import CallerError, Code
from cluster.wire.frames import Failure
from cluster.wire.limits import WireLimits


class Unreachable(CallerError):
    """The call was never sent: no connection, or the peer refused it. Nothing happened there."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.UNAVAILABLE, message)


class ConnectionLost(CallerError):
    """The connection ended before the answer came: the call may or may not have been executed."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.UNAVAILABLE, message)


def deadline_exceeded(method: str) -> CallerError:
    return CallerError(Code.DEADLINE_EXCEEDED, f"{method} was not answered within its deadline")


def as_failure(call_id: int, error: CallerError, limits: WireLimits) -> Failure:
    """Details that are too large for the peer's frame limit are left out: the code and the message are what counts."""
    message = error.message
    if len(message) > limits.message_chars_max:
        message = message[: limits.message_chars_max] + "..."
    details = tuple(_packed(detail) for detail in error.details)
    if sum(len(url) + len(value) for url, value in details) > limits.payload_bytes_max:
        details = ()
    # A lone surrogate cannot be encoded; an error about bad text must itself arrive.
    return Failure(call_id, int(error.code), message.encode("utf-8", "replace").decode(), details)


def from_failure(failure: Failure) -> CallerError:
    try:
        code = Code(failure.code)
    except ValueError:
        code = Code.UNKNOWN  # a newer peer may know more codes
    return CallerError(code, failure.message, *(_unpacked(url, value) for url, value in failure.details))


def _packed(detail: Message) -> tuple[str, bytes]:
    if isinstance(detail, PackedAny):
        return detail.type_url, detail.value
    return f"type.googleapis.com/{detail.DESCRIPTOR.full_name}", detail.SerializeToString()


def _unpacked(url: str, value: bytes) -> Message:
    """The message; still packed, if this version does not know its type or cannot read it."""
    kept = PackedAny(type_url=url, value=value)
    try:
        found = descriptor_pool.Default().FindMessageTypeByName(url.rsplit("/", 1)[-1])
        message = message_factory.GetMessageClass(found)()
        message.ParseFromString(value)
    except (KeyError, DecodeError):
        return kept
    return message
