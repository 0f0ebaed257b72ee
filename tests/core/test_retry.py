"""Retry arithmetic: what is retryable, when, and which policies are valid."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import RetryPolicy
from temporalio.api.enums.v1 import RetryState, TimeoutType
from temporalio.api.failure.v1 import (
    ActivityFailureInfo,
    ApplicationFailureInfo,
    CanceledFailureInfo,
    Failure,
    ServerFailureInfo,
    TerminatedFailureInfo,
    TimeoutFailureInfo,
)

from cluster.config import Limits
from cluster.core.errors import CallerError, Code
from cluster.core.events import SECOND_NS, duration, duration_ns
from cluster.core.retry import (
    BACKOFF_MAX_NS,
    DURATION_MAX_S,
    check_duration,
    exponential_interval,
    failure_to_keep,
    is_retryable,
    next_backoff,
    next_retry_delay_of,
    validate,
    with_defaults,
)

NOW = 1_700_000_000 * SECOND_NS
ERROR = Failure(message="no", application_failure_info=ApplicationFailureInfo(type="Broken"))
FINAL = Failure(message="no", application_failure_info=ApplicationFailureInfo(type="Broken", non_retryable=True))


def timeout(kind: TimeoutType.ValueType) -> Failure:
    return Failure(timeout_failure_info=TimeoutFailureInfo(timeout_type=kind))


def policy(initial_s: float = 1, coefficient: float = 2.0, longest_s: float = 100, attempts: int = 0, *types: str) -> RetryPolicy:
    return RetryPolicy(
        initial_interval=duration(int(initial_s * SECOND_NS)),
        backoff_coefficient=coefficient,
        maximum_interval=duration(int(longest_s * SECOND_NS)),
        maximum_attempts=attempts,
        non_retryable_error_types=types,
    )


@pytest.mark.parametrize(
    ("failure", "types", "expected"),
    [
        (None, (), True),
        (Failure(message="bare"), (), True),
        (ERROR, (), True),
        (ERROR, ("Other",), True),
        (ERROR, ("Broken",), False),
        (FINAL, (), False),
        (Failure(server_failure_info=ServerFailureInfo()), (), True),
        (Failure(server_failure_info=ServerFailureInfo(non_retryable=True)), (), False),
        (Failure(canceled_failure_info=CanceledFailureInfo()), (), False),
        (Failure(terminated_failure_info=TerminatedFailureInfo()), (), False),
        (timeout(TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE), (), True),
        (timeout(TimeoutType.TIMEOUT_TYPE_HEARTBEAT), (), True),
        (timeout(TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START), (), False),
        (timeout(TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE), (), False),
        (timeout(TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE), ("TemporalTimeout:StartToClose",), False),
        (timeout(TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE), ("TemporalTimeout:Heartbeat",), True),
        (timeout(TimeoutType.TIMEOUT_TYPE_HEARTBEAT), ("TemporalTimeout:Heartbeat",), False),
        (Failure(activity_failure_info=ActivityFailureInfo(), cause=FINAL), (), True),  # only the outermost counts
    ],
)
def test_what_is_retryable(failure: Failure | None, types: tuple[str, ...], expected: bool) -> None:
    assert is_retryable(failure, types) is expected


def test_intervals_double_up_to_the_maximum() -> None:
    waits = [next_backoff(policy(longest_s=10), attempt, NOW, 0, ERROR)[0] for attempt in range(1, 7)]
    assert waits == [one * SECOND_NS for one in (1, 2, 4, 8, 10, 10)]


def test_no_policy_means_no_retry() -> None:
    assert next_backoff(None, 1, NOW, 0, ERROR) == (None, RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET)


def test_a_non_retryable_failure_ends_it_whatever_is_left() -> None:
    ended = (None, RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE)
    assert next_backoff(policy(1, 2.0, 100, 9, "Broken"), 1, NOW, 0, ERROR) == ended
    assert next_backoff(policy(), 1, NOW, 0, FINAL) == ended


def test_the_last_attempt_is_the_maximum_one() -> None:
    assert next_backoff(policy(attempts=3), 2, NOW, 0, ERROR)[1] == RetryState.RETRY_STATE_IN_PROGRESS
    assert next_backoff(policy(attempts=3), 3, NOW, 0, ERROR) == (None, RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED)


def test_an_attempt_may_start_exactly_at_the_expiration_and_not_after_it() -> None:
    wait_ns = SECOND_NS
    assert next_backoff(policy(), 1, NOW, NOW + wait_ns, ERROR) == (wait_ns, RetryState.RETRY_STATE_IN_PROGRESS)
    assert next_backoff(policy(), 1, NOW, NOW + wait_ns - 1, ERROR) == (None, RetryState.RETRY_STATE_TIMEOUT)


def test_a_delay_the_worker_asked_for_goes_before_the_policy() -> None:
    asked = Failure(application_failure_info=ApplicationFailureInfo(next_retry_delay=Duration(seconds=500)))
    delay_ns = next_retry_delay_of(asked)
    assert delay_ns == 500 * SECOND_NS
    assert next_backoff(policy(), 1, NOW, 0, asked, delay_ns)[0] == 500 * SECOND_NS
    assert next_backoff(policy(), 1, NOW, 0, asked, delay_ns, delay_is_capped=True)[0] == 100 * SECOND_NS
    assert next_backoff(policy(), 1, NOW, NOW + 499 * SECOND_NS, asked, delay_ns) == (None, RetryState.RETRY_STATE_TIMEOUT)
    assert next_retry_delay_of(ERROR) == next_retry_delay_of(None) == 0


def test_a_policy_without_any_interval_cannot_retry() -> None:
    assert next_backoff(RetryPolicy(backoff_coefficient=2), 1, NOW, 0, ERROR) == (None, RetryState.RETRY_STATE_TIMEOUT)


@given(
    initial_ns=st.integers(0, DURATION_MAX_S * SECOND_NS),
    coefficient=st.floats(min_value=1) | st.just(float("nan")),
    longest_ns=st.integers(1, DURATION_MAX_S * SECOND_NS),
    attempt=st.integers(1, 2**31 - 1),
)
def test_no_attempt_and_no_coefficient_overflows(initial_ns: int, coefficient: float, longest_ns: int, attempt: int) -> None:
    wide = RetryPolicy(
        initial_interval=duration(initial_ns), backoff_coefficient=coefficient, maximum_interval=duration(longest_ns)
    )
    assert 0 <= exponential_interval(wide, attempt) <= BACKOFF_MAX_NS
    wait_ns, state = next_backoff(wide, attempt, NOW, 0, ERROR)
    assert state == RetryState.RETRY_STATE_IN_PROGRESS and wait_ns is not None and 0 < wait_ns <= longest_ns


def test_unset_fields_get_the_defaults_and_set_ones_stay() -> None:
    plain = with_defaults(None, Limits())
    assert plain == policy(1, 2.0, 100, 0)
    given_policy = policy(3, 1.5, 7, 4, "T")
    assert with_defaults(given_policy, Limits()) == given_policy
    slow = with_defaults(RetryPolicy(initial_interval=Duration(seconds=5)), Limits())
    assert duration_ns(slow.maximum_interval) == 500 * SECOND_NS


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (policy(coefficient=0.9), "BackoffCoefficient cannot be less than 1 on retry policy."),
        (policy(coefficient=float("nan")), "BackoffCoefficient cannot be less than 1 on retry policy."),
        (policy(initial_s=-1), "invalid InitialInterval set on retry policy: negative duration"),
        (policy(longest_s=-1), "invalid MaximumInterval set on retry policy: negative duration"),
        (policy(initial_s=5, longest_s=4), "MaximumInterval cannot be less than InitialInterval on retry policy."),
        (policy(attempts=-1), "MaximumAttempts cannot be negative on retry policy."),
        (policy(1, 2.0, 100, 0, "TemporalTimeout:Never"), "Invalid timeout type value: Never."),
        (policy(1, 2.0, 100, 0, "TemporalTimeout:Unspecified"), "Invalid timeout type value: Unspecified."),
    ],
)
def test_an_invalid_policy_is_refused_in_the_server_s_words(bad: RetryPolicy, words: str) -> None:
    with pytest.raises(CallerError) as refusal:
        validate(bad)
    assert (refusal.value.code, refusal.value.message) == (Code.INVALID_ARGUMENT, words)


def test_a_policy_of_one_attempt_is_not_looked_at_further() -> None:
    validate(policy(-1, 0, -1, 1))
    validate(None)
    validate(policy(1, 2.0, 100, 0, "TemporalTimeout:StartToClose", "TemporalTimeout:TIMEOUT_TYPE_HEARTBEAT", "Any"))


def test_durations_of_mixed_signs_are_refused_and_long_ones_cut() -> None:
    with pytest.raises(CallerError, match="X: duration has seconds and nanos with different signs"):
        check_duration(Duration(seconds=1, nanos=-1), "X")
    span = Duration(seconds=DURATION_MAX_S, nanos=1)
    check_duration(span, "X")
    assert (span.seconds, span.nanos) == (DURATION_MAX_S, 0)


def test_a_failure_at_the_limit_is_kept_whole_and_one_above_is_cut() -> None:
    failure = Failure(message="m" * 1000, stack_trace="s" * 1000, cause=Failure(message="c" * 500))
    size = failure.ByteSize()
    assert Failure.FromString(failure_to_keep(failure, size)) == failure
    kept = Failure.FromString(failure_to_keep(failure, size - 1))
    assert kept.message == "Failure exceeds size limit." and kept.HasField("server_failure_info")
    assert kept.cause.message == "m" * 1000 and kept.ByteSize() <= size - 1 + 50


def test_cutting_keeps_what_decides_and_breaks_no_character() -> None:
    failure = Failure(message="ä" * 5000, application_failure_info=ApplicationFailureInfo(type="T", non_retryable=True))
    kept = Failure.FromString(failure_to_keep(failure, 100)).cause
    assert kept.application_failure_info == ApplicationFailureInfo(type="T", non_retryable=True)
    assert set(kept.message) == {"ä"} and kept.ByteSize() <= 100
