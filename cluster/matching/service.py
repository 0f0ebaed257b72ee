"""Matching as the rest of the cluster sees it: `offer` for the shards; polls, queries, figures and settings for the frontend.

The meeting itself is `matcher.py`; here are direct queries, workers, and what an operator asks or sets.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from google.protobuf.message import Message
from temporalio.api.taskqueue.v1 import TaskQueueConfig
from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import CallerError, Code, resource_exhausted, unavailable, unimplemented
from cluster.frontend.call import Call
from cluster.matching.describe import describe, describe_enhanced, is_enhanced, kind_of
from cluster.matching.limits import MatchingLimits
from cluster.matching.matcher import Matcher, MatchingMetrics
from cluster.matching.partition import Partition
from cluster.matching.queries import (
    BuildQueryTask,
    DirectQuery,
    NexusTask,
    QueryBook,
    QueryToken,
    Question,
    no_recent_poller,
)
from cluster.matching.queue_config import apply_config, next_config
from cluster.matching.sharing import Sharing
from cluster.matching.sharing_ports import Placement, Post
from cluster.matching.tasks import HistoryPort, QueueKey, StickyWorkerUnavailable, TaskHint, TaskKind
from cluster.matching.window import TaskKey
from cluster.matching.workers import WorkerRegistry
from cluster.seams import Clock, Ids, Spawn


class NamespaceName(Protocol):
    """What matching needs of a NamespaceRecord."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...


