"""Retry arithmetic: whether a failure may be retried, and when. One rule for activities and for workflows.

Pure functions over RetryPolicy. Durations are ns; the words of refusals are the Temporal server's (common/retrypolicy).
"""

from __future__ import annotations

import math

from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import RetryPolicy
from temporalio.api.enums.v1 import RetryState, TimeoutType
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure, ServerFailureInfo

from cluster.config import Limits
from cluster.core.errors import invalid_argument
from cluster.core.events import SECOND_NS, duration, duration_ns

DURATION_MAX_S = 100 * 365 * 86_400  # timestamp.maxAllowedDuration: what is longer is as good as forever
BACKOFF_MAX_NS = (1 << 63) - 1  # what a Go duration holds: an interval that overflows is this one
TIMEOUT_TYPE_PREFIX = "TemporalTimeout:"  # in non_retryable_error_types: a timeout by its kind
FAILURE_CAUSES_MAX = 20  # failure.Truncate keeps this many nested causes
FAILURE_EXCEEDS_LIMIT = "Failure exceeds size limit."

# The kinds as they are written behind the prefix: "StartToClose", "Heartbeat" ...
TIMEOUT_TYPE_WORDS: dict[int, str] = {
    number: "".join(part.capitalize() for part in name.removeprefix("TIMEOUT_TYPE_").split("_"))
    for name, number in TimeoutType.items()
    if number
}
_TIMEOUT_NAMES = {*TIMEOUT_TYPE_WORDS.values(), *(name for name, number in TimeoutType.items() if number)}
_RETRYABLE_TIMEOUTS = (TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE, TimeoutType.TIMEOUT_TYPE_HEARTBEAT)


def is_retryable(failure: Failure | None, non_retryable_types: list[str] | tuple[str, ...] = ()) -> bool:
    """False for what a further attempt cannot mend. Unknown and wrapping failures are retryable."""
    kind = failure.WhichOneof("failure_info") if failure is not None else None
    if failure is None or kind is None:
        return True
    if kind in ("terminated_failure_info", "canceled_failure_info"):
        return False
    if kind == "timeout_failure_info":
        timeout = failure.timeout_failure_info.timeout_type
        # The other two are deadlines over all attempts: one more attempt would be late as well.
        return timeout in _RETRYABLE_TIMEOUTS and TIMEOUT_TYPE_PREFIX + TIMEOUT_TYPE_WORDS[timeout] not in non_retryable_types
    if kind == "server_failure_info":
        return not failure.server_failure_info.non_retryable
    if kind == "application_failure_info":
        info = failure.application_failure_info
        return not info.non_retryable and info.type not in non_retryable_types
    return True


def next_retry_delay_of(failure: Failure | None) -> int:
    """ns: the delay that the worker asked for in its failure, 0 = none."""
    if failure is None:
        return 0
    return max(0, duration_ns(failure.application_failure_info.next_retry_delay))


def next_backoff(
    policy: RetryPolicy | None,
    attempt: int,
    now: int,
    expires_at: int,
    failure: Failure | None,
    next_retry_delay_ns: int = 0,
    *,
    delay_is_capped: bool = False,
) -> tuple[int | None, RetryState.ValueType]:
    """How long to wait before attempt + 1, and IN_PROGRESS; or None and why there is none.

    attempt: the one that failed, from 1. expires_at: ns since the epoch, 0 = never; an attempt may start exactly then.
    next_retry_delay_ns: what the worker asked for, 0 = the policy decides.
    delay_is_capped: a workflow's own delay is held below the policy's maximum interval, an activity's is not.
    """
    if policy is None:
        return None, RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET
    if not is_retryable(failure, list(policy.non_retryable_error_types)):
        return None, RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE
    attempt = max(attempt, 1)
    if 0 < policy.maximum_attempts <= attempt:
        return None, RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    interval_max_ns = duration_ns(policy.maximum_interval)
    interval_ns = next_retry_delay_ns or exponential_interval(policy, attempt)
    if next_retry_delay_ns and not delay_is_capped:
        interval_max_ns = next_retry_delay_ns
    if interval_max_ns == 0 and interval_ns <= 0:
        return None, RetryState.RETRY_STATE_TIMEOUT
    if interval_max_ns != 0 and (interval_ns <= 0 or interval_ns > interval_max_ns):
        interval_ns = interval_max_ns
    if expires_at and now + interval_ns > expires_at:
        return None, RetryState.RETRY_STATE_TIMEOUT
    return interval_ns, RetryState.RETRY_STATE_IN_PROGRESS


def exponential_interval(policy: RetryPolicy, attempt: int) -> int:
    """ns: initial interval times coefficient to the power of (attempt - 1), without the policy's maximum; never overflows."""
    try:
        interval = duration_ns(policy.initial_interval) * policy.backoff_coefficient ** (attempt - 1)
    except OverflowError:
        return BACKOFF_MAX_NS if duration_ns(policy.initial_interval) else 0
    if math.isnan(interval):
        return 0
    return BACKOFF_MAX_NS if interval >= BACKOFF_MAX_NS else max(0, int(interval))


