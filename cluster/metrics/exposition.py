"""GET /metrics: the figures of a node in Prometheus' text format, under the names of the public server.

The names carry no `_total`, since the public server's do not and its dashboards ask for them as they are; the type is left
untyped for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from cluster.frontend.call_figures import CALLERS_FAULT, LATENCY_BOUNDS_S, CallFigures

SERVICE = "frontend"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# A name, what it means, and its value now.
Gauge = tuple[str, str, Callable[[], float]]


class CallCollector(Collector):
    """Calls by operation and namespace."""

    def __init__(self, figures: CallFigures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        requests = Metric("service_requests", "Calls that ended", "unknown")
        errors = Metric("service_errors", "Calls that ended with an error that is not their caller's fault", "unknown")
        error_kinds = Metric("service_error_with_type", "Calls that ended with an error, by status code", "unknown")
        pending = Metric("service_pending_requests", "Calls in flight", "gauge")
        latency = HistogramMetricFamily(
            "service_latency", "Seconds from a call to its answer", labels=("operation", "namespace", "service_name")
        )
        for (operation, namespace), figure in list(self._figures.figures.items()):
            labels = {"operation": operation, "namespace": namespace, "service_name": SERVICE}
            requests.add_sample("service_requests", labels, figure.requests)
            faults = sum(count for code, count in figure.errors.items() if code not in CALLERS_FAULT)
            errors.add_sample("service_errors", labels, faults)
            for code, count in figure.errors.items():
                error_kinds.add_sample("service_error_with_type", {**labels, "error_type": _error_type(code)}, count)
            latency.add_metric(tuple(labels.values()), _cumulative(figure.buckets), figure.latency_s)
        for operation, count in self._figures.in_flight.items():
            if count:
                pending.add_sample("service_pending_requests", {"operation": operation, "service_name": SERVICE}, count)
        yield from (requests, errors, error_kinds, pending, latency)


def _error_type(code: str) -> str:
    """NOT_FOUND -> serviceerror_NotFound, which is what the public server calls most errors of that code."""
    return "serviceerror_" + "".join(part.capitalize() for part in code.split("_"))


def _cumulative(buckets: Iterable[int]) -> list[tuple[str, float]]:
    rows, total = [], 0
    for bound, count in zip((*map(str, LATENCY_BOUNDS_S), "+Inf"), buckets, strict=True):
        total += count
        rows.append((bound, float(total)))
    return rows


class Family(Protocol):
    """A metric with its samples: replication/figures.py."""

    @property
    def name(self) -> str: ...

    @property
    def meaning(self) -> str: ...

    @property
    def samples(self) -> Sequence[tuple[Mapping[str, str], float]]: ...


class FamilyCollector(Collector):
    """Gauges with labels that a part of the node tells when asked."""

    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for one in self._families():
            metric = Metric(one.name, one.meaning, "gauge")
            for labels, value in one.samples:
                metric.add_sample(one.name, dict(labels), value)
            yield metric


class GaugeCollector(Collector):
    """Values that parts of the node tell when asked."""

    def __init__(self, gauges: Iterable[Gauge], counts: Mapping[str, Callable[[], Mapping[str, int]]]) -> None:
        """counts: a metric's name -> its values by event."""
        self._gauges = list(gauges)
        self._counts = dict(counts)

    def collect(self) -> Iterator[Metric]:
        for name, meaning, value in self._gauges:
            metric = Metric(name, meaning, "gauge")
            metric.add_sample(name, {}, value())
            yield metric
        for name, counts in self._counts.items():
            metric = Metric(name, "Events, by kind", "unknown")
            for event, count in sorted(counts().items()):
                metric.add_sample(name, {"event": str(event)}, count)
            yield metric


class Exposition:
    """The page."""

    def __init__(
        self,
        figures: CallFigures,
        gauges: Iterable[Gauge] = (),
        counts: Mapping[str, Callable[[], Mapping[str, int]]] | None = None,
        families: Callable[[], Iterable[Family]] | None = None,
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        if families is not None:
            self._registry.register(FamilyCollector(families))
        self._registry.register(CallCollector(figures))
        self._registry.register(GaugeCollector(gauges, counts or {}))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def page(self) -> bytes:
        return generate_latest(self._registry)
