"""Who may call what through an endpoint, and how often. Asked on every path: start, result, cancel, list and callback."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from fnmatch import fnmatchcase

import msgspec

from nexus.errors import ErrorType, Refused, not_found, unauthorized


class Caller(msgspec.Struct, frozen=True):
    """Who calls, as the configured security says. Both empty: no security is configured, or the caller showed nothing."""

    subject: str = ""
    namespace: str = ""


class EndpointPolicy(msgspec.Struct, frozen=True):
    """None: everyone, or everything. Patterns as of shells: "orders-*".

    callers: "namespace:orders", "subject:billing@example.com". operations: "payments.v1/charge", "*/refund".
    rate_per_s 0: no limit of its own.
    """

    callers: tuple[str, ...] | None = None
    services: tuple[str, ...] | None = None
    operations: tuple[str, ...] | None = None
    rate_per_s: float = 0.0
    shows_stack_traces: bool = False


def check_caller(policy: EndpointPolicy, caller: Caller) -> None:
    """Raises Refused. A caller that nobody has identified matches nothing but "*"."""
    if policy.callers is None:
        return
    names = [f"{kind}:{name}" for kind, name in (("namespace", caller.namespace), ("subject", caller.subject)) if name]
    if not any(_matches(policy.callers, name) for name in names) and "*" not in policy.callers:
        raise unauthorized("the caller may not use this endpoint")


def check_operation(policy: EndpointPolicy, service: str, operation: str) -> None:
    """Raises Refused: what an endpoint does not offer is not there."""
    if policy.services is not None and not _matches(policy.services, service):
        raise not_found("the endpoint does not offer this service")
    if policy.operations is not None and not _matches(policy.operations, f"{service}/{operation}"):
        raise not_found("the endpoint does not offer this operation")


def _matches(patterns: Sequence[str], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class Bucket:
    """Tokens that come back by time. Not more than `burst` at once."""

    __slots__ = ("_at", "_burst", "_left", "rate_per_s")

    def __init__(self, rate_per_s: float, burst: float, now_s: float) -> None:
        assert rate_per_s > 0 and burst >= 1
        self.rate_per_s, self._burst = rate_per_s, burst
        self._left, self._at = burst, now_s

    def take(self, now_s: float) -> float:
        """0 = one was taken; else seconds until there is one."""
        self._left = min(self._burst, self._left + max(0.0, now_s - self._at) * self.rate_per_s)
        self._at = now_s
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self.rate_per_s


class Rates:
    """One bucket for all, one for each endpoint that has a limit. The ones asked for longest ago are forgotten first."""

    _KEPT_MAX = 10_000

    def __init__(self, rate_per_s: float, burst: int, now_s: float) -> None:
        self._all = Bucket(rate_per_s, burst, now_s)
        self._endpoints: OrderedDict[str, Bucket] = OrderedDict()

    def check(self, now_s: float) -> None:
        """Raises Refused."""
        self._refuse(self._all.take(now_s), "the gateway is busy")

    def check_endpoint(self, endpoint_id: str, policy: EndpointPolicy, now_s: float) -> None:
        """Raises Refused."""
        if policy.rate_per_s <= 0:
            return
        bucket = self._endpoints.get(endpoint_id)
        if bucket is None or bucket.rate_per_s != policy.rate_per_s:
            bucket = self._endpoints[endpoint_id] = Bucket(policy.rate_per_s, max(1.0, policy.rate_per_s), now_s)
            if len(self._endpoints) > self._KEPT_MAX:
                self._endpoints.popitem(last=False)
        self._endpoints.move_to_end(endpoint_id)
        self._refuse(bucket.take(now_s), "the endpoint's rate limit is reached")

    def _refuse(self, after_s: float, message: str) -> None:
        if after_s > 0:
            raise Refused(ErrorType.RESOURCE_EXHAUSTED, message, retry_after_s=after_s)
