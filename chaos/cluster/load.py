"""The crash campaign's load on all nodes at once, and clients that terminate what others start.

| client | does | to |
|---|---|---|
| (chaos/crash/load.py) | starts, signals, updates, signals with start, completes from outside, transfers | |
| terminator | terminates the current run, or one that it has just seen | contest-0 .. contest-2 |
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any, cast

from temporalio.client import Client

from chaos.cluster.requests import ClusterRequests
from chaos.cluster.spread import Spread
from chaos.crash.load import CONTESTED, Load


class ClusterLoad(Load):
    """At most ten clients ever touch one workflow id: what the exact search for an order is made for."""

    def __init__(self, spread: Spread, requests: ClusterRequests, streams: Callable[[str], random.Random]) -> None:
        super().__init__(cast(Client, spread), requests, streams)
        self._cluster_requests = requests

    def clients(self) -> list[Coroutine[Any, Any, None]]:
        return [*super().clients(), *(self._repeat(f"terminator-{number}", self._terminate, 0.3) for number in range(2))]

    async def _terminate(self, name: str, stream: random.Random) -> None:
        workflow_id = stream.choice(CONTESTED) + self.requests.tag
        run_id = (await self._current_run(workflow_id) or "") if stream.random() < 0.5 else ""
        await self._cluster_requests.terminate(name, workflow_id, run_id)
