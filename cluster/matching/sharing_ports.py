"""What a queue that several nodes share asks of the cluster: who has which share, and a way to the others."""

from __future__ import annotations

from typing import Protocol

from cluster.core.errors import CallerError, Code
from cluster.matching.queries import DirectQuery
from cluster.matching.tasks import QueueKey, TaskHint

NOT_HERE = "this node has no share of the task queue"


class Placement(Protocol):
    """Nodes by their ids."""

    @property
    def me(self) -> str: ...

    def nodes_of(self, queue: QueueKey) -> tuple[str, ...]:
        """By partition, the root first. Never empty."""
        ...

    def node_of(self, hint: TaskHint) -> str: ...

    def incarnation_of(self, node: str) -> str:
        """A restarted node has another: it has forgotten all."""
        ...


class Post(Protocol):
    """Takes what is to be sent; brings back answers, or the word that a message was not delivered."""

    def mark(self, queue: QueueKey, node: str) -> None:
        """There is news of this queue for that node: `Sharing.compose` gives it."""
        ...

    def pass_query(self, queue: QueueKey, query: DirectQuery, node: str) -> None:
        """Puts the query to the node's pollers as well."""
        ...


def not_here() -> CallerError:
    """The asking node looks at its ring again; no client sees this."""
    return CallerError(Code.ABORTED, NOT_HERE)


def is_not_here(error: CallerError) -> bool:
    return error.code is Code.ABORTED and error.message == NOT_HERE
