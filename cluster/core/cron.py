"""Cron schedules as Temporal's start request has them: five fields, @every, @hourly and its like, CRON_TZ=.

Semantics follow robfig/cron v3's standard parser, which the public server uses: day of month and day of week are ORed
when both are restricted; in a spring-forward gap the time does not exist, in a fall-back hour it happens once.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

SECOND_NS = 1_000_000_000
_MONTHS = {name: index for index, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_DAYS = {name: index for index, name in enumerate("sun mon tue wed thu fri sat".split())}
_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_UNITS_NS = {"h": 3600 * SECOND_NS, "m": 60 * SECOND_NS, "s": SECOND_NS, "ms": 1_000_000, "us": 1_000, "µs": 1_000, "ns": 1}
_SEARCH_YEARS = 5  # robfig/cron gives up after five years


class CronError(ValueError):
    """The schedule cannot be read; the text says where."""


class Every:
    """@every: a fixed interval from the last start, in whole seconds."""

    def __init__(self, interval_ns: int) -> None:
        self.interval_ns = max(interval_ns - interval_ns % SECOND_NS, SECOND_NS)

    def next_after(self, at: int) -> int | None:
        return at - at % SECOND_NS + self.interval_ns


class Calendar:
    """Five fields in a time zone."""

    def __init__(self, fields: list[frozenset[int]], day_is_star: bool, weekday_is_star: bool, zone: tzinfo) -> None:
        self.minutes, self.hours, self.days, self.months, self.weekdays = fields
        self._either_day = not (day_is_star or weekday_is_star)
        self._zone = zone

    def _matches_day(self, day: datetime) -> bool:
        if day.month not in self.months:
            return False
        by_day, by_weekday = day.day in self.days, (day.weekday() + 1) % 7 in self.weekdays
        return by_day or by_weekday if self._either_day else by_day and by_weekday

    def next_after(self, at: int) -> int | None:
        """The first matching minute later than `at` (ns since the epoch)."""
        local = datetime.fromtimestamp(at // SECOND_NS, self._zone)
        day = datetime(local.year, local.month, local.day, tzinfo=self._zone)
        horizon = local.year + _SEARCH_YEARS
        while day.year <= horizon:
            if self._matches_day(day):
                for hour in sorted(self.hours):
                    for minute in sorted(self.minutes):
                        wall = day.replace(hour=hour, minute=minute, fold=0)
                        instant = wall.astimezone(UTC)
                        if instant.astimezone(self._zone).hour != hour:
                            continue  # a time the clocks skip
                        found = int(instant.timestamp()) * SECOND_NS
                        if found > at:
                            return found
            day = (day.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=self._zone)
        return None


@lru_cache(maxsize=1024)
def parse_cron(text: str) -> Every | Calendar:
    """Raises CronError."""
    zone: tzinfo = UTC
    body = text.strip()
    if body.startswith(("CRON_TZ=", "TZ=")):
        head, _, body = body.partition(" ")
        name = head.partition("=")[2]
        try:
            zone = ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise CronError(f"provided bad location {name}: {error}") from error
        body = body.strip()
    if body.startswith("@every "):
        return Every(_parse_go_duration(body.removeprefix("@every ").strip()))
    if body.startswith("@"):
        if body not in _ALIASES:
            raise CronError(f"unrecognized descriptor: {body}")
        body = _ALIASES[body]
    parts = body.split()
    if len(parts) != 5:
        raise CronError(f"expected exactly 5 fields, found {len(parts)}: [{' '.join(parts)}]")
    bounds: list[tuple[int, int, dict[str, int]]] = [(0, 59, {}), (0, 23, {}), (1, 31, {}), (1, 12, _MONTHS), (0, 6, _DAYS)]
    fields = [_parse_field(part, *bound) for part, bound in zip(parts, bounds, strict=True)]
    return Calendar(fields, parts[2][0] in "*?", parts[4][0] in "*?", zone)


def next_cron_backoff(text: str, started_at: int, now: int) -> int | None:
    """ns from `now` to the next due time of a run chain whose last start was `started_at`; None = never again.

    As in the public server, due times missed while a run was still going are skipped, and the result is whole seconds up.
    """
    schedule = parse_cron(text)
    due = schedule.next_after(started_at)
    if isinstance(schedule, Every) and due is not None and due <= now:
        due += (now - due) // schedule.interval_ns * schedule.interval_ns
        due = due if due > now else due + schedule.interval_ns
    while due is not None and due <= now:
        due = schedule.next_after(max(due, now))
    if due is None:
        return None
    return -(-(due - now) // SECOND_NS) * SECOND_NS


def _parse_field(text: str, low: int, high: int, names: dict[str, int]) -> frozenset[int]:
    values: set[int] = set()
    for part in text.split(","):
        span, _, step_text = part.partition("/")
        first_text, dash, last_text = span.partition("-")
        if span in ("*", "?"):
            first, last = low, high
        else:
            first = _parse_value(first_text, names)
            last = _parse_value(last_text, names) if dash else (high if step_text else first)
        step = _parse_value(step_text, {}) if step_text else 1
        if "/" in part and not step_text:
            raise CronError(f"failed to parse int from : {part}")
        if first < low:
            raise CronError(f"beginning of range ({first}) below minimum ({low}): {part}")
        if last > high:
            raise CronError(f"end of range ({last}) above maximum ({high}): {part}")
        if first > last:
            raise CronError(f"beginning of range ({first}) beyond end of range ({last}): {part}")
        if step == 0:
            raise CronError(f"step of range should be a positive number: {part}")
        values.update(range(first, last + 1, step))
    return frozenset(values)


def _parse_value(text: str, names: dict[str, int]) -> int:
    if (named := names.get(text.lower())) is not None:
        return named
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise CronError(f"failed to parse int from {text}")
    return int(text)


def _parse_go_duration(text: str) -> int:
    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise CronError(f"failed to parse duration @every {text}")
    return sum(int(float(number) * _UNITS_NS[unit]) for number, unit in parts)
