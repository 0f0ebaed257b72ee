"""Cron schedules: against an independent implementation where both mean the same, and robfig/cron's own cases where not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cronsim import CronSim, CronSimError
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cluster.core.cron import CronError, next_cron_backoff, parse_cron
from cluster.core.events import SECOND_NS as S


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * S


def spell(low: int, high: int) -> st.SearchStrategy[str]:
    """One field: a value, a range, steps, and lists of them."""
    value = st.integers(low, high)
    pairs = st.tuples(value, value).filter(lambda pair: pair[0] < pair[1])  # cronsim reads 0-0 as every weekday
    span = pairs.map(lambda pair: f"{pair[0]}-{pair[1]}")
    step = st.integers(1, high - low or 1)
    stepped = st.tuples(span, step).map(lambda pair: f"{pair[0]}/{pair[1]}")
    one = st.one_of(value.map(str), span, stepped)
    return st.one_of(st.just("*"), one, st.lists(one, min_size=2, max_size=3).map(",".join))


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(spell(0, 59), spell(0, 23), spell(1, 31), spell(1, 12), spell(0, 6)),
    st.integers(0, 4_000_000_000),
)
def test_five_fields_mean_what_they_mean_elsewhere(fields: tuple[str, ...], after_s: int) -> None:
    text = " ".join(fields)
    begin = datetime.fromtimestamp(after_s, UTC)
    try:
        expected = next(CronSim(text, begin), None)
    except CronSimError:
        expected = None  # the 30th of February: there it is refused, here it never comes
    assume(expected is None or expected.year <= begin.year + 4)  # ours gives up after five years
    found = parse_cron(text).next_after(after_s * S)
    if expected is None:
        assert found is None
    else:
        assert found == int(expected.timestamp()) * S


# From spec_test.go of robfig/cron v3.0.1, without its field for seconds.
@pytest.mark.parametrize(
    ("after", "text", "expected"),
    [
        ("2012-07-09T14:45:00+00:00", "0/15 * * * *", "2012-07-09T15:00:00+00:00"),
        ("2012-07-09T14:59:59+00:00", "0/15 * * * *", "2012-07-09T15:00:00+00:00"),
        ("2012-07-09T15:45:00+00:00", "20-35/15 * * * *", "2012-07-09T16:20:00+00:00"),
        ("2012-07-09T23:46:00+00:00", "*/15 * * * *", "2012-07-10T00:00:00+00:00"),
        ("2012-07-09T23:35:00+00:00", "0 0 9 Apr-Oct ?", "2012-08-09T00:00:00+00:00"),
        ("2012-07-09T23:35:00+00:00", "0 0 */5 Apr,Aug,Oct Mon", "2012-08-01T00:00:00+00:00"),
        ("2012-07-09T23:35:00+00:00", "0 0 */5 Oct Mon", "2012-10-01T00:00:00+00:00"),
        ("2012-07-09T23:35:00+00:00", "0 0 * Feb Mon", "2013-02-04T00:00:00+00:00"),
        ("2012-07-09T23:35:00+00:00", "0 0 * Feb Mon/2", "2013-02-01T00:00:00+00:00"),
        ("2012-07-09T23:35:00+00:00", "0 0 29 Feb ?", "2016-02-29T00:00:00+00:00"),
        ("2012-03-11T00:00:00-05:00", "TZ=America/New_York 30 2 11 Mar ?", "2013-03-11T02:30:00-04:00"),
        ("2012-03-11T01:00:00-05:00", "TZ=America/New_York 0 * * * ?", "2012-03-11T03:00:00-04:00"),
        ("2012-03-11T01:00:00-05:00", "CRON_TZ=America/New_York 0 * * * ?", "2012-03-11T03:00:00-04:00"),
        ("2012-03-11T00:00:00-05:00", "TZ=America/New_York 0 2 * * ?", "2012-03-12T02:00:00-04:00"),
        ("2012-11-04T01:45:00-04:00", "TZ=America/New_York 30 1 04 Nov ?", "2012-11-04T01:30:00-05:00"),
        ("2012-11-04T01:00:00-04:00", "TZ=America/New_York 0 1 * * ?", "2012-11-04T01:00:00-05:00"),
        ("2012-11-04T01:00:00-05:00", "TZ=America/New_York 0 1 * * ?", "2012-11-05T01:00:00-05:00"),
        ("2012-11-04T00:00:00-04:00", "TZ=America/New_York 0 3 3 * ?", "2012-12-03T03:00:00-05:00"),
        ("2018-10-17T05:00:00-04:00", "TZ=America/Sao_Paulo 0 9 10 * ?", "2018-11-10T06:00:00-05:00"),
        ("2018-02-14T05:00:00-05:00", "TZ=America/Sao_Paulo 0 9 22 * ?", "2018-02-22T07:00:00-05:00"),
        ("2012-12-31T23:59:45+00:00", "@yearly", "2013-01-01T00:00:00+00:00"),
        ("2012-12-31T23:59:45+00:00", "@weekly", "2013-01-06T00:00:00+00:00"),
        ("2012-12-31T23:59:45+00:00", "@monthly", "2013-01-01T00:00:00+00:00"),
        ("2012-12-31T23:59:45+00:00", "@midnight", "2013-01-01T00:00:00+00:00"),
        ("2012-12-31T22:59:45+00:00", "@hourly", "2012-12-31T23:00:00+00:00"),
    ],
)
def test_the_next_time_is_robfigs(after: str, text: str, expected: str) -> None:
    assert parse_cron(text).next_after(ns(after)) == ns(expected)


@pytest.mark.parametrize("text", ["0 0 30 Feb ?", "0 0 31 Apr ?"])
def test_a_day_that_never_comes_is_never(text: str) -> None:
    assert parse_cron(text).next_after(ns("2012-07-09T23:35:00+00:00")) is None
    assert next_cron_backoff(text, 0, 0) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 7", "5-1 * * * *"),
        *("*/0 * * * *", "a * * * *", "1-2-3 * * * *", "1/2/3 * * * *", "*/ * * * *", "-1 * * * *", "@never", "@every"),
        *("@every x", "@every 1", "TZ=Nowhere/Land * * * * *", "CRON_TZ= * * * * *", "TZ=UTC"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(CronError):
        parse_cron(text)


@settings(max_examples=100)
@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_cron(text)
    except CronError:
        return


@pytest.mark.parametrize(
    ("text", "interval_s"),
    [("@every 1h30m", 5400), ("@every 90s", 90), ("@every 1500ms", 1), ("@every 1ms", 1), ("@every 0", 1), ("@every -5s", 1)],
)
def test_every_is_whole_seconds_from_the_last_time(text: str, interval_s: int) -> None:
    schedule = parse_cron(text)
    assert schedule.next_after(100 * S + 5) == (100 + interval_s) * S


@pytest.mark.parametrize(
    ("text", "scheduled_s", "now_s", "backoff_s"),
    [
        ("@every 10s", 0, 0, 10),
        ("@every 10s", 0, 3, 7),
        ("@every 10s", 0, 9.2, 1),  # whole seconds up
        ("@every 10s", 0, 10, 0),  # due this very moment
        ("@every 10s", 0, 25, 5),  # missed times are skipped
        ("@every 10s", 0, 2_500_000_003, 7),
        ("@every 10s", 100, 40, 60),  # ended before it was due: it is repeated at that time
        ("*/5 * * * *", 0, 0, 300),
        ("*/5 * * * *", 0, 300, 0),
        ("*/5 * * * *", 0, 301, 299),
        ("*/5 * * * *", 0, 1_000_000_201, 299),
    ],
)
def test_the_wait_for_the_next_run(text: str, scheduled_s: float, now_s: float, backoff_s: int) -> None:
    assert next_cron_backoff(text, int(scheduled_s * S), int(now_s * S)) == backoff_s * S


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["@every 7s", "*/5 * * * *", "0 0 1 * *"]), st.integers(0, 10**9), st.integers(0, 20_000_000))
def test_the_wait_is_what_counting_one_by_one_gives(text: str, scheduled_s: int, late_ms: int) -> None:
    scheduled_at, schedule = scheduled_s * S, parse_cron(text)
    now = scheduled_at + late_ms * 1_000_000
    due = schedule.next_after(scheduled_at)
    while due is not None and due < now:
        due = schedule.next_after(due)
    assert due is not None
    waited = next_cron_backoff(text, scheduled_at, now)
    assert waited is not None and timedelta(0) <= timedelta(microseconds=(now + waited - due) / 1000) < timedelta(seconds=1)
