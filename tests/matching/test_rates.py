"""The token bucket and the measured rate."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.matching.rates import RateWindow, TokenBucket


@given(st.floats(0.1, 1000), st.lists(st.floats(0, 0.5), min_size=1, max_size=200))
def test_a_bucket_never_gives_more_than_its_burst_and_its_rate(rate: float, pauses: list[float]) -> None:
    bucket, now, given_count = TokenBucket(rate), 1000.0, 0
    for pause in pauses:
        now += pause
        if bucket.ready_at() <= now:
            bucket.take(now)
            given_count += 1
    assert given_count <= max(1.0, rate) + rate * (now - 1000.0) + 1e-6


def test_a_bucket_gives_its_rate_to_who_asks_when_it_is_ready() -> None:
    bucket, now = TokenBucket(10.0), 50.0
    for _ in range(110):
        now = max(now, bucket.ready_at())
        bucket.take(now)
    assert now == pytest.approx(60.0, abs=0.01), "10 at once, then 10 per second"


def test_a_refunded_token_can_be_taken_again() -> None:
    bucket = TokenBucket(1.0)
    bucket.take(5.0)
    assert bucket.ready_at() > 5.0
    bucket.refund()
    assert bucket.ready_at() <= 5.0


def test_no_rate_is_no_limit_and_a_rate_of_zero_is_a_stop() -> None:
    assert TokenBucket(None).ready_at() == -math.inf
    stopped = TokenBucket(0.0)
    assert stopped.ready_at() == math.inf
    stopped.set_rate(5.0)
    assert stopped.ready_at() <= 0.0


def test_the_measured_rate_follows_the_last_half_minute() -> None:
    window = RateWindow(100.0)
    for tenth in range(600):
        window.add(100.0 + tenth / 10)
    assert window.rate(160.0) == pytest.approx(10.0, rel=0.05)
    assert window.rate(175.0) == pytest.approx(4.0, rel=0.3)
    assert window.rate(200.0) == 0.0
    window.add(1000.0)
    assert window.rate(1001.0) < 0.1
