"""Times that no clock can hold are brought back to the nearest that one can, before anything computes with them.

The public server caps durations at 100 years and goes on; whether a negative one is allowed is for validation to say. Without
this, a wake-up time could leave the range of a 64-bit integer of nanoseconds and stop a shard.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from cluster.frontend.call import Call, Handler
from cluster.frontend.message_walk import Leaf, Plan, compile_plan, holder_of
from cluster.frontend.methods import Method

DURATION_S_MAX = 100 * 365 * 24 * 3600
NANOS_MAX = 999_999_999
TIMESTAMP_S_MIN = 0
TIMESTAMP_S_MAX = 9_000_000_000  # the year 2255: nanoseconds since the epoch still fit into 63 bits


def clamp_duration(duration: Any) -> None:
    if abs(duration.seconds) >= DURATION_S_MAX:
        duration.seconds = DURATION_S_MAX if duration.seconds > 0 else -DURATION_S_MAX
        duration.nanos = 0
    elif abs(duration.nanos) > NANOS_MAX:
        duration.nanos = NANOS_MAX if duration.nanos > 0 else -NANOS_MAX


def clamp_timestamp(timestamp: Any) -> None:
    if not TIMESTAMP_S_MIN <= timestamp.seconds <= TIMESTAMP_S_MAX:
        timestamp.seconds = TIMESTAMP_S_MIN if timestamp.seconds < 0 else TIMESTAMP_S_MAX
        timestamp.nanos = 0
    elif not 0 <= timestamp.nanos <= NANOS_MAX:
        timestamp.nanos = 0 if timestamp.nanos < 0 else NANOS_MAX


_CLAMPS: dict[str, Callable[[Any], None]] = {
    "google.protobuf.Duration": clamp_duration,
    "google.protobuf.Timestamp": clamp_timestamp,
}


def _choose(field: FieldDescriptor) -> Leaf[None] | None:
    """The leaf sits on the well-known type itself: on its `seconds`, once per type."""
    if field.name == "seconds" and (clamp := _CLAMPS.get(holder_of(field).full_name)) is not None:
        return lambda message, _: clamp(message)
    return None


def clamp_times(method: Method, following: Handler) -> Handler:
    """The interceptor."""
    plan: Plan[None] | None = compile_plan(method.request.DESCRIPTOR, _choose)
    if plan is None:
        return following
    visit = plan.visit

    async def clamped(call: Call, request: Any) -> Message | bytes:
        visit(request, None)
        return await following(call, request)

    return clamped
