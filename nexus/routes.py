"""The gateway's routes, as one table: what is served, what is documented (openapi.py) and what the tests walk through.

A name in a path is one segment, percent-encoded: "a/b" is a%2Fb. Matching is done on the path as it was sent, before anybody
decodes it, so that an encoded slash or dot is never taken for a real one.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

from nexus.errors import bad_request, not_found

_QUEUE = "/namespaces/{namespace}/task-queues/{task_queue}/nexus-services/{service}/{operation}"
_ENDPOINT = "/nexus/endpoints/{endpoint}/services/{service}/{operation}"


class Route(NamedTuple):
    action: str  # what the gateway does: a method of Gateway
    target: str  # how the handler is named: "queue", "endpoint" or ""
    method: str
    path: str
    summary: str

    @property
    def id(self) -> str:
        return f"{self.action}_by_{self.target}" if self.target else self.action


ROUTES = (
    #     action       target      method  path                                   summary
    Route("start", "queue", "POST", _QUEUE, "Start an operation of a service on a task queue"),
    Route("cancel", "queue", "POST", _QUEUE + "/cancel", "Ask an operation to end"),
    Route("look", "queue", "GET", _QUEUE + "/operations/{token}", "State, result or events of an operation"),
    Route("start", "endpoint", "POST", _ENDPOINT, "Start an operation; the endpoint by its id or its name"),
    Route("cancel", "endpoint", "POST", _ENDPOINT + "/cancel", "Ask an operation to end"),
    Route("look", "endpoint", "GET", _ENDPOINT + "/operations/{token}", "State, result or events of an operation"),
    Route("list", "", "GET", "/namespaces/{namespace}/nexus/operations", "Operations that a workflow run called"),
    Route("complete", "", "POST", "/nexus/callback", "A handler tells how an operation ended"),
    Route("complete", "namespace", "POST", "/namespaces/{namespace}/nexus/callback", "The same, for one namespace"),
    Route("describe", "", "GET", "/nexus/openapi.json", "This description"),
)

PREFIXES = ("/nexus", "/namespaces")  # what the gateway takes of the node's HTTP port
_PATTERNS = tuple((route, tuple(route.path.split("/")[1:])) for route in ROUTES)
SEGMENTS_MAX = max(len(pattern) for _, pattern in _PATTERNS)
QUERY_FIELDS_MAX = 20


class Matched(NamedTuple):
    route: Route
    values: dict[str, str]
    query: dict[str, str]


class MethodNotAllowed(Exception):
    """The path is there, but not for this method."""

    def __init__(self, allowed: list[str]) -> None:
        super().__init__(", ".join(allowed))
        self.allowed = allowed


def match(method: str, target: str) -> Matched:
    """target: path and query as they were sent. Raises Refused, MethodNotAllowed."""
    path, _, query = target.partition("?")
    segments = path.split("/", SEGMENTS_MAX + 2)[1:]
    fitting = [(route, pattern) for route, pattern in _PATTERNS if path.startswith("/") and _fits(segments, pattern)]
    if not fitting:
        raise not_found("no such route")
    for route, pattern in fitting:
        if route.method == method:
            values = {name[1:-1]: _name(text) for name, text in zip(pattern, segments, strict=True) if name[:1] == "{"}
            return Matched(route, values, _query(query))
    raise MethodNotAllowed(sorted({route.method for route, _ in fitting}))


def _fits(segments: list[str], pattern: tuple[str, ...]) -> bool:
    if len(segments) != len(pattern):
        return False
    return all(text == part or (part[:1] == "{" and text != "") for part, text in zip(pattern, segments, strict=True))


def _name(text: str) -> str:
    """One percent-encoded segment. Raises Refused."""
    try:
        # aiohttp shows bytes above 127 as they are, decoded; a request line should not have them, but they are harmless.
        decoded = unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode("utf-8")
    except UnicodeDecodeError:
        raise bad_request("the path is not valid UTF-8") from None
    if "\0" in decoded:
        raise bad_request("the path contains a zero character")
    return decoded


def _query(text: str) -> dict[str, str]:
    """Raises Refused, also when a field came twice: which one would be meant?"""
    try:
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX, errors="strict")
    except (ValueError, UnicodeError):
        raise bad_request("the query is not valid") from None
    found = dict(fields)
    if len(found) != len(fields):
        raise bad_request("a field of the query came twice")
    if any(0xD800 <= ord(char) <= 0xDFFF for value in found.values() for char in value):
        raise bad_request("the query is not valid UTF-8")
    return found
