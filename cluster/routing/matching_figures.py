"""What an operator sees and sets of task queues and workers, wherever their parts are: asked of each part, and put together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import structlog
from google.protobuf.message import Message
from temporalio.api.enums.v1 import TaskQueueKind
from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import CallerError
from cluster.matching.describe import is_enhanced, kind_of, merge
from cluster.matching.service import Matching, NamespaceName
from cluster.matching.tasks import QueueKey, TaskKind
from cluster.membership.members import NodeInfo
from cluster.routing.matching_calls import NamespaceIds
from cluster.routing.matching_messages import ASK, Forwarded, decode, encode
from cluster.routing.matching_places import CurrentPlaces
from cluster.routing.peers import Peers

log = structlog.get_logger("outlast.routing")

ASK_S = 5.0
R = TypeVar("R", bound=Message)


class RoutedFigures:
    """See the module's text."""

    def __init__(self, matching: Matching, peers: Peers, places: CurrentPlaces) -> None:
        self._matching, self._peers, self._places = matching, peers, places
        self._served: dict[str, tuple[type[Any], Callable[[NamespaceName, Any], Awaitable[Message]]]] = {
            "describe_task_queue": (api.DescribeTaskQueueRequest, matching.describe_task_queue),
            "shutdown_worker": (api.ShutdownWorkerRequest, matching.shutdown_worker),
            "record_worker_heartbeat": (api.RecordWorkerHeartbeatRequest, matching.record_worker_heartbeat),
            "list_workers": (api.ListWorkersRequest, matching.list_workers),
            "describe_worker": (api.DescribeWorkerRequest, matching.describe_worker),
        }
        peers.serve(ASK, self._serve)

    async def _serve(self, payload: bytes, deadline: float | None) -> bytes:
        message = decode(Forwarded, payload)
        form, method = self._served[message.method]
        answer = await method(NamespaceIds(message.namespace_id, message.namespace_name), form.FromString(message.request))
        return answer.SerializeToString()

    async def _ask(self, node: NodeInfo, method: str, namespace: NamespaceName, request: Message, form: type[R]) -> R:
        message = Forwarded(
            method=method,
            namespace_id=namespace.id,
            namespace_name=namespace.name,
            request=request.SerializeToString(),
        )
        deadline = asyncio.get_running_loop().time() + ASK_S
        return form.FromString(await self._peers.call(node, ASK, encode(message), deadline))

    # --- queues -------------------------------------------------------------------------------------------------------------
    async def describe_task_queue(
        self, namespace: NamespaceName, request: api.DescribeTaskQueueRequest
    ) -> api.DescribeTaskQueueResponse:
        """Raises UNAVAILABLE while a node that has a share does not answer: half a queue would look like a whole one."""
        nodes = self._nodes_of(namespace, request)
        if nodes == [self._places.me]:
            return await self._matching.describe_task_queue(namespace, request)
        parts = await asyncio.gather(*(self._describe_at(node, namespace, request) for node in nodes))
        return merge(parts)

    def _nodes_of(self, namespace: NamespaceName, request: api.DescribeTaskQueueRequest) -> list[str]:
        """Roots first."""
        if is_enhanced(request):
            kinds: Iterable[TaskKind | None] = TaskKind
        else:
            kinds = [kind_of(request.task_queue_type)]
        nodes: dict[str, None] = {}
        for kind in kinds:
            if kind is not None:
                owners = self._places.nodes_of(QueueKey(namespace.id, request.task_queue.name, kind))
                is_sticky = request.task_queue.kind == TaskQueueKind.TASK_QUEUE_KIND_STICKY
                nodes.update(dict.fromkeys(owners[:1] if is_sticky else owners))
        return list(nodes) or [self._places.me]

    async def _describe_at(
        self, node: str, namespace: NamespaceName, request: api.DescribeTaskQueueRequest
    ) -> api.DescribeTaskQueueResponse:
        if node == self._places.me:
            return await self._matching.describe_task_queue(namespace, request)
        info = self._places.now.info(node)
        return await self._ask(info, "describe_task_queue", namespace, request, api.DescribeTaskQueueResponse)

    async def list_task_queue_partitions(
        self, namespace: NamespaceName, request: api.ListTaskQueuePartitionsRequest
    ) -> api.ListTaskQueuePartitionsResponse:
        places = self._places.now
        if places.is_local:
            return await self._matching.list_task_queue_partitions(namespace, request)
        response = api.ListTaskQueuePartitionsResponse()
        name = request.task_queue.name
        for kind, partitions in (
            (TaskKind.ACTIVITY, response.activity_task_queue_partitions),
            (TaskKind.WORKFLOW, response.workflow_task_queue_partitions),
        ):
            for number, node in enumerate(places.nodes_of(QueueKey(namespace.id, name, kind))):
                # The names are those the public server gives its partitions.
                partitions.add(key=f"/_sys/{name}/{number}" if number else name, owner_host_name=places.info(node).address)
        return response

    # --- workers --------------------------------------------------------------------------------------------------------------
    def _keeper(self, namespace: NamespaceName) -> NodeInfo | None:
        """The node that keeps the namespace's workers; None: this one."""
        node = self._places.now.owner_of_workers(namespace.id)
        return None if node == self._places.me else self._places.now.info(node)

    async def record_worker_heartbeat(
        self, namespace: NamespaceName, request: api.RecordWorkerHeartbeatRequest
    ) -> api.RecordWorkerHeartbeatResponse:
        if (keeper := self._keeper(namespace)) is None:
            return await self._matching.record_worker_heartbeat(namespace, request)
        return await self._ask(keeper, "record_worker_heartbeat", namespace, request, api.RecordWorkerHeartbeatResponse)

    async def list_workers(self, namespace: NamespaceName, request: api.ListWorkersRequest) -> api.ListWorkersResponse:
        if (keeper := self._keeper(namespace)) is None:
            return await self._matching.list_workers(namespace, request)
        return await self._ask(keeper, "list_workers", namespace, request, api.ListWorkersResponse)

    async def describe_worker(
        self, namespace: NamespaceName, request: api.DescribeWorkerRequest
    ) -> api.DescribeWorkerResponse:
        if (keeper := self._keeper(namespace)) is None:
            return await self._matching.describe_worker(namespace, request)
        return await self._ask(keeper, "describe_worker", namespace, request, api.DescribeWorkerResponse)

    async def shutdown_worker(
        self, namespace: NamespaceName, request: api.ShutdownWorkerRequest
    ) -> api.ShutdownWorkerResponse:
        """At every node: its polls may be anywhere. A node that cannot be told ends them in their time."""
        if self._places.now.is_local:
            return await self._matching.shutdown_worker(namespace, request)
        keeper = self._keeper(namespace)
        silent = api.ShutdownWorkerRequest()
        silent.CopyFrom(request)
        silent.ClearField("worker_heartbeat")
        telling = [
            self._shut_down_at(node, namespace, request if node == keeper else silent) for node in self._peers.others()
        ]
        answer = await self._matching.shutdown_worker(namespace, request if keeper is None else silent)
        await asyncio.gather(*telling)
        return answer

    async def _shut_down_at(self, node: NodeInfo, namespace: NamespaceName, request: api.ShutdownWorkerRequest) -> None:
        try:
            await self._ask(node, "shutdown_worker", namespace, request, api.ShutdownWorkerResponse)
        except CallerError as error:
            log.info("a node could not be told that a worker shuts down", node=node.node_id, error=error.message)
