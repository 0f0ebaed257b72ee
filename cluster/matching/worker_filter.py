"""The query of ListWorkers: a condition over worker heartbeats, as the public API documents it.

    condition  = term { OR term }          term = factor { AND factor }          factor = "(" condition ")" | comparison
    comparison = field ( = | != | STARTS_WITH | NOT STARTS_WITH ) 'text'         for text fields
               | field ( = | != | < | <= | > | >= ) 'time'                       for StartTime, HeartbeatTime (RFC 3339)
               | field [NOT] BETWEEN 'time' AND 'time'  |  field IS [NOT] NULL

Field names are case-sensitive, keywords are not. Anything else is INVALID_ARGUMENT.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from datetime import UTC, datetime

from temporalio.api.enums.v1 import WorkerStatus
from temporalio.api.worker.v1 import WorkerHeartbeat

from cluster.core.errors import CallerError, invalid_argument

Predicate = Callable[[WorkerHeartbeat], bool]

QUERY_BYTES_MAX = 4_096
DEPTH_MAX = 32  # nested parentheses

TEXT_FIELDS: dict[str, Callable[[WorkerHeartbeat], str]] = {
    "WorkerInstanceKey": lambda worker: worker.worker_instance_key,
    "WorkerIdentity": lambda worker: worker.worker_identity,
    "HostName": lambda worker: worker.host_info.host_name,
    "TaskQueue": lambda worker: worker.task_queue,
    "DeploymentName": lambda worker: worker.deployment_version.deployment_name,
    "BuildId": lambda worker: worker.deployment_version.build_id,
    "SdkName": lambda worker: worker.sdk_name,
    "SdkVersion": lambda worker: worker.sdk_version,
    "WorkerStatus": lambda worker: _status_name(worker),
    "Status": lambda worker: _status_name(worker),
}
TIME_FIELDS = {"StartTime": "start_time", "HeartbeatTime": "heartbeat_time"}
COMPARISONS: dict[str, Callable[[datetime, datetime], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TOKEN = re.compile(r"\s*(?:(?P<text>'[^']*'|\"[^\"]*\")|(?P<symbol><=|>=|!=|<>|[=<>()])|(?P<word>`?[A-Za-z_]\w*`?))")


def parse_worker_filter(query: str) -> Predicate:
    """An empty query matches every worker. Raises INVALID_ARGUMENT."""
    if not query.strip():
        return lambda worker: True
    if len(query.encode()) > QUERY_BYTES_MAX:
        raise invalid_argument(f"malformed query: longer than {QUERY_BYTES_MAX} bytes")
    parser = _Parser(_tokens(query))
    predicate = parser.condition(0)
    if parser.peek() is not None:
        raise _malformed(f"unexpected {parser.peek()!r}")
    return predicate


def _status_name(worker: WorkerHeartbeat) -> str:
    """As the Go server prints it: WORKER_STATUS_RUNNING is "Running"."""
    name = WorkerStatus.Name(worker.status).removeprefix("WORKER_STATUS_")
    return "".join(part.capitalize() for part in name.split("_"))


def _malformed(what: str) -> CallerError:
    return invalid_argument(f"malformed query: {what}")


def _tokens(query: str) -> list[str]:
    tokens: list[str] = []
    position = 0
    query = query.rstrip()
    while position < len(query):
        match = _TOKEN.match(query, position)
        if match is None:
            raise _malformed(f"unexpected character at {position}: {query[position : position + 10]!r}")
        tokens.append(match.group().strip().strip("`"))
        position = match.end()
    return tokens


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0

    def peek(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def condition(self, depth: int) -> Predicate:
        terms = [self._term(depth)]
        while self._accept("OR"):
            terms.append(self._term(depth))
        return terms[0] if len(terms) == 1 else lambda worker: any(term(worker) for term in terms)

    def _term(self, depth: int) -> Predicate:
        factors = [self._factor(depth)]
        while self._accept("AND"):
            factors.append(self._factor(depth))
        return factors[0] if len(factors) == 1 else lambda worker: all(factor(worker) for factor in factors)

    def _factor(self, depth: int) -> Predicate:
        if self._accept("("):
            if depth >= DEPTH_MAX:
                raise _malformed(f"more than {DEPTH_MAX} nested parentheses")
            inside = self.condition(depth + 1)
            if not self._accept(")"):
                raise _malformed("a parenthesis is not closed")
            return inside
        field = self._next("a field")
        if field in TEXT_FIELDS:
            return self._text_comparison(field)
        if field in TIME_FIELDS:
            return self._time_comparison(field)
        raise invalid_argument(f"unknown or unsupported worker heartbeat search field: {field}")

    def _text_comparison(self, field: str) -> Predicate:
        read = TEXT_FIELDS[field]
        if (is_null := self._null()) is not None:
            return lambda worker: (read(worker) == "") is is_null
        negated = self._accept("NOT")
        sign = self._next("an operator").upper()
        wanted = self._value(field)
        if not wanted:
            raise invalid_argument(f"{field} cannot be empty")
        if sign == "STARTS_WITH":
            return lambda worker: read(worker).startswith(wanted) is not negated
        if negated or sign not in ("=", "!=", "<>"):
            raise invalid_argument(f"invalid expression: operation {sign.lower()} is not supported for {field} column")
        return lambda worker: (read(worker) == wanted) is (sign == "=")

    def _time_comparison(self, field: str) -> Predicate:
        name = TIME_FIELDS[field]

        def read(worker: WorkerHeartbeat) -> datetime | None:
            return getattr(worker, name).ToDatetime(tzinfo=UTC) if worker.HasField(name) else None  # type: ignore[arg-type]

        if (is_null := self._null()) is not None:
            return lambda worker: (read(worker) is None) is is_null
        negated = self._accept("NOT")
        sign = self._next("an operator").upper()
        wanted = self._time(field)
        if sign == "BETWEEN":
            if not self._accept("AND"):
                raise _malformed("BETWEEN without AND")
            until = self._time(field)
            return lambda worker: (at := read(worker)) is not None and (wanted <= at <= until) is not negated
        compare = COMPARISONS.get("!=" if sign == "<>" else sign)
        if negated or compare is None:
            raise invalid_argument(f"operation is not supported: operation {sign.lower()} is not supported")
        return lambda worker: (at := read(worker)) is not None and compare(at, wanted)

    def _null(self) -> bool | None:
        """IS NULL: True, IS NOT NULL: False, something else: None."""
        if not self._accept("IS"):
            return None
        negated = self._accept("NOT")
        if not self._accept("NULL"):
            raise invalid_argument("operation is not supported: only IS NULL and IS NOT NULL are supported")
        return not negated

    def _accept(self, wanted: str) -> bool:
        token = self.peek()
        if token is not None and token.upper() == wanted:
            self._at += 1
            return True
        return False

    def _next(self, wanted: str) -> str:
        token = self.peek()
        if token is None:
            raise _malformed(f"{wanted} is missing at the end")
        self._at += 1
        return token

    def _value(self, field: str) -> str:
        token = self._next("a value")
        if token[0] not in "'\"":
            raise invalid_argument(f"invalid value for {field}: value {token} is not a string value")
        return token[1:-1]

    def _time(self, field: str) -> datetime:
        text = self._value(field)
        try:
            at = datetime.fromisoformat(text)
        except ValueError as error:
            raise invalid_argument(f"invalid value for {field}: {text!r} is not an RFC 3339 time") from error
        if at.tzinfo is None:
            raise invalid_argument(f"invalid value for {field}: {text!r} has no time zone")
        return at
