"""History without gRPC: a HistoryService on any store, with real matching, on virtual time, that can be crashed and restarted.

    async def story(world: World) -> None:
        run_id = await world.start("w")
        world.crash()                       # nothing of that life runs any more; the store stays
        await world.begin()                 # the next life replays
        assert await world.statuses("w") == ["RUNNING"]

    simulate(story(World()))   # or: play(story)

Calls go in by `HistoryService.invoke`, as the frontend's do after its checks. A worker is played by hand: `take_task`, `answer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from google.protobuf.message import Message
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api

from chaos.sim.loop import running_loop, simulate
from chaos.sim.nodes import NodeSlot
from chaos.sim.rand import SimClock, SimIds, Streams
from cluster.config import DAY_NS, Limits, ShardConfig
from cluster.core.errors import CallerError, not_found
from cluster.core.events import duration
from cluster.core.state import RunState, Status, checksum, decode_state
from cluster.frontend.call import Call
from cluster.history.run import Run
from cluster.history.service import HistoryService
from cluster.history.shard import Shard
from cluster.matching.limits import MatchingLimits
from cluster.matching.service import Matching
from cluster.namespaces.record import NamespaceRecord
from cluster.seams import JobSet
from cluster.stores.base import RunKey, ShardId, Store
from cluster.stores.memory import MemoryStore
from cluster.tokens import Purpose, TaskToken, Tokens, load_keys
from cluster.visibility.base import VisibilityRow
from cluster.visibility.memory import MemoryVisibility
from cluster.visibility.query import parse_query
from cluster.visibility.search_attributes import Schema
from tests.history.commands import NAMESPACE_NAME, QUEUE, text

NAMESPACE = NamespaceRecord(id="ns-id", name=NAMESPACE_NAME, retention_ns=DAY_NS, created_at=0)
SHARD = ShardId(0)


class TickingClock(SimClock):
    """With `ticks` it moves at every look, as real ones do, so that two looks for one moment show."""

    ticks = False

    def now_ns(self) -> int:
        self.skew_ns += 1_000 * self.ticks
        return super().now_ns()


class KnownNamespaces:
    """One namespace, which a test may take away."""

    def __init__(self) -> None:
        self.is_there = True

    def by_name(self, name: str) -> NamespaceRecord:
        return self._found(name == NAMESPACE.name)

    def by_id(self, id: str) -> NamespaceRecord:
        return self._found(id == NAMESPACE.id)

    def _found(self, is_meant: bool) -> NamespaceRecord:
        if not (is_meant and self.is_there):
            raise not_found("no such namespace")
        return NAMESPACE


class Life:
    """What dies in a crash."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.spawn = JobSet(lambda name, failure: world.failed_jobs.append((name, failure)))
        self.history: HistoryService

    async def start(self) -> None:
        world = self.world
        ids = SimIds(Streams(self.number)("ids"))
        self.tokens = Tokens(await load_keys(world.store, ids))
        matching = Matching(MatchingLimits(), world.clock, ids, self.spawn, host="test")
        self.matching = matching
        self.history = HistoryService(
            store=world.store,
            clock=world.clock,
            ids=ids,
            spawn=self.spawn,
            namespaces=world.namespaces,
            matching=matching,
            visibility=world.visibility,
            tokens=self.tokens,
            shards_count=world.shards_count,
            owner=f"life {self.number}",
            config=world.config,
            limits=world.limits,
        )
        await self.history.start()


