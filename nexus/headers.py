"""Headers of the protocol, read and written: durations, times, links, and what of a request's headers reaches a handler.

Pure. Whatever cannot be read is Refused with BAD_REQUEST; nothing that a caller sends raises anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime

from temporalio.api.nexus.v1 import Link

from nexus.errors import bad_request
from nexus.settings import GatewaySettings

Pairs = Sequence[tuple[str, str]]  # names in lower case, in the order they came, a name more than once where it was sent so

OPERATION_TOKEN = "nexus-operation-token"
OPERATION_STATE = "nexus-operation-state"
START_TIME = "nexus-operation-start-time"
CLOSE_TIME = "nexus-operation-close-time"
REQUEST_ID = "nexus-request-id"
LINK = "nexus-link"
REQUEST_TIMEOUT = "request-timeout"
OPERATION_TIMEOUT = "operation-timeout"
CALLBACK_PREFIX = "nexus-callback-"
CONTENT_PREFIX = "content-"
TEMPORAL_FAILURES = "temporal-nexus-failure-support"

# With two different values of one of these, two readers of one request could mean two things.
SINGLE = frozenset(
    {
        OPERATION_TOKEN, OPERATION_STATE, START_TIME, CLOSE_TIME, REQUEST_ID, REQUEST_TIMEOUT, OPERATION_TIMEOUT,
        "content-type", "content-encoding", "content-length", "host", "authorization", "origin",
    }
)  # fmt: skip

# Of the connection, of the browser, or credentials for this gateway: none of a handler's business.
_KEPT_FROM_HANDLERS = frozenset(
    {
        "host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", "authorization", "cookie",
        "set-cookie", "forwarded", "via", "accept", "accept-encoding", "accept-language", "origin", "referer",
        OPERATION_TOKEN, OPERATION_STATE, START_TIME, CLOSE_TIME, TEMPORAL_FAILURES, LINK, REQUEST_ID, REQUEST_TIMEOUT,
    }
)  # fmt: skip
_PREFIXES_KEPT_FROM_HANDLERS = (
    CONTENT_PREFIX, CALLBACK_PREFIX, "proxy-", "sec-", "x-forwarded-", "temporal-internal-", "outlast-",
)  # fmt: skip

_DURATION = re.compile(r"([0-9]{1,18})(?:\.([0-9]{0,18}))?(ms|s|m)")
_UNIT_NS = {"ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000}
_DURATION_NS_MAX = 100 * 365 * 86_400 * 1_000_000_000  # beyond what a history can say
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.IGNORECASE)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def lower(pairs: Iterable[tuple[str, str]]) -> Pairs:
    return [(name.lower(), value) for name, value in pairs]


def single(pairs: Pairs, name: str) -> str:
    """The header's value, "" without one. Raises Refused when it came with two values."""
    values = {value.strip() for found, value in pairs if found == name}
    if len(values) > 1:
        raise bad_request(f"header {name} was sent with several values")
    value = next(iter(values), "")
    if not is_text(value):
        raise bad_request(f"header {name} is not valid text")
    return value


def is_text(value: str) -> bool:
    """Whether it can go on: as UTF-8, and without the characters that end a header."""
    return value.isprintable() or not any(0xD800 <= ord(char) <= 0xDFFF or (char < " " and char != "\t") for char in value)


# --- durations and times -----------------------------------------------------------------------------------------------