def with_defaults(policy: RetryPolicy | None, limits: Limits) -> RetryPolicy:
    """A copy whose unset fields have the server's defaults (1 s, doubling, up to a hundred times the first, without end)."""
    filled = RetryPolicy()
    if policy is not None:
        filled.CopyFrom(policy)
    if duration_ns(filled.initial_interval) == 0:
        filled.initial_interval.CopyFrom(duration(limits.activity_retry_initial_ns))
    if duration_ns(filled.maximum_interval) == 0:
        factor = limits.activity_retry_max_interval_factor
        longest_ns = min(factor * duration_ns(filled.initial_interval), DURATION_MAX_S * SECOND_NS)
        filled.maximum_interval.CopyFrom(duration(longest_ns))
    if filled.backoff_coefficient == 0:
        filled.backoff_coefficient = limits.activity_retry_coefficient
    return filled


def validate(policy: RetryPolicy | None) -> None:
    """Raises CallerError INVALID_ARGUMENT. Caps absurdly long intervals in place. No policy is valid: no retries."""
    if policy is None or policy.maximum_attempts == 1:
        return  # one attempt is no retry: the rest says nothing
    check_duration(policy.initial_interval, "invalid InitialInterval set on retry policy")
    if not policy.backoff_coefficient >= 1:  # also not a number
        raise invalid_argument("BackoffCoefficient cannot be less than 1 on retry policy.")
    check_duration(policy.maximum_interval, "invalid MaximumInterval set on retry policy")
    interval_max_ns = duration_ns(policy.maximum_interval)
    if 0 < interval_max_ns < duration_ns(policy.initial_interval):
        raise invalid_argument("MaximumInterval cannot be less than InitialInterval on retry policy.")
    if policy.maximum_attempts < 0:
        raise invalid_argument("MaximumAttempts cannot be negative on retry policy.")
    for name in policy.non_retryable_error_types:
        if name.startswith(TIMEOUT_TYPE_PREFIX):
            word = name.removeprefix(TIMEOUT_TYPE_PREFIX)
            if word not in _TIMEOUT_NAMES:
                raise invalid_argument(f"Invalid timeout type value: {word}.")


def check_duration(span: Duration, what: str, suffix: str = "") -> None:
    """Raises CallerError INVALID_ARGUMENT for a negative duration. Caps it in place at a hundred years."""
    if span.seconds * span.nanos < 0:
        raise invalid_argument(f"{what}: duration has seconds and nanos with different signs{suffix}")
    if span.seconds < 0 or span.nanos < 0:
        raise invalid_argument(f"{what}: negative duration{suffix}")
    if duration_ns(span) > DURATION_MAX_S * SECOND_NS:
        span.seconds, span.nanos = DURATION_MAX_S, 0


def failure_to_keep(failure: Failure, bytes_max: int) -> bytes:
    """The encoded failure that the state carries to the next attempt: cut where it is larger than that deserves."""
    encoded = failure.SerializeToString()
    if len(encoded) <= bytes_max:
        return encoded
    kept = Failure(message=FAILURE_EXCEEDS_LIMIT, server_failure_info=ServerFailureInfo(non_retryable=False))
    kept.cause.CopyFrom(_Cut(bytes_max).failure(failure, FAILURE_CAUSES_MAX))
    return kept.SerializeToString()


class _Cut:
    """Gives a budget of bytes to a failure's texts, the more telling ones first."""

    def __init__(self, bytes_max: int) -> None:
        self.left = bytes_max

    def text(self, text: str) -> str:
        data = text.encode()
        if len(data) > self.left:
            data = data[: max(self.left, 0)]
        text = data.decode(errors="ignore")  # drops a character that the cut went through
        self.left -= len(text.encode()) + (4 if text else 0)  # 4: tag and length
        return text

    def failure(self, failure: Failure, causes_max: int) -> Failure:
        cut = Failure()
        if failure.HasField("application_failure_info"):
            info = failure.application_failure_info
            cut.application_failure_info.CopyFrom(
                ApplicationFailureInfo(non_retryable=info.non_retryable, type=self.text(info.type))
            )
            self.left -= 8
        elif failure.HasField("server_failure_info"):
            cut.server_failure_info.CopyFrom(
                ServerFailureInfo(non_retryable=failure.server_failure_info.non_retryable)
            )
            self.left -= 4
        cut.source = self.text(failure.source)
        cut.message = self.text(failure.message)
        cut.stack_trace = self.text(failure.stack_trace)
        if failure.HasField("cause") and self.left > 4 and causes_max > 0:
            self.left -= 4
            cut.cause.CopyFrom(self.failure(failure.cause, causes_max - 1))
        return cut


CALL_RETRY_FIRST_NS = SECOND_NS  # component.nexusoperations.retryPolicy.initialInterval, component.callbacks.retryPolicy...
CALL_RETRY_MAX_NS = 3_600 * SECOND_NS  # ...maxInterval


def next_call_at(now: int, failed_attempts: int, jitter: float) -> int:
    """ns since the epoch: when a call over HTTP is tried again after so many failures. jitter: 0..1.

    1 s, doubling up to an hour; up to a fifth sooner, so that callers of a service that comes back do not come all at once.
    """
    interval_ns = min(CALL_RETRY_FIRST_NS << min(max(failed_attempts - 1, 0), 32), CALL_RETRY_MAX_NS)
    return now + int(interval_ns * (0.8 + 0.2 * jitter))