class Matching:
    """See the module's text. One per node; all of it in one event loop."""

    def __init__(
        self,
        limits: MatchingLimits,
        clock: Clock,
        ids: Ids,
        spawn: Spawn,
        metrics: MatchingMetrics | None = None,
        host: str = "",
    ) -> None:
        self.limits = limits
        self.workers = WorkerRegistry(limits)
        self._matcher = Matcher(limits, clock, spawn, metrics)
        self._clock, self._ids, self._host = clock, ids, host
        self._sticky_unavailable: Callable[[TaskHint], None] | None = None
        self.node = ""  # named in query tokens where there are other nodes
        self._queries = QueryBook(limits)
        self._shut_down: OrderedDict[str, float] = OrderedDict()  # worker instance key -> when, oldest first

    def bind(self, history: HistoryPort, sticky_unavailable: Callable[[TaskHint], None] | None = None) -> None:
        """`sticky_unavailable` gets sticky hints that were accepted, but whose worker has shut down; without it they wait for
        the run's own schedule-to-start timeout."""
        self._matcher.history = history
        self._sticky_unavailable = sticky_unavailable

    @property
    def counts(self) -> Counter[str]:
        """The events of MatchingMetrics since the start."""
        return self._matcher.counts

    @property
    def queue_count(self) -> int:
        return len(self._matcher.partitions)

    def drain(self) -> None:
        """Every parked poll ends empty, every waiting query is refused; later ones likewise."""
        self._matcher.drain()
        self._queries.refuse_all(unavailable("this node is shutting down"))

    # --- for the shards -------------------------------------------------------------------------------------------------
    def offer(self, hint: TaskHint) -> bool:
        """A task is outstanding. Idempotent. False = not taken: its sticky queue has no poller, offer it on the normal one."""
        is_new = hint.is_sticky and hint.queue not in self._matcher.partitions
        is_taken = self._matcher.offer(hint)
        if is_new and is_taken:
            _loop().call_later(self.limits.sticky_grace_s, self._end_grace, hint.queue)
        return is_taken

    def withdraw(self, hint: TaskHint) -> None:
        """The task is gone (run closed, timed out). Optional: a stale hint costs one TaskGone."""
        self._matcher.withdraw(hint)

    def forget(self, hint: TaskHint) -> None:
        """Its shard has left this node. Whoever owns it next offers anew."""
        self._matcher.withdraw(hint)

    # --- for other nodes' shards ------------------------------------------------------------------------------------------
    def share(self, placement: Placement, post: Post) -> Sharing:
        """From now on there may be other nodes."""
        assert self._matcher.sharing is None and not self._matcher.partitions
        self._matcher.sharing = Sharing(self._matcher, placement, post)
        return self._matcher.sharing

    def withdraw_keys(self, queue: QueueKey, shard: int, keys: list[TaskKey]) -> None:
        self._matcher.withdraw_keys(queue, shard, keys)

    def remember_shard(self, queue: QueueKey, shard: int) -> None:
        """The shard has more for the queue than it offered: it is asked when the window runs low."""
        self._matcher.remember_shard(queue, shard)

    @property
    def is_draining(self) -> bool:
        return self._matcher.is_draining

    # --- for the frontend: polls ------------------------------------------------------------------------------------------
    async def poll_workflow_task_queue(
        self, namespace: NamespaceName, request: api.PollWorkflowTaskQueueRequest, call: Call
    ) -> Message | bytes:
        """A task, a direct query, or an empty response when the time is over."""
        if not self._is_shut_down(request.worker_instance_key):
            key = QueueKey(namespace.id, request.task_queue.name, TaskKind.WORKFLOW)
            response = await self._matcher.poll(key, request, call.deadline)
            if response is not None:
                return response
        return api.PollWorkflowTaskQueueResponse()

    async def poll_activity_task_queue(
        self, namespace: NamespaceName, request: api.PollActivityTaskQueueRequest, call: Call
    ) -> Message | bytes:
        """A task, or an empty response when the time is over."""
        if not self._is_shut_down(request.worker_instance_key):
            key = QueueKey(namespace.id, request.task_queue.name, TaskKind.ACTIVITY)
            response = await self._matcher.poll(key, request, call.deadline)
            if response is not None:
                return response
        return api.PollActivityTaskQueueResponse()

    async def poll_nexus_task_queue(
        self, namespace: NamespaceName, request: api.PollNexusTaskQueueRequest, call: Call
    ) -> Message | bytes:
        """A request, or an empty response when the time is over."""
        if not self._is_shut_down(request.worker_instance_key):
            key = QueueKey(namespace.id, request.task_queue.name, TaskKind.NEXUS)
            response = await self._matcher.poll(key, request, call.deadline)
            if response is not None:
                return response
        return api.PollNexusTaskQueueResponse()

    # --- queries ------------------------------------------------------------------------------------------------------------
    async def query(
        self,
        namespace_id: str,
        task_queue: str,
        is_sticky: bool,
        build_task: BuildQueryTask,
        deadline: float | None = None,
        kind: TaskKind = TaskKind.WORKFLOW,
    ) -> Any:
        """Puts a question to a poller of the queue and returns the worker's word, answered or failed.

        build_task(token payload) -> the poll's answer, encoded; it is called once, now. deadline: loop.time() seconds.
        Raises StickyWorkerUnavailable; FAILED_PRECONDITION (no poller lately), DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED and
        UNAVAILABLE as CallerError.
        """
        until = self.query_until(deadline)
        with self.question(namespace_id, task_queue, build_task, until) as question:
            key = QueueKey(namespace_id, task_queue, kind)
            await self.put_query(key, question.task, is_sticky, until)
            return await question.answer

    def query_until(self, deadline: float | None) -> float:
        return _loop().time() + self.limits.query_timeout_s if deadline is None else deadline

    @contextmanager
    def question(self, namespace_id: str, task_queue: str, build_task: BuildQueryTask, until: float) -> Iterator[Question]:
        """Enters a question in this node's book for as long as somebody waits. Raises what `build_task` does."""
        if self._matcher.is_draining:
            raise unavailable("this node is shutting down")
        token = QueryToken(namespace_id, task_queue, self._ids.uuid(), self.node)
        question = Question(token, build_task(token.encode()), _loop().create_future())
        self._queries.enter(question)
        over = _loop().call_at(until, question.refuse, CallerError(Code.DEADLINE_EXCEEDED, "context deadline exceeded"))
        try:
            yield question
        finally:
            over.cancel()
            question.answer.cancel()
            self._queries.leave(question)

    async def put_query(
        self, key: QueueKey, task: bytes, is_sticky: bool, until: float, is_passed_on: bool = False
    ) -> None:
        """Returns when a poller of this node's share (or, through the root, of another) has the question.

        is_passed_on: the root asks; whether there are pollers at all is its to judge. Raises as `query`.
        """
        loop = _loop()
        now = loop.time()
        if self._matcher.is_draining:
            raise unavailable("this node is shutting down")
        partition = self._matcher.partitions.get(key)
        if is_sticky and (partition is None or not self._has_poller(partition, now, self.limits.sticky_poller_s)):
            raise StickyWorkerUnavailable(key.name)
        partition = partition or self._matcher.open(key, now)
        if partition is None or len(partition.queries) >= self.limits.queries_per_queue_max:
            raise resource_exhausted(f"too many queries wait for a worker of task queue {key.name}")
        is_nexus = key.kind is TaskKind.NEXUS
        query = (NexusTask if is_nexus else DirectQuery)(task, loop.create_future(), until)
        over = loop.call_at(until, query.refuse, CallerError(Code.DEADLINE_EXCEEDED, "context deadline exceeded"))
        # The last second is for telling the caller why; after it only the plain time-out is left.
        judge = None
        if not is_passed_on and not is_nexus:
            judge = loop.call_at(until - self.limits.poll_margin_s, self._judge, partition, query)
        partition.queries.append(query)
        try:
            self._matcher.dispatch(partition, "sync_match")
            await query.given
        finally:
            over.cancel()
            if judge is not None:
                judge.cancel()
            query.given.cancel()
            if query in partition.queries:
                partition.queries.remove(query)

    async def respond_query_task_completed(
        self, namespace: NamespaceName, token_payload: bytes, request: api.RespondQueryTaskCompletedRequest
    ) -> api.RespondQueryTaskCompletedResponse:
        """Raises NOT_FOUND when nobody waits any more, INVALID_ARGUMENT for a token of another namespace."""
        self._queries.complete(namespace.id, token_payload, request)
        return api.RespondQueryTaskCompletedResponse()

    async def respond_nexus_task(self, namespace: NamespaceName, token_payload: bytes, request: Message) -> None:
        """request: RespondNexusTaskCompletedRequest or ...FailedRequest. Raises as respond_query_task_completed."""
        self._queries.complete(namespace.id, token_payload, request)

    def _judge(self, partition: Partition, query: DirectQuery) -> None:
        if not self._has_poller(partition, _loop().time(), self.limits.query_poller_s):
            query.refuse(no_recent_poller())

    def _has_poller(self, partition: Partition, now: float, within_s: float) -> bool:
        link = partition.link
        return partition.has_poller(now, within_s) or (link is not None and bool(link.polled_children(now)))

    # --- for the frontend: figures and settings -----------------------------------------------------------------------------
    async def describe_task_queue(
        self, namespace: NamespaceName, request: api.DescribeTaskQueueRequest
    ) -> api.DescribeTaskQueueResponse:
        now, now_ns = _loop().time(), self._clock.now_ns()
        if is_enhanced(request):
            return describe_enhanced(self._matcher.partitions.get, namespace.id, request, now, now_ns)
        kind = kind_of(request.task_queue_type)
        if kind is None:
            return describe(None, request, None, now, now_ns)
        key = QueueKey(namespace.id, request.task_queue.name, kind)
        return describe(self._matcher.partitions.get(key), request, self._matcher.configs.get(key), now, now_ns)

    async def list_task_queue_partitions(
        self, namespace: NamespaceName, request: api.ListTaskQueuePartitionsRequest
    ) -> api.ListTaskQueuePartitionsResponse:
        response = api.ListTaskQueuePartitionsResponse()
        response.activity_task_queue_partitions.add(key=request.task_queue.name, owner_host_name=self._host)
        response.workflow_task_queue_partitions.add(key=request.task_queue.name, owner_host_name=self._host)
        return response

    async def update_task_queue_config(
        self, namespace: NamespaceName, request: api.UpdateTaskQueueConfigRequest
    ) -> api.UpdateTaskQueueConfigResponse:
        """In memory of this node; whoever keeps it durably gives it to all with `set_task_queue_config`."""
        kind = kind_of(request.task_queue_type)
        if kind is None or kind is TaskKind.NEXUS:
            raise unimplemented("task queues of this type have no configuration here")
        key = QueueKey(namespace.id, request.task_queue, kind)
        config = next_config(self._matcher.configs.get(key), request, self._clock.now_ns(), self.limits)
        self.set_task_queue_config(key, config)
        return api.UpdateTaskQueueConfigResponse(config=config)

    async def task_queue_config_changed(self) -> None:
        """Other nodes are told by whoever knows them; this one has it."""

    def set_task_queue_config(self, key: QueueKey, config: TaskQueueConfig) -> None:
        if self._matcher.configs.get(key) == config:
            return  # read again because something else changed
        if key not in self._matcher.configs and len(self._matcher.configs) >= self.limits.queue_configs_max:
            raise resource_exhausted(f"more than {self.limits.queue_configs_max} task queues have a configuration")
        self._matcher.configs[key] = config
        if (partition := self._matcher.partitions.get(key)) is not None:
            apply_config(partition, config)
            self._matcher.settle(partition)

    # --- workers --------------------------------------------------------------------------------------------------------------
    async def record_worker_heartbeat(
        self, namespace: NamespaceName, request: api.RecordWorkerHeartbeatRequest
    ) -> api.RecordWorkerHeartbeatResponse:
        self.workers.record(namespace.id, request.worker_heartbeat, _loop().time())
        return api.RecordWorkerHeartbeatResponse()

    async def list_workers(self, namespace: NamespaceName, request: api.ListWorkersRequest) -> api.ListWorkersResponse:
        return self.workers.page(namespace.id, request, _loop().time())

    async def describe_worker(self, namespace: NamespaceName, request: api.DescribeWorkerRequest) -> api.DescribeWorkerResponse:
        """Raises NOT_FOUND."""
        info = self.workers.describe(namespace.id, request.worker_instance_key, _loop().time())
        return api.DescribeWorkerResponse(worker_info=info)

    async def shutdown_worker(self, namespace: NamespaceName, request: api.ShutdownWorkerRequest) -> api.ShutdownWorkerResponse:
        """The worker's polls end now, late ones end at once, and its sticky queue hands its tasks back to the runs."""
        now = _loop().time()
        instance = request.worker_instance_key
        if instance:
            self._shut_down[instance] = now
            self._shut_down.move_to_end(instance)
            if len(self._shut_down) > self.limits.shut_down_workers_max:
                self._shut_down.popitem(last=False)
        for kind in [kind_of(number) for number in request.task_queue_types] or list(TaskKind):
            key = QueueKey(namespace.id, request.task_queue, kind or TaskKind.WORKFLOW)
            partition = self._matcher.partitions.get(key) if kind is not None else None
            if partition is not None and instance:
                partition.last_polls.pop(request.identity, None)
                partition.end_polls(lambda poll: poll.worker_instance_key == instance)
        if request.sticky_task_queue:
            sticky = self._matcher.partitions.get(QueueKey(namespace.id, request.sticky_task_queue, TaskKind.WORKFLOW))
            if sticky is not None:
                self._abandon(sticky)
        if request.HasField("worker_heartbeat"):
            self.workers.record(namespace.id, [request.worker_heartbeat], now)
        return api.ShutdownWorkerResponse()

    def _end_grace(self, key: QueueKey) -> None:
        """Nobody came to a sticky queue that was made by its first task: its tasks go back to the runs."""
        sticky = self._matcher.partitions.get(key)
        if sticky is not None and not sticky.has_poller(_loop().time(), self.limits.sticky_poller_s):
            self._hand_back(sticky)

    def _abandon(self, sticky: Partition) -> None:
        """Only its own worker ever polls a sticky queue."""
        sticky.end_polls(lambda poll: True)
        sticky.last_polled_at = -math.inf
        self._hand_back(sticky)

    def _hand_back(self, sticky: Partition) -> None:
        if self._sticky_unavailable is not None:
            for hint in sticky.window.waiting_hints():
                if hint.is_sticky:
                    self._matcher.withdraw(hint)
                    self._sticky_unavailable(hint)

    def end_polls(self, is_meant: Callable[[Message], bool]) -> None:
        """Parked polls whose request is meant end empty."""
        for partition in self._matcher.partitions.values():
            partition.end_polls(is_meant)

    def _is_shut_down(self, worker_instance_key: str) -> bool:
        if not worker_instance_key or not self._shut_down:
            return False
        at = self._shut_down.get(worker_instance_key)
        return at is not None and _loop().time() - at < self.limits.shut_down_worker_s


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()
