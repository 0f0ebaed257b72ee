"""Clients of all nodes behind one face: each call goes to another node, so an act's attempts see the cluster from all sides.

`Spread` stands where the load expects the official SDK's `Client`. It only chooses: a node that is down fails the attempt, and
the next one goes elsewhere, as a client behind a load balancer without health checks would see it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from temporalio.client import Client


class SpreadService:
    """`workflow_service` of a client drawn anew for every call."""

    def __init__(self, spread: Spread) -> None:
        self._spread = spread

    def __getattr__(self, name: str) -> Any:
        return getattr(self._spread.draw().workflow_service, name)


class Spread:
    """What it has no method of its own for is asked of a client drawn anew."""

    def __init__(self, clients: Sequence[Client], stream: random.Random) -> None:
        self.clients = list(clients)
        self.namespace = clients[0].namespace
        self.workflow_service = SpreadService(self)
        self._stream = stream

    def draw(self) -> Client:
        return self._stream.choice(self.clients)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.draw(), name)
