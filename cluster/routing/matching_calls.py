"""Polls and queries that may have to wait on another node: one hop, as long polls; the answer comes back as bytes.

A poll parks where this node has a share of the queue, else at one of the shares in turn. A query goes to the root of its queue;
its answer comes to the node that asked, which the query's token names, from whatever node the worker talks to. Nexus requests
go the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import structlog
from google.protobuf.message import Message
from temporalio.api.enums.v1 import TaskQueueKind
from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import CallerError, Code
from cluster.frontend.call import Call
from cluster.matching.queries import BuildQueryTask, DirectQuery, QueryToken, nobody_waits
from cluster.matching.service import Matching, NamespaceName
from cluster.matching.sharing_ports import is_not_here
from cluster.matching.tasks import QueueKey, StickyWorkerUnavailable, TaskKind
from cluster.routing.matching_messages import (
    ANSWER_QUERY,
    END_POLLS,
    NO_STICKY_POLLER,
    NOT_HERE,
    POLL,
    PUT_QUERY,
    EndPolls,
    Forwarded,
    PollQueue,
    PutQuery,
    decode,
    encode,
)
from cluster.routing.matching_places import CurrentPlaces
from cluster.routing.peers import Peers
from cluster.seams import Spawn

log = structlog.get_logger("outlast.routing")

END_POLLS_S = 2.0
ANSWER_S = 10.0
POLL_REQUESTS: dict[TaskKind, Callable[[bytes], Any]] = {
    TaskKind.WORKFLOW: api.PollWorkflowTaskQueueRequest.FromString,
    TaskKind.ACTIVITY: api.PollActivityTaskQueueRequest.FromString,
    TaskKind.NEXUS: api.PollNexusTaskQueueRequest.FromString,
}


ANSWERS: dict[str, Callable[[bytes], Any]] = {
    "respond_query_task_completed": api.RespondQueryTaskCompletedRequest.FromString,
    "respond_nexus_task_completed": api.RespondNexusTaskCompletedRequest.FromString,
    "respond_nexus_task_failed": api.RespondNexusTaskFailedRequest.FromString,
}


class NamespaceIds(NamedTuple):
    """A namespace as matching needs it, on a node that was only asked by another."""

    id: str
    name: str = ""


class RingWait:
    """Lets callers wait for the next ring, or a short while: what failed by the old one may go well by then."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], None] = {}

    def changed(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def next(self, at_most_s: float) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiting] = None
        try:
            await asyncio.wait([waiting], timeout=at_most_s)
        finally:
            del self._waiting[waiting]


