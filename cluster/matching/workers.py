"""Which workers are alive, by their heartbeats: in memory, with an expiry and a bound. Losing it loses no promise; workers
heartbeat every 30-60 s. Pure: `now` is monotonic seconds."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable

from temporalio.api.enums.v1 import WorkerStatus
from temporalio.api.worker.v1 import WorkerHeartbeat, WorkerInfo, WorkerListInfo
from temporalio.api.workflowservice.v1 import ListWorkersRequest, ListWorkersResponse

from cluster.core.errors import invalid_argument, not_found
from cluster.matching.limits import MatchingLimits
from cluster.matching.worker_filter import parse_worker_filter

SYSTEM_QUEUE_PREFIX = "temporal-sys"


class WorkerRegistry:
    """Heartbeats by namespace and worker instance key; `_order` is by age of the last heartbeat, oldest first."""

    def __init__(self, limits: MatchingLimits) -> None:
        self._limits = limits
        self._by_namespace: dict[str, dict[str, WorkerHeartbeat]] = {}
        self._order: OrderedDict[tuple[str, str], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def record(self, namespace_id: str, heartbeats: Iterable[WorkerHeartbeat], now: float) -> None:
        """A worker that says it has shut down is forgotten at once."""
        for heartbeat in heartbeats:
            key = (namespace_id, heartbeat.worker_instance_key)
            if heartbeat.status == WorkerStatus.WORKER_STATUS_SHUTDOWN:
                self._forget(key)
                continue
            self._by_namespace.setdefault(namespace_id, {})[heartbeat.worker_instance_key] = heartbeat
            self._order[key] = now
            self._order.move_to_end(key)
        self._expire(now)

    def describe(self, namespace_id: str, worker_instance_key: str, now: float) -> WorkerInfo:
        self._expire(now)
        heartbeat = self._by_namespace.get(namespace_id, {}).get(worker_instance_key)
        if heartbeat is None:
            raise not_found(f"Worker {worker_instance_key} not found")
        return WorkerInfo(worker_heartbeat=heartbeat)

    def page(self, namespace_id: str, request: ListWorkersRequest, now: float) -> ListWorkersResponse:
        """Ordered by worker instance key, at most `workers_page_max` at a time."""
        self._expire(now)
        if request.page_size < 0:
            raise invalid_argument("page_size must not be negative")
        matches = parse_worker_filter(request.query)
        after = _cursor(request.next_page_token)
        size = min(request.page_size or self._limits.workers_page_max, self._limits.workers_page_max)
        response = ListWorkersResponse()
        last = ""
        for key, heartbeat in sorted(self._by_namespace.get(namespace_id, {}).items()):
            is_hidden = heartbeat.task_queue.startswith(SYSTEM_QUEUE_PREFIX) and not request.include_system_workers
            if (after is not None and key <= after) or is_hidden or not matches(heartbeat):
                continue
            if len(response.workers) == size:
                response.next_page_token = json.dumps({"l": last}).encode()
                break
            response.workers_info.add(worker_heartbeat=heartbeat)
            response.workers.append(_list_info(heartbeat))
            last = key
        return response

    def _expire(self, now: float) -> None:
        while self._order:
            key, seen_at = next(iter(self._order.items()))
            if now - seen_at < self._limits.worker_expiry_s and len(self._order) <= self._limits.workers_max:
                return
            self._forget(key)

    def _forget(self, key: tuple[str, str]) -> None:
        if self._order.pop(key, None) is None:
            return
        namespace_id, worker_instance_key = key
        workers = self._by_namespace[namespace_id]
        del workers[worker_instance_key]
        if not workers:
            del self._by_namespace[namespace_id]


def _cursor(token: bytes) -> str | None:
    if not token:
        return None
    try:
        last = json.loads(token)["l"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise invalid_argument("invalid next_page_token") from error
    if not isinstance(last, str):
        raise invalid_argument("invalid next_page_token")
    return last


def _list_info(heartbeat: WorkerHeartbeat) -> WorkerListInfo:
    info = WorkerListInfo(
        worker_instance_key=heartbeat.worker_instance_key,
        worker_identity=heartbeat.worker_identity,
        task_queue=heartbeat.task_queue,
        sdk_name=heartbeat.sdk_name,
        sdk_version=heartbeat.sdk_version,
        status=heartbeat.status,
        host_name=heartbeat.host_info.host_name,
        worker_grouping_key=heartbeat.host_info.worker_grouping_key,
        process_id=heartbeat.host_info.process_id,
        plugins=heartbeat.plugins,
        drivers=heartbeat.drivers,
    )
    if heartbeat.HasField("deployment_version"):
        info.deployment_version.CopyFrom(heartbeat.deployment_version)
    if heartbeat.HasField("start_time"):
        info.start_time.CopyFrom(heartbeat.start_time)
    return info
