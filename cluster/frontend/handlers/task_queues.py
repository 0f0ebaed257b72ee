"""Calls about task queues and the workers behind them: matching answers; a queue's configuration is kept in the registry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from google.protobuf.message import Message
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueueConfig
from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import unavailable
from cluster.frontend.call import Call, Handler
from cluster.frontend.handlers.services import Services
from cluster.frontend.ports import MatchingPort
from cluster.matching.tasks import QueueKey, TaskKind
from cluster.stores.base import Store, StoreError

CONFIG_KIND = "task-queue-config"
_KINDS = {
    TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW: TaskKind.WORKFLOW,
    TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY: TaskKind.ACTIVITY,
}
_PAGE_ROWS = 1_000


def task_queue_handlers(services: Services) -> dict[str, Handler]:
    matching = services.matching
    return {
        "DescribeTaskQueue": _plain(matching.describe_task_queue),
        "ListTaskQueuePartitions": _plain(matching.list_task_queue_partitions),
        "ShutdownWorker": _plain(matching.shutdown_worker),
        "RecordWorkerHeartbeat": _plain(matching.record_worker_heartbeat),
        "ListWorkers": _plain(matching.list_workers),
        "DescribeWorker": _plain(matching.describe_worker),
        "CountWorkers": _count_workers(services),
        "UpdateTaskQueueConfig": _update_config(services),
    }


def _plain(answer: Callable[[Any, Any], Awaitable[Message]]) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        return await answer(call.record, request)

    return handle


def _count_workers(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        assert call.record is not None
        count, token = 0, b""
        while True:
            page = await services.matching.list_workers(
                call.record,
                api.ListWorkersRequest(
                    namespace=request.namespace, query=request.query, page_size=_PAGE_ROWS, next_page_token=token
                ),
            )
            count += len(page.workers_info) or len(page.workers)
            token = page.next_page_token
            if not token:
                return api.CountWorkersResponse(count=count)

    return handle


def _update_config(services: Services) -> Handler:
    """Matching makes the new configuration from what is stored, since another node may have changed it; if the registry does not
    take it, matching is told the stored one again. Other nodes hear of it when it is durable."""

    async def handle(call: Call, request: Any) -> Message | bytes:
        assert call.record is not None
        if request.task_queue_type == TaskQueueType.TASK_QUEUE_TYPE_UNSPECIFIED:
            request.task_queue_type = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW  # as elsewhere; so that one queue has one row
        matching = services.matching
        key = _registry_id(call.record.id, request.task_queue, request.task_queue_type)
        row = await services.store.metadata_get(CONFIG_KIND, key)
        version = 0 if row is None else row.version
        none = msgspec.msgpack.encode((call.record.id, request.task_queue, int(request.task_queue_type), b""))
        if row is not None:
            _apply(matching, row.data)
        response = await matching.update_task_queue_config(call.record, request)
        data = msgspec.msgpack.encode((call.record.id, request.task_queue, int(request.task_queue_type), _bytes(response.config)))
        try:
            taken = await services.store.metadata_put(CONFIG_KIND, key, data, version)
        except StoreError:
            _apply(matching, none if row is None else row.data)
            raise
        if taken is None:
            row = await services.store.metadata_get(CONFIG_KIND, key)
            _apply(matching, none if row is None else row.data)
            raise unavailable("the task queue's configuration was changed by somebody else at the same time, please retry")
        await matching.task_queue_config_changed()
        return response

    return handle


def _registry_id(namespace_id: str, name: str, kind: int) -> str:
    return f"{namespace_id}/{kind}/{name}"


def _bytes(config: TaskQueueConfig) -> bytes:
    encoded: bytes = config.SerializeToString()
    return encoded


def _apply(matching: MatchingPort, data: bytes) -> None:
    namespace_id, name, kind, config = msgspec.msgpack.decode(data, type=tuple[str, str, int, bytes])
    key = QueueKey(namespace_id, name, _KINDS[TaskQueueType.ValueType(kind)])
    matching.set_task_queue_config(key, TaskQueueConfig.FromString(config))


async def load_task_queue_configs(store: Store, matching: MatchingPort) -> None:
    """At start, so that rate limits survive it, and when another node has changed one."""
    for row in await store.metadata_list(CONFIG_KIND):
        _apply(matching, row.data)
