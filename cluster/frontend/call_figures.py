"""Counts calls under the names the public server uses (service_requests, service_errors, service_latency), so that its
dashboards work. Plain dictionaries on the way of a call; `cluster/metrics` renders them when somebody asks.

service_errors counts, as there, what may be the server's fault; what a client did wrong is in service_error_with_type alone, so
that an alarm on service_errors does not ring for a workflow id that nobody has.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from cluster.core.errors import CallerError, Code
from cluster.frontend.call import Call, Handler
from cluster.frontend.methods import Method

# Seconds. Long polls last up to 70 s, a start well under 10 ms.
LATENCY_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0)
UNKNOWN_NAMESPACE = "_unknown_"

CALLERS_FAULT = frozenset(
    {
        Code.CANCELLED.name,
        Code.INVALID_ARGUMENT.name,
        Code.NOT_FOUND.name,
        Code.ALREADY_EXISTS.name,
        Code.PERMISSION_DENIED.name,
        Code.FAILED_PRECONDITION.name,
        Code.OUT_OF_RANGE.name,
        Code.UNAUTHENTICATED.name,
    }
)


class CallFigure:
    """One (operation, namespace)."""

    __slots__ = ("buckets", "errors", "latency_s", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.latency_s = 0.0
        self.buckets = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.errors: dict[str, int] = {}


class CallFigures:
    """All figures, and how many calls are in flight. Namespaces that do not exist share one name, so callers cannot make
    the table grow."""

    def __init__(self, stopwatch_s: Callable[[], float]) -> None:
        """stopwatch_s: any monotonic clock. Not every loop's own: uvloop's stands still while a callback runs."""
        self._stopwatch_s = stopwatch_s
        self.figures: dict[tuple[str, str], CallFigure] = {}
        self.in_flight: dict[str, int] = {}

    def interceptor(self, method: Method, following: Handler) -> Handler:
        name = method.name
        in_flight = self.in_flight
        in_flight[name] = 0
        now = self._stopwatch_s

        async def measured(call: Call, request: Any) -> Message | bytes:
            started = now()
            in_flight[name] += 1
            error = ""
            try:
                return await following(call, request)
            except CallerError as refusal:
                error = refusal.code.name
                raise
            except asyncio.CancelledError:
                error = Code.CANCELLED.name
                raise
            except Exception:
                error = Code.INTERNAL.name
                raise
            finally:
                in_flight[name] -= 1
                self._note(name, call, now() - started, error)

        return measured

    def _note(self, name: str, call: Call, latency_s: float, error: str) -> None:
        key = (name, call.namespace if call.record is not None else UNKNOWN_NAMESPACE)
        figure = self.figures.get(key)
        if figure is None:
            figure = self.figures[key] = CallFigure()
        figure.requests += 1
        figure.latency_s += latency_s
        figure.buckets[bisect_left(LATENCY_BOUNDS_S, latency_s)] += 1
        if error:
            figure.errors[error] = figure.errors.get(error, 0) + 1