class World:
    """See the module's text."""

    def __init__(
        self,
        store: Store | None = None,
        *,
        config: ShardConfig | None = None,
        limits: Limits | None = None,
        visibility: Any = None,
        shards_count: int = 1,
    ) -> None:
        self.store: Store = store or MemoryStore()
        self.config = config or ShardConfig()
        self.limits = limits or Limits()
        self.index = MemoryVisibility()
        self.visibility = visibility or self.index
        self.shards_count = shards_count
        self.namespaces = KnownNamespaces()
        self.failed_jobs: list[tuple[str, BaseException]] = []
        self.clock: TickingClock
        self._slot: NodeSlot[Life]

    # --- lives ------------------------------------------------------------------------------------------------------------
    async def begin(self) -> None:
        """The next life, ready."""
        if not hasattr(self, "_slot"):
            self.clock = TickingClock(running_loop().now_ns)
            await self.store.open()
            self._slot = NodeSlot("node", self._build)
        await self._slot.start()

    async def _build(self, number: int) -> Life:
        life = Life(self, number)
        await life.start()
        return life

    def crash(self) -> None:
        self._slot.crash()

    async def restart(self) -> None:
        self.crash()
        await self.begin()

    async def close(self) -> None:
        """Ends the life in good order."""
        await self.inside(self.history.close)
        self._slot.crash()

    async def inside(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return await self._slot.run_inside(work, "test")

    @property
    def life(self) -> Life:
        assert self._slot.node is not None, "no life: begin() comes first"
        return self._slot.node

    @property
    def history(self) -> HistoryService:
        return self.life.history

    @property
    def shard(self) -> Shard:
        """The only shard. It must be open."""
        return self.history._shards[0]

    async def checkpoint(self) -> None:
        await self.inside(self.shard.checkpointer.write)

    async def settle(self, seconds: float = 0.5) -> None:
        """Lets visibility, deliveries and whatever else is under way come to rest; checkpoints come later than that."""
        await asyncio.sleep(seconds)

    async def evict(self, workflow_id: str) -> None:
        """Drops the current run from memory as a full shard would do; it must be clean."""
        run = await self.current(workflow_id)
        assert self.shard._is_idle(run), f"{workflow_id} cannot be evicted"
        self.shard.forget(run)

    # --- calls ------------------------------------------------------------------------------------------------------------
    async def call(
        self, verb: str, workflow_id: str, request: Message, token: TaskToken | None = None, deadline_s: float = 10.0
    ) -> Any:
        """Raises CallerError."""
        call = Call(verb, {}, running_loop().time() + deadline_s, "test")
        history = self.history
        answer = await self._slot.run_inside(
            lambda: history.invoke(verb, NAMESPACE, workflow_id, request, call=call, token=token), verb
        )
        name = "".join(part.capitalize() for part in verb.split("_")) + "Response"
        return getattr(api, name).FromString(answer) if isinstance(answer, bytes) else answer

    async def start(self, workflow_id: str, **fields: Any) -> str:
        request = api.StartWorkflowExecutionRequest(
            namespace=NAMESPACE.name,
            workflow_id=workflow_id,
            workflow_type=WorkflowType(name="W"),
            task_queue=TaskQueue(name=QUEUE),
            workflow_task_timeout=duration(10_000_000_000),
            request_id=fields.pop("request_id", f"start of {workflow_id}"),
        )
        for name, value in fields.items():
            if isinstance(value, Message):
                getattr(request, name).CopyFrom(value)
            else:
                setattr(request, name, value)
        return str((await self.call("start_workflow_execution", workflow_id, request)).run_id)

    async def signal(self, workflow_id: str, name: str = "s", run_id: str = "", request_id: str = "") -> None:
        request_id = request_id or f"signal {name}"
        request = api.SignalWorkflowExecutionRequest(signal_name=name, request_id=request_id, input=text(name))
        request.workflow_execution.workflow_id, request.workflow_execution.run_id = workflow_id, run_id
        await self.call("signal_workflow_execution", workflow_id, request)

    async def terminate(self, workflow_id: str) -> None:
        request = api.TerminateWorkflowExecutionRequest(workflow_execution=WorkflowExecution(workflow_id=workflow_id))
        await self.call("terminate_workflow_execution", workflow_id, request)

    async def delete(self, workflow_id: str, run_id: str = "") -> None:
        request = api.DeleteWorkflowExecutionRequest(
            workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
        )
        await self.call("delete_workflow_execution", workflow_id, request)

    async def describe(self, workflow_id: str, run_id: str = "") -> api.DescribeWorkflowExecutionResponse:
        request = api.DescribeWorkflowExecutionRequest(execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id))
        answer: api.DescribeWorkflowExecutionResponse = await self.call("describe_workflow_execution", workflow_id, request)
        return answer

    async def history_of(self, workflow_id: str, run_id: str = "") -> list[HistoryEvent]:
        request = api.GetWorkflowExecutionHistoryRequest(execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id))
        return list((await self.call("get_workflow_execution_history", workflow_id, request)).history.events)

    async def event_names(self, workflow_id: str, run_id: str = "") -> list[str]:
        return [name_of(event) for event in await self.history_of(workflow_id, run_id)]

    # --- a worker ---------------------------------------------------------------------------------------------------------
    async def take_task(self, queue: str = QUEUE, wait_s: float = 1.0) -> api.PollWorkflowTaskQueueResponse:
        """The next workflow task; without a token if none comes within the time."""
        request = api.PollWorkflowTaskQueueRequest(namespace=NAMESPACE.name, task_queue=TaskQueue(name=queue), identity="worker")
        matching = self.life.matching
        call = Call("poll", {}, running_loop().time() + wait_s + MatchingLimits().poll_margin_s, "test")
        answer = await self._slot.run_inside(lambda: matching.poll_workflow_task_queue(NAMESPACE, request, call), "poll")
        return api.PollWorkflowTaskQueueResponse.FromString(encoded(answer))

    async def take_activity(self, queue: str = QUEUE, wait_s: float = 1.0) -> api.PollActivityTaskQueueResponse:
        request = api.PollActivityTaskQueueRequest(namespace=NAMESPACE.name, task_queue=TaskQueue(name=queue), identity="worker")
        matching = self.life.matching
        call = Call("poll", {}, running_loop().time() + wait_s + MatchingLimits().poll_margin_s, "test")
        answer = await self._slot.run_inside(lambda: matching.poll_activity_task_queue(NAMESPACE, request, call), "poll")
        return api.PollActivityTaskQueueResponse.FromString(encoded(answer))

    async def answer(self, task: api.PollWorkflowTaskQueueResponse, *commands: Command) -> Any:
        token = self.life.tokens.open(Purpose.TASK, task.task_token, TaskToken)
        request = api.RespondWorkflowTaskCompletedRequest(
            task_token=task.task_token, commands=commands, identity="worker", namespace=NAMESPACE.name
        )
        return await self.call("respond_workflow_task_completed", token.workflow_id, request, token)

    async def complete_activity(self, task: api.PollActivityTaskQueueResponse, result: str = "done") -> None:
        token = self.life.tokens.open(Purpose.TASK, task.task_token, TaskToken)
        request = api.RespondActivityTaskCompletedRequest(task_token=task.task_token, result=text(result), identity="worker")
        await self.call("respond_activity_task_completed", token.workflow_id, request, token)

    async def work(self, *commands: Command, queue: str = QUEUE) -> None:
        """Takes the next workflow task and answers it."""
        task = await self.take_task(queue)
        assert task.task_token, "no workflow task came"
        await self.answer(task, *commands)

    # --- looking ------------------------------------------------------------------------------------------------------------
    async def current(self, workflow_id: str) -> Run:
        shard = self.shard
        run = await self._slot.run_inside(lambda: shard.current(NAMESPACE.id, workflow_id), "look")
        assert run is not None, f"{workflow_id} has no current run"
        return run

    async def listed(self) -> dict[str, str]:
        """What visibility shows: run id -> status."""
        rows: Sequence[VisibilityRow]
        rows, _ = await self.index.list(NAMESPACE.id, parse_query("", Schema()), 1_000, b"")
        return {row.run_id: status_name(row.status) for row in rows}

    async def stored(self, workflow_id: str, run_id: str) -> RunState | None:
        """The state in the run's row."""
        row = await self.store.load(SHARD, RunKey(NAMESPACE.id, workflow_id, run_id))
        return None if row is None else decode_state(row.data)

    def states(self) -> dict[str, str]:
        """Run id -> checksum of the state in memory."""
        return {key.run_id: checksum(run.state) for key, run in self.shard.runs.items()}

    async def check_replay(self) -> None:
        """A crash now, and the next life must hold the same states."""
        before = self.states()
        await self.restart()
        after = self.states()
        for run_id, digest in after.items():
            assert before.get(run_id, digest) == digest, f"run {run_id} came back as another"
        assert not self.failed_jobs, self.failed_jobs


