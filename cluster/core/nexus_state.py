"""What a run's state keeps of its Nexus operations: see machines/nexus_operation.py for what they do.

The operation's input and headers stay in its scheduled event, from which a delivery reads them.
"""

from __future__ import annotations

import msgspec


class NexusCancellation(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A cancel request to an operation. It waits (state 0) until the operation has started and can be named to its handler."""

    requested_event_id: int
    state: int = 0  # temporal.api.enums.v1.NexusOperationCancellationState, never BLOCKED
    requested_at: int = 0  # when it could first be sent
    attempt: int = 0  # finished attempts
    last_attempt_at: int = 0
    last_failure: bytes = b""  # Failure
    next_attempt_at: int = 0
    blocked_reason: str = ""


class NexusOperation(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A pending operation. started_at != 0 = its handler has it; next_attempt_at != 0 = waits for its next attempt."""

    scheduled_event_id: int
    endpoint: str
    endpoint_id: str
    service: str
    operation: str
    request_id: str  # the same for all attempts, and after a reset: the handler starts it once
    scheduled_at: int
    scheduled_version: int = 0
    schedule_to_close_ns: int = 0
    schedule_to_start_ns: int = 0
    start_to_close_ns: int = 0
    token: str = ""
    started_at: int = 0
    attempt: int = 0  # finished attempts of the start
    last_attempt_at: int = 0
    last_failure: bytes = b""  # Failure
    next_attempt_at: int = 0
    blocked_reason: str = ""  # why no attempt is made now: the circuit breaker of the endpoint is open
    cancellation: NexusCancellation | None = None

    @property
    def is_started(self) -> bool:
        return self.started_at != 0
