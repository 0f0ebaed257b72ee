"""One question to every node of this region, this one included: each knows only its own shards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog

from cluster.core.errors import CallerError, unavailable
from cluster.membership.members import NodeInfo
from cluster.routing.peers import Peers

log = structlog.get_logger("outlast.routing")

ASK_S = 5.0

Handler = Callable[[bytes], Awaitable[bytes]]


class Answers(NamedTuple):
    """by_node: node id -> answer. unreachable: nodes that did not answer, with the reason."""

    by_node: dict[str, bytes]
    unreachable: dict[str, str]


class Everywhere:
    """One per node. `answer` names what is asked; then any node may `ask`."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._handlers: dict[str, Handler] = {}

    def answer(self, method: str, handler: Handler) -> None:
        async def served(payload: bytes, deadline: float | None) -> bytes:
            return await handler(payload)

        self._handlers[method] = handler
        self._peers.serve(method, served)

    async def ask(self, method: str, payload: bytes = b"", timeout_s: float = ASK_S) -> Answers:
        """Raises what this node's own handler raises; another node that cannot answer is named."""
        others = self._peers.others()
        own, found = await asyncio.gather(
            self._handlers[method](payload),
            asyncio.gather(*(self._ask(node, method, payload, timeout_s) for node in others)),
        )
        answers, unreachable = {self._peers.me: own}, dict[str, str]()
        for node, told in zip(others, found, strict=True):
            if isinstance(told, CallerError):
                unreachable[node.node_id] = told.message
            else:
                answers[node.node_id] = told
        return Answers(answers, unreachable)

    async def ask_all(self, method: str, payload: bytes = b"", timeout_s: float = ASK_S) -> list[bytes]:
        """Raises UNAVAILABLE when a node does not answer."""
        answers = await self.ask(method, payload, timeout_s)
        for node, reason in answers.unreachable.items():
            raise unavailable(f"node {node} of this region cannot be asked: {reason}")
        return list(answers.by_node.values())

    async def _ask(self, node: NodeInfo, method: str, payload: bytes, timeout_s: float) -> bytes | CallerError:
        try:
            return await self._peers.call(node, method, payload, asyncio.get_running_loop().time() + timeout_s)
        except CallerError as error:
            return error
