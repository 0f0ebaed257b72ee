"""What the gateway asks of the server behind it. Each port has one real implementation, and each test its own.

| port            | implemented by                                                        |
|-----------------|-----------------------------------------------------------------------|
| NexusDispatch   | cluster/nexus/dispatch.py: through the task queues to a worker         |
| EndpointsPort   | the registry of endpoints (cluster/nexus/endpoints.py), adapted        |
| NamespacesPort  | cluster/namespaces/registry.py                                         |
| CompletionPort  | the history side of cluster/nexus: the caller's run                    |
| OperationsPort  | nexus/operations.py, over HistoryPort                                  |
| HistoryPort     | cluster/routing/history.py                                             |
| IdentifyCaller  | the node: who calls, by whatever security is configured                |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.api.nexus.v1 import Link

from cluster.namespaces.record import NamespaceRecord
from cluster.nexus.dispatch import HandlerError, NexusDispatch
from nexus.policy import Caller, EndpointPolicy
from nexus.protocol import Completion

__all__ = [
    "CallerOperation", "Completion", "CompletionPort", "Endpoint", "EndpointsPort", "HandlerError", "HistoryPort",
    "IdentifyCaller", "NamespacesPort", "NexusDispatch", "OperationInfo", "OperationsPort",
]  # fmt: skip


class Endpoint(msgspec.Struct, frozen=True):
    """Where an endpoint leads to: a task queue of a namespace, or an address outside (url)."""

    id: str
    name: str
    namespace: str = ""  # its name
    task_queue: str = ""
    url: str = ""
    policy: EndpointPolicy = EndpointPolicy()


class EndpointsPort(Protocol):
    async def find(self, id_or_name: str) -> Endpoint | None:
        """By its id, else by its name."""
        ...


class NamespacesPort(Protocol):
    async def by_name(self, name: str) -> NamespaceRecord:
        """Raises CallerError NOT_FOUND."""
        ...


class CompletionPort(Protocol):
    async def complete(self, completion: Completion) -> None:
        """Opens the token and tells the caller's run. Harmless when repeated.

        Raises CallerError: INVALID_ARGUMENT for a token that is none, forged, expired or of another namespace than
        `completion.namespace` (if one is given); NOT_FOUND for a run or an operation that has ended or never was."""
        ...


class HistoryPort(Protocol):
    async def invoke(self, verb: str, namespace: NamespaceRecord, workflow_id: str, request: Message) -> Message | bytes: ...


class IdentifyCaller(Protocol):
    def __call__(self, headers: Mapping[str, str], peer: str) -> Caller:
        """headers: names in lower case. Raises CallerError UNAUTHENTICATED or PERMISSION_DENIED."""
        ...


class OperationInfo(msgspec.Struct, frozen=True):
    """An operation that a workflow stands for. state: running, succeeded, failed or canceled. Times: ns since the epoch, 0 = not.

    attempt: of the activity of the workflow that needed most; last_failure: that one's, in words.
    position: grows whenever something happened. links: to the handler's run and to those who asked for the operation.
    """

    state: str
    position: int
    attempt: int = 0
    last_failure: str = ""
    progress: dict[str, Any] = {}
    started_at: int = 0
    closed_at: int = 0
    result: Payload | None = None
    failure: Failure | None = None
    links: list[Link] = []


class CallerOperation(msgspec.Struct, frozen=True):
    """One operation as its caller's run has it."""

    scheduled_event_id: int
    endpoint: str
    service: str
    operation: str
    state: str  # scheduled, started, backing off, blocked, succeeded, failed, canceled, timed out
    token: str = ""
    attempt: int = 0
    last_failure: str = ""
    blocked_reason: str = ""
    scheduled_at: int = 0
    closed_at: int = 0
    links: list[Link] = []


class OperationsPort(Protocol):
    async def info(self, namespace: NamespaceRecord, token: str) -> OperationInfo:
        """token: the handler's own. Raises CallerError NOT_FOUND, UNIMPLEMENTED (no workflow stands for it)."""
        ...

    async def wait(self, namespace: NamespaceRecord, token: str, position: int, wait_s: float) -> OperationInfo:
        """Until it has ended, or the time is over; position > 0: or until something happened after it."""
        ...

    async def of_caller(
        self, namespace: NamespaceRecord, workflow_id: str, run_id: str, count_max: int
    ) -> list[CallerOperation]:
        """The run's operations, ended ones too; run_id "" = its current run. Raises CallerError NOT_FOUND."""
        ...
