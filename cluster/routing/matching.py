"""Task queues over the ring: for the frontend and the shards of one node, whatever node a queue's parts are on.

    offer, withdraw   from this node's shards: into this node's share, or into the outbox of the node whose share it is
    polls, queries    matching_calls.py; what an operator asks: matching_figures.py
    batches           between nodes (matching_messages.py), gathered in matching_outbox.py
    how tasks and polls on different nodes meet: cluster/matching/meeting.py and sharing.py

Hints move, polls stay. A shard's index (history/outstanding.py) has every task; all that is here may be lost and is offered
again: when a message may not have arrived, and, on every new ring, whatever has another owner than before.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog
from google.protobuf.message import Message
from temporalio.api.taskqueue.v1 import TaskQueueConfig
from temporalio.api.workflowservice import v1 as api

from cluster.frontend.call import Call
from cluster.matching.limits import MatchingLimits
from cluster.matching.meeting import PartNews
from cluster.matching.queries import BuildQueryTask, DirectQuery
from cluster.matching.service import Matching, NamespaceName
from cluster.matching.tasks import HistoryPort, QueueKey, TaskHint, TaskKind
from cluster.membership.ring import Ring
from cluster.routing.matching_calls import RingWait, RoutedPolls, RoutedQueries
from cluster.routing.matching_figures import RoutedFigures
from cluster.routing.matching_messages import BATCH, Batch, BatchAnswer, Listing, decode, encode
from cluster.routing.matching_outbox import Outbox
from cluster.routing.matching_places import CurrentPlaces, Place, Places
from cluster.routing.peers import Peers
from cluster.seams import Ids, Spawn

log = structlog.get_logger("outlast.routing")

PLACES_PER_TURN = 500  # of the loop, while what has moved is offered again


class ShardTasks(Protocol):
    """The index of what this node's shards have outstanding (history/outstanding.py)."""

    def listed(self) -> list[Place]: ...

    def backlog(self, queue: QueueKey, shard: int, skip: int, limit: int) -> list[TaskHint]: ...


class LocalHistory(HistoryPort, Protocol):
    @property
    def outstanding(self) -> ShardTasks: ...