def play(story: Callable[[World], Coroutine[Any, Any, None]], world: World | None = None) -> None:
    """Runs a story in a fresh world on virtual time; a background job that failed fails the test."""
    simulate(_play(story, world or World()))


async def _play(story: Callable[[World], Coroutine[Any, Any, None]], world: World) -> None:
    await world.begin()
    await story(world)
    assert not world.failed_jobs, world.failed_jobs
    if world._slot.node is not None:
        world.crash()


async def refused(call: Coroutine[Any, Any, Any]) -> CallerError:
    """The error a call must end with."""
    try:
        answer = await call
    except CallerError as error:
        return error
    raise AssertionError(f"answered {answer!r} instead of an error")


async def eventually(condition: Callable[[], Any], within_s: float = 30.0) -> None:
    """Waits for a condition (plain or awaitable), on virtual time."""
    until = running_loop().time() + within_s
    while True:
        found = condition()
        if await found if asyncio.iscoroutine(found) else found:
            return
        assert running_loop().time() < until, f"not within {within_s} s"
        await asyncio.sleep(0.01)


def encoded(answer: Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def name_of(event: HistoryEvent) -> str:
    parts = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").split("_")
    return "".join(part.capitalize() for part in parts)


def status_name(status: int) -> str:
    return Status(status).name
