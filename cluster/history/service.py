"""History: the shards of this node, and the way of a call to its run.

    invoke(verb) -> the shard of the workflow id -> api/<verb>.py: load, decide, commit, reply
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any, Protocol

import structlog
from google.protobuf.message import Message
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import QueryResultType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.workflowservice.v1 import QueryWorkflowResponse, StartWorkflowExecutionRequest

from cluster.config import Limits, ShardConfig
from cluster.core.due import decide_due
from cluster.core.entry import DeletedNote
from cluster.core.errors import CallerError, unavailable
from cluster.core.events import join_framed, parse_event
from cluster.core.machines import child, lifecycle, workflow_task
from cluster.core.state import ParentLink, RunState
from cluster.core.transition import Transition
from cluster.frontend.call import Call
from cluster.history import polls
from cluster.history.api import VERBS
from cluster.history.api.start_workflow_execution import start_or_find
from cluster.history.deliveries import Deliveries
from cluster.history.outstanding import Outstanding
from cluster.history.queries import query_failed, release
from cluster.history.run import Run
from cluster.history.shard import Shard
from cluster.history.visibility_feed import VisibilityFeed
from cluster.matching.tasks import QueueKey, StickyWorkerUnavailable, TaskGone, TaskHint
from cluster.namespaces.record import NamespaceRecord
from cluster.seams import Clock, Ids, Spawn
from cluster.stores.base import RunKey, ShardId, Store, StoreError, StoreUnavailable
from cluster.tokens import Purpose, TaskToken, Tokens

log = structlog.get_logger("history")

OPEN_BACKOFF_S_FIRST = 0.05
OPEN_BACKOFF_S_MAX = 5.0
OPEN_WAIT_S_MAX = 10.0
SHUTTING_DOWN = "This node is shutting down: retry, another node or its next start will answer."


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
    ) -> None:
        self.store = store
        self.clock = clock
        self.ids = ids
        self.spawn = spawn
        self.namespaces = namespaces
        self.matching = matching
        self.tokens = tokens
        self.limits = limits or Limits()
        self.shards_count = shards_count
        self._owner = owner
        self._config = config or ShardConfig()
        self._check_search_attributes = check_search_attributes
        self._shards: dict[int, Shard] = {}
        self._opening: dict[int, asyncio.Future[Shard]] = {}
        self._is_closed = False
        self._deliveries = Deliveries(self)
        self.outstanding = Outstanding(matching, spawn, self._deliveries.deliver, self._sticky_gone)
        self.feed = VisibilityFeed(visibility, spawn)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Opens every shard; what was outstanding goes on."""
        self.matching.bind(self, self._sticky_hint_gone)
        await asyncio.gather(*(asyncio.shield(self._open_once(number)) for number in range(self.shards_count)))

    async def close(self) -> None:
        """Checkpoints and gives up the shards."""
        self._is_closed = True
        for opening in list(self._opening.values()):
            if not opening.done():
                opening.set_exception(unavailable(SHUTTING_DOWN))
        await self.feed.close()  # first, so that the rows of the last checkpoint owe nothing
        for shard in list(self._shards.values()):
            self.outstanding.forget_shard(shard.id)
            await shard.close()
        self._shards.clear()

    def shard_number(self, namespace_id: str, workflow_id: str) -> int:
        digest = hashlib.blake2b(f"{namespace_id}/{workflow_id}".encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") % self.shards_count

    async def shard(self, number: int) -> Shard:
        """The open shard; waits for it to open. Raises UNAVAILABLE."""
        shard = self._shards.get(number)
        if shard is not None:
            return shard
        if self._is_closed:
            raise unavailable(SHUTTING_DOWN)
        try:
            async with asyncio.timeout(OPEN_WAIT_S_MAX):
                return await asyncio.shield(self._open_once(number))
        except TimeoutError:
            raise unavailable("The shard of this workflow is still recovering: retry with the same request id.") from None

    def _open_once(self, number: int) -> asyncio.Future[Shard]:
        opening = self._opening.get(number)
        if opening is None:
            opening = asyncio.get_running_loop().create_future()
            opening.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may be that nobody waits
            self._opening[number] = opening
            self.spawn(self._open(number, opening), f"open-shard-{number}")
        return opening

    async def shard_of(self, namespace_id: str, workflow_id: str) -> Shard:
        return await self.shard(self.shard_number(namespace_id, workflow_id))

    async def _open(self, number: int, opening: asyncio.Future[Shard]) -> None:
        backoff_s = OPEN_BACKOFF_S_FIRST
        while not self._is_closed and not opening.done():
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
                self._on_failed,
            )
            shard.on_wake = self._on_wake
            try:
                await shard.open(self._owner)
            except (StoreError, CallerError) as error:  # CallerError: its journal failed while it was looking for what is due
                log.warning("shard cannot be opened yet, will be tried again", shard=number, error=repr(error))
                shard.fail(error if isinstance(error, StoreError) else StoreUnavailable(error.message))
            except Exception as error:  # such as a record of a newer version: another try would not help
                self._opening.pop(number, None)
                if not opening.done():
                    opening.set_exception(error)
                raise
            if not shard.is_open:
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, OPEN_BACKOFF_S_MAX)
                continue
            self._shards[number] = shard
            self._opening.pop(number, None)
            if not opening.done():
                opening.set_result(shard)
            return
        self._opening.pop(number, None)
        if not opening.done():
            opening.set_exception(unavailable(SHUTTING_DOWN))

    def _on_failed(self, shard: Shard) -> None:
        self.feed.forget_shard(shard)
        if self._shards.get(shard.id, shard) is not shard:
            return
        self.outstanding.forget_shard(shard.id)
        if self._shards.pop(shard.id, None) is not None and not self._is_closed:
            self._open_once(shard.id)

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
        """The public response, or its bytes. Raises CallerError."""
        shard = await self.shard_of(namespace.id, workflow_id)
        try:
            answer: Message | bytes = await VERBS[verb](self, shard, namespace, request, call, token)
        except CallerError:
            await shard.all_durable()  # a refusal, too, rests only on what will not be forgotten
            raise
        return answer

    async def change(
        self, namespace_id: str, workflow_id: str, run_id: str, decide: Callable[[Transition], Any]
    ) -> None:
        """One transition of a run, wherever it lives. Raises CallerError."""
        self.namespaces.by_id(namespace_id)
        shard = await self.shard_of(namespace_id, workflow_id)
        try:
            run = await shard.find(namespace_id, workflow_id, run_id)
            t = shard.begin(run)
            decide(t)
        except CallerError:
            await shard.all_durable()
            raise
        await shard.commit((run, t))

    async def start_child(
        self, namespace_id: str, request: StartWorkflowExecutionRequest, parent: ParentLink, root: WorkflowExecution
    ) -> str:
        """The run id of the child, started now or by an earlier try."""
        namespace = self.namespaces.by_id(namespace_id)
        shard = await self.shard_of(namespace.id, request.workflow_id)
        try:
            outcome = await start_or_find(shard, namespace.id, request, parent=parent, root=root)
        except CallerError:
            await shard.all_durable()
            raise
        return outcome.run_id

    async def tell_parent(self, parent: ParentLink, execution: WorkflowExecution, close: HistoryEvent) -> None:
        """Records a child's end in its parent. Raises NOT_FOUND if there is no such parent any more."""
        shard = await self.shard_of(parent.namespace_id, parent.workflow_id)
        try:
            run = await shard.find(parent.namespace_id, parent.workflow_id, parent.run_id)
            while not run.state.is_open and run.state.reset_run_id:  # the parent was reset: its children are the new run's
                run = await shard.find(parent.namespace_id, parent.workflow_id, run.state.reset_run_id)
        except CallerError:
            await shard.all_durable()  # that there is no such parent may be news that a crash would forget
            raise
        wanted = run.state.children.get(parent.initiated_event_id)
        if not run.state.is_open or wanted is None or wanted.workflow_id != execution.workflow_id:
            await shard.durable(run)
            return
        initiated = parse_event((await shard.events(run, parent.initiated_event_id, parent.initiated_event_id))[0])
        shard.require_open()
        t = shard.begin(run)
        child.record_ended(t, initiated, execution, close)
        await shard.commit((run, t))

    async def query_directly(self, shard: Shard, run: Run, query: WorkflowQuery, until: float) -> QueryWorkflowResponse:
        """Through matching: first the worker that has the workflow in its cache, then any."""
        state = run.state
        if state.sticky_queue and state.is_open:
            remaining_s = until - asyncio.get_running_loop().time()
            try:
                return await self._ask(shard, run, query, state.sticky_queue, True, b"", until - remaining_s / 2)
            except (StickyWorkerUnavailable, CallerError) as error:
                log.info("sticky worker did not answer a query", run=run.key, error=str(error))
        last = (await shard.read(run)).next_event_id - 1
        history = join_framed(await shard.events(run, 1, last))
        return await self._ask(shard, run, query, state.task_queue, False, history, until)

    async def _ask(
        self, shard: Shard, run: Run, query: WorkflowQuery, queue: str, is_sticky: bool, history: bytes, until: float
    ) -> QueryWorkflowResponse:
        def build(poll: Any, payload: bytes) -> bytes:
            token = self.tokens.seal_payload(Purpose.QUERY, payload)
            return polls.query_answer(shard, run, query, token, history)

        answer = await self.matching.query(run.key.namespace_id, queue, is_sticky, build, until)
        if answer.completed_type == QueryResultType.QUERY_RESULT_TYPE_FAILED:
            raise query_failed(answer.error_message, answer.failure)
        return QueryWorkflowResponse(query_result=answer.query_result)

    # --- for matching ---------------------------------------------------------------------------------------------------

    async def start_workflow_task(self, hint: TaskHint, poll: Message) -> bytes:
        shard, run = await self._run_of(hint)
        return await polls.start_workflow_task(shard, run, hint, poll, self.tokens)

    async def start_activity_task(self, hint: TaskHint, poll: Message) -> bytes:
        shard, run = await self._run_of(hint)
        return await polls.start_activity_task(shard, run, hint, poll, self.tokens)

    async def backlog(self, queue: QueueKey, shard: int, skip: int, limit: int) -> list[TaskHint]:
        return self.outstanding.backlog(queue, shard, skip, limit)

    async def _run_of(self, hint: TaskHint) -> tuple[Shard, Run]:
        shard = await self.shard(hint.shard)
        run = await shard.run(RunKey(hint.queue.namespace_id, hint.workflow_id, hint.run_id))
        if run is None:
            raise TaskGone
        return shard, run

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
        t = shard.begin(run)
        workflow_task.fall_back_to_normal_queue(t)
        self._ignore(shard.commit((run, t)))

    # --- after a commit, and in time ------------------------------------------------------------------------------------

    def _after_commit(self, shard: Shard, run: Run, state: RunState) -> None:
        self.feed.take(shard, run, state)
        if state.is_deleted:
            run.fail_waiters(lifecycle.unknown_run(run.key.workflow_id, run.key.run_id))
        if run.queries:
            release(run)
        self.outstanding.reconcile(shard, run, state)  # a deleted run's parent and children must still hear of its end

    def _on_wake(self, shard: Shard, run: Run) -> None:
        state = run.state
        if not shard.is_open or run.is_evicted or state.is_deleted:
            return
        try:
            t = shard.begin(run)
        except CallerError as error:  # the namespace was deleted under it
            log.warning("a run of an unknown namespace has a due timer", run=run.key, error=error.message)
            return
        successors: list[Transition] = []
        try:
            if state.is_open:
                successors = decide_due(t)
            elif shard.wake_of(state) <= t.now and not run.active:
                t.note(DeletedNote("retention"))
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