class RoutedPolls:
    """See the module's text."""

    def __init__(self, matching: Matching, peers: Peers, places: CurrentPlaces, ring_wait: RingWait, spawn: Spawn) -> None:
        self._matching, self._peers, self._places, self._ring_wait, self._spawn = matching, peers, places, ring_wait, spawn
        self._turn = count()
        self._from: dict[str, set[int]] = {}  # id() of the requests that are here on behalf of other nodes' clients
        peers.serve(POLL, self._serve_poll)
        peers.serve(END_POLLS, self._serve_end_polls)

    def target(self, queue: QueueKey, is_sticky: bool) -> str:
        nodes = self._places.nodes_of(queue)
        if self._places.me in nodes and not (is_sticky and nodes[0] != self._places.me):
            return self._places.me
        return nodes[0] if is_sticky else nodes[next(self._turn) % len(nodes)]

    async def poll(self, namespace: NamespaceName, kind: TaskKind, request: Any, call: Call) -> Message | bytes:
        """b"" when the time is over."""
        loop = asyncio.get_running_loop()
        limits = self._matching.limits
        until = loop.time() + limits.long_poll_s
        if call.deadline is not None:
            until = min(until, call.deadline - limits.poll_margin_s)
        queue = QueueKey(namespace.id, request.task_queue.name, kind)
        is_sticky = request.task_queue.kind == TaskQueueKind.TASK_QUEUE_KIND_STICKY
        payload = b""
        while not self._matching.is_draining:
            node = self.target(queue, is_sticky)
            if node == self._places.me:
                return await self._poll_here(namespace, kind, request, call)
            payload = payload or encode(
                PollQueue(
                    sender=self._peers.me, namespace_id=namespace.id, kind=kind, request=request.SerializeToString()
                )
            )
            info = self._places.now.info(node)
            try:
                answer = await self._peers.call(info, POLL, payload, call.deadline, is_long_poll=True)
            except CallerError as error:
                if error.code is Code.DEADLINE_EXCEEDED:
                    return b""
                if error.code is not Code.UNAVAILABLE:
                    raise
                log.info("a poll did not reach its queue", node=node, error=error.message)
                answer = NOT_HERE
            if answer != NOT_HERE:
                return answer
            if loop.time() + limits.hop_retry_s >= until:
                return b""
            await self._ring_wait.next(limits.hop_retry_s)
        return b""

    async def _poll_here(self, namespace: NamespaceName, kind: TaskKind, request: Any, call: Call) -> Message | bytes:
        if kind is TaskKind.WORKFLOW:
            return await self._matching.poll_workflow_task_queue(namespace, request, call)
        if kind is TaskKind.NEXUS:
            return await self._matching.poll_nexus_task_queue(namespace, request, call)
        return await self._matching.poll_activity_task_queue(namespace, request, call)

    async def _serve_poll(self, payload: bytes, deadline: float | None) -> bytes:
        message = decode(PollQueue, payload)
        request = POLL_REQUESTS[message.kind](message.request)
        queue = QueueKey(message.namespace_id, request.task_queue.name, message.kind)
        if self._matching.is_draining or self._places.me not in self._places.nodes_of(queue):
            return NOT_HERE
        here = self._from.setdefault(message.sender, set())
        here.add(id(request))
        try:
            call = Call("", {}, deadline, message.sender)
            answer = await self._poll_here(NamespaceIds(message.namespace_id), message.kind, request, call)
        finally:
            here.discard(id(request))
            if not here:
                self._from.pop(message.sender, None)
        return answer if isinstance(answer, bytes) else answer.SerializeToString()

    def drain(self) -> None:
        """This node's clients get empty answers. A poll that is just being given a task brings it: so other nodes are asked to
        end them, instead of the calls being cut off here."""
        for node in self._peers.others():
            self._spawn(self._end_at(node), f"end polls at {node.node_id}")

    async def _end_at(self, node: Any) -> None:
        try:
            deadline = asyncio.get_running_loop().time() + END_POLLS_S
            await self._peers.call(node, END_POLLS, encode(EndPolls(sender=self._peers.me)), deadline)
        except CallerError as error:
            log.info("polls at another node end by themselves", node=node.node_id, error=error.message)

    async def _serve_end_polls(self, payload: bytes, deadline: float | None) -> bytes:
        meant = self._from.get(decode(EndPolls, payload).sender, set())
        self._matching.end_polls(lambda request: id(request) in meant)
        return b""


