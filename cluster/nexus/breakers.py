"""Circuit breakers: one for each caller's namespace and endpoint (or address called back). A side that is not well is left alone.

closed   calls go; five failures in a row open it
open     nobody calls for 60 s
probing  one call goes; if it fails, it is open for another 60 s, else closed

In memory of one node: each owner of shards learns for itself. It is no part of any history; what waits is told in notes.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

FAILURES_MAX = 5  # nexusoperations' breaker: consecutive failures
OPEN_S = 60.0
REASON = "The circuit breaker is open."


class BreakerKey(NamedTuple):
    """destination: an endpoint's id, or the scheme and host of an address."""

    namespace: str
    destination: str


class Breaker:
    """Times are seconds of loop.time()."""

    def __init__(self) -> None:
        self.failures = 0
        self.opened_until = 0.0
        self.is_probing = False
        self._changed: asyncio.Future[None] | None = None

    @property
    def is_closed(self) -> bool:
        return not self.opened_until

    def may_call(self, now_s: float) -> bool:
        """True: call, and say what came of it by `ended`. Of those that wait for the end of 60 s one is let through."""
        if self.is_closed:
            return True
        if self.is_probing or now_s < self.opened_until:
            return False
        self.is_probing = True
        return True

    def ended(self, has_failed: bool, now_s: float) -> None:
        """A call that may_call has let through is over."""
        if not has_failed:
            self.reset()
        elif self.is_closed or self.is_probing:
            self.failures += 1
            if self.is_probing or self.failures >= FAILURES_MAX:
                self.is_probing = False
                self.opened_until = now_s + OPEN_S
                self._tell()

    def given_up(self) -> None:
        """A call that was let through ended without a verdict: the next one may try."""
        if self.is_probing:
            self.is_probing = False
            self._tell()

    def reset(self) -> None:
        """Closed. By an operator, too."""
        self.failures, self.opened_until, self.is_probing = 0, 0.0, False
        self._tell()

    async def wait(self, now_s: float) -> None:
        """Until there may be more to hope for."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        left_s = self.opened_until - now_s
        await asyncio.wait([self._changed], timeout=left_s if left_s > 0 else OPEN_S)

    def _tell(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)


class Breakers:
    """Of one node. Only those that have failures, or somebody's call, are kept."""

    def __init__(self) -> None:
        self._breakers: dict[BreakerKey, Breaker] = {}
        self._users: dict[BreakerKey, int] = {}

    def enter(self, key: BreakerKey) -> Breaker:
        """Followed by `leave`."""
        self._users[key] = self._users.get(key, 0) + 1
        breaker = self._breakers.get(key)
        if breaker is None:
            breaker = self._breakers[key] = Breaker()
        return breaker

    def leave(self, key: BreakerKey) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            breaker = self._breakers[key]
            if breaker.is_closed and not breaker.failures:
                del self._breakers[key]

    def described(self, now_s: float) -> list[dict[str, object]]:
        """For operators: those that are not closed and well."""
        return [
            {
                "namespace": key.namespace,
                "destination": key.destination,
                "state": "closed" if one.is_closed else "probing" if one.is_probing else "open",
                "failures": one.failures,
                "open_for_s": max(0.0, round(one.opened_until - now_s, 3)),
            }
            for key, one in sorted(self._breakers.items())
            if one.failures or not one.is_closed
        ]

    def reset(self, key: BreakerKey) -> bool:
        """False: there is none."""
        breaker = self._breakers.get(key)
        if breaker is None:
            return False
        breaker.reset()
        return True
