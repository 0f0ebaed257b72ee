"""A call to a run, whichever node has its shard: this one (straight, nothing is encoded) or another (one hop, by its bytes).

    what came of an attempt          | nothing was done there | may have been done
    ---------------------------------+------------------------+-----------------------------------------------
    NotHere, naming a node           | that node, at once     |
    NotHere, Unreachable             | again, see below       |
    ShardIsMoving, ConnectionLost    |                        | a read: again; a write: UNAVAILABLE to the caller,
                                     |                        | whose request id makes a retry safe

"Again" means: when the ring has changed, or after a short backoff, until the caller's deadline or PATIENCE_S. A forwarded call is
never forwarded by its receiver: that one answers NotHere.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import Message

from cluster.core.errors import invalid_argument, unavailable, unimplemented
from cluster.frontend.call import Call
from cluster.history.between_runs import BetweenRuns
from cluster.history.journal import ShardIsMoving
from cluster.history.outstanding import Outstanding
from cluster.history.ownership import NotHere
from cluster.history.service import HistoryService
from cluster.matching.tasks import QueueKey, TaskGone, TaskHint, TaskKind
from cluster.membership.members import NodeInfo
from cluster.membership.ring import Ring
from cluster.namespaces.record import NamespaceRecord
from cluster.routing import history_messages as messages
from cluster.routing.history_messages import ANSWER, AskBacklog, CallFacts, InvokeRun, ReachRun, StartTask
from cluster.routing.peers import PeerMethod, Peers
from cluster.routing.shard_moves import Moves
from cluster.tokens import TaskToken
from cluster.wire.errors import ConnectionLost, Unreachable

T = TypeVar("T")
Records = Callable[[str], Awaitable[NamespaceRecord]]

PATIENCE_S = 10.0  # for a shard to be somewhere: longer than a membership lease (etcd_entries.py) and a release take together
INTERNAL_S_MAX = 10.0  # for calls that no client waits for, as deliveries and polls
BACKLOG_S_MAX = 2.0  # matching has other shards to ask, and asks this one again
BACKOFF_S_FIRST = 0.02
BACKOFF_S_MAX = 0.5
SOON_S = 0.001  # less is no time: a wait that rounding makes nothing of would be repeated without end
MAY_BE_DONE = "The call was cut off while its workflow moved, and may have been executed: retry with the same request id."
POINTERS_MAX = 2  # "ask that one", followed at once before the next backoff

READS = frozenset(
    {
        "describe_workflow_execution",
        "get_workflow_execution_history",
        "get_workflow_execution_history_reverse",
        "query_workflow",
        "poll_workflow_execution_update",
    }
)
WAITS = frozenset({"query_workflow", "poll_workflow_execution_update", "update_workflow_execution", "execute_multi_operation"})


class RoutedHistory:
    """See the module's text. One per node; the frontend's and matching's HistoryPort, and the service's `reach`.

    records: a namespace by its id, read from the store if this node has not heard of it. Raises CallerError NOT_FOUND.
    """

    def __init__(self, service: HistoryService, peers: Peers, moves: Moves, records: Records) -> None:
        self.forwarded_count = self.repeated_count = self.unreachable_count = 0
        self._service, self._peers, self._moves, self._records = service, peers, moves, records
        self._is_alone = False
        self._ring_changes: asyncio.Future[None] | None = None
        peers.on_ring(self._on_ring)
        for method, handler in self._methods().items():
            peers.serve(method, handler)
        service.reach = self.reach
        service.port = self
        self._on_ring(peers.ring, peers.ring)

    def _on_ring(self, before: Ring, after: Ring) -> None:
        """Alone: every shard is here, whatever else is true."""
        self._is_alone = set(self._peers.ring.nodes) == {self._peers.me}
        changes, self._ring_changes = self._ring_changes, None
        if changes is not None and not changes.done():
            changes.set_result(None)

    # --- the frontend's port ------------------------------------------------------------------------------------------------
    async def invoke(
        self,
        verb: str,
        namespace: NamespaceRecord,
        workflow_id: str,
        request: Message,
        *,
        call: Call | None = None,
        token: TaskToken | None = None,
    ) -> Message | bytes:
        """The public response, or its bytes. Raises CallerError."""
        service = self._service
        if self._is_alone:
            try:
                return await service.invoke(verb, namespace, workflow_id, request, call=call, token=token)
            except NotHere:  # not yet, or not any more
                self.repeated_count += 1
        return await self._routed(verb, namespace, workflow_id, request, call, token)

    async def _routed(
        self,
        verb: str,
        namespace: NamespaceRecord,
        workflow_id: str,
        request: Message,
        call: Call | None,
        token: TaskToken | None,
    ) -> Message | bytes:
        service, deadline = self._service, call.deadline if call is not None else None

        def here() -> Awaitable[Message | bytes]:
            return service.invoke(verb, namespace, workflow_id, request, call=call, token=token)

        def message() -> bytes:
            return messages.encode(
                InvokeRun(
                    verb=verb,
                    namespace_id=namespace.id,
                    workflow_id=workflow_id,
                    request=request.SerializeToString(),
                    call=_facts(call),
                    token=token,
                )
            )

        shard = service.shard_number(namespace.id, workflow_id)
        is_long_poll = verb in WAITS or (verb == "get_workflow_execution_history" and getattr(request, "wait_new_event", False))
        there = self.sender(shard, messages.INVOKE, message, deadline, is_long_poll)
        return await self.at_owner(shard, here, there, deadline, verb in READS)

    # --- between runs -------------------------------------------------------------------------------------------------------
    async def reach(self, message: BetweenRuns) -> str:
        """As HistoryService.perform, wherever the other run lives. Every message may be repeated."""
        service = self._service
        if self._is_alone:
            try:
                return await service.perform(message)
            except NotHere:
                self.repeated_count += 1
        shard = service.shard_number(message.namespace_id, message.workflow_id)
        deadline = asyncio.get_running_loop().time() + INTERNAL_S_MAX

        async def here() -> str:
            await self._records(message.namespace_id)
            return await service.perform(message)

        send = self.sender(shard, messages.REACH, lambda: messages.encode(ReachRun(message=message)), deadline)

        async def there(node: NodeInfo) -> str:
            return (await send(node)).decode()

        return await self.at_owner(shard, here, there, deadline, True)

    # --- matching's port ----------------------------------------------------------------------------------------------------
    @property
    def outstanding(self) -> Outstanding:
        """What the shards of this node have to offer."""
        return self._service.outstanding

    async def start_workflow_task(self, hint: TaskHint, poll: Message) -> bytes | Message:
        return await self._start_task(hint, poll)

    async def start_activity_task(self, hint: TaskHint, poll: Message) -> bytes | Message:
        return await self._start_task(hint, poll)

    async def _start_task(self, hint: TaskHint, poll: Message) -> bytes | Message:
        """Raises TaskGone, CallerError. If the answer is lost on its way, the task was started for nobody: it times out."""
        service = self._service
        start = service.start_workflow_task if hint.queue.kind is TaskKind.WORKFLOW else service.start_activity_task
        deadline = asyncio.get_running_loop().time() + INTERNAL_S_MAX

        def message() -> bytes:
            return messages.encode(StartTask(hint=hint, poll=poll.SerializeToString()))

        async def here() -> bytes:
            await self._records(hint.queue.namespace_id)
            return await start(hint, poll)

        there = self.sender(hint.shard, messages.START_TASK, message, deadline)
        return await self.at_owner(hint.shard, here, there, deadline, False)

    async def backlog(self, queue: QueueKey, shard: int, skip: int, limit: int) -> list[TaskHint]:
        """Raises CallerError, soon, rather than saying "no more" of a shard that does not answer."""
        service = self._service
        deadline = asyncio.get_running_loop().time() + BACKLOG_S_MAX

        def message() -> bytes:
            return messages.encode(AskBacklog(queue=queue, shard=shard, skip=skip, limit=limit))

        send = self.sender(shard, messages.BACKLOG, message, deadline)

        async def there(node: NodeInfo) -> list[TaskHint]:
            return messages.decode_hints(await send(node))

        return await self.at_owner(shard, lambda: service.backlog(queue, shard, skip, limit), there, deadline, False)

    # --- the way to the owner -----------------------------------------------------------------------------------------------
    def sender(
        self, shard: int, method: str, message: Callable[[], bytes], deadline: float | None, is_long_poll: bool = False
    ) -> Callable[[NodeInfo], Awaitable[bytes]]:
        """A call of one node. The message is made when it is first sent."""
        payload: bytes | None = None

        async def send(node: NodeInfo) -> bytes:
            nonlocal payload
            if payload is None:
                payload = message()
            self.forwarded_count += 1
            return messages.unmarked(
                shard, await self._peers.call(node, method, payload, deadline, is_long_poll=is_long_poll)
            )

        return send

    async def at_owner(
        self,
        shard: int,
        here: Callable[[], Awaitable[T]],
        there: Callable[[NodeInfo], Awaitable[T]],
        deadline: float | None,
        is_repeatable: bool,
    ) -> T:
        """See the table at the top. Raises CallerError, TaskGone."""
        loop, peers = asyncio.get_running_loop(), self._peers
        last = math.inf if deadline is None else deadline
        until = min(last, loop.time() + PATIENCE_S)
        backoff_s, pointers, pointed = BACKOFF_S_FIRST, 0, ""
        while True:
            node = peers.membership.members().node(pointed) if pointed else peers.ring.owner_of_shard(shard)
            pointed, asked = "", peers.me if node is None else node.node_id
            try:
                return await (here() if node is None or asked == peers.me else there(node))
            except NotHere as elsewhere:
                pointed = self._moves.where(shard) if asked == peers.me else elsewhere.ask
                pointed = "" if pointed == asked else pointed
            except (ShardIsMoving, ConnectionLost) as cut:
                if not is_repeatable:
                    raise unavailable(MAY_BE_DONE) from cut
                until = min(last, loop.time() + PATIENCE_S)  # it may have been parked for long
            except Unreachable:  # the wire has said why
                self.unreachable_count += 1
            if pointed and pointers < POINTERS_MAX:
                pointers += 1
                continue
            left_s = until - loop.time()
            if left_s < SOON_S:
                raise unavailable(f"Shard {shard} of this workflow is moving between nodes: retry with the same request id.")
            self.repeated_count += 1
            pointed, pointers = "", 0
            await self._ring_changes_or(min(backoff_s, left_s))
            backoff_s = min(2 * backoff_s, BACKOFF_S_MAX)

    async def _ring_changes_or(self, limit_s: float) -> None:
        if self._ring_changes is None:
            self._ring_changes = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._ring_changes], timeout=limit_s)

    # --- what other nodes ask -----------------------------------------------------------------------------------------------
    def _methods(self) -> dict[str, PeerMethod]:
        return {
            messages.INVOKE: self._serve_invoke,
            messages.REACH: self._serve_reach,
            messages.START_TASK: self._serve_start_task,
            messages.BACKLOG: self._serve_backlog,
        }

    async def answer_of(self, shard: int, work: Awaitable[Message | bytes]) -> bytes:
        try:
            answer = await work
        except NotHere as elsewhere:
            elsewhere.ask = self._moves.where(shard)
            return messages.marked(elsewhere)
        except (TaskGone, ShardIsMoving) as outcome:
            return messages.marked(outcome)
        return ANSWER + (answer if isinstance(answer, bytes) else answer.SerializeToString())

    async def _serve_invoke(self, payload: bytes, deadline: float | None) -> bytes:
        message = messages.decode(InvokeRun, payload)
        form = messages.REQUESTS.get(message.verb)
        if form is None:
            raise unimplemented(f"this node does not know the call {message.verb}: is it of an older version?")
        request = form.FromString(message.request)
        namespace = await self._records(message.namespace_id)
        call = _call(message.call, deadline)
        shard = self._service.shard_number(namespace.id, message.workflow_id)
        work = self._service.invoke(message.verb, namespace, message.workflow_id, request, call=call, token=message.token)
        return await self.answer_of(shard, work)

    async def _serve_reach(self, payload: bytes, deadline: float | None) -> bytes:
        message = messages.decode(ReachRun, payload).message

        async def work() -> bytes:
            await self._records(message.namespace_id)
            return (await self._service.perform(message)).encode()

        return await self.answer_of(self._service.shard_number(message.namespace_id, message.workflow_id), work())

    async def _serve_start_task(self, payload: bytes, deadline: float | None) -> bytes:
        message = messages.decode(StartTask, payload)
        hint, is_workflow = message.hint, message.hint.queue.kind is TaskKind.WORKFLOW
        self._require_known(hint.shard)
        form = messages.REQUESTS_OF_POLLS[is_workflow]
        poll = form.FromString(message.poll)
        start = self._service.start_workflow_task if is_workflow else self._service.start_activity_task

        async def work() -> bytes:
            await self._records(hint.queue.namespace_id)
            return await start(hint, poll)

        return await self.answer_of(hint.shard, work())

    async def _serve_backlog(self, payload: bytes, deadline: float | None) -> bytes:
        ask = messages.decode(AskBacklog, payload)
        self._require_known(ask.shard)

        async def work() -> bytes:
            return messages.encode(await self._service.backlog(ask.queue, ask.shard, ask.skip, ask.limit))

        return await self.answer_of(ask.shard, work())

    def _require_known(self, shard: int) -> None:
        if not 0 <= shard < self._service.shards_count:
            raise invalid_argument(f"shard {shard} of {self._service.shards_count}")


def _facts(call: Call | None) -> CallFacts | None:
    if call is None:
        return None
    return CallFacts(call.method, call.subject, call.namespace, call.peer, call.deadline is not None)


def _call(facts: CallFacts | None, deadline: float | None) -> Call | None:
    if facts is None:
        return None
    call = Call(facts.method, {}, deadline if facts.has_deadline else None, facts.peer)
    call.subject, call.namespace = facts.subject, facts.namespace
    return call