class RoutedQueries:
    """See the module's text."""

    def __init__(self, matching: Matching, peers: Peers, places: CurrentPlaces, ring_wait: RingWait, spawn: Spawn) -> None:
        self._matching, self._peers, self._places, self._ring_wait, self._spawn = matching, peers, places, ring_wait, spawn
        peers.serve(PUT_QUERY, self._serve_put)
        peers.serve(ANSWER_QUERY, self._serve_answer)

    async def query(
        self,
        namespace_id: str,
        task_queue: str,
        is_sticky: bool,
        build_task: BuildQueryTask,
        deadline: float | None,
        kind: TaskKind,
    ) -> Any:
        """As Matching.query."""
        matching = self._matching
        until = matching.query_until(deadline)
        queue = QueueKey(namespace_id, task_queue, kind)
        with matching.question(namespace_id, task_queue, build_task, until) as question:
            putting = asyncio.get_running_loop().create_task(self._put(queue, question.task, is_sticky, until))
            try:
                both: list[asyncio.Future[Any]] = [putting, question.answer]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if not question.answer.done():
                    putting.result()  # raises why no worker gets it
                return await question.answer
            finally:
                putting.cancel()
                await asyncio.wait([putting])
                if not putting.cancelled():
                    putting.exception()  # it may be that the answer came first, and nobody asks

    async def _put(self, queue: QueueKey, task: bytes, is_sticky: bool, until: float) -> None:
        """Returns when a worker has it. Repeats what cannot have been, or need not have been, the last word."""
        payload = b""
        while True:
            root = self._places.nodes_of(queue)[0]
            try:
                if root == self._places.me:
                    return await self._matching.put_query(queue, task, is_sticky, until)
                payload = payload or encode(PutQuery(queue=queue, task=task, is_sticky=is_sticky))
                answer = await self._peers.call(self._places.now.info(root), PUT_QUERY, payload, until, is_long_poll=True)
            except CallerError as error:
                # A question may be put twice: of two answers the second finds nobody.
                if (error.code is not Code.UNAVAILABLE or self._matching.is_draining) and not is_not_here(error):
                    raise
                answer = NOT_HERE
            if answer == NO_STICKY_POLLER:
                raise StickyWorkerUnavailable(queue.name)
            if answer != NOT_HERE:
                return None
            await self._ring_wait.next(self._matching.limits.hop_retry_s)

    async def _serve_put(self, payload: bytes, deadline: float | None) -> bytes:
        message = decode(PutQuery, payload)
        nodes = self._places.nodes_of(message.queue)
        is_mine = self._places.me in nodes if message.is_passed_on else self._places.me == nodes[0]
        if not is_mine or self._matching.is_draining:
            return NOT_HERE
        until = self._matching.query_until(deadline)
        try:
            await self._matching.put_query(message.queue, message.task, message.is_sticky, until, message.is_passed_on)
        except StickyWorkerUnavailable:
            return NO_STICKY_POLLER
        except CallerError as error:
            if is_not_here(error):
                return NOT_HERE
            raise
        return b""

    def pass_on(self, queue: QueueKey, query: DirectQuery, node: str) -> None:
        """The root's query to another share's pollers; whoever takes it first has it."""
        passing = self._spawn(self._pass_on(queue, query, node), f"query to {node}")
        query.given.add_done_callback(lambda _: passing.cancel())

    async def _pass_on(self, queue: QueueKey, query: DirectQuery, node: str) -> None:
        if node not in self._places.nodes_of(queue):
            return  # the ring changed in this moment; the new one's children get it
        payload = encode(PutQuery(queue=queue, task=query.task, is_passed_on=True))
        try:
            answer = await self._peers.call(self._places.now.info(node), PUT_QUERY, payload, query.until, is_long_poll=True)
        except CallerError as error:
            log.info("a query could not be passed on", node=node, error=error.message)
            answer = NOT_HERE
        if answer == b"" and not query.is_over:
            query.given.set_result(None)
        query.passed_to.discard(node)  # with the next word of its pollers it may go there again

    async def respond(self, namespace: NamespaceName, token_payload: bytes, request: Any) -> Message:
        """As Matching.respond_query_task_completed, at the node that waits."""
        answer = await self._respond("respond_query_task_completed", namespace, token_payload, request)
        return api.RespondQueryTaskCompletedResponse.FromString(answer)

    async def respond_nexus(self, namespace: NamespaceName, token_payload: bytes, request: Any) -> None:
        """As Matching.respond_nexus_task, at the node that waits."""
        is_completed = isinstance(request, api.RespondNexusTaskCompletedRequest)
        method = "respond_nexus_task_completed" if is_completed else "respond_nexus_task_failed"
        await self._respond(method, namespace, token_payload, request)

    async def _respond(self, method: str, namespace: NamespaceName, token_payload: bytes, request: Message) -> bytes:
        token = QueryToken.decode(token_payload)
        if token.node in ("", self._places.me):
            return await self._take(method, namespace, token_payload, request)
        node = self._peers.membership.members().node(token.node)
        if node is None:
            raise nobody_waits(request)
        message = Forwarded(
            method=method,
            namespace_id=namespace.id,
            namespace_name=namespace.name,
            request=request.SerializeToString(),
            token=token_payload,
        )
        deadline = asyncio.get_running_loop().time() + ANSWER_S
        return await self._peers.call(node, ANSWER_QUERY, encode(message), deadline)

    async def _take(self, method: str, namespace: NamespaceName, token_payload: bytes, request: Any) -> bytes:
        if method == "respond_query_task_completed":
            answer = await self._matching.respond_query_task_completed(namespace, token_payload, request)
            return answer.SerializeToString()
        await self._matching.respond_nexus_task(namespace, token_payload, request)
        return b""

    async def _serve_answer(self, payload: bytes, deadline: float | None) -> bytes:
        message = decode(Forwarded, payload)
        namespace = NamespaceIds(message.namespace_id, message.namespace_name)
        return await self._take(message.method, namespace, message.token, ANSWERS[message.method](message.request))
