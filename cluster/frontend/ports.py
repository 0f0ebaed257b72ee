"""What the frontend asks of the parts behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.message import Message
from temporalio.api.taskqueue.v1 import TaskQueueConfig
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceResponse,
    ListNamespacesResponse,
    ListWorkersResponse,
    UpdateNamespaceResponse,
    UpdateTaskQueueConfigResponse,
)

from cluster.frontend.call import Call
from cluster.frontend.tokens import TaskToken
from cluster.matching.tasks import QueueKey
from cluster.visibility.search_attributes import Schema

if TYPE_CHECKING:
    from cluster.namespaces.record import NamespaceRecord

Answer = Message | bytes


class HistoryPort(Protocol):
    """Everything that concerns one run, by the snake-case name of the call."""

    def invoke(
        self,
        verb: str,
        namespace: NamespaceRecord,
        workflow_id: str,
        request: Message,
        *,
        call: Call | None = None,
        token: TaskToken | None = None,
    ) -> Awaitable[Answer]:
        """The public response message, or its bytes. Raises CallerError."""
        ...


class MatchingPort(Protocol):
    """Everything that concerns task queues and the workers that poll them. Requests are the public ones."""

    def poll_workflow_task_queue(self, namespace: NamespaceRecord, request: Any, call: Call) -> Awaitable[Answer]: ...

    def poll_activity_task_queue(self, namespace: NamespaceRecord, request: Any, call: Call) -> Awaitable[Answer]: ...

    def respond_query_task_completed(self, namespace: NamespaceRecord, token_payload: bytes, request: Any) -> Message: ...

    def describe_task_queue(self, namespace: NamespaceRecord, request: Any) -> Message: ...

    def list_task_queue_partitions(self, namespace: NamespaceRecord, request: Any) -> Message: ...

    def update_task_queue_config(self, namespace: NamespaceRecord, request: Any) -> UpdateTaskQueueConfigResponse: ...

    def set_task_queue_config(self, key: QueueKey, config: TaskQueueConfig) -> None: ...

    def shutdown_worker(self, namespace: NamespaceRecord, request: Any) -> Message: ...

    def record_worker_heartbeat(self, namespace: NamespaceRecord, request: Any) -> Message: ...

    def list_workers(self, namespace: NamespaceRecord, request: Any) -> ListWorkersResponse: ...

    def describe_worker(self, namespace: NamespaceRecord, request: Any) -> Message: ...


class NamespacesPort(Protocol):
    """The registry. The first two answer from memory and raise CallerError NOT_FOUND with NamespaceNotFoundFailure."""

    def by_name(self, name: str) -> NamespaceRecord: ...

    def by_id(self, id: str) -> NamespaceRecord: ...

    def schema_of(self, record: NamespaceRecord) -> Schema: ...

    def describe(self, record: NamespaceRecord) -> DescribeNamespaceResponse: ...

    def page(self, request: Any) -> ListNamespacesResponse: ...

    async def register(self, request: Any) -> NamespaceRecord: ...

    async def update(self, record: NamespaceRecord, request: Any) -> UpdateNamespaceResponse: ...

    async def deprecate(self, record: NamespaceRecord) -> None: ...

    async def delete(self, record: NamespaceRecord) -> str:
        """The name it has from now on, so that the old one is free."""
        ...

    async def add_search_attributes(self, record: NamespaceRecord, wanted: Mapping[str, int]) -> None: ...

    async def remove_search_attributes(self, record: NamespaceRecord, names: Sequence[str]) -> None: ...
