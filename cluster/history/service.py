"""History: the shards of this node, and the way of a call to its run.

    invoke(verb)      -> the shard of the workflow id -> api/<verb>.py: load, decide, commit, reply
    perform(message)  -> what another run asks of one here (between_runs.py)
    take, release     -> which shards those are (ownership.py); a call for any other raises NotHere
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Any, Protocol

import structlog
from google.protobuf.message import Message
from temporalio.api.enums.v1 import QueryResultType
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.workflowservice.v1 import PollWorkflowTaskQueueResponse, QueryWorkflowResponse

from cluster.config import Limits, ShardConfig
from cluster.core.due import decide_due
from cluster.core.entry import DeletedNote
from cluster.core.errors import CallerError
from cluster.core.events import join_framed
from cluster.core.machines import lifecycle, workflow_task
from cluster.core.state import RunState
from cluster.core.transition import Transition
from cluster.frontend.call import Call
from cluster.history import between_runs, polls
from cluster.history.activation import carry
from cluster.history.api import VERBS
from cluster.history.between_runs import BetweenRuns
from cluster.history.deliveries import Deliver, Deliveries
from cluster.history.endpoints import Endpoints, no_endpoints
from cluster.history.journal import ShardIsMoving, shard_is_moving
from cluster.history.outstanding import Outstanding
from cluster.history.ownership import Ownership
from cluster.history.queries import query_failed, release
from cluster.history.regions import MayAcknowledge, OneRegion, Regions, acts_for, always, require_acknowledgeable, written_version
from cluster.history.run import Run
from cluster.history.run_delta import RETENTION
from cluster.history.shard import Shard
from cluster.history.takeover import take_over
from cluster.history.visibility_feed import VisibilityFeed
from cluster.history.write_modes import WRITES, WriteModes
from cluster.matching.tasks import HistoryPort, QueueKey, StickyWorkerUnavailable, TaskGone, TaskHint
from cluster.namespaces.record import NamespaceRecord
from cluster.seams import Clock, Ids, Spawn
from cluster.stores.base import RunKey, ShardId, Store
from cluster.tokens import Purpose, TaskToken, Tokens

log = structlog.get_logger("history")


class Namespaces(Protocol):
    """Names and ids to records, from memory; both raise CallerError NOT_FOUND."""

    def by_name(self, name: str) -> NamespaceRecord: ...

    def by_id(self, id: str) -> NamespaceRecord: ...


class HistoryService:
    """See the module's text. One per node."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        ids: Ids,
        spawn: Spawn,
        namespaces: Namespaces,
        matching: Any,
        visibility: Any,
        tokens: Tokens,
        shards_count: int,
        owner: str,
        config: ShardConfig | None = None,
        limits: Limits | None = None,
        check_search_attributes: Callable[[NamespaceRecord, Any], None] | None = None,
        regions: Regions | None = None,
        endpoints: Endpoints = no_endpoints,
    ) -> None:
        """regions: None = there is no other. endpoints: by which Nexus operations may be called."""
        self.store = store
        self.clock = clock
        self.ids = ids
        self.spawn = spawn
        self.namespaces = namespaces
        self.matching = matching
        self.tokens = tokens
        self.limits = limits or Limits()
        self.shards_count = shards_count
        self._config = config or ShardConfig()
        self._check_search_attributes = check_search_attributes
        self._endpoints = endpoints
        self._regions = regions
        self.regions: Regions = regions or OneRegion()
        self.on_shard: Callable[[Shard], None] = lambda shard: None  # told of each shard before it opens
        self.write_modes: WriteModes | None = None  # of replicated namespaces
        self.may_acknowledge: MayAcknowledge = always  # a strict region past its deadline at the witness may not
        self.ownership = Ownership(self._new_shard, owner, clock, spawn, self._on_gone)
        self._shards = self.ownership.open
        # How to get to other runs, and what matching shall ask: this service itself, until something routes between nodes.
        self.reach: Callable[[BetweenRuns], Awaitable[str]] = self.perform
        self.port: HistoryPort = self
        self._deliveries = Deliveries(self)
        acts = partial(acts_for, self.regions)
        self.outstanding = Outstanding(matching, spawn, self._deliveries.deliver, self._sticky_gone, acts)
        self.feed = VisibilityFeed(visibility, spawn)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self, shards: Collection[int] | None = None) -> None:
        """Opens these shards, None = every one; what was outstanding goes on."""
        self.matching.bind(self.port, self._sticky_hint_gone)
        await self.ownership.take_all(range(self.shards_count) if shards is None else shards)

    async def take(self, shard: int, *, is_released: bool = True) -> None:
        """Takes the lease from whoever has it, and returns when the shard is open. Raises NotHere (released or lost before it
        was), UNAVAILABLE (this node ends), or what makes it impossible, such as a record of a newer version."""
        await self.ownership.take(shard, is_released=is_released)

    async def release(self, shard: int) -> bool:
        """Calls for it raise NotHere from now on; returns when it is checkpointed and closed. False: it was not here."""
        return await self.ownership.release(shard)

    @property
    def owned(self) -> frozenset[int]:
        """The shards that are open here or being opened."""
        return frozenset(self.ownership.owned)

    async def close(self) -> None:
        """Checkpoints and gives up the shards."""
        self.ownership.refuse_openings()
        await self.feed.close()  # first, so that the rows of the last checkpoint owe nothing
        await self.ownership.close()

    def shard_number(self, namespace_id: str, workflow_id: str) -> int:
        digest = hashlib.blake2b(f"{namespace_id}/{workflow_id}".encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") % self.shards_count

    async def shard(self, number: int) -> Shard:
        """The open shard; waits for it to open. Raises NotHere, UNAVAILABLE."""
        return self._shards.get(number) or await self.ownership.get(number)

    async def shard_of(self, namespace_id: str, workflow_id: str) -> Shard:
        return await self.shard(self.shard_number(namespace_id, workflow_id))

    def _new_shard(self, number: int) -> Shard:
        shard = Shard(
            ShardId(number),
            self.store,
            self.clock,
            self.ids,
            self.spawn,
            self._config,
            self.limits,
            self.namespace_name,
            self._retention_ns,
            self._after_commit,
            self.feed.is_fed,
            self.ownership.failed,
            self._regions,
            self._endpoints,
        )
        shard.on_wake = self._on_wake
        self.on_shard(shard)
        return shard

    def _on_gone(self, shard: Shard) -> None:
        """It has left memory: whoever opens it next offers and writes anew what is still owed."""
        self.feed.forget_shard(shard)
        self.outstanding.forget_shard(shard.id)

    def extend_deliveries(self, table: Mapping[type, Deliver]) -> None:
        """Before the start: effects that another part carries out."""
        self._deliveries.extend(table)

    # --- calls --------------------------------------------------------------------------------------------------------

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
        """The public response, or its bytes. Raises CallerError, NotHere."""
        shard = await self.shard_of(namespace.id, workflow_id)
        self.ownership.call_begins(shard.id)
        was_active = self.regions.is_active(namespace.id)
        try:
            modes = self.write_modes if verb in WRITES else None
            if modes is not None:
                modes.check(namespace)
            answer: Message | bytes = await VERBS[verb](self, shard, namespace, request, call, token)
            if modes is not None:
                await modes.confirm(namespace, shard, call)
            await self.ownership.confirm_lately(shard)
            require_acknowledgeable(was_active, self.may_acknowledge, namespace.id)  # no await behind it
        except ShardIsMoving:
            raise
        except CallerError:
            await shard.all_durable()  # a refusal, too, rests only on what will not be forgotten
            await self.ownership.confirm_lately(shard)
            raise
        finally:
            self.ownership.call_ends(shard.id)
        return answer

    async def perform(self, message: BetweenRuns) -> str:
        """What another run asks of one of this node's. Raises CallerError, NotHere."""
        shard = await self.shard_of(message.namespace_id, message.workflow_id)
        self.ownership.call_begins(shard.id)
        was_active = self.regions.is_active(message.namespace_id)
        try:
            answer = await between_runs.perform(self, shard, message)
            await self.ownership.confirm_lately(shard)
            require_acknowledgeable(was_active, self.may_acknowledge, message.namespace_id)
            return answer
        except ShardIsMoving:
            raise
        except CallerError:
            await shard.all_durable()  # that there is no such run may be news that a crash would forget
            await self.ownership.confirm_lately(shard)
            raise
        finally:
            self.ownership.call_ends(shard.id)

    async def query_directly(self, shard: Shard, run: Run, query: WorkflowQuery, until: float) -> QueryWorkflowResponse:
        """Through matching: first the worker that has the workflow in its cache, then any."""
        state = run.state
        if state.sticky_queue and state.is_open:
            remaining_s = until - asyncio.get_running_loop().time()
            try:
                return await self._ask(shard, run, query, state.sticky_queue, True, b"", until - remaining_s / 2)
            except (StickyWorkerUnavailable, CallerError) as error:
                log.info("sticky worker did not answer a query", run=run.key, error=str(error))
        events, token = await polls.history_for_query(shard, run, self.tokens)
        rest = PollWorkflowTaskQueueResponse(next_page_token=token).SerializeToString()
        return await self._ask(shard, run, query, state.task_queue, False, join_framed(events), until, rest)

    async def _ask(
        self,
        shard: Shard,
        run: Run,
        query: WorkflowQuery,
        queue: str,
        is_sticky: bool,
        history: bytes,
        until: float,
        rest: bytes = b"",
    ) -> QueryWorkflowResponse:
        """rest: further fields of the poll's answer, encoded; joined encodings are one message."""

        def build(payload: bytes) -> bytes:
            token = self.tokens.seal_payload(Purpose.QUERY, payload)
            return polls.query_answer(shard, run, query, token, history) + rest

        answer = await self.matching.query(run.key.namespace_id, queue, is_sticky, build, until)
        if answer.completed_type == QueryResultType.QUERY_RESULT_TYPE_FAILED:
            raise query_failed(answer.error_message, answer.failure)
        return QueryWorkflowResponse(query_result=answer.query_result)

    # --- for matching ---------------------------------------------------------------------------------------------------

    async def start_workflow_task(self, hint: TaskHint, poll: Message) -> bytes:
        return await self._start_task(hint, poll, polls.start_workflow_task)

    async def start_activity_task(self, hint: TaskHint, poll: Message) -> bytes:
        return await self._start_task(hint, poll, polls.start_activity_task)

    async def _start_task(self, hint: TaskHint, poll: Message, start: Callable[..., Awaitable[bytes]]) -> bytes:
        """Raises TaskGone, CallerError, NotHere."""
        shard = await self.shard(hint.shard)
        self.ownership.call_begins(shard.id)
        try:
            run = await shard.run(RunKey(hint.queue.namespace_id, hint.workflow_id, hint.run_id))
            if run is None:
                raise TaskGone
            take_over(shard, run)
            return await start(shard, run, hint, poll, self.tokens)
        except TaskGone:
            await self.ownership.confirm_lately(shard)
            raise
        finally:
            self.ownership.call_ends(shard.id)

    async def backlog(self, queue: QueueKey, shard: int, skip: int, limit: int) -> list[TaskHint]:
        """Raises CallerError, NotHere: "no more" must not be said of a shard that is not open. Nor is one waited for that is
        being opened: who asks has other shards to ask."""
        if self.ownership.state_of(shard) == "opening":
            raise shard_is_moving()
        await self.shard(shard)
        return self.outstanding.backlog(queue, shard, skip, limit)

    def _sticky_hint_gone(self, hint: TaskHint) -> None:
        shard = self._shards.get(hint.shard)
        run = shard.runs.get(RunKey(hint.queue.namespace_id, hint.workflow_id, hint.run_id)) if shard is not None else None
        if shard is not None and run is not None:
            self._sticky_gone(shard, run)

    def _sticky_gone(self, shard: Shard, run: Run) -> None:
        """No worker polls the sticky queue: the task goes to the normal one."""
        task = run.state.task
        if not shard.is_open or run.is_evicted or task is None or task.is_started or not task.is_sticky:
            return
        if not acts_for(self.regions, run.state):
            return  # the region that does sees to it
        t = shard.begin(run)
        workflow_task.fall_back_to_normal_queue(t)
        self._ignore(shard.commit((run, t)))

    # --- after a commit, and in time ------------------------------------------------------------------------------------

    def _after_commit(self, shard: Shard, run: Run, state: RunState) -> None:
        self.feed.take(shard, run, state)
        if state.is_open and not run.is_current and shard.replicas is not None:
            shard.replicas.claim_later(run)
        if state.is_deleted:
            run.fail_waiters(lifecycle.unknown_run(run.key.workflow_id, run.key.run_id))
        if run.queries:
            release(run)
        self.outstanding.reconcile(shard, run, state)  # a deleted run's parent and children must still hear of its end

    async def region_changed(self, namespace_id: str) -> None:
        """The namespace has become active or passive here. Raises StoreError, UNAVAILABLE."""
        await carry(self, (namespace_id,))

    def _on_wake(self, shard: Shard, run: Run) -> None:
        state = run.state
        if not shard.is_open or run.is_evicted or state.is_deleted:
            return
        is_active = acts_for(self.regions, state)
        try:
            context = shard.context(state.namespace_id)
            if not is_active:  # it is not this region's to write, but to remove
                context.version = written_version(state)
            t = shard.begin(run, context)
        except CallerError as error:  # the namespace was deleted under it
            log.warning("a run of an unknown namespace has a due timer", run=run.key, error=error.message)
            return
        successors: list[Transition] = []
        try:
            if is_active:
                successors = decide_due(t)
            if t.is_empty and not state.is_open and shard.ends_at(state) <= t.now and not run.active:
                t.note(DeletedNote(RETENTION))
                if shard.replicas is not None:
                    shard.replicas.expired.add(run.key)
        except Exception:  # a poison run: its time is looked at again, the others' goes on
            log.exception("a run's due timers cannot be done", run=run.key)
            shard.set_wake_again(run)
            return
        if t.is_empty:
            shard.set_wake_again(run)
            return
        self._ignore(shard.commit((run, t), *((None, successor) for successor in successors)))

    def _ignore(self, done: asyncio.Future[None]) -> None:
        """Nobody waits for this commit; if it fails, the shard is replayed and does it again."""
        done.add_done_callback(lambda future: future.cancelled() or future.exception())

    def namespace_name(self, namespace_id: str) -> str:
        return self.namespaces.by_id(namespace_id).name

    def _retention_ns(self, namespace_id: str) -> int:
        try:
            return self.namespaces.by_id(namespace_id).retention_ns
        except CallerError:
            return 0  # its namespace is gone

    def resolve_namespace(self, name: str) -> tuple[str, str] | None:
        """For commands that name another namespace."""
        try:
            record = self.namespaces.by_name(name)
        except CallerError:
            return None
        return record.id, record.name

    def check_search_attributes(self, namespace: NamespaceRecord) -> Callable[[Any], None]:
        """Raises ValueError with the reason."""

        def check(attributes: Any) -> None:
            if self._check_search_attributes is not None and attributes is not None and attributes.indexed_fields:
                try:
                    self._check_search_attributes(namespace, attributes)
                except CallerError as error:
                    raise ValueError(error.message) from error

        return check

