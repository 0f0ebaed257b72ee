"""Cron schedules as Temporal's start request has them: five fields, @every, @hourly and its like, CRON_TZ=.

Semantics follow robfig/cron v3.0.1's standard parser, which the public server uses, step by step: day of month and day of
week are ORed when both are restricted (`*/2` restricts, `*/1` does not); a time the clocks skip does not exist, and one
that they repeat happens twice.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

SECOND_NS = 1_000_000_000
_HOUR_S, _DAY_S = 3600, 86_400
_MONTH_NAMES = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTHS = {name: index for index, name in enumerate(_MONTH_NAMES, 1)}
_DAYS = {name: index for index, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
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
_GO_DURATION_NS_MAX = 2**63 - 1
_EVERY_NS_MAX = 100 * 365 * _DAY_S * SECOND_NS  # as every duration of a request; a due time must fit into 63 bits
_SEARCH_YEARS = 5  # robfig/cron gives up after five years


class CronError(ValueError):
    """The schedule cannot be read; the text says where."""


class Every:
    """@every: a fixed interval from the last start, in whole seconds."""

    def __init__(self, interval_ns: int) -> None:
        self.interval_ns = min(max(interval_ns - interval_ns % SECOND_NS, SECOND_NS), _EVERY_NS_MAX)

    def next_after(self, at: int) -> int | None:
        return at - at % SECOND_NS + self.interval_ns

    def next_at_or_after(self, at: int, now: int) -> int | None:
        """The first of the times that follow one another from `at` on that is not before `now`."""
        first = at - at % SECOND_NS + self.interval_ns
        return first + max(0, -(-(now - first) // self.interval_ns)) * self.interval_ns


class Calendar:
    """Five fields in a time zone."""

    def __init__(self, fields: list[frozenset[int]], day_is_star: bool, weekday_is_star: bool, zone: tzinfo) -> None:
        self.minutes, self.hours, self.days, self.months, self.weekdays = fields
        self._either_day = not (day_is_star or weekday_is_star)
        self._zone = zone

    def next_at_or_after(self, at: int, now: int) -> int | None:
        return self.next_after(at if at >= now else now - 1)

    def next_after(self, at: int) -> int | None:
        """The first matching minute later than `at` (ns since the epoch). The walk is robfig/cron's, field by field."""
        moment = at // SECOND_NS + 1
        year_max = self._wall(moment).year + _SEARCH_YEARS
        is_first = True  # whether the smaller fields still hold the time that was asked for
        while (wall := self._wall(moment)).year <= year_max:
            if wall.month not in self.months:
                moment, is_first = self._unix(datetime(wall.year + wall.month // 12, wall.month % 12 + 1, 1)), False
            elif not self._matches_day(wall):
                moment, is_first = self._next_midnight(wall), False
            elif wall.hour not in self.hours:
                if is_first:
                    moment, is_first = moment - wall.minute * 60 - wall.second, False
                moment += _HOUR_S
            elif wall.minute not in self.minutes or wall.second:
                moment, is_first = moment - wall.second + 60, False
            else:
                return moment * SECOND_NS
        return None

    def _matches_day(self, wall: datetime) -> bool:
        by_day, by_weekday = wall.day in self.days, (wall.weekday() + 1) % 7 in self.weekdays
        return by_day or by_weekday if self._either_day else by_day and by_weekday

    def _next_midnight(self, wall: datetime) -> int:
        """Where a zone's clocks skip midnight, the day begins at the hour they jump to, or an hour before it."""
        moment = self._unix(datetime(wall.year, wall.month, wall.day) + timedelta(days=1))
        hour = self._wall(moment).hour
        if hour == 0:
            return moment
        return moment + (24 - hour) * _HOUR_S if hour > 12 else moment - hour * _HOUR_S

    def _wall(self, moment: int) -> datetime:
        return datetime.fromtimestamp(moment, self._zone)

    def _unix(self, wall: datetime) -> int:
        """Seconds since the epoch of a wall time; one that does not exist is read with the offset before or after the gap."""
        as_utc = int(wall.replace(tzinfo=UTC).timestamp())
        guess = self._offset(as_utc)
        actual = self._offset(as_utc - guess)
        return as_utc - actual

    def _offset(self, moment: int) -> int:
        offset = self._wall(moment).utcoffset()
        return int(offset.total_seconds()) if offset is not None else 0


@lru_cache(maxsize=1024)
def parse_cron(text: str) -> Every | Calendar:
    """Raises CronError."""
    zone: tzinfo = UTC
    body = text
    if body.startswith(("CRON_TZ=", "TZ=")):
        head, _, body = body.partition(" ")
        name = head.partition("=")[2]
        try:
            zone = ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise CronError(f"provided bad location {name}: {error}") from error
        body = body.strip()
    if body.startswith("@every "):
        return Every(_parse_go_duration(body.removeprefix("@every ")))
    if body.startswith("@"):
        if body not in _ALIASES:
            raise CronError(f"unrecognized descriptor: {body}")
        body = _ALIASES[body]
    parts = body.split()
    if len(parts) != 5:
        raise CronError(f"expected exactly 5 fields, found {len(parts)}: [{' '.join(parts)}]")
    bounds: list[tuple[int, int, dict[str, int]]] = [(0, 59, {}), (0, 23, {}), (1, 31, {}), (1, 12, _MONTHS), (0, 6, _DAYS)]
    fields = [_parse_field(part, *bound) for part, bound in zip(parts, bounds, strict=True)]
    return Calendar([values for values, _ in fields], fields[2][1], fields[4][1], zone)


def next_cron_backoff(text: str, scheduled_at: int, now: int) -> int | None:
    """ns from `now` to the next due time of a chain whose last run was due at `scheduled_at`; None = never again.

    As in the public server, due times missed while a run was still going are skipped, a run that ended before it was due
    is repeated at that time, and the result is whole seconds up. Raises CronError.
    """
    schedule = parse_cron(text)
    due = scheduled_at if now < scheduled_at else schedule.next_at_or_after(scheduled_at, now)
    return None if due is None else -(-(due - now) // SECOND_NS) * SECOND_NS


def _parse_field(text: str, low: int, high: int, names: dict[str, int]) -> tuple[frozenset[int], bool]:
    """The field's values, and whether it counts as unrestricted."""
    values: set[int] = set()
    is_star = False
    for part in filter(None, text.split(",")):
        span, *steps = part.split("/")
        first_text, *lasts = span.split("-")
        if len(steps) > 1:
            raise CronError(f"too many slashes: {part}")
        if first_text in ("*", "?"):
            first, last = low, high
        elif len(lasts) > 1:
            raise CronError(f"too many hyphens: {part}")
        else:
            first = _parse_value(first_text, names)
            last = _parse_value(lasts[0], names) if lasts else first
        step = _parse_value(steps[0], {}) if steps else 1
        if steps and not lasts:
            last = high
        if first < low:
            raise CronError(f"beginning of range ({first}) below minimum ({low}): {part}")
        if last > high:
            raise CronError(f"end of range ({last}) above maximum ({high}): {part}")
        if first > last:
            raise CronError(f"beginning of range ({first}) beyond end of range ({last}): {part}")
        if step == 0:
            raise CronError(f"step of range should be a positive number: {part}")
        values.update(range(first, last + 1, step))
        is_star |= first_text in ("*", "?") and step == 1
    return frozenset(values), is_star


def _parse_value(text: str, names: dict[str, int]) -> int:
    if (named := names.get(text.lower())) is not None:
        return named
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise CronError(f"failed to parse int from {text}")
    return int(text)


def _parse_go_duration(text: str) -> int:
    sign, body = (-1 if text.startswith("-") else 1), text.removeprefix("-").removeprefix("+")
    if body == "0":
        return 0
    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)", body, re.ASCII)
    if not parts or "".join(number + unit for number, unit in parts) != body:
        raise CronError(f"failed to parse duration @every {text}")
    if sum(float(number) * _UNITS_NS[unit] for number, unit in parts) > _GO_DURATION_NS_MAX:
        raise CronError(f"failed to parse duration @every {text}")
    return sign * sum(int(float(number) * _UNITS_NS[unit]) for number, unit in parts)
