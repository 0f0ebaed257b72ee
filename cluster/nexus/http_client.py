"""HTTP requests of the drivers, through the guard that keeps other people's addresses out of this network (nexus/egress.py)."""

from __future__ import annotations

from cluster.core.machines.nexus_results import RESULT_TOO_LARGE
from cluster.nexus.answers import CallFailed
from cluster.nexus.http_calls import HttpAnswer
from nexus.egress import CallFailed as EgressFailed
from nexus.egress import Egress, EgressRefused


class GuardedClient:
    """`CallHttp`. Whoever makes the egress closes it."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    async def __call__(
        self, url: str, headers: dict[str, str], body: bytes, timeout_s: float, answer_bytes_max: int
    ) -> HttpAnswer | CallFailed:
        try:
            answered = await self._egress.post(url, headers, body, timeout_s)
        except EgressRefused as refused:
            return CallFailed(str(refused), is_final=True)
        except TimeoutError:
            return CallFailed("request timed out")
        except EgressFailed as failed:
            return CallFailed(str(failed), is_final=str(failed) == RESULT_TOO_LARGE)
        if len(answered.body) > answer_bytes_max:
            return CallFailed(RESULT_TOO_LARGE, is_final=True)
        return HttpAnswer(answered.status, answered.headers, answered.body)
