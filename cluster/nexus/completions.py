"""How an operation ended, told to its caller's run: by a handler's run of this cluster, or by the gateway for one outside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from temporalio.api.common.v1 import Link, Payload
from temporalio.api.failure.v1 import Failure
from temporalio.api.nexus.v1 import Link as NexusLink

from cluster.core.errors import invalid_argument
from cluster.history.between_runs import BetweenRuns, EndOperation
from cluster.namespaces.record import NamespaceRecord
from cluster.nexus import callback_token
from cluster.nexus.links import common_links
from cluster.tokens import Tokens

Reach = Callable[[BetweenRuns], Awaitable[str]]


class Told(Protocol):
    """nexus.protocol.Completion: what a callback over HTTP tells."""

    @property
    def token(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def operation_token(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def result(self) -> Payload | None: ...
    @property
    def failure(self) -> Failure | None: ...
    @property
    def links(self) -> Sequence[NexusLink]: ...
    @property
    def started_at(self) -> int: ...


class Completions:
    """reach: a message to the caller's run, wherever it lives; namespace_by_id raises CallerError NOT_FOUND."""

    def __init__(
        self, reach: Reach, tokens: Tokens, namespace_by_id: Callable[[str], Awaitable[NamespaceRecord]]
    ) -> None:
        self._reach, self._tokens, self._namespace_by_id = reach, tokens, namespace_by_id

    async def complete(self, told: Told) -> None:
        """From outside. Raises CallerError: INVALID_ARGUMENT for a token that is none, or of another namespace than the address
        names; NOT_FOUND when nobody waits any more."""
        token = callback_token.open_token(self._tokens, told.token)
        if told.namespace and (await self._namespace_by_id(token.namespace_id)).name != told.namespace:
            raise invalid_argument("invalid callback token")
        await self.end(
            token, told.state, told.operation_token, told.started_at, common_links(told.links), told.result, told.failure
        )

    async def end(
        self,
        token: callback_token.CallbackToken,
        state: str,
        operation_token: str,
        started_at: int,
        links: Sequence[Link],
        result: Payload | None,
        failure: Failure | None,
    ) -> None:
        """Harmless when repeated. Raises CallerError."""
        await self._reach(
            EndOperation(
                namespace_id=token.namespace_id,
                workflow_id=token.workflow_id,
                run_id=token.run_id,
                scheduled_event_id=token.scheduled_event_id,
                request_id=token.request_id,
                state=state,
                token=operation_token,
                started_at=started_at,
                links=[link.SerializeToString() for link in links],
                result=result.SerializeToString() if result is not None else None,
                failure=(failure or Failure()).SerializeToString() if state != "succeeded" else b"",
            )
        )
