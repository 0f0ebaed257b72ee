"""The frontend as a whole: handlers behind the one interceptor list, independent of the transport that brings the calls."""

from __future__ import annotations

from collections.abc import Callable

from cluster.core.cron import parse_cron
from cluster.frontend.authorisation import Policy
from cluster.frontend.call import Handler
from cluster.frontend.call_figures import CallFigures
from cluster.frontend.drain import Drain
from cluster.frontend.forwarding import Forwarding
from cluster.frontend.handlers import handler_table
from cluster.frontend.handlers.services import Services
from cluster.frontend.interceptors import interceptor_list, wrap_all
from cluster.frontend.start_checks import StartChecks
from cluster.frontend.validation import Validation
from cluster.seams import Clock, Ids


class Frontend:
    """handlers: method name -> handler, wrapped; any transport (and the simulator) may drive them."""

    def __init__(
        self,
        services: Services,
        policy: Policy,
        clock: Clock,
        ids: Ids,
        now_s: Callable[[], float],
        stopwatch_s: Callable[[], float] | None = None,
        forwarding: Forwarding | None = None,
    ) -> None:
        """now_s: the clock of Call.deadline (loop.time). stopwatch_s: what latencies are measured with; now_s unless given.
        forwarding: None in a server that knows no other regions."""
        self.figures = CallFigures(stopwatch_s or now_s)
        self.drain = Drain()
        start_checks = StartChecks(services.limits, services.schema_of, next_cron, clock.now_ns)
        interceptors = interceptor_list(
            figures=self.figures,
            drain=self.drain,
            policy=policy,
            namespaces=services.namespaces,
            tokens=services.tokens,
            limits=services.limits,
            rules=Validation(services.limits, ids, start_checks, now_s),
            forwarding=forwarding,
        )
        self.handlers: dict[str, Handler] = wrap_all(handler_table(services), interceptors)


def next_cron(schedule: str, after: int) -> int | None:
    """Raises ValueError for a malformed schedule; None for one that never comes."""
    return parse_cron(schedule).next_after(after)