def duration_ns(text: str, name: str) -> int:
    """ "250ms", "1.5s", "2m". Raises Refused."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise bad_request(f"invalid {name} header: {shown(text)!r} is not a number with ms, s or m")
    whole, fraction, unit = match.groups()
    fraction = fraction or ""
    value: int = int(whole + fraction) * _UNIT_NS[unit] // 10 ** len(fraction)
    return min(value, _DURATION_NS_MAX)


def duration_text(value_ns: int) -> str:
    """Whole milliseconds, which every reader knows; never 0 for what is not nothing."""
    return f"{max(1, value_ns // 1_000_000) if value_ns > 0 else 0}ms"


def start_time_ns(text: str) -> int:
    """RFC 5322, ns since the epoch. Raises Refused."""
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError, OverflowError):
        raise bad_request("failed to parse operation start time header") from None
    return _ns(when, "start")


def close_time_ns(text: str) -> int:
    """RFC 3339, down to nanoseconds. Raises Refused."""
    match = _RFC3339.fullmatch(text.strip())
    if match is None:
        raise bad_request("failed to parse operation close time header")
    base, fraction, zone = match.groups()
    try:
        when = datetime.fromisoformat(base + ("+00:00" if zone in "Zz" else zone))
    except ValueError:
        raise bad_request("failed to parse operation close time header") from None
    return _ns(when, "close") + int((fraction or "").ljust(9, "0"))


def _ns(when: datetime, which: str) -> int:
    aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    try:
        since = aware - _EPOCH
    except OverflowError:
        raise bad_request(f"failed to parse operation {which} time header") from None
    if since < timedelta(0):
        raise bad_request(f"failed to parse operation {which} time header")
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000


def rfc5322(at: int) -> str:
    return format_datetime(_EPOCH + timedelta(seconds=at // 1_000_000_000), usegmt=True)


def rfc3339(at: int) -> str:
    seconds, rest = divmod(at, 1_000_000_000)
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


# --- links -------------------------------------------------------------------------------------------------------------

_LINK = re.compile(r"\s*<([^<>\x00-\x20]*)>\s*((?:;\s*[\w!#$&+.^`|~-]+\s*=\s*(?:\"(?:[^\"\\]|\\.)*\"|[^\s;,\"]*)\s*)*)(?:,|$)")
_PARAMETER = re.compile(r";\s*([\w!#$&+.^`|~-]+)\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;,\"]*))")
_LINK_TYPE = re.compile(r"[A-Za-z0-9_./]+")
LINKS_UNREADABLE = "failed to decode links from request headers"


def links_of(pairs: Pairs, settings: GatewaySettings) -> list[Link]:
    """<url>; type="...", several in one header or in several. Raises Refused: too many, too long, or not of that form."""
    found: list[Link] = []
    for name, value in pairs:
        if name != LINK:
            continue
        if not is_text(value):
            raise bad_request(LINKS_UNREADABLE)
        at = 0
        while at < len(value):
            if len(found) == settings.links_count_max:
                raise bad_request(f"cannot attach more than {settings.links_count_max} links per request")
            link, at = _link(value, at, settings)
            found.append(link)
    return found


def _link(value: str, at: int, settings: GatewaySettings) -> tuple[Link, int]:
    # The expression is only tried on what a link may have, so that a long header costs what a short one does.
    match = _LINK.match(value, at, min(len(value), at + 2 * settings.link_bytes_max))
    if match is None or (match.end() < len(value) and value[match.end() - 1] != ","):
        raise bad_request(LINKS_UNREADABLE)
    url, parameters = match.group(1), match.group(2)
    types = [quoted or plain for key, quoted, plain in _PARAMETER.findall(parameters) if key.lower() == "type"]
    if len(types) != 1 or not url or _LINK_TYPE.fullmatch(types[0]) is None:
        raise bad_request(LINKS_UNREADABLE)
    if len(url.encode()) + len(types[0]) > settings.link_bytes_max:
        raise bad_request(f"link exceeds allowed size of {settings.link_bytes_max}")
    return Link(url=url, type=types[0]), match.end()


def link_header(link: Link) -> str:
    """"" for a link that no header can carry (of a handler that did not encode its URL)."""
    if not link.url.isascii() or re.search(r"[<>\x00-\x20\x7f]", link.url) or _LINK_TYPE.fullmatch(link.type) is None:
        return ""
    return f'<{link.url}>; type="{link.type}"'


# --- whose headers are whose -------------------------------------------------------------------------------------------


def for_handler(pairs: Pairs, settings: GatewaySettings) -> dict[str, str]:
    """The operation's own headers. Raises Refused."""
    kept: dict[str, str] = {}
    for name, value in pairs:
        if name in _KEPT_FROM_HANDLERS or name.startswith(_PREFIXES_KEPT_FROM_HANDLERS):
            continue
        kept[name] = f"{kept[name]}, {value}" if name in kept else value
    _check_size(kept, settings, "header")
    return kept


def for_callback(pairs: Pairs, settings: GatewaySettings) -> dict[str, str]:
    """Nexus-Callback-*, without the prefix: to be sent with the callback."""
    kept: dict[str, str] = {}
    for name, value in pairs:
        if name.startswith(CALLBACK_PREFIX) and (bare := name.removeprefix(CALLBACK_PREFIX)):
            if bare in kept and kept[bare] != value:
                raise bad_request(f"header {name} was sent with several values")
            kept[bare] = value
    _check_size(kept, settings, "callback header")
    return kept


def _check_size(kept: Mapping[str, str], settings: GatewaySettings, what: str) -> None:
    for name, value in kept.items():
        if not (name.isascii() and is_text(value)):
            raise bad_request(f"{what} {shown(name)} is not valid text")
    size = sum(len(name) + len(value.encode()) for name, value in kept.items())
    if size > settings.headers_bytes_max:
        raise bad_request(f"{what} size exceeds allowed limit ({size}/{settings.headers_bytes_max})")


def shown(text: str, length: int = 60) -> str:
    """Of what a caller sent, so much that it finds the place; nothing that a terminal or a log could stumble over."""
    safe = text.encode("ascii", "backslashreplace").decode()
    return safe if len(safe) <= length else safe[:length] + "..."

