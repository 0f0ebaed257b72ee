"""What the frontend asks of the parts behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.message import Message
from temporalio.api.nexus.v1 import Endpoint
from temporalio.api.taskqueue.v1 import TaskQueueConfig
from temporalio.api.workflowservice.v1 import ListWorkersResponse, UpdateTaskQueueConfigResponse

from cluster.frontend.call import Call
from cluster.matching.tasks import QueueKey
from cluster.tokens import TaskToken

if TYPE_CHECKING:
    from cluster.namespaces.record import NamespaceRecord
    from cluster.namespaces.remote_clusters import Cluster, RemoteClusters

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

    def poll_nexus_task_queue(self, namespace: NamespaceRecord, request: Any, call: Call) -> Awaitable[Answer]: ...

    def respond_nexus_task(self, namespace: NamespaceRecord, token_payload: bytes, request: Any) -> Awaitable[None]:
        """A worker's answer to a Nexus request, for whoever waits for it. Raises NOT_FOUND when nobody does."""
        ...

    def respond_query_task_completed(
        self, namespace: NamespaceRecord, token_payload: bytes, request: Any
    ) -> Awaitable[Message]: ...

    def describe_task_queue(self, namespace: NamespaceRecord, request: Any) -> Awaitable[Message]: ...

    def list_task_queue_partitions(self, namespace: NamespaceRecord, request: Any) -> Awaitable[Message]: ...

    def update_task_queue_config(
        self, namespace: NamespaceRecord, request: Any
    ) -> Awaitable[UpdateTaskQueueConfigResponse]:
        """In memory of this node. Whoever keeps it durably then tells all nodes, by `task_queue_config_changed`."""
        ...

    def task_queue_config_changed(self) -> Awaitable[None]:
        """A configuration is stored: the other nodes should read it."""
        ...

    def set_task_queue_config(self, key: QueueKey, config: TaskQueueConfig) -> None:
        """As it is stored. In memory of this node."""
        ...

    def shutdown_worker(self, namespace: NamespaceRecord, request: Any) -> Awaitable[Message]: ...

    def record_worker_heartbeat(self, namespace: NamespaceRecord, request: Any) -> Awaitable[Message]: ...

    def list_workers(self, namespace: NamespaceRecord, request: Any) -> Awaitable[ListWorkersResponse]: ...

    def describe_worker(self, namespace: NamespaceRecord, request: Any) -> Awaitable[Message]: ...


class EndpointsPort(Protocol):
    """The registry of Nexus endpoints (cluster/nexus/endpoints.py). Raises CallerError."""

    async def create(self, spec: Any) -> Endpoint: ...

    async def update(self, id: str, version: int, spec: Any) -> Endpoint: ...

    async def delete(self, id: str, version: int) -> None: ...

    async def get(self, id: str) -> Endpoint: ...

    async def list(self, page_size: int, after: str, name: str) -> tuple[list[Endpoint], str]: ...

    async def leading_to(self, namespace_id: str) -> str:
        """The name of an endpoint whose workers are in that namespace; "" if there is none."""
        ...


class NamespacesPort(Protocol):
    """The registry. `cached` and `cached_by_id` cost nothing; the others may read the store and raise CallerError, NOT_FOUND with
    NamespaceNotFoundFailure for what does not exist."""

    @property
    def clusters(self) -> RemoteClusters: ...

    def cached(self, name: str) -> NamespaceRecord | None: ...

    def cached_by_id(self, namespace_id: str) -> NamespaceRecord | None: ...

    async def by_name(self, name: str) -> NamespaceRecord: ...

    async def by_id(self, namespace_id: str) -> NamespaceRecord: ...

    async def describe(self, name: str, namespace_id: str) -> NamespaceRecord: ...

    async def list(
        self, page_size: int, page_token: bytes, include_deleted: bool = False
    ) -> tuple[list[NamespaceRecord], bytes]: ...

    async def register(self, request: Any) -> NamespaceRecord: ...

    async def update(self, request: Any) -> NamespaceRecord: ...

    async def deprecate(self, name: str) -> NamespaceRecord: ...

    async def delete(self, name: str, namespace_id: str = "") -> NamespaceRecord:
        """Returns it under the name it has from now on; the old one is free."""
        ...

    async def add_search_attributes(self, name: str, added: Mapping[str, int]) -> NamespaceRecord: ...

    async def remove_search_attributes(self, name: str, removed: Iterable[str]) -> NamespaceRecord: ...

    async def add_or_update_cluster(
        self, address: str, http_address: str, is_connected: bool, is_replicated: bool
    ) -> Cluster: ...

    async def remove_cluster(self, name: str) -> None: ...
