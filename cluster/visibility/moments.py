"""Times and durations as text: RFC 3339 to nanoseconds, Go durations, `hh:mm:ss`.

Python's own datetime stops at microseconds and at the years 1 to 9999 in one zone, so the nanoseconds are put together here.
"""

from __future__ import annotations

import re
from datetime import date
from fractions import Fraction

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_NS = 1_000_000_000
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:[.,](\d+))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII
)
_DURATION = re.compile(r"[+-]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h|d))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h|d)", re.ASCII)
_UNIT_NS = {
    "ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000,
    "s": _NS, "m": 60 * _NS, "h": 3_600 * _NS, "d": 86_400 * _NS,
}  # fmt: skip
_HHMMSS = re.compile(r"(\d{1,7}):([0-5]?\d):([0-5]?\d)", re.ASCII)
# Longer digits than any value needs: a bound on the work that a query's text can ask for.
_DIGITS_MAX = 64


def clamp_int64(value: int) -> int:
    """Moments before 1677 and after 2262 have no place in 64 bits of nanoseconds; the ends stand for them."""
    return max(_INT64_MIN, min(_INT64_MAX, value))


def parse_rfc3339_ns(text: str) -> int | None:
    """Nanoseconds since the epoch, unbounded; None when the text is no RFC 3339 moment. Digits beyond nine are cut."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(found[group]) for group in range(1, 7))
    if hour > 23 or minute > 59 or second > 59:
        return None
    try:
        # Year 0 is valid in RFC 3339 and unknown to Python; shifting by a 400-year cycle keeps the calendar the same.
        days = date(year or 400, month, day).toordinal() - _EPOCH_DAY - (0 if year else 146_097)
    except ValueError:
        return None
    offset_s = 0
    if found[8]:
        zone_hour, zone_minute = int(found[9]), int(found[10])
        if zone_hour > 23 or zone_minute > 59:
            return None
        offset_s = (zone_hour * 3_600 + zone_minute * 60) * (1 if found[8] == "+" else -1)
    fraction_ns = int((found[7] or "")[:9].ljust(9, "0"))
    return (days * 86_400 + hour * 3_600 + minute * 60 + second - offset_s) * _NS + fraction_ns


def parse_duration_ns(text: str) -> int | None:
    """'3600000000000' (ns), '1h30m', '-1.5s', '2d' or 'hh:mm:ss'; None when it is none of them."""
    if len(text) > _DIGITS_MAX:
        return None
    if re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        nanoseconds = int(text)
    elif _DURATION.fullmatch(text):
        parts = _DURATION_PART.findall(text)
        nanoseconds = int(sum(Fraction("0" + amount.rstrip(".")) * _UNIT_NS[unit] for amount, unit in parts))
        nanoseconds = -nanoseconds if text.startswith("-") else nanoseconds
    elif (clock := _HHMMSS.fullmatch(text)) is not None:
        nanoseconds = (int(clock[1]) * 3_600 + int(clock[2]) * 60 + int(clock[3])) * _NS
    else:
        return None
    return nanoseconds if _INT64_MIN <= nanoseconds <= _INT64_MAX else None