class RoutedMatching:
    """See the module's text. The frontend's MatchingPort and the shards' Matching.

    Made after the node has joined, before its HistoryService. on_config_change: tells the other nodes to read the task queues'
    configurations anew.
    """

    def __init__(self, matching: Matching, peers: Peers, spawn: Spawn, ids: Ids) -> None:
        self.local = matching
        self.on_config_change: Callable[[], Awaitable[None]] | None = None
        self._peers, self._spawn, self._ids = peers, spawn, ids
        self._history: HistoryPort | None = None
        self._shard_tasks: ShardTasks | None = None
        self._sticky_gone: Callable[[TaskHint], None] | None = None
        matching.node = peers.me
        self._places = CurrentPlaces(Places(peers.ring, peers.me, matching.limits))
        self._walked = self._places.now  # by these places everything was offered
        self._is_walking = self._is_closed = False
        self._outboxes: dict[str, Outbox] = {}
        self._ring_wait = RingWait()
        self._sharing = matching.share(self._places, self)
        self._polls = RoutedPolls(matching, peers, self._places, self._ring_wait, spawn)
        self._queries = RoutedQueries(matching, peers, self._places, self._ring_wait, spawn)
        self._figures = RoutedFigures(matching, peers, self._places)
        peers.serve(BATCH, self._serve_batch)
        peers.on_ring(self._on_ring)

    # --- putting together -----------------------------------------------------------------------------------------------
    def use_history(self, history: HistoryPort) -> None:
        """Where tasks are started, whatever node their shard is on; before `bind`, if that is given something else."""
        self._history = history

    def bind(self, history: LocalHistory, sticky_unavailable: Callable[[TaskHint], None] | None = None) -> None:
        """Called by this node's HistoryService when it starts. history: has the index of what this node's own shards owe, and
        starts tasks unless `use_history` named another. sticky_unavailable: hears of sticky tasks without a worker."""
        self._shard_tasks = history.outstanding
        self._sticky_gone = sticky_unavailable
        self.local.bind(self._history or history, self._sticky_unavailable)

    @property
    def limits(self) -> MatchingLimits:
        return self.local.limits

    @property
    def counts(self) -> Counter[str]:
        return self.local.counts

    @property
    def queue_count(self) -> int:
        return self.local.queue_count

    @property
    def unsent_count(self) -> int:
        """What other nodes have not been told yet."""
        return sum(outbox.unsent_count for outbox in self._outboxes.values())

    def drain(self) -> None:
        """Every poll of this node's clients and every poll parked here ends empty. Shards here go on offering elsewhere."""
        self.local.drain()
        self._polls.drain()

    def close(self) -> None:
        """Nothing more is said to others."""
        self._is_closed = True
        for outbox in self._outboxes.values():
            outbox.close()

    # --- for this node's shards -----------------------------------------------------------------------------------------
    def offer(self, hint: TaskHint) -> bool:
        """As Matching.offer; a sticky hint for another node is refused later, by the callback of `bind`."""
        places = self._places.now
        if places.is_local or (node := places.node_of(hint)) == places.me:
            return self.local.offer(hint)
        self._outbox(node).offer(hint)
        return True

    def withdraw(self, hint: TaskHint) -> None:
        places = self._places.now
        if places.is_local or (node := places.node_of(hint)) == places.me:
            self.local.withdraw(hint)
        else:
            self._outbox(node).withdraw(hint)

    def forget(self, hint: TaskHint) -> None:
        """Its shard has left this node; the next owner may have offered the task before we learned that, even before this node's
        ring names anybody else, so a withdrawal could undo its offer. A stale hint costs one TaskGone."""
        places = self._places.now
        if not self._peers.has_others:
            self.local.forget(hint)
        elif (outbox := self._outboxes.get(places.node_of(hint))) is not None:
            outbox.forget(hint)

    def _sticky_unavailable(self, hint: TaskHint) -> None:
        """To the shard's node."""
        owner = self._places.now.ring.owner_of_shard(hint.shard)
        if owner is None or owner.node_id == self._peers.me:
            self._give_back(hint)
        else:
            self._outbox(owner.node_id).refuse(hint)

    def _give_back(self, hint: TaskHint) -> None:
        if self._sticky_gone is not None:
            self._sticky_gone(hint)

    # --- the ring -------------------------------------------------------------------------------------------------------
    def _on_ring(self, before: Ring, after: Ring) -> None:
        self._places.now = Places(after, self._peers.me, self.local.limits)
        for node_id, outbox in list(self._outboxes.items()):
            info = after.nodes.get(node_id)
            if info is None or info.incarnation != outbox.node.incarnation:
                outbox.close()
                del self._outboxes[node_id]
            else:
                outbox.node = info
                outbox.hurry()
        self._sharing.placement_changed()
        self._ring_wait.changed()
        if not self._is_walking:
            self._is_walking = True
            self._spawn(self._offer_moved(), "offer moved tasks")

    async def _offer_moved(self) -> None:
        """What has another owner than by the ring before is listed for it."""
        try:
            while self._walked is not self._places.now:
                before, after = self._walked, self._places.now
                for number, place in enumerate(self._shard_tasks.listed() if self._shard_tasks is not None else ()):
                    if number % PLACES_PER_TURN == PLACES_PER_TURN - 1:
                        await asyncio.sleep(0)
                    is_sticky = self._is_sticky(place)
                    old, new = (at.node_for(*place, is_sticky) for at in (before, after))
                    is_same = old == new and before.incarnation_of(old) == after.incarnation_of(new)
                    if not is_same and not old == new == after.me:
                        self.list_place(place)
                self._walked = after
        finally:
            self._is_walking = False

    def _is_sticky(self, place: Place) -> bool:
        assert self._shard_tasks is not None
        first = self._shard_tasks.backlog(*place, 0, 1)
        return bool(first) and first[0].is_sticky

    def _outbox(self, node_id: str) -> Outbox:
        outbox = self._outboxes.get(node_id)
        if outbox is None:
            info = self._places.now.ring.nodes[node_id]
            outbox = self._outboxes[node_id] = Outbox(
                info, self._peers, self, self.local.limits, self._spawn, self._ids, self.local.counts
            )
            if self._is_closed:
                outbox.close()
        return outbox

    # --- for the outboxes and for sharing -----------------------------------------------------------------------------------
    def mark(self, queue: QueueKey, node: str) -> None:
        self._outbox(node).mark(queue)

    def pass_query(self, queue: QueueKey, query: DirectQuery, node: str) -> None:
        self._queries.pass_on(queue, query, node)

    def compose(self, queue: QueueKey, node: str) -> PartNews | None:
        return self._sharing.compose(queue, node)

    def undelivered(self, node: str, news: PartNews) -> None:
        self._sharing.undelivered(node, news)

    def list_place(self, place: Place) -> None:
        places = self._places.now
        node = places.node_for(*place, self._is_sticky(place))
        if node != places.me:
            self._outbox(node).list_place(place)
            return
        for hint in self._take_listing(self.listing(place, node)):
            self._give_back(hint)

    def _take_listing(self, listing: Listing) -> list[TaskHint]:
        """Returns sticky hints that nobody polls for. A listing only adds: what it does not name may have come from the shard's
        next owner meanwhile. What is gone is withdrawn, or costs one TaskGone."""
        refused = [hint for hint in listing.hints if not self.local.offer(hint)]
        if listing.has_more:
            self.local.remember_shard(listing.queue, listing.shard)
        return refused

    def listing(self, place: Place, node: str) -> Listing:
        assert self._shard_tasks is not None
        most = self.local.limits.message_hints_max
        hints = self._shard_tasks.backlog(*place, 0, most + 1)
        is_sticky = bool(hints) and hints[0].is_sticky
        for hint in hints:
            if hint.is_sticky is not is_sticky:  # a name that serves as both; its tasks may belong to two nodes
                self.offer(hint)
        named = [hint for hint in hints[:most] if hint.is_sticky is is_sticky]
        return Listing(*place, named, is_sticky, has_more=len(hints) > most)

    def answered(self, node: str, batch: Batch, answer: BatchAnswer) -> bool:
        for hint in answer.refused:
            self._give_back(hint)
        for place in answer.not_here:
            self.list_place(place)
        agrees = not answer.not_here
        for news, part in zip(batch.news, answer.answers, strict=True):
            agrees = self._sharing.take_answer(node, news, part) and agrees
        return agrees

    # --- from other nodes' shards and shares ----------------------------------------------------------------------------------
    async def _serve_batch(self, payload: bytes, deadline: float | None) -> bytes:
        return encode(self._take_batch(decode(Batch, payload)))

    def _take_batch(self, batch: Batch) -> BatchAnswer:
        places, local = self._places.now, self.local
        answer = BatchAnswer()
        not_here: dict[Place, None] = {}
        for withdrawn in batch.withdrawn:
            local.withdraw_keys(withdrawn.queue, withdrawn.shard, withdrawn.keys)
        for listing in batch.listings:
            if local.is_draining or places.node_for(listing.queue, listing.shard, listing.is_sticky) != places.me:
                not_here[listing.queue, listing.shard] = None
            else:
                answer.refused += self._take_listing(listing)
        for hint in batch.offers:
            if local.is_draining or places.node_of(hint) != places.me:
                not_here[hint.queue, hint.shard] = None
            elif not local.offer(hint):
                answer.refused.append(hint)
        for hint in batch.refused:
            self._give_back(hint)
        answer.answers = [self._sharing.take_news(batch.sender, news) for news in batch.news]
        answer.not_here = list(not_here)
        return answer

    # --- for the frontend -----------------------------------------------------------------------------------------------------
    async def poll_workflow_task_queue(
        self, namespace: NamespaceName, request: api.PollWorkflowTaskQueueRequest, call: Call
    ) -> Message | bytes:
        if self._places.now.is_local:
            return await self.local.poll_workflow_task_queue(namespace, request, call)
        return await self._polls.poll(namespace, TaskKind.WORKFLOW, request, call)

    async def poll_activity_task_queue(
        self, namespace: NamespaceName, request: api.PollActivityTaskQueueRequest, call: Call
    ) -> Message | bytes:
        if self._places.now.is_local:
            return await self.local.poll_activity_task_queue(namespace, request, call)
        return await self._polls.poll(namespace, TaskKind.ACTIVITY, request, call)

    async def poll_nexus_task_queue(
        self, namespace: NamespaceName, request: api.PollNexusTaskQueueRequest, call: Call
    ) -> Message | bytes:
        if self._places.now.is_local:
            return await self.local.poll_nexus_task_queue(namespace, request, call)
        return await self._polls.poll(namespace, TaskKind.NEXUS, request, call)

    async def query(
        self,
        namespace_id: str,
        task_queue: str,
        is_sticky: bool,
        build_task: BuildQueryTask,
        deadline: float | None = None,
        kind: TaskKind = TaskKind.WORKFLOW,
    ) -> Any:
        """As Matching.query."""
        if self._places.now.is_local:
            return await self.local.query(namespace_id, task_queue, is_sticky, build_task, deadline, kind)
        return await self._queries.query(namespace_id, task_queue, is_sticky, build_task, deadline, kind)

    async def respond_nexus_task(self, namespace: NamespaceName, token_payload: bytes, request: Any) -> None:
        await self._queries.respond_nexus(namespace, token_payload, request)

    async def respond_query_task_completed(
        self, namespace: NamespaceName, token_payload: bytes, request: Any
    ) -> Message:
        return await self._queries.respond(namespace, token_payload, request)

    async def describe_task_queue(
        self, namespace: NamespaceName, request: api.DescribeTaskQueueRequest
    ) -> api.DescribeTaskQueueResponse:
        return await self._figures.describe_task_queue(namespace, request)

    async def list_task_queue_partitions(
        self, namespace: NamespaceName, request: api.ListTaskQueuePartitionsRequest
    ) -> api.ListTaskQueuePartitionsResponse:
        return await self._figures.list_task_queue_partitions(namespace, request)

    async def update_task_queue_config(
        self, namespace: NamespaceName, request: api.UpdateTaskQueueConfigRequest
    ) -> api.UpdateTaskQueueConfigResponse:
        return await self.local.update_task_queue_config(namespace, request)

    async def task_queue_config_changed(self) -> None:
        if self.on_config_change is not None:
            await self.on_config_change()

    def set_task_queue_config(self, key: QueueKey, config: TaskQueueConfig) -> None:
        self.local.set_task_queue_config(key, config)

    async def shutdown_worker(
        self, namespace: NamespaceName, request: api.ShutdownWorkerRequest
    ) -> api.ShutdownWorkerResponse:
        return await self._figures.shutdown_worker(namespace, request)

    async def record_worker_heartbeat(
        self, namespace: NamespaceName, request: api.RecordWorkerHeartbeatRequest
    ) -> api.RecordWorkerHeartbeatResponse:
        return await self._figures.record_worker_heartbeat(namespace, request)

    async def list_workers(self, namespace: NamespaceName, request: api.ListWorkersRequest) -> api.ListWorkersResponse:
        return await self._figures.list_workers(namespace, request)

    async def describe_worker(
        self, namespace: NamespaceName, request: api.DescribeWorkerRequest
    ) -> api.DescribeWorkerResponse:
        return await self._figures.describe_worker(namespace, request)
